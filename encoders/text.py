"""Words to vectors: a network, pooled, of unit length; and the words of a product."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.bert import Bert
from encoders.fusion import unit_rows
from encoders.networks import text_network
from encoders.recipes import FIRST, LAST, LAST_PLACE, MEAN, TextRecipe, UnknownSource, Weights
from encoders.transfers import Coming, room, send

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from torch import Tensor

Vectors = NDArray[np.float32]

AT_ONCE_CPU = 32  # texts per forward pass, of nearly the same length
AT_ONCE_GPU = 128
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


class Together(NamedTuple):
    """Texts of one forward pass."""

    places: list[int]  # (b,) of the texts among all B
    ids: "Tensor"  # (b, S) int64, padded at the end
    mask: "Tensor"  # (b, S) bool, False on padding


class Pieces(NamedTuple):
    """What is read of B texts before the device is needed."""

    read: "list[Encoding | None]"  # (B,) None where all is blank
    passes: list[Together]  # the texts that have words, each once


class Launched(NamedTuple):
    """Texts that the device may still be reading."""

    texts: int  # B
    passes: list[tuple[list[int], Coming]]  # places among B, and (b, T)


class TextEncoder:
    """A text network, its tokenizer and its recipe. One thread at a time may use it, but as prepare and collect say."""

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

    def multiply_in_bfloat16(self) -> bool:
        """As Bert has it; False for other networks, which stay as they are."""
        return isinstance(self._network, Bert) and self._network.multiply_in_bfloat16()

    def encode(self, texts: Sequence[str]) -> list[Vectors | None]:
        """One unit vector (T,) float32 a text, the same whatever else is in the batch; None where there is no word.

        Texts go through the network ordered by length, so little is padded.
        Raises FloatingPointError if a result is not finite.
        """
        return self.collect(self.launch(self.prepare(texts)))

    def prepare(self, texts: Sequence[str]) -> Pieces:
        """All that is done before the device is needed. Any thread may, at any time."""
        read = self._read(texts)
        lengths = [0 if found is None else len(found.ids) for found in read]
        wordy = sorted((i for i, length in enumerate(lengths) if length > self._marks), key=lengths.__getitem__)
        at_once = AT_ONCE_GPU if self._device.type == "cuda" else AT_ONCE_CPU
        passes = [wordy[begin : begin + at_once] for begin in range(0, len(wordy), at_once)]
        return Pieces(read, [self._padded(places, read) for places in passes])

    def launch(self, pieces: Pieces) -> Launched:
        """Of what was prepared: computed on a CPU, begun on a GPU."""
        pooling = self._recipe.pooling
        passes = [(each.places, Coming(pool(*self._states(each), pooling))) for each in pieces.passes]
        return Launched(len(pieces.read), passes)

    def collect(self, launched: Launched) -> list[Vectors | None]:
        """As encode; any thread may, at any time. Raises FloatingPointError."""
        vectors: list[Vectors | None] = [None] * launched.texts
        for places, pooled in launched.passes:
            for i, vector in zip(places, unit_rows(pooled.numpy()), strict=True):
                vectors[i] = vector
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[Tokens | None]:
        """What the network says of each word piece, the same whatever else is in the batch; None where encode has None.

        128 pieces of 384 values are 200 kB a text.
        """
        pieces = self.prepare(texts)
        tokens: list[Tokens | None] = [None] * len(texts)
        for each in pieces.passes:
            states = self._states(each)[0].cpu().numpy()  # (b, S, T)
            for i, rows in zip(each.places, states, strict=True):
                found = pieces.read[i]
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
        wordy = [i for i, text in enumerate(cut) if _says_anything(text)]
        read: list[Encoding | None] = [None] * len(texts)
        if self._device.type == "cuda":  # side by side, while other threads may go on: a GPU would have to wait
            together = self._tokenizer.encode_batch([cut[i] for i in wordy])
        else:
            together = [self._tokenizer.encode(cut[i]) for i in wordy]
        for i, found in zip(wordy, together, strict=True):
            read[i] = found
        return read

    def _padded(self, places: list[int], read: "Sequence[Encoding | None]") -> Together:
        """The word pieces of the texts at these places, as long as the longest."""
        import torch

        pieces = [found.ids for found in map(read.__getitem__, places) if found is not None]
        longest = self._recipe.word_pieces if self._recipe.pooling == LAST_PLACE else max(map(len, pieces))
        shape = (len(places), longest)
        ids, mask = room(shape, torch.int64, self._device), room(shape, torch.bool, self._device)
        ids.copy_(torch.tensor([[*own, *[self._padding] * (longest - len(own))] for own in pieces]))
        torch.lt(torch.arange(longest)[None, :], torch.tensor([len(own) for own in pieces])[:, None], out=mask)
        return Together(places, ids, mask)

    def _states(self, texts: Together) -> "tuple[Tensor, Tensor]":
        """(b, S, T) float32 and the mask (b, S), on the device."""
        import torch

        ids, mask = send(texts.ids, self._device), send(texts.mask, self._device)
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
