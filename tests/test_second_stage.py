"""The second stage as it learns: what is clicked after what, and where the clicked product stood."""

from typing import Any

import numpy as np
import pytest

from encoders.content_lift import fit_map, new_lift
from encoders.neighbours import AFTER_DECAY, learn_neighbours, no_neighbours
from encoders.next_click_training import FactorsDiverged
from encoders.ranking_features import AFTER, FEATURES, fill_features, find_candidates, gather_shares, new_scratch
from encoders.reranker import INPUTS, new_reranker, rerank
from encoders.second_stage import SecondStage
from encoders.trends import count_click, log_count, no_trends

PRODUCTS = 40
NO_SCORES = np.zeros(PRODUCTS, np.float32)
ALL = np.ones(PRODUCTS, np.bool_)


def rows(*numbers: int) -> Any:
    return np.array(numbers, np.int32)


def taught(clicks: int, *, seed: int = 0, stage: SecondStage | None = None) -> SecondStage:
    """After product 2 n comes 2 n + 1, always."""
    chance = np.random.default_rng(seed)
    stage = stage or SecondStage()
    stage.grow(PRODUCTS)
    for _ in range(clicks):
        pair = 2 * int(chance.integers(PRODUCTS // 2))
        learned = np.full(PRODUCTS, 10, np.int64)
        stage.rank_and_learn(NO_SCORES, learned, ALL, rows(pair), 5.0, pair + 1, 1.0)
        stage.learn(rows(pair), pair + 1)
    return stage


def test_shares_are_those_of_the_clicks_that_followed() -> None:
    after, together = no_neighbours(4), no_neighbours(4)
    changed = np.zeros(4, np.float32)
    learn_neighbours(after, together, changed, 1, rows(0))
    learn_neighbours(after, together, changed, 2, rows(0))
    assert dict(zip(after.ids[0, :2].tolist(), after.shares[0, :2].tolist(), strict=True)) == {1: 0.5, 2: 0.5}
    assert (after.ids[1] == -1).all()  # nothing came after 1
    assert together.ids[1, 0] == 0
    learn_neighbours(after, together, changed, 3, rows(1, 0))
    assert after.evidence[0] == pytest.approx(2 + AFTER_DECAY)
    assert after.shares[0, :3].sum() == pytest.approx(1.0)
    assert changed.all()


def test_a_count_halves_in_its_half_life() -> None:
    trends = no_trends(1)
    count_click(trends, 0, 100)
    assert np.exp(log_count(trends, 0, 0, 300)) == pytest.approx(0.5, abs=0.002)
    assert np.exp(log_count(trends, 0, 1, 2_100)) == pytest.approx(0.5, abs=0.002)


def test_before_anything_is_learned_the_score_is_the_blend_of_clicks_and_content() -> None:
    reranker, _ = new_reranker()
    features = np.zeros((2, len(FEATURES)), np.float32)
    names = list(FEATURES)
    features[:, names.index("next_click")] = (3.0, 1.0)
    features[:, names.index("cosine_mean")] = (0.0, 0.5)
    features[:, names.index("clicks")] = np.log([6.0, 1.0])  # 5 clicks and none
    scores, inputs = np.empty(2, np.float32), np.empty((2, INPUTS), np.float32)
    rerank(reranker, features, 1, 0, inputs, scores)
    assert scores.tolist() == pytest.approx([0.5 * 3.0 + 0.5 * 0.0, 0.5])


def test_what_always_follows_is_learned_to_stand_first() -> None:
    stage = taught(1_500)
    knowledge = stage.knowledge(np.full(PRODUCTS, 10, np.int64))
    scratch, found = new_scratch(PRODUCTS), np.empty(400, np.int32)
    candidates = found[: find_candidates(knowledge, NO_SCORES, ALL, rows(6), scratch, found)]
    assert sorted(candidates.tolist()) == list(range(PRODUCTS))  # each once
    features = np.empty((PRODUCTS, len(FEATURES)), np.float32)
    after, together = (
        gather_shares(table, rows(6), candidates, scratch.place) for table in (knowledge.after, knowledge.together)
    )
    fill_features(knowledge, NO_SCORES, rows(6), candidates, after, together, features)
    scores, inputs = np.empty(PRODUCTS, np.float32), np.empty((PRODUCTS, INPUTS), np.float32)
    rerank(stage.serving().reranker, features, 1, 0, inputs, scores)
    assert candidates[np.argmax(scores)] == 7
    assert features[candidates == 7, AFTER].item() == pytest.approx(0.0, abs=0.01)  # log of a share of 1


def test_a_stage_that_is_restored_goes_on_as_if_nothing_had_been() -> None:
    whole = taught(100, seed=2, stage=taught(100))
    half = SecondStage.from_state(taught(100).state(PRODUCTS))
    resumed = taught(100, seed=2, stage=half)
    ours, theirs = whole.state(PRODUCTS), resumed.state(PRODUCTS)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], name)


def test_a_product_that_is_forgotten_is_nobodys_neighbour() -> None:
    stage = taught(300)
    stage.forget(rows(7))
    (after, shares), _ = stage.neighbours_of(6)
    assert 7 not in after.tolist()
    assert len(after) == len(shares)
    assert all(len(ids) == 0 for ids, _ in stage.neighbours_of(7))


def test_what_no_list_might_have_held_is_no_candidate() -> None:
    stage = taught(50)
    only = np.zeros(PRODUCTS, np.bool_)
    only[[3, 9]] = True
    assert not stage.rank_and_learn(NO_SCORES, np.zeros(PRODUCTS, np.int64), only, rows(2), 5.0, 5, 1.0)
    assert stage.rank_and_learn(NO_SCORES, np.zeros(PRODUCTS, np.int64), only, rows(2), 5.0, 3, 1.0)


def test_contents_keep_the_neighbourhood_of_the_fused_vectors() -> None:
    fused = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    contents = fit_map(fused).apply(fused)
    centred = fused - fused.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(contents @ contents.T, centred @ centred.T, atol=1e-5)
    assert (new_lift().last == 2.0 * np.eye(len(new_lift().last))).all()


def test_a_content_stays_bit_by_bit_when_it_is_placed_again_beside_others() -> None:
    fused = np.random.default_rng(0).normal(size=(PRODUCTS, 300)).astype(np.float32)
    stage, every = SecondStage(), np.arange(PRODUCTS, dtype=np.int32)
    stage.grow(PRODUCTS)
    stage.fit(every, fused)
    content = stage.knowledge(np.zeros(PRODUCTS, np.int64)).content
    before = content.copy()
    for row in range(PRODUCTS):
        stage.place(every[row : row + 1], fused[row : row + 1])
    np.testing.assert_array_equal(content, before)
    stage.place(every[:1], fused[1:2])
    np.testing.assert_allclose(content[0], before[1], atol=1e-6)


def test_a_reranker_that_is_not_finite_says_so() -> None:
    stage = taught(10)
    stage.serving().reranker.outward[0] = np.nan
    with pytest.raises(FactorsDiverged, match="not finite after 11 lists: restore the last checkpoint"):
        stage.rank_and_learn(NO_SCORES, np.full(PRODUCTS, 10, np.int64), ALL, rows(2), 5.0, 3, 1.0)
