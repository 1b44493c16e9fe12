"""A killed training goes on where it was: its standing in one file, replaced as a whole.

The file is a line of JSON (what the standing belongs to, and the hash of the rest), then the standing.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

NAME = "checkpoint"
REMEDY = "begin again with --fresh, or name another folder with --run"


class OtherCheckpoint(ValueError):
    """The checkpoint cannot be gone on from; str() says why, and what to do."""


class Checkpoint:
    """The checkpoint of one training; what encoders.training.loop calls Kept."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """
        folder    of the run; made where there is none
        identity  JSON values by name: task, configuration, shapes, checksum of what it learns from
        """
        self.path = folder / NAME
        self._identity = orjson.loads(orjson.dumps(dict(identity)))

    def read(self) -> bytes | None:
        """The standing; None without a file. Raises OtherCheckpoint if it is broken, or of another training."""
        try:
            header, _, standing = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        try:
            found = orjson.loads(header)
            is_whole, kept = found["sha256"] == hashlib.sha256(standing).hexdigest(), found["identity"]
        except (ValueError, KeyError, TypeError):
            is_whole, kept = False, {}
        if not is_whole:
            raise OtherCheckpoint(f"{self.path} is not whole: {REMEDY}")
        if differing := list(_differences("", kept, self._identity)):
            raise OtherCheckpoint(f"{self.path} is of another training ({'; '.join(differing)}): {REMEDY}")
        return standing

    def write(self, standing: bytes) -> None:
        """The file is this standing, or still the one before."""
        header = {"identity": self._identity, "sha256": hashlib.sha256(standing).hexdigest()}
        replace_file(self.path, orjson.dumps(header) + b"\n" + standing)

    def remove(self) -> None:
        """There is none; what is learned is written elsewhere."""
        self.path.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """The file is this content, on the disk, or still what it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _differences(name: str, kept: Any, wanted: Any) -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in kept if key not in wanted)]:
            yield from _differences(key, kept.get(key), wanted.get(key))
    elif kept != wanted:
        yield f"{name} was {kept}, is {wanted}"
