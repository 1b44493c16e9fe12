"""A list as it is served: which candidates make it, and the click that each of them rests on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.content_lift import AXES
from encoders.list_ranking import ServedFactors, choose_listed, clicks_behind, rank_candidates
from encoders.next_click import GAPS, Weights, embed, score
from encoders.ranking_features import FEATURES, NEXT_CLICK, Knowledge, fill_features, gather_shares, new_scratch
from encoders.reranker import INPUTS, Reranker, bucket_of, new_reranker, rerank
from encoders.second_stage import SecondStage

PRODUCTS, FACTORS, WIDTH = 12, 3, 6
GAP_OF_S = {5.0: 0, 300.0: 1, 1_000.0: 2}
"""Ages of a last click, and the gap that each is."""


def rows(*numbers: int) -> Any:
    return np.array(numbers, np.int32)


def contents(*directions: Sequence[float]) -> Any:
    padded = np.zeros((len(directions), AXES), np.float32)
    for row, direction in enumerate(directions):
        padded[row, : len(direction)] = direction
    return padded


def chosen(scores: Sequence[float], candidates: Any, content: Any, diversity: float, count: int) -> list[int]:
    """The rows of the list."""
    places = choose_listed(np.array(scores, np.float32), candidates, content, diversity, count)
    return candidates[places].tolist()


# --- which candidates make the list --------------------------------------------------------------------------------


def test_without_diversity_the_best_scores_make_the_list_and_ties_go_to_the_lower_row() -> None:
    content = contents(*[[1.0]] * 6)
    assert chosen([0.5, 0.9, 0.5, 0.1], rows(5, 3, 2, 4), content, 0.0, 3) == [3, 2, 5]
    assert chosen([0.5], rows(1), content, 0.0, 3) == [1]
    assert chosen([], rows(), content, 0.0, 3) == []


def test_with_diversity_what_is_like_the_list_gives_way_to_what_is_not() -> None:
    """Scores map to 1, .9, .5 and 0; behind row 0: row 1 has .5 * .9 - .5 * 1 and row 2 has .5 * .5 - .5 * 0."""
    content = contents([1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0])
    scores = [2.0, 1.8, 1.0, 0.0]
    assert chosen(scores, rows(0, 1, 2, 3), content, 0.0, 3) == [0, 1, 2]
    assert chosen(scores, rows(0, 1, 2, 3), content, 0.5, 3) == [0, 2, 1]
    assert chosen(scores[::-1], rows(3, 2, 1, 0), content, 0.5, 4) == [0, 2, 1, 3]


def test_with_diversity_ties_go_to_the_better_score_and_then_to_the_lower_row() -> None:
    content = contents([1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0])
    for diversity in (0.1, 0.3, 0.7, 1.0):
        assert chosen([3.0, 1.0, 1.0, 1.0], rows(0, 3, 2, 1), content, diversity, 2) == [0, 1]
    # All the same but for the score, and score counts nothing: the better one is taken.
    assert chosen([3.0, 2.0, 1.0], rows(0, 4, 3), contents(*[[1.0]] * 5), 1.0, 3) == [0, 4, 3]


def test_only_what_stands_within_four_lists_can_come_up() -> None:
    content = contents(*[[1.0, 0.0]] * 8, [0.0, 1.0])
    falling = np.arange(9, 0, -1).tolist()
    assert chosen(falling, rows(*range(9)), content, 0.9, 2) == [0, 1]  # row 8 is the ninth of eight that are looked at
    assert chosen(falling[:7] + falling[8:], rows(*range(7), 8), content, 0.9, 2) == [0, 8]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 14), candidates=st.integers(0, 12), diversity=st.floats(0, 1))
def test_a_list_holds_each_once_begins_with_the_best_and_its_order_is_that_of_the_rule(
    seed: int, count: int, candidates: int, diversity: float
) -> None:
    chance = np.random.default_rng(seed)
    found = chance.permutation(PRODUCTS)[:candidates].astype(np.int32)
    scores = chance.normal(size=candidates).astype(np.float32)
    directions = chance.normal(size=(PRODUCTS, 3))
    content = contents(*(directions / np.linalg.norm(directions, axis=1, keepdims=True)))
    places = choose_listed(scores, found, content, diversity, count).tolist()
    assert len(places) == len(set(places)) == min(count, candidates)
    if places:
        assert places[0] == int(np.argmax(scores))
    span = max(float(scores.max() - scores.min()), 1e-6) if candidates else 1.0
    worst = sorted(scores.tolist())[-min(4 * count, candidates)] if candidates else 0.0
    span = max(float(scores.max()) - worst, 1e-6) if candidates else 1.0
    window = [place for place in range(candidates) if scores[place] >= worst]

    def value(place: int, taken: list[int]) -> float:
        nearest = max(float(content[found[place]] @ content[found[other]]) for other in taken) if taken else 0.0
        return (1 - diversity) * (float(scores[place]) - worst) / span - diversity * max(nearest, -1.0)

    for at, place in enumerate(places):
        taken = places[:at]
        best = max(value(other, taken) for other in window if other not in taken)
        assert value(place, taken) == pytest.approx(best, abs=1e-4)


# --- scores and the clicks behind them -----------------------------------------------------------------------------


class Shop(NamedTuple):
    """All that a ranking reads, drawn at random."""

    knowledge: Knowledge
    reranker: Reranker
    factors: ServedFactors

    def next_click(self, history: Any, ages_s: Any) -> Any:
        """(P,) next-click scores by the public functions of the model."""
        f = self.factors
        weights = Weights(f.position_weights, f.gap_weights, f.memory_weights, f.memory_length, f.memory_decay)
        known = np.where((history >= 0) & f.known[history], history, -1).astype(np.int32)
        lengths = np.array([len(history)], np.int32)
        scores = score(f.target, f.bias, embed(weights, f.context, known[None], ages_s[None], lengths))[0]
        scores[~f.known] = np.nan
        return scores


def random_shop(seed: int, *, learned: bool = True) -> Shop:
    chance = np.random.default_rng(seed)
    stage = SecondStage(seed=seed)
    stage.grow(PRODUCTS)
    stage.fit(np.arange(PRODUCTS, dtype=np.int32), chance.normal(size=(PRODUCTS, WIDTH)).astype(np.float32))
    for _ in range(80):
        history = chance.integers(-1, PRODUCTS, 5).astype(np.int32)
        stage.learn(history, int(chance.integers(PRODUCTS)))
    reranker = new_reranker(seed)[0]
    if learned:
        for array in reranker[2:]:
            array += chance.normal(size=array.shape).astype(np.float32) * 0.3
        reranker.mean[NEXT_CLICK] = 0.25

    def drawn(*shape: int) -> Any:
        return chance.normal(size=shape).astype(np.float32)

    known = np.ones(PRODUCTS, np.bool_)
    known[-2:] = False
    gaps = 1.0 + 0.1 * drawn(GAPS, FACTORS)
    factors = ServedFactors(
        drawn(3, FACTORS), gaps, drawn(FACTORS), 6, 0.8, drawn(PRODUCTS, FACTORS), drawn(PRODUCTS, FACTORS),
        drawn(PRODUCTS), known,
    )  # fmt: skip
    clicks = chance.integers(0, 30, PRODUCTS).astype(np.int64)
    return Shop(stage.knowledge(clicks), reranker, factors)


HISTORIES = st.lists(st.integers(-1, PRODUCTS - 1), max_size=9)


def ages_of(history: Sequence[int], newest_s: float) -> Any:
    return (newest_s + 40.0 * np.arange(len(history))).astype(np.float32)


def ranked(shop: Shop, listable: Any, history: Any, ages_s: Any) -> dict[int, float]:
    scratch = new_scratch(PRODUCTS)
    age_s = float(ages_s[0]) if len(history) else 0.0
    scores = shop.next_click(history, ages_s)
    found, values = rank_candidates(shop.knowledge, shop.reranker, scores, listable, history, age_s, 0, scratch)
    assert len(found) == len(set(found.tolist()))
    assert (scratch.place == -1).all()
    assert (scratch.sums == 0).all()
    return dict(zip(found.tolist(), values.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 50),
    history=HISTORIES,
    newest_s=st.sampled_from(sorted(GAP_OF_S)),
    listable=st.lists(st.booleans(), min_size=PRODUCTS, max_size=PRODUCTS),
)
def test_the_score_of_a_product_does_not_depend_on_which_others_may_be_listed(
    seed: int, history: list[int], newest_s: float, listable: list[bool]
) -> None:
    shop, clicked, ages_s = random_shop(seed), rows(*history), ages_of(history, newest_s)
    allowed = np.array(listable, np.bool_)
    every = ranked(shop, np.ones(PRODUCTS, np.bool_), clicked, ages_s)
    some = ranked(shop, allowed, clicked, ages_s)
    assert set(some) == {row for row in every if allowed[row]}  # so few products that all are candidates
    assert some == {row: every[row] for row in some}


def test_a_product_without_factors_stands_where_the_average_candidate_does() -> None:
    """Before anything is learned the score is alpha * x + (1 - alpha) * cosine, and x is 0 for it."""
    shop = random_shop(3, learned=False)
    shop.reranker.mean[NEXT_CLICK] = 5.0
    clicks = np.full(PRODUCTS, 5, np.int64)  # alpha = 1/2
    shop = shop._replace(knowledge=shop.knowledge._replace(clicks=clicks))
    clicked = rows(0)
    made = ranked(shop, np.ones(PRODUCTS, np.bool_), clicked, ages_of([0], 5.0))
    cosine = float(shop.knowledge.content[0] @ shop.knowledge.content[PRODUCTS - 1])
    assert made[PRODUCTS - 1] == pytest.approx(0.5 * cosine, abs=1e-5)


def behind(shop: Shop, history: Any, ages_s: Any, listed: Any) -> list[int]:
    place = new_scratch(PRODUCTS).place
    found = clicks_behind(shop.knowledge, shop.reranker, shop.factors, history, ages_s, listed, place)
    assert (place == -1).all()
    return found.tolist()


def test_the_click_behind_a_product_is_the_one_without_which_it_would_stand_lowest() -> None:
    """Products 0 and 1 are clicked: 2 has the content of 0, 3 that of 1, and 4 is the opposite of both."""
    stage = SecondStage()
    stage.grow(5)
    content = stage.knowledge(np.zeros(5, np.int64)).content
    content[:5] = contents([1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [-0.7, -0.7])
    none = np.zeros((1024, 0), np.float32)
    nothing_known = np.zeros(1024, np.bool_)
    factors = ServedFactors(
        none[:1], np.zeros((GAPS, 0), np.float32), none[0], 1, 1.0, none, none, np.zeros(1024, np.float32),
        nothing_known,
    )  # fmt: skip
    shop = Shop(stage.knowledge(np.zeros(1024, np.int64)), new_reranker()[0], factors)
    place = new_scratch(1024).place
    history, ages_s = rows(0, 1, 0, -1), np.array([5.0, 9.0, 20.0, 30.0], np.float32)
    found = clicks_behind(shop.knowledge, shop.reranker, shop.factors, history, ages_s, rows(3, 2, 4), place)
    assert found.tolist() == [1, 0, -1]
    none_behind = clicks_behind(shop.knowledge, shop.reranker, shop.factors, rows(), ages_s[:0], rows(3, 2), place)
    assert none_behind.tolist() == [-1, -1]


def _score_without(shop: Shop, history: Any, ages_s: Any, listed: Any, bucket: int, gap: int) -> Any:
    """(K,) what the list's products score after this history, bucket and gap being held, by the public functions."""
    next_click = shop.next_click(history, ages_s)[listed]
    next_click = np.where(np.isnan(next_click), shop.reranker.mean[NEXT_CLICK], next_click).astype(np.float32)
    k, place = shop.knowledge, new_scratch(PRODUCTS).place
    after, together = (gather_shares(table, history, listed, place) for table in (k.after, k.together))
    features = np.empty((len(listed), len(FEATURES)), np.float32)
    fill_features(k, next_click, history, listed, after, together, features)
    scores, inputs = np.empty(len(listed), np.float32), np.empty((len(listed), INPUTS), np.float32)
    rerank(shop.reranker, features, bucket, gap, inputs, scores)
    return scores


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 50), history=HISTORIES, newest_s=st.sampled_from(sorted(GAP_OF_S)))
def test_what_is_behind_a_product_is_what_leaving_each_clicked_product_out_in_turn_tells(
    seed: int, history: list[int], newest_s: float
) -> None:
    shop, ages_s = random_shop(seed), ages_of(history, newest_s)
    listed = np.random.default_rng(seed).permutation(PRODUCTS)[:7].astype(np.int32)
    bucket, gap = bucket_of(sum(row >= 0 for row in history)), GAP_OF_S[newest_s] if history else 0
    whole = _score_without(shop, rows(*history), ages_s, listed, bucket, gap)
    if history:
        every = ranked(shop, np.ones(PRODUCTS, np.bool_), rows(*history), ages_s)
        np.testing.assert_allclose(whole, [every[row] for row in listed.tolist()], rtol=1e-4, atol=1e-4)
    without: dict[int, Any] = {}
    for row in {row for row in history if row >= 0}:
        kept = [place for place, other in enumerate(history) if other != row]
        left = rows(*(history[place] for place in kept))
        without[row] = _score_without(shop, left, ages_s[kept], listed, bucket, gap)
    for at, found in enumerate(behind(shop, rows(*history), ages_s, listed)):
        lowest = min((float(scores[at]) for scores in without.values()), default=np.inf)
        if found == -1:
            assert lowest >= whole[at] - 1e-4
        else:
            assert without[found][at] == pytest.approx(lowest, abs=1e-4)
            assert lowest <= whole[at] + 1e-4
