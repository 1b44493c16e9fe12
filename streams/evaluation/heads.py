"""Taught heads in a file: safetensors, with what they were taught on and what they are worth in its header."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from encoders.alignment import Alignment
from streams.evaluation.features import Features

FORMAT = "freshet-alignment-1"

About = dict[str, Any]


class UnusableHeads(ValueError):
    """The file holds no heads for these features; str() says what to do."""


def write_heads(path: Path, heads: Alignment, about: About) -> None:
    """The file is these heads, or still what it was before.

    about  JSON values: the encoders' fingerprint under "encoders", the rule, the seed, figures, and under "taught" the
           hashes of the products that they learned from
    """
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    arrays = {name: np.ascontiguousarray(array) for name, array in heads.state().items()}
    partial.write_bytes(save(arrays, metadata={"format": FORMAT, "about": orjson.dumps(about).decode()}))
    os.replace(partial, path)


def read_heads(path: Path, *, encoders: str, features: Features) -> tuple[Alignment, About]:
    """The heads, and what is told about them. Raises UnusableHeads; OSError where the file cannot be opened.

    encoders  the fingerprint of those that the features come from
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            told = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if told.get("format") != FORMAT:
            raise UnusableHeads(f"{path} holds no heads of `freshet train align`: name another file")
        heads, about = Alignment.from_state(arrays), orjson.loads(told["about"])
    except (SafetensorError, KeyError, orjson.JSONDecodeError) as error:
        raise UnusableHeads(f"{path} is not whole ({error}): teach the heads again") from error
    if (others := about.get("encoders")) != encoders:
        raise UnusableHeads(f"{path} was taught on the encoders {others}, these are {encoders}: teach the heads again")
    wanted = (features.image.shape[1], features.words.shape[1])
    if (widths := (heads.pictures.weight.shape[1], heads.words.weight.shape[1])) != wanted:
        raise UnusableHeads(f"{path} is for features of the widths {widths}, these have {wanted}: teach again")
    return heads, about


def hashes(features: Features) -> list[str]:
    """Hexadecimal, one for each product's features: what tells that heads were taught on it."""
    joined = np.concatenate(features, axis=1)
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in joined]
