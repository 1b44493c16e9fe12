"""What a training leaves: a version of the encoders, told what it was taught on and what it is worth."""

import hashlib
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoders.taught_fusion import PREFIX, TaughtFusion
from encoders.token_fusion import CROSS_MODAL, RECIPES
from encoders.version import UnusableVersion, Version, read_version, write_version
from streams.evaluation.features import Features
from streams.settings import Settings

if TYPE_CHECKING:
    from encoders.cross_modal import CrossModalEncoder

About = Mapping[str, Any]


def write_taught(folder: Path, settings: Settings, fusion: "TaughtFusion | CrossModalEncoder", about: About) -> Version:
    """The folder is the settings' encoders with this fusion; a cross-modal encoder is one of whole regions.

    about  JSON values: the task, its rule, the seed, the checksum of what it learned from, figures, and under "taught"
           the hashes of the products that it learned from
    """
    prefix = PREFIX if isinstance(fusion, TaughtFusion) else CROSS_MODAL
    arrays = {prefix + name: array for name, array in fusion.state().items()}
    version = Version(settings.image_encoder, settings.text_encoder, arrays, made(about))
    write_version(folder, version)
    return version


def made(about: About) -> dict[str, Any]:
    """About, and by which command it was made, and when."""
    command = shlex.join(["freshet", *sys.argv[1:]])
    return {**about, "command": command, "made_at": datetime.now(UTC).isoformat(timespec="seconds")}


def read_fitting(folder: Path, settings: Settings) -> Version:
    """The version, which is of the settings' encoders. Raises UnusableVersion."""
    version = read_version(folder)
    theirs, ours = (
        (each.image_source, each.text_source)
        for each in (version, Version(settings.image_encoder, settings.text_encoder))
    )
    if theirs != ours:
        raise UnusableVersion(
            f"{folder} is of the encoders {' and '.join(theirs)}, these are {' and '.join(ours)}: set "
            "FRESHET_IMAGE_ENCODER and FRESHET_TEXT_ENCODER, or teach it again"
        )
    return version


def read_taught(folder: Path, settings: Settings, features: Features | None = None) -> tuple[TaughtFusion, About]:
    """The fusion of a version, and what is told about it. Raises UnusableVersion.

    features  that it is to fit
    """
    version = read_fitting(folder, settings)
    if version.kind in RECIPES:
        raise UnusableVersion(
            f"{folder} attends to tokens: it has neither heads nor a fusion to go on from. `freshet encoders evaluate "
            f"SHOP --sequences --version {folder}` tells what it is worth, `freshet encoders add {folder}` makes it "
            "known; elsewhere name a folder that `freshet train align` or `fuse` made"
        )
    if (fusion := version.taught_fusion()) is None:
        raise UnusableVersion(f"{folder} has no taught fusion: name a folder that `freshet train align` or `fuse` made")
    if features is not None:
        wanted = (features.image.shape[1], features.title.shape[1])
        if (widths := (len(fusion.image.mean), len(fusion.details))) != wanted:
            raise UnusableVersion(f"{folder} is for features of the widths {widths}, these have {wanted}: teach again")
    return fusion, version.about


def hashes(features: Features) -> list[str]:
    """Hexadecimal, one for each product's features: what tells that a version was taught on it."""
    joined = np.concatenate(features, axis=1)
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in joined]
