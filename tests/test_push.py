"""A new product comes to those nearest to it without a click: who is chosen, what bounds it, and the role with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelves import blend, factors, offer, stage, vectors, weights
from test_retraction import Shop, ids

from streams.audience import Audience
from streams.lists import MadeList
from streams.push import FACTORS_WITHIN_S, WITHIN_S, Push
from streams.shelf import Shelf

NOW = 1_000.0


class Scene:
    """A shelf, an audience on it, and pushes; the time is told."""

    def __init__(self, *, users: int = 2, per_s: int = 100, every_s: float = 60.0) -> None:
        self.shelf = Shelf()
        self.audience = Audience(self.shelf, most=1_000, active_s=3_600.0, length=3)
        self.push = Push(self.shelf, self.audience, users=users, per_s=per_s, every_s=every_s)

    def product(self, product_id: str, fused: Sequence[float], target: Sequence[float] | None = None) -> None:
        self.shelf.put_offer(product_id.encode(), offer(), ())
        self.shelf.put_vectors(product_id.encode(), vectors(fused), ())
        if target is not None:
            self.shelf.put_factors(product_id.encode(), factors(target), ())

    def user(
        self, user_id: str, clicked: Sequence[str] = (), embedding: Sequence[float] | None = None, **more: Any
    ) -> None:
        listed = more.pop("listed", ())
        items = orjson.dumps([{"product_id": product_id} for product_id in listed])
        vector = None if embedding is None else np.array(embedding, np.float32)
        one = MadeList(
            user_id, 0, 1, more.pop("made_at", 1.0), more.pop("cause", "click"), items, listed, vector, clicked
        )
        self.audience.note([one], active_at=[NOW])

    def chosen(self, *, at: float = NOW, most: int = 1_000) -> dict[str, set[str]]:
        """Who gets a list now, for which products."""
        self.push.look(at)
        while self.push.choose(at):
            pass
        return self.push.next_users(most, at)


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.product("sea", [1.0, 0.0])
    scene.product("sun", [0.0, 1.0])
    scene.push.start()
    return scene


def test_the_nearest_by_content_are_those_who_clicked_what_is_most_like_it(scene: Scene) -> None:
    scene.user("ann", ["sea"])
    scene.user("bob", ["sun"])
    scene.user("eve", ["sea", "sun"])
    scene.user("new")
    scene.product("boat", [0.9, 0.1])
    assert scene.chosen() == {"ann": {"boat"}, "eve": {"boat"}}  # cosines .9 and .5; bob's is .1


def test_the_nearest_by_clicks_are_those_whose_embedding_points_to_its_factors(scene: Scene) -> None:
    scene.user("ann", embedding=[1.0, 0.0])
    scene.user("bob", embedding=[0.0, 1.0])
    scene.user("eve", embedding=[0.5, 0.5])
    scene.user("new")
    scene.product("boat", [1.0, 0.0], target=[2.0, 1.0])
    assert scene.chosen() == {"ann": {"boat"}, "eve": {"boat"}}  # 2 and 1.5; bob's is 1


def test_clicks_and_content_choose_in_turn(scene: Scene) -> None:
    scene.user("ann", ["sea"], embedding=[-1.0, 0.0])
    scene.user("bob", ["sun"], embedding=[1.0, 0.0])
    scene.user("eve", ["sea"], embedding=[-2.0, 0.0])
    scene.user("dan", ["sun"], embedding=[0.9, 0.0])
    scene.product("boat", [1.0, 0.0], target=[1.0, 0.0])
    assert scene.chosen().keys() == {"bob", "ann"}


def test_who_has_it_in_her_list_already_is_not_chosen(scene: Scene) -> None:
    scene.product("boat", [1.0, 0.0])
    scene.user("ann", ["sea"], listed=["boat"])
    scene.user("bob", ["sea"], listed=["sea"])
    assert scene.chosen().keys() == {"bob"}


def test_what_was_on_the_shelf_before_is_not_new_and_neither_is_another_picture_of_it(scene: Scene) -> None:
    scene.user("ann", ["sea"])
    scene.shelf.put_vectors(b"sea", vectors([0.8, 0.2], 2), ())
    assert scene.chosen() == {}


def test_a_product_is_pushed_when_its_offer_comes_after_its_vector(scene: Scene) -> None:
    scene.user("ann", ["sea"])
    scene.shelf.put_vectors(b"boat", vectors([1.0, 0.0]), ())
    assert scene.chosen() == {}
    scene.shelf.put_offer(b"boat", offer(), ())
    assert scene.chosen(at=NOW + 1) == {"ann": {"boat"}}


def test_where_there_is_a_model_a_product_waits_a_little_for_its_factors(scene: Scene) -> None:
    scene.shelf.put_weights(b"next-click", weights(2), ())
    scene.user("ann", ["sea"])
    scene.user("bob", ["sun"], embedding=[1.0, 0.0])
    scene.product("boat", [1.0, 0.0])
    scene.product("kite", [1.0, 0.0])
    assert scene.chosen() == {}
    scene.shelf.put_factors(b"boat", factors([1.0, 0.0]), ())
    assert scene.chosen(at=NOW + 0.5) == {"ann": {"boat"}, "bob": {"boat"}}
    assert scene.chosen(at=NOW + FACTORS_WITHIN_S + 0.1) == {"ann": {"kite"}}


def test_one_that_never_becomes_listable_in_time_is_left_out_and_counted(scene: Scene) -> None:
    scene.user("ann", ["sea"])
    scene.shelf.put_vectors(b"boat", vectors([1.0, 0.0]), ())
    assert scene.chosen() == {}
    scene.push.look(NOW + WITHIN_S + 0.1)
    scene.shelf.put_offer(b"boat", offer(), ())
    assert scene.chosen(at=NOW + WITHIN_S + 0.2) == {}
    assert scene.push.counts == {"push_skipped": 1, "push_late": 0}


def test_a_user_gets_one_push_in_a_while() -> None:
    scene = Scene(every_s=60.0)
    scene.product("sea", [1.0, 0.0])
    scene.push.start()
    scene.user("ann", ["sea"], made_at=NOW - 59.0, cause="push")
    scene.user("bob", ["sea"], made_at=NOW - 61.0, cause="push")
    scene.product("boat", [1.0, 0.0])
    assert scene.chosen().keys() == {"bob"}


def test_several_products_for_one_user_become_one_list(scene: Scene) -> None:
    scene.user("ann", ["sea"])
    for name in ("boat", "raft", "kayak"):
        scene.product(name, [1.0, 0.0])
    assert scene.chosen() == {"ann": {"boat", "raft", "kayak"}}


def test_of_an_import_of_thousands_the_newest_are_pushed_at_the_rate_and_the_rest_is_counted() -> None:
    scene = Scene(users=100, per_s=50)
    scene.product("sea", [1.0, 0.0])
    scene.push.start()
    for number in range(400):
        scene.user(f"user-{number}", ["sea"])
    for number in range(2_000):
        scene.product(f"boat-{number}", [1.0, 0.0])
    made: dict[str, float] = {}
    products: set[str] = set()
    for step in range(140):  # seven seconds
        at = NOW + step * 0.05
        for user_id, product_ids in scene.chosen(at=at, most=24).items():
            assert user_id not in made
            made[user_id] = at
            products |= product_ids
            scene.audience.pushed_at[scene.audience.slots[user_id]] = at
    assert all(at - NOW <= WITHIN_S + 0.05 for at in made.values())
    for begin in range(7):
        in_a_second = [at for at in made.values() if begin <= at - NOW < begin + 1]
        assert len(in_a_second) <= 50 * 1.1 + 1
    assert len(made) > 50 * (WITHIN_S - 1)
    assert "boat-1999" in products
    assert "boat-0" not in products
    assert scene.push.counts["push_skipped"] == 2_000 - len(products)


def test_lists_that_cannot_be_made_in_time_are_counted_and_not_made(scene: Scene) -> None:
    scene.user("ann", ["sea"])
    scene.product("boat", [1.0, 0.0])
    scene.push.look(NOW)
    assert scene.push.choose(NOW)
    assert scene.chosen(at=NOW + WITHIN_S + 0.1) == {}
    assert scene.push.counts == {"push_skipped": 0, "push_late": 1}


@given(
    clicked=st.lists(st.lists(st.sampled_from(["p0", "p1", "p2", "p3"]), max_size=3, unique=True), max_size=30),
    users=st.integers(1, 8),
    seed=st.integers(0, 1_000),
)
def test_nobody_who_is_not_chosen_is_nearer_by_content_than_one_who_is(
    clicked: list[list[str]], users: int, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    scene = Scene(users=users)
    directions = chance.normal(size=(5, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for number in range(4):
        scene.product(f"p{number}", directions[number].tolist())
    scene.push.start()
    for number, products in enumerate(clicked):
        scene.user(f"user-{number}", products)
    scene.product("new", directions[4].tolist())
    cosines = directions[:4] @ directions[4]
    near = {f"user-{n}": float(np.mean([cosines[int(p[1])] for p in some])) for n, some in enumerate(clicked) if some}
    near = {user_id: cosine for user_id, cosine in near.items() if cosine > 1e-6}
    chosen = scene.chosen().keys()
    assert len(chosen) == min(users, len(near))
    left_out = max((cosine for user_id, cosine in near.items() if user_id not in chosen), default=-1.0)
    assert all(near[user_id] >= left_out - 1e-6 for user_id in chosen)


# --- the role ---------------------------------------------------------------------------------------------------------


def shop_with_users(home: Path, **more: Any) -> Shop:
    """ann clicked the tea, bob the axe; what is on the shelf is not new, and clicks and content count alike."""
    shop = Shop(home, list_length=2, **more)
    shop.role._unasked._push.start()
    shop.shelf.put_weights(b"second-stage", stage(blend(spread={"next_click": 10.0})), ())
    shop.visit("ann", product_id="tea")
    shop.visit("bob", product_id="axe")
    return shop


def arrive(shop: Shop, product_id: str, fused: list[float], *, target: list[float] | None = None) -> None:
    with shop.shelf.lock:
        shop.shelf.put_offer(product_id.encode(), offer(), ())
        shop.shelf.put_vectors(product_id.encode(), vectors(fused), ())
        shop.shelf.put_factors(product_id.encode(), factors(target or [0.0, 0.0]), ())


def test_a_new_product_comes_to_whoever_it_suits_as_a_whole_list_without_a_click(tmp_path: Path) -> None:
    shop = shop_with_users(tmp_path, push_users=1)
    revision = shop.users.read(["bob"])["bob"].revision
    arrive(shop, "saw", [1.0, 3.1])
    (made,) = shop.all_asides()
    assert (made.user_id, made.cause, made.event_ids, made.withdrawn) == ("bob", "push", [], [])
    assert made.revision == revision == shop.users.read(["bob"])["bob"].revision
    assert "saw" in ids(made)
    assert shop.counts["pushed"] == 1


def test_a_list_that_the_new_product_is_not_in_is_no_news(tmp_path: Path) -> None:
    shop = shop_with_users(tmp_path, push_users=10)
    arrive(shop, "mud", [-50.0, 1.5], target=[-9.0, 0.0])
    assert shop.all_asides() == []
    assert shop.counts["pushed"] == 0
    assert shop.counts["push_in_vain"] == 2


def test_what_was_pushed_can_be_retracted(tmp_path: Path) -> None:
    shop = shop_with_users(tmp_path, push_users=1)
    arrive(shop, "saw", [1.0, 3.1])
    (pushed,) = shop.all_asides()
    shop.sell_out("saw")
    told = shop.all_asides()
    assert [made.withdrawn for made in told] == [["saw"], []]
    assert told[0].made_at > pushed.made_at


def test_without_users_to_push_to_nothing_is_pushed(tmp_path: Path) -> None:
    shop = shop_with_users(tmp_path, push_users=0)
    arrive(shop, "saw", [1.0, 3.1])
    assert shop.all_asides() == []
    assert shop.counts["push_skipped"] == 0
