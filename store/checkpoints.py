"""The learner's checkpoints: the arrays are files, and a row in SQL, written under the lease, says which one counts."""

import hashlib
import io
import logging
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import orjson
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Column, Connection, Double, Engine, Row, Select, Table, Text, delete, insert, select

from store.database import metadata, reading, transaction
from store.leases import require_epoch
from store.records import StoreUnavailable

log = logging.getLogger(__name__)

KEPT = 3
META = "meta.json"

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("file", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("saved_at", Double, nullable=False),
)

Arrays = dict[str, NDArray[Any]]


class NoReadableCheckpoint(Exception):
    """Checkpoints were made, and not one of them is whole."""


class CheckpointStore:
    """Files in a folder or below any fsspec URL; a checkpoint and the lease that protects it have the same name."""

    def __init__(self, engine: Engine, url: str) -> None:
        self._engine = engine
        self._url = url
        self._files, self._folder = fsspec.url_to_fs(url)

    def save(self, name: str, epoch: int, arrays: Arrays, meta: dict[str, Any]) -> None:
        """The checkpoint is durable and is the one that counts; the newest three stay.

        arrays  any shapes, no object dtypes; a name is not "meta.json"
        meta    JSON values

        Raises LeaseLost if epoch is not the lease's: then nothing has changed. StoreUnavailable.
        """
        content = _pack(arrays, meta)
        file = f"{name}-{epoch:010d}-{uuid.uuid4().hex}.npz"
        self._write(file, content)
        with transaction(self._engine) as connection:
            require_epoch(connection, name, epoch)
            kept = self._make_it_count(connection, name, epoch, file, hashlib.sha256(content).hexdigest())
        self._remove_others(name, epoch, kept)

    def load(self, name: str) -> tuple[Arrays, dict[str, Any]] | None:
        """(arrays, meta) of the newest checkpoint that is whole; None if none was ever saved.

        Raises NoReadableCheckpoint if all are damaged or gone, StoreUnavailable if the place does not answer.
        """
        with reading(self._engine) as connection:
            saved = connection.execute(_newest_first(name)).all()
        faults = []
        for row in saved:
            content = self._read(row)
            if isinstance(content, bytes):
                return _unpack(content)
            faults.append(f"{row.file}: {content}")
            log.error("checkpoint unreadable, trying the one before name=%s fault=%s", name, faults[-1])
        if not faults:
            return None
        raise NoReadableCheckpoint(
            f"no checkpoint of {name!r} at {self._url} can be read ({'; '.join(faults)}): put the files back, "
            f"or delete the rows of {name!r} in the table checkpoints to begin from the oldest kept events"
        )

    def _make_it_count(self, connection: Connection, name: str, epoch: int, file: str, sha256: str) -> list[str]:
        """The new row stands above the others; only the newest stay. Returns the files of those."""
        saved = connection.execute(_newest_first(name)).all()
        sequence = saved[0].sequence + 1 if saved else 1
        row = {
            "name": name,
            "sequence": sequence,
            "epoch": epoch,
            "file": file,
            "sha256": sha256,
            "saved_at": time.time(),
        }
        connection.execute(insert(checkpoints), row)
        kept = saved[: KEPT - 1]
        old = [row.sequence for row in saved[KEPT - 1 :]]
        connection.execute(delete(checkpoints).where(checkpoints.c.name == name, checkpoints.c.sequence.in_(old)))
        return [file, *(row.file for row in kept)]

    def _write(self, file: str, content: bytes) -> None:
        try:
            self._files.makedirs(self._folder, exist_ok=True)
            with self._files.open(self._path(file), "wb") as target:
                target.write(content)
                if isinstance(self._files, LocalFileSystem):
                    target.flush()
                    os.fsync(target.fileno())
            if isinstance(self._files, LocalFileSystem):
                _sync_folder(Path(self._folder))
        except OSError as error:
            raise StoreUnavailable(f"cannot write the checkpoint {file} at {self._url}: {error}") from error

    def _read(self, row: Row[Any]) -> bytes | str:
        """The file's bytes, or what is wrong with it."""
        try:
            content: bytes = self._files.cat_file(self._path(row.file))
        except FileNotFoundError:
            return "the file is gone"
        except OSError as error:
            raise StoreUnavailable(f"cannot read the checkpoint {row.file} at {self._url}: {error}") from error
        if hashlib.sha256(content).hexdigest() != row.sha256:
            return "its content is not what was written"
        return content

    def _remove_others(self, name: str, epoch: int, kept: list[str]) -> None:
        """Remove this name's files that no row names: old ones, and those of a learner that died while writing.

        One of a later epoch stays: its learner is writing it, and its row comes in a moment.
        """
        pattern = re.compile(re.escape(name) + r"-(\d{10})-[0-9a-f]{32}\.npz")
        try:
            for path in self._files.ls(self._folder, detail=False):
                file = path.rsplit("/", 1)[-1]
                match = pattern.fullmatch(file)
                if match and int(match[1]) <= epoch and file not in kept:
                    self._files.rm_file(path)
        except OSError as error:
            log.warning("old checkpoints stay for now name=%s error=%s", name, error)

    def _path(self, file: str) -> str:
        return f"{self._folder.rstrip('/')}/{file}"


def _newest_first(name: str) -> Select[Any]:
    return select(checkpoints).where(checkpoints.c.name == name).order_by(checkpoints.c.sequence.desc())


def _pack(arrays: Arrays, meta: dict[str, Any]) -> bytes:
    if META in arrays:
        raise ValueError(f"an array cannot be named {META!r}: that is the place of meta")
    content = io.BytesIO()
    text = np.frombuffer(orjson.dumps(meta), np.uint8)
    np.savez(content, allow_pickle=False, **arrays, **{META: text})
    return content.getvalue()


def _unpack(content: bytes) -> tuple[Arrays, dict[str, Any]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files if name != META}
        return arrays, orjson.loads(stored[META].tobytes())


def _sync_folder(folder: Path) -> None:
    """Make the file's name durable as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
