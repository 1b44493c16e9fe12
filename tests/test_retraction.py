"""What is withdrawn leaves the lists that people have: the clicks role on a real database, its shelf filled by hand."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cramjam
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shelves import offer
from test_clicks import TOPIC, Clicks, click, lists

from store.records import StoreUnavailable
from store.users import Forgotten
from streams.events import RecommendationList
from streams.last_lists import FoundList
from streams.notices import Notices
from streams.role import Assignment

HELD = Assignment(1, frozenset({3}))


class Shop(Clicks):
    """The role between its batches, and a shelf on which things come and go."""

    def __init__(self, home: Path, **more: Any) -> None:
        super().__init__(home, **more)
        self.shelf = self.role._shelf
        self.revisions: dict[str, int] = {}

    def offer(self, product_id: str, state: str = "listable") -> None:
        self.revisions[product_id] = self.revisions.get(product_id, 1) + 1
        with self.shelf.lock:
            self.shelf.put_offer(product_id.encode(), offer(self.revisions[product_id], state=state), ())

    def sell_out(self, product_id: str) -> None:
        self.offer(product_id, "sold_out")

    def delete(self, product_id: str) -> None:
        """All that the topics tell of a deleted product."""
        self.revisions[product_id] = self.revisions.get(product_id, 1) + 1
        headers = [("revision", b"%d" % self.revisions[product_id])]
        with self.shelf.lock:
            for put in (self.shelf.put_offer, self.shelf.put_vectors, self.shelf.put_factors):
                put(product_id.encode(), None, headers)

    def visit(self, *user_ids: str, product_id: str = "tea") -> list[RecommendationList]:
        """Each clicks once, in one batch."""
        records = [
            self.record(click(product_id, event_id=f"{user_id}-{self.offset}", user_id=user_id), key=user_id)
            for user_id in user_ids
        ]
        return lists(self.compute(records))

    def aside(self, assignment: Assignment = HELD) -> list[RecommendationList] | None:
        """What the next portion publishes; None if there was nothing to do."""
        outcome = self.role.aside(assignment)
        if outcome is None:
            return None
        outcome.commit()
        return lists(outcome)

    def all_asides(self, assignment: Assignment = HELD) -> list[RecommendationList]:
        """What all portions publish until nothing is left to do."""
        found: list[RecommendationList] = []
        while (some := self.aside(assignment)) is not None:
            found += some
        return found

    @property
    def counts(self) -> dict[str, Any]:
        return self.role.details()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, push_users=0)


def ids(made: RecommendationList) -> list[str]:
    return [item.product_id for item in made.items]


def test_who_has_a_product_that_sells_out_gets_a_record_without_it_and_then_a_whole_list(shop: Shop) -> None:
    (before,) = shop.visit("ann")
    assert ids(before) == ["axe", "pot", "cup"]
    shop.sell_out("axe")
    record, whole = shop.all_asides()
    assert record.withdrawn == ["axe"]
    assert [(item.product_id, item.rank) for item in record.items] == [("pot", 1), ("cup", 2)]
    assert record.items[0] == before.items[1].model_copy(update={"rank": 1})
    assert whole.withdrawn == []
    assert ids(whole) == ["pot", "cup"]
    for made in (record, whole):
        assert (made.user_id, made.cause, made.event_ids, made.revision) == ("ann", "retraction", [], before.revision)
    assert before.made_at < record.made_at < whole.made_at
    assert shop.all_asides() == []


def test_the_whole_list_is_filled_up_again(tmp_path: Path) -> None:
    shop = Shop(tmp_path, push_users=0, list_length=2)
    (before,) = shop.visit("ann")
    assert ids(before) == ["axe", "pot"]
    shop.sell_out("axe")
    assert [ids(made) for made in shop.all_asides()] == [["pot"], ["pot", "cup"]]


def test_a_deleted_product_is_withdrawn_although_its_row_belongs_to_another_one_by_then(shop: Shop) -> None:
    shop.visit("ann")
    row = shop.shelf.rows["axe"]
    shop.delete("axe")
    for jug in (f"jug-{number}" for number in range(1_000)):
        shop.offer(jug)
        if shop.shelf.rows[jug] == row:
            break
        shop.delete(jug)
    assert shop.shelf.rows[jug] == row
    record, whole = shop.all_asides()
    assert record.withdrawn == ["axe"]
    assert ids(record) == ["pot", "cup"]
    assert jug in ids(whole)


def test_who_does_not_have_it_hears_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path, push_users=0, list_length=1)
    assert [ids(made) for made in shop.visit("ann")] == [["axe"]]
    shop.sell_out("pot")
    assert shop.all_asides() == []


def test_what_a_rule_comes_to_block_is_withdrawn_and_the_whole_list_obeys(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.visit("ann")
    now = float(int(time.time())) + 10.0  # whole: a fraction may be rounded up on its way through the text
    begins = datetime.fromtimestamp(now, UTC).isoformat().encode()
    rules = b'{"rules": {"axes": {"action": "block", "products": ["axe"], "since": "%s"}, '
    rules += b'"cups": {"action": "pin", "products": ["cup"]}}}'
    shop.shelf.rules.published.put(b"", rules % begins, ())
    assert shop.all_asides() == [], "a list that obeys no pin is not made again for that"
    monkeypatch.setattr("time.time", lambda: now)
    record, whole = shop.all_asides()
    assert (record.withdrawn, ids(record)) == (["axe"], ["pot", "cup"])
    assert [(item.product_id, item.rules) for item in whole.items] == [("cup", ["cups"]), ("pot", [])]
    assert shop.all_asides() == []
    assert ids(shop.visit("bob")[0]) == ["cup", "pot"]
    shop.shelf.rules.published.put(b"", None, ())
    assert shop.all_asides() == []
    assert ids(shop.visit("ann")[0]) == ["axe", "pot", "cup"]


def test_a_list_of_before_a_restart_keeps_its_rules_and_loses_what_is_blocked_now(shop: Shop, tmp_path: Path) -> None:
    shop.shelf.rules.published.put(b"", b'{"rules": {"cups": {"action": "pin", "products": ["cup"]}}}', ())
    (told,) = shop.visit("ann")
    after = Shop(tmp_path, push_users=0)
    block = b'{"rules": {"pots": {"action": "block", "products": ["pot"]}}}'
    after.shelf.rules.published.put(b"", block, ())
    after.aside()
    value = cramjam.lz4.compress_block(told.model_dump_json(exclude_unset=True).encode())
    after.role._unasked._last_lists.found["ann"] = FoundList(3, bytes(value))
    record, whole = after.all_asides()
    assert [(item.product_id, item.rules) for item in record.items] == [("cup", ["cups"]), ("axe", [])]
    assert b'"rules":[]' not in orjson.dumps([item.model_dump(exclude_unset=True) for item in record.items])
    assert ids(whole) == ["axe", "cup"]


def test_one_that_is_back_before_anybody_looked_is_not_retracted(shop: Shop) -> None:
    shop.visit("ann")
    shop.sell_out("axe")
    shop.offer("axe")
    assert shop.all_asides() == []
    assert shop.counts["owed_records"] == 0


def test_what_is_withdrawn_between_ranking_and_publication_is_retracted_as_well(shop: Shop) -> None:
    outcome = shop.compute([shop.record(click("tea"))], commits=False)
    shop.sell_out("axe")
    assert shop.all_asides() == []  # before the list is out there is nothing to retract
    outcome.commit()
    assert [made.withdrawn for made in shop.all_asides()] == [["axe"], []]


def test_a_click_in_between_settles_what_was_owed(shop: Shop) -> None:
    shop.visit("ann")
    shop.sell_out("axe")
    (record,) = shop.aside() or []
    assert record.withdrawn == ["axe"]
    (made,) = shop.visit("ann")
    assert "axe" not in ids(made)
    assert shop.all_asides() == []


def test_a_forgotten_user_gets_nothing_more(shop: Shop) -> None:
    shop.visit("ann", "bob")
    shop.sell_out("axe")
    shop.compute([shop.record(None, key="ann")])
    assert {made.user_id for made in shop.all_asides()} == {"bob"}


def test_one_who_was_forgotten_elsewhere_leaves_when_her_row_is_missing(shop: Shop) -> None:
    shop.visit("ann")
    shop.users.write([], [Forgotten("ann", f"{TOPIC}/3", 99, time.time())])
    shop.sell_out("axe")
    shop.all_asides()
    assert shop.counts["active_users"] == 0


def test_a_record_that_was_not_published_is_made_again(shop: Shop) -> None:
    shop.visit("ann")
    shop.sell_out("axe")
    first = shop.role.aside(HELD)
    assert first is not None
    (again, _) = shop.all_asides()
    assert again.withdrawn == lists(first)[0].withdrawn == ["axe"]


def test_records_for_all_come_before_the_first_whole_list(shop: Shop) -> None:
    users = [f"user-{number}" for number in range(200)]
    shop.visit(*users)
    shop.sell_out("axe")
    told = shop.all_asides()
    assert sorted(made.user_id for made in told[:200]) == sorted(made.user_id for made in told[200:]) == sorted(users)
    assert all(made.withdrawn == ["axe"] for made in told[:200])
    assert not any(made.withdrawn or "axe" in ids(made) for made in told[200:])


def test_the_most_recently_active_are_told_first(shop: Shop) -> None:
    users = [f"user-{number}" for number in range(150)]
    for user_id in users:
        shop.visit(user_id)
    shop.sell_out("axe")
    assert [made.user_id for made in shop.aside() or []] == users[:-129:-1]


def test_more_withdrawals_than_are_noted_miss_nobody(tmp_path: Path) -> None:
    shop = Shop(tmp_path, push_users=0, list_length=1)
    shop.shelf.withdrawn = Notices(1)
    assert [ids(made) for made in shop.visit("ann")] == [["axe"]]
    shop.sell_out("axe")
    shop.sell_out("pot")
    assert [made.withdrawn for made in shop.all_asides()] == [["axe"], []]


def test_the_users_of_a_partition_that_is_lost_are_left_alone(shop: Shop) -> None:
    shop.visit("ann")
    shop.sell_out("axe")
    assert shop.all_asides(Assignment(2, frozenset({1}))) == []
    assert shop.counts["active_users"] == 0


def test_without_room_for_users_nobody_is_kept(tmp_path: Path) -> None:
    shop = Shop(tmp_path, active_users_max=0)
    shop.visit("ann")
    shop.sell_out("axe")
    assert shop.aside() is None
    assert shop.counts["active_users"] == 0


# --- after an assignment ---------------------------------------------------------------------------------------------


def restarted(home: Path, *lists_found: RecommendationList, partition: int = 3) -> Shop:
    """The next worker, on the same database, to whom the topic tells these lists."""
    following = Shop(home, push_users=0)
    for made in lists_found:
        found_list = found(made.model_dump(mode="json"), partition)
        following.role._unasked._last_lists.found[made.user_id] = found_list
    return following


def found(value: dict[str, Any], partition: int) -> FoundList:
    return FoundList(partition, bytes(cramjam.lz4.compress_block(orjson.dumps(value))))


def test_what_sold_out_while_nobody_looked_is_retracted_after_the_lists_are_read_back(
    shop: Shop, tmp_path: Path
) -> None:
    (before,) = shop.visit("ann")
    following = restarted(tmp_path, before)
    following.sell_out("axe")
    record, whole = following.all_asides()
    assert (record.withdrawn, record.revision) == (["axe"], before.revision)
    assert record.made_at > before.made_at
    assert ids(whole) == ["pot", "cup"]


def test_a_list_that_was_read_back_does_not_take_the_place_of_a_newer_one(shop: Shop, tmp_path: Path) -> None:
    (before,) = shop.visit("ann")
    shop.sell_out("cup")
    following = restarted(tmp_path, before)
    following.sell_out("cup")
    following.offset = shop.offset
    (newer,) = following.visit("ann")
    assert ids(newer) == ["axe", "pot"]
    assert following.all_asides() == []


def test_one_who_has_only_a_record_gets_her_whole_list_from_the_next_worker(shop: Shop, tmp_path: Path) -> None:
    shop.visit("ann")
    shop.sell_out("axe")
    (record,) = shop.aside() or []
    following = restarted(tmp_path, record)
    following.sell_out("axe")
    (whole,) = following.all_asides()
    assert (whole.withdrawn, ids(whole)) == ([], ["pot", "cup"])


@pytest.mark.parametrize("reason", ["forgotten", "another's partition", "not a list", "inactive"])
def test_one_who_is_not_to_be_here_is_not_read_back(shop: Shop, tmp_path: Path, reason: str) -> None:
    (before,) = shop.visit("ann")
    if reason == "forgotten":
        shop.compute([shop.record(None, key="ann")])
    following = restarted(tmp_path, before, partition=2 if reason == "another's partition" else 3)
    if reason == "not a list":
        following.role._unasked._last_lists.found["ann"] = found({}, 3)
    if reason == "inactive":
        following.role._unasked._active_s = 1e-9
    following.sell_out("axe")
    assert following.all_asides() == []
    assert following.counts["active_users"] == 0


def test_lists_that_could_not_be_looked_up_are_read_back_later(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = shop.visit("ann")
    following = restarted(tmp_path, before)
    with monkeypatch.context() as patch:
        patch.setattr(following.users, "read", _away)
        with pytest.raises(StoreUnavailable, match="away"):
            following.aside()
    following.all_asides()
    assert following.counts["active_users"] == 1


def _away(_: object) -> dict[str, Any]:
    raise StoreUnavailable("the users are away")


# --- whatever happens ------------------------------------------------------------------------------------------------

PRODUCTS = ("tea", "cup", "pot", "axe")
USERS = ("ann", "bob", "eve")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("visit"), st.sampled_from(USERS), st.sampled_from(PRODUCTS)),
        st.tuples(st.just("forget"), st.sampled_from(USERS), st.none()),
        st.tuples(st.sampled_from(["sell_out", "offer", "delete"]), st.none(), st.sampled_from(PRODUCTS)),
        st.tuples(st.just("aside"), st.none(), st.none()),
        st.tuples(st.just("failed aside"), st.none(), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_list_made_after_a_record_holds_what_it_withdrew_and_in_the_end_every_list_is_right(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, str, str]]
) -> None:
    shop = Shop(tmp_path_factory.mktemp("shop"), push_users=0, list_length=3)
    last: dict[str, RecommendationList] = {}

    def hear(published: Sequence[RecommendationList]) -> None:
        for made in published:
            assert all(shop.shelf.listable[shop.shelf.rows[product_id]] for product_id in ids(made))
            if made.user_id in last:
                known = last[made.user_id]
                assert (made.revision, made.made_at) > (known.revision, known.made_at)
            last[made.user_id] = made

    for do, user_id, product_id in steps:
        if do == "visit":
            hear(shop.visit(user_id, product_id=product_id))
        elif do == "forget":
            shop.compute([shop.record(None, key=user_id)])
            last.pop(user_id, None)
        elif do == "aside":
            hear(shop.aside() or [])
        elif do == "failed aside":
            shop.role.aside(HELD)
        else:
            getattr(shop, do)(product_id)
    hear(shop.all_asides())
    assert last.keys() == shop.role._unasked._audience.slots.keys()
    for user_id, made in last.items():
        assert made.withdrawn == []
        assert all(shop.shelf.listable[shop.shelf.rows[product_id]] for product_id in ids(made)), user_id
