"""The second stage on its way: what the learner learns and publishes is what a shelf knows, product by product."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from examples import TOPIC_IDS, assortment_of, example, learn_all, records
from numba import typeof
from shelves import offer, vectors

from encoders.second_stage import SecondStage
from streams.assortment import Assortment
from streams.broker import Outgoing
from streams.contents import PRODUCTS_MIN
from streams.factors import factor_records
from streams.learning import Learning
from streams.replicas import shelf_topics
from streams.settings import Settings
from streams.shelf import Shelf
from streams.topics import topic_names

NAMES = topic_names(Settings(), "ab12")
WIDTH = 6


class Shop:
    """An assortment, a learner on it, and a shelf that gets every record."""

    def __init__(self, products: int, seed: int = 0) -> None:
        self.chance = np.random.default_rng(seed)
        self.assortment, self.shelf = Assortment(), Shelf()
        self.position = self.sequence = 0
        self.published: list[Outgoing] = []
        self.add([f"p{number}" for number in range(products)])
        self.learning = Learning(self.assortment, TOPIC_IDS)

    def add(self, product_ids: Sequence[str]) -> None:
        for product_id in product_ids:
            self.put_vector(product_id, self.chance.normal(size=WIDTH).tolist())
            for view in (self.assortment, self.shelf):
                view.put_offer(product_id.encode(), offer(), ())

    def put_vector(self, product_id: str, fused: Sequence[float] | None, revision: int = 1) -> None:
        for view in (self.assortment, self.shelf):
            view.put_vectors(product_id.encode(), vectors(fused, revision), ())

    def delete(self, product_ids: Sequence[str]) -> None:
        for product_id in product_ids:
            for view in (self.assortment, self.shelf):
                view.put_offer(product_id.encode(), None, [("revision", b"2")])
                view.put_vectors(product_id.encode(), None, ())

    def click(self, count: int, *, learning: Learning | None = None) -> list[bytes]:
        """Clicks on what there is, in sequences that favour some."""
        chosen = learning or self.learning
        chosen.follow_assortment()
        there = sorted(product_id for product_id in chosen.rows if not product_id.startswith("quiet"))
        made = []
        for _ in range(count):
            rows = np.minimum(self.chance.geometric(0.05, 6), len(there)) - 1
            made.append(example(self.position, *(there[row] for row in rows)))
            self.position += 1
        chosen.receive(records(*made))
        learn_all(chosen)
        return made

    def publish(self, most: int = 10_000) -> None:
        """Turn by turn, until nothing is left to tell."""
        while not (changes := self.learning.take_changes(most, most)).is_empty():
            self.sequence += 1
            messages = factor_records(changes, NAMES, 1, self.sequence)
            self.learning.confirm(changes)
            self.published += messages
            put(self.shelf, messages)


def put(shelf: Shelf, messages: Sequence[Outgoing]) -> None:
    puts = shelf_topics(shelf, NAMES)
    for message in messages:
        puts[message.topic](message.key or b"", message.value, message.headers)


def by_id(table: Any, row: int, names: Mapping[int, str | None]) -> dict[str | None, float]:
    """One row of neighbours; of products that are in the shop still."""
    pairs = zip(table.ids[row].tolist(), table.shares[row].tolist(), strict=True)
    return {names[other]: share for other, share in pairs if names.get(other)}


def require_same(learning: Learning, shelf: Shelf) -> None:
    """The shelf knows of each product, and of all together, what the learner does."""
    learned = learning.stage.knowledge(learning.model.clicks)
    served = shelf.stage.knowledge(shelf.clicks)
    names: dict[int, str | None] = {row: product_id for product_id, row in learning.rows.items()}
    shelf_names = {row: product_id for product_id, row in shelf.rows.items() if product_id in learning.rows}
    assert set(shelf_names.values()) == set(learning.rows)
    for product_id, row in learning.rows.items():
        at = shelf.rows[product_id]
        assert learned.clicks[row] == served.clicks[at]
        np.testing.assert_array_equal(learned.trends.counts[row], served.trends.counts[at], product_id)
        assert learned.trends.counted_at[row] == served.trends.counted_at[at]
        np.testing.assert_allclose(learned.content[row], served.content[at], atol=1e-5, err_msg=product_id)
        for table in ("after", "together"):
            ours, theirs = getattr(learned, table), getattr(served, table)
            assert by_id(ours, row, names) == by_id(theirs, at, shelf_names), (product_id, table)
    assert served.now == learned.now == learning.model.examples
    for part, other in ((learned.lift, served.lift), (learning.stage.serving().reranker, shelf.stage.reranker)):
        for name, array in part._asdict().items():
            np.testing.assert_array_equal(array, getattr(other, name), name)


def test_what_one_click_teaches_is_on_the_shelf() -> None:
    shop = Shop(3)
    shop.learning.receive(records(example(0, "p1", "p0")))
    learn_all(shop.learning)
    shop.publish()
    knowledge, rows = shop.shelf.stage.knowledge(shop.shelf.clicks), shop.shelf.rows
    assert knowledge.after.share(rows["p0"], rows["p1"]) == 1.0
    assert knowledge.after.share(rows["p1"], rows["p0"]) == 0.0
    assert knowledge.together.share(rows["p1"], rows["p0"]) == 1.0
    assert knowledge.trends.counts[rows["p1"]].tolist() == [1.0, 1.0]
    assert shop.shelf.stage.is_learned
    require_same(shop.learning, shop.shelf)


@pytest.mark.parametrize("most", [10_000, 7])
def test_record_by_record_the_shelf_comes_to_know_what_the_learner_knows(most: int) -> None:
    shop = Shop(60)
    for _ in range(3):
        shop.click(150)
        shop.publish(most)
        require_same(shop.learning, shop.shelf)
    assert shop.learning.stage.lists > 200
    assert shop.shelf.stage.knowledge(shop.shelf.clicks).content.any()


def test_it_still_does_after_products_were_removed_and_their_rows_given_away() -> None:
    shop = Shop(200)
    shop.click(400)
    shop.publish()
    rows_before = dict(shop.learning.rows), dict(shop.shelf.rows)
    shop.delete([f"p{number}" for number in range(0, 160, 2)])
    shop.click(200)
    shop.publish()
    require_same(shop.learning, shop.shelf)
    shop.add([f"new-{number}" for number in range(60)])
    shop.click(300)
    shop.publish()
    for before, now in zip(rows_before, (shop.learning.rows, shop.shelf.rows), strict=True):
        taken = {row for product_id, row in now.items() if product_id.startswith("new")}
        assert taken & {row for product_id, row in before.items() if product_id not in now}
    require_same(shop.learning, shop.shelf)


def test_a_product_that_loses_its_vector_or_gets_another_one_has_the_same_content_in_both() -> None:
    shop = Shop(PRODUCTS_MIN + 5)
    shop.click(50)
    shop.publish()
    shop.put_vector("p1", None, 2)
    shop.put_vector("p2", [1.0] * WIDTH, 2)
    for view in (shop.assortment, shop.shelf):
        view.put_vectors(b"p3", None, ())
    shop.learning.follow_assortment()
    shop.publish()
    require_same(shop.learning, shop.shelf)
    content = shop.shelf.stage.knowledge(shop.shelf.clicks).content
    assert not content[[shop.shelf.rows[product_id] for product_id in ("p1", "p3")]].any()
    assert content[shop.shelf.rows["p2"]].any()


def test_a_reader_that_comes_later_knows_the_same_from_what_compaction_has_left() -> None:
    """The last record of each key, in any order of the topics."""
    shop = Shop(50)
    for _ in range(4):
        shop.click(100)
        shop.publish(20)
    last = {(message.topic, message.key): message for message in shop.published}
    for seed in range(3):
        shelf, left = Shelf(), list(last.values())
        np.random.default_rng(seed).shuffle(left)  # type: ignore[arg-type]
        put(shelf, left[::2])
        for product_id in shop.learning.rows:
            shelf.put_offer(product_id.encode(), offer(), ())
            fused = shop.assortment.vectors[product_id].tolist()
            shelf.put_vectors(product_id.encode(), vectors(fused), ())
        put(shelf, left[1::2])
        require_same(shop.learning, shelf)


def test_what_an_older_learner_published_changes_nothing() -> None:
    shop = Shop(30)
    shop.click(100)
    shop.publish()
    old = shop.published[:]
    shop.click(100)
    shop.publish()
    put(shop.shelf, [message for message in old if message.topic != NAMES.item_factors])
    require_same(shop.learning, shop.shelf)


# --- restarts ------------------------------------------------------------------------------------------------------


def stage_of(learning: Learning) -> dict[str, Any]:
    return learning.stage.state(learning.model.products)


def require_same_state(one: Learning, other: Learning, *, atol: float = 0.0) -> None:
    ours, theirs = stage_of(one), stage_of(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0.0, atol=atol, err_msg=name)


def test_a_learner_that_is_restored_has_the_same_second_stage_and_goes_on_as_if_nothing_had_been() -> None:
    shop = Shop(40)
    shop.click(200)
    restored = Learning(shop.assortment, TOPIC_IDS, checkpoint=shop.learning.checkpoint())
    assert restored.stage.lists == shop.learning.stage.lists > 0
    require_same_state(shop.learning, restored)
    more = shop.click(150)
    restored.receive(records(*more))
    learn_all(restored)
    require_same_state(shop.learning, restored)


def test_what_is_learned_later_does_not_get_into_a_checkpoint_that_was_taken() -> None:
    """It is written while the learner goes on."""
    shop = Shop(40)
    shop.click(50)
    arrays, meta = shop.learning.checkpoint()
    before = {name: array.copy() for name, array in arrays.items()}, orjson.dumps(meta)
    shop.delete(["p3"])
    shop.add(["new"])
    shop.click(50)
    assert orjson.dumps(meta) == before[1]
    for name, array in before[0].items():
        np.testing.assert_array_equal(array, arrays[name], name)


def test_products_that_nobody_clicked_stay_where_they_are_when_a_learner_starts_again() -> None:
    """The cold start places them when it is fitted, and a start alone is no reason to fit it at another moment."""
    shop = Shop(40)
    shop.add([f"quiet-{number}" for number in range(5)])
    shop.click(800)
    restored = Learning(shop.assortment, TOPIC_IDS, checkpoint=shop.learning.checkpoint())
    for name, array in shop.learning.model.state().items():
        np.testing.assert_array_equal(array, restored.model.state()[name], name)


def test_vectors_that_came_or_went_while_nobody_learned_count_after_the_start() -> None:
    shop = Shop(40)
    shop.click(100)
    saved = shop.learning.checkpoint()
    shop.put_vector("p1", None, 2)
    shop.put_vector("p2", [1.0] * WIDTH, 2)
    shop.learning.follow_assortment()
    restored = Learning(shop.assortment, TOPIC_IDS, checkpoint=saved)
    require_same_state(shop.learning, restored, atol=1e-6)
    assert not restored.stage.knowledge(restored.model.clicks).content[restored.rows["p1"]].any()


def test_with_another_encoders_vectors_contents_are_mapped_anew_as_soon_as_there_are_enough() -> None:
    shop = Shop(40)
    shop.click(100)
    wider = Assortment()
    for product_id in shop.learning.rows:
        wider.put_offer(product_id.encode(), offer(), ())
    wider.put_vectors(b"p0", vectors([1.0] * (WIDTH + 1)), ())
    restored = Learning(wider, TOPIC_IDS, checkpoint=shop.learning.checkpoint())
    assert not restored.stage.knowledge(restored.model.clicks).content.any()
    for product_id in restored.rows:
        wider.put_vectors(product_id.encode(), vectors(shop.chance.normal(size=WIDTH + 1).tolist()), ())
    restored.follow_assortment()
    known = restored.stage.content_map
    assert known is not None
    assert (len(known.mean), known.products) == (WIDTH + 1, 40)
    assert shop.click(20, learning=restored)
    assert restored.stage.now == 120


def test_removed_products_do_not_take_the_places_of_those_whose_neighbours_are_to_be_published() -> None:
    shop = Shop(60)
    shop.click(300)
    shop.delete([f"p{number}" for number in range(20)])
    saved = shop.learning.checkpoint()
    shop.learning.follow_assortment()
    restored = Learning(shop.assortment, TOPIC_IDS, checkpoint=saved)
    again = Learning(shop.assortment, TOPIC_IDS, checkpoint=restored.checkpoint())
    for learning in (shop.learning, restored, again):
        told = [len(learning.take_changes(100, 5).neighbours) for _ in range(3)]
        assert told == [5, 5, 5]


# --- what the re-ranker learns from --------------------------------------------------------------------------------


def edited(raw: bytes, **fields: Any) -> bytes:
    return orjson.dumps(orjson.loads(raw) | fields)


def lists_learned(*raw: bytes, rerank_every: int = 1) -> int:
    learning = Learning(assortment_of(*"abcdefgh"), TOPIC_IDS)
    learning.receive(records(*raw))
    while learning.learn(200, 0, rerank_every=rerank_every):
        pass
    assert learning.model.examples == learning.stage.now == len(raw)
    return learning.stage.lists


def test_all_is_learned_from_each_example_and_the_order_of_lists_from_those_that_a_list_might_have_led_to() -> None:
    plain = example(0, "a", "b", "c", "d", "e")
    assert lists_learned(plain) == 1
    assert lists_learned(edited(plain, eligible=False)) == 0
    assert lists_learned(example(0, "a", "b", "c", "a")) == 0  # she has just looked at it
    assert lists_learned(example(0, "a", "b", "c", "d", "a")) == 1  # a while ago
    had = orjson.loads(example(0, "a", "b", "c", "d", "a"))
    had["history"][3]["seen"] = True  # no list holds it any more
    assert lists_learned(orjson.dumps(had)) == 0


def test_when_it_is_behind_the_order_of_lists_is_learned_from_each_nth_example() -> None:
    raw = [example(position, "a", "b") for position in range(16)]
    assert [lists_learned(*raw, rerank_every=every) for every in (1, 4, 5)] == [16, 4, 4]


def test_an_event_that_weighs_more_teaches_more_and_the_others_what_they_did() -> None:
    """Of one click, without replays; examples here are purchases unless they say otherwise."""

    def bias(event: str, weights: dict[str, float] | None) -> float:
        learning = Learning(assortment_of("a", "b", "c"), TOPIC_IDS, event_weights=weights)
        learning.receive(records(edited(example(0, "a", "b"), event=event)))
        learning.learn(10, 0)
        return float(learning.model.vectors(np.array([learning.rows["a"]], np.int32))[2][0])

    assert bias("purchase", {"purchase": 4.0}) > bias("purchase", None) > bias("purchase", {"purchase": 0.25}) > 0
    assert bias("view_item", {"purchase": 4.0}) == bias("view_item", None) == bias("purchase", None)


def test_the_weight_of_an_event_counts_for_the_order_of_lists_as_well() -> None:
    heavy, light = (
        Learning(assortment_of("a", "b", "c"), TOPIC_IDS, event_weights={"purchase": weight}) for weight in (1e-6, 1.0)
    )
    moments = []
    for learning in (heavy, light):
        learning.receive(records(example(0, "a", "b")))
        learning.learn(10, 0)
        moments.append(float(np.abs(stage_of(learning)["moments_first"]).sum()))
    assert moments[0] < 1e-4 * moments[1]


@pytest.mark.parametrize(
    "seen",
    ["[true, false]", "{}", '"yes"', "null", "0"],
)
def test_a_mark_of_any_other_form_is_taken_for_what_it_says(seen: str) -> None:
    """Nobody but Freshet writes this topic: a mark that is odd must not end the learner, that is all."""
    raw = example(0, "a", "b", "c").replace(b'"product_id":"b"', b'"product_id":"b","seen":' + seen.encode())
    assert seen.encode() in raw
    assert lists_learned(raw) == 1


# --- machine code --------------------------------------------------------------------------------------------------


def test_what_was_published_and_what_was_restored_is_of_the_types_that_machine_code_is_made_for_at_the_start() -> None:
    """Else the first click after it waits for a compiler."""
    shop, plain, untaught = Shop(40), Shelf(), SecondStage()
    shop.click(50)
    shop.publish()
    restored = Learning(shop.assortment, TOPIC_IDS, checkpoint=shop.learning.checkpoint()).stage
    served = shop.shelf.stage
    assert served.is_learned
    assert typeof(served.knowledge(shop.shelf.clicks)) == typeof(plain.stage.knowledge(plain.clicks))
    assert typeof(served.reranker) == typeof(served.unlearned) == typeof(plain.stage.reranker)
    for stage in (shop.learning.stage, restored):
        assert typeof(stage.serving().reranker) == typeof(untaught.serving().reranker)
        assert typeof(stage._moments) == typeof(untaught._moments)
        assert typeof(stage.knowledge(plain.clicks)) == typeof(untaught.knowledge(plain.clicks))
