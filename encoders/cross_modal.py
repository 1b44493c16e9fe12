"""The cross-modal encoder: word pieces and the places of a picture look at each other, then become one vector.

    h   = [P_w w_j + modality_w + position_j ; P_p p_r + modality_p + row_r + column_r]           (S + R, D)
    h  += Attention(norm(h)) ; h += MLP(norm(h))                                                  so many layers
    v   = sum_j a_j V h_j,  a = softmax_j(q . K norm(h_j) / sqrt(D / heads) + log p_j)            q is learned
    out = unit(v + MLP(norm(v)))                                                                  (D,)

p_j is a token's share, as encoders.sequences explains it: log p_j in every attention keeps a modality's say free of how
many tokens it has, and is minus infinity for padding and for a modality that is missing, whose weight is exactly 0.

Each branch begins with zeros at its end, q with zeros and V as the identity, so an untrained encoder is the plain mean
of both modalities along random directions, and training can only start from there. Sources: Vaswani and others, NeurIPS
2017; the norm before each branch as in Xiong and others, ICML 2020; zeros at the end of branches as in Zhang, Dauphin,
Ma, ICLR 2019. Both sequences in one encoder as in Chen and others, UNITER, ECCV 2020.

Shapes: B batch, R places, S word pieces, N = S + R, V and T their widths, D width, H heads. Imports torch.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, normalize, scaled_dot_product_attention, softmax

from encoders.sequences import Attended, TokenSet
from encoders.weights import FUSION_RECIPE

Vectors = NDArray[np.float32]
AT_ONCE = 64  # products of a forward pass
SHAPE = "shape"  # its name in a state


class OtherShape(ValueError):
    """The parameters are those of another encoder; str() names the first that differs."""


class CrossModalShape(NamedTuple):
    """All that tells one encoder's parameters from another's."""

    image_width: int  # V
    text_width: int  # T
    width: int = 256  # D
    layers: int = 2
    heads: int = 4
    rows: int = 7  # of the picture's grid
    columns: int = 7
    pieces: int = 256  # word pieces that have a place of their own; those behind share the last


class Merged(NamedTuple):
    """What forward returns."""

    vectors: Tensor  # (B, D) of unit length, zeros where there is no token
    image: Tensor  # (B, R) the query's weights, the mean over its heads
    text: Tensor  # (B, S)


class CrossModalEncoder(nn.Module):
    """Called by torch in training, by encode after it. One thread at a time may use it."""

    def __init__(self, shape: CrossModalShape, *, seed: int = 0, dropout: float = 0.0) -> None:
        """Untrained; the same seed gives the same parameters. Raises ValueError if heads do not divide the width."""
        super().__init__()
        if shape.width % shape.heads:
            raise ValueError(f"{shape.heads} heads do not divide the width {shape.width}: take 1, 2, 4 or 8 of them")
        self.shape = shape
        D = shape.width
        chance = torch.Generator().manual_seed(seed)
        self.image_map = nn.Parameter(FUSION_RECIPE.image_importance * _directions(shape.image_width, D, chance))
        self.text_map = nn.Parameter(FUSION_RECIPE.text_importance * _directions(shape.text_width, D, chance))
        self.modality_places = _places(2, D, chance)  # of the picture, of the words
        self.row_places, self.column_places = _places(shape.rows, D, chance), _places(shape.columns, D, chance)
        self.piece_places = _places(shape.pieces, D, chance)
        self.layers = nn.ModuleList(_Layer(shape, chance, dropout) for _ in range(shape.layers))
        self.query = nn.Parameter(torch.zeros(D))
        self.key_norm = nn.LayerNorm(D)
        self.key = _linear(D, D, chance)
        self.value = nn.Parameter(torch.eye(D))
        self.merge = _Hidden(D, chance, dropout)

    def forward(self, image: Tensor, image_shares: Tensor, text: Tensor, text_shares: Tensor) -> Merged:
        """image (B, R, V) and (B, R), text (B, S, T) and (B, S), as encoders.sequences.TokenSet.

        R is rows * columns, or 0 where no product has a picture; S is 0 where none has words.
        """
        B, S, D = len(text), text.shape[1], self.shape.width
        shares = torch.cat([text_shares, image_shares], dim=1)  # (B, N)
        some = (shares > 0).any(1)  # (B,)
        bias = torch.where(some[:, None], shares, torch.ones_like(shares)).log()  # (B, N), -inf where the share is 0
        states = torch.cat([self._pieces(text), self._regions(image)], dim=1)  # (B, N, D)
        states = torch.where(shares[..., None] > 0, states, torch.zeros_like(states))  # padding may hold anything
        for layer in self.layers:
            states = layer(states, bias[:, None, None, :])
        heads, per_head = self.shape.heads, D // self.shape.heads
        keys = self.key(self.key_norm(states)).view(B, -1, heads, per_head)  # (B, N, H, D / H)
        scores = torch.einsum("hd,bnhd->bhn", self.query.view(heads, per_head), keys) / per_head**0.5
        weights = softmax(scores + bias[:, None, :], dim=2)  # (B, H, N)
        values = (states @ self.value).view(B, -1, heads, per_head)
        merged = torch.einsum("bhn,bnhd->bhd", weights, values).reshape(B, D)
        vectors = normalize(merged + self.merge(merged), dim=1) * some[:, None]
        seen = weights.mean(1) * some[:, None]  # (B, N)
        return Merged(vectors, seen[:, S:], seen[:, :S])

    def encode(self, image: TokenSet, text: TokenSet) -> Attended:
        """The vectors and the query's weights, the same whatever else is in the batch.

        image  (B, R, V) and (B, R); text (B, S, T) and (B, S), float16 or float32

        Raises OtherShape if the tokens are not of this encoder's widths, FloatingPointError if a result is not finite.
        """
        self._check(image, text)
        self.eval()
        device = self.query.device
        passes = []
        with torch.inference_mode():
            for i in range(0, len(text.shares), AT_ONCE):
                parts = [torch.from_numpy(array[i : i + AT_ONCE]).float().to(device) for array in (*image, *text)]
                passes.append([part.cpu().numpy() for part in self(*parts)])
        if not passes:
            return Attended(np.zeros((0, self.shape.width), np.float32), image.shares, text.shares, text.shares[:, :0])
        vectors, places, pieces = (np.concatenate(parts) for parts in zip(*passes, strict=True))
        found = Attended(vectors, places, pieces, pieces[:, :0])
        if not np.isfinite(found.vectors).all():
            raise FloatingPointError("a fused vector is not finite: are the parameters whole and the tokens sound?")
        return found

    def state(self) -> dict[str, Vectors]:
        """The shape and the parameters by dotted name, all that a version keeps."""
        parameters = {name: value.detach().cpu().numpy().copy() for name, value in self.state_dict().items()}
        return {SHAPE: np.array(self.shape, np.float32), **parameters}

    @classmethod
    def from_state(cls, state: Mapping[str, Vectors]) -> Self:
        """The inverse of state. Raises OtherShape if there is no shape, or the parameters are of another one."""
        told = state.get(SHAPE, np.zeros(0))
        if told.shape != (len(CrossModalShape._fields),) or (told != told.round()).any() or (told < 1).any():
            raise OtherShape(f"the shape is {told.tolist()}, not {', '.join(CrossModalShape._fields)}: teach it again")
        encoder = cls(CrossModalShape(*(int(side) for side in told)))
        own = encoder.state_dict()
        for name in sorted({*own, *state} - {SHAPE}):
            if name not in own or name not in state:
                there, absent = ("shape", "parameters") if name in own else ("parameters", "shape")
                raise OtherShape(f"{name!r} is in the {there}, not in the {absent}: are both of the same version?")
            if (wanted := tuple(own[name].shape)) != state[name].shape:
                raise OtherShape(f"{name!r} is {state[name].shape}, the shape asks for {wanted}: of another version?")
        encoder.load_state_dict({name: torch.from_numpy(np.array(state[name])) for name in own})
        return encoder

    def of_whole_regions(self, axes: Vectors) -> "CrossModalEncoder":
        """The same encoder for regions that were not made shorter: it makes them so itself.

        axes  (V, W), by which the regions that it learned from were made shorter, W the width it was taught with
        """
        state = self.state()
        state[SHAPE] = np.array(self.shape._replace(image_width=len(axes)), np.float32)
        state["image_map"] = axes @ state["image_map"]
        return CrossModalEncoder.from_state(state)

    def _pieces(self, text: Tensor) -> Tensor:
        """(B, S, T) to (B, S, D)."""
        places = torch.arange(text.shape[1], device=text.device).clamp(max=self.shape.pieces - 1)
        return text @ self.text_map + self.modality_places[1] + self.piece_places[places]

    def _regions(self, image: Tensor) -> Tensor:
        """(B, R, V) to (B, R, D)."""
        grid = self.row_places[:, None, :] + self.column_places[None, :, :]  # (rows, columns, D)
        return image @ self.image_map + self.modality_places[0] + grid.flatten(0, 1)[: image.shape[1]]

    def _check(self, image: TokenSet, text: TokenSet) -> None:
        wanted = (self.shape.rows * self.shape.columns, self.shape.image_width, self.shape.text_width)
        if (given := (*image.states.shape[1:], text.states.shape[2])) != wanted:
            raise OtherShape(f"places, their width and that of words are {given}, not {wanted}: of another encoder?")


class _Layer(nn.Module):
    """Every token looks at all, then thinks for itself."""

    def __init__(self, shape: CrossModalShape, chance: torch.Generator, dropout: float) -> None:
        super().__init__()
        D = shape.width
        self._heads, self._dropout = shape.heads, dropout
        self.norm = nn.LayerNorm(D)
        self.joined = _linear(D, 3 * D, chance)  # query, key and value in one product
        self.out = _linear(D, D, None)
        self.hidden = _Hidden(D, chance, dropout)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D); bias (B, 1, 1, N)."""
        B, N, D = states.shape
        joined = self.joined(self.norm(states)).view(B, N, 3, self._heads, D // self._heads)
        query, key, value = joined.permute(2, 0, 3, 1, 4)  # each (B, H, N, D / H)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        attended = self.out(attended.transpose(1, 2).reshape(B, N, D))
        states = states + dropout(attended, self._dropout, self.training)
        hidden: Tensor = self.hidden(states)
        return states + hidden


class _Hidden(nn.Module):
    """norm, D to 4 D, gelu, back to D: zeros before it is trained."""

    def __init__(self, width: int, chance: torch.Generator, dropout: float) -> None:
        super().__init__()
        self._dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.up = _linear(width, 4 * width, chance)
        self.down = _linear(4 * width, width, None)

    def forward(self, states: Tensor) -> Tensor:
        raised: Tensor = self.down(gelu(self.up(self.norm(states))))
        return dropout(raised, self._dropout, self.training)


def _linear(inward: int, outward: int, chance: torch.Generator | None) -> nn.Linear:
    """With small random weights, or zeros where there is no chance; biases are zeros."""
    layer = nn.Linear(inward, outward)
    with torch.no_grad():
        layer.weight.zero_() if chance is None else layer.weight.normal_(0.0, inward**-0.5, generator=chance)
        layer.bias.zero_()
    return layer


def _places(count: int, width: int, chance: torch.Generator) -> nn.Parameter:
    """Embeddings (count, width), short beside a token."""
    return nn.Parameter(torch.randn(count, width, generator=chance) * (0.1 / width**0.5))


def _directions(inward: int, outward: int, chance: torch.Generator) -> Tensor:
    """(inward, outward), random and orthonormal; where it is to fewer dimensions, lengths stay on average."""
    drawn = torch.randn(max(inward, outward), min(inward, outward), generator=chance)
    directions: Tensor = torch.linalg.qr(drawn)[0]
    return directions.T.contiguous() if inward <= outward else directions * (inward / outward) ** 0.5
