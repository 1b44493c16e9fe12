"""Arrays in an .npz that a killed run goes on from: whole at any moment, and of one identity."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

MADE_OF = "made_of"
SAVE_EVERY_S = 30.0

Arrays = Mapping[str, NDArray[Any]]


def read_kept(path: Path, made_of: str) -> dict[str, NDArray[Any]]:
    """What the file holds of this identity; nothing if there is no such file, or it is another's or broken."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays[MADE_OF]) == made_of:
                return {name: arrays[name] for name in arrays.files if name != MADE_OF}
    except (OSError, KeyError, ValueError, EOFError, BadZipFile):
        pass  # made again
    return {}


def write_kept(path: Path, made_of: str, arrays: Arrays) -> None:
    """The file is these arrays, or still what it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, **{MADE_OF: np.array(made_of), **arrays})  # type: ignore[arg-type]
    os.replace(partial, path)
