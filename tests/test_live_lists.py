"""Lists for a person as they are asked for: narrowed, explained, from a row or from what a visitor looked at."""

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from shelves import FullReplica, factors, neighbours, offer, vectors, weights

from store.database import open_database
from store.records import Click, UserRow
from store.users import UserStore
from streams.filters import BadQuery, PageQuery
from streams.live_lists import Asked, ListQuery, LiveLists, VisitorQuery
from streams.settings import Settings
from streams.shelf import Shelf

DAY_S = 86_400.0
# product -> place, clicks, brand
PRODUCTS: dict[str, tuple[list[float], int, str]] = {
    "tea": ([1.0, 0.0], 1_000_000, "Lux"),
    "cup": ([0.9, 0.1], 1_000_000, "Lux"),
    "pot": ([0.5, 0.2], 1_000_000, "Nord"),
    "axe": ([-1.0, 0.0], 1_000_000, "Nord"),
    "new": ([0.8, 0.6], 0, "Nord"),
}


class Shop:
    """Users in a real store, and a shelf of five products."""

    def __init__(self, home: Path) -> None:
        self.shelf = Shelf()
        self.users = UserStore(open_database(None, home, "users"))
        self.lists = LiveLists(self.shelf, self.users, Settings(home=home, list_length=3), FullReplica().check)
        for at, (product_id, (place, clicks, brand)) in enumerate(PRODUCTS.items()):
            key, price = product_id.encode(), {"amount": 10.0 * at, "currency": "EUR"}
            self.shelf.put_offer(key, offer(title=product_id.upper(), created_at=at, brand=brand, price=price), ())
            self.shelf.put_vectors(key, vectors(place), ())
            if clicks:
                self.shelf.put_factors(key, factors(place, clicks=clicks), ())
        self.shelf.put_neighbours(b"tea", neighbours({"pot": 0.25}, {"axe": 0.5}), ())
        self.shelf.put_weights(b"next-click", weights(), ())

    def have(self, user_id: str, *clicks: tuple[str, str, float]) -> None:
        """product, event, days ago; the newest first."""
        now = time.time()
        row = [Click(product_id, event, now - days * DAY_S) for product_id, event, days in clicks]
        self.users.write([UserRow(user_id, 1, row, (), {"topic/0": 1})])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def ids(made: dict[str, Any]) -> list[str]:
    return [item["product_id"] for item in made["items"]]


def test_a_list_tells_titles_and_offers_and_whose_it_is(shop: Shop) -> None:
    shop.have("ann", ("tea", "view_item", 0))
    made = shop.lists.of_user("ann", ListQuery(limit=2, scenario="home"))
    assert (made["user_id"], made["revision"], made["scenario"]) == ("ann", 1, "home")
    first = made["items"][0]
    assert (first["product_id"], first["title"], first["rank"]) == ("cup", "CUP", 1)
    assert (first["offer"]["brand"], first["offer"]["price"]) == ("Lux", {"amount": 10.0, "currency": "EUR"})
    unknown = shop.lists.of_user("nobody", ListQuery(limit=9))
    assert (unknown["revision"], len(unknown["items"]), "scenario" in unknown) == (0, 5, False)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"brand": "Nord"}, {"pot", "axe", "new"}),
        ({"price_min": 10.0, "price_max": 20.0}, {"cup", "pot"}),
        ({"exclude": ["cup", "pot", "never heard of"]}, {"axe", "new"}),
        ({"brand": "Lux"}, {"cup"}),
        ({"brand": "None"}, set()),
    ],
)
def test_filters_fill_the_list_from_what_passes(shop: Shop, asked: dict[str, Any], found: set[str]) -> None:
    shop.have("ann", ("tea", "view_item", 0))
    assert set(ids(shop.lists.of_user("ann", ListQuery(**asked)))) == found
    assert len(shop.lists.of_user("ann", ListQuery(**asked, limit=1))["items"]) == min(1, len(found))
    plain = [one for one in ids(shop.lists.of_user("ann", ListQuery())) if one in found]
    assert ids(shop.lists.of_user("ann", ListQuery(**asked))) == plain, "the order is that of the whole list"


def test_a_page_is_full_though_what_passes_is_no_candidate(shop: Shop) -> None:
    for number in range(400):  # more than there are candidates, and all of them better
        key = b"better %d" % number
        shop.shelf.put_offer(key, offer(brand="Other"), ())
        shop.shelf.put_factors(key, factors([2.0, 0.0], clicks=1_000_000), ())
    for number in range(3):
        shop.shelf.put_offer(b"odd %d" % number, offer(brand="Odd"), ())
    shop.have("ann", ("tea", "view_item", 0))
    made = shop.lists.of_user("ann", ListQuery(brand="Odd", limit=20))
    assert set(ids(made)) == {"odd 0", "odd 1", "odd 2"}
    assert set(ids(shop.lists.of_user("ann", ListQuery(brand="Nord")))) == {"pot", "axe", "new"}


def test_an_explained_item_says_what_found_it_and_what_the_ranking_read(shop: Shop) -> None:
    shop.have("ann", ("tea", "view_item", 0))
    assert "explanation" not in shop.lists.of_user("ann", ListQuery())["items"][0]
    items = {item["product_id"]: item for item in shop.lists.of_user("ann", ListQuery(explain=True))["items"]}
    told = {product_id: item["explanation"] for product_id, item in items.items()}
    # The embedding is tea's (1, 0), and the cup's target (.9, .1).
    assert told["cup"]["next_click"] == pytest.approx(0.9, abs=1e-6)
    assert told["new"]["next_click"] is None
    assert (told["pot"]["after"]["last"], told["axe"]["together"]["last"]) == pytest.approx((0.25, 0.5), abs=1e-6)
    assert (told["cup"]["after"]["last"], told["cup"]["clicks"]["ever"]) == (0.0, 1_000_000)
    assert told["cup"]["found_by"] == ["next-click", "content"]
    assert told["pot"]["found_by"] == ["next-click", "content", "next"]
    assert told["axe"]["found_by"] == ["next-click", "content", "together"]
    assert told["new"]["found_by"] == ["content", "content of new"]
    assert told["cup"]["content"]["cosine_best"] > told["axe"]["content"]["cosine_best"]


def test_a_visitor_gets_what_a_user_with_the_same_clicks_gets_and_nothing_is_stored(shop: Shop) -> None:
    shop.have("ann", ("tea", "view_item", 0), ("pot", "purchase", 1))
    viewed = ["tea", {"product_id": "pot", "event": "purchase", "age_s": DAY_S}]
    [made] = shop.lists.make([Asked(VisitorQuery.model_validate({"recently_viewed": viewed, "limit": 9}), None)])
    assert not isinstance(made, BadQuery)
    of_ann = shop.lists.of_user("ann", ListQuery(limit=9))
    assert [item | {"score": 0} for item in made["items"]] == [item | {"score": 0} for item in of_ann["items"]]
    assert "pot" not in ids(made), "she has bought it"
    assert "user_id" not in made
    assert shop.users.counts()["users"] == 1


def test_an_age_that_is_not_told_is_that_of_the_product_before() -> None:
    viewed = [{"product_id": "tea", "age_s": 5}, "pot", {"product_id": "cup", "age_s": 60}, "axe"]
    history = VisitorQuery.model_validate({"recently_viewed": viewed}).history(1_000.0)
    assert history.times.tolist() == [995.0, 995.0, 940.0, 940.0]
    for wrong in ([{"product_id": "tea", "age_s": -1}], [""], [{"product_id": "tea", "event": "glance"}]):
        with pytest.raises(ValidationError):
            VisitorQuery.model_validate({"recently_viewed": wrong})


def test_recently_viewed_is_each_product_once_and_for_sale(shop: Shop) -> None:
    clicks = [
        ("pot", "view_item", 1.0),
        ("tea", "add_to_cart", 2.0),
        ("pot", "view_item", 3.0),
        ("cup", "view_item", 4),
    ]
    shop.have("ann", *clicks, ("never", "view_item", 5))
    made = shop.lists.recently_viewed("ann", PageQuery())
    assert ids(made) == ["pot", "tea", "cup"]
    assert [item["event"] for item in made["items"]] == ["view_item", "add_to_cart", "view_item"]
    shop.shelf.put_offer(b"tea", offer(2, state="sold_out"), ())
    assert ids(shop.lists.recently_viewed("ann", PageQuery())) == ["pot", "cup"]
    assert ids(shop.lists.recently_viewed("ann", PageQuery(limit=1, brand="Lux"))) == ["cup"]
    assert ids(shop.lists.recently_viewed("nobody", PageQuery())) == []


def test_buy_again_begins_with_what_is_due_the_most(shop: Shop) -> None:
    bought = (("pot", 1), ("tea", 9), ("tea", 19), ("tea", 29), ("cup", 29), ("axe", 35))
    shop.have("ann", ("new", "view_item", 0), *((product_id, "purchase", days) for product_id, days in bought))
    items = shop.lists.buy_again("ann", PageQuery())["items"]
    assert [item["product_id"] for item in items] == ["tea", "cup", "axe"], "the pot was bought yesterday, and once"
    assert [item["score"] for item in items] == pytest.approx([0.9, 0.5 * 29 / 30, 0.5 * 30 / 35], abs=1e-4)
    assert items[0]["purchases"] == 3
    assert ids(shop.lists.buy_again("ann", PageQuery(brand="Nord"))) == ["axe"]
