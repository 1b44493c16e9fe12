"""What the fused vector of a product rests on: which words, and which places of its picture.

Three answers, side by side. The weights are those of attention over word pieces and places (encoders.sequences). What
each contributes to the attended vector is its weight times its length along that vector. How far the vector that serves
moves without a word or a place is measured, by encoding the product again without it: an honest check of the other two,
because attention need not be an explanation (Jain, Wallace, NAACL 2019). A place is covered with the colour of the
picture's border (occlusion: Zeiler, Fergus, ECCV 2014), as most product pictures have a plain one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product as every

import numpy as np
from numpy.typing import NDArray

from encoders.fusion import Score
from encoders.image import Pixels
from encoders.product import ProductContent, ProductEncoder
from encoders.product_tokens import Piece
from encoders.sequences import SequenceFusion, padded
from streams.settings import Settings

Floats = NDArray[np.float32]
WORD = re.compile(r"\S+")
PUNCTUATION = ".,;:!?()[]\"'"
AT_ONCE = 32  # products encoded together


class NothingToExplain(ValueError):
    """The product has neither words nor a picture, so it has no vector."""


@dataclass(frozen=True)
class Word:
    """A word of the product: what stands between two blanks."""

    text: str  # without punctuation around it
    is_detail: bool  # in ProductContent.details, else in its text
    begin: int  # characters
    end: int
    weight: float
    contribution: float
    move: float | None = None  # 1 - cosine of the fused vector without it and with it; None if not checked


@dataclass(frozen=True)
class Explanation:
    """The weights of all words and places add up to 1, and so do their contributions."""

    encoder: str  # fingerprint
    score: Score
    words: list[Word]  # in the order in which they are written, headline first
    picture: Pixels | None
    places: Floats  # (rows, columns) weights; (0, 0) without a picture
    place_contributions: Floats  # (rows, columns)
    place_moves: Floats | None  # (rows, columns) as Word.move; None if not checked
    cosine: float  # of the vector that attention makes, to the one that serves

    @property
    def weights(self) -> dict[str, float]:
        """Of each modality."""
        return {"image": float(self.places.sum()), "text": sum(word.weight for word in self.words)}

    @property
    def contributions(self) -> dict[str, float]:
        """Of each modality."""
        return {
            "image": float(self.place_contributions.sum()),
            "text": sum(word.contribution for word in self.words),
        }

    @property
    def agreement(self) -> dict[str, dict[str, float]]:
        """Rank correlation of weights and of contributions with moves, by modality; NaN if there is none."""
        moves = [word.move for word in self.words if word.move is not None]
        words = self.words[: len(moves)]
        place_moves = [] if self.place_moves is None else self.place_moves.ravel().tolist()
        return {
            "image": {
                "weight": rank_correlation(self.places.ravel().tolist()[: len(place_moves)], place_moves),
                "contribution": rank_correlation(
                    self.place_contributions.ravel().tolist()[: len(place_moves)], place_moves
                ),
            },
            "text": {
                "weight": rank_correlation([word.weight for word in words], moves),
                "contribution": rank_correlation([word.contribution for word in words], moves),
            },
        }


def load_encoder(settings: Settings) -> ProductEncoder:
    """The encoder that serves. Raises UnknownSource, UnknownDevice."""
    return ProductEncoder(settings.image_encoder, settings.text_encoder, settings.device, settings.encode_threads)


def explain(
    content: ProductContent, encoder: ProductEncoder, *, score: Score = "cosine", check: bool = False
) -> Explanation:
    """What the product's fused vector rests on.

    check  encode the product again without each word and each place: some seconds on a CPU

    Raises NothingToExplain; BadPicture, FloatingPointError as the encoder does.
    """
    tokens, served = encoder.tokens([content])[0], encoder.encode([content])[0].fused
    if served is None:
        raise NothingToExplain("the product has neither words nor a picture, so it has no vector")
    fusion = SequenceFusion(encoder.widths, score=score)
    image = padded([tokens.image], encoder.widths["image"], tokens.grid[0] * tokens.grid[1])
    text = padded([tokens.text], encoder.widths["text"], len(tokens.pieces))
    found = fusion.fuse(image, text)
    place_contributions, piece_contributions = fusion.contributions(image, text, found)
    words = _words(content, tokens.pieces, found.text[0], piece_contributions[0])
    places, place_contributions = (
        values[0, : tokens.grid[0] * tokens.grid[1]].reshape(tokens.grid)
        for values in (found.image, place_contributions)
    )
    place_moves = None
    if check:
        without = [without_word(content, word) for word in words]
        if content.picture is not None:
            without += [
                replace(content, picture=covered(content.picture, place, tokens.grid))
                for place in every(*map(range, tokens.grid))
            ]
        moves = _moves(encoder, served, without)
        words = [replace(word, move=move) for word, move in zip(words, moves, strict=False)]
        if content.picture is not None:
            place_moves = np.array(moves[len(words) :], np.float32).reshape(tokens.grid)
    cosine = float(found.vectors[0] @ served)
    return Explanation(
        encoder.fingerprint, score, words, content.picture, places, place_contributions, place_moves, cosine
    )


def without_word(content: ProductContent, word: Word) -> ProductContent:
    """The product with one word less."""
    text = content.details if word.is_detail else content.text
    left = text[: word.begin] + text[word.end :]
    return replace(content, details=left) if word.is_detail else replace(content, text=left)


def covered(picture: Pixels, place: tuple[int, int], grid: tuple[int, int]) -> Pixels:
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
    return float(np.corrcoef(*ranks)[0, 1])


def _words(content: ProductContent, pieces: Sequence[Piece], weights: Floats, contributions: Floats) -> list[Word]:
    """The words that the pieces belong to, each with what its pieces weigh and contribute together."""
    words = []
    for is_detail, text in ((False, content.text), (True, content.details)):
        own = [(number, piece) for number, piece in enumerate(pieces) if piece.is_detail == is_detail]
        for match in WORD.finditer(text):
            begin, end = match.span()
            inside = [number for number, piece in own if begin < piece.end and piece.begin < end]
            if inside:  # else it was cut, or is no word to the tokenizer
                shown = match[0].strip(PUNCTUATION) or match[0]
                weight, contribution = float(weights[inside].sum()), float(contributions[inside].sum())
                words.append(Word(shown, is_detail, begin, end, weight, contribution))
    return words


def _moves(encoder: ProductEncoder, served: Floats, contents: Sequence[ProductContent]) -> list[float]:
    """1 - cosine of each to the vector that serves; 1 where nothing is left to encode."""
    moves: list[float] = []
    for begin in range(0, len(contents), AT_ONCE):
        vectors = [product.fused for product in encoder.encode(contents[begin : begin + AT_ONCE])]
        moves += [1.0 if vector is None else max(0.0, 1.0 - float(vector @ served)) for vector in vectors]
    return moves
