"""Words to vectors: a network, pooled, of unit length; and the words of a product."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.fusion import unit_rows
from encoders.networks import text_network
from encoders.recipes import FIRST, LAST, LAST_PLACE, MEAN, TextRecipe, UnknownSource, Weights

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from torch import Tensor

Vectors = NDArray[np.float32]

AT_ONCE = 32  # texts per forward pass, of nearly the same length
NO_WORD = ("Cc", "Cf", "Zl", "Zp", "Zs")  # Unicode's categories of what cannot be seen


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

    states: Vectors  # (S, T)
    spans: NDArray[np.int64]  # (S, 2) where a piece begins and ends in the text, in characters; equal for a mark


class TextEncoder:
    """A text network, its tokenizer and its recipe. One thread at a time may use it."""

    def __init__(self, weights: Weights, *, device: str = "cpu", recipe: TextRecipe | None = None) -> None:
        """recipe  in place of the weights' own. Raises UnknownSource if the files do not hold what they should."""
        import torch

        chosen = recipe or weights.recipe
        if not isinstance(chosen, TextRecipe):
            raise ValueError(f"{weights.source!r} was found as weights of {weights.modality}: find them as text's")
        self.width = weights.width
        self._recipe = chosen
        self._device = torch.device(device)
        self._tokenizer, self._padding = read_tokenizer(weights)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(chosen.word_pieces)
        self._marks = self._tokenizer.num_special_tokens_to_add(False)  # at the ends of each text
        self._network = text_network(weights, device)

    def encode(self, texts: Sequence[str]) -> list[Vectors | None]:
        """One unit vector (T,) float32 a text, the same whatever else is in the batch; None where there is no word.

        Texts go through the network ordered by length, so little is padded.
        Raises FloatingPointError if a result is not finite.
        """
        pieces = [[] if read is None else read.ids for read in self._read(texts)]
        vectors: list[Vectors | None] = [None] * len(texts)
        for together in self._of_like_length(pieces):
            for i, vector in zip(together, unit_rows(self._pooled([pieces[i] for i in together])), strict=True):
                vectors[i] = vector
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[Tokens | None]:
        """What the network says of each word piece, the same whatever else is in the batch; None where encode has None.

        128 pieces of 384 values are 200 kB a text.
        """
        read = self._read(texts)
        pieces = [[] if found is None else found.ids for found in read]
        tokens: list[Tokens | None] = [None] * len(texts)
        for together in self._of_like_length(pieces):
            states = self._states([pieces[i] for i in together])[0].cpu().numpy()  # (B, S, T)
            for i, rows in zip(together, states, strict=True):
                found = read[i]
                assert found is not None, "it has pieces"
                tokens[i] = Tokens(rows[: len(found.ids)].copy(), np.array(found.offsets, np.int64))
        return tokens

    def encode_with_tokens(self, texts: Sequence[str]) -> tuple[list[Vectors | None], list[Tokens | None]]:
        """What encode and tokens return, of one pass, or of two where padding is seen too."""
        import torch

        found = self.tokens(texts)
        if self._recipe.pooling == LAST_PLACE:
            return self.encode(texts), found
        vectors: list[Vectors | None] = [None] * len(texts)
        for i, tokens in enumerate(found):
            if tokens is not None:
                states = torch.from_numpy(tokens.states)[None]  # (1, S, T)
                pooled = pool(states, torch.ones(states.shape[:2], dtype=torch.bool), self._recipe.pooling)
                vectors[i] = unit_rows(pooled.numpy())[0]
        return vectors, found

    def _read(self, texts: Sequence[str]) -> "list[Encoding | None]":
        """The word pieces of each text; None where all is blank."""
        cut = [text[: self._recipe.characters] for text in texts]
        return [self._tokenizer.encode(text) if _says_anything(text) else None for text in cut]

    def _of_like_length(self, pieces: Sequence[Sequence[int]]) -> list[list[int]]:
        """The places of the texts that have words, a few at a time."""
        wordy = (i for i in range(len(pieces)) if len(pieces[i]) > self._marks)
        order = sorted(wordy, key=lambda i: len(pieces[i]))
        return [order[start : start + AT_ONCE] for start in range(0, len(order), AT_ONCE)]

    def _pooled(self, pieces: Sequence[Sequence[int]]) -> Vectors:
        """B lists of word pieces to (B, T), padding left out."""
        states, mask = self._states(pieces)
        pooled: Vectors = pool(states, mask, self._recipe.pooling).cpu().numpy()
        return pooled

    def _states(self, pieces: Sequence[Sequence[int]]) -> "tuple[Tensor, Tensor]":
        """B lists of word pieces to (B, S, T) float32 and the mask (B, S), padded at the end."""
        import torch

        longest = self._recipe.word_pieces if self._recipe.pooling == LAST_PLACE else max(map(len, pieces))
        rows = [[*row, *[self._padding] * (longest - len(row))] for row in pieces]
        ids = torch.tensor(rows, device=self._device)  # (B, S)
        lengths = torch.tensor([len(row) for row in pieces], device=self._device)[:, None]  # (B, 1)
        mask = torch.arange(longest, device=self._device)[None, :] < lengths  # (B, S)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, self._device.type == "cuda"):
            return self._network.states(ids, mask).float(), mask


def pool(states: "Tensor", mask: "Tensor", pooling: str) -> "Tensor":
    """One vector of the states of each text, (B, T).

    states   (B, S, T) float32
    mask     (B, S) bool, False on padding, at whichever end it is; at least one True in each row
    pooling  MEAN, FIRST, LAST or LAST_PLACE of encoders.recipes

    Raises ValueError for another pooling.
    """
    import torch

    if pooling == MEAN:
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    if pooling == LAST_PLACE:
        return states[:, -1]
    places = torch.arange(1, states.shape[1] + 1, device=states.device)  # (S,), none is 0, as what is masked is
    if pooling == FIRST:
        chosen = places.flip(0).mul(mask).argmax(1)
    elif pooling == LAST:
        chosen = places.mul(mask).argmax(1)
    else:
        raise ValueError(f"no pooling {pooling!r}: take {MEAN!r}, {FIRST!r}, {LAST!r} or {LAST_PLACE!r}")
    return states[torch.arange(len(states), device=states.device), chosen]


def read_tokenizer(weights: Weights) -> "tuple[Tokenizer, int]":
    """The tokenizer beside the weights, and the word piece that it pads with. Raises UnknownSource if it is unsound."""
    from tokenizers import Tokenizer

    file, config = weights.file("tokenizer.json"), weights.file("tokenizer_config.json")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # its reader, in Rust, raises nothing narrower
        raise UnknownSource(f"{weights.source!r}: {file} is no tokenizer ({error}): get it again") from error
    if tokenizer.padding:
        return tokenizer, int(tokenizer.padding["pad_id"])
    told = json.loads(config.read_bytes()).get("pad_token") if config else None
    piece = told.get("content") if isinstance(told, dict) else told
    return tokenizer, (tokenizer.token_to_id(piece) if piece else None) or 0


def _says_anything(text: str) -> bool:
    """False where all is space, control or format characters, of which some tokenizers make pieces all the same."""
    return any(unicodedata.category(character) not in NO_WORD for character in text)


def _sentences(parts: Sequence[str]) -> str:
    return ". ".join(text for part in parts if (text := " ".join(part.split())))
