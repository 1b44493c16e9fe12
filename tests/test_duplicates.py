"""What is listed twice: when pictures and titles are the same, how groups form, and where one of each is kept."""

import asyncio
import io
import json
from base64 import b64encode
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked_shop import AskedShop, ReplicasAtHand
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from shelves import factors, offer, vectors, weights

from encoders.exploration import Exploration
from encoders.exploration_step import Rule
from encoders.picture_hash import SIGNATURE_BYTES, is_same_picture, sign_picture
from encoders.ranking_features import JUST_LOOKED_AT
from store.history import History
from store.records import Click
from store.vectors import OfferPoint, VectorPoint
from streams.duplicates import ALONE, NO_PICTURE, Duplicates, Listing, best_of_each, kept_once
from streams.listed_twice import ListedTwice
from streams.ranking import Ranker, lists_ranker
from streams.settings import Settings
from streams.shelf import Shelf
from streams.titles import is_code, keys_of, same_title, words_of

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def photo(seed: int, size: tuple[int, int] = (240, 320)) -> Image.Image:
    """Some shapes on white, others for each seed."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = random.integers(0, size[0] * 3 // 4), random.integers(0, size[1] * 3 // 4)
        width, height = random.integers(20, 120, 2)
        colour = tuple(random.integers(0, 220, 3).tolist())
        draw.ellipse((int(x), int(y), int(x + width), int(y + height)), fill=colour)
    return image


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def saved_again(image: Image.Image, kind: str, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return Image.open(file)


SIGNATURES = [sign_picture(pixels(photo(seed))) for seed in range(6)]


# --- pictures ----------------------------------------------------------------------------------------------------


def test_the_thumbnail_holds_the_means_of_the_cells_worked_by_hand() -> None:
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:2, :3] = (10, 20, 30)  # just the first cell
    picture[2:4, :3, 0] = [[40, 40, 40], [80, 80, 80]]
    signature = sign_picture(picture)
    thumbnail = np.frombuffer(signature[8:], np.uint8).reshape(8, 8, 3)
    assert (len(signature), thumbnail[0, 0].tolist(), thumbnail[1, 0].tolist()) == (200, [10, 20, 30], [60, 0, 0])
    assert thumbnail[2:].max() == 0
    odd = np.full((10, 8, 3), 100, np.uint8)
    odd[1] = 200  # a quarter of it lies in the first row of cells, which is 1.25 pixels high
    column = np.frombuffer(sign_picture(odd)[8:], np.uint8).reshape(8, 8, 3)[:, 0, 0]
    assert column.tolist() == [120, 160, 100, 100, 100, 100, 100, 100]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.4, 1.0, 2.5]), st.sampled_from(["JPEG", "WEBP"]), st.integers(60, 95))
def test_a_photo_that_is_scaled_and_saved_again_is_the_same(seed: int, scale: float, kind: str, quality: int) -> None:
    image = photo(seed)
    again = saved_again(image.resize((int(240 * scale), int(320 * scale))), kind, quality)
    assert is_same_picture(sign_picture(pixels(image)), [sign_picture(pixels(again))]).all()


def test_other_photos_are_not_the_same_nor_is_another_colour_nor_another_small_thing_on_white() -> None:
    for one, other in combinations(SIGNATURES, 2):
        assert not is_same_picture(one, [other]).any()
    red, blue = np.full((40, 40, 3), 255, np.uint8), np.full((40, 40, 3), 255, np.uint8)
    red[10:30, 12:25], blue[10:30, 12:25] = (200, 60, 60), (60, 60, 200)
    assert not is_same_picture(sign_picture(red), [sign_picture(blue)]).any()
    ring, pin = np.full((80, 60, 3), 255, np.uint8), np.full((80, 60, 3), 255, np.uint8)
    ring[30:34, 20:26], pin[44:48, 34:40] = 190, 190
    assert not is_same_picture(sign_picture(ring), [sign_picture(pin)]).any()


def test_many_are_compared_at_once_as_one_by_one() -> None:
    many = is_same_picture(SIGNATURES[2], SIGNATURES).tolist()
    assert many == [is_same_picture(SIGNATURES[2], [other]).item() for other in SIGNATURES]
    assert many == [False, False, True, False, False, False]
    assert {len(signature) for signature in SIGNATURES} == {SIGNATURE_BYTES}


# --- titles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Red summer dress", "RED Summer-Dress", False),  # one word is another than two
        ("Red summer dress", "Dress, summer: RED", True),
        ("Men's T-shirt black", "Mens Tshirt, Black", True),
        ("Café crème", "cafe creme", True),
        ("Puma Men Black Running Shoes", "Puma Men Black Running Shoes new", True),
        ("Puma Men Black Shoes", "Puma Men Black", False),  # 3 of 4
        ("Colour pencils of wood", "Color pencils of wood", True),
        ("Glass bauble red", "Glass baubles red", True),
        ("iPhone 12", "iPhone 13", False),
        ("Apple iPhone 12 Pro case black", "Apple iPhone 13 Pro case black", False),
        ("Apple iPhone Pro case black slim", "Apple iPhone 13 Pro case black slim", False),
        ("Cotton shirt of linen size M", "Cotton shirt of linen size L", False),
        ("Cotton shirt of linen blue XL", "Cotton shirt of linen blue XXL", False),
        ("Screws 5 mm steel box", "Screws 5 cm steel box", False),
        ("Red summer dress of fine cotton", "Blue summer dress of fine cotton", False),
        ("Door hinge of steel right", "Door hinge of steel light", False),  # begins otherwise
        ("Ceiling lamp brass", "Ceiling lamp glass", False),
        ("红色连衣裙 of fine silk", "红色连衣裤 of fine silk", False),
        ("", "", False),
        ("!!!", "???", False),
    ],
)
def test_titles_are_the_same_in_spelling_and_order_but_not_in_what_tells_things_apart(
    one: str, other: str, same: bool
) -> None:
    assert same_title(words_of(one), words_of(other)) is same
    assert same_title(words_of(other), words_of(one)) is same


WORDS = ["summer", "summers", "dress", "black", "slack", "cotton", "cottons", "m", "12", "13", "xl", "new", "fine"]
TITLES = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)


@given(TITLES, TITLES)
def test_titles_that_are_the_same_share_a_key_and_any_title_is_itself(one: str, other: str) -> None:
    left, right = words_of(one), words_of(other)
    assert same_title(left, left) is bool(left)
    if same_title(left, right):
        assert set(keys_of(left)) & set(keys_of(right))
        assert {word for word in left if is_code(word)} == {word for word in right if is_code(word)}


# --- groups ------------------------------------------------------------------------------------------------------


def told(duplicates: Duplicates, row: int, title: str, picture: bytes | None, brand: str | None = None) -> None:
    if row >= len(duplicates.group):
        duplicates.grow(max(16, 2 * row))
    duplicates.put_offer(row, title, brand)
    duplicates.put_picture(row, picture)


def groups(duplicates: Duplicates) -> set[frozenset[int]]:
    """By the array; `others` says the same."""
    found: dict[int, set[int]] = {}
    for row, group in enumerate(duplicates.group.tolist()):
        if group != ALONE:
            found.setdefault(group, set()).add(row)
    for members in found.values():
        for row in members:
            assert sorted([*duplicates.others(row), row]) == sorted(members)
    assert all(len(members) > 1 for members in found.values())
    return {frozenset(members) for members in found.values()}


def test_the_same_photo_with_almost_the_same_title_is_one_thing() -> None:
    duplicates = Duplicates()
    told(duplicates, 0, "Red summer dress cotton", SIGNATURES[0])
    told(duplicates, 1, "red Summer dress, cotton", SIGNATURES[0], "Lux")
    told(duplicates, 2, "Red summer dress cotton", SIGNATURES[1])
    told(duplicates, 3, "Blue summer dress cotton", SIGNATURES[0])
    told(duplicates, 4, "Red summer dress cotton", NO_PICTURE)
    told(duplicates, 5, "Red summer dress cotton", None)
    told(duplicates, 6, "Red summer dress cotton", SIGNATURES[0], "Nord")
    assert groups(duplicates) == {frozenset({0, 1, 6})}, "0 has no brand, so it may be of either"
    duplicates.put_offer(0, None)
    assert groups(duplicates) == set(), "two brands"
    duplicates.put_offer(6, "Red summer dress cotton", "LUX ")
    assert groups(duplicates) == {frozenset({1, 6})}
    duplicates.put_picture(6, SIGNATURES[2])
    assert groups(duplicates) == set()


def test_without_a_picture_the_same_title_and_brand_is_one_thing_and_almost_the_same_is_not() -> None:
    duplicates = Duplicates()
    told(duplicates, 0, "Metal sign, cupcake", NO_PICTURE)
    told(duplicates, 1, "METAL SIGN CUPCAKE", NO_PICTURE)
    told(duplicates, 2, "Metal signs, cupcake", NO_PICTURE)
    told(duplicates, 3, "Metal sign, cupcake", NO_PICTURE, "Lux")
    told(duplicates, 4, "Metal sign, cupcake", NO_PICTURE, "lux")
    assert groups(duplicates) == {frozenset({0, 1}), frozenset({3, 4})}
    duplicates.clear(1)
    assert groups(duplicates) == {frozenset({3, 4})}


def test_what_links_two_groups_joins_them_and_leaves_them_apart_again() -> None:
    duplicates = Duplicates()
    long, longer, longest = "big red lamp of brass", "big red lamp of brass new", "big red lamp of brass new sale"
    told(duplicates, 0, long, SIGNATURES[0])
    told(duplicates, 1, long, SIGNATURES[0])
    told(duplicates, 2, longest, SIGNATURES[0])
    assert groups(duplicates) == {frozenset({0, 1})}
    told(duplicates, 3, longer, SIGNATURES[0])
    assert groups(duplicates) == {frozenset({0, 1, 2, 3})}
    duplicates.clear(3)
    assert groups(duplicates) == {frozenset({0, 1})}
    duplicates.clear(0)
    assert groups(duplicates) == set()


NAMES = [
    "big red lamp of brass",
    "Big red lamps of brass",
    "big red lamp of brass new",
    "big red lamp of brass new sale",
    "big blue lamp of brass",
    "lamp 12",
    "lamp 13",
]
PICTURES: list[bytes | None] = [SIGNATURES[0], SIGNATURES[1], NO_PICTURE, None]
BRANDS = ["Lux", "Nord", None]
PRODUCTS = st.tuples(st.sampled_from(NAMES), st.sampled_from(PICTURES), st.sampled_from(BRANDS))
STEPS = st.lists(st.tuples(st.integers(0, 9), st.none() | PRODUCTS), max_size=40)  # row, what it becomes


def by_definition(listings: dict[int, Listing]) -> set[frozenset[int]]:
    """Rows that are reached from each other over pairs that are the same; every pair is looked at."""
    component = {row: {row} for row in listings}
    for one, other in combinations(listings, 2):
        left, right = listings[one], listings[other]
        if left.picture and right.picture:
            near = (
                is_same_picture(left.picture, [right.picture]).item()
                and same_title(left.words, right.words)
                and len({left.brand, right.brand} - {""}) < 2
            )
        else:
            near = left == right
        if near and component[one] is not component[other]:
            joined = component[one] | component[other]
            component.update(dict.fromkeys(joined, joined))
    return {frozenset(members) for members in component.values() if len(members) > 1}


@settings(max_examples=200, deadline=None)
@given(STEPS, st.randoms())
def test_after_any_steps_the_groups_are_those_of_the_definition_whatever_the_order(steps: Any, random: Any) -> None:
    duplicates, last = Duplicates(), dict[int, Any]()
    duplicates.grow(10)
    for row, product in steps:
        if product is None:
            duplicates.clear(row)
            last.pop(row, None)
        else:
            told(duplicates, row, *product)
            last[row] = product
    listings = {
        row: Listing(words_of(title), (brand or "").casefold(), picture)
        for row, (title, picture, brand) in last.items()
        if picture is not None
    }
    expected = by_definition(listings)
    assert groups(duplicates) == expected
    anew, rows = Duplicates(), list(last)
    anew.grow(10)
    random.shuffle(rows)
    for row in rows:
        told(anew, row, *last[row])
    assert groups(anew) == expected
    for row in rows:
        anew.clear(row)
    assert not any((anew._rows, anew._near, anew._alike, anew._members, anew._listing)), "nothing is left behind"


def test_of_each_group_the_first_is_kept_and_none_of_what_is_listed() -> None:
    group = np.array([ALONE, 1, 1, 2, 2, ALONE, 2, 3])
    among = np.array([4, 2, 0, 3, 1, 5, 7], np.int32)
    assert kept_once(group, among).tolist() == [True, True, True, False, False, True, True]
    assert kept_once(group, among, np.array([6, 5], np.int32)).tolist() == [False, True, True, False, False, True, True]
    scores = np.array([0.1, 0.2, 9.0, 0.3, 0.2, 0.0, 0.0], np.float32)
    assert sorted(among[best_of_each(group, among, scores)].tolist()) == [0, 1, 3, 5, 7], "2 and 1 tie: the lower row"


# --- from the topics ---------------------------------------------------------------------------------------------


def stocked(products: Sequence[tuple[str, str, bytes | None, int]]) -> Shelf:
    """product id, title, picture, clicks."""
    shelf = Shelf()
    for at, (product_id, title, picture, clicks) in enumerate(products):
        key = product_id.encode()
        shelf.put_offer(key, offer(title=title, created_at=at), ())
        shelf.put_vectors(key, vectors([1.0, 0.01 * at], picture=picture), ())
        shelf.put_factors(key, factors([1.0, -0.01 * at], clicks=clicks), ())
    shelf.put_weights(b"next-click", weights(2), ())
    return shelf


def test_records_of_offers_and_vectors_make_groups_in_any_order_and_tombstones_end_them() -> None:
    records = [
        ("put_offer", b"a", offer(title="Red lamp")),
        ("put_offer", b"b", offer(title="red LAMP")),
        ("put_vectors", b"a", vectors([1.0], picture=SIGNATURES[0])),
        ("put_vectors", b"b", vectors([1.0], picture=SIGNATURES[0])),
        ("put_offer", b"c", offer(title="Red lamp")),
        ("put_vectors", b"c", vectors([1.0])),  # written before there were signatures
    ]
    for order in (records, records[::-1]):
        shelf = Shelf()
        for put, key, value in order:
            getattr(shelf, put)(key, value, ())
        twice = ListedTwice(shelf, keeps_one=True)
        assert twice.duplicates("a") == [{"product_id": "b", "title": "red LAMP", "listable": True}]
        assert twice.duplicates("c") == twice.duplicates("unknown") == []
        shelf.put_offer(b"b", offer(2, title="red LAMP", state="sold_out"), ())
        assert twice.duplicates("a")[0]["listable"] is False
        shelf.put_offer(b"b", None, (("revision", b"3"),))
        assert twice.duplicates("a") == []
        shelf.put_offer(b"b", offer(4, title="Red lamp"), ())
        assert [one["product_id"] for one in twice.duplicates("b")] == ["a"]
        shelf.put_vectors(b"a", None, ())
        assert twice.duplicates("b") == []


def test_a_signature_that_is_none_is_as_if_there_were_none() -> None:
    shelf = Shelf()
    for key in (b"a", b"b"):
        shelf.put_offer(key, offer(title="Red lamp"), ())
        shelf.put_vectors(key, vectors([1.0], picture=b"too short"), ())
    assert ListedTwice(shelf, keeps_one=True).duplicates("a") == []


# --- lists -------------------------------------------------------------------------------------------------------

TWINS = [("tea", "Green tea", NO_PICTURE, 9), ("tea2", "green TEA", NO_PICTURE, 8), ("cup", "Cup", NO_PICTURE, 7),
         ("cup2", "cup", NO_PICTURE, 6), ("pot", "Pot", NO_PICTURE, 5), ("pan", "Pan", NO_PICTURE, 4)]  # fmt: skip


def listed(ranker: Ranker, *clicked: str, event: str = "view_item") -> list[str]:
    clicks = [Click(product_id, event, 1_000.0 - age) for age, product_id in enumerate(clicked)]
    return [str(item["product_id"]) for item in ranker.rank([History.of(clicks)])[0].items]


TITLES_OF = {product_id: title.casefold() for product_id, title, _, _ in TWINS}


def once_each(ids: Sequence[str]) -> list[str]:
    """The first of each title."""
    first: dict[str, str] = {}
    for product_id in ids:
        first.setdefault(TITLES_OF[product_id], product_id)
    return list(first.values())


def test_a_list_holds_the_best_of_each_and_is_as_long_as_before() -> None:
    shelf = stocked(TWINS)
    for clicked in ((), ("pan",), ("cup", "pan", "pot", "cup")):
        every = listed(Ranker(shelf, length=6, seen_events=()), *clicked)
        assert len(once_each(every)) < len(every)
        once = listed(Ranker(shelf, length=3, seen_events=(), one_of_each=True), *clicked)
        wanted = [product_id for product_id in every if not (clicked and product_id.startswith(clicked[0]))]
        assert once == once_each(wanted)[:3]
    best = listed(Ranker(shelf, length=3, seen_events=(), one_of_each=True))[0]
    shelf.put_offer(best.encode(), offer(2, title=TITLES_OF[best], state="sold_out"), ())
    twin = listed(Ranker(shelf, length=3, seen_events=(), one_of_each=True))
    assert best not in twin
    assert len({*twin} & {"tea", "tea2"}) == 1


def test_what_she_bought_or_just_looked_at_comes_not_back_under_another_id() -> None:
    ranker = Ranker(stocked(TWINS), length=6, seen_events={"purchase"}, one_of_each=True)
    bought = listed(ranker, "pan", "pot", "pan", "tea2", event="purchase")
    assert len(bought) == 1
    assert bought[0].startswith("cup")
    assert not {"tea", "tea2"} & {*listed(ranker, "tea2")}, "just looked at"


def test_the_setting_decides() -> None:
    shelf = stocked(TWINS)
    every = listed(lists_ranker(shelf, Settings(duplicates="keep", list_length=6)), "pan")
    assert len(every) == 5
    assert listed(lists_ranker(shelf, Settings(list_length=6)), "pan") == once_each(every)
    with pytest.raises(ValueError, match="'keep' or 'one'"):
        Settings(duplicates="two")  # type: ignore[arg-type]


def test_a_new_product_that_is_tried_is_no_duplicate_of_what_is_listed() -> None:
    known = [(f"k{at}", f"Thing of kind {at}", NO_PICTURE, 1_000_000) for at in range(12)]
    new = [(f"n{at}", f"Thing of kind {at}", NO_PICTURE, 0) for at in (*range(12), 12, 12)]
    products = [*known, *((f"{product_id}-{at}", *rest) for at, (product_id, *rest) in enumerate(new))]
    shelf = stocked(products)  # type: ignore[arg-type]
    shelf.created_at[:] = 4e9
    kinds = {product_id: title for product_id, title, *_ in products}
    for one_of_each in (True, False):
        exploration = Exploration(Rule(share=1.0, per_list=3, per_user=255, nearest=1.0, top=1), seed=1)
        ranker = Ranker(
            shelf, length=5, seen_events=(), exploration=exploration, explore_s=1e10, one_of_each=one_of_each
        )
        tried, twice = set(), 0
        for user in range(40):
            made = ranker.rank([History.of([Click("k0", "view_item", 1.0)])], explore_for=[str(user)])[0]
            tried |= {item["product_id"] for item in made.items if item["source"] == "new"}
            names = [kinds[item["product_id"]] for item in made.items]
            twice += len(set(names)) < len(names)
        assert tried
        assert (twice == 0) is one_of_each


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=24),
    clicked=st.lists(st.integers(0, 23), max_size=4),
    length=st.integers(1, 12),
    diversity=st.sampled_from([0.0, 0.5]),
)
def test_no_list_holds_two_of_a_group_and_it_is_full_where_there_are_enough(
    kinds: list[tuple[int, int]], clicked: list[int], length: int, diversity: float
) -> None:
    products = [(f"p{at}", f"Thing {kind}", NO_PICTURE, clicks) for at, (kind, clicks) in enumerate(kinds)]
    shelf = stocked(products)
    ranker = Ranker(shelf, length=length, seen_events=(), diversity=diversity, one_of_each=True)
    rows = [f"p{at % len(kinds)}" for at in clicked]
    ids = listed(ranker, *rows)
    names = [kinds[int(product_id[1:])][0] for product_id in ids]
    assert len(set(names)) == len(names)
    looked_at = {kinds[int(product_id[1:])][0] for product_id in rows[:JUST_LOOKED_AT]}
    assert len(ids) == min(length, len({kind for kind, _ in kinds} - looked_at))


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    """Ten baubles of one kind, nearer to the ball than anything else, and things of their own."""
    shop = AskedShop(tmp_path, ReplicasAtHand())
    shop.fill()
    for at in range(10):
        add(shop, f"t{at}", "Bauble of glass", [1.0, 0.001 * at])
    for at, name in enumerate(("Pot", "Pan", "Jug")):
        add(shop, name, name, [1.0, 0.5 + 0.1 * at])
    yield shop
    shop.vectors.close()


def add(shop: AskedShop, product_id: str, title: str, place: list[float]) -> None:
    shop.vectors.put_offers([OfferPoint(product_id, 1, {"title": title, "state": "listable"})])
    shop.vectors.put_vectors([VectorPoint(product_id, 1, {"fused": np.array(place, np.float32)})])
    shop.shelf.put_offer(product_id.encode(), offer(title=title), ())
    shop.shelf.put_vectors(product_id.encode(), vectors(place, picture=NO_PICTURE), ())


def ask(shop: AskedShop, path: str, *, filled: bool = True) -> Any:
    async def get() -> Any:
        if filled:
            await shop.api.views.fill()
        async with shop.client() as client:
            return (await client.get(path)).json()

    return asyncio.run(get())


def test_similar_products_are_shown_once_each_on_a_full_page_and_duplicates_beside_them(shop: AskedShop) -> None:
    made = ask(shop, "/v1/products/t3/similar?limit=4")
    assert [item["product_id"] for item in made["items"]][1:] == ["b", "Pot", "Pan"]
    assert [twin["product_id"] for twin in made["duplicates"]] == [f"t{at}" for at in range(10) if at != 3]
    assert made["duplicates"][0] == {"product_id": "t0", "title": "Bauble of glass", "listable": True}
    made = ask(shop, "/v1/products/Pot/similar?limit=2")
    ids = [item["product_id"] for item in made["items"]]
    assert (len(ids), made["duplicates"]) == (2, [])
    every = ask(shop, "/v1/products/b/similar?limit=50")["items"]
    assert sum(item["product_id"].startswith("t") for item in every) == 1
    assert len(every) == 6, "ball, cup, pot, pan, jug, and one of the ten"


def test_before_the_offers_are_read_duplicates_are_not_known_and_with_keep_all_are_shown(shop: AskedShop) -> None:
    assert ask(shop, "/v1/products/t3/similar", filled=False)["duplicates"] is None
    shop.listed_twice._keeps_one = False
    made = ask(shop, "/v1/products/t3/similar?limit=9")
    assert sum(item["product_id"].startswith("t") for item in made["items"]) >= 8
    assert len(made["duplicates"]) == 9


def test_what_goes_with_a_product_is_shown_once_each(shop: AskedShop) -> None:
    from shelves import neighbours

    together = {"t1": 0.5, "t2": 0.4, "Pot": 0.3, "t3": 0.2, "Pan": 0.1}
    shop.shelf.put_neighbours(b"c", neighbours({}, together), ())
    made = ask(shop, "/v1/products/c/similar?by=together&limit=3")
    assert [item["product_id"] for item in made["items"]] == ["t1", "Pot", "Pan"]


def test_the_signature_survives_the_wire() -> None:
    record = json.loads(vectors([1.0], picture=SIGNATURES[0]))
    assert record["picture_signature"] == b64encode(SIGNATURES[0]).decode()
