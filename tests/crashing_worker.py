"""Real roles that die at the point where that would hurt most.

    python tests/crashing_worker.py clicks --before publish|commit|acknowledge --at N
    python tests/crashing_worker.py encode --on TITLE

Settings come from the environment, as everywhere.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence

from crashing_role import CrashingConsumer

from streams.clicks import ClicksRole
from streams.encode import EncodeRole, Event, Pictures
from streams.events import EncodeRequest
from streams.lossless import LosslessConsumer
from streams.role import Delivery, Outcome
from streams.roles import Parts
from streams.settings import Settings, load_settings
from streams.terminal import set_up_logging
from streams.topics import TopicNames
from streams.worker import Runnable, run_worker


class DyingEncodeRole(EncodeRole):
    """Its process dies while it encodes the product of that title."""

    def __init__(self, settings: Settings, names: TopicNames, title: str) -> None:
        super().__init__(settings, names)
        self._fatal = title

    def compute(self, batch: Sequence[Delivery[Event]], prepared: Pictures) -> Outcome:
        if any(isinstance(event, EncodeRequest) and event.title == self._fatal for _, event in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute(batch, prepared)


async def main() -> None:
    """Run the role until SIGTERM, or until it dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["clicks", "encode"])
    parser.add_argument("--before", choices=["publish", "commit", "acknowledge"])
    parser.add_argument("--at", type=int, default=1)
    parser.add_argument("--on", default="")
    chosen = parser.parse_args()
    settings = load_settings()
    parts = Parts(settings)
    consumer: Runnable
    if chosen.role == "clicks":
        clicks = ClicksRole(settings, parts.names, parts.broker, parts.users, parts.shelf, parts.replica)
        crash = {"before": chosen.before, "at": chosen.at, "until": None}
        consumer = CrashingConsumer(clicks, settings, parts.broker, parts.publisher, **crash)
    else:
        encode = DyingEncodeRole(settings, parts.names, chosen.on)
        consumer = LosslessConsumer(encode, settings, parts.broker, parts.publisher)
    await run_worker({chosen.role: consumer}, settings, parts.publisher)


if __name__ == "__main__":
    set_up_logging("INFO")
    asyncio.run(main())
