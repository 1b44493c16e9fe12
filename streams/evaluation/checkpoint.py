"""A killed evaluation goes on where it was: its standing in one file, replaced as a whole.

The file is a line of JSON (what it belongs to, and the hash of the rest), then the pickled standing. Only what is
whole and belongs to the same arguments, clicks and code is unpickled.
"""

import hashlib
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from streams.evaluation.prequential import Standing
from streams.evaluation.schedules import Plan
from streams.evaluation.stream import Stream

PACKAGES = ("encoders", "store", "streams")


class Unusable(Exception):
    """The checkpoint cannot be gone on from; str() says why."""


class Identity(NamedTuple):
    """What a checkpoint belongs to: hashes in hexadecimal."""

    arguments: str
    clicks: str
    code: str


def identify(stream: Stream, plan: Plan, model: str, source: Path | None) -> Identity:
    """The identity of an evaluation of this model; source is its file where it lies outside these packages."""
    arguments = asdict(plan) | {"seen_events": sorted(plan.seen_events), "model": model}
    facts = stream.facts
    columns = [stream.users, stream.rows, stream.codes, stream.times, stream.segments]
    arrays = columns if facts.fused is None else [*columns, facts.fused]
    words = orjson.dumps([facts.product_ids, facts.catalog, stream.known[:1].tolist()])
    return Identity(
        arguments=_hash([orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)]),
        clicks=_hash([words, *(np.ascontiguousarray(array).tobytes() for array in arrays)]),
        code=_hash(path.read_bytes() for path in [*_sources(), *([source] if source else [])]),
    )


def write_checkpoint(path: Path, identity: Identity, standing: Standing) -> None:
    """The file at path is this standing, or still the one before."""
    pickled = pickle.dumps(standing, protocol=pickle.HIGHEST_PROTOCOL)
    header = orjson.dumps(identity._asdict() | {"sha256": _hash([pickled])})
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        file.write(header + b"\n")
        file.write(pickled)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_checkpoint(path: Path, identity: Identity) -> Standing | None:
    """The standing to go on from; None without a file. Raises Unusable if it is broken, or not of this evaluation."""
    try:
        header, _, pickled = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    try:
        found = orjson.loads(header)
        whole = found["sha256"] == _hash([pickled])
        other = [name for name, value in identity._asdict().items() if found[name] != value]
    except (ValueError, KeyError, TypeError):
        whole, other = False, []
    if not whole:
        raise Unusable(f"{path} is not a whole checkpoint: starting again")
    if other:
        raise Unusable(f"{path} was made with other {' and '.join(other)}: starting again")
    standing = pickle.loads(pickled)
    assert isinstance(standing, Standing)
    return standing


def _sources() -> Iterator[Path]:
    root = Path(__file__).parents[2]
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))


def _hash(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()
