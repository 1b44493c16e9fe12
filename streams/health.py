"""Is this worker's role at work? `python -m streams.health ROLE` in the worker's own environment, for containers.

Exits 0 if the role said within HEARD_S that it runs; else 1, with the reason on stderr.
"""

import sys
import time
from collections.abc import Iterable

from kafka import TopicPartition
from kafka.errors import KafkaError

from streams.broker import Broker, BrokerUnavailable
from streams.events import WorkerStatus
from streams.parsing import parse
from streams.settings import Settings, load_settings
from streams.topics import topic_names

HEARD_S = 15.0
ANSWER_S = 5.0
RECORDS_BACK = 1_000  # statuses looked at: with one a second from each role, more than HEARD_S of 50 roles


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
