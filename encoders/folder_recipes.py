"""What a folder's JSON files tell: how a picture is prepared for its network, how words are cut and pooled.

The architectures of transformers that are known here stand in this file, each with what it is pooled by.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from encoders.recipes import (
    FIRST,
    IMAGE_RECIPE,
    LAST,
    LAST_PLACE,
    MEAN,
    POOLED_BY_NETWORK,
    TEXT_RECIPE,
    ImageRecipe,
    TextRecipe,
    UnknownSource,
)

ENCODERS = (
    *("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta"),
    "xlm-roberta",
)
DECODERS = ("gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
TWO_TOWERS = ("clip", "siglip")
PICTURES = ("dinov2", "efficientnet", "resnet", "vit")
POOLINGS = {
    **dict.fromkeys(ENCODERS, MEAN),
    **dict.fromkeys(DECODERS, LAST),
    "clip": LAST,  # its mark of the end
    "siglip": LAST_PLACE,
}
POSITIONS_FROM_2 = ("camembert", "mpnet", "roberta", "xlm-roberta")  # two rows of positions are no place of a text
SENTENCE_POOLINGS = {"cls": FIRST, "lasttoken": LAST, "mean": MEAN}  # sentence-transformers' names
RESAMPLINGS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's, by their numbers

Json = dict[str, Any]


class Incomplete(UnknownSource):
    """A file is missing or cut short: getting the folder again may help."""


def image_recipe(source: str, kind: str, config: Json, folder: Path) -> ImageRecipe:
    """As preprocessor_config.json says, but for the cut: a product is squashed, not cropped. Raises UnknownSource."""
    file = folder / "preprocessor_config.json"
    if not file.is_file() and (folder / "processor_config.json").is_file():
        file = folder / "processor_config.json"
    told = read_json(source, file)
    told = told.get("image_processor", told)
    scale = told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 1.0
    is_normalised = bool(told.get("do_normalize", True))
    try:
        mean = [float(value) / scale for value in told["image_mean"]] if is_normalised else [0.0] * 3
        deviation = [float(value) / scale for value in told["image_std"]] if is_normalised else [1 / scale] * 3
        side = int(_side_of(kind, config, told))
        resampling = RESAMPLINGS[int(told.get("resample", 3))]
        subtract, divide = (mean[0], mean[1], mean[2]), (deviation[0], deviation[1], deviation[2])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UnknownSource(
            f"{source!r}: {file} does not tell image_mean, image_std, size or resample ({error!r}): take it from the "
            "model's maker"
        ) from error
    pooling = IMAGE_RECIPE.pooling if kind in ("efficientnet", "resnet") else POOLED_BY_NETWORK
    return ImageRecipe(side, resampling, subtract, divide, pooling, centre="none")


def text_recipe(source: str, kind: str, config: Json, outer: Path, folder: Path) -> TextRecipe:
    """As config.json says, and sentence-transformers where it wrote the folder; it tells of the pooling in outer.

    Raises UnknownSource.
    """
    if kind in TWO_TOWERS:
        default = 77 if kind == "clip" else 64  # transformers leaves out what is its default
        places = int((config.get("text_config") or {}).get("max_position_embeddings", default))
    else:
        places = int(config.get("max_position_embeddings") or config.get("n_positions") or TEXT_RECIPE.word_pieces)
        places -= 2 if kind in POSITIONS_FROM_2 else 0
    if kind == "siglip":
        return replace(TEXT_RECIPE, word_pieces=places, pooling=LAST_PLACE)
    for file in {outer / "sentence_bert_config.json", folder / "sentence_bert_config.json"}:
        if file.is_file():
            places = min(places, int(read_json(source, file).get("max_seq_length") or places))
    pooling = POOLINGS[kind] if kind in TWO_TOWERS else _pooling(source, outer, POOLINGS[kind])
    return replace(TEXT_RECIPE, word_pieces=min(TEXT_RECIPE.word_pieces, places), pooling=pooling)


def read_json(source: str, file: Path) -> Json:
    """Raises Incomplete if the file is missing or holds no JSON object."""
    told = _parsed(source, file)
    if not isinstance(told, dict):
        raise Incomplete(f"{source!r}: {file} holds no JSON object: get it again")
    return told


def _parsed(source: str, file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise Incomplete(f"{source!r} lacks {file}: put it there") from error
    except ValueError as error:
        raise Incomplete(f"{source!r}: {file} is no JSON ({error}): get it again") from error


def _side_of(kind: str, config: Json, told: Json) -> Any:
    """Of the pictures, in px: what the positions of a transformer are made for, or what it was taught on."""
    if kind in TWO_TOWERS:
        return (config.get("vision_config") or {}).get("image_size", 224)
    if kind == "vit":
        return config.get("image_size", 224)
    size = told.get("crop_size") or told["size"]
    return (size.get("height") or size["shortest_edge"]) if isinstance(size, dict) else size


def _pooling(source: str, outer: Path, default: str) -> str:
    """As sentence-transformers says, where it does. Raises UnknownSource for a step that is not known here."""
    modules = outer / "modules.json"
    steps = _parsed(source, modules) if modules.is_file() else []
    kinds = [str(step.get("type", "")).rpartition(".")[2] for step in steps]
    if unknown := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise UnknownSource(
            f"{source!r} has a step {unknown[0]!r} in {modules}, known are Transformer, Pooling and Normalize: take "
            "another model"
        )
    file = outer / "1_Pooling" / "config.json"
    if not file.is_file():
        return default
    told = read_json(source, file)
    named = told.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")
        for key, is_chosen in told.items()
        if key.startswith("pooling_mode_") and is_chosen
    ]
    modes = [named] if isinstance(named, str) else list(named)
    if len(modes) != 1 or modes[0] not in SENTENCE_POOLINGS:
        known = ", ".join(SENTENCE_POOLINGS)
        raise UnknownSource(
            f"{source!r} is pooled by {', '.join(modes) or 'nothing'} ({file}): known is one of {known}"
        )
    return SENTENCE_POOLINGS[modes[0]]
