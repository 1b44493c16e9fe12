"""What the roles last said of themselves, read from the worker-status topic outside any group."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka.errors import KafkaError

from streams.broker import Broker
from streams.events import BadEvent, WorkerStatus
from streams.parsing import parse

log = logging.getLogger(__name__)

ROLES = ("catalog", "encode", "index", "api", "clicks", "learner")  # in the order of the data's path
ALIVE_S = 5.0
FORGOTTEN_S = 600.0
AWAY_PAUSE_S = 1.0


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

    def summary(self, now: float) -> dict[str, Any]:
        """The roles by name, `factors_age_s` and `dead_letters`, as JSON values.

        factors_age_s is the time since the newest click that the published factors know, None before the first.

        now  s since 1970
        """
        known = [status for status in self._newest.values() if now - status.at < FORGOTTEN_S]
        roles = {role: _role([status for status in known if status.role == role], now) for role in ROLES}
        return {
            "roles": roles,
            "factors_age_s": _factors_age_s([status for status in known if status.role == "learner"], now),
            "dead_letters": sum(role["dead_letters"] for role in roles.values()),
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


def _role(workers: Sequence[WorkerStatus], now: float) -> dict[str, Any]:
    """What the workers of one role add up to; only those heard within ALIVE_S count, or the last one heard."""
    alive = [worker for worker in workers if now - worker.at <= ALIVE_S]
    if not workers:
        return _ABSENT
    last = max(workers, key=lambda worker: worker.at)
    heard = alive or [last]
    waiting = next((worker for worker in heard if worker.state != "running"), last)
    return {
        "alive": bool(alive),
        "workers": len(alive),
        "state": waiting.state if alive else "silent",
        "reason": waiting.reason,
        "heard_s_ago": round(now - last.at, 3),
        "pids": [worker.pid for worker in heard],
        "events": sum(worker.events for worker in heard),
        "events_per_s": round(sum(worker.events_per_s for worker in alive), 1),
        "lag": sum(worker.lag for worker in heard),
        "oldest_unprocessed_s": max(worker.oldest_unprocessed_s for worker in heard),
        "dead_letters": sum(worker.dead_letters for worker in heard),
        "details": last.details,
    }


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
    "lag": 0,
    "oldest_unprocessed_s": 0.0,
    "dead_letters": 0,
    "details": {},
}
