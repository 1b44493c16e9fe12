"""Pairs of products that were clicked one after the other."""

import json
from pathlib import Path

import numpy as np
import pytest

from streams.terminal import Failure
from streams.training.clicked import earlier_and_later, next_found, read_pairs


def line(user: str, product: str, second: int) -> str:
    at = f"2026-01-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
    click = {
        "event_id": f"{user}{second}",
        "user_id": user,
        "product_id": product,
        "event": "view_item",
        "occurred_at": at,
    }
    return json.dumps(click)


def test_a_pair_is_of_one_user_two_products_and_half_an_hour(tmp_path: Path) -> None:
    path = tmp_path / "clicks.jsonl"
    clicks = [
        ("u", "a", 0), ("v", "c", 10), ("u", "b", 20), ("u", "b", 30), ("u", "x", 40), ("u", "c", 50),
        ("u", "a", 50 + 1800), ("u", "b", 50 + 3601), ("v", "a", 60),
    ]  # fmt: skip
    path.write_text("\n".join(line(*click) for click in clicks) + "\n")
    pairs = read_pairs(path, ["a", "b", "c"])
    # u: a b (again b: no pair) c, a after exactly half an hour; b comes a second too late. x is of another shop.
    assert pairs.tolist() == [[0, 1], [1, 2], [2, 0], [2, 0]]
    earlier, later = earlier_and_later(pairs, 0.25)
    assert (len(earlier), later.tolist()) == (3, [[2, 0]])
    with pytest.raises(Failure, match="has no click on a product of this folder"):
        read_pairs(path, ["q"])
    path.write_text("no click\n")
    with pytest.raises(Failure, match="line 1"):
        read_pairs(path, ["a"])


def test_the_next_is_found_among_the_nearest_without_the_product_itself() -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
    pairs = np.array([[0, 1], [0, 3], [2, 1]])
    assert next_found(vectors, pairs, 1) == pytest.approx(1 / 3)
    assert next_found(vectors, pairs, 2) == 1
    assert np.isnan(next_found(vectors, pairs[:0], 1))
