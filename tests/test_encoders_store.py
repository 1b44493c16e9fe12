"""Versions of the encoders in SQL: at any time one serves, and going back is one step."""

import threading

import pytest
from databases import Database, database_fixture, engine_fixture  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete

from store.database import transaction
from store.encoders import EncoderRow, EncoderStore, UnknownVersion, WrongState, encoders

WIDTHS = {"image": 4, "text": 2, "fused": 2}
A, B, C = "aa0000000000", "bb0000000000", "cc0000000000"


def version(fingerprint: str, **more: object) -> EncoderRow:
    return EncoderRow(fingerprint, {"image": "package:i", "text": "package:t"}, WIDTHS, **more)  # type: ignore[arg-type]


def states(store: EncoderStore) -> dict[str, str]:
    return {row.fingerprint: row.state for row in store.all()}


def serving(store: EncoderStore) -> str:
    (row,) = [row for row in store.all() if row.state == "serving"]
    return row.fingerprint


@pytest.fixture
def store(engine: Engine) -> EncoderStore:
    with transaction(engine) as connection:
        connection.execute(delete(encoders))
    return EncoderStore(engine)


@pytest.fixture
def two(store: EncoderStore) -> EncoderStore:
    """A serves, B is filled."""
    store.add_untrained(version(A))
    store.add(version(B, has_files=True, about={"seed": 3}))
    store.fill(B)
    return store


def test_the_untrained_version_serves_where_none_does_and_else_waits(store: EncoderStore) -> None:
    first = store.add_untrained(version(A))
    assert (first.state, first.served, first.first, first.filled_at is not None) == ("serving", 1, True, True)
    assert store.add_untrained(version(A)) == first, "a second start changes nothing"
    other = store.add_untrained(version(B))
    assert (other.state, other.served, other.first, other.filled_at) == ("idle", 0, False, None)
    assert store.get("aa").fingerprint == A
    assert store.get(B).about == {}


def test_a_version_is_filled_then_serves_and_the_one_before_is_filled_on(two: EncoderStore) -> None:
    assert states(two) == {A: "serving", B: "filling"}
    assert two.switch(B).served == 2
    assert states(two) == {A: "filling", B: "serving"}
    assert two.get(B).about == {"seed": 3}


def test_rollback_goes_back_and_a_second_one_forth(two: EncoderStore) -> None:
    two.switch(B)
    assert two.before().fingerprint == A
    assert two.rollback().fingerprint == A
    assert states(two) == {A: "serving", B: "filling"}
    assert two.rollback().fingerprint == B
    assert states(two) == {A: "filling", B: "serving"}


def test_a_version_added_again_after_its_removal_lives_anew(two: EncoderStore) -> None:
    two.stop(B)
    two.remove(B)
    assert [row.fingerprint for row in two.known()] == [A]
    again = two.add(version(B))
    assert (again.life, again.state, again.filled_at, again.served) == (2, "idle", None, 0)
    assert again.revision > 3, "readers keep the highest revision"


def test_what_cannot_be_done_says_what_can(two: EncoderStore) -> None:
    two.add(version(C))
    for asked, says in (
        (lambda: two.get("dd"), "no version begins with 'dd': known are aa.*, bb.*, cc"),
        (lambda: two.get(""), "no version begins with ''"),
        (lambda: two.switch(C), "has no vectors: `freshet encoders fill cc"),
        (lambda: two.stop(A), "aa0000000000 serves: switch to another version first"),
        (lambda: two.remove(A), "is serving: switch to another"),
        (lambda: two.remove(B), "is filling: `freshet encoders stop bb"),
        (two.rollback, "no other version served before"),
    ):
        with pytest.raises((UnknownVersion, WrongState), match=says):
            asked()
    two.add(version("aa1111111111"))
    with pytest.raises(UnknownVersion, match="several versions begin with 'aa'"):
        two.get("aa")
    assert states(two) == {A: "serving", B: "filling", C: "idle", "aa1111111111": "idle"}


DEEDS = st.lists(
    st.tuples(st.sampled_from(["add", "fill", "stop", "switch", "rollback", "remove"]), st.sampled_from([A, B, C])),
    max_size=20,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=DEEDS)
def test_whatever_is_done_one_version_serves_the_one_with_the_highest_number(
    engine: Engine, deeds: list[tuple[str, str]]
) -> None:
    with transaction(engine) as connection:
        connection.execute(delete(encoders))
    store = EncoderStore(engine)
    store.add_untrained(version(A))
    revisions: dict[str, int] = {}
    for deed, fingerprint in deeds:
        try:
            match deed:
                case "add":
                    store.add(version(fingerprint))
                case "rollback":
                    store.rollback()
                case _:
                    getattr(store, deed)(fingerprint)
        except (UnknownVersion, WrongState):
            pass
        rows = store.all()
        assert serving(store) == max(rows, key=lambda row: row.served).fingerprint
        assert all(row.filled_at for row in rows if row.state in ("serving", "filling"))
        assert all(row.revision >= revisions.get(row.fingerprint, 0) for row in rows)
        revisions = {row.fingerprint: row.revision for row in rows}


def test_workers_that_begin_and_switch_at_once_leave_one_serving(database: Database) -> None:
    stores = [EncoderStore(database.open()) for _ in range(3)]

    def at_once(deeds: list[object]) -> None:
        threads = [threading.Thread(target=deed) for deed in deeds]  # type: ignore[arg-type]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    names = (A, B, C)
    at_once([lambda s=s, n=n: s.add_untrained(version(n)) for s, n in zip(stores, names, strict=True)])
    first = serving(stores[0])
    assert [row.first for row in stores[0].all() if row.fingerprint == first] == [True]
    for name in names:
        stores[0].fill(name)
    at_once([lambda s=s, n=n: s.switch(n) for s, n in zip(stores, names, strict=True)])
    rows = stores[0].all()
    assert serving(stores[0]) == max(rows, key=lambda row: row.served).fingerprint
    assert len({row.served for row in rows if row.served}) == sum(row.served > 0 for row in rows)
