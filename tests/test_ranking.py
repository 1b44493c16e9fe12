"""From click histories to lists, on a shelf small enough to work out by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from shelves import factors, offer, vectors, weights

from store.history import History
from store.records import Click
from streams.ranking import Ranker
from streams.shelf import Shelf


def shop(products: dict[str, tuple[list[float], list[float] | None, int]]) -> Shelf:
    """product -> (fused, factors or None, clicks); the later in the dict, the newer."""
    shelf = Shelf()
    for created_at, (product_id, (fused, item, clicks)) in enumerate(products.items()):
        key = product_id.encode()
        shelf.put_offer(key, offer(title=product_id.upper(), created_at=created_at), ())
        shelf.put_vectors(key, vectors(fused), ())
        if item is not None:
            shelf.put_factors(key, factors(item, clicks=clicks), ())
    shelf.put_weights(b"next-click", weights(2), ())
    return shelf


def history(*product_ids: str, event: str = "view_item") -> History:
    return History.of([Click(product_id, event, 1_000.0 - age) for age, product_id in enumerate(product_ids)])


def ranker(shelf: Shelf, length: int = 10) -> Ranker:
    return Ranker(shelf, length=length, seen_events={"purchase"})


def ids(ranker: Ranker, *clicked: str, event: str = "view_item") -> list[str]:
    return [item["product_id"] for item in ranker.rank([history(*clicked, event=event)])[0].items]


KNOWN = 1_000_000  # clicks at which content has no say
CLICKED = {
    "tea": ([1.0, 0.0], [1.0, 0.0], KNOWN),
    "cup": ([0.0, 1.0], [0.9, 0.1], KNOWN),
    "pot": ([0.0, 1.0], [0.5, 0.2], KNOWN),
    "axe": ([0.0, 1.0], [-1.0, 0.0], KNOWN),
}


def test_the_order_is_that_of_the_next_click_score() -> None:
    made = ranker(shop(CLICKED)).rank([history("tea")])[0]
    assert [item["product_id"] for item in made.items] == ["cup", "pot", "axe"]
    assert [item["rank"] for item in made.items] == [1, 2, 3]
    assert made.items[0]["source"] == "next-click"
    assert made.items[0]["reason"] == "because you viewed TEA"
    # z = W_0 * G * c(tea) with both weights 1
    np.testing.assert_allclose(made.embedding, [1.0, 0.0])


def test_a_product_that_nobody_clicked_comes_by_its_content() -> None:
    shelf = shop(CLICKED | {"green tea": ([0.96, 0.28], None, 0), "saw": ([-1.0, 0.0], None, 0)})
    made = ranker(shelf).rank([history("tea")])[0]
    found = {item["product_id"]: item for item in made.items}
    assert found["green tea"]["source"] == "content"
    assert found["green tea"]["reason"] == "like TEA"
    assert found["green tea"]["rank"] < found["saw"]["rank"]


def test_a_user_without_history_gets_what_is_clicked_most_then_what_is_newest() -> None:
    shelf = shop(
        {
            "old": ([1.0, 0.0], None, 0),
            "new": ([1.0, 0.0], None, 0),
            "loved": ([1.0, 0.0], [0.0, 0.0], 9),
            "liked": ([1.0, 0.0], [0.0, 0.0], 1),
        }
    )
    items = ranker(shelf).rank([History.of(())])[0].items
    assert [item["product_id"] for item in items] == ["loved", "liked", "new", "old"]
    assert {item["source"] for item in items} == {"popular"}
    assert items[0]["reason"] == "clicked 9 times"
    assert items[1]["reason"] == "clicked once"
    assert items[3]["reason"] == "new in the shop"


def test_a_short_list_is_filled_with_what_is_popular_and_scores_still_fall() -> None:
    shelf = shop(CLICKED)
    for number in range(40):  # with neither factors nor vectors, only some of them are candidates
        shelf.put_offer(b"far %d" % number, offer(), ())
    items = ranker(shelf, 50).rank([history("tea")])[0].items
    assert len(items) == 43
    sources = [item["source"] for item in items]
    assert sources == sorted(sources, key="popular".__eq__)  # those behind
    assert "popular" in sources
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)


def test_what_was_bought_is_not_shown_again_and_what_was_viewed_earlier_is() -> None:
    shelf = shop(CLICKED)
    assert "cup" in ids(ranker(shelf), "tea", "pot", "axe", "cup")
    assert "cup" not in ids(ranker(shelf), "tea", "pot", "axe", "cup", event="purchase")


def test_what_the_user_has_just_looked_at_is_not_in_her_list() -> None:
    assert ids(ranker(shop(CLICKED)), "tea", "pot", "cup") == ["axe"]


def test_what_sells_out_or_goes_is_in_no_list_made_after() -> None:
    shelf = shop(CLICKED | {"green tea": ([0.96, 0.28], None, 0)})
    lists = ranker(shelf)
    assert {"cup", "green tea"} <= set(ids(lists, "tea"))
    shelf.put_offer(b"cup", offer(2, state="sold_out"), ())
    shelf.put_offer(b"green tea", None, [("revision", b"2")])
    assert not {"cup", "green tea"} & set(ids(lists, "tea"))
    assert not {"cup", "green tea"} & {item["product_id"] for item in lists.rank([History.of(())])[0].items}


def test_clicks_on_products_that_nobody_knows_leave_the_popular_ones() -> None:
    items = ranker(shop(CLICKED)).rank([history("unheard of")])[0].items
    assert {item["source"] for item in items} == {"popular"}


def test_before_any_model_content_decides() -> None:
    shelf = Shelf()
    for product_id, fused in {"tea": [1.0, 0.0], "green tea": [0.96, 0.28], "axe": [0.0, 1.0]}.items():
        shelf.put_offer(product_id.encode(), offer(title=product_id), ())
        shelf.put_vectors(product_id.encode(), vectors(fused), ())
    made = ranker(shelf).rank([history("tea")])[0]
    assert [item["product_id"] for item in made.items] == ["green tea", "axe"]
    assert made.embedding is None


def test_an_empty_shelf_gives_an_empty_list() -> None:
    assert ranker(Shelf()).rank([history("tea"), History.of(())])[0].items == []


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["tea", "cup", "pot", "axe", "new", "?"]), max_size=6), min_size=1, max_size=70),
    st.integers(1, 8),
)
def test_a_list_does_not_depend_on_the_users_beside_it(clicked: list[list[str]], length: int) -> None:
    shelf = shop(CLICKED | {"new": ([0.6, 0.8], None, 0)})
    histories = [history(*products, event="purchase") for products in clicked]
    together = ranker(shelf, length).rank(histories)
    alone = [ranker(shelf, length).rank([one])[0] for one in histories]
    assert [made.items for made in together] == [made.items for made in alone]
    for made, products in zip(together, clicked, strict=True):
        shown = [item["product_id"] for item in made.items]
        assert not set(shown) & set(products)
        assert len(shown) == len(set(shown)) == min(length, len({"tea", "cup", "pot", "axe", "new"} - set(products)))
