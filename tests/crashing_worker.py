"""Real roles that die at the point where that would hurt most.

    python tests/crashing_worker.py catalog|encode|index|clicks --before publish|commit|acknowledge --at N
    python tests/crashing_worker.py encode --on TITLE

Settings come from the environment, as everywhere.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Any

from crashing_role import CrashingConsumer

from encoders.next_click import FACTORS
from encoders.weights import widths_of
from streams.catalog import CatalogRole
from streams.clicks import ClicksRole
from streams.encode import EncodeRole, Event, Prepared
from streams.events import EncodeRequest
from streams.index import IndexRole
from streams.lossless import LosslessConsumer
from streams.role import Delivery, Outcome, Role
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

    def compute(self, batch: Sequence[Delivery[Event]], prepared: Prepared) -> Outcome:
        if any(isinstance(event, EncodeRequest) and event.title == self._fatal for _, event in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute(batch, prepared)


def _role(name: str, parts: Parts) -> Role[Any]:
    """As `freshet worker` has it."""
    settings, names = parts.settings, parts.names
    match name:
        case "catalog":
            return CatalogRole(settings, names, parts.products)
        case "encode":
            return EncodeRole(settings, names)
        case "index":
            widths = widths_of(settings.image_encoder, settings.text_encoder)
            return IndexRole(settings, names, parts.vectors, parts.fingerprint, widths, FACTORS)
        case _:
            return ClicksRole(settings, names, parts.broker, parts.users, parts.shelf, parts.replica)


async def main() -> None:
    """Run the role until SIGTERM, or until it dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["catalog", "encode", "index", "clicks"])
    parser.add_argument("--before", choices=["publish", "commit", "acknowledge"])
    parser.add_argument("--at", type=int, default=1)
    parser.add_argument("--on", default="")
    chosen = parser.parse_args()
    settings = load_settings()
    parts = Parts(settings)
    consumer: Runnable
    if chosen.before:
        crash = {"before": chosen.before, "at": chosen.at, "until": None}
        consumer = CrashingConsumer(_role(chosen.role, parts), settings, parts.broker, parts.publisher, **crash)
    else:
        encode = DyingEncodeRole(settings, parts.names, chosen.on)
        consumer = LosslessConsumer(encode, settings, parts.broker, parts.publisher)
    await run_worker({chosen.role: consumer}, settings, parts.publisher)


if __name__ == "__main__":
    set_up_logging("INFO")
    asyncio.run(main())
