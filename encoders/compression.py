"""An encoder to the files of a smaller or faster one, which `path:FOLDER` names (encoders.compressed_folders).

int8        the text's linear layers in eight bits, run by torch
pruned      half of the text's heads and neurons, taught to say the same
onnx        the same numbers, run by onnxruntime
onnx-int8   eight bits, run by onnxruntime
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from encoders import int8
from encoders.bert import Bert
from encoders.compressed_folders import BERT, CENTRE, ONNX
from encoders.image import Pixels, square
from encoders.networks import picture_network, text_network
from encoders.pruning import DistillationRule, Told, distil, effects_of, pruned, separate
from encoders.recipes import IMAGE_RECIPE, ImageRecipe, TextRecipe, Weights
from encoders.text import read_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["int8", "pruned", "onnx", "onnx-int8"]
METHODS: tuple[Method, ...] = get_args(Method)
OF_TEXT_ALONE = ("int8", "pruned")
PICTURES_MIN = 16
CALIBRATED_AT_ONCE = 4
UNUSED = ("pooler.", "embeddings.position_ids")

Files = dict[str, bytes]
"""A folder's, by name."""


class CannotCompress(ValueError):
    """The method is none for this encoder, or there are too few products to calibrate it; str() says what to do."""


def compress_text(
    weights: Weights,
    method: Method,
    texts: Sequence[str],
    *,
    sparsity: float = 0.5,
    rule: DistillationRule = DistillationRule(),  # noqa: B008
    seed: int = 0,
    told: Told = lambda *_: None,
) -> Files:
    """The files of the compressed text encoder.

    texts     the shop's, which "pruned" learns from
    sparsity  0 to 1, the share of the heads and of the neurons that leaves with "pruned"

    Raises CannotCompress, CannotExport, TooFewTexts, UnknownSource.
    """
    recipe = weights.recipe
    assert isinstance(recipe, TextRecipe)
    names = ("tokenizer.json", "tokenizer_config.json")
    files = {file.name: file.read_bytes() for file in map(weights.file, names) if file is not None}
    if method in OF_TEXT_ALONE:
        network, config = _bert(weights, method)
        if method == "int8":
            parameters = int8.quantised(network.parameters)
        else:
            pieces = word_pieces(weights, texts)
            parameters = _pruned(weights, config, network, pieces, sparsity, rule, seed, told)
        files["model.safetensors"] = _saved(parameters)
        return files | _config(weights, BERT, json.loads(config.read_bytes()))
    from encoders.onnx_export import text_to_int8, text_to_onnx

    exported = text_to_onnx(text_network(weights, "cpu"))
    files["model.onnx"] = text_to_int8(exported) if method == "onnx-int8" else exported
    return files | _config(weights, ONNX, {})


def compress_pictures(weights: Weights, method: Method, pictures: Sequence[Pixels]) -> Files:
    """The files of the compressed picture encoder.

    pictures  B arrays (H, W, 3) uint8 of the shop's, on which "onnx-int8" measures ranges

    Raises CannotCompress, CannotExport, UnknownSource.
    """
    recipe = weights.recipe
    assert isinstance(recipe, ImageRecipe)
    if method in OF_TEXT_ALONE:
        raise CannotCompress(f"{method} is a method for text, of BERT's layers: take onnx or onnx-int8 for pictures")
    if method == "onnx-int8" and len(pictures) < PICTURES_MIN:
        raise CannotCompress(f"{len(pictures)} pictures can be read, at least {PICTURES_MIN} are needed to calibrate")
    from safetensors.numpy import save

    from encoders.onnx_export import pictures_to_int8, pictures_to_onnx

    network = picture_network(weights, "cpu")
    model = pictures_to_onnx(network, recipe.side_px, pools_places=recipe.pooling == IMAGE_RECIPE.pooling)
    if method == "onnx-int8":
        model = pictures_to_int8(model, _normalised(pictures, recipe))
    return {"model.onnx": model, CENTRE: save({"centre": network.centre})} | _config(weights, ONNX, {})


def word_pieces(weights: Weights, texts: Sequence[str]) -> list[list[int]]:
    """As the text encoder of these weights reads them; those without a word are left out."""
    recipe = weights.recipe
    assert isinstance(recipe, TextRecipe)
    tokenizer, _ = read_tokenizer(weights)
    tokenizer.no_padding()
    tokenizer.enable_truncation(recipe.word_pieces)
    marks = tokenizer.num_special_tokens_to_add(False)
    pieces = (tokenizer.encode(text[: recipe.characters]).ids for text in texts)
    return [ids for ids in pieces if len(ids) > marks]


def _pruned(
    weights: Weights,
    config: Path,
    teacher: Bert,
    pieces: Sequence[Sequence[int]],
    sparsity: float,
    rule: DistillationRule,
    seed: int,
    told: Told,
) -> "dict[str, Tensor]":
    smaller = pruned(teacher, effects_of(weights.files[0], config, pieces), sparsity=sparsity)
    with TemporaryDirectory(prefix="freshet-pruned-") as folder:
        (Path(folder) / "model.safetensors").write_bytes(_saved(smaller))
        student = Bert(Path(folder) / "model.safetensors", config, device="cpu")
    assert isinstance(weights.recipe, TextRecipe)
    distil(student, teacher, pieces, pooling=weights.recipe.pooling, rule=rule, seed=seed, told=told)
    return student.parameters


def _bert(weights: Weights, method: str) -> tuple[Bert, Path]:
    network, config = text_network(weights, "cpu"), weights.file("config.json")
    if not isinstance(network, Bert) or config is None:
        raise CannotCompress(
            f"{weights.source!r} is a {weights.architecture}: {method} is for BERT with gelu and absolute "
            "positions, take onnx or onnx-int8"
        )
    if any(name.endswith(int8.SCALE) for name in network.parameters):
        raise CannotCompress(f"{weights.source!r} is in eight bits already: start from what it was made of")
    return network, config


def _saved(parameters: "Mapping[str, Tensor]") -> bytes:
    from safetensors.torch import save

    kept = {name: array for name, array in separate(parameters).items() if not name.startswith(UNUSED)}
    written: bytes = save(kept)
    return written


def _config(weights: Weights, architecture: str, more: dict[str, Any]) -> Files:
    told = more | {
        "architecture": architecture,
        "modality": weights.modality,
        "width": weights.width,
        "recipe": asdict(weights.recipe),
        "space": weights.space,
    }
    return {"config.json": json.dumps(told, indent=1).encode()}


def _normalised(pictures: Sequence[Pixels], recipe: ImageRecipe) -> Iterator[NDArray[np.float32]]:
    """Batches (b, 3, side, side) float32 as the network reads them."""
    for begin in range(0, len(pictures), CALIBRATED_AT_ONCE):
        squares = np.stack([square(each, recipe) for each in pictures[begin : begin + CALIBRATED_AT_ONCE]])
        values = (squares - np.array(recipe.subtract)) / np.array(recipe.divide)
        yield np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)
