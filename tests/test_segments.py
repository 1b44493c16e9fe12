"""What is popular in a segment, for a user of whom nothing else is known: from clicks to her list."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from examples import TOPIC_IDS, assortment_of, example, learn_all, records
from hypothesis import given, settings
from hypothesis import strategies as st
from shelves import factors, offer

from encoders.list_ranking import rank_candidates, rank_rows
from encoders.next_click import longer
from encoders.ranking_features import Knowledge, new_scratch, no_knowledge, room_for
from encoders.reranker import new_reranker
from encoders.second_stage import SecondStage
from encoders.segments import (
    BEST_SELLERS,
    EVERYBODY,
    HALF_LIFE,
    SEGMENTS_MAX,
    add_lifts,
    count_in_segment,
    fade_counts,
    packed,
    room_for_columns,
    take_best_sellers,
    unpacked,
)
from store.history import History
from store.records import Click
from streams.factors import factor_records
from streams.learning import Learning
from streams.model_events import ItemFactors
from streams.parsing import parse
from streams.ranking import Ranker
from streams.replicas import shelf_topics
from streams.settings import Settings
from streams.shelf import Shelf
from streams.topics import topic_names

NAMES = topic_names(Settings(), "ab12")
PRODUCTS = 400
NOBODY: Any = np.empty(0, np.int32)


def rows(*numbers: int) -> Any:
    return np.array(numbers, np.int32)


def known_of(counts: Sequence[Sequence[float]], now: int = 0) -> Knowledge:
    """These counts (P, 1 + S), all counted at 0."""
    knowledge = room_for(no_knowledge(), len(counts))
    segments = np.array(counts, np.float32)
    return knowledge._replace(clicks=np.full(len(counts), 10, np.int64), segments=segments, now=now)


def lifts_of(knowledge: Knowledge, column: int) -> list[float]:
    """By the numbers, not by their logarithms."""
    products = len(knowledge.segments)
    of_segment, of_all, scores = np.empty((3, products), np.float32)
    share = fade_counts(knowledge, column, of_segment, of_all)
    scores[:] = 0.0
    add_lifts(of_segment, of_all, share, np.arange(products, dtype=np.int32), scores)
    lifts: list[float] = np.exp(scores).tolist()
    return lifts


# --- numbers -----------------------------------------------------------------------------------------------------


def test_a_lift_is_what_was_clicked_by_what_was_to_be_expected_and_five_clicks_beside_both() -> None:
    # Half of all clicks are the segment's: 15 of 30 are expected.
    assert lifts_of(known_of([[30, 25], [30, 5], [0, 0]]), 1) == pytest.approx([30 / 20, 10 / 20, 1.0])


def test_a_product_without_clicks_and_a_segment_without_clicks_change_nothing_at_all() -> None:
    assert lifts_of(known_of([[30, 25, 0], [30, 5, 0], [0, 0, 0]]), 1)[2] == 1.0
    assert lifts_of(known_of([[30, 25, 0], [30, 5, 0], [0, 0, 0]]), 2) == [1.0, 1.0, 1.0]


def test_one_click_says_little_however_rare_the_product_or_the_segment_is() -> None:
    assert max(lifts_of(known_of([[1, 1, 0], [99, 0, 1], [9_900, 9, 0]]), 1)) < 6 / 5
    assert max(lifts_of(known_of([[1, 1, 0], [99, 0, 1], [9_900, 9, 0]]), 2)) < 6 / 5


def test_counts_fade_with_the_clicks_of_the_whole_shop() -> None:
    counts, counted_at = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
    count_in_segment(counts, counted_at, 0, 2, 0)
    half, quarter = int(HALF_LIFE), int(2 * HALF_LIFE)
    count_in_segment(counts, counted_at, 0, EVERYBODY, half)
    assert counts.tolist() == [[1.5, 0.0, 0.5], [0.0, 0.0, 0.0]]
    knowledge = known_of([[4, 2], [4, 0]], now=quarter)
    of_segment, of_all = np.empty((2, 2), np.float32)
    assert fade_counts(knowledge, 1, of_segment, of_all) == pytest.approx(2 / 8)  # all have faded alike
    assert (of_segment.tolist(), of_all.tolist()) == ([0.5, 0.0], [1.0, 1.0])


def test_best_sellers_are_taken_once_each_and_only_what_was_clicked_and_may_be_listed() -> None:
    of_segment, listable = np.zeros(PRODUCTS, np.float32), np.ones(PRODUCTS, np.bool_)
    of_segment[[7, 8, 9]] = (3, 2, 1)
    listable[8] = False
    candidates = np.empty(40, np.int32)
    candidates[0] = 9
    count = take_best_sellers(of_segment, listable, 1, candidates)
    assert candidates[:count].tolist() == [9, 7]
    of_segment[:100] = np.arange(100)
    listable[8] = True
    count = take_best_sellers(of_segment, listable, 1, candidates)
    assert sorted(candidates[1:count].tolist()) == list(range(70, 100))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1), unique=True))
def test_names_come_back_in_their_order(names: list[str]) -> None:
    columns = {name: column for column, name in enumerate(names, 1)}
    assert unpacked(packed(columns)) == columns


# --- what learns -------------------------------------------------------------------------------------------------


def stage_of(clicks: Sequence[tuple[int, str | None]], *, stage: SecondStage | None = None) -> SecondStage:
    stage = stage or SecondStage()
    stage.grow(10)
    for row, segment in clicks:
        stage.learn(NOBODY, row, segment)
    return stage


def test_a_shop_whose_clicks_name_no_segment_has_no_columns_and_says_nothing_of_them() -> None:
    stage = stage_of([(1, None), (2, ""), (1, None)])
    assert stage.knowledge(np.zeros(10, np.int64)).segments.shape[1] == 0
    assert stage.segments_of(1) == {}
    assert not any("segment" in name for name in stage.state(10))


def test_from_the_first_click_with_a_segment_on_the_others_count_for_the_whole() -> None:
    stage = stage_of([(1, None), (1, "DE"), (1, None), (1, "FR"), (2, None)])
    assert stage.segments_of(1) == pytest.approx({"": 3.0, "DE": 1.0, "FR": 1.0}, rel=1e-3)
    assert stage.segments_of(2) == {"": 1.0}
    assert stage.segments_of(3) == {}


def test_the_segment_that_comes_65th_counts_only_for_the_whole() -> None:
    stage = stage_of([(1, f"segment {number}") for number in range(SEGMENTS_MAX + 1)])
    assert len(stage.segments) == SEGMENTS_MAX == 64
    assert f"segment {SEGMENTS_MAX}" not in stage.segments_of(1)
    assert stage.segments_of(1)[""] == pytest.approx(65.0, rel=0.01)
    assert stage_of([(2, "segment 3")], stage=stage).segments_of(2) == {"": 1.0, "segment 3": 1.0}


def test_of_a_product_that_is_forgotten_no_counts_are_left_in_its_row() -> None:
    stage = stage_of([(1, "DE"), (2, "DE")])
    stage.forget(rows(1))
    assert stage.segments_of(1) == {}
    assert stage.segments_of(2) == {"": 1.0, "DE": 1.0}


@settings(max_examples=30, deadline=None)
@given(
    clicks=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([None, "DE", "FR", "Österreich"])), max_size=20),
    saved_after=st.integers(0, 20),
)
def test_a_restart_equals_no_restart(clicks: list[tuple[int, str | None]], saved_after: int) -> None:
    whole = stage_of(clicks)
    restored = SecondStage.from_state(stage_of(clicks[:saved_after]).state(10))
    resumed = stage_of(clicks[saved_after:], stage=restored)
    assert resumed.segments == whole.segments
    ours, theirs = whole.state(10), resumed.state(10)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], name)


# --- what ranks --------------------------------------------------------------------------------------------------


class Drawn:
    """A shop drawn at random: clicks of three segments, a re-ranker that has learned anything."""

    def __init__(self, seed: int = 0) -> None:
        chance = np.random.default_rng(seed)
        stage = SecondStage(seed=seed)
        stage.grow(PRODUCTS)
        stage.fit(np.arange(PRODUCTS, dtype=np.int32), chance.normal(size=(PRODUCTS, 8)).astype(np.float32))
        for _ in range(600):
            row = int(PRODUCTS * chance.random() ** 2)
            history = chance.integers(-1, PRODUCTS, 4).astype(np.int32)
            stage.learn(history, row, (None, "DE", "FR", "IT")[int(chance.integers(4))])
        self.reranker = new_reranker(seed)[0]
        for array in self.reranker[2:]:
            array += chance.normal(size=array.shape).astype(np.float32) * 0.3
        self.scores = chance.normal(size=PRODUCTS).astype(np.float32)
        self.knowledge = stage.knowledge(np.full(PRODUCTS, 10, np.int64))

    def ranked(self, history: Any, segment: int, *, knowledge: Knowledge | None = None) -> tuple[Any, Any]:
        listable, k = np.ones(PRODUCTS, np.bool_), knowledge or self.knowledge
        scratch = new_scratch(PRODUCTS)
        return rank_candidates(k, self.reranker, self.scores, listable, history, 5.0, segment, scratch)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 5), history=st.lists(st.integers(-1, PRODUCTS - 1), max_size=6), segment=st.integers(0, 3))
def test_rows_that_are_ranked_by_themselves_have_the_scores_that_they_have_as_candidates(
    seed: int, history: list[int], segment: int
) -> None:
    shop = Drawn(seed)
    found, scores = shop.ranked(rows(*history), segment)
    some, scratch = found[::3].copy(), new_scratch(PRODUCTS)
    alone = rank_rows(shop.knowledge, shop.reranker, shop.scores, rows(*history), 5.0, segment, some, scratch)
    np.testing.assert_array_equal(alone, scores[::3])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 5), history=st.lists(st.integers(-1, PRODUCTS - 1), max_size=6), segment=st.integers(0, 3))
def test_who_has_a_click_or_no_segment_gets_the_same_to_the_last_bit_as_in_a_shop_without_any(
    seed: int, history: list[int], segment: int
) -> None:
    shop = Drawn(seed)
    without = shop.knowledge._replace(segments=np.zeros((PRODUCTS, 0), np.float32))
    is_known = any(row >= 0 for row in history)
    found, scores = shop.ranked(rows(*history), segment if is_known else EVERYBODY)
    expected, of_them = shop.ranked(rows(*history), EVERYBODY, knowledge=without)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scores, of_them)


def test_without_a_known_click_each_score_is_the_one_of_everybody_and_the_lift() -> None:
    shop = Drawn()
    for history in (NOBODY, rows(-1, -1)):
        everybody = dict(zip(*map(np.ndarray.tolist, shop.ranked(history, EVERYBODY)), strict=True))
        found, scores = shop.ranked(history, 2)
        lifts = np.log(lifts_of(shop.knowledge, 2))
        assert len(set(found.tolist())) == len(found) > len(everybody)  # best sellers beside
        for row, score in zip(found.tolist(), scores.tolist(), strict=True):
            if row in everybody:
                assert score == pytest.approx(everybody[row] + lifts[row], abs=1e-5)
        of_segment, of_all = np.empty((2, PRODUCTS), np.float32)
        fade_counts(shop.knowledge, 2, of_segment, of_all)
        best = np.argsort(-of_segment, kind="stable")[:BEST_SELLERS]
        assert set(best.tolist()) <= set(found.tolist())


def test_the_score_of_a_product_does_not_depend_on_which_others_may_be_listed() -> None:
    shop = Drawn()
    found, scores = shop.ranked(NOBODY, 1)
    some = shop.knowledge.clicks[:] % 2 == 0
    some[::3] = False
    scratch = new_scratch(PRODUCTS)
    fewer, of_them = rank_candidates(shop.knowledge, shop.reranker, shop.scores, some, NOBODY, 5.0, 1, scratch)
    every = dict(zip(found.tolist(), scores.tolist(), strict=True))
    assert some[fewer].all()
    assert set(fewer.tolist()) & every.keys()
    assert all(every.get(row, score) == score for row, score in zip(fewer.tolist(), of_them.tolist(), strict=True))


# --- from the learner to the list --------------------------------------------------------------------------------

TASTES = {"DE": ("bread", "sausage", "mustard"), "FR": ("baguette", "cheese", "wine")}


class Taught:
    """Two segments that click nothing in common, DE twice as often; the shelf has what the learner has published."""

    def __init__(self) -> None:
        chance = np.random.default_rng(0)
        names = [name for taste in TASTES.values() for name in taste]
        self.learning = Learning(assortment_of(*names), TOPIC_IDS)
        self.shelf = Shelf()
        for name in names:
            self.shelf.put_offer(name.encode(), offer(title=name), ())
        made = []
        for position in range(300):
            segment = "FR" if position % 3 == 0 else "DE"
            made.append(example(position, TASTES[segment][int(chance.integers(3))], segment=segment))
        self.learning.receive(records(*made))
        learn_all(self.learning)
        self.messages = factor_records(self.learning.take_changes(100, 100), NAMES, 1, 1)
        puts = shelf_topics(self.shelf, NAMES)
        for message in self.messages:
            puts[message.topic](message.key or b"", message.value, message.headers)

    def list_of(self, segment: str | None, *clicked: str) -> list[dict[str, Any]]:
        history = History.of([Click(product_id, "view_item", 100.0) for product_id in clicked])
        ranker = Ranker(self.shelf, length=6, seen_events=())
        return ranker.rank([history, History.of(())], segments=[segment, None])[0].items

    def ids_of(self, segment: str | None, *clicked: str) -> list[str]:
        return [item["product_id"] for item in self.list_of(segment, *clicked)]


@pytest.fixture(scope="module")
def taught() -> Taught:
    return Taught()


def test_who_is_not_known_gets_first_what_is_popular_in_her_segment(taught: Taught) -> None:
    for segment, taste in TASTES.items():
        assert set(taught.ids_of(segment)[:3]) == set(taste)
        assert set(taught.ids_of(segment, "unheard of", "unheard of too")[:3]) == set(taste)


def test_without_a_segment_or_with_one_that_nobody_has_she_gets_what_is_popular_everywhere(taught: Taught) -> None:
    everywhere = taught.list_of(None)
    assert {item["product_id"] for item in everywhere[:3]} == set(TASTES["DE"])
    assert taught.list_of("") == taught.list_of("IT") == everywhere


def test_who_has_clicked_gets_the_same_list_whatever_her_segment_is(taught: Taught) -> None:
    assert taught.list_of("FR", "bread") == taught.list_of("DE", "bread") == taught.list_of(None, "bread")


def test_a_record_says_the_clicks_of_each_segment_as_the_shelf_then_has_them(taught: Taught) -> None:
    of_wine = next(one for one in taught.messages if one.topic == NAMES.item_factors and one.key == b"wine")
    record = parse(ItemFactors, of_wine.value or b"")
    assert set(record.segments) == {"", "FR"}
    assert record.segments == taught.learning.stage.segments_of(taught.learning.rows["wine"])
    knowledge, column = taught.shelf.stage.knowledge(taught.shelf.clicks), taught.shelf.stage.column_of("FR")
    row = taught.shelf.rows["wine"]
    assert knowledge.segments[row, [EVERYBODY, column]].tolist() == [record.segments[""], record.segments["FR"]]


def test_a_record_without_segments_is_as_it_was_before_there_were_any() -> None:
    learning = Learning(assortment_of("a"), TOPIC_IDS)
    learning.receive(records(example(0, "a")))
    learn_all(learning)
    of_a = next(one for one in factor_records(learning.take_changes(1), NAMES, 1, 1) if one.key == b"a")
    assert "segments" not in orjson.loads(of_a.value or b"")
    assert parse(ItemFactors, of_a.value or b"").segments == {}


def put(shelf: Shelf, product_id: str, sequence: int, **segments: float) -> None:
    value = orjson.loads(factors([1.0], sequence=sequence))
    shelf.put_factors(product_id.encode(), orjson.dumps(value | ({"segments": segments} if segments else {})), ())


def test_a_shelf_reads_records_with_segments_and_without_in_any_order() -> None:
    shelf = Shelf()
    put(shelf, "a", 1)
    assert shelf.stage.column_of("DE") == EVERYBODY
    put(shelf, "a", 2, **{"": 1.0})
    put(shelf, "b", 3, **{"FR": 1.0, "": 3.0, "DE": 2.0})
    for number in range(1_100):  # the arrays grow
        put(shelf, f"c{number}", 4)
    columns = [EVERYBODY, shelf.stage.column_of("DE"), shelf.stage.column_of("FR")]
    segments = shelf.stage.knowledge(shelf.clicks).segments
    assert segments[:2][:, columns].tolist() == [[1.0, 0.0, 0.0], [3.0, 2.0, 1.0]]
    assert not segments[2:].any()
    put(shelf, "b", 5)
    assert not shelf.stage.knowledge(shelf.clicks).segments[1].any()


def test_a_shelf_has_no_column_beyond_those_that_there_can_be() -> None:
    shelf = Shelf()
    put(shelf, "a", 1, **{"": 65.0}, **{f"segment {number}": 1.0 for number in range(65)})
    segments = shelf.stage.knowledge(shelf.clicks).segments
    assert segments[0].tolist() == [65.0] + [1.0] * 64
    assert shelf.stage.column_of("segment 64") == EVERYBODY


def test_another_product_in_the_row_has_no_clicks_of_any_segment() -> None:
    shelf = Shelf()
    put(shelf, "a", 1, **{"": 2.0, "DE": 2.0})
    shelf.stage.clear(shelf.rows["a"])
    assert not shelf.stage.knowledge(shelf.clicks).segments.any()


def test_a_learner_that_is_restored_knows_the_segments_also_of_examples_that_wait() -> None:
    before = Learning(assortment_of("a"), TOPIC_IDS)
    before.receive(records(example(0, "a", segment="DE"), example(1, "b", segment="FR"), example(2, "b")))
    learn_all(before)
    later = assortment_of("a", "b")
    after = Learning(later, TOPIC_IDS, checkpoint=before.checkpoint())
    assert [one.segment for one in after.ready] == ["FR", None]
    learn_all(after)
    assert after.stage.segments_of(after.rows["a"]) == {"": 1.0, "DE": 1.0}
    assert after.stage.segments_of(after.rows["b"]) == pytest.approx({"": 2.0, "FR": 1.0}, rel=1e-3)


def test_a_checkpoint_from_before_there_were_segments_is_gone_on_from() -> None:
    before = Learning(assortment_of("a"), TOPIC_IDS)
    before.receive(records(example(0, "a"), example(1, "b")))
    learn_all(before)
    arrays, meta = before.checkpoint()
    assert arrays.pop("waiting_segments").tolist() == [-1]
    after = Learning(assortment_of("a", "b"), TOPIC_IDS, checkpoint=(arrays, meta))
    assert [(one.product_id, one.segment) for one in after.ready] == [("b", None)]


@pytest.mark.parametrize("segment", [7, True, ["DE"], {"DE": 1}])
def test_an_example_whose_segment_is_no_text_is_skipped(segment: Any) -> None:
    learning = Learning(assortment_of("a"), TOPIC_IDS)
    learning.receive(records(orjson.dumps(orjson.loads(example(0, "a")) | {"segment": segment})))
    assert (learning.malformed, learning.lag) == (1, 0)


def test_columns_that_are_there_stay_where_they_are_as_more_come() -> None:
    counts = room_for_columns(longer(np.zeros((0, 0), np.float32), 3), {"DE": 1})
    counts[:] = [[1, 2], [3, 4], [5, 6]]
    more = room_for_columns(counts, {"DE": 1, "FR": 2})
    assert more.tolist() == [[1, 2, 0], [3, 4, 0], [5, 6, 0]]
    assert more.flags.c_contiguous
    assert room_for_columns(more, {"DE": 1}) is more
