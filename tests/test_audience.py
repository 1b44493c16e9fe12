"""Who has been here lately: bounded memory of the last lists, and notices of what happened on the shelf."""

import time

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelves import offer

from streams.audience import Audience
from streams.lists import MadeList
from streams.notices import Notices
from streams.shelf import Shelf


def shelf_of(*product_ids: str) -> Shelf:
    shelf = Shelf()
    for product_id in product_ids:
        shelf.put_offer(product_id.encode(), offer(), ())
    return shelf


def made(
    user_id: str,
    *product_ids: str,
    revision: int = 1,
    made_at: float = 100.0,
    partition: int = 0,
    embedding: list[float] | None = None,
    cause: str = "click",
) -> MadeList:
    items = orjson.dumps([{"product_id": product_id, "rank": n} for n, product_id in enumerate(product_ids, 1)])
    vector = None if embedding is None else np.array(embedding, np.float32)
    return MadeList(user_id, partition, revision, made_at, cause, items, product_ids, vector)  # type: ignore[arg-type]


def audience_on(shelf: Shelf, *, most: int = 10, active_s: float = 3_600.0) -> Audience:
    return Audience(shelf, most=most, active_s=active_s, length=3)


def ids_of(audience: Audience, user_id: str) -> list[str]:
    return [item["product_id"] for item in audience.items(audience.slots[user_id])]


def test_the_last_list_of_each_user_is_kept_and_found_by_its_products() -> None:
    shelf = shelf_of("tea", "cup", "pot")
    audience = audience_on(shelf)
    audience.note([made("ann", "tea", "cup"), made("bob", "pot")], active_at=[100.0, 100.0])
    audience.note([made("ann", "cup", "pot")], active_at=[101.0])
    assert ids_of(audience, "ann") == ["cup", "pot"]
    audience.owe_holders_of([shelf.rows["tea"]])
    assert not audience.owes_record.any()
    audience.owe_holders_of([shelf.rows["cup"]])
    assert np.flatnonzero(audience.owes_record).tolist() == [audience.slots["ann"]]


def test_a_list_with_what_may_not_be_listed_any_more_owes_a_record_at_once() -> None:
    shelf = shelf_of("tea", "cup")
    shelf.put_offer(b"cup", offer(2, state="sold_out"), ())
    audience = audience_on(shelf)
    audience.note([made("ann", "tea"), made("bob", "cup"), made("eve", "gone")], active_at=[1.0, 1.0, 1.0])
    assert {u: bool(audience.owes_record[slot]) for u, slot in audience.slots.items()} == {
        "ann": False,
        "bob": True,
        "eve": True,
    }


def test_the_least_recently_active_leave_when_there_is_no_room() -> None:
    audience = audience_on(shelf_of("tea"), most=3)
    for at, user_id in enumerate(["ann", "bob", "cat", "ann", "dan", "eve"], 1):
        audience.note([made(user_id, "tea")], active_at=[float(at)])
    assert audience.slots.keys() == {"ann", "dan", "eve"}


def test_a_push_does_not_make_a_user_active_nor_bring_back_one_who_left() -> None:
    audience = audience_on(shelf_of("tea"))
    audience.note([made("ann", "tea")], active_at=[5.0])
    audience.note([made("ann", "tea", made_at=200.0, cause="push"), made("bob", "tea", cause="push")])
    slot = audience.slots["ann"]
    assert (audience.active_at[slot], audience.pushed_at[slot], audience.made_at[slot]) == (5.0, 200.0, 200.0)
    assert audience.slots.keys() == {"ann"}


def test_users_of_other_partitions_and_those_who_were_inactive_for_too_long_leave() -> None:
    audience = audience_on(shelf_of("tea"), active_s=50.0)
    lists = [made("ann", "tea", partition=1), made("bob", "tea", partition=2), made("old", "tea", partition=1)]
    audience.note(lists, active_at=[100.0, 100.0, 40.0])
    audience.keep_only({1}, now=100.0)
    assert audience.slots.keys() == {"ann"}
    assert audience.active_at.astype(bool).sum() == 1


def test_nothing_is_left_of_one_who_is_dropped() -> None:
    shelf = shelf_of("tea")
    audience = audience_on(shelf)
    audience.note([made("ann", "tea", embedding=[1.0, 2.0])], active_at=[1.0])
    slot = audience.slots["ann"]
    audience.drop(["ann", "nobody"])
    audience.owe_holders_of([shelf.rows["tea"]])
    assert not audience.owes_record.any()
    assert audience.user_ids[slot] is None
    assert not audience.embeddings.any()
    assert not audience.active_at.any()


def test_embeddings_of_an_earlier_model_are_compared_with_nothing() -> None:
    audience = audience_on(shelf_of("tea"))
    audience.note([made("ann", "tea", embedding=[1.0, 2.0]), made("bob", "tea")], active_at=[1.0, 1.0])
    audience.note([made("eve", "tea", embedding=[3.0, 4.0, 5.0])], active_at=[1.0])
    known = {user_id: bool(audience.has_embedding[slot]) for user_id, slot in audience.slots.items()}
    assert known == {"ann": False, "bob": False, "eve": True}
    assert audience.embeddings[audience.slots["eve"]].tolist() == [3.0, 4.0, 5.0]


def test_readers_prefer_the_higher_revision_and_then_the_later_list() -> None:
    audience = audience_on(shelf_of("tea"))
    audience.note([made("ann", "tea", revision=3, made_at=100.0)], active_at=[1.0])
    assert audience.is_newer("ann", 4, 50.0)
    assert audience.is_newer("ann", 3, 100.1)
    assert not audience.is_newer("ann", 3, 100.0)
    assert not audience.is_newer("ann", 2, 200.0)
    assert audience.is_newer("bob", 1, 1.0)
    assert audience.later(audience.slots["ann"], 99.0) > 100.0
    assert audience.later(audience.slots["ann"], 101.0) == 101.0


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("note"), st.sampled_from("abcdef"), st.sets(st.sampled_from(["tea", "cup", "pot"]))),
            st.tuples(st.just("drop"), st.sampled_from("abcdef"), st.just(set())),
        ),
        max_size=30,
    ),
    most=st.integers(1, 8),
)
def test_it_remembers_what_a_dictionary_of_the_latest_would(steps: list[tuple[str, str, set[str]]], most: int) -> None:
    shelf = shelf_of("tea", "cup", "pot")
    audience = audience_on(shelf, most=most)
    expected: dict[str, set[str]] = {}  # the most recently active last
    for at, (do, user_id, product_ids) in enumerate(steps, 1):
        if do == "note":
            audience.note([made(user_id, *sorted(product_ids))], active_at=[float(at)])
            if expected.pop(user_id, None) is None and len(expected) == most:
                del expected[next(iter(expected))]
            expected[user_id] = product_ids
        else:
            audience.drop([user_id])
            expected.pop(user_id, None)
    assert {user_id: set(ids_of(audience, user_id)) for user_id in audience.slots} == expected
    assert [audience.user_ids[slot] for slot in audience.latest(audience.active_at > 0, most)] == [*expected][::-1]
    audience.owe_holders_of([shelf.rows["cup"]])
    owed = {audience.user_ids[slot] for slot in np.flatnonzero(audience.owes_record)}
    assert owed == {user_id for user_id, product_ids in expected.items() if "cup" in product_ids}


def test_notices_are_told_from_a_position_on_and_say_when_some_are_gone() -> None:
    notices = Notices(3)
    assert notices.since(0) == ([], True)
    notices.add(7)
    notices.add(8)
    assert notices.since(0) == ([7, 8], True)
    assert notices.since(1) == ([8], True)
    assert notices.since(notices.end) == ([], True)
    notices.add(9)
    notices.add(10)
    assert notices.since(0) == ([8, 9, 10], False)
    assert notices.since(1) == ([8, 9, 10], True)


@pytest.mark.parametrize("value", [offer(2, state="sold_out"), None], ids=["sold-out", "deleted"])
def test_the_shelf_notes_what_is_withdrawn_once(value: bytes | None) -> None:
    shelf = shelf_of("tea", "cup")
    row = shelf.rows["cup"]
    for _ in range(2):
        shelf.put_offer(b"cup", value, (("revision", b"2"),))
    assert shelf.withdrawn.since(0) == ([row], True)


def test_items_take_little_room() -> None:
    items = [
        {"product_id": f"p{n}", "score": 1 / (n + 1), "rank": n, "reason": "often next after Tea"} for n in range(20)
    ]
    audience = audience_on(shelf_of(*(f"p{n}" for n in range(20))))
    one = MadeList("ann", 0, 1, time.time(), "click", orjson.dumps(items), [f"p{n}" for n in range(20)])
    audience.note([one], active_at=[1.0])
    assert audience.items(audience.slots["ann"]) == items
    assert len(audience._items[audience.slots["ann"]]) < len(one.items) / 2
