"""Search over HTTP: by words and by a picture, with all of the api's parts up; beside it an empty FastAPI route."""

import asyncio
import base64
import contextlib
import io
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import orjson
from brokers import LocalKafka
from PIL import Image

from encoders.weights import widths_of
from streams.broker import Outgoing
from streams.events import Offer, ProductVectors, pack_vector
from streams.lexical import Document, LexicalIndex
from streams.ports import free_port
from streams.up import GROUPS
from tests.bench.http_load import get, latencies_s, post, quantiles_ms
from tests.bench.report import Figure
from tests.bench.shelf import CHUNK, COLOURS, KINDS, MATERIALS, words_only
from tests.bench.stage import Sizes, Stage, Tell, stage

BARS_MS = {"words": 100.0, "picture": 300.0}
REQUESTS = {"empty": 4_000, "words": 1_500, "picture": 150}  # fewer with --quick
WARM_UP = 20
PICTURE_SIZE = (480, 640)
INDEX_BAR_MB = 100.0


async def search(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """Latencies of 8 connections that ask without a pause, no two the same; then the index of words alone."""
    figures = []
    share = min(1.0, sizes.seconds / 20)
    async with stage(kafka) as on:
        await publish_products(on, sizes.products, tell)
        await on.start(*GROUPS)
        await on.until_retrievable(sizes.products, tell)
        await _until_whole(on)
        asked = {"words": _by_words, "lexical": _by_lexical, "picture": _by_picture}
        async with empty_route() as port:
            requests = [get("/")] * int(REQUESTS["empty"] * share)
            await latencies_s(port, requests[:WARM_UP])
            tell("an empty route")
            base = quantiles_ms(await latencies_s(port, requests), 0.5, 0.9)
        for name, make in asked.items():
            count = max(WARM_UP, int(REQUESTS.get(name, REQUESTS["words"]) * share))
            requests = [make(number) for number in range(count + WARM_UP)]
            tell(f"search by {name}")
            await latencies_s(on.settings.api_port, requests[:WARM_UP])
            began, spent_s = time.monotonic(), _cpu_s(on)
            taken = await latencies_s(on.settings.api_port, requests[WARM_UP:], check=_is_whole)
            per_s = count / (time.monotonic() - began)
            cpu_ms = (_cpu_s(on) - spent_s) / count * 1_000
            kind = "words, lexical alone" if name == "lexical" else name
            for at, value, beside in zip(("p50", "p90"), quantiles_ms(taken, 0.5, 0.9), base, strict=True):
                what = f"search by {kind}, 8 connections ({per_s:,.0f}/s), {sizes.products:,} products, {at}"
                bar = BARS_MS.get(name) if at == "p90" else None
                figures.append(Figure(what, value, "ms", beside, "empty route", at_most=bar))
            figures.append(Figure(f"search by {kind}, CPU of the api's process", cpu_ms, "ms"))
    return figures + await asyncio.to_thread(_index_alone, sizes.many_products)


async def publish_products(on: Stage, products: int, tell: Tell) -> None:
    """Offers with words and random vectors, as catalog and encode would publish them."""
    chance = np.random.default_rng(0)
    widths = widths_of(on.settings.image_encoder, on.settings.text_encoder)
    catalog = words_only(products, "product")
    while some := list(islice(catalog, CHUNK)):
        tell(f"{some[0]['product_id']} of {products:,} is published")
        offers, vectors = [], []
        for product in some:
            key = product["product_id"].encode()
            offers.append(Outgoing(on.names.product_index, key, orjson.dumps(_offer(product))))
            value = _vectors(on, product["product_id"], widths, chance)
            vectors.append(Outgoing(on.names.product_vectors, key, orjson.dumps(value)))
        await on.publisher.publish(offers + vectors)


@contextlib.asynccontextmanager
async def empty_route() -> AsyncIterator[int]:
    """Its port, while it is answered in a process of its own."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.empty_route", str(port))
    try:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            await asyncio.sleep(0.1)
        writer.close()
        yield port
    finally:
        process.terminate()
        await process.wait()


def _offer(product: dict[str, Any]) -> dict[str, Any]:
    own = {name: product[name] for name in ("product_id", "title", "category", "attributes", "price")}
    state = {"revision": 1, "state": "listable", "availability": "in_stock", "image_links": [], "brand": None}
    return Offer(**own, **state, changed_at=1.0, created_at=1.0).model_dump(mode="json")


def _vectors(on: Stage, product_id: str, widths: dict[str, int], chance: np.random.Generator) -> dict[str, Any]:
    packed = {name: pack_vector(chance.standard_normal(width, dtype=np.float32)) for name, width in widths.items()}
    return ProductVectors(
        product_id=product_id, content_revision=1, encoder=on.names.fingerprint, missing=[], **packed
    ).model_dump(mode="json")


def _by_words(number: int) -> bytes:
    return get(f"/v1/search?q={_words(number).replace(' ', '+')}")


def _by_lexical(number: int) -> bytes:
    return get(f"/v1/search?mode=lexical&facets=category,price&q={_words(number).replace(' ', '+')}")


def _by_picture(number: int) -> bytes:
    colour = np.random.default_rng(number).integers(0, 256, (8, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(colour).resize(PICTURE_SIZE, Image.Resampling.BICUBIC).save(file, "JPEG")
    return post("/v1/search", {"picture": base64.b64encode(file.getvalue()).decode()})


def _words(number: int) -> str:
    """Three words that are there, one in three misspelled, and one that is not."""
    colour, kind = COLOURS[number % 10], KINDS[number // 10 % 10].split()[-1]
    material = MATERIALS[number // 100 % 10]
    return f"{colour} {material[1::-1] + material[2:] if number % 3 else material} {kind} q{number}x"


def _is_whole(body: bytes) -> None:
    answer = orjson.loads(body)
    if answer["degraded"] or not answer["items"]:
        raise RuntimeError(f"a search found {len(answer['items'])} products: {answer['degraded']}")


def _cpu_s(on: Stage) -> float:
    """Of the process that answers, so far: what a busy machine changes least."""
    times = on.processes["index-api"].cpu_times()
    return float(times.user + times.system)


async def _until_whole(on: Stage) -> None:
    """The encoder of queries is loaded, and the shelf is full."""
    while (await on.http.get("/v1/search", params={"q": "red lamp"})).json().get("degraded", "away"):
        await asyncio.sleep(0.2)


def _index_alone(products: int) -> list[Figure]:
    """In memory: what so many products take, and how long their index answers and takes up a change."""
    documents = [Document.of(product) for product in words_only(products, "product")]
    tracemalloc.start()
    index = _filled(documents)
    megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    allowed, clicks = np.ones(products, np.bool_), np.zeros(products, np.int64)
    queries = [_words(number) for number in range(200)]
    changes = range(0, products, max(1, products // 500))
    asked = _ms(lambda at: index.find(queries[at], allowed, 100, clicks), range(len(queries)))
    put = _ms(lambda at: index.put(at, documents[(at + 1) % products]), changes)
    of = f"the index of words, {products:,} products"
    return [
        Figure(f"{of}, MB", megabytes, "MB", at_most=INDEX_BAR_MB),
        Figure(f"{of}, a query of 4 words", asked, "ms"),
        Figure(f"{of}, a product whose words change", put, "ms"),
    ]


def _filled(documents: Sequence[Document]) -> LexicalIndex:
    index = LexicalIndex()
    for row, document in enumerate(documents):
        index.put(row, document)
    return index


def _ms(do: Callable[[int], object], places: Sequence[int]) -> float:
    began = time.process_time()
    for place in places:
        do(place)
    return (time.process_time() - began) / len(places) * 1_000
