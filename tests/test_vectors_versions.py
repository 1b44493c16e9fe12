"""Several versions of the encoders in one vector store: each has its collection, and no answer is of two of them."""

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from store.records import StoreUnavailable
from store.vectors import OfferPoint, VectorPoint, collection_name, point_to, switch_vectors
from store.vectors_embedded import EmbeddedVectors
from store.vectors_server import ServerVectors

A, B = "aa11", "bb22"
PRODUCTS = 24
FOLDER = "vectors"
Store = EmbeddedVectors | ServerVectors


@pytest.fixture(params=["in memory", "embedded"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Every product is in two collections of the same widths: in A the next ones are its neighbours, in B others."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    embedded = request.param == "embedded"
    store: Store = (
        EmbeddedVectors(tmp_path / FOLDER, namespace) if embedded else ServerVectors(":memory:", None, namespace)
    )
    for fingerprint, step in ((A, 1), (B, 7)):
        store.ensure(fingerprint, {"fused": 2})
        store.put_offers([OfferPoint(name(n), 1, {"state": "listable"}) for n in range(PRODUCTS)], fingerprint)
        store.put_vectors([VectorPoint(name(n), 1, {"fused": place(n * step)}) for n in range(PRODUCTS)], fingerprint)
    yield store
    store.close()


def name(number: int) -> str:
    return f"p{number % PRODUCTS}"


def place(number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """One of PRODUCTS places on a circle."""
    angle = 2 * np.pi * number / PRODUCTS
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def alike(store: Store, product_id: str, **more: str) -> set[str]:
    return {hit.product_id for hit in store.similar(product_id, 2, **more)}  # type: ignore[arg-type]


# 7 * 7 = 49 is 1 more than twice round the circle, so in B the neighbours of p0 are p7 and p17.
IN_A, IN_B = {"p1", "p23"}, {"p7", "p17"}


def test_each_version_answers_from_its_own_collection(store: Store) -> None:
    assert store.serving() == A, "the first one made"
    assert alike(store, "p0") == alike(store, "p0", fingerprint=A) == IN_A
    assert alike(store, "p0", fingerprint=B) == IN_B
    query = place(2)
    assert store.nearest("fused", query, 1)[0].product_id == "p2"
    assert store.nearest("fused", query, 1, fingerprint=B)[0].product_id == "p14", "7 * 14 = 98 = 4 * 24 + 2"
    point = store.fetch("p1", fingerprint=B)
    assert point is not None
    assert point.vectors["fused"] == pytest.approx(place(7), abs=1e-6)


def test_a_switch_changes_what_all_readers_see_and_a_second_one_goes_back(store: Store) -> None:
    store.switch(B)
    assert (store.serving(), alike(store, "p0")) == (B, IN_B)
    store.switch(A)
    assert (store.serving(), alike(store, "p0")) == (A, IN_A)


def test_writes_reach_the_version_that_they_name(store: Store) -> None:
    store.put_offers([OfferPoint("p1", 2, {"state": "sold_out"})], B)
    store.remove([("p2", 9)], A)
    store.put_offers([OfferPoint("new", 1, {"state": "listable"})], B)
    store.put_vectors([VectorPoint("bare", 1, {})], B)
    store.put_offers([OfferPoint("bare", 1, {"state": "listable"})], B)
    store.remove_vectors([("p3", 9)], B)  # it has an offer
    assert store.count(fingerprint=A) == {"points": 23, "listable": 23, "fused": 23}
    assert store.count(fingerprint=B) == {"points": 26, "listable": 25, "fused": 24}
    assert store.answered(fingerprint=A) == 23
    assert store.answered(fingerprint=B) == 24, "new waits; bare has nothing to encode; p1 is sold out"


def test_a_version_that_readers_see_is_not_dropped_and_another_one_is(store: Store) -> None:
    with pytest.raises(ValueError, match=f"readers see .*{A}: switch"):
        store.drop(A)
    store.drop(B)
    store.drop(B)
    with pytest.raises(StoreUnavailable, match=f"there is no collection .*{B} yet"):
        store.count(fingerprint=B)
    with pytest.raises(RuntimeError, match=r"takes no writes: call ensure\(\) first"):
        store.put_offers([], B) or store.put_vectors([], B)
    with pytest.raises(ValueError, match="there is no collection"):
        store.switch(B)
    store.ensure(B, {"fused": 3})
    assert store.count(fingerprint=B)["points"] == 0
    assert store.serving() == A


def test_a_switch_between_the_two_halves_of_a_question_does_not_mix_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = store._fetch

    def fetch_and_switch(*arguments: str) -> object:
        found = fetch(*arguments)
        store.switch(B)
        return found

    monkeypatch.setattr(store, "_fetch", fetch_and_switch)
    assert alike(store, "p0") == IN_A
    assert alike(store, "p0") == IN_B


def test_under_load_every_answer_is_of_one_version_while_readers_are_switched_to_and_fro(store: Store) -> None:
    answers: list[frozenset[str]] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                answers.append(frozenset(alike(store, "p0")))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for round_ in range(60):
        before = len(answers)
        switch_as_a_command_does(store, (B, A)[round_ % 2])
        while len(answers) < before + 4 and not failures:
            pass
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(answers) == {frozenset(IN_A), frozenset(IN_B)}


def switch_as_a_command_does(store: Store, fingerprint: str) -> None:
    """From outside: without the store's lock, where another process may be."""
    if isinstance(store, EmbeddedVectors):
        point_to(store._folder, store._namespace, fingerprint)
    else:
        store.switch(fingerprint)


def test_another_process_moves_the_pointer_of_a_store_that_it_does_not_own(store: Store, tmp_path: Path) -> None:
    if not isinstance(store, EmbeddedVectors):
        pytest.skip("a server's alias is moved by any client")
    switch_vectors(None, None, tmp_path, store._namespace, B)
    assert alike(store, "p0") == IN_B
    with pytest.raises(ValueError, match=f"there is no collection {collection_name(store._namespace, 'cc')}"):
        switch_vectors(None, None, tmp_path, store._namespace, "cc")
    assert not list((tmp_path / FOLDER).glob("*.draft"))
