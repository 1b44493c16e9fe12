"""Words to vectors: a BERT-like network, mean-pooled, of unit length; and the words of a product."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.bert import Bert
from encoders.fusion import unit_rows
from encoders.weights import TEXT_RECIPE, TextRecipe, Weights

if TYPE_CHECKING:
    from torch import Tensor

Vectors = NDArray[np.float32]

AT_ONCE = 32  # texts per forward pass, of nearly the same length


class ProductText(NamedTuple):
    """What a product is, and what else is said of it; the second weighs less."""

    headline: str
    details: str


def product_text(
    *,
    title: str,
    brand: str | None = None,
    category: Sequence[str] = (),
    attributes: Mapping[str, str] | None = None,
    description: str = "",
) -> ProductText:
    """The product's words, as the recipe's templates say.

    headline  "title. last category"
    details   "earlier > categories. brand: b. name: value. description", attributes sorted by name, so that their
              order on the wire changes nothing; the description last, because what is too long is cut at the end
    """
    headline = [title, *category[-1:]]
    details = [" > ".join(category[:-1]), f"brand: {brand}" if brand else ""]
    details += [f"{name}: {value}" for name, value in sorted((attributes or {}).items())]
    return ProductText(_sentences(headline), _sentences([*details, description]))


class Tokens(NamedTuple):
    """The word pieces of a text, its marks of beginning and end among them; what is too long is cut."""

    states: Vectors  # (S, T); their mean over S is the pooled feature, not yet of unit length
    spans: NDArray[np.int64]  # (S, 2) where a piece begins and ends in the text, in characters; equal for a mark


class TextEncoder:
    """MiniLM and its like: BERT in safetensors beside its tokenizer. One thread at a time may use it."""

    def __init__(self, weights: Weights, *, device: str = "cpu", recipe: TextRecipe = TEXT_RECIPE) -> None:
        import torch
        from tokenizers import Tokenizer

        parameters, config, tokenizer = weights.files
        self.width = weights.width
        self._recipe = recipe
        self._device = torch.device(device)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(recipe.word_pieces)
        self._network = Bert(parameters, config, device=device)

    def encode(self, texts: Sequence[str]) -> list[Vectors | None]:
        """One unit vector (T,) float32 a text, the same whatever else is in the batch; None where there is no word.

        Texts go through the network ordered by length, so little is padded.
        Raises FloatingPointError if a result is not finite.
        """
        pieces = [self._tokenizer.encode(text[: self._recipe.characters]).ids for text in texts]
        vectors: list[Vectors | None] = [None] * len(texts)
        for together in _of_like_length(pieces):
            states, mask = self._states([pieces[i] for i in together])
            pooled = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()  # (B, T)
            for i, vector in zip(together, unit_rows(pooled), strict=True):
                vectors[i] = vector
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[Tokens | None]:
        """What the network says of each word piece, the same whatever else is in the batch; None where there is none.

        128 pieces of 384 values are 200 kB a text.
        """
        read = [self._tokenizer.encode(text[: self._recipe.characters]) for text in texts]
        pieces = [found.ids for found in read]
        tokens: list[Tokens | None] = [None] * len(texts)
        for together in _of_like_length(pieces):
            states = self._states([pieces[i] for i in together])[0].cpu().numpy()  # (B, S, T)
            for i, rows in zip(together, states, strict=True):
                spans = np.array(read[i].offsets, np.int64)
                tokens[i] = Tokens(rows[: len(spans)].copy(), spans)
        return tokens

    def _states(self, pieces: Sequence[Sequence[int]]) -> "tuple[Tensor, Tensor]":
        """B lists of word pieces to (B, S, T) float32 and the mask (B, S), False on padding."""
        import torch

        longest = max(map(len, pieces))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in pieces], device=self._device)  # (B, S)
        lengths = torch.tensor([len(row) for row in pieces], device=self._device)[:, None]  # (B, 1)
        mask = torch.arange(longest, device=self._device)[None, :] < lengths  # (B, S)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, self._device.type == "cuda"):
            return self._network.states(ids, mask).float(), mask


def _of_like_length(pieces: Sequence[Sequence[int]]) -> list[list[int]]:
    """The places of the texts that have words, a few at a time."""
    order = sorted((i for i in range(len(pieces)) if len(pieces[i]) > 2), key=lambda i: len(pieces[i]))
    return [order[start : start + AT_ONCE] for start in range(0, len(order), AT_ONCE)]


def _sentences(parts: Sequence[str]) -> str:
    return ". ".join(text for part in parts if (text := " ".join(part.split())))
