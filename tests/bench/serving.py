"""The api over HTTP while clicks flow and while products are indexed, with every role up; beside it an empty route."""

import asyncio
import base64
import contextlib
import io
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import orjson
from brokers import LocalKafka
from PIL import Image

from streams.broker import end
from streams.ports import free_port
from streams.up import GROUPS
from tests.bench.http_load import CONNECTIONS, get, latencies_s, post, quantiles_ms
from tests.bench.report import Figure
from tests.bench.shelf import four_words, publish_wordy_shelf, words_only
from tests.bench.shoppers import USERS, Shoppers, random_clicks
from tests.bench.stage import Sizes, Stage, Tell, stage

CLICKS_PER_S = 200
ROUNDS = 5  # what is compared takes turns, so that what else happens on the machine meets all of it
WARM_UP = 20
PICTURE_SIZE = (480, 640)
NEWCOMERS = 500
API = "index-api"  # its process
EMPTY = "an empty route"


class Asked(NamedTuple):
    """One kind of request: what it is, so many of them, and its bars."""

    what: str
    requests: Iterator[bytes]
    count: int
    check: Callable[[bytes], None] | None = None
    bars_ms: dict[str, float] = {}  # noqa: RUF012
    times_empty: dict[str, float] = {}  # noqa: RUF012


async def serving(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """Latencies of 8 connections that ask without a pause, no two requests of them the same."""
    share = min(1.0, sizes.seconds / 20)
    async with stage(kafka) as on, _empty_route() as empty_port:
        product_ids = await publish_wordy_shelf(on, sizes.products, tell)
        await on.start(*GROUPS)
        await on.until_retrievable(sizes.products, tell)
        await _until_whole(on)
        shop = Shoppers(on, on.names.user_clicks)
        clicks = random_clicks(product_ids)
        async with shop.answered_on(on.names.recommendations, in_bulk=True):
            tell("every user clicks")
            await shop.send(itertools.islice(clicks, int(5 * USERS * share)))
            await shop.until_answered(shop.sent)
            measured = partial(_beside_an_empty_route, on, _kinds(), empty_port, sizes, share, tell)
            figures = await measured("no clicks", with_bars=False)
            async with _flowing(shop.send(clicks, per_s=CLICKS_PER_S)):
                figures += await measured(f"{CLICKS_PER_S} clicks/s")
            kept = shop.sent_per_s
            await shop.until_answered(shop.sent)
        figures.append(Figure(f"clicks that flowed meanwhile, of {CLICKS_PER_S}/s", kept, "/s"))
        figures += await _while_indexed(on, sizes, share, tell)
        figures.append(Figure(f"memory (RSS) of the process {API} after that", on.memory_mb()[API], "MB"))
    return figures


def _kinds() -> list[Asked]:
    """The empty route first. Requests go on where they ended before: words that were asked for are known."""
    return [
        Asked(EMPTY, itertools.repeat(get("/")), 6_000),
        Asked("recommendations", _recommendations(), 6_000, _is_full, times_empty={"p90": 5.0, "p99": 6.0}),
        Asked("search by words", _words(), 1_500, _is_whole, bars_ms={"p90": 100.0}),
        Asked("search by a picture", _pictures(), 200, _is_whole, bars_ms={"p90": 300.0}),
    ]


async def _beside_an_empty_route(
    on: Stage,
    asked: list[Asked],
    empty_port: int,
    sizes: Sizes,
    share: float,
    tell: Tell,
    beside_it: str,
    *,
    with_bars: bool = True,
) -> list[Figure]:
    """beside_it: what else happens."""
    ports = [empty_port, *[on.settings.api_port] * (len(asked) - 1)]
    taken: list[list[float]] = [[] for _ in asked]
    spent_s, cpu_s = [0.0] * len(asked), [0.0] * len(asked)
    for turn in range(-1, ROUNDS):  # the first warms up
        for at, (one, port) in enumerate(zip(asked, ports, strict=True)):
            tell(f"{one.what}, {beside_it}, round {max(turn, 0) + 1} of {ROUNDS}")
            count = WARM_UP if turn < 0 else max(WARM_UP, int(one.count * share / ROUNDS))
            requests = list(itertools.islice(one.requests, count))  # made before they are timed
            began, cpu_before_s = time.monotonic(), _cpu_s(on)
            latencies = await latencies_s(port, requests, check=one.check)
            if turn >= 0:
                taken[at] += latencies
                spent_s[at] += time.monotonic() - began
                cpu_s[at] += _cpu_s(on) - cpu_before_s
    figures, names = [], ("p50", "p90", "p99")
    empty = quantiles_ms(taken[0], 0.5, 0.9, 0.99)
    for one, latencies, seconds, cpu in zip(asked[1:], taken[1:], spent_s[1:], cpu_s[1:], strict=True):
        what = f"{one.what}, {CONNECTIONS} connections, {sizes.products:,} products, {beside_it}"
        bars_ms, times_empty = (one.bars_ms, one.times_empty) if with_bars else ({}, {})
        for name, value, beside in zip(names, quantiles_ms(latencies, 0.5, 0.9, 0.99), empty, strict=True):
            figures.append(Figure(f"{what}, {name}", value, "ms", beside, EMPTY, at_most=bars_ms.get(name)))
            if name in one.times_empty:
                figures.append(Figure(f"the same by {EMPTY}'s", value / beside, at_most=times_empty.get(name)))
        figures.append(Figure(f"{what}, answered", len(latencies) / seconds, "/s", len(taken[0]) / spent_s[0], EMPTY))
        figures.append(Figure(f"{what}, CPU of its process, all that it does", cpu / len(latencies) * 1_000, "ms"))
    return figures


async def _while_indexed(on: Stage, sizes: Sizes, share: float, tell: Tell) -> list[Figure]:
    """Search by words while products are encoded and indexed, beside the same before."""
    newcomers, requests = max(1, int(NEWCOMERS * share)), _words(begin=1_000_000)
    tell("search by words, nothing else happens")
    idle_s = await latencies_s(on.settings.api_port, itertools.islice(requests, int(2_000 * share)), check=_is_whole)
    await on.publish(on.names.catalog_updates, list(words_only(newcomers, "newcomer")))
    waiting = asyncio.create_task(on.until_retrievable(sizes.products + newcomers, tell))
    began = time.monotonic()
    busy_s = await latencies_s(
        on.settings.api_port, itertools.takewhile(lambda _: not waiting.done(), requests), check=_is_whole
    )
    await waiting
    took_s = time.monotonic() - began
    [idle_ms], [busy_ms] = quantiles_ms(idle_s, 0.95), quantiles_ms(busy_s, 0.95)
    what = f"search by words while {newcomers} products of words alone are encoded and indexed ({took_s:.0f} s), p95"
    return [
        Figure(what, busy_ms, "ms", idle_ms, "nothing else happens"),
        Figure("the same by what it is while nothing else happens", busy_ms / idle_ms, at_most=2.0),
    ]


@contextlib.asynccontextmanager
async def _flowing(sending: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Meanwhile this goes on; it is ended then."""
    task = asyncio.create_task(sending)
    try:
        yield
        if task.done():
            task.result()
    finally:
        await end(task)


@contextlib.asynccontextmanager
async def _empty_route() -> AsyncIterator[int]:
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


async def _until_whole(on: Stage) -> None:
    """The encoder of queries is loaded, and the shelf is full."""
    while (await on.http.get("/v1/search", params={"q": "red lamp"})).json().get("degraded", "away"):
        await asyncio.sleep(0.2)


def _recommendations() -> Iterator[bytes]:
    for number in itertools.count():
        yield get(f"/v1/users/user-{number * 7 % USERS}/recommendations")


def _words(begin: int = 0) -> Iterator[bytes]:
    for number in itertools.count(begin):
        yield get(f"/v1/search?q={four_words(number).replace(' ', '+')}")


def _pictures() -> Iterator[bytes]:
    for number in itertools.count():
        colour = np.random.default_rng(number).integers(0, 256, (8, 6, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(colour).resize(PICTURE_SIZE, Image.Resampling.BICUBIC).save(file, "JPEG")
        yield post("/v1/search", {"picture": base64.b64encode(file.getvalue()).decode()})


def _is_full(body: bytes) -> None:
    answer = orjson.loads(body)
    if len(answer["items"]) != 20:
        raise RuntimeError(f"a list has {len(answer['items'])} products")


def _is_whole(body: bytes) -> None:
    answer = orjson.loads(body)
    if answer["degraded"] or not answer["items"]:
        raise RuntimeError(f"a search found {len(answer['items'])} products: {answer['degraded']}")


def _cpu_s(on: Stage) -> float:
    """Of the process that answers, so far: what a busy machine changes least."""
    times = on.processes[API].cpu_times()
    return float(times.user + times.system)
