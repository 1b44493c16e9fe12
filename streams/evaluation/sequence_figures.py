"""How good fusion by attention over word pieces and picture places is, beside that of pooled vectors."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from encoders.retrieval import same_label_at_1
from encoders.token_fusion import CROSS_MODAL, SEQUENCES, score_of, under
from encoders.version import Version
from streams.evaluation.encoder_figures import Figures, Rows, shown, untrained_vectors
from streams.evaluation.features import Features, facts_of
from streams.evaluation.labelled import Labelled
from streams.evaluation.report import table, where
from streams.evaluation.tokens import KeptTokens

Vectors = NDArray[np.float32]


def sequence_figures(
    labelled: Labelled, features: Features, tokens: KeptTokens, asked: Rows, versions: Mapping[str, Vectors]
) -> Figures:
    """What the nearest of all other products has in common with those asked for, by kind of vectors.

    versions  (P, D) by the name that their row has
    """
    vectors, pooled = untrained_vectors(features, facts_of(labelled.products))
    rows = {"image": vectors["image"], "text": vectors["text"]}
    rows |= {f"pooled_{score}": own for score, own in pooled.items()}
    rows |= {f"sequences_{score}": own for score, own in tokens.fused.items()}
    rows |= versions
    found: Figures = {"products": len(labelled.products), "skipped": labelled.skipped, "held_out": len(asked)}
    for label, labels in (("type", labelled.types), ("colour", labelled.colours)):
        found[f"same_{label}_at_1"] = {name: same_label_at_1(own, labels, asked) for name, own in rows.items()}
    return found


def row_of(version: Version) -> str:
    """The name of a version's row."""
    if version.kind == SEQUENCES:
        return f"sequences_{score_of(under(version.arrays, SEQUENCES))}"
    return "cross_modal" if version.kind == CROSS_MODAL else "version"


def sequence_markdown(found: Figures) -> str:
    """The figures as people read them."""
    alike = [
        [name.replace("_", " "), *(shown(found[f"same_{label}_at_1"][name]) for label in ("type", "colour"))]
        for name in found["same_type_at_1"]
    ]
    parts = [
        where(),
        f"{found['products']:,} products, {found['skipped']} rows skipped; {found['held_out']:,} are asked for. "
        "Pooled: attention over one vector a modality. Sequences: over every word piece, place and fact.",
        "The nearest of all other products has the same label:",
        table(("vectors", "type", "colour"), alike),
    ]
    return "\n\n".join(parts)
