"""Embeddings of users in the vector store: the same tests on both forms, and on a server where one is named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_vectors import FORMS, Store, opened

from store.records import StoreUnavailable
from store.user_vectors import ForgottenUser, UserHit, UserPoint

EAST = np.array([1, 0], np.float32)
LATER = 1e12


@pytest.fixture(params=FORMS)
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with opened(request.param, tmp_path / "vectors") as store:
        yield store


@pytest.fixture(params=FORMS, scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with opened(request.param, tmp_path_factory.mktemp("vectors")) as store:
        store.ensure_users(2)
        yield store


@pytest.fixture
def store(made: Store) -> Store:
    """With nobody in it."""
    made.purge_users(LATER)
    assert found(made) == {}
    return made


def user(user_id: str, *embedding: float, revision: int = 1, epoch: int = 1, expires_at: float = LATER) -> UserPoint:
    return UserPoint(user_id, revision, epoch, np.array(embedding, np.float32), expires_at)


def forgotten(user_id: str, revision: int, expires_at: float = LATER) -> ForgottenUser:
    return ForgottenUser(user_id, revision, expires_at)


def found(store: Store, epoch: int = 1, **more: Any) -> dict[str, float]:
    return {hit.user_id: round(hit.score, 4) for hit in store.look_alikes(EAST, 100, epoch=epoch, **more)}


def test_look_alikes_are_the_users_of_the_highest_cosine_worked_by_hand(store: Store) -> None:
    store.put_users([user("west", -1, 0), user("north-east", 3, 4), user("east", 9, 0), user("north", 0, 2)])
    hits = store.look_alikes(EAST, 3, epoch=1, exclude=["east", "nobody"])
    assert [hit.user_id for hit in hits] == ["north-east", "north", "west"]
    assert [hit.score for hit in hits] == pytest.approx([0.6, 0, -1], abs=1e-6)
    assert store.look_alikes(EAST, 1, epoch=1) == [UserHit("east", pytest.approx(1.0))]


def test_embeddings_of_another_epoch_are_not_compared(store: Store) -> None:
    store.put_users([user("ann", 1, 0, epoch=1), user("bob", 1, 0, epoch=2)])
    assert found(store, epoch=1) == {"ann": 1}
    store.put_users([user("ann", 1, 0, revision=2, epoch=2)])
    assert found(store, epoch=1) == {}
    assert found(store, epoch=2) == {"ann": 1, "bob": 1}


def test_an_older_revision_changes_nothing_and_the_same_one_replaces(store: Store) -> None:
    store.put_users([user("ann", 1, 0, revision=2), user("ann", 0, 1, revision=1)])
    assert found(store) == {"ann": 1}
    store.put_users([user("ann", 3, 4, revision=2)])
    assert found(store) == {"ann": 0.6}


def test_who_is_forgotten_is_gone_and_what_comes_late_does_not_bring_her_back(store: Store) -> None:
    store.put_users([user("ann", 1, 0, revision=3), user("bob", 0, 1)])
    store.put_users([forgotten("ann", 3)])
    assert found(store) == {"bob": 0}
    store.put_users([user("ann", 1, 0, revision=3), user("ann", 1, 0, revision=2)])
    assert found(store) == {"bob": 0}


def test_who_comes_back_is_not_forgotten_again_by_a_wish_that_comes_late(store: Store) -> None:
    store.put_users([user("ann", 0, 1, revision=3), forgotten("ann", 3), user("ann", 1, 0, revision=4)])
    store.put_users([forgotten("ann", 3)])
    assert found(store) == {"ann": 1}


def test_who_was_never_here_can_be_forgotten(store: Store) -> None:
    store.put_users([forgotten("ann", 0), user("ann", 1, 0, revision=1)])
    assert found(store) == {"ann": 1}


def test_what_expires_is_purged_embeddings_and_marks_of_the_forgotten_alike(store: Store) -> None:
    store.put_users([user("ann", 1, 0, expires_at=10), user("bob", 1, 0, expires_at=11), forgotten("eve", 5, 10)])
    store.purge_users(10)
    store.put_users([user("eve", 1, 0, revision=1)])
    assert found(store) == {"bob": 1, "eve": 1}


WRITES = st.lists(st.tuples(st.booleans(), st.integers(1, 4)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=WRITES)
def test_in_whatever_order_they_come_the_highest_revision_stays_and_the_forgotten_stay_away(
    store: Store, writes: list[tuple[bool, int]]
) -> None:
    store.purge_users(LATER)
    store.put_users(
        [
            forgotten("ann", revision) if gone else user("ann", 1, revision, revision=revision)
            for gone, revision in writes
        ]
    )
    highest = max(revision for _, revision in writes)
    if (True, highest) in writes:
        assert found(store) == {}
    else:
        assert found(store) == {"ann": pytest.approx(1 / np.hypot(1, highest), abs=1e-4)}


def test_a_collection_for_another_model_is_made_anew_and_the_same_one_stays(bare: Store) -> None:
    bare.ensure_users(2)
    bare.put_users([user("ann", 1, 0)])
    bare.ensure_users(2)
    assert found(bare) == {"ann": 1}
    bare.ensure_users(3)
    bare.put_users([user("bob", 1, 0, 0)])
    assert [hit.user_id for hit in bare.look_alikes(np.ones(3, np.float32), 9, epoch=1)] == ["bob"]


def test_before_the_index_role_has_made_the_collection_it_says_so(bare: Store) -> None:
    for ask in (
        lambda: found(bare),
        lambda: bare.put_users([user("ann", 1, 0)]),
        lambda: bare.purge_users(1.0),
    ):
        with pytest.raises(
            StoreUnavailable, match=r"there is no collection test-\w+-users yet: is the index role up\?"
        ):
            ask()


def test_a_wrong_embedding_is_named_and_nothing_is_written(store: Store) -> None:
    with pytest.raises(ValueError, match=r"user 'bob': the embedding vector has shape \(3,\), the collection takes"):
        store.put_users([user("ann", 1, 0), user("bob", 1, 0, 0)])
    with pytest.raises(ValueError, match="user 'bob': the embedding vector has a value that is not finite"):
        store.put_users([user("ann", 1, 0), user("bob", 1, float("nan"))])
    with pytest.raises(ValueError, match="the query: the embedding vector has shape"):
        store.look_alikes(np.ones(3, np.float32), 1, epoch=1)
    assert found(store) == {}
