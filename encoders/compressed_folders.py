"""Folders that `freshet compress` makes: a network in fewer bits or with fewer parts, and the recipe it goes by.

    config.json             architecture, modality, width, recipe, space; what BERT's configuration says besides
    model.onnx              or model.safetensors: the network
    tokenizer.json          of a text network, and tokenizer_config.json where there was one
    centre.safetensors      of a picture network

Never imports torch.
"""

import importlib.util
from pathlib import Path

from encoders.arrays_on_disk import CutShort, names_and_shapes
from encoders.folder_recipes import Incomplete, Json
from encoders.onnx_networks import INSTALL
from encoders.recipes import ImageRecipe, Modality, TextRecipe, UnknownSource, Weights

ONNX = "freshet:onnx"
BERT = "freshet:bert"  # pruned, or in eight bits: transformers would read it wrongly
ARCHITECTURES = (ONNX, BERT)
CENTRE = "centre.safetensors"
AGAIN = "make it again by freshet compress"


def find_compressed(source: str, folder: Path, modality: Modality, config: Json) -> Weights:
    """The weights of such a folder. Raises UnknownSource, Incomplete if a file is missing or cut short."""
    if config.get("modality") != modality:
        raise UnknownSource(f"{source!r} holds a compressed encoder of {config.get('modality')}, not of {modality}")
    architecture = str(config["architecture"])
    if architecture == ONNX and importlib.util.find_spec("onnxruntime") is None:
        raise UnknownSource(f"{source!r} needs onnxruntime: {INSTALL}")
    try:
        kept: Json = {
            name: tuple(value) if isinstance(value, list) else value for name, value in config["recipe"].items()
        }
        recipe = ImageRecipe(**kept) if modality == "image" else TextRecipe(**kept)
        width = int(config["width"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Incomplete(f"{source!r}: config.json has no recipe or width ({error}): {AGAIN}") from error
    names = ["model.onnx" if architecture == ONNX else "model.safetensors", "config.json"]
    names += ["tokenizer.json"] if modality == "text" else [CENTRE]
    if (folder / "tokenizer_config.json").is_file():
        names.append("tokenizer_config.json")
    files = tuple(folder / name for name in names)
    for file in files:
        if not file.is_file():
            raise Incomplete(f"{source!r} lacks {file}: {AGAIN}")
        if file.suffix == ".safetensors":
            try:
                names_and_shapes(file)
            except CutShort as error:
                raise Incomplete(f"{source!r}: {error}: {AGAIN}") from error
    return Weights(source, modality, architecture, width, files, recipe, config.get("space"))
