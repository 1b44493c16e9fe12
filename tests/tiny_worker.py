"""The roles of `freshet worker` with encoders that take no time: python tests/tiny_worker.py PAUSE_S ROLE...

PAUSE_S is how long a product takes a version that does not come from the settings.
"""

import asyncio
import sys
from typing import Any

from tiny_encoders import TinyEncoder

from streams.events import EncoderVersion
from streams.roles import Parts, run_roles
from streams.settings import load_settings
from streams.terminal import set_up_logging


class TinyParts(Parts):
    """Every version is opened as a TinyEncoder."""

    pause_s = 0.0

    def open_encoder(self, version: EncoderVersion) -> Any:
        slow = version.fingerprint != self.fingerprint
        return TinyEncoder(version.fingerprint, version.widths, self.pause_s if slow else 0.0)


if __name__ == "__main__":
    set_up_logging("INFO")
    TinyParts.pause_s = float(sys.argv[1])
    settings = load_settings()
    asyncio.run(run_roles(sys.argv[2:], settings, TinyParts(settings)))
