"""Both halves of the search over HTTP: fused, alone where the other cannot answer, counted, and in a user's order."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from asked_shop import AskedShop, ReplicasAtHand
from numpy.typing import NDArray
from shelves import factors, weights
from typer.testing import CliRunner

from encoders.product import ProductQuery
from encoders.weights import UnknownSource
from store.records import StoreUnavailable
from store.vectors import OfferPoint, VectorPoint
from streams import cli_search
from streams.cli import app
from streams.query_encoder import QueryEncoder

pytestmark = pytest.mark.anyio

# title, brand, price, vector: what a search by vectors for any words but those below finds first is the lamp
PRODUCTS: dict[str, tuple[str, str | None, float | None, list[float]]] = {
    "kettle": ("Electric kettle of steel", "Nord", 25.0, [0.0, 1.0]),
    "teapot": ("Teapot", "Nord", 40.0, [0.1, 1.0]),
    "lamp": ("Steel lamp", "Lux", 25.0, [1.0, 0.0]),
    "dress": ("Red dress", "Lux", 60.0, [1.0, 0.1]),
    "card": ("Gift card", None, None, [0.9, 0.9]),
    "gone": ("Electric kettle", "Lux", 10.0, [0.0, 1.0]),
}
MEANT: dict[str, list[float]] = {"electric kettle": [0.0, 1.0], "tea": [0.1, 1.0]}


class Encoder:
    """Knows what two queries mean."""

    fingerprint = "f"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def hurry_queries(self) -> None: ...

    def encode_queries(self, queries: Sequence[ProductQuery]) -> list[dict[str, NDArray[np.float32]]]:
        self.asked += [query.words for query in queries]
        return [{"fused": np.array(MEANT.get(query.words, [1.0, 0.0]), np.float32)} for query in queries]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[AskedShop]:
    """Tests leave it as they found it."""
    home = tmp_path_factory.mktemp("hybrid") / "home"
    shop = AskedShop(home, ReplicasAtHand(), lambda _: encoder)  # type: ignore[arg-type, return-value]
    shop.vectors.ensure("f", {"fused": 2})
    for product_id, (*_, vector) in PRODUCTS.items():
        put(shop, product_id)
        shop.vectors.put_vectors([VectorPoint(product_id, 1, {"fused": np.array(vector, np.float32)})])
    yield shop
    shop.search.close()
    shop.vectors.close()


def put(shop: AskedShop, product_id: str, revision: int = 1) -> None:
    title, brand, amount, _ = PRODUCTS[product_id]
    offer = {
        "title": title, "brand": brand, "category": ["All", "Kitchen" if brand == "Nord" else "Other"],
        "price": None if amount is None else {"amount": amount, "currency": "EUR"}, "created_at": 1.0,
        "availability": "in_stock", "image_links": [f"{product_id}.jpg", "more.jpg"], "attributes": {"colour": "red"},
        "state": "sold_out" if product_id == "gone" else "listable", "revision": revision,
    }  # fmt: skip
    shop.vectors.put_offers([OfferPoint(product_id, revision, offer)])
    shop.shelf.put_offer(product_id.encode(), orjson.dumps(offer), ())


async def ask(shop: AskedShop, **query: Any) -> dict[str, Any]:
    await shop.api.views.fill()
    async with shop.client() as client:
        response = await client.get("/v1/search", params=query)
        as_body = await client.post("/v1/search", json=query)
    made: dict[str, Any] = response.json()
    again: dict[str, Any] = as_body.json()
    assert (response.status_code, made | {"errors": []}) == (as_body.status_code, again | {"errors": []})
    return made


def ids(made: dict[str, Any]) -> list[str]:
    return [item["product_id"] for item in made["items"]]


async def test_both_halves_are_fused_by_their_ranks(shop: AskedShop) -> None:
    made = await ask(shop, q="electric kettle", limit=3)
    assert ids(made) == ["kettle", "teapot", "card"]
    kettle, teapot = made["items"][:2]
    assert (kettle["score"], kettle["ranks"], kettle["cosine"]) == (1.0, {"lexical": 1, "dense": 1}, pytest.approx(1.0))
    assert (teapot["score"], teapot["ranks"]) == (pytest.approx(61 / 62 / 2), {"dense": 2})
    assert kettle["offer"] == {
        "brand": "Nord", "category": ["All", "Kitchen"], "price": {"amount": 25.0, "currency": "EUR"},
        "availability": "in_stock", "image_link": "kettle.jpg",
    }  # fmt: skip
    assert (made["mode"], made["encoder"], made["degraded"], made["is_personal"]) == ("hybrid", "f", None, False)


async def test_each_half_answers_alone_where_it_is_asked_to(shop: AskedShop, encoder: Encoder) -> None:
    before = [*encoder.asked]
    assert ids(await ask(shop, q="steel", mode="lexical")) == ["lamp", "kettle"]
    assert encoder.asked == before, "words alone need no model"
    dense = await ask(shop, q="steel", mode="dense", limit=2)
    assert [item["ranks"] for item in dense["items"]] == [{"dense": 1}, {"dense": 2}]
    assert ids(await ask(shop, q="tea", lexical_weight=0)) == ids(await ask(shop, q="tea", mode="dense"))
    heavy = await ask(shop, q="steel tea", lexical_weight=100, limit=3)
    assert {*ids(heavy)} == {"lamp", "kettle", "teapot"}, "the last word is the beginning of one that is there"


async def test_a_misspelled_query_is_read_as_what_was_meant_by_both_halves(shop: AskedShop, encoder: Encoder) -> None:
    made = await ask(shop, q="Elektric ketle", limit=1)
    assert (ids(made), made["corrected"]) == (["kettle"], {"elektric": ["electric"], "ketle": ["kettle"]})
    assert "electric kettle" in encoder.asked, "encoded once, whoever asked first"
    assert (await ask(shop, q="Electric kettle zzzz"))["unknown"] == ["zzzz"]
    assert encoder.asked[-1] == "Electric kettle zzzz", "what has no word like it stays as it is"


async def test_conditions_hold_in_both_halves_and_leave_the_page_full(shop: AskedShop) -> None:
    for more, expected in (
        ({"brand": "Lux"}, {"lamp", "dress"}),
        ({"brand": "Lux", "all": True}, {"lamp", "dress", "gone"}),
        ({"category": "Kitchen"}, {"kettle", "teapot"}),
        ({"price_min": 25, "price_max": 40}, {"kettle", "teapot", "lamp"}),
        ({"availability": "preorder"}, set()),
    ):
        assert {*ids(await ask(shop, q="electric kettle", **more))} == expected, more
    assert ids(await ask(shop, q="electric kettle", mode="lexical", brand="Lux", all=True)) == ["gone"]


async def test_facets_count_the_closest_by_words_and_the_nearest_by_vectors(shop: AskedShop) -> None:
    facets = (await ask(shop, q="electric kettle", mode="lexical", facets="brand,price"))["facets"]
    assert facets == {
        "total": 1, "brand": [{"value": "Nord", "count": 1}],
        "price": [{"currency": "EUR", "price_min": 25.0, "price_max": 25.0, "count": 1}],
    }  # fmt: skip
    facets = (await ask(shop, q="electric kettle", limit=1, facets="brand, category,availability,price"))["facets"]
    assert facets["total"] == 5, "the page does not limit them"
    assert facets["brand"] == [{"value": "Lux", "count": 2}, {"value": "Nord", "count": 2}]
    assert facets["category"] == [
        {"value": "All", "count": 5}, {"value": "Other", "count": 3}, {"value": "Kitchen", "count": 2},
    ]  # fmt: skip
    assert facets["availability"] == [{"value": "in_stock", "count": 5}]
    for one in facets["price"]:
        ends = {"price_min": one["price_min"], "price_max": one["price_max"]}
        assert len(ids(await ask(shop, q="electric kettle", **ends))) == one["count"]
    assert sum(one["count"] for one in facets["price"]) == 4
    assert (await ask(shop, q="electric kettle", brand="Lux", facets="brand"))["facets"]["total"] == 2


async def test_what_a_user_is_likely_to_click_stands_higher_for_her(shop: AskedShop) -> None:
    for product_id, place in (("dress", [1.0, 0.0]), ("lamp", [0.0, 1.0]), ("kettle", [0.5, 0.5])):
        shop.shelf.put_factors(product_id.encode(), factors(place), ())
    shop.shelf.put_weights(b"next-click", weights(), ())
    shop.have("ann/1", None, "lamp")
    plain = await ask(shop, q="steel dress", mode="lexical")
    assert (ids(plain), plain["is_personal"]) == (["dress", "lamp", "kettle"], False)
    hers = await ask(shop, q="steel dress", mode="lexical", user="ann/1", user_weight=2)
    assert (ids(hers), hers["is_personal"]) == (["lamp", "dress", "kettle"], True)
    assert hers["items"][0]["ranks"] == {"lexical": 2, "user": 1}
    assert (await ask(shop, q="steel dress", mode="lexical", user="nobody"))["items"] == plain["items"]
    for more in ({"mode": "lexical"}, {}):
        exact = await ask(shop, q="electric kettle", user="ann/1", user_weight=2, **more)
        assert (ids(exact)[0], exact["is_personal"]) == ("kettle", True), "it alone has both words"
    near = await ask(shop, q="electric kettle", mode="dense", user="ann/1", user_weight=2)
    assert ids(near) == ["kettle", "teapot", "lamp", "dress", "card"], (
        "two are nearest, and of the others the lamp is hers"
    )


async def test_where_no_user_can_be_read_all_find_the_same_and_the_answer_says_so(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> None:
        raise StoreUnavailable("the database of 10.0.0.7 does not serve", "the database does not serve")

    plain = await ask(shop, q="steel dress")
    monkeypatch.setattr(shop.users, "read", away)
    hers = await ask(shop, q="steel dress", user="ann/1")
    assert hers["items"] == plain["items"]
    assert (hers["is_personal"], hers["facets"]) == (False, plain["facets"])
    assert hers["degraded"] == "in no order of the user's own: the database does not serve"


async def test_what_sold_out_or_was_deleted_a_moment_ago_is_not_found_by_either_half(shop: AskedShop) -> None:
    """The vector store has not been told yet."""
    shop.shelf.put_offer(b"kettle", None, [("revision", b"2")])
    sold_out = {"revision": 2, "title": "Teapot", "state": "sold_out", "created_at": 1.0}
    shop.shelf.put_offer(b"teapot", orjson.dumps(sold_out), ())
    assert ids(await ask(shop, q="electric kettle", limit=2)) == ["card", "dress"]
    assert ids(await ask(shop, q="teapot", all=True, mode="lexical")) == ["teapot"]
    for product_id in ("kettle", "teapot"):
        put(shop, product_id, revision=3)
    assert ids(await ask(shop, q="electric kettle", limit=2)) == ["kettle", "teapot"]


async def test_where_vectors_cannot_be_had_words_answer_alone_and_the_answer_says_so(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: str) -> Any:
        raise UnknownSource("no weights")

    monkeypatch.setattr(shop.search, "_encoder", QueryEncoder(shop.settings, load))
    made = await ask(shop, q="steel", dense_weight=5, lexical_weight=0)
    assert (ids(made), made["degraded"]) == (["lamp", "kettle"], "found by words alone: no weights")
    assert made["encoder"] is None
    assert (await ask(shop, q="steel", mode="dense"))["detail"] == "no search: no weights"


async def test_where_the_shelf_cannot_be_asked_vectors_answer_alone_and_the_answer_says_so(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.replicas, "ended_by", OSError("for once"))
    made = await ask(shop, q="steel", limit=1, facets="brand", user="ann/1", price_max=100)
    assert (ids(made), made["facets"], made["is_personal"]) == (["lamp"], None, False)
    assert made["degraded"].startswith("found by vectors alone: the reader of product-index has ended")
    assert made["items"][0]["offer"]["image_link"] == "lamp.jpg"
    refused = await ask(shop, q="steel", mode="lexical")
    assert (refused["status"], "the reader of product-index has ended" in refused["detail"]) == (503, True)


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({"q": "a", "facets": "brand,colour"}, "Input should be 'brand', 'category', 'availability' or 'price'"),
        ({"q": "a", "mode": "best"}, "mode: Input should be 'hybrid', 'dense' or 'lexical'"),
        ({"q": "a", "dense_weight": 0, "lexical_weight": 0}, "nothing is searched by: raise dense_weight or lexical_"),
        ({"q": "", "mode": "lexical"}, "the query is empty"),
        ({"q": "a", "user": ""}, "user: String should have at least 1 character"),
    ],
)
async def test_what_cannot_be_asked_says_what_to_change(shop: AskedShop, query: dict[str, Any], detail: str) -> None:
    refused = await ask(shop, **query)
    assert (refused["status"], detail in refused["detail"]) == (422, True), refused


async def test_the_command_prints_places_corrections_and_counts(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await ask(shop, q="elektric kettle zz", limit=1, facets="brand,price")
    monkeypatch.setattr(cli_search, "ask", lambda *_, **__: {**made, "degraded": "found by words alone: for once"})
    said = CliRunner().invoke(app, ["search", "elektric kettle zz", "--facets", "brand,price"], env={"COLUMNS": "160"})
    for line in ("elektric: also electric", "in no product: zz", "words 1, vectors", "of 5", "25.00 to", "25.00 EUR"):
        assert line in said.stdout, said.stdout
    assert "found by words alone: for once" in said.stderr
