"""hub:NAME, a folder in the cache of the Hugging Face hub: local first, downloaded where there is a network."""

from pathlib import Path

from encoders.folder_recipes import Incomplete
from encoders.folders import find_in_folder
from encoders.recipes import Modality, UnknownSource, Weights

PATTERNS = (
    "*config.json",  # in folders, too: 1_Pooling/config.json
    "modules.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "0_Transformer/tokenizer.json",
    "0_Transformer/model*.safetensors",
)  # arrays, JSON and tokenizers: no pickle, no code


def find_in_hub(source: str, name: str, modality: Modality, *, pickled_weights: bool) -> Weights:
    """The weights of hub:OWNER/NAME or hub:OWNER/NAME@REVISION. Raises UnknownSource if they cannot be had."""
    from httpx import HTTPError
    from huggingface_hub.errors import HFValidationError

    try:
        return find_in_folder(source, _snapshot(name, local=True), modality, pickled_weights=pickled_weights)
    except HFValidationError as error:
        raise UnknownSource(f"{source!r} is no name of the hub ({error}): write hub:OWNER/NAME") from error
    except (Incomplete, FileNotFoundError):
        pass  # never downloaded, or in part
    try:
        return find_in_folder(source, _snapshot(name, local=False), modality, pickled_weights=pickled_weights)
    except (OSError, HTTPError, Incomplete) as error:
        raise UnknownSource(_remedy(source, name, str(error))) from error


def _snapshot(name: str, *, local: bool) -> Path:
    """The folder of that repository and revision. Raises FileNotFoundError if it is to be local and is not."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    return Path(
        snapshot_download(repository, revision=revision or None, local_files_only=local, allow_patterns=list(PATTERNS))
    )


def _remedy(source: str, name: str, reason: str) -> str:
    from huggingface_hub import constants

    repository, _, revision = name.partition("@")
    cached = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    download = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
    return (
        f"{source!r} is not whole in {cached} and cannot be downloaded ({reason.strip().splitlines()[0]}): run "
        f"`{download}` where there is a network and copy what it wrote to {cached}, or put its config.json, "
        "model.safetensors and tokenizer.json or preprocessor_config.json in a folder and take path:FOLDER"
    )
