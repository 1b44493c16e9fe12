"""Roles as they are seen from outside: whether one is at work, and how much waits for each.

`python -m streams.health ROLE` in the worker's own environment is for containers: it exits 0 if the role said within
HEARD_S that it runs; else 1, with the reason on stderr.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from encoders.weights import fingerprint_of
from streams.broker import Broker, BrokerUnavailable
from streams.events import EncoderVersion, WorkerStatus
from streams.parsing import parse
from streams.settings import Settings, load_settings
from streams.topics import TopicNames, topic_names

log = logging.getLogger(__name__)

HEARD_S = 15.0
ANSWER_S = 5.0
RECORDS_BACK = 1_000  # statuses looked at: with one a second from each role, more than HEARD_S of 50 roles
KEPT_S = 2.0  # how long a measured backlog is good enough
ASK_S = 1.0  # nobody waits longer for backlogs
READ_S = 2.0  # of each group
POLL_MS = 50
FETCH_BYTES = 65_536  # of a partition: only its first record is looked at


class Backlog(NamedTuple):
    """What a group has not acknowledged, in hand or not."""

    lag: int  # offsets behind the committed ones
    oldest_at: float | None  # s since 1970, the time of the oldest of these records; None if there is none


def group_id(settings: Settings, role: str) -> str:
    """The name of a role's consumer group; behind the role stands, where it has several, the version's `group`."""
    prefix = f"{settings.namespace}." if settings.namespace else ""
    return f"{prefix}freshet-{role}"


def topics_of_groups(names: TopicNames, group: str = "") -> dict[str, tuple[str, ...]]:
    """What each consumer group reads, by its role, behind which may stand what the group is for.

    group  as EncoderVersion has it, of the version whose vectors are on names.product_vectors
    """
    return {
        "catalog": (names.catalog_updates,),
        f"catalog-notes{group}": (names.product_vectors,),
        f"encode{group}": (names.encode_requests,),
        f"index{group}": (names.product_index, names.product_vectors, names.user_embeddings),
        "clicks": (names.user_clicks,),
    }


class Backlogs:
    """The backlog of every group, asked of the broker when somebody wants to know."""

    def __init__(self, settings: Settings, serving: Callable[[], EncoderVersion | None] = lambda: None) -> None:
        """Nothing is asked yet. serving: the version of the encoders that serves; None: that of the settings."""
        self._settings = settings
        self._serving = serving
        self._broker = Broker(settings)
        self._lock = Lock()
        self._asked: Future[dict[str, Backlog]] | None = None
        self._asked_at = 0.0  # monotonic

    def now(self) -> dict[str, Backlog]:
        """By role, at most KEPT_S old; empty if the broker does not tell within ASK_S. From any thread."""
        with self._lock:
            if self._asked is None or (self._asked.done() and time.monotonic() - self._asked_at > KEPT_S):
                self._asked, self._asked_at = Future(), time.monotonic()
                # A daemon: a broker that says nothing would hold up the end of the process.
                Thread(target=self._answer, args=(self._asked,), name="backlogs", daemon=True).start()
            asked = self._asked
        try:
            return asked.result(ASK_S)
        except TimeoutError:
            return {}

    def measure(self) -> dict[str, Backlog]:
        """As it is now. Raises BrokerUnavailable."""
        settings = self._settings
        serving = self._serving()
        fingerprint = serving.fingerprint if serving else fingerprint_of(settings.image_encoder, settings.text_encoder)
        topics = topics_of_groups(topic_names(settings, fingerprint), serving.group if serving else "")
        groups = {name: group_id(settings, name) for name in topics}
        try:
            with self._broker.admin() as admin:
                committed = admin.list_group_offsets(list(groups.values()))
            consumer = self._broker.sync_consumer(max_partition_fetch_bytes=FETCH_BYTES)
            try:
                found: dict[str, Backlog] = {}
                for name, group in groups.items():
                    role = name.partition("-")[0]
                    found[role] = _both(found.get(role), self._backlog(consumer, topics[name], committed[group]))
                return found
            finally:
                consumer.close()
        except KafkaError as error:
            raise BrokerUnavailable(f"no backlogs to read at {settings.bootstrap}: {error!r}") from error

    def _answer(self, asked: "Future[dict[str, Backlog]]") -> None:
        found: dict[str, Backlog] = {}
        try:
            found = self.measure()
        except BrokerUnavailable as away:
            log.info("backlogs are not known reason=%s", away)
        finally:
            asked.set_result(found)

    def _backlog(self, consumer: KafkaConsumer, topics: Sequence[str], committed: Mapping[Any, Any]) -> Backlog:
        """From the committed offsets to the end, where nothing is committed from the beginning."""
        places = [TopicPartition(topic, n) for topic in topics for n in consumer.partitions_for_topic(topic) or ()]
        starts = _told(consumer.beginning_offsets, places)
        starts |= {place: max(starts[place], committed[place].offset) for place in places if place in committed}
        # tansu's ListOffsets is wrong about the end; its fetch responses are right.
        ends = {} if self._broker.embedded else _told(consumer.end_offsets, places)
        behind = [place for place in places if ends.get(place) is None or ends[place] > starts[place]]
        oldest: dict[Any, float] = {}
        consumer.assign(behind)
        for place in behind:
            consumer.seek(place, starts[place])
        deadline = time.monotonic() + READ_S
        while any(place not in oldest and ends.get(place) != starts[place] for place in behind):
            if time.monotonic() > deadline:
                break
            for place, records in consumer.poll(timeout_ms=POLL_MS).items():
                oldest.setdefault(place, records[0].timestamp / 1000)
            ends |= {place: end for place in behind if (end := consumer.highwater(place)) is not None}
        lag = sum(max(0, ends.get(place, 0) - starts[place]) for place in behind)
        return Backlog(lag, min(oldest.values(), default=None))


def _both(one: Backlog | None, other: Backlog) -> Backlog:
    if one is None:
        return other
    oldest = [backlog.oldest_at for backlog in (one, other) if backlog.oldest_at is not None]
    return Backlog(one.lag + other.lag, min(oldest, default=None))


def _told(ask: Callable[..., dict[Any, int]], places: Sequence[Any]) -> dict[Any, int]:
    """An offset for each place. Raises BrokerUnavailable."""
    try:
        return ask(places, timeout_ms=READ_S * 1000)
    except KeyError as error:  # kafka-python asks nobody about a partition without a leader, and misses the answer
        raise BrokerUnavailable(f"{error} has no leader for now: try again") from error


def trouble(statuses: Iterable[WorkerStatus], worker_id: str, role: str, now: float) -> str | None:
    """What is wrong with the role of this worker; None if nothing is.

    now  s since 1970
    """
    own = [status for status in statuses if (status.worker_id, status.role) == (worker_id, role)]
    if not own:
        return f"{role} of {worker_id} has said nothing yet"
    last = max(own, key=lambda status: status.at)
    if now - last.at > HEARD_S:
        return f"{role} of {worker_id} is silent for {now - last.at:.0f} s, the limit is {HEARD_S:.0f} s"
    if last.state != "running":
        return f"{role} of {worker_id} is {last.state}: {last.reason or 'it has just begun'}"
    return None


def newest_statuses(settings: Settings) -> list[WorkerStatus]:
    """The last statuses of all workers, oldest first. Raises BrokerUnavailable."""
    place = TopicPartition(topic_names(settings, "").worker_status, 0)
    consumer = Broker(settings).sync_consumer(consumer_timeout_ms=int(ANSWER_S * 1000))
    try:
        consumer.assign([place])
        end = consumer.end_offsets([place], timeout_ms=ANSWER_S * 1000)[place]
        consumer.seek(place, max(0, end - RECORDS_BACK))
        statuses = []
        for record in consumer:
            statuses.append(parse(WorkerStatus, record.value))
            if record.offset >= end - 1:
                break
    except KafkaError as error:
        raise BrokerUnavailable(f"no status to read at {settings.bootstrap}: {error!r}") from error
    finally:
        consumer.close()
    return statuses


def main(role: str) -> str | None:
    """What is wrong, if something is."""
    settings = load_settings()
    try:
        return trouble(newest_statuses(settings), settings.worker_id, role, time.time())
    except BrokerUnavailable as away:
        return str(away)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
