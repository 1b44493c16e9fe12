"""What a training leaves: a version of the encoders, told what it was taught on and what it is worth."""

import hashlib
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from encoders.taught_fusion import PREFIX, TaughtFusion
from encoders.version import UnusableVersion, Version, read_version, write_version
from streams.evaluation.features import Features
from streams.settings import Settings

About = Mapping[str, Any]


def write_taught(folder: Path, settings: Settings, fusion: TaughtFusion, about: About) -> Version:
    """The folder is the settings' encoders with this fusion.

    about  JSON values: the task, its rule, the seed, the checksum of what it learned from, figures, and under "taught"
           the hashes of the products that it learned from
    """
    arrays = {PREFIX + name: array for name, array in fusion.state().items()}
    version = Version(settings.image_encoder, settings.text_encoder, arrays, made(about))
    write_version(folder, version)
    return version


def made(about: About) -> dict[str, Any]:
    """About, and by which command it was made, and when."""
    command = shlex.join(["freshet", *sys.argv[1:]])
    return {**about, "command": command, "made_at": datetime.now(UTC).isoformat(timespec="seconds")}


def read_taught(folder: Path, settings: Settings, features: Features | None = None) -> tuple[TaughtFusion, About]:
    """The fusion of a version, and what is told about it. Raises UnusableVersion.

    features  that it is to fit
    """
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
