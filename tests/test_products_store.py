"""Products: what is written is read, and nobody's write is lost."""

import uuid
from dataclasses import replace

import pytest
from databases import Database, database_fixture, engine_fixture  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from store.products import ProductStore
from store.records import ProductRow, StaleRows

CUP = ProductRow(
    product_id="cup",
    fields={"title": "Red cup", "price": {"amount": 3.5, "currency": "EUR"}, "category": ["Kitchen"]},
    revision=1,
    content_hash="abc",
    content_revision=1,
    created_at=100.0,
    changed_at=100.0,
    offsets={"topic/0": 7},
)


def numbered(count: int) -> list[ProductRow]:
    return [replace(CUP, product_id=f"p{number:04}", changed_at=float(number // 3)) for number in range(count)]


def test_a_row_is_read_as_it_was_written(engine: Engine) -> None:
    store = ProductStore(engine)
    store.write([CUP])
    assert store.read(["cup", "unknown"]) == {"cup": CUP}


def test_the_next_revision_replaces_the_row(engine: Engine) -> None:
    store = ProductStore(engine)
    store.write([CUP])
    tombstone = replace(CUP, revision=2, fields={}, deleted=True, changed_at=200.0)
    store.write([tombstone])
    assert store.read(["cup"]) == {"cup": tombstone}


texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30)
moments = st.floats(0, 4e9)
rows = st.builds(
    ProductRow,
    product_id=texts.filter(bool).map(lambda text: text + uuid.uuid4().hex),
    fields=st.dictionaries(texts, st.one_of(texts, moments, st.lists(texts, max_size=3), st.none()), max_size=4),
    revision=st.just(1),
    content_hash=texts,
    content_revision=st.integers(0, 2**63 - 1),
    created_at=moments,
    changed_at=moments,
    deleted=st.booleans(),
    field_times=st.dictionaries(texts, moments, max_size=3),
    encoder=st.none() | texts,
    image_state=st.sampled_from(["none", "pending", "encoded", "missing"]),
    image_reason=st.none() | texts,
    retry_at=st.none() | moments,
    retries=st.integers(0, 1000),
    offsets=st.dictionaries(texts, st.integers(0, 2**63 - 1), max_size=3),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(rows, max_size=5))
def test_any_rows_survive_the_round_trip(engine: Engine, written: list[ProductRow]) -> None:
    store = ProductStore(engine)
    store.write(written)
    assert store.read([row.product_id for row in written]) == {row.product_id: row for row in written}


def test_more_rows_than_one_statement_can_name_are_written_and_read(engine: Engine) -> None:
    store = ProductStore(engine)
    many = numbered(1201)
    store.write(many)
    assert store.read([row.product_id for row in many]) == {row.product_id: row for row in many}
    store.write([replace(row, revision=2) for row in many])
    assert {row.revision for row in store.all_rows()} == {2}


@pytest.mark.parametrize("revision", [1, 2, 4])
def test_a_stale_row_takes_the_whole_batch_back_and_is_named(engine: Engine, revision: int) -> None:
    store = ProductStore(engine)
    store.write([CUP])
    store.write([replace(CUP, revision=2)])
    with pytest.raises(StaleRows, match=rf"1 products .*cup \(stored 2, to write {revision}\); read them again"):
        store.write([replace(CUP, product_id="new"), replace(CUP, revision=revision)])
    assert store.read(["cup", "new"]) == {"cup": replace(CUP, revision=2)}


def test_a_later_revision_of_a_row_that_does_not_exist_is_stale(engine: Engine) -> None:
    with pytest.raises(StaleRows, match=r"cup \(stored 0, to write 3\)"):
        ProductStore(engine).write([replace(CUP, revision=3)])


def test_of_two_workers_that_read_the_same_row_the_second_is_stale(database: Database) -> None:
    one, other = ProductStore(database.open()), ProductStore(database.open())
    one.write([CUP])
    mine, theirs = one.read(["cup"])["cup"], other.read(["cup"])["cup"]
    one.write([replace(mine, revision=2, content_hash="mine")])
    with pytest.raises(StaleRows, match="cup"):
        other.write([replace(theirs, revision=2, content_hash="theirs")])
    assert other.read(["cup"])["cup"].content_hash == "mine"


def test_rows_changed_since_come_in_the_order_of_their_change(engine: Engine) -> None:
    store = ProductStore(engine)
    store.write(list(reversed(numbered(1300))))
    changed = list(store.changed_since(100.0))
    assert [row.product_id for row in changed] == [f"p{number:04}" for number in range(300, 1300)]


def test_all_rows_come_once_whatever_the_batch(engine: Engine) -> None:
    store = ProductStore(engine)
    store.write(numbered(10))
    for batch in (1, 3, 10, 11):
        assert [row.product_id for row in store.all_rows(batch)] == [f"p{number:04}" for number in range(10)]


def test_retries_are_due_from_their_time_on_the_longest_due_first(engine: Engine) -> None:
    store = ProductStore(engine)
    store.write([replace(CUP, product_id=name, retry_at=at) for name, at in [("a", 30.0), ("b", 10.0), ("c", 20.1)]])
    store.write([CUP])
    assert [row.product_id for row in store.due_for_retry(now=20.0, limit=9)] == ["b"]
    assert [row.product_id for row in store.due_for_retry(now=30.0, limit=2)] == ["b", "c"]


def test_counts_and_purged_tombstones(engine: Engine) -> None:
    store = ProductStore(engine)
    assert store.counts() == {"products": 0, "deleted": 0, "pictures_missing": 0, "waiting_for_encoder": 0}
    store.write(
        [
            CUP,
            replace(CUP, product_id="encoded", encoder="f1", image_state="missing"),
            replace(CUP, product_id="old", deleted=True, changed_at=50.0),
            replace(CUP, product_id="gone", deleted=True, changed_at=60.0),
        ]
    )
    assert store.counts() == {"products": 2, "deleted": 2, "pictures_missing": 1, "waiting_for_encoder": 1}
    assert store.purge_tombstones(before=60.0) == 1
    assert sorted(row.product_id for row in store.all_rows()) == ["cup", "encoded", "gone"]
