"""What the learner knows: each example once, whatever is delivered twice, late, or before its product."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
import pytest
from examples import TOPIC_IDS, assortment_of, example, learn_all, offer, records, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.next_click_training import FactorsDiverged
from store.history import EVENTS
from streams.assortment import Assortment
from streams.events import BadEvent
from streams.examples import (
    PAGE,
    PAGES,
    Example,
    SeenPositions,
    Source,
    Waiting,
    pack_examples,
    parse_example,
    unpack_examples,
)
from streams.factors import factor_records
from streams.learning import Learning
from streams.model_events import ItemFactors, ItemNeighbours, ModelRecord, ModelWeights, SecondStageWeights
from streams.pace import Pace
from streams.parsing import parse
from streams.settings import Settings
from streams.topics import topic_names

NAMES = topic_names(Settings(), "ab12")


def at(position: int, topic_id: str = "t", partition: int = 0) -> Source:
    return Source(topic_id, partition, position)


# --- positions that were seen ------------------------------------------------------------------------------------


def test_a_writer_that_retries_a_batch_loses_nothing_and_counts_nothing_twice() -> None:
    seen = SeenPositions()
    assert [seen.add(at(position)) for position in (97, 96, 97, 98)] == [True, True, False, True]


def test_sources_are_told_apart_by_topic_id_and_partition() -> None:
    seen = SeenPositions()
    sources = [at(5), at(5, partition=1), at(5, topic_id="made-again")]
    assert [seen.add(source) for source in sources + sources] == [True] * 3 + [False] * 3


def test_a_position_a_million_behind_the_highest_counts_as_seen() -> None:
    seen = SeenPositions()
    assert seen.add(at(PAGES * PAGE))
    assert not seen.add(at(PAGE - 1))
    assert seen.add(at(PAGE))


def test_sources_of_other_topics_can_be_forgotten() -> None:
    seen = SeenPositions()
    assert seen.add(at(1, "old"))
    assert seen.add(at(1, "now"))
    seen.keep_only("now")
    assert [seen.add(at(1, "old")), seen.add(at(1, "now"))] == [True, False]


@settings(max_examples=60, deadline=None)
@given(
    sources=st.lists(
        st.builds(at, st.integers(0, 3 * PAGE), st.sampled_from(["t", "u"]), st.integers(0, 1)), max_size=80
    ),
    saved_after=st.integers(0, 80),
)
def test_within_the_window_it_is_a_set_also_after_a_restart(sources: list[Source], saved_after: int) -> None:
    seen, truth = SeenPositions(), set[Source]()
    for number, source in enumerate(sources):
        if number == saved_after:
            seen = SeenPositions.from_state(*seen.state())
        assert seen.add(source) == (source not in truth)
        truth.add(source)


# --- examples that wait ------------------------------------------------------------------------------------------


def waiting_example(product_id: str, *history: str) -> Example:
    clicks = len(history)
    event = EVENTS[clicks % len(EVENTS)]
    return Example(
        product_id,
        history,
        np.arange(clicks, dtype=np.float32),
        np.arange(clicks) % 2 == 0,
        event,
        clicks < 4,
        (None, "a", "segment")[clicks % 3],
    )


def test_waiting_examples_are_released_in_the_order_of_arrival() -> None:
    waiting = Waiting()
    for number, product_id in enumerate("abacb"):
        waiting.add(waiting_example(product_id, str(number)))
    assert [example.history for example in waiting.release("ba")] == [("0",), ("1",), ("2",), ("4",)]
    assert [example.product_id for example in waiting.all()] == ["c"]
    assert waiting.release("ba") == []


def test_beyond_the_bound_the_oldest_is_dropped_and_counted() -> None:
    waiting = Waiting(most=2)
    for number, product_id in enumerate("aab"):
        waiting.add(waiting_example(product_id, str(number)))
    assert waiting.dropped == 1
    assert [example.history for example in waiting.release("ab")] == [("1",), ("2",)]


@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=6), max_size=10))
def test_packed_examples_come_back_as_they_were(ids: list[list[str]]) -> None:
    examples = [waiting_example(*some) for some in ids]
    unpacked = unpack_examples(*pack_examples(examples))
    assert [_as_lists(one) for one in unpacked] == [_as_lists(one) for one in examples]


def _as_lists(example: Example) -> list[Any]:
    return [part.tolist() if isinstance(part, np.ndarray) else part for part in example]


def test_an_example_is_read_and_its_history_cut_to_what_the_model_reads() -> None:
    source, read = parse_example(example(7, "a", *(f"p{n}" for n in range(60)), partition=3))
    assert source == ("clicks-1", 3, 7)
    assert (read.product_id, len(read.history), read.history[0]) == ("a", 50, "p0")
    assert read.ages_s[:2].tolist() == [60.0, 120.0]
    _, odd = parse_example(example(7, "a", "b", "c").replace(b"120.0", b"1e39").replace(b"60.0", b"-1"))
    assert odd.ages_s.tolist() == [0.0, 1e9]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"not json",
        b"[]",
        b"{}",
        example(7, "a").replace(b"7", b"-7"),
        example(7, "a").replace(b"7", b"7.0"),
        example(7, "a").replace(b'"a"', b"1"),
        example(7, "a", "b").replace(b"60.0", b'"old"'),
        example(7, "a", "b").replace(b"60.0", b"null"),
        example(7, "a", "b").replace(b"60.0", b"[60.0]"),
        example(7, "a").replace(b"purchase", b"stare"),
        example(7, "a").replace(b'"purchase"', b"[]"),
    ],
)
def test_what_is_no_example_is_refused(raw: bytes | None) -> None:
    with pytest.raises(BadEvent, match="not a training example"):
        parse_example(raw)


@pytest.mark.parametrize("segment", [7, 0, False, [], {}])
def test_a_segment_that_is_no_text_is_no_example(segment: object) -> None:
    value = orjson.loads(example(7, "a", "b"))
    assert parse_example(orjson.dumps(value | {"segment": None}))[1].segment is None
    with pytest.raises(BadEvent, match="ids and segment must be texts"):
        parse_example(orjson.dumps(value | {"segment": segment}))


# --- the pace ----------------------------------------------------------------------------------------------------


def test_replays_fall_step_by_step_with_the_backlog_and_rise_when_it_is_gone() -> None:
    pace = Pace(2)
    pace.note(100, 0.3)  # 3 ms an example with 2 replays, so about 2 ms with one and 1 ms with none
    pace.adapt(1_600)  # 4.8 s
    assert pace.replays == 2
    pace.adapt(4_000)
    assert pace.replays == 1
    pace.adapt(4_000)
    assert pace.replays == 0
    pace.adapt(1_000_000)
    assert pace.replays == 0
    pace.note(100, 0.1)
    pace.adapt(1_000)  # 2 s with one replay
    assert pace.replays == 0
    pace.adapt(100)
    pace.adapt(100)
    assert pace.replays == 2


def test_the_pace_goes_by_its_own_measurements() -> None:
    pace = Pace(1)
    pace.note(0, 9.0)  # nothing learned says nothing
    pace.note(100, 0.1)
    for _ in range(100):
        pace.note(100, 1.0)  # the machine became slower
    pace.adapt(1_000)
    assert pace.replays == 0


# --- the assortment ----------------------------------------------------------------------------------------------


def test_the_higher_revision_of_an_offer_stays() -> None:
    assortment = Assortment()
    assortment.put_offer(b"a", offer(5), ())
    assortment.put_offer(b"a", None, [("revision", b"4")])
    assert "a" in assortment
    assortment.put_offer(b"a", None, [("revision", b"6")])
    assortment.put_offer(b"a", offer(5), ())
    assert "a" not in assortment
    assortment.put_offer(b"a", offer(7), ())
    assert "a" in assortment
    assert assortment.take_changes() == ({"a"}, set())
    assert assortment.take_changes() == (set(), set())


def test_a_product_may_lose_its_vector() -> None:
    assortment = assortment_of("a")
    assortment.put_vectors(b"a", vectors(1.0, 2.0), ())
    assert assortment.vectors["a"].tolist() == [1.0, 2.0]
    assortment.put_vectors(b"a", None, ())
    assert assortment.vectors == {}


# --- learning ----------------------------------------------------------------------------------------------------


def changes_of(learning: Learning, most: int = 1_000) -> tuple[list[str], list[str]]:
    """The products of the next turn, and those that left; confirmed."""
    changes = learning.take_changes(most)
    learning.confirm(changes)
    return changes.product_ids, changes.gone


def test_an_example_that_comes_twice_is_learned_once() -> None:
    learning = Learning(assortment_of("a", "b"), TOPIC_IDS)
    learning.receive(records(example(1, "a"), example(0, "b", "a"), example(1, "a"), b"{}"))
    assert learn_all(learning) == 2
    assert (learning.model.examples, learning.duplicates, learning.malformed) == (2, 1, 1)
    assert learning.positions == {0: 4}


def test_an_example_waits_for_its_product_and_counts_when_that_is_indexed() -> None:
    assortment = assortment_of("a")
    learning = Learning(assortment, TOPIC_IDS)
    learning.receive(records(example(0, "new", "a"), example(1, "a", "new"), example(0, "new", "a")))
    assert (learn_all(learning), len(learning.waiting), learning.duplicates) == (1, 1, 1)
    assortment.put_offer(b"new", offer(), ())
    learning.follow_assortment()
    assert (learn_all(learning), len(learning.waiting)) == (1, 0)
    assert learning.model.clicks[learning.rows["new"]] == 1


def test_a_deleted_product_leaves_the_model_and_its_factors_are_withdrawn_until_confirmed() -> None:
    assortment = assortment_of("a", "b")
    learning = Learning(assortment, TOPIC_IDS)
    assert changes_of(learning) == (["a", "b"], [])
    learning.receive(records(example(0, "a", "b")))
    assortment.put_offer(b"a", None, [("revision", b"2")])
    learning.follow_assortment()
    assert (learn_all(learning), set(learning.rows), len(learning.waiting)) == (0, {"b"}, 1)
    changes = learning.take_changes(1_000)
    assert (changes.product_ids, changes.gone) == ([], ["a"])
    assert changes_of(learning) == ([], ["a"])  # nobody has confirmed it
    assert changes_of(learning) == ([], [])
    assortment.put_offer(b"a", offer(3), ())
    learning.follow_assortment()
    assert changes_of(learning) == (["a"], [])
    assert learn_all(learning) == 1


def test_new_products_are_published_at_once_and_of_the_rest_the_most_changed_first() -> None:
    assortment = assortment_of("a", "b", "c", "d")
    learning = Learning(assortment, TOPIC_IDS)
    assert changes_of(learning, most=0) == (["a", "b", "c", "d"], [])
    learning.receive(records(*(example(n, "a", "b") for n in range(20)), example(20, "c")))
    learn_all(learning, replays=0)
    assortment.put_offer(b"new", offer(), ())
    learning.follow_assortment()
    assert changes_of(learning, most=0) == (["new"], [])
    ways = learning.model._p.change
    order = sorted("abcd", key=lambda product_id: -ways[learning.rows[product_id]])
    assert learning.rows_to_publish == 4
    assert changes_of(learning, most=2) == (order[:2], [])
    assert changes_of(learning, most=2) == (order[2:], [])
    assert learning.take_changes(2).is_empty()


def test_the_records_are_what_the_contracts_say() -> None:
    learning = Learning(assortment_of("a", "b"), TOPIC_IDS)
    learning.receive(records(example(0, "a", "b")))
    learn_all(learning)
    found = [message for message in factor_records(learning.take_changes(10, 10), NAMES, 3, 9) if message.value]
    assert [(message.topic, message.key) for message in found] == [
        *((NAMES.item_factors, key) for key in (b"a", b"b")),
        *((NAMES.item_neighbours, key) for key in (b"b", b"a")),  # the most changed first
        *((NAMES.model_weights, key) for key in (b"second-stage", b"next-click")),
    ]
    of_a, of_b, beside_b, beside_a, stage, weights = found
    items = [parse(ItemFactors, message.value or b"") for message in (of_a, of_b)]
    assert [(item.clicks, item.epoch, item.lately, item.counted_at) for item in items] == [
        (1, 3, [1.0, 1.0], 1),
        (0, 3, [0.0, 0.0], 0),
    ]
    beside = [parse(ItemNeighbours, message.value or b"") for message in (beside_a, beside_b)]
    assert [(row.after.product_ids, row.together.product_ids) for row in beside] == [([], ["b"]), (["a"], ["a"])]
    read = parse(ModelRecord, stage.value or b"")
    assert isinstance(read, SecondStageWeights)
    assert (read.epoch, read.sequence, read.now) == (3, 9, 1)
    read = parse(ModelRecord, weights.value or b"")
    assert isinstance(read, ModelWeights)
    assert (read.epoch, read.sequence, read.examples, read.factors) == (3, 9, 1, 64)


def test_a_new_product_stands_near_products_that_look_like_it() -> None:
    assortment, learning = similar_products(40)
    random = np.random.default_rng(1)
    clicks = []
    for position in range(1_000):
        kind = int(random.integers(2))
        clicked = [f"{kind}-{n}" for n in random.integers(0, 20, 4)]
        clicks.append(example(position, *clicked))
    learning.receive(records(*clicks))
    learn_all(learning)
    assortment.put_offer(b"new", offer(), ())
    learning.follow_assortment()
    changes_of(learning)
    assortment.put_vectors(b"new", vectors(0.9, 0.1, 0.0), ())
    learning.follow_assortment()
    assert changes_of(learning, most=0)[0] == ["new"]  # its place changed, at once
    rows = learning.rows
    target = {name: learning.model.vectors(np.array([rows[name]], np.int32))[1][0] for name in rows}
    like, unlike = (np.mean([target[f"{kind}-{n}"] for n in range(20)], axis=0) for kind in (0, 1))
    assert np.linalg.norm(target["new"] - like) < 0.5 * np.linalg.norm(target["new"] - unlike)


def similar_products(count: int) -> tuple[Assortment, Learning]:
    """Products of two kinds, whose vectors tell the kinds apart."""
    assortment = Assortment()
    random = np.random.default_rng(0)
    for number in range(count):
        kind = number % 2
        key = f"{kind}-{number // 2}".encode()
        assortment.put_offer(key, offer(), ())
        assortment.put_vectors(key, vectors(1.0 - kind, kind, 0.1 * random.standard_normal()), ())
    return assortment, Learning(assortment, TOPIC_IDS)


# --- divergence --------------------------------------------------------------------------------------------------


def test_of_a_model_that_diverged_nothing_is_published_or_saved() -> None:
    learning = Learning(assortment_of("a", "b"), TOPIC_IDS)
    learning.model._p.context[learning.rows["a"]] = np.nan
    with pytest.raises(FactorsDiverged, match="to be published is not finite"):
        learning.take_changes(10)
    assert learning.take_changes(10).is_empty()
    with pytest.raises(FactorsDiverged, match="a parameter is not finite"):
        learning.checkpoint()
    learning.receive(records(example(0, "b")))
    with pytest.raises(FactorsDiverged, match="is not finite"):
        learning.learn(10, 0)


# --- checkpoints -------------------------------------------------------------------------------------------------


def random_clicks(count: int, seed: int = 0) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [example(n, *(f"p{p}" for p in random.integers(0, 30, 5))) for n in range(count)]


def same_state(one: Learning, other: Learning) -> bool:
    states = one.model.state(), other.model.state()
    return one.rows == other.rows and all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


@settings(max_examples=8, deadline=None)
@given(saves=st.sets(st.integers(0, 299), max_size=3), repeated=st.integers(0, 100))
def test_a_restart_equals_no_restart(saves: Iterable[int], repeated: int) -> None:
    """p29 appears only in the end; after each restart some records come again."""
    products = [f"p{n}" for n in range(29)]
    clicks = records(*random_clicks(300))
    assortment, plain = assortment_of(*products), Learning(assortment_of(*products), TOPIC_IDS)
    learning = Learning(assortment, TOPIC_IDS)
    for number, click in enumerate(clicks):
        if number in saves:
            learning = Learning(assortment, TOPIC_IDS, checkpoint=learning.checkpoint())
            learning.receive(clicks[max(0, number - repeated) : number])
        learning.receive([click])
        if number % 7 == 0:
            learn_all(learning)
    plain.receive(clicks)
    for one in (learning, plain):
        learn_all(one)
        one._assortment.put_offer(b"p29", offer(), ())
        one.follow_assortment()
        learn_all(one)
    assert plain.model.examples == learning.model.examples == 300
    assert same_state(learning, plain)


def test_a_topic_of_examples_that_was_made_again_is_read_from_its_start() -> None:
    assortment = assortment_of("a")
    learning = Learning(assortment, TOPIC_IDS)
    learning.receive(records(example(0, "a"), first=50))
    learn_all(learning)
    again = TOPIC_IDS._replace(training_examples="examples-2")
    same_clicks = Learning(assortment, again, checkpoint=learning.checkpoint())
    assert same_clicks.positions == {}
    same_clicks.receive(records(example(0, "a")))
    assert same_clicks.duplicates == 1
    again = again._replace(user_clicks="clicks-2")
    new_clicks = Learning(assortment, again, checkpoint=learning.checkpoint())
    new_clicks.receive(records(example(0, "a", topic_id="clicks-2")))
    assert (learn_all(new_clicks), new_clicks.model.examples) == (1, 2)


def test_a_product_that_was_deleted_meanwhile_leaves_but_not_when_the_index_was_made_again() -> None:
    saved = Learning(assortment_of("a", "b"), TOPIC_IDS).checkpoint()
    assert Learning(assortment_of("b"), TOPIC_IDS, checkpoint=saved).rows.keys() == {"b"}
    made_again = TOPIC_IDS._replace(product_index="index-2")
    assert Learning(assortment_of("b"), made_again, checkpoint=saved).rows.keys() == {"a", "b"}


def test_a_null_that_was_not_confirmed_is_published_after_the_restart() -> None:
    assortment = assortment_of("a", "b")
    learning = Learning(assortment, TOPIC_IDS)
    assortment.put_offer(b"a", None, [("revision", b"2")])
    learning.follow_assortment()
    restarted = Learning(assortment_of("b"), TOPIC_IDS, checkpoint=learning.checkpoint())
    assert changes_of(restarted) == (["b"], ["a"])


def test_going_back_finds_the_products_that_came_since() -> None:
    assortment = assortment_of("a")
    learning = Learning(assortment, TOPIC_IDS)
    saved = learning.checkpoint()
    assortment.put_offer(b"b", offer(), ())
    learning.follow_assortment()
    assert Learning(assortment, TOPIC_IDS, checkpoint=saved).rows.keys() == {"a", "b"}


def test_a_checkpoint_from_before_the_second_stage_is_gone_on_from() -> None:
    learning = Learning(assortment_of("a", "b"), TOPIC_IDS)
    learning.receive(records(example(0, "a", "b")))
    learn_all(learning)
    arrays, meta = learning.checkpoint()
    arrays = {name: array for name, array in arrays.items() if not name.startswith("stage_")}
    restored = Learning(assortment_of("a", "b"), TOPIC_IDS, checkpoint=(arrays, meta))
    assert (restored.model.examples, restored.stage.now) == (1, 0)
    restored.receive(records(example(1, "b", "a"), first=1))
    assert learn_all(restored) == 1
