"""The index role: after any batch the vector store holds each product's last offer and last vectors."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from messages import NAMES, Json, Source, run

from store.vectors import StoredPoint, VectorStore
from store.vectors_embedded import EmbeddedVectors
from store.vectors_server import ServerVectors
from streams.events import BadEvent, pack_vector
from streams.index import IndexRole
from streams.role import Message
from streams.settings import Settings

WIDTHS = {"image": 4, "text": 2, "fused": 2}
OFFERS, VECTORS = NAMES.product_index, NAMES.product_vectors


@pytest.fixture(params=["in memory", "embedded"], scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorStore]:
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    if request.param == "embedded":
        store: VectorStore = EmbeddedVectors(tmp_path_factory.mktemp("vectors"), namespace)
    else:
        store = ServerVectors(":memory:", None, namespace)
    yield store
    store.close()


@pytest.fixture
def role(store: VectorStore, tmp_path: Path) -> IndexRole:
    role = IndexRole(Settings(home=tmp_path), NAMES, store, "ab12", WIDTHS, 2)
    asyncio.run(role.start())
    return role


@pytest.fixture
def key() -> str:
    """A product that no other test knows: to make a collection takes most of a second."""
    return uuid.uuid4().hex


def offer(key: str, revision: int, title: str = "Cup", **changes: Any) -> Json:
    return {
        "product_id": key,
        "revision": revision,
        "state": "listable",
        "title": title,
        "brand": "Tidewear",
        "category": ["Kitchen", "Cups"],
        "price": {"amount": 3.5, "currency": "EUR"},
        "availability": "in_stock",
        "image_links": ["cup.jpg"],
        "attributes": {"colour": "red"},
        "changed_at": 2.0,
        "created_at": 1.0,
        **changes,
    }


def vectors(key: str, content_revision: int, **named: list[float]) -> Json:
    packed = {name: pack_vector(np.array(values, np.float32)) for name, values in named.items()}
    empty: Json = {"image": None, "text": None, "fused": None, "missing": []}
    return {"product_id": key, "content_revision": content_revision, "encoder": "ab12", **empty, **packed}


def null(source: Source, key: str, revision: int) -> Message:
    return source.message(key, None, headers=[("revision", b"%d" % revision)])


def stored(store: VectorStore, key: str) -> StoredPoint:
    point = store.fetch(key)
    assert point is not None
    return point


def test_an_offer_and_its_vectors_become_one_point(role: IndexRole, store: VectorStore, key: str) -> None:
    offers, encoded = Source(OFFERS), Source(VECTORS)
    first, second = offer(key, 3), vectors(key, 2, image=[0, 0, 0, 2], text=[3, 4], fused=[0, 1])
    assert not run(role, encoded.message(key, second), offers.message(key, first)).publish
    point = stored(store, key)
    assert point.payload == first | {"content_revision": 2}
    assert {name: vector.tolist() for name, vector in point.vectors.items()} == {
        "image": [0, 0, 0, 1],
        "text": pytest.approx([0.6, 0.8]),
        "fused": [0, 1],
    }
    assert store.retrievable([key]) == {key}


def test_the_last_of_a_batch_wins_and_one_written_late_does_not(role: IndexRole, store: VectorStore, key: str) -> None:
    offers, encoded = Source(OFFERS), Source(VECTORS)
    run(
        role,
        *[offers.message(key, offer(key, revision, f"Title {revision}")) for revision in (1, 3, 2)],
        *[encoded.message(key, vectors(key, revision, fused=[revision, 1])) for revision in (1, 3, 2)],
    )
    point = stored(store, key)
    assert (point.payload["title"], point.payload["content_revision"]) == ("Title 3", 3)
    assert point.vectors["fused"] == pytest.approx(np.array([3, 1]) / np.sqrt(10))


def test_vectors_of_the_same_content_replace_and_what_is_missing_now_goes(
    role: IndexRole, store: VectorStore, key: str
) -> None:
    encoded = Source(VECTORS)
    run(role, encoded.message(key, vectors(key, 1, text=[1, 0], fused=[1, 0])))
    run(role, encoded.message(key, vectors(key, 1, image=[1, 0, 0, 0], fused=[0, 1])))
    assert stored(store, key).vectors.keys() == {"image", "fused"}


def test_nulls_remove_the_product_whatever_came_before(role: IndexRole, store: VectorStore, key: str) -> None:
    offers, encoded = Source(OFFERS), Source(VECTORS)
    run(role, offers.message(key, offer(key, 1)), encoded.message(key, vectors(key, 1, fused=[1, 0])))
    late = encoded.message(key, vectors(key, 1, fused=[0, 1]))
    run(role, null(offers, key, 2), late)
    assert not store.retrievable([key])
    run(role, null(encoded, key, 2))
    assert store.fetch(key) is None


def test_a_product_that_comes_back_in_the_batch_of_its_delete_stays(
    role: IndexRole, store: VectorStore, key: str
) -> None:
    offers, encoded = Source(OFFERS), Source(VECTORS)
    run(role, offers.message(key, offer(key, 1)), encoded.message(key, vectors(key, 1, fused=[1, 0])))
    run(
        role,
        null(offers, key, 2),
        offers.message(key, offer(key, 3, "Back")),
        null(encoded, key, 2),
        encoded.message(key, vectors(key, 3, fused=[0, 1])),
    )
    point = stored(store, key)
    assert (point.payload["title"], point.vectors["fused"].tolist()) == ("Back", [0, 1])


def test_the_vectors_of_a_return_outlive_the_delete_in_their_batch(
    role: IndexRole, store: VectorStore, key: str
) -> None:
    offers, encoded = Source(OFFERS), Source(VECTORS)
    run(role, offers.message(key, offer(key, 1)), encoded.message(key, vectors(key, 1, fused=[1, 0])))
    run(role, encoded.message(key, vectors(key, 3, fused=[0, 1])), null(offers, key, 2))
    run(role, offers.message(key, offer(key, 3, "Back")))
    assert stored(store, key).vectors["fused"].tolist() == [0, 1]
    assert store.retrievable([key]) == {key}


LIFE = st.lists(st.sampled_from(["price", "content", "delete"]), min_size=1, max_size=6)


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    life=LIFE, delays=st.lists(st.integers(0, 4), min_size=6), cuts=st.lists(st.integers(1, 4)), back=st.integers(0, 3)
)
def test_any_batches_delays_and_replays_end_with_the_last_offer_and_the_last_vectors(
    role: IndexRole, store: VectorStore, life: list[str], delays: list[int], cuts: list[int], back: int
) -> None:
    """A product's life as catalogue and encoder write it, the encoder's part in order, but later."""
    key = uuid.uuid4().hex
    offers, encoded = Source(OFFERS), Source(VECTORS)
    waiting: list[Message] = []
    late: list[tuple[int, Message]] = []  # the turn in which it comes at the earliest
    content = 0
    for turn, kind in enumerate(life, 1):
        deleted = kind == "delete"
        waiting.append(null(offers, key, turn) if deleted else offers.message(key, offer(key, turn)))
        if kind == "content" or deleted or content == 0:
            content = 0 if deleted else turn
            answer = null(encoded, key, turn) if deleted else encoded.message(key, vectors(key, turn, fused=[turn, 1]))
            late.append((turn + delays[turn - 1], answer))
        while late and late[0][0] <= turn:
            waiting.append(late.pop(0)[1])
    waiting += [message for _, message in late]
    for cut in cuts:
        if waiting[:cut]:
            run(role, *waiting[:cut])
        waiting = waiting[max(0, cut - back) :]
    if waiting:
        run(role, *waiting)

    point = store.fetch(key)
    if deleted:
        assert point is None
    else:
        assert point is not None
        assert (point.payload["revision"], point.payload["content_revision"]) == (len(life), content)
        assert point.vectors["fused"] == pytest.approx(np.array([content, 1]) / np.hypot(content, 1))


def test_records_that_break_the_contract_say_what_to_change(role: IndexRole, key: str) -> None:
    encoded = Source(VECTORS)
    with pytest.raises(BadEvent, match="the fused vector has 3 values, 2 are needed: encode it again"):
        role.parse(encoded.message(key, vectors(key, 1, fused=[1, 0, 0])))
    with pytest.raises(BadEvent, match="not finite"):
        role.parse(encoded.message(key, vectors(key, 1, fused=[1, float("nan")])))
    with pytest.raises(BadEvent, match="revision: "):
        role.parse(Source(OFFERS).message(key, offer(key, 1) | {"revision": "one"}))
    with pytest.raises(BadEvent, match="needs its revision as header"):
        role.parse(encoded.message(key, None))
