"""From a click to the collection of users: the clicks role on a real database, and the index role on a real store."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from messages import Source
from messages import run as run_batch
from test_clicks import NAMES, click
from test_retraction import HELD, Shop, restarted

from store.records import StoreUnavailable
from store.vectors import VectorStore
from store.vectors_embedded import EmbeddedVectors
from streams import user_embeddings
from streams.broker import Outgoing
from streams.events import BadEvent, UserEmbedding, pack_vector, unpack_vector
from streams.index import IndexRole
from streams.parsing import parse
from streams.role import Message, Outcome
from streams.settings import Settings
from streams.user_embeddings import AT_ONCE, SETTLE_S, UserEmbeddings


def to_users_topic(outcome: Outcome | None) -> list[Outgoing]:
    return [] if outcome is None else [made for made in outcome.publish if made.topic == NAMES.user_embeddings]


def records(outcome: Outcome | None) -> dict[str, UserEmbedding]:
    """By user; nulls are left out."""
    sent = [parse(UserEmbedding, made.value) for made in to_users_topic(outcome) if made.value is not None]
    return {record.user_id: record for record in sent}


def owed(shop: Shop) -> UserEmbeddings:
    return shop.role._unasked._embeddings


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, push_users=0)


# --- the clicks role ---------------------------------------------------------------------------------------------


def test_the_clicks_of_one_visit_come_to_one_record_some_time_after_the_first(shop: Shop) -> None:
    began = time.time()
    shop.visit("ann", product_id="tea")
    shop.visit("ann", product_id="cup")
    assert owed(shop).portion(began + SETTLE_S - 1) is None
    outcome = owed(shop).portion(time.time() + SETTLE_S)
    assert outcome is not None
    row = shop.users.read(["ann"])["ann"]
    (sent,) = outcome.publish
    assert (sent.topic, sent.key) == (NAMES.user_embeddings, b"ann")
    record = records(outcome)["ann"]
    assert (record.revision, record.epoch, record.sequence, record.active_at) == (2, 1, 1, row.updated_at)
    # The newest click, the cup at (2, 0), counts one, and the tea at (1, 0) a half.
    assert unpack_vector(record.embedding).tolist() == pytest.approx([2.5, 0.0])
    outcome.commit()
    assert owed(shop).portion(time.time() + 2 * SETTLE_S) is None


def test_a_record_that_was_not_confirmed_comes_again(shop: Shop) -> None:
    shop.visit("ann")
    later = time.time() + SETTLE_S
    assert records(owed(shop).portion(later)).keys() == {"ann"}
    assert records(owed(shop).portion(later)).keys() == {"ann"}


def test_while_the_database_is_away_nobody_is_lost(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> dict[str, Any]:
        raise StoreUnavailable("locked")

    shop.visit("ann")
    later = time.time() + SETTLE_S
    with monkeypatch.context() as patch:
        patch.setattr(shop.users, "read", away)
        with pytest.raises(StoreUnavailable, match="locked"):
            owed(shop).portion(later)
    assert records(owed(shop).portion(later)).keys() == {"ann"}


def test_the_records_of_a_second_are_bounded_and_those_who_wait_keep_their_order(tmp_path: Path) -> None:
    shop = Shop(tmp_path, push_users=0, embeddings_per_s=16)
    everybody = [f"u{number}" for number in range(2 * AT_ONCE)]
    shop.visit(*everybody)
    later = time.time() + SETTLE_S
    first = owed(shop).portion(later)
    assert first is not None
    first.commit()
    assert owed(shop).portion(later + AT_ONCE / 16 - 0.01) is None
    second = owed(shop).portion(later + AT_ONCE / 16)
    assert records(first).keys() | records(second).keys() == set(everybody)


def test_where_too_many_wait_the_first_ones_wait_no_more_and_none_wait_where_none_are_wanted(tmp_path: Path) -> None:
    shop = Shop(tmp_path, push_users=0, active_users_max=2)
    for user_id in ("ann", "bob", "cat"):
        shop.visit(user_id)
    assert records(owed(shop).portion(time.time() + SETTLE_S)).keys() == {"bob", "cat"}
    silent = Shop(tmp_path / "silent", push_users=0, embeddings_per_s=0)
    silent.visit("ann")
    assert len(owed(silent)) == 0


def test_who_clicked_nothing_that_the_model_knows_gets_no_record(shop: Shop) -> None:
    shop.visit("ann", product_id="unheard of")
    outcome = owed(shop).portion(time.time() + SETTLE_S)
    assert outcome is not None
    assert outcome.publish == []


def test_who_is_forgotten_gets_a_null_with_her_last_revision_and_no_record_any_more(shop: Shop) -> None:
    shop.visit("ann")
    shop.visit("ann")
    wish = shop.record(None)
    (null,) = to_users_topic(shop.compute([wish], commits=False))
    (again,) = to_users_topic(shop.compute([wish]))
    assert null == again == Outgoing(NAMES.user_embeddings, b"ann", None, (("revision", b"2"),))
    assert to_users_topic(shop.compute([wish])) == [], "the null was confirmed before the wish was stored"
    assert owed(shop).portion(time.time() + SETTLE_S) is None


def test_what_a_worker_owed_when_it_died_its_successor_finds_on_the_topic(tmp_path: Path) -> None:
    dying = Shop(tmp_path, push_users=0)
    (made,) = dying.visit("ann")
    successor = restarted(tmp_path, made)
    assert len(owed(successor)) == 0
    successor.all_asides()
    assert records(owed(successor).portion(time.time() + SETTLE_S)).keys() == {"ann"}


def test_between_two_batches_the_role_publishes_what_is_due(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_embeddings, "SETTLE_S", 0.0)
    shop.all_asides()
    shop.visit("ann")
    assert records(shop.role.aside(HELD)).keys() == {"ann"}
    assert shop.counts["owed_embeddings"] == 1


# --- the index role ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorStore]:
    store = EmbeddedVectors(tmp_path_factory.mktemp("vectors"), "")
    yield store
    store.close()


@pytest.fixture
def index(store: VectorStore, tmp_path: Path) -> IndexRole:
    index = IndexRole(Settings(home=tmp_path, active_s=100.0), NAMES, store, "ab12", {"fused": 2}, 2)
    asyncio.run(index.start())
    store.purge_users(1e12)
    return index


def embedded(user_id: str, *embedding: float, revision: int = 1, active_at: float = 1e9) -> dict[str, Any]:
    packed = pack_vector(np.array(embedding, np.float32))
    whole = {"user_id": user_id, "revision": revision, "epoch": 1, "sequence": 7}
    return whole | {"embedding": packed, "active_at": active_at}


def present(store: VectorStore) -> list[str]:
    return sorted(hit.user_id for hit in store.look_alikes(np.array([1, 0], np.float32), 100, epoch=1))


def test_users_stand_in_the_store_until_they_are_forgotten_or_were_active_too_long_ago(
    index: IndexRole, store: VectorStore
) -> None:
    users, now = Source(NAMES.user_embeddings), time.time()
    active = [users.message(name, embedded(name, 1, 0, active_at=now - age)) for name, age in (("a", 1), ("b", 2))]
    gone = users.message("gone", embedded("gone", 1, 0, active_at=now - 101))
    assert run_batch(index, *active, gone).publish == []
    assert present(store) == ["a", "b", "gone"]
    index.tick().commit()
    assert present(store) == ["a", "b"]
    run_batch(index, users.message("a", None, headers=(("revision", b"1"),)), active[0])
    assert present(store) == ["b"]
    index.tick().commit()
    run_batch(index, active[0])
    assert present(store) == ["b"], "the mark of a forgotten user outlives what can come late"


def test_an_embedding_of_another_model_is_left_out_and_counted(index: IndexRole, store: VectorStore) -> None:
    users = Source(NAMES.user_embeddings)
    run_batch(index, users.message("a", embedded("a", 1, 0, 0)), users.message("b", embedded("b", 1, 0)))
    assert present(store) == ["b"]
    assert index.details()["embeddings_of_other_factors"] == 1


def test_records_that_break_the_contract_say_what_to_change(index: IndexRole) -> None:
    users = Source(NAMES.user_embeddings)
    with pytest.raises(BadEvent, match="needs its revision as header"):
        index.parse(users.message("a", None))
    with pytest.raises(BadEvent, match="not finite"):
        index.parse(users.message("a", embedded("a", 1, float("nan"))))
    with pytest.raises(BadEvent, match="epoch: Field required"):
        index.parse(users.message("a", {k: v for k, v in embedded("a", 1, 0).items() if k != "epoch"}))


# --- both --------------------------------------------------------------------------------------------------------

DEEDS = st.lists(
    st.tuples(st.sampled_from(["click", "click", "forget", "publish"]), st.sampled_from(["ann", "bob"])), max_size=12
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=DEEDS, late=st.lists(st.integers(0, 40), max_size=6))
def test_whatever_users_do_and_whatever_record_comes_late_the_store_holds_those_who_are_known(
    index: IndexRole,
    store: VectorStore,
    tmp_path_factory: pytest.TempPathFactory,
    deeds: list[tuple[str, str]],
    late: list[int],
) -> None:
    """late: records that come a second time, at the end, as of a worker that lost its partitions."""
    store.purge_users(1e12)
    shop = Shop(tmp_path_factory.mktemp("shop"), push_users=0)
    topic: list[Message] = []

    def take(outcome: Outcome | None) -> None:
        for made in to_users_topic(outcome):
            assert made.key is not None
            topic.append(Message(made.topic, "once", 0, len(topic), made.key, made.value, made.headers, 0.0))
        if outcome is not None:
            outcome.commit()

    for number, (deed, user_id) in enumerate([*deeds, ("publish", ""), ("publish", "")]):
        if deed == "publish":
            take(owed(shop).portion(time.time() + (number + 1) * SETTLE_S))
        else:
            value = click("tea", event_id=f"e{number}", user_id=user_id) if deed == "click" else None
            take(shop.compute([shop.record(value, key=user_id)], commits=False))
    again = [topic[place] for place in late if place < len(topic)]
    for message in [*topic, *again]:
        run_batch(index, message)

    rows = shop.users.read(["ann", "bob"])
    assert present(store) == sorted(rows)
