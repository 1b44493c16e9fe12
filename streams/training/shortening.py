"""`freshet train shorten`: a version whose fused vectors are narrower, and what that costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from encoders.reduction import Reduction, fit_lda, fit_pca
from streams.evaluation.features import facts_of
from streams.evaluation.taught import hashes, read_taught, write_taught
from streams.training.fusing import NO_PAIRS, nearest_figures, parts_of, told_of
from streams.training.session import Session

Vectors = NDArray[np.float32]
Method = Literal["pca", "pca-whitened", "lda"]


def shorten(session: Session, folder: Path, columns: str, out: Path, version: Path, width: int, method: Method) -> str:
    """The version with this reduction, fitted on what it has learned from, is in the folder out.

    lda is told the column type=. Raises CannotReduce, UnusableVersion.
    """
    labelled, features = session.shop(folder, columns)
    fusion, about = read_taught(version, session.settings, features)
    whole, parts = fusion._replace(short=None), parts_of(features, about, session.options.seed)
    fused = whole.fuse(features.image, features.said, facts_of(labelled.products))
    types = [labelled.types[row] for row in parts.taught.tolist()]
    short = fit(fused[parts.taught], types, width, method, session.options.seed)
    found = nearest_figures(labelled, features, {"fused before": fused, "fused": short(fused)}, parts, NO_PAIRS)
    known = hashes(features)
    told: dict[str, Any] = {
        **about,
        "task": "shorten",
        "taught": [known[row] for row in parts.taught.tolist()],
        "before": {"task": about.get("task"), "width": whole.width},
        "rule": {"method": method, "width": width},
        "seed": session.options.seed,
        "figures": found,
    }
    made = write_taught(out, session.settings, whole._replace(short=short), told)
    head = f"{out}: version {made.fingerprint}, {whole.width} values by {method} to {width}"
    return f"{head}.\n\n{told_of(found, len(parts.held_out))}"


def fit(vectors: Vectors, types: Sequence[str], width: int, method: Method, seed: int) -> Reduction:
    """The reduction of vectors (n, D), zeros left out. Raises CannotReduce."""
    known = vectors.any(axis=1)
    if method == "lda":
        return fit_lda(vectors[known], [types[row] for row in np.flatnonzero(known).tolist()], width)
    return fit_pca(vectors[known], width, whitening=1.0 if method == "pca-whitened" else 0.0, seed=seed)
