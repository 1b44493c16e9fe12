"""The cross-modal encoder: what it is before training by hand, its properties, and what it learns of a toy shop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.cross_modal import CrossModalEncoder, CrossModalShape, OtherShape
from encoders.retrieval import recall_at, unit_or_zero
from encoders.sequences import Ragged, TokenSet, padded, part_tokens
from encoders.training.align import contrast
from encoders.training.cross_modal import PRODUCTS_MIN, CrossModalRule, left, teach_cross_modal
from encoders.training.loop import CannotTrain, Progress, Run
from encoders.training.processes import ALONE
from encoders.weights import FUSION_RECIPE

V, T, PLACES = 10, 8, 4
SHAPE = CrossModalShape(V, T, width=32, layers=2, heads=4, rows=2, columns=2, pieces=6)
RULE = CrossModalRule(layers=2, width=32, epochs=6, batch=25, learning_rate=3e-3, dropout=0.0, unseen=0.2, apart=1.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # more wait for each other on a busy machine


def sets(count: int, seed: int = 0) -> tuple[list[TokenSet | None], list[TokenSet | None]]:
    """Pictures of four places and texts of two to five pieces that tell of the same six facts, each in its own way."""
    chance = np.random.default_rng(7)
    to_picture, to_words = chance.normal(size=(6, V)), chance.normal(size=(6, T))
    chance = np.random.default_rng(seed)
    facts = chance.normal(size=(count, 6))
    pictures, texts = [], []
    for fact in facts:
        regions = fact @ to_picture + 0.3 * chance.normal(size=(PLACES, V))
        pieces = fact @ to_words + 0.3 * chance.normal(size=(chance.integers(2, 6), T))
        pictures.append(part_tokens([(regions.astype(np.float32), 1.0)]))
        texts.append(part_tokens([(pieces.astype(np.float32), 1.0)]))
    return pictures, texts


def shop(count: int, seed: int = 0) -> tuple[TokenSet, TokenSet]:
    """The same as batches."""
    pictures, texts = sets(count, seed)
    return padded(pictures, V), padded(texts, T, 5)


def taught(count: int, rule: CrossModalRule, run: Run = Run(), order: np.ndarray | None = None) -> CrossModalEncoder:  # noqa: B008
    """The encoder that learned from a shop, whose texts are those of other products where there is an order."""
    pictures, texts = sets(count)
    texts = texts if order is None else [texts[row] for row in order]
    return teach_cross_modal(Ragged.joined(pictures, V), Ragged.joined(texts, T), (2, 2), np.arange(count), rule, run)


def trained_a_little() -> CrossModalEncoder:
    """Nothing in it is as it was at the start."""
    encoder = CrossModalEncoder(SHAPE, seed=1)
    chance = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=chance)
    return encoder


def without(tokens: TokenSet, rows: list[int]) -> TokenSet:
    shares = tokens.shares.copy()
    shares[rows] = 0.0
    return TokenSet(tokens.states, shares)


def test_untrained_it_is_the_mean_of_both_modalities_along_orthonormal_directions() -> None:
    image, text = shop(5)
    encoder = CrossModalEncoder(SHAPE, seed=3)
    with torch.no_grad():
        for places in (encoder.modality_places, encoder.row_places, encoder.column_places, encoder.piece_places):
            places.zero_()
    state = encoder.state()
    maps = {"image": state["image_map"], "text": state["text_map"]}
    assert maps["text"] @ maps["text"].T == pytest.approx(np.eye(T), abs=1e-5)
    assert maps["image"] @ maps["image"].T == pytest.approx(FUSION_RECIPE.image_importance**2 * np.eye(V), abs=1e-5)
    pooled = [np.einsum("bs,bsw->bw", tokens.shares, tokens.states) for tokens in (image, text)]
    found = encoder.encode(image, text)
    assert found.vectors == pytest.approx(unit_or_zero(pooled[0] @ maps["image"] + pooled[1] @ maps["text"]), abs=1e-5)
    assert found.image == pytest.approx(image.shares / 2, abs=1e-6)
    assert found.text == pytest.approx(text.shares / 2, abs=1e-6)


def test_the_contrast_of_two_pairs_is_the_one_worked_by_hand() -> None:
    """Cosines 1 and 0 at a temperature of 1: each row's loss is log(1 + e^-1), .3133."""
    rows = torch.eye(2)
    assert contrast(rows, rows, torch.tensor(0.0), ALONE).item() == pytest.approx(np.log1p(np.exp(-1)), abs=1e-6)
    assert contrast(rows, rows.flip(0), torch.tensor(0.0), ALONE).item() == pytest.approx(np.log1p(np.exp(1)), abs=1e-6)


def test_it_learns_which_words_belong_to_pictures_that_it_has_never_seen() -> None:
    new_image, new_text = shop(100, seed=1)
    steps: list[Progress] = []
    encoder = taught(200, RULE, Run(told=steps.append))
    every = list(range(100))

    def found(encoder: CrossModalEncoder) -> float:
        pictures = encoder.encode(new_image, without(new_text, every)).vectors
        return recall_at(encoder.encode(without(new_image, every), new_text).vectors, pictures, 1)

    assert found(CrossModalEncoder(SHAPE)) < 0.1  # chance is .01
    assert found(encoder) > 0.5
    epochs = steps[-1].epochs
    assert len(epochs) == RULE.epochs
    assert epochs[-1]["loss"] < epochs[0]["loss"] / 2
    order = np.random.default_rng(0).permutation(200)
    assert found(taught(200, RULE._replace(epochs=4), order=order)) < 0.1


@settings(deadline=None)
@given(
    order=st.permutations(range(6)),
    missing=st.lists(st.sampled_from(["", "image", "text", "both"]), min_size=6, max_size=6),
)
def test_a_batch_equals_singles_in_any_order_and_what_is_missing_weighs_nothing(
    order: list[int], missing: list[str]
) -> None:
    encoder = trained_a_little()
    image, text = shop(6)
    image = without(image, [row for row, what in enumerate(missing) if what in ("image", "both")])
    text = without(text, [row for row, what in enumerate(missing) if what in ("text", "both")])
    found = encoder.encode(image, text)
    assert not found.image[image.shares == 0].any()  # exactly 0
    assert not found.text[text.shares == 0].any()
    there = np.array([float(what != "both") for what in missing])
    assert found.image.sum(axis=1) + found.text.sum(axis=1) == pytest.approx(there, abs=1e-5)
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(there, abs=1e-5)
    moved = encoder.encode(*(TokenSet(*(array[order] for array in tokens)) for tokens in (image, text)))
    assert moved.vectors == pytest.approx(found.vectors[order], abs=1e-5)
    assert moved.text == pytest.approx(found.text[order], abs=1e-5)
    singles = [encoder.encode(*(TokenSet(*(a[[i]] for a in tokens)) for tokens in (image, text))) for i in range(6)]
    assert np.concatenate([single.vectors for single in singles]) == pytest.approx(found.vectors, abs=1e-5)


def test_padding_and_what_stands_in_it_change_nothing() -> None:
    encoder = trained_a_little()
    image, text = shop(3)
    image = without(image, [1])
    expected = encoder.encode(image, text)
    longer = TokenSet(np.full((3, 9, T), np.nan, np.float32), np.zeros((3, 9), np.float32))
    longer.shares[:, :5] = text.shares
    longer.states[longer.shares > 0] = text.states[text.shares > 0]
    image.states[1] = np.inf
    found = encoder.encode(image, longer)
    assert found.vectors == pytest.approx(expected.vectors, abs=1e-5)
    assert not found.text[:, 5:].any()


def test_a_sequence_that_is_masked_is_the_same_as_none() -> None:
    encoder = trained_a_little().eval()
    image, text = shop(3)
    parts = [torch.from_numpy(array) for array in (*image, *text)]
    none = [part[:, :0] for part in parts]
    with torch.inference_mode():
        for side in (0, 2):
            masked, left_out = list(parts), list(parts)
            masked[side + 1] = torch.zeros_like(parts[side + 1])
            left_out[side : side + 2] = none[side : side + 2]
            assert encoder(*masked).vectors.numpy() == pytest.approx(encoder(*left_out).vectors.numpy(), abs=1e-5)


def test_places_and_the_order_of_words_count_once_it_is_trained() -> None:
    encoder = trained_a_little()
    image, text = shop(2)
    found = encoder.encode(image, text).vectors
    turned = TokenSet(image.states[:, ::-1].copy(), image.shares)
    assert np.abs(encoder.encode(turned, text).vectors - found).max() > 1e-3
    words = TokenSet(text.states[:, [1, 0, 2, 3, 4]], text.shares[:, [1, 0, 2, 3, 4]])
    assert np.abs(encoder.encode(image, words).vectors - found).max() > 1e-3


def test_the_same_seed_gives_the_same_parameters_and_they_can_be_kept() -> None:
    image, text = shop(60)
    rule = RULE._replace(epochs=2, dropout=0.1)
    one, same, other = (taught(60, rule, Run(seed)) for seed in (3, 3, 4))
    for name, array in one.state().items():
        np.testing.assert_array_equal(array, same.state()[name])
    assert not np.array_equal(one.state()["query"], other.state()["query"])
    again = CrossModalEncoder.from_state(one.state())
    np.testing.assert_array_equal(again.encode(image, text).vectors, one.encode(image, text).vectors)


def test_regions_that_were_made_shorter_are_taken_whole_by_the_same_encoder() -> None:
    encoder = trained_a_little()
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(30, V)))[0].astype(np.float32)
    whole = np.random.default_rng(2).normal(size=(3, PLACES, 30)).astype(np.float32)
    image, text = shop(3)
    expected = encoder.encode(TokenSet(whole @ axes, image.shares), text)
    found = encoder.of_whole_regions(axes).encode(TokenSet(whole, image.shares), text)
    assert found.vectors == pytest.approx(expected.vectors, abs=1e-5)


def test_half_precision_will_do_and_products_of_which_something_is_missing_teach_too() -> None:
    pictures, texts = sets(2 * PRODUCTS_MIN)
    pictures[1:5], texts[4:8] = [None] * 4, [None] * 4  # of the fifth nothing is known
    halves = [Ragged.joined(pictures, V), Ragged.joined(texts, T)]
    image, text = (side._replace(states=side.states.astype(np.float16)) for side in halves)
    rule = RULE._replace(epochs=2, batch=4, precision="bfloat16")
    encoder = teach_cross_modal(image, text, (2, 2), np.arange(2 * PRODUCTS_MIN), rule)
    assert encoder.shape == CrossModalShape(V, T, 32, 2, 4, rows=2, columns=2)
    rows = np.arange(2 * PRODUCTS_MIN)
    found = encoder.encode(image.of(rows, PLACES), text.of(rows)).vectors
    assert np.linalg.norm(found, axis=1) == pytest.approx((rows != 4).astype(float), abs=1e-5)
    assert not np.array_equal(encoder.state()["piece_places"], CrossModalEncoder(encoder.shape).state()["piece_places"])


def test_tokens_one_after_the_other_are_the_batch_that_padded_makes_of_them() -> None:
    texts = sets(6)[1]
    texts[2] = None
    ragged, rows = Ragged.joined(texts, T), np.array([4, 2, 0])
    for made, expected in zip(ragged.of(rows, 9), padded([texts[row] for row in rows], T, 9), strict=True):
        np.testing.assert_array_equal(made, expected)
    none = Ragged.joined([None, None], T).of(np.arange(2))
    assert (none.states.shape, none.shares.any()) == ((2, 1, T), False)


def test_what_is_left_of_shares_adds_up_to_what_they_did_and_never_to_nothing() -> None:
    shares = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]])
    seen = torch.tensor([[True, True, False], [False, False, True]])
    assert left(shares, seen).numpy() == pytest.approx(np.array([[0.4, 0.6, 0], [0.5, 0.5, 0]]))


def test_no_products_have_no_vectors() -> None:
    image, text = shop(2)
    none = [TokenSet(tokens.states[:0], tokens.shares[:0]) for tokens in (image, text)]
    assert CrossModalEncoder(SHAPE).encode(*none).vectors.shape == (0, 32)


# --- what cannot be ----------------------------------------------------------------------------------------------


def test_parameters_of_another_shape_are_refused_with_the_first_that_differs() -> None:
    state = CrossModalEncoder(SHAPE).state()

    def of(shape: CrossModalShape) -> dict[str, np.ndarray]:
        return {**state, "shape": np.array(shape, np.float32)}

    assert CrossModalEncoder.from_state(state).shape == SHAPE
    with pytest.raises(OtherShape, match=r"'image_map' is \(10, 32\), the shape asks for \(12, 32\)"):
        CrossModalEncoder.from_state(of(SHAPE._replace(image_width=12)))
    with pytest.raises(OtherShape, match=r"'layers\.1.*' is in the parameters, not in the shape"):
        CrossModalEncoder.from_state(of(SHAPE._replace(layers=1)))
    for told in (np.zeros(0), np.array([10, 8, 32, 2, 4, 2, 2]), np.array([10, 8, 32, 2, 4, 2, 2, 0.5])):
        with pytest.raises(OtherShape, match=r"not image_width, text_width, .*: teach it again"):
            CrossModalEncoder.from_state({**state, "shape": told})
    del state["query"]
    with pytest.raises(OtherShape, match="'query' is in the shape, not in the parameters"):
        CrossModalEncoder.from_state(state)


def test_tokens_of_another_encoder_and_heads_that_do_not_divide_are_refused() -> None:
    image, text = shop(2)
    with pytest.raises(OtherShape, match=r"are \(4, 10, 7\), not \(4, 10, 8\): of another encoder"):
        CrossModalEncoder(SHAPE).encode(image, TokenSet(text.states[:, :, :7], text.shares))
    with pytest.raises(OtherShape, match=r"are \(3, 10, 8\), not \(4, 10, 8\)"):
        CrossModalEncoder(SHAPE).encode(TokenSet(image.states[:, :3], image.shares[:, :3]), text)
    with pytest.raises(ValueError, match="5 heads do not divide the width 32"):
        CrossModalEncoder(SHAPE._replace(heads=5))


def test_too_few_products_and_broken_tokens_are_refused() -> None:
    with pytest.raises(CannotTrain, match="7 products have a picture and words: give at least 8"):
        taught(PRODUCTS_MIN - 1, RULE)
    with pytest.raises(CannotTrain, match="5 heads do not divide the width 32: take one that they divide"):
        taught(PRODUCTS_MIN, RULE._replace(heads=5))
    pictures, texts = (Ragged.joined(tokens, width) for tokens, width in zip(sets(8), (V, T), strict=True))
    texts.states[0, 0] = np.nan
    with pytest.raises(CannotTrain, match="a token is not finite: encode the products again"):
        teach_cross_modal(pictures, texts, (2, 2), np.arange(8), RULE)
    image, text = shop(PRODUCTS_MIN)
    text.states[0, 0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="a fused vector is not finite"):
        CrossModalEncoder(SHAPE).encode(image, text)
