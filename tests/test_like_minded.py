"""Shoppers like the user who clicked a product lately: counted only where it is true."""

import numpy as np
import pytest
from shelves import offer

from encoders.next_click import Rows
from streams.audience import Audience
from streams.like_minded import CLICKERS, LikeMinded
from streams.lists import MadeList
from streams.shelf import Shelf

TASTE, LIKE_IT, OTHER = np.array([1, 0], np.float32), np.array([3, 1], np.float32), np.array([1, 1], np.float32)


class Crowd:
    """A shelf of some products, and users with an embedding and what they clicked last."""

    def __init__(self, *product_ids: str) -> None:
        self.shelf = Shelf()
        for product_id in product_ids:
            self.shelf.put_offer(product_id.encode(), offer(), ())
        self.audience = Audience(self.shelf, most=100, active_s=3_600.0, length=3)
        self.like_minded = LikeMinded(self.shelf, self.audience)

    def clicks(self, user_id: str, embedding: np.ndarray | None, *product_ids: str) -> None:
        made = MadeList(user_id, 0, 1, 100.0, "click", b"[]", (), embedding, product_ids)
        self.audience.note([made], active_at=[100.0])
        self.like_minded.note([made])

    def rows(self, *product_ids: str) -> Rows:
        return np.array([self.shelf.rows[product_id] for product_id in product_ids], np.int32)

    def count(self, *product_ids: str, user_id: str = "ann") -> list[int]:
        return self.like_minded.count(user_id, TASTE, self.rows(*product_ids))


def test_others_with_tastes_like_hers_are_counted_for_what_they_clicked_last() -> None:
    crowd = Crowd("tea", "cup", "pot")
    crowd.clicks("ann", TASTE, "tea")
    crowd.clicks("bob", LIKE_IT, "tea", "cup")  # cosine .95
    crowd.clicks("eve", OTHER, "tea", "pot")  # cosine .71
    crowd.clicks("new", None, "tea")
    assert crowd.count("tea", "cup", "pot") == [1, 1, 0]
    assert crowd.count("tea", user_id="bob") == [1]
    assert crowd.count() == [0] * 0
    crowd.clicks("eve", LIKE_IT, "tea")
    assert crowd.count("tea", "pot") == [2, 0]  # the pot is none of her last clicks any more


def test_who_left_or_was_forgotten_is_not_counted_nor_is_who_has_her_place_now() -> None:
    crowd = Crowd("tea", "cup")
    crowd.clicks("bob", TASTE, "tea")
    assert crowd.count("tea") == [1]
    crowd.audience.drop(["bob"])
    assert crowd.count("tea") == [0]
    crowd.clicks("eve", TASTE, "cup")
    assert crowd.audience.slots["eve"] == 0
    assert crowd.count("tea", "cup") == [0, 1]


def test_a_product_that_has_the_row_of_another_has_none_of_its_clickers(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd("tea")
    crowd.clicks("bob", TASTE, "tea")
    monkeypatch.setitem(crowd.shelf.rows, "axe", crowd.shelf.rows["tea"])
    crowd.shelf.births[crowd.shelf.rows["tea"]] += 1
    assert crowd.count("axe") == [0]
    crowd.clicks("eve", TASTE, "axe")
    assert crowd.count("axe") == [1]


def test_of_a_product_the_last_clickers_are_kept_each_once() -> None:
    crowd = Crowd("tea")
    for number in range(CLICKERS + 3):
        crowd.clicks(f"user-{number}", TASTE, "tea")
        crowd.clicks(f"user-{number}", TASTE, "tea")
    assert crowd.count("tea") == [CLICKERS]


def test_products_that_came_since_and_embeddings_of_another_model_are_nobodys() -> None:
    crowd = Crowd("tea")
    crowd.clicks("bob", TASTE, "tea")
    for number in range(2_000):
        crowd.shelf.put_offer(f"p{number}".encode(), offer(), ())
    assert crowd.count("tea", "p1999") == [1, 0]
    assert crowd.like_minded.count("ann", np.ones(3, np.float32), crowd.rows("tea")) == [0]
    assert crowd.like_minded.count("ann", np.zeros(2, np.float32), crowd.rows("tea")) == [0]
