"""A taught text network in a folder, as `path:FOLDER` names it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PARAMETERS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
FILES = {PARAMETERS, CONFIG, TOKENIZER}


class CannotWriteSource(ValueError):
    """The folder holds something else; str() says what to do."""


def write_text_source(folder: Path, arrays: Mapping[str, NDArray[np.float32]], config: Path, tokenizer: Path) -> None:
    """The folder holds this network whole, or is still what it was before. Raises CannotWriteSource.

    config, tokenizer  of the network that was continued
    """
    from safetensors.numpy import save_file

    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= FILES):
        raise CannotWriteSource(f"{folder} holds something else: name a new folder")
    draft, before = (folder.with_name(f".{folder.name}.{state}") for state in ("draft", "before"))
    for left in (draft, before):
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir(parents=True)
    sound = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(sound, draft / PARAMETERS, metadata={"format": "pt"})
    shutil.copyfile(config, draft / CONFIG)
    shutil.copyfile(tokenizer, draft / TOKENIZER)
    if folder.exists():
        os.replace(folder, before)
    os.replace(draft, folder)
    shutil.rmtree(before, ignore_errors=True)
