"""What the fused vector of a product rests on: which words and facts, and which places of its pictures.

Three answers, side by side. The weights are those of attention over places, word pieces and facts (encoders.sequences).
What each contributes to the attended vector is its weight times its length along that vector. How far the vector that
serves moves without a word, a fact or a place is measured, by encoding the product again without it: an honest check of
the other two, because attention need not be an explanation (Jain, Wallace, NAACL 2019). A place is covered with the
colour of the picture's border (occlusion: Zeiler, Fergus, ECCV 2014), as most product pictures have a plain one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product as every
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from encoders.fusion import Fusion, Score
from encoders.image import Pixels
from encoders.product import ProductContent, ProductEncoder
from encoders.product_tokens import ProductTokens
from encoders.sequences import SequenceFusion, padded
from encoders.weights import ATTRIBUTES_RECIPE

Floats = NDArray[np.float32]
Where = Literal["headline", "details", "facts"]
WORD = re.compile(r"\S+")
PUNCTUATION = ".,;:!?()[]\"'"
AT_ONCE = 32  # products encoded together


class NothingToExplain(ValueError):
    """The product has neither words nor a picture, so it has no vector."""


@dataclass(frozen=True)
class Part:
    """A word, that is what stands between two blanks, or a fact."""

    text: str  # without punctuation around it
    where: Where  # ProductContent.text, details or facts
    span: tuple[int, int]  # where it begins and ends there: characters, or the place of the fact
    weight: float
    contribution: float
    move: float | None = None  # 1 - cosine of the fused vector without it and with it; None if not checked


@dataclass(frozen=True)
class Explanation:
    """The weights of all parts and places add up to 1, and so do their contributions."""

    encoder: str  # fingerprint
    score: Score
    parts: list[Part]  # words in the order in which they are written, headline first, then facts
    pictures: tuple[Pixels, ...]
    places: Floats  # (pictures, rows, columns) weights
    place_contributions: Floats  # the same
    place_moves: Floats | None  # the same, as Part.move; None if not checked
    cosine: float | None  # of the vector that attention makes to the one that serves; None if that fusion was taught

    @property
    def weights(self) -> dict[str, float]:
        """Of each modality."""
        return {"image": float(self.places.sum()), **self._sums("weight")}

    @property
    def contributions(self) -> dict[str, float]:
        """Of each modality."""
        return {"image": float(self.place_contributions.sum()), **self._sums("contribution")}

    @property
    def agreement(self) -> dict[str, dict[str, float]]:
        """Rank correlation of weights and of contributions with moves, of places and of parts; NaN if there is none."""
        moves = {
            "places": [] if self.place_moves is None else self.place_moves.ravel().tolist(),
            "parts": [part.move for part in self.parts if part.move is not None],
        }
        shares = {
            "places": {
                "weight": self.places.ravel().tolist(),
                "contribution": self.place_contributions.ravel().tolist(),
            },
            "parts": {
                "weight": [part.weight for part in self.parts],
                "contribution": [part.contribution for part in self.parts],
            },
        }
        return {
            of: {name: rank_correlation(values[: len(moves[of])], moves[of]) for name, values in shares[of].items()}
            for of in moves
        }

    def _sums(self, name: Literal["weight", "contribution"]) -> dict[str, float]:
        facts = [getattr(part, name) for part in self.parts if part.where == "facts"]
        words = [getattr(part, name) for part in self.parts if part.where != "facts"]
        return {"text": float(sum(words)), "attributes": float(sum(facts))}


def explain(
    content: ProductContent, encoder: ProductEncoder, *, score: Score = "cosine", check: bool = False
) -> Explanation:
    """What the product's fused vector rests on.

    check  encode the product again without each part and each place: some seconds on a CPU

    Of a cross-modal version weights are its query's, and contributions the same, without facts, which it does not
    read. Such a version, and one of a score of its own, takes no other score.
    Of a version whose fusion was taught, weights and contributions are of attention before that; the check is of it.
    Raises NothingToExplain; BadPicture, FloatingPointError as the encoder does.
    """
    tokens, served = encoder.tokens([content])[0], encoder.encode([content])[0].fused
    if served is None:
        raise NothingToExplain("the product has neither words nor a picture, so it has no vector")
    serving = encoder.token_fusion
    if serving is not None and serving.sequences is not None:
        fusion, score = serving.sequences, serving.sequences.score
    else:
        fusion = SequenceFusion(Fusion(encoder.feature_widths, score=score))
    widths = (*(encoder.feature_widths[name] for name in ("image", "text")), ATTRIBUTES_RECIPE.width)
    own = (tokens.image, tokens.text, tokens.attributes)
    image, text, facts = (padded([of], width) for of, width in zip(own, widths, strict=True))
    found = fusion.fuse(image, text, facts)
    contributions = fusion.contributions(image, text, facts, found)
    if serving is not None and serving.sequences is None:  # the cross-modal query's own
        found = serving.fuse([tokens])
        contributions = found.image, found.text, found.attributes
    parts = _words(content, tokens, found.text[0], contributions[1][0])
    parts += _facts(content, tokens, found.attributes[0], contributions[2][0])
    count = int(np.prod(tokens.grid))
    places, place_contributions = (of[0, :count].reshape(tokens.grid) for of in (found.image, contributions[0]))
    place_moves = None
    if check:
        without = [without_part(content, part) for part in parts]
        without += [without_place(content, place, tokens.grid) for place in every(*map(range, tokens.grid))]
        moves = _moves(encoder, served, without)
        parts = [replace(part, move=move) for part, move in zip(parts, moves, strict=False)]
        place_moves = np.array(moves[len(parts) :], np.float32).reshape(tokens.grid)
    cosine = float(found.vectors[0] @ served) if encoder.version.taught_fusion() is None else None
    return Explanation(
        encoder.fingerprint, score, parts, content.pictures, places, place_contributions, place_moves, cosine
    )


def without_part(content: ProductContent, part: Part) -> ProductContent:
    """The product with one word or fact less; a word of the title is gone from the title too."""
    begin, end = part.span
    if part.where == "facts":
        return replace(content, facts=tuple(fact for fact in content.facts if fact != content.facts[begin]))
    if part.where == "details":
        return replace(content, details=content.details[:begin] + content.details[end:])
    title = " ".join(content.title.split())  # the headline begins with it
    title = title[:begin] + title[end:]
    return replace(content, text=content.text[:begin] + content.text[end:], title=title)


def without_place(content: ProductContent, place: tuple[int, ...], grid: tuple[int, int, int]) -> ProductContent:
    """The product with one place of one of its pictures covered."""
    pictures = list(content.pictures)
    pictures[place[0]] = covered(pictures[place[0]], place[1:], grid[1:])
    return replace(content, pictures=tuple(pictures))


def covered(picture: Pixels, place: tuple[int, ...], grid: tuple[int, ...]) -> Pixels:
    """The picture (H, W, 3) with one place of the grid in the median colour of its border."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    (top, bottom), (left, right) = (
        (round(at * side / count), max(round((at + 1) * side / count), round(at * side / count) + 1))
        for at, side, count in zip(place, picture.shape[:2], grid, strict=True)
    )
    without = picture.copy()
    without[top:bottom, left:right] = np.median(border, axis=0).astype(np.uint8)
    return without


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, those that are equal sharing their ranks; NaN where all of one side are equal."""
    ranks = []
    for values in (one, other):
        _, places, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[places])
    if any(len(side) < 2 or np.ptp(side) == 0 for side in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _words(content: ProductContent, tokens: ProductTokens, weights: Floats, contributions: Floats) -> list[Part]:
    """The words that the word pieces belong to, each with what its pieces weigh and contribute together."""
    words = []
    sources: tuple[tuple[Where, str], ...] = (("headline", content.text), ("details", content.details))
    for where, text in sources:
        own = [(n, piece) for n, piece in enumerate(tokens.pieces) if piece.is_detail == (where == "details")]
        for match in WORD.finditer(text):
            begin, end = match.span()
            inside = [n for n, piece in own if begin < piece.end and piece.begin < end]
            if inside:  # else it was cut, or is no word to the tokenizer
                shown = match[0].strip(PUNCTUATION) or match[0]
                sums = (float(of[inside].sum()) for of in (weights, contributions))
                words.append(Part(shown, where, match.span(), *sums))
    return words


def _facts(content: ProductContent, tokens: ProductTokens, weights: Floats, contributions: Floats) -> list[Part]:
    facts = []
    for fact, weight, contribution in zip(tokens.facts, weights.tolist(), contributions.tolist(), strict=False):
        place = content.facts.index(fact)
        facts.append(Part(fact.name, "facts", (place, place + 1), weight, contribution))
    return facts


def _moves(encoder: ProductEncoder, served: Floats, contents: Sequence[ProductContent]) -> list[float]:
    """1 - cosine of each to the vector that serves; 1 where nothing is left to encode."""
    moves: list[float] = []
    for begin in range(0, len(contents), AT_ONCE):
        vectors = [product.fused for product in encoder.encode(contents[begin : begin + AT_ONCE])]
        moves += [1.0 if vector is None else max(0.0, 1.0 - float(vector @ served)) for vector in vectors]
    return moves
