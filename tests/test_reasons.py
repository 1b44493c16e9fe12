"""Lists with what the learner has told: the click behind each product in words, new products, diversity."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shelves import blend, factors, neighbours, offer, stage, vectors, weights

from encoders.exploration import Exploration
from encoders.exploration_step import Rule
from encoders.next_click import Floats, Rows
from store.history import History
from store.records import Click
from streams.ranking import Ranker
from streams.shelf import Shelf

NOW = 10_000.0
KNOWN = 1_000  # clicks at which content has next to no say
SPOKEN_FOR = {"after_all": 0.5, "together_all": 0.4, "cosine_mean": 2.0, "next_click": 0.5, "lift_last": 0.1}


def shelf_of(products: dict[str, tuple[Sequence[float], Sequence[float], int]], created_at: float = 1.0) -> Shelf:
    """product -> (fused, factors, clicks); its title is its id in capitals."""
    shelf = Shelf()
    for product_id, (fused, item, clicks) in products.items():
        key = product_id.encode()
        shelf.put_offer(key, offer(title=product_id.upper(), created_at=created_at), ())
        shelf.put_vectors(key, vectors(fused), ())
        shelf.put_factors(key, factors(item, clicks=clicks), ())
    shelf.put_weights(b"next-click", weights(2), ())
    return shelf


def history(*product_ids: str, event: str = "view_item") -> History:
    return History.of([Click(product_id, event, NOW - age) for age, product_id in enumerate(product_ids)])


def items(shelf: Shelf, clicked: History, **more: Any) -> dict[str, dict[str, Any]]:
    """The items of a list that has room for everything, by product."""
    ranker = Ranker(shelf, length=50, seen_events=(), **more)
    return {item["product_id"]: item for item in ranker.rank([clicked], at=NOW)[0].items}


# --- reasons -------------------------------------------------------------------------------------------------------


def pairs() -> Shelf:
    """Tea and axe are opposites in clicks and in content."""
    return shelf_of(
        {
            "tea": ([1.0, 0.0], [1.0, 0.0], KNOWN),
            "axe": ([0.0, 1.0], [0.0, 1.0], KNOWN),
            "cup": ([1.0, 0.1], [1.0, 0.0], KNOWN),
            "saw": ([0.1, 1.0], [0.0, 1.0], KNOWN),
            "mug": ([1.0, 0.0], [0.0, 0.0], 0),
            "mud": ([0.5, 0.5], [-1.0, -1.0], KNOWN),
        }
    )


def test_a_reason_tells_of_others_who_are_like_her() -> None:
    shelf = pairs()
    ranker = Ranker(shelf, length=50, seen_events=())
    asked: list[tuple[str, list[float]]] = []

    def like_minded(user_id: str, embedding: Floats, rows: Rows) -> list[int]:
        asked.append((user_id, embedding.tolist()))
        return [{"cup": 1, "saw": 2}.get(str(shelf.product_ids[row]), 0) for row in rows.tolist()]

    ranker.like_minded = like_minded
    made = ranker.rank([history("tea"), history()], at=NOW, explore_for=["ann", "eve"])[0]
    reasons = {item["product_id"]: item["reason"] for item in made.items}
    assert reasons["cup"] == "because you viewed TEA; a like-minded shopper clicked it lately"
    assert reasons["saw"].endswith("; 2 like-minded shoppers clicked it lately")
    assert reasons["mug"] == "like TEA"
    assert made.embedding is not None
    assert asked == [("ann", made.embedding.tolist())]  # of eve nothing is known


@pytest.mark.parametrize(
    ("event", "deed"),
    [
        ("view_item", "viewed"),
        ("select_item", "viewed"),
        ("add_to_cart", "put in the cart"),
        ("purchase", "bought"),
    ],
)
def test_each_product_rests_on_the_click_that_it_has_to_do_with(event: str, deed: str) -> None:
    found = items(pairs(), history("tea", "axe", event=event))
    assert found["cup"]["reason"] == f"because you {deed} TEA"
    assert found["saw"]["reason"] == f"because you {deed} AXE"
    assert (found["mug"]["reason"], found["mug"]["source"]) == ("like TEA", "content")
    assert (found["cup"]["source"], found["saw"]["source"]) == ("next-click", "next-click")


def test_the_deed_is_the_newest_one_with_that_product() -> None:
    clicks = [Click("axe", "view_item", NOW), Click("tea", "add_to_cart", NOW - 1), Click("tea", "view_item", NOW - 2)]
    assert items(pairs(), History.of(clicks))["cup"]["reason"] == "because you put in the cart TEA"


def test_what_goes_together_or_comes_next_is_said_so_and_which_of_them_more_often() -> None:
    shelf = pairs()
    shelf.put_neighbours(b"tea", neighbours(after={"cup": 0.3}, together={"cup": 0.2}), ())
    shelf.put_neighbours(b"axe", neighbours(after={"saw": 0.1}, together={"saw": 0.2}), ())
    found = items(shelf, history("tea", "axe"))
    assert found["cup"]["reason"] == "often next after TEA"
    assert found["saw"]["reason"] == "often together with AXE"
    shelf.put_neighbours(b"tea", neighbours(after={"cup": 0.009}, sequence=2), ())  # too seldom to be told
    assert items(shelf, history("tea", "axe"))["cup"]["reason"] == "because you viewed TEA"


def test_what_rests_on_no_click_does_not_claim_one() -> None:
    shelf = pairs()
    shelf.put_offer(b"new", offer(title="NEW"), ())  # neither content nor factors
    found = items(shelf, history("tea", "axe"))
    assert (found["mud"]["source"], found["mud"]["reason"]) == ("next-click", "often clicked now")
    assert (found["new"]["source"], found["new"]["reason"]) == ("content", "new in the shop")


def test_what_was_looked_at_a_while_ago_rests_on_that_and_is_not_called_like_itself() -> None:
    found = items(pairs(), history("axe", "saw", "mud", "mug"))
    assert (found["mug"]["source"], found["mug"]["reason"]) == ("content", "because you viewed MUG")


def _told(reason: str) -> str | None:
    """The product that a reason names."""
    word = reason.split()[-1]
    return word.lower() if word.isupper() else None


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    clicked=st.lists(st.integers(0, 13), min_size=2, max_size=4).filter(lambda rows: len(set(rows)) > 1),
)
def test_a_reason_names_a_product_only_if_without_it_the_listed_one_would_stand_lowest(
    seed: int, clicked: list[int]
) -> None:
    """The lists are made again from histories without each clicked product, at the same moment.

    The re-ranker here weighs all lengths of a history alike; one of two clicked products is left at least.
    """
    chance = np.random.default_rng(seed)
    names = [f"p{number}x" for number in range(14)]
    shelf = shelf_of(
        {
            name: (chance.normal(size=4).tolist(), chance.normal(size=2).tolist(), int(chance.integers(0, 12)))
            for name in names
        }
    )
    for name in names:
        tables = [
            dict(zip(chance.permutation(names)[:5].tolist(), chance.dirichlet(np.ones(5)).tolist(), strict=True))
            for _ in range(2)
        ]
        shelf.put_neighbours(name.encode(), neighbours(*tables), ())
    shelf.put_weights(b"second-stage", stage(blend(linear=SPOKEN_FOR)), ())
    whole = [names[row] for row in clicked]
    ages = dict(enumerate(whole))
    found = items(shelf, history(*whole))

    def without(left_out: str) -> dict[str, float]:
        kept = [Click(name, "view_item", NOW - age) for age, name in ages.items() if name != left_out]
        made = items(shelf, History.of(kept))
        return {product_id: item["score"] for product_id, item in made.items()}

    scores = {name: without(name) for name in set(whole)}
    for product_id, item in found.items():
        if product_id in whole:  # what was just looked at is in only some of the lists
            continue
        others = {name: made[product_id] for name, made in scores.items()}
        told = _told(item["reason"])
        if told is not None:
            assert others[told] < item["score"] + 1e-4
            assert others[told] <= min(others.values()) + 1e-4
        else:
            assert all(score >= item["score"] - 1e-4 for score in others.values())
    assert any(_told(item["reason"]) for item in found.values())


# --- new products --------------------------------------------------------------------------------------------------


class Watched(Exploration):
    """Keeps what it chose."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self.chosen: list[tuple[list[int], list[int]]] = []
        self.counted = 0

    def choose(self, *arguments: Any) -> Any:
        places, rows = super().choose(*arguments)
        self.chosen.append((places.tolist(), rows.tolist()))
        return places, rows

    def count(self, rows: Any, clicks: Any) -> None:
        self.counted += 1
        super().count(rows, clicks)


def shop_with_new_products(created_at: float) -> Shelf:
    """20 known products and 6 new ones, which the ranking puts last."""
    chance = np.random.default_rng(0)
    shelf = shelf_of({f"old-{n}": (chance.normal(size=3).tolist(), [1.0 + n, 0.0], KNOWN) for n in range(20)})
    for number in range(6):
        key = b"new-%d" % number
        shelf.put_offer(key, offer(title=f"NEW {number}", created_at=created_at), ())
        shelf.put_vectors(key, vectors(chance.normal(size=3).tolist()), ())
        shelf.put_factors(key, factors(chance.normal(size=2).tolist()), ())
    return shelf


USERS = [f"user-{number}" for number in range(70)]


def histories_of_users() -> list[History]:
    chance = np.random.default_rng(1)
    return [history(*(f"old-{n}" for n in chance.integers(0, 20, 3))) for _ in USERS]


def test_new_products_stand_where_the_exploration_says_and_nobody_elses_do() -> None:
    shelf = shop_with_new_products(time.time())
    exploration = Watched(Rule(share=0.2, impressions=50, nearest=1.0, per_list=2, top=4))
    ranker = Ranker(shelf, length=10, seen_events=(), exploration=exploration, explore_s=60.0)
    lists = ranker.rank(histories_of_users(), explore_for=USERS)
    assert len(exploration.chosen) == exploration.counted == len(USERS)
    explored = 0
    for (places, rows), made in zip(exploration.chosen, lists, strict=True):
        assert [item["rank"] for item in made.items] == list(range(1, 11))
        assert len({item["product_id"] for item in made.items}) == 10
        tried = {place: shelf.product_ids[row] for place, row in zip(places, rows, strict=True)}
        for place, item in enumerate(made.items):
            assert (item["source"] == "new") == (place in tried)
            if place in tried:
                assert place >= 4
                assert (item["product_id"], item["reason"]) == (tried[place], "new in the shop")
        explored += len(tried)
    assert ranker.explored == explored > 20


def test_lists_that_are_asked_for_explore_nothing_and_count_for_nothing() -> None:
    shelf = shop_with_new_products(time.time())
    exploration = Watched(Rule(share=0.2, nearest=1.0))
    ranker = Ranker(shelf, length=10, seen_events=(), exploration=exploration, explore_s=60.0)
    asked = ranker.rank(histories_of_users(), at=NOW)
    assert exploration.chosen == []
    assert exploration.counted == ranker.explored == 0
    plain = Ranker(shelf, length=10, seen_events=()).rank(histories_of_users(), at=NOW)
    assert [made.items for made in asked] == [made.items for made in plain]


def test_products_that_have_been_in_the_shop_for_long_are_not_explored() -> None:
    shelf = shop_with_new_products(time.time() - 61.0)
    exploration = Watched(Rule(share=0.2, nearest=1.0))
    ranker = Ranker(shelf, length=10, seen_events=(), exploration=exploration, explore_s=60.0)
    made = ranker.rank(histories_of_users(), explore_for=USERS)
    assert ranker.explored == 0
    assert "new" not in {item["source"] for one in made for item in one.items}


# --- diversity -----------------------------------------------------------------------------------------------------


def _mean_cosine(contents: Floats) -> float:
    count = len(contents)
    return float((contents @ contents.T)[~np.eye(count, dtype=np.bool_)].mean())


def test_the_more_diversity_the_less_alike_the_products_of_a_list() -> None:
    chance = np.random.default_rng(4)
    shelf = shelf_of(
        {f"p{n}": (chance.normal(size=6).tolist(), chance.normal(size=2).tolist(), n % 9) for n in range(80)}
    )
    histories = [history(*(f"p{n}" for n in chance.integers(0, 80, 4))) for _ in range(10)]
    alike, best = [], []
    for diversity in (0.0, 0.4, 0.8):
        made = Ranker(shelf, length=10, seen_events=(), diversity=diversity).rank(histories)
        content = shelf.stage.knowledge(shelf.clicks).content
        listed = [[shelf.rows[item["product_id"]] for item in one.items] for one in made]
        alike.append(float(np.mean([_mean_cosine(content[rows]) for rows in listed])))
        best.append([rows[0] for rows in listed])
    assert alike[0] - 0.05 > alike[1] > alike[2] + 0.05
    assert best[0] == best[1] == best[2]
