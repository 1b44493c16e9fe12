"""Weights as they were found, and the recipes by which they are used: with the files' bytes, all that shapes a vector.

Never imports torch. `encoders.weights` finds weights; nothing here reads a file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Modality = Literal["image", "text"]
Values = float | tuple[float, float, float]
"""One for all three channels, or one each."""

# How the states of word pieces become one vector.
MEAN = "mean over word pieces"
FIRST = "first word piece"
LAST = "last word piece"
LAST_PLACE = "last place of as many as there may be, the others padded"  # SigLIP's, which sees the padding too
POOLED_BY_NETWORK = "as the network does it"  # a picture's


class UnknownSource(ValueError):
    """The source string names no weights that can be had here; str() says which can, or what to do."""


@dataclass(frozen=True)
class ImageRecipe:
    """How a picture becomes (V,)."""

    side_px: int = 224  # the picture is squashed to a square: nothing of the product is cut off
    resampling: str = "bicubic"
    subtract: Values = 127.0
    divide: Values = 128.0
    pooling: str = "mean over places"
    centre: str = "expected relu6 of the last batch norm"


@dataclass(frozen=True)
class TextRecipe:
    """How a product's words become (T,)."""

    headline: str = "title. last category"
    details: str = "earlier categories > joined. brand: b. name: value, sorted by name. description"
    details_weight: float = 0.1  # against 1 of the headline: as one string, attributes drown what the product is
    characters: int = 4_000  # of each part; bounds the tokeniser's work
    word_pieces: int = 128  # of each part; what is longer is cut
    pooling: str = MEAN


@dataclass(frozen=True)
class AttributesRecipe:
    """How a product's facts become (A,)."""

    width: int = 128  # A
    category_weight: float = 1.0  # of each beginning of the path
    brand_weight: float = 0.5
    attribute_weight: float = 0.2  # colour, season and the like: more of them drowns what the product is
    price_weight: float = 0.15  # of each of two neighbouring bands
    price_factor: float = 1.5  # from one band to the next
    code: str = "signs of shake 128"


@dataclass(frozen=True)
class FusionRecipe:
    """How (V,), (T,) and (A,) become one (D,)."""

    image_width: int = 256  # of D; what is wider is projected
    text_width: int = 384
    image_importance: float = 0.85
    text_importance: float = 1.0
    attributes_importance: float = 0.7
    seed: int = 20
    score: str = "cosine with the sum of the present tokens"


IMAGE_RECIPE = ImageRecipe()
TEXT_RECIPE = TextRecipe()
ATTRIBUTES_RECIPE = AttributesRecipe()
FUSION_RECIPE = FusionRecipe()
FUSED_WIDTH = FUSION_RECIPE.image_width + FUSION_RECIPE.text_width + ATTRIBUTES_RECIPE.width  # D


@dataclass(frozen=True)
class Weights:
    """Weights that lie on this machine, and how they are used."""

    source: str
    modality: Modality
    architecture: str  # "efficientnet-lite0", "torchvision:resnet50", or a model_type of transformers: "bert", "clip"
    width: int  # V or T, of the pooled feature
    files: tuple[Path, ...]  # the parameters first; everything whose bytes shape a vector
    recipe: ImageRecipe | TextRecipe
    space: str | None = None  # the same for a picture's and a text's weights: their vectors may be compared

    def file(self, name: str) -> Path | None:
        """The first of its files of this name."""
        return next((file for file in self.files if file.name == name), None)

    @property
    def parameters(self) -> tuple[Path, ...]:
        """Of the files, those that hold arrays."""
        return tuple(file for file in self.files if file.suffix in (".safetensors", ".pth", ".bin"))


def share_space(one: Weights, other: Weights) -> bool:
    """True if a cosine between vectors of the two means something: the towers of one CLIP or SigLIP."""
    return one.space is not None and one.space == other.space
