"""Encoders in fewer bits, with fewer parts and in ONNX, on tiny random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_encoders import PICTURES, TEXTS, encoded, lowest_cosine, written
from hypothesis import given
from hypothesis import strategies as st
from tiny_weights import write_picture_model, write_text_model

from encoders import int8
from encoders.bert import Bert
from encoders.compression import CannotCompress, Files, compress_pictures, compress_text, word_pieces
from encoders.image import ImageEncoder
from encoders.pruning import DistillationRule, TooFewTexts, effects_of, pruned, separate
from encoders.recipes import UnknownSource, Weights
from encoders.text import TextEncoder
from encoders.weights import find_weights, fingerprint_of

ROWS = st.lists(st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    torch.set_num_threads(1)  # more wait for each other on a busy machine
    return find_weights(f"path:{write_text_model(tmp_path_factory.mktemp('bert'), 'bert')}", "text")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return find_weights(f"path:{write_picture_model(tmp_path_factory.mktemp('resnet'), 'resnet')}", "image")


@pytest.fixture(scope="module")
def text_in_onnx(bert: Weights) -> Files:
    return compress_text(bert, "onnx", [])


@pytest.fixture(scope="module")
def pictures_in_onnx(resnet: Weights) -> Files:
    return compress_pictures(resnet, "onnx", [])


# --- eight bits --------------------------------------------------------------------------------------------------


def test_a_product_in_whole_numbers_is_the_one_worked_by_hand() -> None:
    # Rows of W: (2, 1) is (127, 64) times 2/127, (0, 0) is nothing. x: (1, -1) is (127, -127) times 1/127.
    # So y = (127 * 127 - 64 * 127) / 127 * 2 / 127 = 126 / 127, beside x W' = 1.
    weight, scale = int8.by_row(torch.tensor([[2.0, 1.0], [0.0, 0.0]]))
    assert weight.tolist() == [[127, 64], [0, 0]]
    result = int8.linear(torch.tensor([[[1.0, -1.0]]]), weight, scale, torch.tensor([0.0, 3.0]))
    assert result.tolist() == [[pytest.approx([126 / 127, 3.0])]]


@given(ROWS)
def test_what_is_beside_a_word_piece_changes_nothing(rows: list[list[float]]) -> None:
    weight, scale = int8.by_row(torch.arange(-12.0, 12.0).view(3, 8))
    together = int8.linear(torch.tensor(rows), weight, scale, torch.zeros(3))
    alone = torch.cat([int8.linear(torch.tensor([row]), weight, scale, torch.zeros(3)) for row in rows])
    assert torch.equal(together, alone)


def test_restored_weights_are_the_first_ones_to_half_a_step(bert: Weights) -> None:
    parameters = Bert(bert.files[0], bert.files[1], device="cpu").parameters
    restored = int8.restored(int8.quantised(parameters))
    assert restored.keys() == parameters.keys()
    for name, array in parameters.items():
        steps = array.abs().amax(-1, keepdim=True) / 127
        assert ((restored[name] - array).abs() <= 0.5001 * steps).all(), name


def test_a_text_encoder_in_eight_bits_is_near_what_it_was_alone_or_in_a_batch(bert: Weights, tmp_path: Path) -> None:
    source = written(compress_text(bert, "int8", []), tmp_path / "text")
    weights = find_weights(source, "text")
    together = encoded(weights)
    assert lowest_cosine(together, encoded(bert)) > 0.99
    one_by_one = TextEncoder(weights)
    singles = np.concatenate([one_by_one.encode([text]) for text in TEXTS])
    assert lowest_cosine(together, singles) > 0.9999
    assert weights.files[0].stat().st_size < 0.4 * bert.files[0].stat().st_size


def test_a_compressed_encoder_has_a_fingerprint_of_its_own(bert: Weights, resnet: Weights, tmp_path: Path) -> None:
    source = written(compress_text(bert, "int8", []), tmp_path / "text")
    assert fingerprint_of(resnet.source, source) != fingerprint_of(resnet.source, bert.source)


# --- ONNX --------------------------------------------------------------------------------------------------------


def test_the_text_encoder_in_onnx_is_the_one_in_torch(bert: Weights, text_in_onnx: Files, tmp_path: Path) -> None:
    encoder = TextEncoder(find_weights(written(text_in_onnx, tmp_path / "text"), "text"))
    reference = TextEncoder(bert)
    for some in (TEXTS, TEXTS[:1], ["red " * 60]):  # other batches and lengths than it was exported with
        assert np.abs(np.stack(encoder.encode(some)) - np.stack(reference.encode(some))).max() < 1e-4


def test_the_picture_encoder_in_onnx_is_the_one_in_torch(
    resnet: Weights, pictures_in_onnx: Files, tmp_path: Path
) -> None:
    encoder, reference = (
        ImageEncoder(find_weights(written(pictures_in_onnx, tmp_path / "image"), "image")),
        ImageEncoder(resnet),
    )
    assert np.abs(encoder.encode(PICTURES) - reference.encode(PICTURES)).max() < 1e-4
    assert np.array_equal(encoder.centre, reference.centre)
    pixels = torch.zeros(2, 3, 16, 16)
    assert torch.allclose(encoder._network.places(pixels), reference._network.places(pixels), atol=1e-4)


def test_a_network_that_pools_something_else_than_places_says_that_it_has_none(tmp_path: Path) -> None:
    vit = find_weights(f"path:{write_picture_model(tmp_path / 'vit', 'vit')}", "image")
    encoder = ImageEncoder(find_weights(written(compress_pictures(vit, "onnx", []), tmp_path / "image"), "image"))
    assert np.abs(encoder.encode(PICTURES) - ImageEncoder(vit).encode(PICTURES)).max() < 1e-4
    with pytest.raises(UnknownSource, match="no places of a picture: take the encoder that it was made of"):
        encoder._network.places(torch.zeros(1, 3, 16, 16))


def test_onnx_in_eight_bits_is_near_what_it_was_alone_or_in_a_batch(
    bert: Weights, resnet: Weights, tmp_path: Path
) -> None:
    text = TextEncoder(find_weights(written(compress_text(bert, "onnx-int8", []), tmp_path / "text"), "text"))
    together = np.stack(text.encode(TEXTS))
    assert lowest_cosine(together, encoded(bert)) > 0.99
    assert lowest_cosine(together, np.concatenate([text.encode([each]) for each in TEXTS])) > 0.9999
    files = compress_pictures(resnet, "onnx-int8", PICTURES)
    pictures = ImageEncoder(find_weights(written(files, tmp_path / "image"), "image"))
    vectors = pictures.encode(PICTURES)
    assert lowest_cosine(vectors, ImageEncoder(resnet).encode(PICTURES)) > 0.98
    assert np.abs(vectors - np.concatenate([pictures.encode([each]) for each in PICTURES])).max() < 1e-5


# --- pruning -----------------------------------------------------------------------------------------------------


def test_neurons_that_always_say_the_same_leave_without_a_trace(bert: Weights, tmp_path: Path) -> None:
    network = Bert(bert.files[0], bert.files[1], device="cpu")
    for layer in (0, 1):
        at = f"encoder.layer.{layer}.intermediate.dense"
        network.parameters[f"{at}.weight"][10:34] = 0.0  # 24 of 48
        network.parameters[f"{at}.bias"][10:34] = 1.5
    file = _save(network, tmp_path)
    effects = effects_of(file, bert.files[1], word_pieces(bert, TEXTS))
    neurons = {name: effect for name, effect in effects.items() if "attention" not in name}
    smaller = pruned(network, neurons, sparsity=0.5)
    assert smaller["encoder.layer.1.output.dense.weight"].shape == (32, 24)
    student = _bert_of(smaller, bert, tmp_path)
    ids, mask = torch.tensor([[2, 4, 6, 3], [2, 5, 3, 0]]), torch.tensor([[True] * 4, [True] * 3 + [False]])
    assert torch.allclose(student.states(ids, mask)[mask], network.states(ids, mask)[mask], atol=1e-4)


def test_a_pruned_encoder_is_smaller_and_comes_near_what_it_was_by_learning(bert: Weights, tmp_path: Path) -> None:
    lowest = {}
    for epochs in (0, 20):
        rule = DistillationRule(epochs=epochs, learning_rate=2e-3)
        files = compress_text(bert, "pruned", TEXTS, sparsity=0.5, rule=rule)
        weights = find_weights(written(files, tmp_path / f"text{epochs}"), "text")
        network = Bert(weights.files[0], weights.files[1], device="cpu")
        assert network.parameters["encoder.layer.0.attention.self.weight"].shape == (3 * 16, 32)
        assert network.parameters["encoder.layer.0.intermediate.dense.weight"].shape == (24, 32)
        lowest[epochs] = lowest_cosine(encoded(weights), encoded(bert))
    assert lowest[20] > 0.9
    assert lowest[20] > lowest[0]


def test_the_same_seed_prunes_and_teaches_the_same(bert: Weights) -> None:
    rule = DistillationRule(epochs=2)
    assert compress_text(bert, "pruned", TEXTS, rule=rule, seed=7) == compress_text(
        bert, "pruned", TEXTS, rule=rule, seed=7
    )


def _save(network: Bert, folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(separate(network.parameters), folder / "model.safetensors")
    return folder / "model.safetensors"


def _bert_of(parameters: dict[str, torch.Tensor], like: Weights, folder: Path) -> Bert:
    from safetensors.torch import save_file

    save_file(separate(parameters), folder / "smaller.safetensors")
    return Bert(folder / "smaller.safetensors", like.files[1], device="cpu")


# --- what cannot be compressed -----------------------------------------------------------------------------------


def test_a_method_of_bert_refuses_another_architecture(tmp_path: Path) -> None:
    gpt = find_weights(f"path:{write_text_model(tmp_path / 'gpt2', 'gpt2')}", "text")
    with pytest.raises(CannotCompress, match=r"is a gpt2: int8 is for BERT .* take onnx or onnx-int8"):
        compress_text(gpt, "int8", [])


def test_what_is_in_eight_bits_is_not_pruned(bert: Weights, tmp_path: Path) -> None:
    weights = find_weights(written(compress_text(bert, "int8", []), tmp_path / "text"), "text")
    with pytest.raises(CannotCompress, match="in eight bits already: start from what it was made of"):
        compress_text(weights, "pruned", TEXTS)


def test_too_little_to_learn_from_or_to_calibrate_on_is_told(bert: Weights, resnet: Weights) -> None:
    with pytest.raises(TooFewTexts, match="3 texts: give at least 64"):
        compress_text(bert, "pruned", ["red", "blue", "", "lamp"])
    with pytest.raises(CannotCompress, match="2 pictures can be read, at least 16 are needed to calibrate"):
        compress_pictures(resnet, "onnx-int8", PICTURES[:2])
    with pytest.raises(CannotCompress, match="int8 is a method for text"):
        compress_pictures(resnet, "int8", PICTURES)
