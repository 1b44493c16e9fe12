"""The clicks role on a real database: histories, lists, examples, replays, forgetting."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shelves import FullReplica, factors, offer, vectors, weights

from store.database import open_database
from store.records import Click
from store.users import UserStore
from streams.broker import Broker
from streams.clicks import ClicksRole
from streams.door import identify_event
from streams.events import RecommendationList, TrainingExample, UserClick, WrongKey
from streams.parsing import parse
from streams.role import Delivery, Message, Outcome
from streams.settings import Settings
from streams.shelf import Shelf
from streams.topics import topic_names

TOPIC = "topic-id-1"
NAMES = topic_names(Settings(), "abc")


class Clicks:
    """The role, and the records that it is given one after the other."""

    def __init__(self, home: Path, **more: Any) -> None:
        self.users = UserStore(open_database(None, home, "users"))
        shelf = Shelf()
        for number, product_id in enumerate((b"tea", b"cup", b"pot", b"axe")):
            shelf.put_offer(product_id, offer(title=product_id.decode()), ())
            shelf.put_vectors(product_id, vectors([1.0, float(number)]), ())
            shelf.put_factors(product_id, factors([1.0 + number, 0.0], clicks=100), ())
        shelf.put_weights(b"next-click", weights(2), ())
        chosen = Settings(home=home, worker_id="w", **more)
        self.role = ClicksRole(chosen, NAMES, Broker(chosen), self.users, shelf, FullReplica())  # type: ignore[arg-type]
        self.offset = -1

    def record(self, value: bytes | None, key: str = "ann", offset: int | None = None) -> Message:
        self.offset = self.offset + 1 if offset is None else offset
        return Message(NAMES.user_clicks, TOPIC, 3, self.offset, key.encode(), value, (), time.time())

    def compute(self, records: Sequence[Message], *, commits: bool = True) -> Outcome:
        outcome = self.role.compute([Delivery(record, self.role.parse(record)) for record in records], None)
        if commits:
            outcome.commit()
        return outcome


@pytest.fixture
def clicks(tmp_path: Path) -> Clicks:
    return Clicks(tmp_path)


def click(product_id: str = "tea", *, event_id: str = "e1", user_id: str = "ann", at: float | None = None) -> bytes:
    occurred_at = datetime.fromtimestamp(time.time() if at is None else at, UTC).isoformat()
    return orjson.dumps(
        {
            "event_id": event_id,
            "user_id": user_id,
            "product_id": product_id,
            "event": "view_item",
            "occurred_at": occurred_at,
        }
    )


def identify(*product_ids: str, event_id: str = "i1", user_id: str = "ann", at: float = 1e9) -> bytes:
    """The visitor viewed these products, the newest first, a second apart."""
    clicks = [Click(product_id, "view_item", at - place) for place, product_id in enumerate(product_ids)]
    return orjson.dumps(orjson.loads(identify_event(user_id, clicks).model_dump_json()) | {"event_id": event_id})


def lists(outcome: Outcome) -> list[RecommendationList]:
    return [parse(RecommendationList, m.value or b"") for m in outcome.publish if m.topic == NAMES.recommendations]


def examples(outcome: Outcome) -> list[TrainingExample]:
    return [parse(TrainingExample, m.value or b"") for m in outcome.publish if m.topic == NAMES.training_examples]


def test_a_click_becomes_history_a_list_and_an_example(clicks: Clicks) -> None:
    outcome = clicks.compute([clicks.record(click("tea", event_id="e1"))])
    row = clicks.users.read(["ann"])["ann"]
    assert [c.product_id for c in row.clicks] == ["tea"]
    assert row.revision == 1
    assert row.offsets == {f"{TOPIC}/3": 0}
    assert row.embedding is not None
    (made,) = lists(outcome)
    assert made.event_ids == ["e1"]
    assert made.revision == 1
    assert made.cause == "click"
    assert [item.product_id for item in made.items] == ["axe", "pot", "cup"]
    (example,) = examples(outcome)
    assert (example.topic_id, example.partition, example.offset) == (TOPIC, 3, 0)
    assert example.product_id == "tea"
    assert example.history == []


def test_the_segment_of_a_click_goes_into_its_example_and_that_of_the_newest_into_the_list(
    clicks: Clicks, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str | None]] = []
    rank = clicks.role._ranker.rank

    def noted(histories: Any, *, segments: Any, **more: Any) -> Any:
        asked.append(sorted(segments, key=str))
        return rank(histories, segments=segments, **more)

    monkeypatch.setattr(clicks.role._ranker, "rank", noted)
    raw = [orjson.dumps(orjson.loads(click("unheard of", event_id=s)) | {"segment": s}) for s in ("FR", "DE")]
    told = clicks.compute([*map(clicks.record, raw), clicks.record(click(user_id="bob"), key="bob")])
    assert asked == [["DE", None]]
    assert [one.segment for one in examples(told) if one.product_id == "unheard of"] == ["FR", "DE"]
    values = [orjson.loads(m.value or b"") for m in told.publish if m.topic == NAMES.training_examples]
    assert sorted("segment" in value for value in values) == [False, True, True]


def test_a_reason_tells_of_a_shopper_like_her_until_that_one_is_forgotten(clicks: Clicks) -> None:
    """Both click along the same factor: the cosine of their embeddings is 1. She does not count for herself."""
    told = "; a like-minded shopper clicked it lately"
    clicks.compute([clicks.record(click("pot", user_id="bob"), key="bob")])

    def reasons(event_id: str) -> dict[str, str]:
        (made,) = lists(clicks.compute([clicks.record(click("tea", event_id=event_id))]))
        return {item.product_id: item.reason for item in made.items}

    found = reasons("e1")
    assert [product_id for product_id, reason in found.items() if reason.endswith(told)] == ["pot"]
    clicks.compute([clicks.record(None, key="bob")])
    assert not any(reason.endswith(told) for reason in reasons("e2").values())


def test_one_list_per_user_and_batch_names_every_event_and_examples_see_what_came_before(clicks: Clicks) -> None:
    now = time.time()
    outcome = clicks.compute(
        [
            clicks.record(click("tea", event_id="e1", at=now - 60)),
            clicks.record(click("pot", event_id="b1", user_id="bob"), key="bob"),
            clicks.record(click("cup", event_id="e2", at=now - 20)),
        ]
    )
    assert {made.user_id: made.event_ids for made in lists(outcome)} == {"ann": ["e1", "e2"], "bob": ["b1"]}
    (of_cup,) = [example for example in examples(outcome) if example.product_id == "cup"]
    (before,) = of_cup.history
    assert before.product_id == "tea"
    assert before.age_s == pytest.approx(40, abs=0.01)
    assert {m.partition for m in outcome.publish if m.topic == NAMES.training_examples} == {3}


def test_an_example_says_what_no_list_holds_any_more_and_whether_one_might_have_held_the_product(
    clicks: Clicks,
) -> None:
    now = time.time()
    steps = [("tea", "purchase"), ("cup", "view_item"), ("pot", "add_to_cart"), ("axe", "view_item")]
    steps += [("tea", "view_item"), ("cup", "view_item"), ("axe", "view_item"), ("axe", "view_item")]
    records = []
    for number, (product_id, event) in enumerate(steps):
        raw = orjson.loads(click(product_id, event_id=f"e{number}", at=now - 100 + number)) | {"event": event}
        records.append(clicks.record(orjson.dumps(raw)))
    found = examples(clicks.compute(records))
    assert [example.event for example in found] == [event for _, event in steps]
    # Tea was bought; cup was viewed four clicks before; axe was among the last three, and then was the last.
    assert [example.eligible for example in found] == [True, True, True, True, False, True, False, False]
    assert [(before.product_id, before.seen) for before in found[4].history] == [
        ("axe", False),
        ("pot", False),
        ("cup", False),
        ("tea", True),
    ]


def test_which_events_take_a_product_from_the_lists_is_a_setting(tmp_path: Path) -> None:
    clicks = Clicks(tmp_path, seen_events={"view_item"})
    now = time.time()
    ids = ("tea", "cup", "pot", "axe", "tea")
    records = [clicks.record(click(name, event_id=f"e{n}", at=now - 60 + n)) for n, name in enumerate(ids)]
    found = examples(clicks.compute(records))
    assert [example.eligible for example in found] == [True, True, True, True, False]
    assert {before.seen for before in found[4].history} == {True}


def test_lists_for_clicks_hold_new_products_for_their_share_and_it_is_counted(tmp_path: Path) -> None:
    shares = {"explore_share": 1.0, "explore_nearest": 1.0, "explore_per_user": 255, "list_length": 6}
    clicks = Clicks(tmp_path, **shares)
    shelf = clicks.role._shelf
    for number in range(12):
        key = b"old-%d" % number
        shelf.put_offer(key, offer(title=key.decode()), ())
        shelf.put_vectors(key, vectors([1.0, float(number)]), ())
        shelf.put_factors(key, factors([1.0 + number, 0.0], clicks=100), ())
    shelf.put_offer(b"new", offer(title="new", created_at=time.time()), ())
    shelf.put_vectors(b"new", vectors([1.0, 2.0]), ())
    shelf.put_factors(b"new", factors([-9.0, 0.0]), ())
    made = []
    for number in range(80):
        user_id = f"user-{number}"
        made += lists(clicks.compute([clicks.record(click("tea", event_id=user_id, user_id=user_id), key=user_id)]))
    new = [item for one in made for item in one.items if item.source == "new"]
    assert {item.product_id for item in new} == {"new"}
    assert clicks.role.details()["explored"] == len(new) > 0


def test_no_example_names_a_user(clicks: Clicks) -> None:
    outcome = clicks.compute([clicks.record(click("tea", user_id="ann-the-user"), key="ann-the-user")])
    (example,) = [m for m in outcome.publish if m.topic == NAMES.training_examples]
    assert example.key is None
    assert b"ann-the-user" not in (example.value or b"")


def test_a_publishers_duplicate_changes_only_the_offset(clicks: Clicks) -> None:
    clicks.compute([clicks.record(click("tea", event_id="e1"))])
    outcome = clicks.compute([clicks.record(click("tea", event_id="e1"))])
    row = clicks.users.read(["ann"])["ann"]
    assert len(row.clicks) == 1
    assert row.offsets == {f"{TOPIC}/3": 1}
    assert outcome.publish == []


def test_a_replay_changes_nothing_and_publishes_the_list_again(clicks: Clicks) -> None:
    record = clicks.record(click("tea", event_id="e1"))
    clicks.compute([record])
    before = clicks.users.read(["ann"])["ann"]
    outcome = clicks.compute([record])
    assert clicks.users.read(["ann"])["ann"] == before
    assert examples(outcome) == []
    (again,) = lists(outcome)
    assert again.event_ids == ["e1"]
    assert again.revision == 1


def test_old_clicks_are_learned_but_make_no_list(clicks: Clicks) -> None:
    outcome = clicks.compute([clicks.record(click("tea", at=time.time() - 2 * 86_400))])
    assert lists(outcome) == []
    assert len(examples(outcome)) == 1
    assert len(clicks.users.read(["ann"])["ann"].clicks) == 1


def test_a_robots_clicks_beyond_the_cap_are_kept_but_not_learned(tmp_path: Path) -> None:
    clicks = Clicks(tmp_path, learn_clicks_per_minute=3)
    now = time.time()
    records = [clicks.record(click("tea", event_id=f"e{n}", at=now - 50 + n)) for n in range(5)]
    records.append(clicks.record(click("tea", event_id="later", at=now + 70)))
    outcome = clicks.compute(records)
    assert [example.offset for example in examples(outcome)] == [0, 1, 2, 5]
    assert len(clicks.users.read(["ann"])["ann"].clicks) == 6


def test_history_is_bounded(tmp_path: Path) -> None:
    clicks = Clicks(tmp_path, history_clicks=10)
    clicks.compute([clicks.record(click("tea", event_id=f"e{n}")) for n in range(15)])
    assert len(clicks.users.read(["ann"])["ann"].clicks) == 10


def test_null_forgets_the_user(clicks: Clicks) -> None:
    first = clicks.record(click("tea", event_id="e1"))
    clicks.compute([first])
    clicks.compute([clicks.record(None)])
    assert clicks.users.read(["ann"]) == {}
    outcome = clicks.compute([first])  # a replay from before
    assert outcome.publish == []
    assert clicks.users.read(["ann"]) == {}


def test_who_clicks_after_being_forgotten_begins_anew_with_a_higher_revision(clicks: Clicks) -> None:
    clicks.compute([clicks.record(click("tea", event_id="e1"))])
    outcome = clicks.compute(
        [
            clicks.record(click("pot", event_id="e2")),
            clicks.record(None),
            clicks.record(click("cup", event_id="e3")),
        ]
    )
    row = clicks.users.read(["ann"])["ann"]
    assert [c.product_id for c in row.clicks] == ["cup"]
    assert row.revision == 2
    (made,) = lists(outcome)
    assert made.event_ids == ["e3"]
    assert made.revision == 2


def test_a_visitor_s_clicks_join_the_history_by_their_time_in_one_list_and_are_not_learned_again(
    clicks: Clicks,
) -> None:
    now = time.time()
    outcome = clicks.compute(
        [
            clicks.record(click("pot", event_id="e1", at=now - 70)),
            clicks.record(click("axe", event_id="e2", at=now - 60)),
            clicks.record(identify("tea", "cup", at=now - 65)),
            clicks.record(click("pot", event_id="e3", at=now - 50)),
        ]
    )
    row = clicks.users.read(["ann"])["ann"]
    assert [one.product_id for one in row.clicks] == ["pot", "axe", "tea", "cup", "pot"]
    assert (row.revision, row.offsets, row.recent_event_ids) == (1, {f"{TOPIC}/3": 3}, ("e3", "i1", "e2", "e1"))
    (made,) = lists(outcome)
    assert made.event_ids == ["e1", "e2", "i1", "e3"]
    assert [example.offset for example in examples(outcome)] == [0, 1, 3]
    assert [one.product_id for one in examples(outcome)[2].history] == ["axe", "tea", "cup", "pot"]
    assert clicks.role.details()["identified"] == 1


def test_an_identify_event_that_comes_again_adds_nothing(clicks: Clicks) -> None:
    record = clicks.record(identify("tea", "cup"))
    clicks.compute([record])
    before = clicks.users.read(["ann"])["ann"]
    (again,) = lists(clicks.compute([record]))
    assert (again.revision, again.event_ids) == (1, ["i1"])
    assert clicks.users.read(["ann"])["ann"] == before
    assert lists(clicks.compute([clicks.record(identify("tea", "cup"))])) == [], "a publisher's duplicate"
    (third,) = lists(clicks.compute([clicks.record(identify("pot", "cup", "tea", event_id="i2", at=1e9 + 1))]))
    assert (third.revision, third.event_ids) == (3, ["i2"])
    # Of the second history only the pot is new: the cup was clicked at the time of the tea.
    assert sorted(one.product_id for one in clicks.users.read(["ann"])["ann"].clicks) == [
        "cup",
        "cup",
        "pot",
        "tea",
        "tea",
    ]


def test_a_merged_history_keeps_its_bound_and_its_newest_clicks(tmp_path: Path) -> None:
    clicks = Clicks(tmp_path, history_clicks=10)
    clicks.compute([clicks.record(click("tea", event_id=f"e{n}", at=1e9 + n)) for n in range(8)])
    clicks.compute([clicks.record(identify(*["cup"] * 6, at=1e9 + 7.5))])
    found = clicks.users.read(["ann"])["ann"].clicks
    assert "".join(one.product_id[0] for one in found) == "ctctctctct"


def test_who_was_forgotten_gets_no_clicks_of_a_visitor_from_before(clicks: Clicks) -> None:
    record = clicks.record(identify("tea"))
    clicks.compute([record, clicks.record(None)])
    assert clicks.compute([record]).publish == []
    assert clicks.users.read(["ann"]) == {}


def test_a_click_under_another_key_is_told_its_right_one(clicks: Clicks) -> None:
    with pytest.raises(WrongKey, match="'bob'"):
        clicks.role.parse(clicks.record(click(user_id="bob"), key="ann"))


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(["tea", "cup", "?"]), st.integers(0, 12)),
        st.tuples(st.sampled_from(["ann", "bob"]), st.none(), st.none()),
        st.tuples(st.sampled_from(["ann", "bob"]), st.just("identify"), st.integers(0, 2)),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=EVENTS,
    deaths=st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["published", "committed", "done"])), max_size=20),
)
def test_whatever_is_replayed_after_deaths_counts_once(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str | None, int | None]], deaths: list[Any]
) -> None:
    def value(user: str, product: str | None, event: int | None) -> bytes | None:
        if product == "identify":
            return identify("tea", "pot", event_id=f"i{event}", user_id=user, at=1e9 + (event or 0))
        return None if product is None else click(product, event_id=f"e{event}", user_id=user)

    def records(clicks: Clicks) -> list[Message]:
        return [clicks.record(value(*event), key=event[0]) for event in events]

    calm = Clicks(tmp_path_factory.mktemp("calm"))
    once = [calm.compute([record]) for record in records(calm)]
    truth = {position for outcome in once for position in _positions(outcome)}

    stormy = Clicks(tmp_path_factory.mktemp("stormy"))
    todo, learned, answered, at = records(stormy), set(), set(), 0
    for size, death in [*deaths, (100, "done")] if todo else ():
        batch = todo[at : at + size]
        if not batch:
            continue
        outcome = stormy.compute(batch, commits=death != "published")
        learned |= _positions(outcome)
        answered |= {event_id for made in lists(outcome) for event_id in made.event_ids}
        at += len(batch) if death == "done" else 0
    assert learned == truth
    for user in ("ann", "bob"):
        expected, got = calm.users.read([user]).get(user), stormy.users.read([user]).get(user)
        assert (expected and [c.product_id for c in expected.clicks]) == (got and [c.product_id for c in got.clicks])
        assert (expected and expected.offsets) == (got and got.offsets)
        assert (expected and expected.recent_event_ids) == (got and got.recent_event_ids)


def _positions(outcome: Outcome) -> set[tuple[str, int, int]]:
    return {(example.topic_id, example.partition, example.offset) for example in examples(outcome)}


def test_the_role_takes_only_its_contract(clicks: Clicks) -> None:
    event = clicks.role.parse(clicks.record(click("tea")))
    assert isinstance(event, UserClick)
