"""A fusion that has learned from a catalogue: what each modality tells, and a space that pictures and words share.

    image       what the picture tells of the product             text     what the words tell of it
    attributes  the facts' codes                                  common   unit(a + b), a and b of the two heads

Each is a token: a unit vector in a block of D of its own. The score is the learned one, x' A y / sqrt(D), A constant on
each block, so that the weights are softmax_m(logits_m) over the tokens that there are, and exactly 0 for the others:

    x = unit(sum_m softmax_m(logits) y_m),   fused = unit(W x)

W is what clicks and categories have taught, or the identity; a reduction may make the fused vectors shorter. Because of
the common token a product without words is found by words, and one without a picture by a picture.

The fusion is fitted twice. At first image and text are the features, softly whitened; what it makes of whole products
then teaches the maps of encoders.modality_maps, and what these tell by each modality are the tokens that stay.
Source of the soft whitening: all but the top directions (Mu, Viswanath, ICLR 2018) as a power of the spectrum.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from encoders.alignment import Alignment
from encoders.fusion import attention_weights
from encoders.modality_maps import ModalityMaps, fit_modality_maps
from encoders.reduction import Reduction, fit_pca
from encoders.retrieval import unit_or_zero
from encoders.token_fusion import under
from encoders.weights import ATTRIBUTES_RECIPE

Vectors = NDArray[np.float32]
ATTRIBUTES = ATTRIBUTES_RECIPE.width  # A
PREFIX = "fusion."
RECIPE = "taught fusion 1"  # the forward pass; changes the fingerprint when it changes
TOKENS = ("image", "text", "attributes", "common")
REDUCED = ("image", "text", "common")
WIDTHS = {"image": 256, "text": 256, "common": 192}  # at most
POWERS = {"image": 0.3, "text": 0.5, "common": 0.0}  # of the whitening: 0 none, 1 all
SAYS = {"image": 0.5, "text": 1.0, "attributes": 0.7, "common": 0.5}  # of a token's cosine in that of the fused


class Words(NamedTuple):
    """What is said of B products, of unit length, zeros where nothing is."""

    title: Vectors  # (B, T)
    headline: Vectors  # (B, T)
    details: Vectors  # (B, T)

    @property
    def joined(self) -> Vectors:
        """(B, 3 T), what the head of the words reads."""
        return np.concatenate(self, axis=1)


class TaughtFusion(NamedTuple):
    """A fitted fusion."""

    image: Reduction  # of (V,)
    text: Reduction  # of the joined words (3 T,); of the headline alone (T,) at first, and in versions of old
    common: Reduction
    heads: Alignment
    logits: Vectors  # (4,) by TOKENS
    details: Vectors  # (T,) what is said besides, on average: a query has none
    mix: Vectors | None = None  # W (D, D)
    alone: ModalityMaps | None = None  # to the vectors of pictures and of words by themselves; None: the features are
    short: Reduction | None = None  # of the fused vectors (D,); None: they stay as they are

    @property
    def width(self) -> int:
        """Of the fused vectors: D, or what the reduction leaves of it."""
        return self._whole if self.short is None else self.short.axes.shape[1]

    @property
    def plain(self) -> Self:
        """The same without W and without a reduction: what teaching begins with."""
        return self._replace(mix=None, short=None)

    def fuse(self, image: Vectors, words: Words, attributes: Vectors) -> Vectors:
        """The fused vectors (B, width) of unit length, zeros where nothing is known.

        image       (B, V), zeros where there is no picture
        attributes  (B, A)
        """
        tokens = self.tokens(image, words, attributes)  # (B, 4, D)
        x = unit_or_zero(np.einsum("bm,bmd->bd", self.weights(tokens), tokens))
        fused = x if self.mix is None else unit_or_zero(x @ self.mix.T)
        return fused if self.short is None else self.short(fused)

    def weights(self, tokens: Vectors) -> Vectors:
        """(B, 4) by TOKENS: how much of the fused vector each is; exactly 0 for what is missing."""
        per_block = np.repeat(self.logits, self._blocks) * np.float32(np.sqrt(self._whole))  # the diagonal of A
        present = np.any(tokens, axis=2)
        return attention_weights(tokens.sum(1), tokens, present, "learned", per_block)

    def tokens(self, image: Vectors, words: Words, attributes: Vectors) -> Vectors:
        """(B, 4, D) each in its block, of unit length or zero."""
        common = unit_or_zero(self.heads.pictures(image) + self.heads.words(words.joined))
        said = words.joined if self._reads_all else words.headline
        parts = (self.image(image), self.text(said), attributes, self.common(common))
        tokens = np.zeros((len(image), len(TOKENS), self._whole), np.float32)
        begin = 0
        for place, part in enumerate(parts):
            tokens[:, place, begin : begin + part.shape[1]] = part
            begin += part.shape[1]
        return tokens

    def with_tokens(self, maps: ModalityMaps) -> Self:
        """The fusion whose image and text are what these maps tell, and W not taught yet."""
        return self.plain._replace(image=maps.image, text=maps.text, alone=maps)

    def asked(self, text: Vectors) -> Words:
        """Words (B, T) that are no product's: what is said besides is what it is on average; nothing of zeros."""
        there = text.any(axis=1, keepdims=True)
        return Words(text, text, np.where(there, self.details, np.float32(0.0)))

    @property
    def _reads_all(self) -> bool:
        """True if the text's token is made of all words, else of the headline."""
        return len(self.text.mean) != len(self.details)

    @property
    def _whole(self) -> int:
        """D"""
        return sum(self._blocks)

    @property
    def _blocks(self) -> list[int]:
        """Values of D by TOKENS."""
        return [self.image.axes.shape[1], self.text.axes.shape[1], ATTRIBUTES, self.common.axes.shape[1]]

    # --- as it is saved ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Vectors]:
        """Arrays by name."""
        state = {"logits": self.logits, "details": self.details}
        for name in REDUCED:
            reduction: Reduction = getattr(self, name)
            state |= {f"{name}.{part}": array for part, array in reduction._asdict().items()}
        state |= _prefixed("heads.", self.heads.state())
        state |= {} if self.mix is None else {"mix": self.mix}
        state |= {} if self.short is None else _prefixed("short.", self.short._asdict())
        return state | ({} if self.alone is None else _prefixed("alone.", self.alone.state()))

    @classmethod
    def from_state(cls, state: Mapping[str, Vectors]) -> Self:
        """The inverse of state. Raises KeyError for what is missing, ValueError for shapes that do not fit."""
        image, text, common = (_reduction(state, name) for name in REDUCED)
        heads, own = (under(state, prefix) for prefix in ("heads.", "alone."))
        others = (Alignment.from_state(heads), state["logits"], state["details"], state.get("mix"))
        alone = ModalityMaps.from_state(own) if own else None
        short = _reduction(state, "short") if "short.mean" in state else None
        made = cls(image, text, common, *others, alone, short)
        made.check()
        return made

    def check(self) -> None:
        """Raises ValueError if shapes do not fit each other."""
        V, T, common = len(self.image.mean), len(self.details), len(self.common.mean)
        wanted = {
            "heads.pictures.weight": (self.heads.pictures.weight.shape, (common, V)),
            "heads.words.weight": (self.heads.words.weight.shape, (common, 3 * T)),
            "logits": (self.logits.shape, (len(TOKENS),)),
            "details": (self.details.shape, (T,)),
            "text.mean": (self.text.mean.shape, (3 * T if self._reads_all else T,)),
            "mix": ((self._whole,) * 2 if self.mix is None else self.mix.shape, (self._whole,) * 2),
        }
        reductions = {name: getattr(self, name) for name in REDUCED}
        if self.alone is not None:
            reductions |= {"alone.image": self.alone.image, "alone.text": self.alone.text}
            wanted["alone.image.mean"] = (self.alone.image.mean.shape, (V,))
            wanted["alone.text.mean"] = (self.alone.text.mean.shape, (3 * T,))
        if self.short is not None:
            reductions["short"] = self.short
            wanted["short.mean"] = (self.short.mean.shape, (self._whole,))
        for name, reduction in reductions.items():
            wanted[f"{name}.axes"] = (reduction.axes.shape[:1], reduction.mean.shape)
        for name, (shape, fitting) in wanted.items():
            if shape != fitting:
                raise ValueError(f"{name} is {shape} instead of {fitting}")


def fit_fusion(
    views: Vectors,
    words: Words,
    attributes: Vectors,
    heads: Alignment,
    *,
    says: Mapping[str, float] = SAYS,
    seed: int = 0,
) -> TaughtFusion:
    """The fusion of these products' features, without labels and without W.

    views       (A, n, V) float32 of the pictures, the first as products are encoded, zeros where there is no picture:
                those teach nothing of pictures
    attributes  (n, A)
    heads       of the same features
    says        > 0 by TOKENS: how much of the fused cosine is each token's

    Raises CannotReduce below three products with a picture and words.
    """
    image = views[0]
    common = unit_or_zero(heads.pictures(image) + heads.words(words.joined))

    def reduced(name: str, features: Vectors) -> Reduction:
        known = features[features.any(axis=1)]
        width = max(1, min(WIDTHS[name], len(known) - 1, features.shape[1]))
        return fit_pca(known, width, whitening=POWERS[name], seed=seed)

    logits = np.log([np.sqrt(says[name]) for name in TOKENS]).astype(np.float32)
    spoken = words.details[words.details.any(axis=1)]
    details = (spoken.mean(axis=0) if len(spoken) else np.zeros(words.details.shape[1])).astype(np.float32)
    image_map, text_map, common_map = (
        reduced("image", image),
        reduced("text", words.headline),
        reduced("common", common),
    )
    first = TaughtFusion(image_map, text_map, common_map, heads, logits, details)
    maps = fit_modality_maps(views, words.joined, first.fuse(image, words, attributes))
    return first.with_tokens(maps)


def _reduction(state: Mapping[str, Vectors], name: str) -> Reduction:
    return Reduction(state[f"{name}.mean"], state[f"{name}.axes"])


def _prefixed(prefix: str, arrays: Mapping[str, Vectors]) -> dict[str, Vectors]:
    return {prefix + name: array for name, array in arrays.items()}
