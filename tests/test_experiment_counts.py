"""What is counted in an experiment: with the user's row, so that nothing counts twice, whatever is replayed."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from databases import database_fixture, engine_fixture  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from shelves import FullReplica, offer
from sqlalchemy import Engine
from test_clicks import NAMES, TOPIC, click, identify, lists
from test_experiments import PLAIN, running

from store.database import open_database
from store.experiments import COUNTS, ExperimentRefused, ExperimentStore, UserCounts, VariantSums
from store.records import StaleRows, UserRow
from store.users import Forgotten, UserStore
from streams.broker import Broker
from streams.clicks import ClicksRole
from streams.events import RecommendationList
from streams.experiments import RunningExperiment
from streams.list_ids import Origin, new_list_id, origin_of, tag_of
from streams.published_document import KEY
from streams.role import Assignment, Delivery, Message, Outcome
from streams.settings import Settings
from streams.shelf import Shelf

TAG = tag_of("try")
ROW = UserRow("ann", 1, (), (), {"t/0": 5})
ANN = UserCounts("ann", "try", "plain", lists=1, clicks=2, all_carts=1)


# --- the store ---------------------------------------------------------------------------------------------------


def test_counts_are_added_with_the_row_or_not_at_all(engine: Engine) -> None:
    users, experiments = UserStore(engine), ExperimentStore(engine)
    users.write([ROW], counted=[ANN])
    users.write([replace(ROW, revision=2)], counted=[replace(ANN, lists=3, clicks=0)])
    with pytest.raises(StaleRows):
        users.write([replace(ROW, revision=2)], counted=[ANN])
    (held,) = experiments.of_user("ann")
    named = {"experiment": "try", "variant": "plain"}
    assert held == named | dict.fromkeys(COUNTS, 0) | {"lists": 4, "clicks": 2, "all_carts": 2}
    assert experiments.of_user("bob") == []


def test_sums_are_by_variant_and_of_one_experiment(engine: Engine) -> None:
    users, experiments = UserStore(engine), ExperimentStore(engine)
    counted = [
        *(ANN, replace(ANN, user_id="bob", lists=3, clicks=0, carts=1), replace(ANN, experiment="other")),
        replace(ANN, user_id="eve", variant="", first_team=2, second_team=1, purchases=1, all_purchases=1),
        replace(ANN, user_id="joe", variant="", first_team=1, second_team=1, clicks=3),
    ]
    users.write([ROW], counted=counted)
    sums = experiments.sums("try")
    assert sums["plain"] == VariantSums("plain", 2, 4, 2, 10, 4, 2, 1, 1, 0, 2, 0, 0, 0, 0, 0)
    assert sums[""] == VariantSums("", 2, 2, 5, 2, 13, 5, 2, 0, 1, 2, 1, 5, 1, 0, 1)
    assert experiments.sums("never") == {}


def test_who_is_forgotten_leaves_no_counts_but_those_of_what_came_after(engine: Engine) -> None:
    users, experiments = UserStore(engine), ExperimentStore(engine)
    users.write([ROW], counted=[ANN, replace(ANN, user_id="bob")])
    after = replace(ROW, revision=2, offsets={"t/0": 7})
    users.write([after], [Forgotten("ann", "t/0", 6, 1.0)], [replace(ANN, lists=9)])
    assert [held["lists"] for held in experiments.of_user("ann")] == [9]
    users.write([], [Forgotten("ann", "t/0", 8, 1.0)])
    assert experiments.of_user("ann") == []
    assert len(experiments.of_user("bob")) == 1


def test_one_experiment_runs_at_a_time_and_a_name_is_used_once(engine: Engine) -> None:
    store = ExperimentStore(engine)
    first = store.start("one", "{}", 100.0)
    assert (first.is_new, first.row.started_at) == (True, 100.0)
    again = store.start("one", "{}", 200.0)
    assert (again.is_new, again.row.started_at) == (False, 100.0)
    with pytest.raises(ExperimentRefused, match="the experiment one runs: stop it with `freshet experiments stop`"):
        store.start("one", '{"other": 1}', 200.0)
    with pytest.raises(ExperimentRefused, match="the experiment one runs"):
        store.start("two", "{}", 200.0)
    store.stop("one", 300.0)
    store.stop("one", 400.0)
    with pytest.raises(ExperimentRefused, match="the name one was used, its counts are kept: give it another one"):
        store.start("one", "{}", 500.0)
    store.start("two", "{}", 600.0)
    assert [(row.name, row.stopped_at) for row in store.all()] == [("two", None), ("one", 300.0)]


def test_what_is_removed_is_gone_with_its_counts_and_what_runs_stays(engine: Engine) -> None:
    users, store = UserStore(engine), ExperimentStore(engine)
    store.start("try", "{}", 100.0)
    users.write([ROW], counted=[ANN, replace(ANN, experiment="other")])
    with pytest.raises(ExperimentRefused, match="the experiment try runs: stop it"):
        store.remove("try")
    store.stop("try", 200.0)
    store.remove("try")
    assert (store.all(), store.sums("try"), len(store.of_user("ann"))) == ([], {}, 1)
    with pytest.raises(ExperimentRefused, match="there is no experiment try"):
        store.remove("try")
    users.write([replace(ROW, revision=2, offsets={"t/0": 7})], counted=[ANN])  # of a worker that had not heard of it
    store.start("try", '{"other": 1}', 300.0)
    assert store.sums("try") == {}


# --- the role ----------------------------------------------------------------------------------------------------


class Shop:
    """The clicks role, an experiment, and the records that the role is given one after the other."""

    def __init__(self, home: Path, experiment: RunningExperiment, **more: Any) -> None:
        engine = open_database(None, home, "users", more.get("namespace", ""))
        self.users, self.experiments = UserStore(engine), ExperimentStore(engine)
        self.shelf = Shelf()
        for number, product_id in enumerate((b"tea", b"cup", b"pot", b"axe")):
            self.shelf.put_offer(product_id, offer(number + 1, title=product_id.decode()), ())
        self.experiment = experiment
        chosen = Settings(home=home, worker_id="w", **more)
        self.role = ClicksRole(
            *(chosen, NAMES, Broker(chosen), self.users, self.shelf, FullReplica()),  # type: ignore[arg-type]
            experiment,
        )
        self.offset = -1

    def records(self, *values: tuple[str, bytes | None]) -> list[Message]:
        made = []
        for key, value in values:
            self.offset += 1
            made.append(Message(NAMES.user_clicks, TOPIC, 3, self.offset, key.encode(), value, (), time.time()))
        return made

    def compute(self, records: Sequence[Message], *, commits: bool = True) -> Outcome:
        outcome = self.role.compute([Delivery(record, self.role.parse(record)) for record in records], None)
        if commits:
            outcome.commit()
        return outcome

    def click(self, user: str = "ann", **fields: Any) -> RecommendationList:
        (made,) = lists(self.compute(self.records((user, event(user, **fields)))))
        return made

    def counts(self, user: str = "ann") -> dict[str, Any]:
        """Those that are not 0, of the one experiment."""
        held = self.experiments.of_user(user)
        assert len(held) <= 1
        return {name: value for name, value in (held[0] if held else {}).items() if value}


def event(user: str = "ann", **fields: Any) -> bytes:
    """A click of the user, with other fields."""
    event_id = fields.pop("event_id", f"e{time.perf_counter_ns()}")
    return orjson.dumps(orjson.loads(click(event_id=event_id, user_id=user)) | fields)


def user_of(experiment: RunningExperiment, arm: int | None) -> str:
    trial = experiment.trial
    assert trial is not None
    return next(name for name in map("user-{}".format, range(1_000)) if trial.arm_of(name) == arm)


def test_what_came_out_of_her_list_counts_and_of_the_rest_only_what_was_bought_or_put_into_the_basket(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path, running())
    user = user_of(shop.experiment, 1)
    made = shop.click(user)
    assert made.experiment is not None
    assert (made.experiment.name, made.experiment.variant) == ("try", "diverse")
    named = {"experiment": "try", "variant": "diverse"}
    assert shop.counts(user) == named | {"lists": 1}
    owed = {"list_id": made.list_id, "position": 0}
    shop.click(user, event="select_item", **owed)
    shop.click(user, event="view_item", **owed)
    shop.click(user, event="add_to_cart", **owed)
    shop.click(user, event="purchase", **owed)
    shop.click(user, event="purchase", list_id="the shop's own")
    shop.click(user, event="purchase", list_id=new_list_id(Origin(TAG, 0)))  # of the other variant
    shop.click(user, event="add_to_cart")
    shop.click(user, event="view_item", list_id=new_list_id())
    counted = {"lists": 9, "clicks": 2, "carts": 1, "all_carts": 2, "purchases": 1, "all_purchases": 3}
    assert shop.counts(user) == named | counted


def test_only_who_takes_part_counts_and_only_between_start_and_stop(tmp_path: Path) -> None:
    shop = Shop(tmp_path, running(traffic=0.5))
    nobody, user = user_of(shop.experiment, None), user_of(shop.experiment, 0)
    assert shop.click(nobody).experiment is None
    assert shop.counts(nobody) == {}
    trial = shop.experiment.trial
    assert trial is not None
    trial.started_at = time.time() - 60
    owed = {"list_id": new_list_id(Origin(TAG, 0)), "position": 0}
    old = event(user, occurred_at="2020-01-01T00:00:00Z", **owed)
    shop.compute(shop.records((user, old)))
    assert shop.counts(user) == {}, "it happened before the start, and its time is too old for a list"
    shop.click(user, **owed)
    shop.experiment.put(KEY, None, ())
    made = shop.click(user, **owed)
    assert made.experiment is None
    assert origin_of(made.list_id) is None
    assert shop.counts(user) == {"experiment": "try", "variant": "plain", "lists": 1, "clicks": 1}


def test_a_click_in_a_drawn_list_is_a_vote_for_whose_item_it_was(tmp_path: Path) -> None:
    shop = Shop(tmp_path, running(mode="interleave"))
    made = shop.click("ann")
    origin = origin_of(made.list_id)
    assert origin is not None
    assert len(origin.teams) == len(made.items) == 3
    for position in range(3):
        shop.click("ann", list_id=made.list_id, position=position)
    shop.click("ann", list_id=made.list_id)
    shop.click("ann", list_id=made.list_id, position=3)
    second = sum(origin.teams)
    teams = {"first_team": 3 - second, "second_team": second}
    assert shop.counts("ann") == {"experiment": "try", "lists": 6, "clicks": 5} | teams


def test_neither_a_duplicate_nor_a_replay_nor_a_visitor_s_history_counts(tmp_path: Path) -> None:
    shop = Shop(tmp_path, running(PLAIN, {"name": "same"}, mode="interleave"))
    owed = {"list_id": new_list_id(Origin(TAG, None, (0, 1))), "position": 1}
    once = shop.records(("ann", event(event_id="e1", **owed)))
    shop.compute(once)
    told = shop.counts()
    assert told == {"experiment": "try", "lists": 1, "clicks": 1, "second_team": 1}
    assert len(lists(shop.compute(once))) == 1, "a replay publishes the list again"
    assert shop.counts() == told
    shop.compute(shop.records(("ann", event(event_id="e1", **owed))))
    assert shop.counts() == told
    shop.compute(shop.records(("ann", identify("pot", "tea"))))
    assert shop.counts() == told | {"lists": 2}


def test_what_a_user_did_in_the_same_batch_before_she_was_forgotten_is_gone(tmp_path: Path) -> None:
    shop = Shop(tmp_path, running(mode="interleave"))
    owed = {"list_id": new_list_id(Origin(TAG, None, (0, 1))), "position": 1}
    shop.compute(shop.records(("ann", event(**owed)), ("ann", event(**owed)), ("ann", None)))
    assert shop.counts() == {}
    shop.compute(shop.records(("ann", event(**owed)), ("ann", None), ("ann", event(**owed))))
    assert shop.counts() == {"experiment": "try", "lists": 1, "clicks": 1, "second_team": 1}


def test_a_record_of_what_is_left_and_a_pushed_list_tell_whose_items_they_hold(tmp_path: Path) -> None:
    shop = Shop(tmp_path, running(mode="interleave"))
    whole = shop.click("ann")
    gone = whole.items[0].product_id
    shop.shelf.put_offer(gone.encode(), offer(9, title=gone, state="sold_out"), ())
    made = []
    while (outcome := shop.role.aside(Assignment(1, frozenset({3})))) is not None:
        outcome.commit()
        made += lists(outcome)
    record, after = made
    assert (record.withdrawn, after.withdrawn) == ([gone], [])
    before, left, again = (origin_of(one.list_id) for one in (whole, record, after))
    assert before is not None
    assert left is not None
    assert again is not None
    assert left.teams == before.teams[1:]
    assert len(again.teams) == len(after.items) == 2
    assert {one.experiment.variant for one in made if one.experiment} == {None}
    shop.click("ann", list_id=record.list_id, position=1)
    assert shop.counts()[("first_team", "second_team")[before.teams[2]]] == 1


deeds = st.tuples(
    st.sampled_from(("ann", "bob")),
    st.sampled_from(["view_item", "add_to_cart", "purchase", "forget"]),
    st.sampled_from([None, *(new_list_id(Origin(TAG, None, teams)) for teams in ((0, 1), (1, 1)))]),
    st.integers(0, 3),  # of the event_id: some come twice
)


@pytest.fixture(scope="module")
def drawn_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """One for all examples: their users differ."""
    return Shop(tmp_path_factory.mktemp("experiments"), running(mode="interleave"))


@settings(max_examples=25, deadline=None)
@given(
    events=st.lists(deeds, min_size=1, max_size=8),
    deaths=st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["published", "committed", "done"])), max_size=4),
)
def test_whatever_is_replayed_after_deaths_the_counts_are_those_of_a_calm_run(
    drawn_shop: Shop, events: list[Any], deaths: list[Any]
) -> None:
    """A death between publishing and commit writes nothing; one after the commit has the whole batch come again."""
    shop, calm, stormy = drawn_shop, uuid.uuid4().hex, uuid.uuid4().hex

    def records(whose: str) -> list[Message]:
        values = []
        for name, deed, made, id_ in events:
            fields = {"event": deed, "list_id": made, "position": 0, "event_id": str(id_)}
            values.append((name + whose, None if deed == "forget" else event(name + whose, **fields)))
        return shop.records(*values)

    shop.compute(records(calm))
    todo, at = records(stormy), 0
    for size, death in [*deaths, (100, "done")]:
        if batch := todo[at : at + size]:
            shop.compute(batch, commits=death != "published")
            at += len(batch) if death == "done" else 0
    for name in ("ann", "bob"):
        expected, got = ({**shop.counts(name + whose), "lists": 0} for whose in (calm, stormy))
        assert got == expected  # how many lists there were is a matter of the batches


def test_without_an_experiment_nothing_is_written(tmp_path: Path) -> None:
    shop = Shop(tmp_path, RunningExperiment())
    assert shop.click("ann", event="purchase", list_id=new_list_id(Origin(TAG, 0))).experiment is None
    assert shop.counts() == {}
    assert shop.experiments.sums("try") == {}
