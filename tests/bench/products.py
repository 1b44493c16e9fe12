"""Paths 1 and 2: how fast products are encoded, until when one is retrievable, until when one that sold out is gone."""

import asyncio
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
from brokers import LocalKafka

from encoders.product import ProductContent, ProductEncoder, product_content
from encoders.version import Version
from streams.picture_decoding import Picture, decode
from streams.settings import Settings
from streams.shop import draw_shop
from streams.up import GROUPS
from tests.bench.report import Figure
from tests.bench.shelf import encode_request, words_only
from tests.bench.shoppers import Shoppers, random_clicks
from tests.bench.stage import NotInTime, Sizes, Stage, Tell, hearing, stage

WARM_UP_PRODUCTS = 8
SHELF = 60  # products that are there already when others are encoded or sell out
CLICKS_PER_S = 50
WATCH_S = 4.0  # for lists that still hold what is sold out
ASK_AGAIN_S = 0.01


async def encode(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """Products per second through the encode role, from request to vectors on Kafka; beside it the encoder alone."""
    with TemporaryDirectory(prefix="freshet-bench-shop-") as folder:
        products = _drawn_shop(Path(folder), sizes.encoded + WARM_UP_PRODUCTS)
        first, rest = products[:WARM_UP_PRODUCTS], products[WARM_UP_PRODUCTS:]
        async with stage(kafka, pictures_root=Path(folder)) as on:
            encoded: set[str] = set()
            async with hearing(on.broker, on.names.product_vectors, lambda v, _: encoded.add(v["product_id"])):
                await on.start(["encode"])
                await on.publish(on.names.encode_requests, [encode_request(product) for product in first])
                await on.until(lambda: len(encoded) == len(first), "the first products are encoded")
                tell(f"{len(rest)} products go through the encode role")
                began = time.monotonic()
                await on.publish(on.names.encode_requests, [encode_request(product) for product in rest])
                await on.until(lambda: len(encoded) == len(products), "all products are encoded")
                through_role = len(rest) / (time.monotonic() - began)
        tell(f"{len(rest)} products go through the encoder alone")
        alone = await asyncio.to_thread(_encode_directly, Path(folder), first, rest, on.settings)
    what = "drawn products with picture and words per second through the encode role"
    return [
        Figure(what, through_role, "", alone, "ProductEncoder.encode, pictures decoded before"),
        Figure("the same as a share of it", through_role / alone),
    ]


async def retrievable(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """From the confirmation of one product, while nothing else happens, to an answer of what is like it."""
    with TemporaryDirectory(prefix="freshet-bench-shop-") as folder:
        products = _drawn_shop(Path(folder), sizes.published + WARM_UP_PRODUCTS)
        async with stage(kafka, pictures_root=Path(folder)) as on:
            await on.start(*GROUPS)
            await on.publish(on.names.catalog_updates, products[:WARM_UP_PRODUCTS])
            await on.until_retrievable(WARM_UP_PRODUCTS, tell)
            took_s: list[float] = []
            for product in products[WARM_UP_PRODUCTS:]:
                tell(f"product {len(took_s) + 1} of {sizes.published}")
                await on.publish(on.names.catalog_updates, [product])
                confirmed = time.monotonic()
                while not await _is_retrievable(on, product["product_id"]):
                    await asyncio.sleep(ASK_AGAIN_S)
                took_s.append(time.monotonic() - confirmed)
    what = f"product event to retrievable, unloaded, {sizes.published} products with picture"
    return [
        Figure(f"{what}, p50", float(np.percentile(took_s, 50)), "s"),
        Figure(f"{what}, p99", float(np.percentile(took_s, 99)), "s", at_most=2.0),
    ]


async def sold_out(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """From the confirmed patch to the last list that still holds the product, heard at the topic."""
    async with stage(kafka) as on:
        await on.start(*GROUPS)
        shelf = list(words_only(SHELF, "shelf"))
        await on.publish(on.names.catalog_updates, shelf)
        await on.until_retrievable(SHELF, tell)
        shop = Shoppers(on, on.names.user_clicks)
        async with shop.answered_on(on.names.recommendations):
            drawn = random_clicks([product["product_id"] for product in shelf], users=200)
            clicking = asyncio.create_task(shop.send(drawn, per_s=CLICKS_PER_S))
            await shop.until_answered(4 * CLICKS_PER_S)
            gone: set[str] = set()
            idle_s = [await _sell_out(on, shop, gone, tell) for _ in range(sizes.rounds)]
            await on.publish(on.names.catalog_updates, list(words_only(sizes.newcomers, "newcomer")))
            busy_s, waiting = [], []
            for _ in range(sizes.rounds):
                busy_s.append(await _sell_out(on, shop, gone, tell))
                waiting.append(SHELF + sizes.newcomers - await on.retrievable())
            clicking.cancel()
            await asyncio.wait({clicking})
    what = f"sold out to the last list with it, worst of {sizes.rounds}"
    more = f"while {sizes.newcomers:,} new products are encoded ({min(waiting):,} still wait after the last)"
    return [Figure(f"{what}, {more}", max(busy_s), "s", max(idle_s), "with nothing to encode", at_most=1.0)]


async def _sell_out(on: Stage, shop: Shoppers, gone: set[str], tell: Tell) -> float:
    """The product in most lists sells out: seconds until the last list that holds it was heard, 0 if none was."""
    counts: dict[str, int] = {}
    for product_id in chain.from_iterable(_ids(made) for made in shop.newest.values()):
        counts[product_id] = counts.get(product_id, 0) + 1
    product_id = max(counts.keys() - gone, key=counts.__getitem__)
    gone.add(product_id)
    tell(f"{product_id} sells out, {len(gone)} until now")
    patch = {"op": "patch", "product_id": product_id, "availability": "out_of_stock"}
    await on.publish(on.names.catalog_updates, [patch])
    confirmed = time.time()
    lists, last_s = shop.lists, 0.0
    while time.time() - confirmed < WATCH_S:
        heard = [at for user, at in shop.newest_at.items() if product_id in _ids(shop.newest[user])]
        last_s = max(last_s, *(at - confirmed for at in heard), 0.0)
        await asyncio.sleep(ASK_AGAIN_S)
    if shop.lists == lists:
        raise NotInTime(f"no list was made for {WATCH_S:.0f} s after {product_id} sold out: {on.last_words()}")
    return last_s


def _ids(made: dict[str, Any]) -> set[str]:
    return {item["product_id"] for item in made["items"]}


async def _is_retrievable(on: Stage, product_id: str) -> bool:
    answer = await on.http.get(f"/v1/products/{product_id}/similar", params={"limit": 1})
    return answer.status_code == 200 and bool(answer.json()["items"])


def _drawn_shop(folder: Path, products: int) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in draw_shop(folder, products).read_bytes().splitlines()]


def drawn_contents(folder: Path, products: int) -> list[ProductContent]:
    """Of so many drawn products, their pictures decoded; the folder holds the shop."""
    return [_content(folder, product) for product in _drawn_shop(folder, products)]


def _encode_directly(
    folder: Path, first: Sequence[dict[str, Any]], rest: Sequence[dict[str, Any]], settings: Settings
) -> float:
    """Products per second of the encoder that the role uses, with its threads and batches, in this process."""
    version = Version(settings.image_encoder, settings.text_encoder)
    encoder = ProductEncoder(version, settings.device, threads=settings.encode_threads)
    encoder.encode([_content(folder, product) for product in first])
    contents = [_content(folder, product) for product in rest]
    began = time.monotonic()
    for begin in range(0, len(contents), settings.encode_batch):
        encoder.encode(contents[begin : begin + settings.encode_batch])
    return len(contents) / (time.monotonic() - began)


def _content(folder: Path, product: dict[str, Any]) -> ProductContent:
    picture = decode((folder / product["image_links"][0]).read_bytes(), 40_000_000)
    assert isinstance(picture, Picture), picture
    names = ("title", "brand", "category", "attributes", "description")
    return product_content(**{name: product[name] for name in names}, pictures=[picture.array])
