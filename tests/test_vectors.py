"""The vector store: the same tests on both forms, and on a real server where FRESHET_QDRANT_URL names one."""

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import vectors_rules as rules
from store.conditions import Conditions, PriceRange
from store.records import StoreUnavailable
from store.vectors import (
    OfferPoint,
    UnknownProduct,
    VectorPoint,
    collection_name,
    point_ids,
)
from store.vectors_embedded import EmbeddedVectors
from store.vectors_server import ServerVectors

WIDTHS = {"image": 4, "text": 2, "fused": 2}
FINGERPRINT = "ab12"
SERVER_URL = os.environ.get("FRESHET_QDRANT_URL")
FORMS = ["in memory", "embedded", *(["server"] if SERVER_URL else [])]
Store = EmbeddedVectors | ServerVectors


@contextmanager
def opened(form: str, folder: Path) -> Iterator[Store]:
    """An empty store; nothing of it stays."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    if form == "embedded":
        store: Store = EmbeddedVectors(folder, namespace)
    else:
        store = ServerVectors(":memory:" if form == "in memory" else str(SERVER_URL), None, namespace)
    try:
        yield store
    finally:
        if isinstance(store, ServerVectors):
            for found in store._client.get_collections().collections:
                if found.name.startswith(namespace):
                    store._client.delete_collection(found.name)
        store.close()


@pytest.fixture(params=FORMS)
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store in which nothing was ever made."""
    with opened(request.param, tmp_path / "vectors") as store:
        yield store


@pytest.fixture(params=FORMS, scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with opened(request.param, tmp_path_factory.mktemp("vectors")) as store:
        store.ensure(FINGERPRINT, WIDTHS)
        yield store


@pytest.fixture
def store(made: Store) -> Store:
    """A store with an empty collection, which its tests leave in place: to make one takes most of a second."""
    made._apply([rules.DeletePoints(rules.Where(present="product_id"))], made._written(None))
    assert made.count()["points"] == 0
    return made


def offer(product_id: str, revision: int = 1, state: str = "listable", **fields: Any) -> OfferPoint:
    return OfferPoint(product_id, revision, {"product_id": product_id, "revision": revision, "state": state, **fields})


def vectors(product_id: str, content_revision: int = 1, **named: list[float]) -> VectorPoint:
    return VectorPoint(product_id, content_revision, {name: array(values) for name, values in named.items()})


def array(values: list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, np.float32)


def ids(hits: list[Any]) -> list[str]:
    return [hit.product_id for hit in hits]


# --- searching ---------------------------------------------------------------------------------------------------


def four_corners(store: Store) -> None:
    places = {"east": [1.0, 0.0], "north-east": [3.0, 4.0], "north": [0.0, 9.0], "west": [-1.0, 0.0]}
    store.put_offers([offer(name, brand=name[0]) for name in places])
    store.put_vectors([vectors(name, fused=place) for name, place in places.items()])


def test_the_nearest_are_those_of_the_highest_cosine_worked_by_hand(store: Store) -> None:
    four_corners(store)
    hits = store.nearest("fused", array([2.0, 0.0]), 4)
    assert ids(hits) == ["east", "north-east", "north", "west"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, 0.6, 0.0, -1.0], abs=1e-6)
    assert hits[0].payload["brand"] == "e"
    assert ids(store.nearest("fused", array([2.0, 0.0]), 2)) == ["east", "north-east"]


def test_each_name_has_a_space_of_its_own(store: Store) -> None:
    store.put_offers([offer("one"), offer("two"), offer("three")])
    store.put_vectors(
        [
            vectors("one", image=[1, 0, 0, 0], text=[1, 0]),
            vectors("two", image=[1, 1, 0, 0], text=[0, 1]),
            vectors("three", image=[1, 1, 1, 0]),
        ]
    )
    hits = store.nearest("image", array([1, 1, 1, 1]), 3)
    assert ids(hits) == ["three", "two", "one"]
    assert [hit.score for hit in hits] == pytest.approx([3 / 12**0.5, 2 / 8**0.5, 0.5], abs=1e-6)
    assert ids(store.nearest("text", array([0, 1]), 3)) == ["two", "one"]


def test_sold_out_products_are_not_returned(store: Store) -> None:
    four_corners(store)
    store.put_offers([offer("east", 2, "sold_out")])
    query = array([1.0, 0.0])
    assert ids(store.nearest("fused", query, 4)) == ["north-east", "north", "west"]
    assert ids(store.nearest("fused", query, 1, listable_only=False)) == ["east"]


def test_hits_without_payloads_are_the_same_products_with_the_same_scores(store: Store) -> None:
    four_corners(store)
    for query in (array([1.0, 0.2]), array([0.2, 1.0]), array([1.0, 0.2])):
        whole, bare = store.nearest("fused", query, 3), store.nearest("fused", query, 3, with_payload=False)
        assert [(hit.product_id, hit.score) for hit in bare] == [(hit.product_id, hit.score) for hit in whole]
        assert [hit.payload for hit in bare] == [{}, {}, {}]


def test_a_search_can_keep_to_a_brand_or_a_category(store: Store) -> None:
    store.put_offers(
        [
            offer("lamp", brand="Lux", category=["home", "lamps"]),
            offer("bag", brand="Lux", category=["bags"]),
            offer("rug", brand=None, category=["home", "rugs"]),
        ]
    )
    store.put_vectors([vectors(name, fused=[1, index]) for index, name in enumerate(("lamp", "bag", "rug"))])
    assert ids(store.nearest("fused", array([1, 0]), 9, conditions=Conditions(brand="Lux"))) == ["lamp", "bag"]
    assert ids(store.nearest("fused", array([1, 0]), 9, conditions=Conditions(category="home"))) == ["lamp", "rug"]
    assert ids(store.nearest("fused", array([1, 0]), 9, conditions=Conditions("Lux", "home"))) == ["lamp"]


def test_a_search_can_keep_to_attributes_whatever_their_names(store: Store) -> None:
    store.put_offers(
        [
            offer("red", attributes={"colour": "red", "shoe.size [EU]": "42"}),
            offer("blue", attributes={"colour": "blue", "shoe.size [EU]": "42"}),
            offer("plain", attributes={}),
        ]
    )
    store.put_vectors([vectors(name, fused=[1, index]) for index, name in enumerate(("red", "blue", "plain"))])
    size = ("shoe.size [EU]", "42")
    for attributes, found in (((size,), ["red", "blue"]), ((("colour", "red"), size), ["red"]), ((("x", "y"),), [])):
        assert ids(store.nearest("fused", array([1, 0]), 9, conditions=Conditions(attributes=attributes))) == found
    assert ids(store.similar("red", 9, conditions=Conditions(attributes=(size,)))) == ["blue"]


def priced(product_id: str, amount: float | None, currency: str = "EUR", **fields: Any) -> OfferPoint:
    price = None if amount is None else {"amount": amount, "currency": currency}
    return offer(product_id, price=price, **fields)


def test_a_search_can_keep_to_a_range_of_prices_in_one_currency(store: Store) -> None:
    offers = [priced("ten", 10.0), priced("twenty", 20.0), priced("thirty", 30.5), priced("yen", 20.0, "JPY")]
    store.put_offers([*offers, priced("unpriced", None)])
    store.put_vectors([vectors(name, fused=[1, i]) for i, name in enumerate(("ten", "twenty", "thirty", "yen"))])
    store.put_vectors([vectors("unpriced", fused=[1, 0])])
    for lowest, highest, found in (
        (None, None, ["ten", "twenty", "thirty"]),
        (10.0, 20.0, ["ten", "twenty"]),
        (10.01, None, ["twenty", "thirty"]),
        (None, 30.49, ["ten", "twenty"]),
        (40.0, None, []),
    ):
        price = PriceRange("EUR", lowest, highest)
        assert ids(store.nearest("fused", array([1, 0]), 9, conditions=Conditions(price=price))) == found
    assert ids(store.nearest("fused", array([1, 0]), 9, conditions=Conditions(price=PriceRange("JPY", 5.0)))) == ["yen"]
    assert store.currencies() == {"EUR": 3, "JPY": 1}


def test_a_search_can_keep_to_an_availability(store: Store) -> None:
    store.put_offers(
        [
            offer("here", availability="in_stock"),
            offer("soon", availability="preorder"),
            offer("gone", state="sold_out", availability="out_of_stock"),
        ]
    )
    store.put_vectors([vectors(name, fused=[1, i]) for i, name in enumerate(("here", "soon", "gone"))])
    assert ids(store.nearest("fused", array([1, 0]), 9, conditions=Conditions(availability="preorder"))) == ["soon"]
    gone = Conditions(availability="out_of_stock")
    assert ids(store.nearest("fused", array([1, 0]), 9, conditions=gone)) == []
    assert ids(store.nearest("fused", array([1, 0]), 9, conditions=gone, listable_only=False)) == ["gone"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shop=st.lists(
        st.tuples(
            st.sampled_from(["listable", "sold_out"]),
            st.sampled_from(["Lux", "Nord", None]),
            st.sampled_from(["in_stock", "preorder"]),
            st.none() | st.tuples(st.integers(0, 9), st.sampled_from(["EUR", "USD"])),
        ),
        max_size=12,
    ),
    wanted=st.tuples(
        st.booleans(),
        st.sampled_from(["Lux", None]),
        st.sampled_from(["preorder", None]),
        st.none() | st.tuples(st.sampled_from(["EUR", "USD"]), st.none() | st.integers(0, 9), st.integers(0, 9)),
    ),
    limit=st.integers(1, 12),
)
def test_a_filtered_page_is_full_wherever_so_many_products_meet_every_condition(
    store: Store, shop: list[Any], wanted: Any, limit: int
) -> None:
    store._apply([rules.DeletePoints(rules.Where(present="product_id"))], store._written(None))
    listable_only, brand, availability, span = wanted
    expected = []
    for at, (state, of_brand, stock, price) in enumerate(shop):
        tag = price and {"amount": float(price[0]), "currency": price[1]}
        store.put_offers([offer(f"p{at}", state=state, brand=of_brand, availability=stock, price=tag)])
        store.put_vectors([vectors(f"p{at}", fused=[1, 0.1 * at])])
        in_range = span is None or (tag and tag["currency"] == span[0] and (span[1] or 0) <= tag["amount"] <= span[2])
        if (
            (state == "listable" or not listable_only)
            and brand in (None, of_brand)
            and availability in (None, stock)
            and in_range
        ):
            expected.append(f"p{at}")
    price = span and PriceRange(*span)
    found = store.nearest(
        "fused",
        array([1, 0]),
        limit,
        listable_only=listable_only,
        conditions=Conditions(brand, availability=availability, price=price),
    )
    assert ids(found) == expected[:limit]


def test_similar_are_the_neighbours_without_the_product_itself(store: Store) -> None:
    four_corners(store)
    store.put_offers([offer("east", 2, "sold_out")])
    assert ids(store.similar("east", 2)) == ["north-east", "north"]
    assert ids(store.similar("north-east", 9)) == ["north", "west"]


def test_similar_tells_an_unknown_product_from_one_without_vectors(store: Store) -> None:
    store.put_offers([offer("new")])
    store.put_vectors([vectors("no offer", fused=[1, 0])])
    assert store.similar("new", 3) == []
    for product_id in ("nobody", "no offer"):
        with pytest.raises(UnknownProduct, match=product_id):
            store.similar(product_id, 3)


def test_retrievable_are_the_listable_ones_with_a_fused_vector(store: Store) -> None:
    store.put_offers([offer("both"), offer("sold", 1, "sold_out"), offer("no vector"), offer("text only")])
    store.put_vectors([vectors(name, fused=[1, 0]) for name in ("both", "sold", "no offer")])
    store.put_vectors([vectors("text only", text=[1, 0])])
    asked = ["both", "sold", "no vector", "text only", "no offer", "nobody"]
    assert store.retrievable(asked) == {"both"}
    assert store.retrievable(asked[1:]) == set()
    assert store.retrievable([]) == set()
    assert store.count() == {"points": 5, "listable": 3, "fused": 3}


# --- writing -----------------------------------------------------------------------------------------------------


def test_vectors_complete_an_offer_that_came_before(store: Store) -> None:
    store.put_offers([offer("p", title="lamp", price={"amount": 9.5, "currency": "EUR"}, brand=None)])
    assert store.nearest("fused", array([1, 0]), 1) == []
    store.put_vectors([vectors("p", 7, fused=[3, 4], text=[0, 2])])
    point = store.fetch("p")
    assert point is not None
    assert point.payload == {
        "product_id": "p",
        "revision": 1,
        "content_revision": 7,
        "state": "listable",
        "title": "lamp",
        "price": {"amount": 9.5, "currency": "EUR"},
        "brand": None,
    }
    assert {name: values.tolist() for name, values in point.vectors.items()} == {
        "fused": pytest.approx([0.6, 0.8]),
        "text": pytest.approx([0, 1]),
    }
    assert ids(store.nearest("fused", array([1, 0]), 1)) == ["p"]


def test_vectors_that_come_first_are_invisible_until_the_offer_is_there(store: Store) -> None:
    store.put_vectors([vectors("p", fused=[1, 0])])
    assert store.nearest("fused", array([1, 0]), 1) == []
    assert store.nearest("fused", array([1, 0]), 1, listable_only=False) == []
    store.put_offers([offer("p")])
    assert ids(store.nearest("fused", array([1, 0]), 1)) == ["p"]


def test_a_new_offer_replaces_the_old_one_whole_and_leaves_the_vectors(store: Store) -> None:
    store.put_offers([offer("p", 1, title="lamp", attributes={"colour": "red"}, badge="new")])
    store.put_vectors([vectors("p", fused=[1, 0])])
    store.put_offers([offer("p", 2, title="lamp", attributes={"size": "L"})])
    point = store.fetch("p")
    assert point is not None
    assert point.payload == {
        "product_id": "p",
        "revision": 2,
        "content_revision": 1,
        "state": "listable",
        "title": "lamp",
        "attributes": {"size": "L"},
    }
    assert point.vectors.keys() == {"fused"}


def test_a_stale_offer_is_ignored_alone_and_within_a_batch(store: Store) -> None:
    store.put_offers(
        [offer("p", 5, title="five"), offer("p", 4, title="four"), offer("q", 1), offer("q", 2, title="two")]
    )
    store.put_offers([offer("p", 3, title="three")])
    assert title(store, "p") == "five"
    store.put_offers([offer("p", 5, title="five, run again with more folded in")])
    assert title(store, "p") == "five, run again with more folded in"
    assert title(store, "q") == "two"


def title(store: Store, product_id: str) -> Any:
    point = store.fetch(product_id)
    return point and point.payload["title"]


def test_stale_vectors_are_ignored_and_those_of_the_same_content_replace(store: Store) -> None:
    store.put_vectors([vectors("p", 5, text=[1, 0]), vectors("p", 4, image=[1, 0, 0, 0], text=[0, 1])])
    assert stored_vectors(store, "p") == {"text": [1, 0]}
    store.put_vectors([vectors("p", 5, image=[0, 0, 0, 1], text=[1, 0])])
    assert stored_vectors(store, "p") == {"image": [0, 0, 0, 1], "text": [1, 0]}


def test_a_modality_that_is_missing_now_is_dropped(store: Store) -> None:
    store.put_vectors([vectors("p", 1, image=[1, 0, 0, 0], text=[1, 0], fused=[1, 0])])
    store.put_vectors([vectors("p", 2, text=[0, 1], fused=[0, 1])])
    assert stored_vectors(store, "p") == {"text": [0, 1], "fused": [0, 1]}
    store.put_offers([offer("p")])
    assert store.nearest("image", array([1, 0, 0, 0]), 1) == []
    store.put_vectors([vectors("p", 3)])
    assert stored_vectors(store, "p") == {}


def stored_vectors(store: Store, product_id: str) -> dict[str, list[float]] | None:
    point = store.fetch(product_id)
    return point and {name: values.tolist() for name, values in point.vectors.items()}


@pytest.mark.parametrize("before", range(5))
def test_a_stale_write_that_stops_half_way_and_goes_on_after_a_newer_one_changes_nothing(
    store: Store, before: int
) -> None:
    """What a worker does that lost its partition: its writes come between and after those of the new owner."""
    stale = rules.vector_writes([vectors("p", 1, text=[1, 0])], WIDTHS.keys(), store._namespace)
    stale += rules.offer_writes([offer("p", 1, title="old")], store._namespace)[1:]
    newer = rules.vector_writes([vectors("p", 2, fused=[0, 1])], WIDTHS.keys(), store._namespace)
    newer += rules.offer_writes([offer("p", 2, title="new")], store._namespace)[1:]
    assert len(stale) == 5
    store._apply([*stale[:before], *newer, *stale[before:]], store._written(None))
    assert stored_vectors(store, "p") == {"fused": [0, 1]}
    assert title(store, "p") == "new"


def test_a_delete_wins_over_the_same_revision_and_lower_ones(store: Store) -> None:
    store.put_offers([offer("older", 3), offer("same", 4), offer("newer", 5)])
    store.put_vectors([vectors("no offer", 4, fused=[1, 0])])
    store.remove([(name, 4) for name in ("older", "same", "newer", "no offer", "nobody")])
    assert {name for name in ("older", "same", "newer", "no offer") if store.fetch(name)} == {"newer"}


def test_a_late_delete_leaves_the_vectors_of_a_product_that_has_come_back(store: Store) -> None:
    store.put_offers([offer("p", 3)])
    store.put_vectors([vectors("p", 6, fused=[1, 0])])
    store.remove([("p", 5)])
    assert store.nearest("fused", array([1, 0]), 1) == []
    store.put_offers([offer("p", 6)])
    assert [hit.product_id for hit in store.nearest("fused", array([1, 0]), 1)] == ["p"]


def test_a_product_that_comes_back_after_its_delete_has_none_of_its_old_vectors(store: Store) -> None:
    store.put_offers([offer("p", 1)])
    store.put_vectors([vectors("p", 1, fused=[1, 0])])
    store.remove([("p", 2)])
    assert store.count()["points"] == 0
    store.put_offers([offer("p", 3)])
    store.remove([("p", 2)])
    assert stored_vectors(store, "p") == {}


def test_a_delete_of_vectors_takes_the_point_only_where_there_is_no_offer(store: Store) -> None:
    store.put_offers([offer("offered")])
    store.put_vectors([vectors(name, 4, fused=[1, 0]) for name in ("offered", "same", "newer")])
    store.remove_vectors([("offered", 9), ("same", 4), ("newer", 3), ("nobody", 1)])
    assert {name for name in ("offered", "same", "newer") if store.fetch(name)} == {"offered", "newer"}
    assert stored_vectors(store, "offered") == {"fused": [1, 0]}


def test_more_points_than_one_batch_are_all_written(store: Store) -> None:
    names = [f"p{number}" for number in range(150)]
    store.put_offers([offer(name) for name in names])
    store.put_vectors([vectors(name, fused=[1, number]) for number, name in enumerate(names)])
    assert store.count() == {"points": 150, "listable": 150, "fused": 150}
    assert store.retrievable(names) == set(names)
    store.remove([(name, 2) for name in names])
    assert store.count()["points"] == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"fused": [1.0, float("nan")]}, "product 'bad': the fused vector has a value that is not finite"),
        ({"fused": [float("inf"), 0.0]}, "product 'bad': the fused vector has a value that is not finite"),
        ({"image": [1.0, 0.0]}, r"product 'bad': the image vector has shape \(2,\), the collection takes \(4,\)"),
        ({"sound": [1.0]}, "product 'bad': no vector is called 'sound', the collection has fused, image, text"),
    ],
)
def test_a_bad_vector_is_refused_by_name_before_anything_is_written(
    store: Store, bad: dict[str, list[float]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        store.put_vectors([vectors("good", fused=[1, 0]), vectors("bad", **bad)])
    assert store.count()["points"] == 0


def test_a_bad_query_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="the query: the fused vector has a value that is not finite"):
        store.nearest("fused", array([1, float("nan")]), 1)
    with pytest.raises(ValueError, match=r"the query: the fused vector has shape \(3,\), the collection takes \(2,\)"):
        store.nearest("fused", array([1, 0, 0]), 1)


# --- any writes in any order -------------------------------------------------------------------------------------

DIRECTIONS = {"east": [1.0, 0.0], "north": [0.0, 1.0], "west": [-1.0, 0.0]}
PRODUCTS = st.sampled_from("abc")
REVISIONS = st.integers(1, 6)
MODALITIES = st.dictionaries(st.sampled_from(["text", "fused"]), st.sampled_from(sorted(DIRECTIONS)))
WRITES = st.one_of(
    st.tuples(st.just("offer"), PRODUCTS, REVISIONS, st.sampled_from(["listable", "sold_out"])),
    st.tuples(st.just("vectors"), PRODUCTS, REVISIONS, MODALITIES),
    st.tuples(st.just("remove"), PRODUCTS, REVISIONS, st.none()),
    st.tuples(st.just("remove_vectors"), PRODUCTS, REVISIONS, st.none()),
)
EXAMPLES = count()


class DictModel:
    """The promised behaviour on a dict: product -> its revisions, state and vectors."""

    def __init__(self) -> None:
        self.points: dict[str, dict[str, Any]] = {}

    def write(self, kind: str, product: str, revision: int, value: Any) -> None:
        point = self.points.get(product)
        new = {"revision": 0, "state": None, "content_revision": 0, "vectors": {}}
        match kind:
            case "offer" if point is None or revision >= point["revision"]:
                self.points[product] = {**(point or new), "revision": revision, "state": value}
            case "vectors" if point is None or revision >= point["content_revision"]:
                self.points[product] = {**(point or new), "content_revision": revision, "vectors": dict(value)}
            case "remove" if point is not None and point["revision"] <= revision:
                if point["content_revision"] <= revision:
                    del self.points[product]
                else:
                    self.points[product] = {**point, "revision": revision, "state": None}
            case "remove_vectors" if point is not None:
                if point["revision"] == 0 and point["content_revision"] <= revision:
                    del self.points[product]


def as_model(store: Store, product_id: str) -> dict[str, Any] | None:
    point = store.fetch(product_id)
    if point is None:
        return None
    named = {tuple(place): name for name, place in DIRECTIONS.items()}
    return {
        "revision": point.payload.get("revision", 0),
        "state": point.payload.get("state"),
        "content_revision": point.payload.get("content_revision", 0),
        "vectors": {name: named[tuple(values.tolist())] for name, values in point.vectors.items()},
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=st.lists(WRITES, max_size=15))
def test_any_writes_leave_what_the_rules_say(store: Store, writes: list[tuple[str, str, int, Any]]) -> None:
    prefix = f"{next(EXAMPLES)}-"  # products of its own, in the same store
    model = DictModel()
    for kind, group in groupby(writes, key=lambda write: write[0]):
        batch = list(group)
        for write in batch:
            model.write(*write)
        match kind:
            case "offer":
                store.put_offers([offer(prefix + name, number, state) for _, name, number, state in batch])
            case "vectors":
                store.put_vectors(
                    [
                        vectors(prefix + name, number, **{key: DIRECTIONS[place] for key, place in named.items()})
                        for _, name, number, named in batch
                    ]
                )
            case "remove":
                store.remove([(prefix + name, number) for _, name, number, _ in batch])
            case "remove_vectors":
                store.remove_vectors([(prefix + name, number) for _, name, number, _ in batch])
    assert {name: found for name in "abc" if (found := as_model(store, prefix + name))} == model.points
    shown = {
        name for name, point in model.points.items() if point["state"] == "listable" and "fused" in point["vectors"]
    }
    assert store.retrievable([prefix + name for name in "abc"]) == {prefix + name for name in shown}


# --- collections -------------------------------------------------------------------------------------------------


def test_another_encoder_fills_its_collection_unseen_until_the_switch(bare: Store) -> None:
    store = bare
    store.ensure(FINGERPRINT, WIDTHS)
    store.put_offers([offer("p", title="first")])
    store.ensure("cd34", {"fused": 3})
    store.put_offers([offer("p", title="second"), offer("q", title="second")])
    store.put_vectors([vectors("q", fused=[0, 0, 1])])
    assert title(store, "p") == "first"
    assert store.count()["points"] == 1
    store.switch("cd34")
    assert title(store, "p") == "second"
    assert ids(store.nearest("fused", array([0, 0, 1]), 1)) == ["q"]
    store.switch(FINGERPRINT)
    assert store.fetch("q") is None
    assert title(store, "p") == "first"


def test_ensuring_twice_changes_nothing(store: Store) -> None:
    store.put_offers([offer("p")])
    store.ensure(FINGERPRINT, WIDTHS)
    assert store.count()["points"] == 1


def test_a_collection_with_other_widths_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"the encoder gives {'fused': 3}: change its fingerprint"):
        store.ensure(FINGERPRINT, {"fused": 3})


def test_no_switch_to_a_collection_that_does_not_exist(store: Store) -> None:
    with pytest.raises(ValueError, match=r"there is no collection test-.*-products-9999"):
        store.switch("9999")


def test_reading_before_any_collection_exists_is_unavailable_and_writing_a_defect(bare: Store) -> None:
    with pytest.raises(StoreUnavailable, match="is the index role up"):
        bare.nearest("fused", array([1, 0]), 1)
    with pytest.raises(StoreUnavailable, match="is the index role up"):
        bare.count()
    for write in (lambda: bare.put_offers([offer("p")]), lambda: bare.put_vectors([vectors("p")])):
        with pytest.raises(RuntimeError, match="call ensure"):
            write()
    bare.ensure(FINGERPRINT, WIDTHS)
    assert bare.count()["points"] == 0


def test_ids_are_the_same_for_ever_and_differ_between_shops() -> None:
    assert point_ids("", ["p1"]) == {"c7d7ba5c-0d9a-580f-b5a3-9935250b9576": "p1"}
    assert point_ids("shop", ["p1"]).keys() != point_ids("", ["p1"]).keys()
    assert collection_name("", "ab") == "products-ab"
    assert collection_name("shop", "ab") == "shop-products-ab"


def test_writes_and_searches_from_several_threads_agree(store: Store) -> None:
    def publish(number: int) -> None:
        for revision in range(1, 6):
            store.put_offers([offer(f"p{number}", revision)])
            store.put_vectors([vectors(f"p{number}", revision, fused=[1, number])])
            store.nearest("fused", array([1, 0]), 5)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids(store.nearest("fused", array([1, 0]), 5)) == ["p0", "p1", "p2", "p3"]
