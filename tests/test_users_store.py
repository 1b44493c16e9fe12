"""Users: no click is lost or counted twice, whoever writes, and the forgotten stay forgotten."""

import subprocess
import sys
import typing
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from databases import Database, database_fixture, engine_fixture  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from store.database import open_database, reading
from store.history import EVENTS, History
from store.records import Click, StaleRows, UserRow
from store.users import Forgotten, Mark, UserStore
from streams.events import ClickEvent

NEWER, OLDER = Click("cup", "purchase", 200.5), Click("lamp", "view_item", 100.25)
ANNA = UserRow("anna", 1, (NEWER, OLDER), ("e2", "e1"), {"t/0": 9}, b"\0\0\x80?", "1.7", 201.0)


# --- the history ---------------------------------------------------------------------------------------------------


def test_a_packed_history_is_columns_one_after_the_other() -> None:
    packed = History.of((NEWER, OLDER)).pack()
    assert packed[:4] == b"\2\0\0\0"
    assert packed[4:6] == b"\3\0"  # purchase, view_item
    assert packed[6:22].hex() == "0000000000106940" + "0000000000105940"  # 200.5, 100.25
    assert packed[22:] == b'["cup","lamp"]'


def test_every_event_of_the_contract_can_be_kept() -> None:
    assert set(EVENTS) == set(typing.get_args(ClickEvent))
    assert EVENTS[:4] == ("view_item", "select_item", "add_to_cart", "purchase")  # what rows already hold


texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
clicks = st.lists(st.builds(Click, texts, st.sampled_from(EVENTS), st.floats(0, 4e9)), max_size=12).map(tuple)


@given(clicks=clicks, new=clicks, limit=st.integers(0, 20))
def test_a_history_reads_like_the_tuple_that_it_was_made_of(
    clicks: tuple[Click, ...], new: tuple[Click, ...], limit: int
) -> None:
    history = History.unpack(History.of(clicks).pack())
    assert tuple(history) == clicks
    assert history == clicks
    assert history == History.of(clicks)
    assert len(history) == len(clicks)
    assert [history[place] for place in range(len(clicks))] == list(clicks)
    assert history[1:3] == clicks[1:3]
    assert history.with_newest(new, limit) == (new + clicks)[:limit]
    assert history != (*clicks, OLDER)
    assert history != History.of((*clicks, OLDER))


def test_merged_histories_are_by_time_and_what_both_hold_counts_once() -> None:
    a, b, c = Click("a", "view_item", 1.0), Click("b", "view_item", 2.0), Click("c", "view_item", 3.0)
    twice = Click("b", "purchase", 2.0)
    hers = History.of((c, a, a))  # the same click twice, as two events
    assert hers.merged_with((twice, b, a), 9) == (c, twice, b, a, a)
    assert hers.merged_with((twice, b, a), 2) == (c, twice)
    assert hers.merged_with((a, a, a), 9) == (c, a, a, a)
    assert History.of(()).merged_with((a, c), 9) == (c, a)


few = st.lists(st.builds(Click, st.sampled_from("ab"), st.just("view_item"), st.sampled_from([1.0, 2.0])), max_size=6)


@given(mine=few, others=few, limit=st.integers(0, 8))
def test_to_merge_the_same_clicks_again_changes_nothing(mine: list[Click], others: list[Click], limit: int) -> None:
    once = History.of(mine).merged_with(others, limit)
    assert once.merged_with(others, limit) == once
    assert once.merged_with(others[1:], limit) == once
    assert sorted(once.times, reverse=True) == once.times.tolist()
    whole = History.of(mine).merged_with(others, 12)
    assert whole[:limit] == once
    assert {click: max(mine.count(click), others.count(click)) for click in whole} == Counter(whole)
    assert set(whole) == {*mine, *others}


def test_an_event_that_no_contract_knows_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="'glance' is not an event that a history keeps: view_item"):
        History.of((Click("cup", "glance", 1.0),))


# --- rows ----------------------------------------------------------------------------------------------------------


def test_a_row_is_read_as_it_was_written(engine: Engine) -> None:
    store = UserStore(engine)
    store.write([ANNA])
    assert store.read(["anna", "unknown"]) == {"anna": ANNA}
    assert store.counts() == {"users": 1, "forgotten": 0}


rows = st.builds(
    UserRow,
    user_id=texts.filter(bool).map(lambda text: text + uuid.uuid4().hex),
    revision=st.just(1),
    clicks=clicks,
    recent_event_ids=st.lists(texts, max_size=5).map(tuple),
    offsets=st.dictionaries(texts, st.integers(0, 2**63 - 1), max_size=3),
    embedding=st.none() | st.binary(max_size=64),
    embedding_version=texts,
    updated_at=st.floats(0, 4e9),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(rows, max_size=5))
def test_any_rows_survive_the_round_trip(engine: Engine, written: list[UserRow]) -> None:
    store = UserStore(engine)
    store.write(written)
    assert store.read([row.user_id for row in written]) == {row.user_id: row for row in written}


def test_more_users_than_one_statement_can_name_are_written_and_read(engine: Engine) -> None:
    store = UserStore(engine)
    many = [replace(ANNA, user_id=f"u{number}") for number in range(1201)]
    store.write(many)
    store.write([replace(row, revision=2) for row in many])
    assert store.read([row.user_id for row in many]) == {row.user_id: replace(row, revision=2) for row in many}


def test_of_two_workers_that_read_the_same_user_the_second_is_stale_and_writes_nothing(database: Database) -> None:
    one, other = UserStore(database.open()), UserStore(database.open())
    one.write([ANNA])
    mine, theirs = one.read(["anna"])["anna"], other.read(["anna"])["anna"]
    one.write([replace(mine, revision=2, clicks=mine.clicks[:1])])
    with pytest.raises(StaleRows, match=r"anna \(stored 2, to write 2\)"):
        other.write([replace(ANNA, user_id="bert"), replace(theirs, revision=2)])
    assert other.read(["anna", "bert"]) == {"anna": replace(ANNA, revision=2, clicks=(NEWER,))}


def test_workers_that_race_for_the_same_users_apply_every_click_once(database: Database) -> None:
    names, rounds = [f"u{number}" for number in range(40)], 10

    def click_in_turn(store: UserStore, order: list[str]) -> None:
        for _ in range(rounds):
            while True:
                held = store.read(order)
                rows = [held.get(name, UserRow(name, 0, (), (), {})) for name in order]
                try:
                    store.write([replace(row, revision=row.revision + 1, clicks=(NEWER, *row.clicks)) for row in rows])
                    break
                except StaleRows:
                    continue

    with ThreadPoolExecutor(2) as workers:
        orders = (names, names[::-1])  # opposite orders would block each other if the rows were locked as they come
        for done in [workers.submit(click_in_turn, UserStore(database.open()), order) for order in orders]:
            done.result()
    rows = UserStore(database.open()).read(names).values()
    assert [(row.revision, len(row.clicks)) for row in rows] == [(2 * rounds, 2 * rounds)] * 40


# --- forgetting ----------------------------------------------------------------------------------------------------


def forget(user_id: str, offset: int, source: str = "t/0", at: float = 300.0) -> Forgotten:
    return Forgotten(user_id, source, offset, at)


def test_a_forgotten_user_leaves_a_mark_that_names_nobody(engine: Engine) -> None:
    store = UserStore(engine)
    store.write([ANNA])
    store.write([], [forget("anna", 10)])
    assert store.read(["anna"]) == {}
    assert store.marks(["anna", "bert"]) == {"anna": Mark(1, {"t/0": 10})}
    assert store.forgotten_offsets(["anna"]) == {"anna": {"t/0": 10}}
    assert store.counts() == {"users": 0, "forgotten": 1}
    with reading(engine) as connection:
        (mark,) = connection.execute(text("SELECT * FROM forgotten_users")).all()
    assert len(mark.digest) == 32
    assert not any(word in repr(mark) for word in ("anna", "cup", "lamp"))


def test_the_same_user_has_another_digest_in_another_database(database: Database, tmp_path: Path) -> None:
    digests = set()
    for engine in (database.open(), open_database(None, tmp_path, "another")):
        UserStore(engine).write([], [forget("anna", 10)])
        with reading(engine) as connection:
            digests.add(bytes(connection.execute(text("SELECT digest FROM forgotten_users")).scalar_one()))
        engine.dispose()
    assert len(digests) == 2


@pytest.mark.parametrize("had_a_row", [True, False])
def test_an_older_click_cannot_bring_a_forgotten_user_back(engine: Engine, had_a_row: bool) -> None:
    store = UserStore(engine)
    if had_a_row:
        store.write([ANNA])
    store.write([], [forget("anna", 10)])
    late = replace(ANNA, revision=2 if had_a_row else 1, offsets={"t/0": 9})
    for row in (late, replace(late, offsets={"t/0": 10}), replace(late, offsets={"t/1": 99})):
        with pytest.raises(StaleRows, match=r"anna was forgotten at \{'t/0': 10\}"):
            store.write([row])
    assert store.read(["anna"]) == {}


def test_who_clicks_again_is_a_new_user_one_revision_above_the_mark(engine: Engine) -> None:
    store = UserStore(engine)
    store.write([ANNA])
    store.write([], [forget("anna", 10)])
    again = UserRow("anna", 2, (NEWER,), ("e3",), {"t/0": 11})
    with pytest.raises(StaleRows, match=r"anna \(stored 1, to write 1\)"):
        store.write([replace(again, revision=1)])
    store.write([again])
    assert store.read(["anna"]) == {"anna": again}
    assert store.marks(["anna"]) == {"anna": Mark(1, {"t/0": 10})}, "letters of before the wish stay refused"
    assert store.counts() == {"users": 1, "forgotten": 1}
    store.write([], [forget("anna", 12)])
    assert store.marks(["anna"]) == {"anna": Mark(2, {"t/0": 12})}


def test_forgetting_and_clicking_again_fit_in_one_write(engine: Engine) -> None:
    store = UserStore(engine)
    store.write([ANNA])
    again = UserRow("anna", 2, (NEWER,), ("e3",), {"t/0": 11})
    store.write([again], [forget("anna", 10)])
    assert store.read(["anna"]) == {"anna": again}


def test_the_mark_keeps_every_partition_that_fed_the_user(engine: Engine) -> None:
    store = UserStore(engine)
    store.write([ANNA])
    store.write([], [forget("anna", 3, source="t/1")])
    assert store.forgotten_offsets(["anna"]) == {"anna": {"t/0": 9, "t/1": 3}}


def test_to_forget_again_changes_nothing(engine: Engine) -> None:
    store = UserStore(engine)
    store.write([ANNA])
    for offset in (10, 10, 7):
        store.write([], [forget("anna", offset)])
    assert store.marks(["anna"]) == {"anna": Mark(1, {"t/0": 10})}


def test_a_late_wish_does_not_forget_what_came_after_it(engine: Engine) -> None:
    store = UserStore(engine)
    store.write([ANNA])
    with pytest.raises(StaleRows, match="anna has applied offset 9 of t/0, to forget is 9"):
        store.write([replace(ANNA, user_id="bert")], [forget("anna", 9)])
    assert store.read(["anna", "bert"]) == {"anna": ANNA}


def test_marks_are_purged_by_age(engine: Engine) -> None:
    store = UserStore(engine)
    store.write([], [forget("anna", 1, at=100.0), forget("bert", 2, at=200.0)])
    assert store.purge_forgotten(before=200.0) == 1
    assert store.marks(["anna", "bert"]) == {"bert": Mark(0, {"t/0": 2})}


# --- death in the middle -------------------------------------------------------------------------------------------

WRITE_FOR_EVER = """
import sys
from dataclasses import replace
from pathlib import Path
from store.database import open_database
from store.records import Click, UserRow
from store.users import UserStore

store = UserStore(open_database(None, Path(sys.argv[1]), "users"))
rows = [UserRow(f"u{number}", 0, (), (), {"t/0": 0}) for number in range(20)]
while True:
    revision = rows[0].revision + 1
    rows = [replace(row, revision=revision, clicks=(Click("cup", "purchase", float(revision)),)) for row in rows]
    store.write(rows)
    print(revision, flush=True)
"""


def test_kill_9_in_the_middle_of_writes_loses_nothing_that_was_confirmed_and_tears_no_batch(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        for _ in range(25):
            writer.stdout.readline()
        writer.kill()
        confirmed = 25 + len(writer.stdout.readlines())  # what it had said before it died
    engine = open_database(None, tmp_path, "users")
    rows = UserStore(engine).read([f"u{number}" for number in range(20)]).values()
    (revision,) = {row.revision for row in rows}
    assert len(rows) == 20
    assert revision in (confirmed, confirmed + 1)  # committed, but not yet said
    assert {row.clicks[0].occurred_at for row in rows} == {float(revision)}
    engine.dispose()
