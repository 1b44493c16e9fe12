"""A learner as a process of its own, with the settings of the environment: python tests/learner_process.py [file].

With a file that does not exist yet, it makes it and dies by SIGKILL when its next checkpoint is written as a file and
the row that makes it count is not.
"""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from store.checkpoints import CheckpointStore
from store.database import open_database
from streams.broker import Broker, Publisher
from streams.learner import Learner
from streams.settings import load_settings
from streams.topics import topic_names
from streams.worker import run_worker


class DiesBeforeTheRow(CheckpointStore):
    """Dies once between the file and the row; `marker` tells that it has."""

    marker: Path

    def _make_it_count(self, *arguments: Any) -> list[str]:
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._make_it_count(*arguments)


async def main() -> None:
    settings = load_settings()
    broker = Broker(settings)
    publisher = Publisher(broker)
    engine = open_database(None, settings.home, "learner", settings.namespace)
    learner = Learner(settings, topic_names(settings, "ab12"), broker, publisher, engine)
    if sys.argv[1:]:
        learner.checkpoints.__class__ = DiesBeforeTheRow
        DiesBeforeTheRow.marker = Path(sys.argv[1])
    await run_worker({"learner": learner}, settings, publisher)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    asyncio.run(main())
