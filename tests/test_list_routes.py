"""The routes of lists over HTTP and real stores; what is in a list is tested beside what makes it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from asked_shop import BALL, TITLES, AskedShop, ReplicasAtHand
from shelves import offer

from store.records import StoreUnavailable
from store.users import UserStore
from store.vectors import OfferPoint

pytestmark = pytest.mark.anyio
BRANDS = {BALL: "Lux", "b": "Nord", "c": "Süd/Ost"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AskedShop]:
    """The products have brands and colours. Nothing here changes it, and it takes its time to build."""
    shop = AskedShop(tmp_path_factory.mktemp("shop"), ReplicasAtHand())
    shop.fill()
    for product_id, title in TITLES.items():
        told = {"brand": BRANDS[product_id], "attributes": {"colour": "red" if product_id == "c" else "blue"}}
        shop.shelf.put_offer(product_id.encode(), offer(2, title=title, **told), ())
        shop.vectors.put_offers([OfferPoint(product_id, 2, {"title": title, "state": "listable", **told})])
    yield shop
    shop.vectors.close()


async def ask(shop: AskedShop, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    await shop.api.views.fill()
    async with shop.client() as client:
        response = await (client.get(path) if body is None else client.post(path, json=body))
    return response.status_code, response.json()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/users/ann%2F1/recommendations", ["c"]),
        ("/v1/users/ann/1/recommendations?attributes.colour=red&scenario=home", ["c"]),
        ("/v1/users/ann/1/recommendations?brand=Nord", []),
        ("/v1/users/nobody yet/recommendations?exclude=c&exclude=x&brand=Nord", ["b"]),
        ("/v1/users/nobody yet/recommendations?limit=2&segment=DE&brand=Lux", [BALL]),
        ("/v1/users/ann/1/recently-viewed", [BALL, "b"]),
        ("/v1/users/ann/1/recently-viewed?brand=Nord", ["b"]),
        ("/v1/users/ann/1/buy-again", [BALL]),
        ("/v1/users/ann/1/buy-again?brand=Nord", []),
        ("/v1/trending?brand=Nord", ["b"]),
        ("/v1/new?attributes[colour]=red", ["c"]),
        (f"/v1/products/{BALL}/across-brands", ["b", "c"]),
        (f"/v1/products/{BALL}/across-brands?attributes.colour=red", ["c"]),
        (f"/v1/products/{BALL}/similar?attributes.colour=red", ["c"]),
        (f"/v1/products/{BALL}/similar?by=together&brand=Nord", ["b"]),
    ],
)
async def test_a_list_of_those_that_pass_the_filters_comes_with_titles_and_offers(
    shop: AskedShop, path: str, found: list[str]
) -> None:
    code, made = await ask(shop, path)
    assert code == 200
    assert [item["product_id"] for item in made["items"]] == found
    assert all(item["title"] == TITLES[item["product_id"]] for item in made["items"])
    assert all(item["offer"]["brand"] == BRANDS[item["product_id"]] for item in made["items"])


async def test_a_visitor_gets_a_list_after_what_she_looked_at(shop: AskedShop) -> None:
    body = {"recently_viewed": ["c", {"product_id": BALL, "event": "purchase"}], "explain": True, "scenario": "cart"}
    code, made = await ask(shop, "/v1/recommendations", body)
    assert (code, made["scenario"], [item["product_id"] for item in made["items"]]) == (200, "cart", ["b"])
    assert "next-click" in made["items"][0]["explanation"]["found_by"]
    assert (await ask(shop, "/v1/recommendations", {}))[0] == 200, "of her nothing is known"


async def test_related_brands_come_by_any_spelling_of_case(shop: AskedShop) -> None:
    code, made = await ask(shop, "/v1/brands/lux/related")
    assert (code, {one["brand"] for one in made["items"]}) == (200, {"Nord", "Süd/Ost"})
    assert (await ask(shop, "/v1/brands/Süd%2FOst/related?limit=1"))[1]["items"][0]["products"] == 1


@pytest.mark.parametrize(
    ("path", "body", "code", "detail"),
    [
        ("/v1/users/ann/recommendations?price_mni=3", None, 422, "price_mni: Extra inputs are not permitted"),
        ("/v1/users/ann/recommendations?price_min=3", None, 422, "prices are in none: say in which with currency"),
        (f"/v1/users/ann/recommendations?scenario={101 * 'x'}", None, 422, "scenario: String should have at most 100"),
        (f"/v1/users/{201 * 'x'}/recommendations", None, 422, "user_id: String should have at most 200 characters"),
        ("/v1/users/a%00/recently-viewed", None, 422, "user_id: String should match pattern"),
        ("/v1/recommendations", {"recently_viewed": [{"product_id": "b", "age": 1}]}, 422, "age: Extra inputs are"),
        ("/v1/trending?limit=0", None, 422, "limit: Input should be greater than or equal to 1"),
        ("/v1/products/gone/across-brands", None, 404, "there is no product 'gone': it was not published yet"),
        ("/v1/brands/Never/related", None, 404, "nothing is offered of a brand 'Never': it is misspelled"),
    ],
)
async def test_errors_say_what_to_do_next(
    shop: AskedShop, path: str, body: dict[str, Any] | None, code: int, detail: str
) -> None:
    told, answer = await ask(shop, path, body)
    assert (told, answer["status"]) == (code, code)
    assert detail in answer["detail"]


async def test_blocks_hold_in_lists_for_nobody_in_particular_and_the_page_is_filled_with_others(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.api.product_routes.SPARE", 0)
    published = shop.shelf.rules.published
    published.put(b"", b'{"rules": {"nord": {"action": "block", "brand": "Nord"}}}', ())
    try:
        for path, found in (
            (f"/v1/products/{BALL}/similar?limit=1", ["c"]),
            (f"/v1/products/{BALL}/similar?by=together", ["c"]),
            (f"/v1/products/{BALL}/across-brands", ["c"]),
            ("/v1/trending?brand=Nord", []),
            ("/v1/users/nobody/recommendations?brand=Nord", []),
            ("/v1/users/ann/1/recently-viewed", [BALL, "b"]),
            ("/v1/search?q=bauble", ["b"]),
        ):
            code, made = await ask(shop, path)
            assert (code, [item["product_id"] for item in made.get("items", made.get("hits", []))]) == (200, found), (
                path
            )
        code, told = await ask(shop, "/v1/rules")
        rule = {"name": "nord", "action": "block", "brand": "Nord", "is_on": True, "products_for_sale": 1}
        assert (code, told) == (200, {"rules": [rule]})
    finally:
        published.put(b"", None, ())
    assert (await ask(shop, "/v1/rules"))[1] == {"rules": []}


async def test_while_the_users_cannot_be_read_all_who_ask_wait_once(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def read(_: UserStore, user_ids: set[str]) -> Any:
        asked.append(len(user_ids))
        raise StoreUnavailable("the database is away: is it running?")

    monkeypatch.setattr(UserStore, "read", read)
    answers = await asyncio.gather(*(ask(shop, f"/v1/users/{user}/recommendations") for user in range(9)))
    assert {code for code, _ in answers} == {503}
    assert sum(asked) == 9, "nobody was asked for again alone"


async def test_every_list_has_an_example_and_a_summary(shop: AskedShop) -> None:
    paths = (await ask(shop, "/openapi.json"))[1]["paths"]
    own = [
        path for path in paths if path.endswith(("ations", "stream", "viewed", "again", "trending", "new", "related"))
    ]
    assert len(own) == 9
    for path in (*own, "/v1/products/{product_id}/across-brands", "/v1/products/{product_id}/similar"):
        (route,) = paths[path].values()
        assert route["summary"]
        assert all("example" in content for content in route["responses"]["200"]["content"].values()), path
