"""path:FOLDER, weights in a folder as transformers or sentence-transformers writes it, or with a torchvision network's.

Only JSON and the headers of arrays are read here. Never imports torch.
"""

from pathlib import Path

from encoders.arrays_on_disk import CutShort, names_and_shapes
from encoders.compressed_folders import ARCHITECTURES, find_compressed
from encoders.folder_recipes import (
    PICTURES,
    POOLINGS,
    TWO_TOWERS,
    Incomplete,
    Json,
    image_recipe,
    read_json,
    text_recipe,
)
from encoders.recipes import Modality, UnknownSource, Weights
from encoders.torchvision_files import NETWORKS, PREFIX, network_of, recipe_of

SAVE_TOKENIZER = "transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
SAVE_ARRAYS = "transformers: AutoModel.from_pretrained(FOLDER).save_pretrained(OTHER)"


def find_in_folder(source: str, folder: Path, modality: Modality, *, pickled_weights: bool) -> Weights:
    """The weights of a folder. Raises UnknownSource, Incomplete if a file is missing or cut short."""
    if not folder.is_dir():
        raise UnknownSource(f"{source!r}: there is no folder {folder.absolute()}: put config.json and its files there")
    try:
        return _find(source, folder, modality, pickled_weights)
    except UnknownSource:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a list for an object, a word for a number
        raise Incomplete(
            f"{source!r}: a JSON file of {folder} is not what it should be ({error}): get it again"
        ) from error


def _find(source: str, folder: Path, modality: Modality, pickled_weights: bool) -> Weights:
    nested = folder / "0_Transformer"  # as old versions of sentence-transformers wrote it
    inner = nested if nested.is_dir() else folder
    config = read_json(source, inner / "config.json")
    if "auto_map" in config:
        raise UnknownSource(
            f"{source!r} needs code of its own (auto_map in {inner / 'config.json'}), which is never run: take a "
            "model that transformers itself knows"
        )
    architecture = str(config.get("architecture", ""))
    if architecture in ARCHITECTURES:
        return find_compressed(source, inner, modality, config)
    if architecture.startswith(PREFIX) and modality == "image":
        name = architecture.removeprefix(PREFIX)
        width = network_of(source, name).width
        files = (*_parameters(source, inner, pickled=False), inner / "config.json")
        return Weights(source, modality, architecture, width, files, recipe_of(name))
    kind = str(config.get("model_type", architecture))
    if kind not in ((*PICTURES, *TWO_TOWERS) if modality == "image" else POOLINGS):
        raise _unknown(source, kind, modality)
    parameters = _parameters(source, inner, pickled=pickled_weights)
    width = _width(source, kind, config, modality)
    space = str(parameters[0].resolve()) if kind in TWO_TOWERS else None
    files = (*parameters, inner / "config.json")
    if modality == "image":
        return Weights(source, modality, kind, width, files, image_recipe(source, kind, config, inner), space)
    files = (*files, _there(source, inner / "tokenizer.json", SAVE_TOKENIZER))
    if kind == "siglip":
        files = (*files, _there(source, inner / "tokenizer_config.json", "its pad_token is part of every vector"))
    recipe = text_recipe(source, kind, config, folder, inner)
    return Weights(source, modality, kind, width, files, recipe, space)


def _parameters(source: str, folder: Path, *, pickled: bool) -> tuple[Path, ...]:
    """The files that hold the arrays, then their index if they are several."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or index.is_file():
        is_whole = single.is_file()
        parts = [] if is_whole else sorted(set(read_json(source, index).get("weight_map", {}).values()))
        files = [single] if is_whole else [folder / part for part in parts]
        for file in files:
            try:
                names_and_shapes(_there(source, file, "it is one part of the weights"))
            except CutShort as error:
                raise Incomplete(f"{source!r}: {error}: get it again") from error
        return tuple(files) if is_whole else (*files, index)
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if not pickles:
        raise Incomplete(f"{source!r} lacks {single}: put it there")
    if not pickled:
        raise Incomplete(
            f"{source!r} has its weights as a pickle only ({pickles[0]}): save it as model.safetensors "
            f"({SAVE_ARRAYS}), or set FRESHET_PICKLED_WEIGHTS=true to let it be read (as tensors only)"
        )
    return (*pickles, *folder.glob("pytorch_model.bin.index.json"))


def _width(source: str, kind: str, config: Json, modality: Modality) -> int:
    """V or T. transformers leaves out what is its default in the configuration of a tower."""
    if kind == "clip":
        width = config.get("projection_dim", 512)
    elif kind == "siglip":
        tower = config.get("vision_config" if modality == "image" else "text_config") or {}
        width = tower.get("projection_size") or tower.get("hidden_size", 768)
    elif kind == "resnet":
        width = (config.get("hidden_sizes") or [None])[-1]
    else:
        names = ("hidden_dim",) if kind == "efficientnet" else ("hidden_size", "n_embd", "dim")
        width = next((config[name] for name in names if name in config), None)
    if not isinstance(width, int) or width < 1:
        raise UnknownSource(f"{source!r}: its config.json does not tell how wide the {kind} is: take it from its maker")
    return width


def _unknown(source: str, kind: str, modality: Modality) -> UnknownSource:
    known = (*PICTURES, *TWO_TOWERS, *(PREFIX + name for name in NETWORKS)) if modality == "image" else tuple(POOLINGS)
    named = f"is of the kind {kind!r}" if kind else "tells no model_type in its config.json"
    return UnknownSource(f"{source!r} {named}: known for {modality} are {', '.join(known)}")


def _there(source: str, file: Path, why: str) -> Path:
    if not file.is_file():
        raise Incomplete(f"{source!r} lacks {file}: put it there ({why})")
    return file
