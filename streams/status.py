"""How the roles stand: what they last said of themselves, from the worker-status topic, read outside any group.

Of a backlog the broker's word goes before a role's own: one that has not polled yet, or that works on one batch again
and again, does not know how much waits behind it, and one that is dead does not say.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiokafka.errors import KafkaError

from streams.broker import Broker
from streams.events import BadEvent, WorkerStatus
from streams.health import Backlog
from streams.parsing import parse

log = logging.getLogger(__name__)

ROLES = ("catalog", "encode", "index", "api", "clicks", "learner")  # in the order of the data's path
ALIVE_S = 5.0
FORGOTTEN_S = 600.0
AWAY_PAUSE_S = 1.0
UNCOMMITTED_S = 2.0  # a group commits once a second: what is younger than this may be done, though not committed
UNKNOWN: Mapping[str, Backlog] = {}


class StatusBoard:
    """The newest status of each worker's role."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self._newest: dict[tuple[str, str], WorkerStatus] = {}

    async def follow(self) -> None:
        """Read until cancelled; while the broker is away, try again."""
        while True:
            try:
                await self._read()
            except (KafkaError, OSError) as away:
                log.info("status topic is away reason=%r", away)
                await asyncio.sleep(AWAY_PAUSE_S)

    def put(self, status: WorkerStatus) -> None:
        """Keep it, unless a newer one of the same worker and role is known."""
        key = (status.worker_id, status.role)
        if key not in self._newest or status.at >= self._newest[key].at:
            self._newest[key] = status

    def workers(self, now: float) -> list[WorkerStatus]:
        """The newest status of each worker's role that was heard within FORGOTTEN_S; now: s since 1970."""
        newest = sorted(self._newest.copy().items())
        return [status for _, status in newest if now - status.at < FORGOTTEN_S]

    def summary(self, now: float, backlogs: Mapping[str, Backlog] = UNKNOWN) -> dict[str, Any]:
        """The roles by name, `factors_age_s`, `dead_letters` and `notes`, as JSON values.

        factors_age_s is the time since the newest click that the published factors know, None before the first;
        not_learned, of the learner, counts accepted clicks beyond learn_clicks_per_minute; malformed, of every role,
        records that it skipped. Each of the notes is a sentence on what was left out.

        now       s since 1970
        backlogs  by role, as the broker tells them; of a role without one its own word counts
        """
        known = self.workers(now)
        of_role = {role: [status for status in known if status.role == role] for role in ROLES}
        roles = {role: _role(workers, now, backlogs.get(role)) for role, workers in of_role.items()}
        # The clicks role, which sends the examples, knows which it did not send.
        roles["learner"]["not_learned"] = _count(_heard(of_role["clicks"], now), "not_learned")
        return {
            "roles": roles,
            "factors_age_s": _factors_age_s(of_role["learner"], now),
            "dead_letters": sum(role["dead_letters"] for role in roles.values()),
            "notes": list(_notes(roles)),
        }

    async def _read(self) -> None:
        consumer = self._broker.consumer()
        consumer.subscribe([self._topic])  # without a group: every partition is read, from its beginning
        try:
            await consumer.start()
            while True:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        self._put_record(record.value)
        finally:
            await consumer.stop()

    def _put_record(self, value: bytes | None) -> None:
        try:
            self.put(parse(WorkerStatus, value or b""))
        except BadEvent as bad:
            log.warning("status ignored reason=%s", bad)


def _heard(workers: Sequence[WorkerStatus], now: float) -> list[WorkerStatus]:
    """Those of a role that were heard within ALIVE_S, or the last one heard."""
    alive = [worker for worker in workers if now - worker.at <= ALIVE_S]
    return alive or sorted(workers, key=lambda worker: worker.at)[-1:]


def _role(workers: Sequence[WorkerStatus], now: float, backlog: Backlog | None) -> dict[str, Any]:
    """What the workers of one role add up to."""
    heard = _heard(workers, now)
    if not heard:
        return _ABSENT | _behind(heard, now, backlog)
    last = max(heard, key=lambda worker: worker.at)
    is_alive = now - last.at <= ALIVE_S
    waiting = next((worker for worker in heard if worker.state != "running"), last)
    return {
        "alive": is_alive,
        "workers": len(heard) if is_alive else 0,
        "state": waiting.state if is_alive else "silent",
        "reason": waiting.reason,
        "heard_s_ago": round(now - last.at, 3),
        "pids": [worker.pid for worker in heard],
        "events": sum(worker.events for worker in heard),
        "events_per_s": round(sum(worker.events_per_s for worker in heard), 1) if is_alive else 0.0,
        **_behind(heard, now, backlog),
        "dead_letters": sum(worker.dead_letters for worker in heard),
        "malformed": _count(heard, "malformed", "replica_malformed"),
        "details": last.details,
    }


def _behind(heard: Sequence[WorkerStatus], now: float, backlog: Backlog | None) -> dict[str, Any]:
    """lag and oldest_unprocessed_s."""
    lag = sum(worker.lag for worker in heard)
    oldest_s = max((worker.oldest_unprocessed_s for worker in heard), default=0.0)
    if backlog is not None:
        at_work = bool(heard) and all(w.state == "running" and now - w.at <= ALIVE_S for w in heard)
        behind_s = oldest_s if backlog.oldest_at is None else max(0.0, now - backlog.oldest_at)
        if not at_work or behind_s > UNCOMMITTED_S or not backlog.lag:
            lag, oldest_s = backlog.lag, behind_s if backlog.lag else 0.0
    return {"lag": lag, "oldest_unprocessed_s": round(oldest_s, 3)}


def _count(workers: Sequence[WorkerStatus], *names: str) -> int:
    """The sum of these details."""
    return sum(int(worker.details.get(name, 0)) for worker in workers for name in names)


def _notes(roles: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, role in roles.items():
        if malformed := role["malformed"]:
            yield f"{name}: {malformed} records skipped as malformed: its log names topic, partition, offset and reason"
    if not_learned := roles["learner"]["not_learned"]:
        yield (
            f"learner: {not_learned} accepted clicks were not learned: their users clicked faster than "
            "FRESHET_LEARN_CLICKS_PER_MINUTE"
        )


def _factors_age_s(learners: Sequence[WorkerStatus], now: float) -> float | None:
    ages_s = [
        float(learner.details["newest_example_age_s"]) + now - learner.at
        for learner in learners
        if "newest_example_age_s" in learner.details
    ]
    return round(min(ages_s), 3) if ages_s else None


_ABSENT: dict[str, Any] = {
    "alive": False,
    "workers": 0,
    "state": "not heard of",
    "reason": None,
    "heard_s_ago": None,
    "pids": [],
    "events": 0,
    "events_per_s": 0.0,
    "dead_letters": 0,
    "malformed": 0,
    "details": {},
}
