"""How good the encoders are on a shop's own products: what finds what, before and after alignment."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.alignment import Alignment
from encoders.fusion import SCORES, Fusion, Modalities
from encoders.reduction import CannotReduce, Reduction, fit_lda, fit_pca
from encoders.retrieval import recall_at, same_label_at_1
from encoders.taught_fusion import TaughtFusion, Words, fit_fusion
from encoders.training.align import AlignmentRule, align
from encoders.training.loop import Run
from streams.evaluation.features import Features, facts_of
from streams.evaluation.labelled import Labelled
from streams.evaluation.report import table, where

Figures = dict[str, Any]
Rows = NDArray[np.int64]
HELD_OUT_SHARE = 0.2
DEPTHS = (1, 10)
WIDTHS = (64, 128, 256)
REDUCTIONS = ("pca", "pca_whitened", "lda")


class Split(NamedTuple):
    """Rows of the products: what heads are taught on, and what they are asked for."""

    taught: Rows
    held_out: Rows


def split(products: int, seed: int) -> Split:
    """A fifth of the products, drawn by the seed, is held out."""
    order = np.random.default_rng(seed).permutation(products)
    held_out, taught = np.split(order, [round(HELD_OUT_SHARE * products)])
    return Split(taught, held_out)


def teach(features: Features, taught: Rows, rule: AlignmentRule, run: Run = Run()) -> Alignment:  # noqa: B008
    """Heads that have learned from these products, as far as they have a picture. Raises CannotTrain."""
    taught = taught[np.any(features.image[taught], axis=1)]
    return align(features.views[:, taught], features.words[taught], rule, run)


def fitted(
    features: Features, facts: NDArray[np.float32], taught: Rows, heads: Alignment, seed: int = 0
) -> TaughtFusion:
    """The fusion fitted to these products, of all products' facts (P, A). Raises CannotReduce."""
    said = Words(*(part[taught] for part in features.said))
    return fit_fusion(features.views[:, taught], said, facts[taught], heads, seed=seed)


def recalls(heads: Alignment, features: Features, parts: Split) -> Figures:
    """What share of those held out, as far as they have a picture, finds its own; NaN where there are none."""
    asked = parts.held_out[np.any(features.image[parts.held_out], axis=1)]
    pictures, words = heads.pictures(features.image[asked]), heads.words(features.words[asked])
    pairs = {
        "words_to_picture": (words, pictures),
        "title_to_picture": (heads.words(_titles_alone(features, asked)), pictures),
        "picture_to_words": (pictures, words),
    }
    found: Figures = {"held_out": len(asked)}
    for name, (queries, answers) in pairs.items():
        for depth in DEPTHS:
            found[f"{name}_r_at_{depth}"] = recall_at(queries, answers, depth) if len(asked) else float("nan")
    return found


def figures(
    labelled: Labelled, features: Features, heads: Alignment, parts: Split, fusion: TaughtFusion | None = None
) -> Figures:
    """All that is measured, by name; NaN where the folder has no such label.

    fusion  that was taught; None: one is fitted to what the heads were taught on
    """
    facts = facts_of(labelled.products)
    untrained, by_score = untrained_vectors(features, facts)
    aligned = {"image_aligned": heads.pictures(features.image), "words_aligned": heads.words(features.words)}
    with suppress(CannotReduce):
        own = fitted(features, facts, parts.taught, heads) if fusion is None else fusion
        aligned["fused_fitted"] = own.plain.fuse(features.image, features.said, facts)
        if own.mix is not None:
            aligned["fused_taught"] = own.fuse(features.image, features.said, facts)
        if own.alone is not None:
            told = "fitted" if own.mix is None else "taught"
            aligned[f"image_{told}"] = own.alone.image(features.image)
            aligned[f"text_{told}"] = own.alone.text(features.words)
    found: Figures = {"products": len(labelled.products), "skipped": labelled.skipped, "taught": len(parts.taught)}
    found |= recalls(heads, features, parts)
    for label, labels in (("type", labelled.types), ("colour", labelled.colours)):
        vectors = {**untrained, **aligned}
        found[f"same_{label}_at_1"] = {
            name: same_label_at_1(rows, labels, parts.held_out) for name, rows in vectors.items()
        }
    found["same_type_at_1_by_score"] = {
        score: same_label_at_1(rows, labelled.types, parts.held_out) for score, rows in by_score.items()
    }
    found["same_type_at_1_by_width"] = _by_width(untrained["fused"], labelled.types, parts)
    return found


def markdown(found: Figures) -> str:
    """The figures as people read them."""
    asked = found["held_out"]
    own = [
        [name.replace("_", " "), *(f"{found[f'{name}_r_at_{depth}']:.3f}" for depth in DEPTHS)]
        for name in ("words_to_picture", "title_to_picture", "picture_to_words")
    ]
    chance = ["by chance", *(f"{depth / asked:.3f}" if asked else "" for depth in DEPTHS)]
    alike = [
        [name.replace("_", " "), *(shown(found[f"same_{label}_at_1"][name]) for label in ("type", "colour"))]
        for name in found["same_type_at_1"]
    ]
    widths = [
        [width, *(shown(found["same_type_at_1_by_width"][name].get(width, np.nan)) for name in REDUCTIONS)]
        for width in WIDTHS
    ]
    parts = [
        where(),
        f"{found['products']:,} products, {found['skipped']} rows skipped. The heads learned without labels, "
        f"{found['taught_on']}; {asked:,} products that they never saw are asked for.",
        "The right one of those held out is the first found, or among the first ten:",
        table(("query", "R@1", "R@10"), [*own, chance]),
        "The nearest of all other products has the same label:",
        table(("vectors", "type", "colour"), alike),
        "The same of fused vectors by the score of the attention, type:",
        table(tuple(found["same_type_at_1_by_score"]), [[*map(shown, found["same_type_at_1_by_score"].values())]]),
        "The same of fused vectors that were made shorter, type:",
        table(("width", *(name.replace("_", " ") for name in REDUCTIONS)), widths),
    ]
    return "\n\n".join(parts)


def _titles_alone(features: Features, asked: Rows) -> NDArray[np.float32]:
    """The words of queries that are no more than a title: the rest is what it is on average."""
    title, average = features.title[asked], features.details.mean(axis=0)
    return np.concatenate([title, title, np.broadcast_to(average, title.shape)], axis=1)


def untrained_vectors(
    features: Features, facts: NDArray[np.float32]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Vectors as an encode role publishes them, and the fused ones by the score of the attention."""
    text = features.text
    widths = {"image": features.image.shape[1], "text": text.shape[1]}
    products = Modalities(features.image, text, facts)
    fused: dict[str, NDArray[np.float32]] = {
        score: Fusion(widths, score=score).fuse(products) for score in SCORES if score != "learned"
    }
    return {"image": features.image, "text": text, "fused": fused["cosine"]}, fused


def _by_width(vectors: NDArray[np.float32], types: Sequence[str], parts: Split) -> dict[str, dict[int, float]]:
    """What is left of same_label_at_1 by kind of reduction and width, where the products suffice for it."""
    taught = parts.taught[np.any(vectors[parts.taught], axis=1)]
    names = [types[row] for row in taught.tolist()]
    fits: dict[str, Callable[[int], Reduction]] = {
        "pca": lambda width: fit_pca(vectors[taught], width, whitening=0),
        "pca_whitened": lambda width: fit_pca(vectors[taught], width),
        "lda": lambda width: fit_lda(vectors[taught], names, width),
    }
    found: dict[str, dict[int, float]] = {name: {} for name in REDUCTIONS}
    for name, fit in fits.items():
        for width in WIDTHS:
            with suppress(CannotReduce):
                found[name][width] = same_label_at_1(fit(width)(vectors), types, parts.held_out)
    return found


def shown(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"
