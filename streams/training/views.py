"""What a fusion makes of a shop's products: whole, by picture alone and by words alone."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.retrieval import same_label_at_1, unit_or_zero
from encoders.taught_fusion import TaughtFusion, Words
from encoders.training.fuse import NO_CATEGORY, Taught
from streams.evaluation.encoder_figures import Rows
from streams.evaluation.features import Features, facts_of
from streams.evaluation.labelled import Labelled

Vectors = NDArray[np.float32]


class Views(NamedTuple):
    """Of P products, by a fusion without W; of unit length, zeros where nothing is known."""

    fused: Vectors  # (2, P, D), by the picture and by the mirrored picture
    pictures: Vectors  # (P, D)
    words: Vectors  # (P, D)
    categories: Rows  # (P,)

    def taught(self, rows: Rows, clicked: Rows) -> Taught:
        """What there is to learn from these products, and from the pairs (c, 2) of which both are among them."""
        places = np.full(len(self.words), -1, np.int64)
        places[rows] = np.arange(len(rows))
        known = places[clicked]
        return Taught(
            np.ascontiguousarray(self.fused[:, rows]),
            self.pictures[rows],
            self.words[rows],
            self.categories[rows],
            known[(known >= 0).all(axis=1)],
        )


def views_of(fusion: TaughtFusion, labelled: Labelled, features: Features) -> Views:
    """The views of these products; W of the fusion is left out."""
    plain, facts = fusion.plain, facts_of(labelled.products)
    no_words = Words(*(np.zeros_like(part) for part in features.said))
    names = {name: number for number, name in enumerate(sorted(set(filter(None, labelled.types))))}
    return Views(
        np.stack([plain.fuse(view, features.said, facts) for view in features.views]),
        plain.fuse(features.image, no_words, np.zeros_like(facts)),
        plain.fuse(np.zeros_like(features.image), features.said, np.zeros_like(facts)),
        np.array([names.get(name, NO_CATEGORY) for name in labelled.types], np.int64),
    )


def alike(vectors: Vectors, labelled: Labelled, asked: Rows) -> dict[str, float]:
    """same_type_at_1 and same_colour_at_1 of those that are asked for, as far as there are such labels."""
    labels = {"type": labelled.types, "colour": labelled.colours}
    return {f"same_{name}_at_1": same_label_at_1(vectors, own, asked) for name, own in labels.items() if any(own)}


def mixed(vectors: Vectors, mix: Vectors | None) -> Vectors:
    """(n, D) after W."""
    return vectors if mix is None else unit_or_zero(vectors @ mix.T)
