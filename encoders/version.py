"""A version of the encoders: all that shapes a product's vectors, in one folder, named by its fingerprint.

The folder has one file, encoder.safetensors: what was taught or fitted (nothing, for the untrained version), and in its
header the sources of the weights and what is told of the version. Never imports torch.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from encoders.taught_fusion import PREFIX, RECIPE, TaughtFusion
from encoders.token_fusion import CROSS_MODAL, RECIPES, SEQUENCES, score_of, under
from encoders.weights import fingerprint_of, widths_of

Arrays = Mapping[str, NDArray[np.float32]]
FORMAT = "freshet-encoder-1"
FILE = "encoder.safetensors"
KINDS = (PREFIX, CROSS_MODAL, SEQUENCES)


class UnusableVersion(ValueError):
    """The folder holds no version of the encoders; str() says what to do."""


@dataclass(frozen=True)
class Version:
    """Encoders with what they were taught."""

    image_source: str
    text_source: str
    arrays: Arrays = field(default_factory=dict)  # by dotted name
    about: Mapping[str, Any] = field(default_factory=dict)  # JSON values that shape nothing: figures, data, command

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that change with everything that shapes a vector. Raises UnknownSource, UnusableVersion."""
        untrained = fingerprint_of(self.image_source, self.text_source)
        if not self.arrays:
            return untrained
        recipe = RECIPES.get(self.kind or PREFIX, RECIPE)
        digest = hashlib.sha256(f"{untrained} {recipe}".encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.shape}".encode() + np.ascontiguousarray(array, "<f4").tobytes())
        return digest.hexdigest()[:12]

    @cached_property
    def feature_widths(self) -> dict[str, int]:
        """V and T of what the networks see, and D of the untrained fusion. Raises UnknownSource."""
        return widths_of(self.image_source, self.text_source)

    @cached_property
    def widths(self) -> dict[str, int]:
        """Of the vectors that products have, by their names. Raises UnknownSource."""
        widths, kind = self.feature_widths, self.kind
        if kind == CROSS_MODAL:
            return {**widths, "fused": self._cross_modal_width(widths)}
        if kind == SEQUENCES:
            self._check_sequences(widths["fused"])
        if (taught := self.taught_fusion()) is None:
            return widths
        alone = {} if taught.alone is None else taught.alone._asdict()
        return {**widths, **{name: own.axes.shape[1] for name, own in alone.items()}, "fused": taught.width}

    @property
    def kind(self) -> str | None:
        """Which prefix its arrays have: PREFIX, CROSS_MODAL, SEQUENCES; None: untrained. Raises UnusableVersion."""
        there = [kind for kind in KINDS if any(name.startswith(kind) for name in self.arrays)]
        if len(there) > 1:
            raise UnusableVersion(f"the version has arrays of {' and '.join(there)}: one kind serves, teach it again")
        return there[0] if there else None

    def _cross_modal_width(self, widths: Mapping[str, int]) -> int:
        """D, told by its shape (encoders.cross_modal.CrossModalShape), which is read here without torch."""
        told = self.arrays.get(CROSS_MODAL + "shape", np.zeros(0))
        if told.ndim != 1 or len(told) < 3 or tuple(told[:2]) != (widths["image"], widths["text"]):
            raise UnusableVersion(
                f"the version's cross-modal encoder is of the shape {told.tolist()}, the pictures and words here are "
                f"{widths['image']} and {widths['text']} wide: teach it again"
            )
        return int(told[2])

    def _check_sequences(self, width: int) -> None:
        own = under(self.arrays, SEQUENCES)
        matrix = own.get("matrix")
        try:
            is_learned = score_of(own) == "learned"
        except (KeyError, ValueError) as error:
            raise UnusableVersion(f"the version's score cannot be read ({error}): teach it again") from error
        if is_learned != (matrix is not None) or (
            matrix is not None and matrix.shape not in ((width,), (width, width))
        ):
            shape = None if matrix is None else matrix.shape
            raise UnusableVersion(f"the version's matrix is {shape}: the learned score alone has one, {width} wide")

    def taught_fusion(self) -> TaughtFusion | None:
        """The fusion that was taught; None: the version is untrained. Raises UnusableVersion."""
        own = under(self.arrays, PREFIX)
        try:
            return TaughtFusion.from_state(own) if own else None
        except (KeyError, ValueError) as error:
            raise UnusableVersion(f"the version's fusion is not whole ({error}): teach it again") from error


def write_version(folder: Path, version: Version) -> None:
    """The folder is this version, or still what it was before."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "image_source": version.image_source,
        "text_source": version.text_source,
        "fingerprint": version.fingerprint,
        "about": dict(version.about),
    }
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    header = {"format": FORMAT, "version": orjson.dumps(told, option=options).decode()}
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in version.arrays.items()}
    draft = folder / f".{FILE}.draft"
    draft.write_bytes(save(arrays, metadata=header))
    os.replace(draft, folder / FILE)


def read_version(folder: Path) -> Version:
    """The version in a folder. Raises UnusableVersion, UnknownSource where its weights cannot be had here."""
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    try:
        with safe_open(path, "numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if header.get("format") != FORMAT:
            raise UnusableVersion(f"{path} is no version of the encoders: name a folder that `freshet train` made")
        told = orjson.loads(header["version"])
        version = Version(told["image_source"], told["text_source"], arrays, told["about"])
        stated = told["fingerprint"]
    except FileNotFoundError as error:
        raise UnusableVersion(f"{folder} has no {FILE}: `freshet train` makes a version's folder") from error
    except (SafetensorError, KeyError, orjson.JSONDecodeError, OSError) as error:
        raise UnusableVersion(f"{path} is not whole ({error!r}): teach it again, or copy it again") from error
    if unsound := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise UnusableVersion(f"{path}: {', '.join(unsound)} has a value that is not finite: teach it again")
    if version.fingerprint != stated:
        raise UnusableVersion(
            f"{path} says that it is {stated}, but with the weights here it is {version.fingerprint}: "
            f"{version.image_source} and {version.text_source} have other weights here than where it was taught"
        )
    return version
