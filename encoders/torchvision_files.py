"""torchvision's networks: their names, their files and what each was taught to see. Never imports torch."""

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from encoders.recipes import IMAGE_RECIPE, ImageRecipe, UnknownSource, Weights

PREFIX = "torchvision:"
ADDRESS = "https://download.pytorch.org/models/"


class Network(NamedTuple):
    """Of one name."""

    width: int  # V
    side_px: int
    resampling: str
    file: str  # the weights that torchvision calls DEFAULT


NETWORKS = {
    "resnet18": Network(512, 224, "bilinear", "resnet18-f37072fd.pth"),
    "resnet34": Network(512, 224, "bilinear", "resnet34-b627a593.pth"),
    "resnet50": Network(2048, 224, "bilinear", "resnet50-11ad3fa6.pth"),
    "resnet101": Network(2048, 224, "bilinear", "resnet101-cd907fc2.pth"),
    "resnet152": Network(2048, 224, "bilinear", "resnet152-f82ba261.pth"),
    "inception_v3": Network(2048, 299, "bilinear", "inception_v3_google-0cc3c7bd.pth"),
    "efficientnet_b0": Network(1280, 224, "bicubic", "efficientnet_b0_rwightman-7f5810bc.pth"),
    "efficientnet_b1": Network(1280, 240, "bilinear", "efficientnet_b1-c27df63c.pth"),
    "efficientnet_b2": Network(1408, 288, "bicubic", "efficientnet_b2_rwightman-c35c1473.pth"),
    "efficientnet_b3": Network(1536, 300, "bicubic", "efficientnet_b3_rwightman-b3899882.pth"),
    "efficientnet_b4": Network(1792, 380, "bicubic", "efficientnet_b4_rwightman-23ab8bcd.pth"),
    "efficientnet_b5": Network(2048, 456, "bicubic", "efficientnet_b5_lukemelas-1a07897c.pth"),
    "efficientnet_b6": Network(2304, 528, "bicubic", "efficientnet_b6_lukemelas-24a108a5.pth"),
    "efficientnet_b7": Network(2560, 600, "bicubic", "efficientnet_b7_lukemelas-c5b4e57e.pth"),
}


def find_of_torchvision(source: str, name: str, *, pickled_weights: bool) -> Weights:
    """The weights of torchvision:NAME where torch.hub keeps them; they are a pickle. Raises UnknownSource."""
    network = network_of(source, name)
    file = cache_folder() / network.file
    allow = (
        "it is a pickle, so set FRESHET_PICKLED_WEIGHTS=true to let it be read (as tensors only), or take "
        f"path:FOLDER, the folder made by: {conversion(file, name)}"
    )
    if not file.is_file():
        raise UnknownSource(f"{source!r} lacks {file}: download {ADDRESS}{network.file} there; {allow}")
    if not pickled_weights:
        raise UnknownSource(f"{source!r} is {file}: {allow}")
    return Weights(source, "image", PREFIX + name, network.width, (file,), recipe_of(name))


def network_of(source: str, name: str) -> Network:
    """Raises UnknownSource for a name that is not among NETWORKS."""
    if name not in NETWORKS:
        raise UnknownSource(f"{source!r} is no network of torchvision's that is known here: take {', '.join(NETWORKS)}")
    return NETWORKS[name]


def recipe_of(name: str) -> ImageRecipe:
    """As the network saw pictures when it was taught, but for the cut: a product is squashed, not cropped."""
    network = NETWORKS[name]
    # Inception's own moments are ImageNet's, turned by its `transform_input` into these.
    is_inception = name.startswith("inception")
    mean = (0.5, 0.5, 0.5) if is_inception else (0.485, 0.456, 0.406)
    deviation = (0.5, 0.5, 0.5) if is_inception else (0.229, 0.224, 0.225)
    return replace(
        IMAGE_RECIPE,
        side_px=network.side_px,
        resampling=network.resampling,
        subtract=(255 * mean[0], 255 * mean[1], 255 * mean[2]),
        divide=(255 * deviation[0], 255 * deviation[1], 255 * deviation[2]),
        centre="none",
    )


def cache_folder() -> Path:
    """Where torch.hub keeps downloaded weights. Source: its documentation, "Where are my downloaded models saved?"."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("TORCH_HOME", caches / "torch")).expanduser() / "hub" / "checkpoints"


def conversion(file: Path, name: str) -> str:
    """A command that makes a folder for path: out of a .pth file, once and for all."""
    return (
        'python -c "import json, pathlib, torch, safetensors.torch as s; '
        f"f = pathlib.Path('{name}'); f.mkdir(); "
        f"s.save_file({{k: v.contiguous() for k, v in torch.load('{file}', weights_only=True).items()}}, "
        f"f / 'model.safetensors'); (f / 'config.json').write_text(json.dumps({{'architecture': '{PREFIX}{name}'}}))\""
    )
