"""Path 3: from a click to its list, how many clicks a CPU-second is worth, and how soon a dead worker is back."""

import time
from itertools import islice
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
from brokers import LocalKafka

from streams.up import GROUPS
from tests.bench.echo import echo_topics
from tests.bench.report import Figure, percentiles_ms
from tests.bench.shelf import publish_shelf
from tests.bench.shoppers import Shoppers, random_clicks
from tests.bench.stage import Sizes, Stage, Tell, stage

RATES = (100, 1_000)  # clicks per second
BARS_MS = {(100, "p50"): 8.0, (100, "p99"): 30.0, (1_000, "p99"): 100.0}
WARM_UP_CLICKS = 300
RESTART_CLICKS = 500
ECHO = "echo"


async def click_to_list(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """From the click's way to the producer to its list at a consumer, with all roles up; beside it the echo's time."""
    figures = []
    async with stage(kafka) as on:
        product_ids = await publish_shelf(on, sizes.products, tell, factors=False)
        await on.start(*GROUPS)
        await on.until_retrievable(sizes.products, tell)
        await on.start_echo()
        shop, echo = Shoppers(on, on.names.user_clicks), Shoppers(on, echo_topics(on.settings)[0])
        async with shop.answered_on(on.names.recommendations), echo.answered_on(echo_topics(on.settings)[1]):
            drawn = random_clicks(product_ids)
            for shoppers in (echo, shop):
                tell("warms up")
                await shoppers.latencies_s(islice(drawn, WARM_UP_CLICKS), per_s=100)
            for rate in RATES:
                clicks = int(rate * sizes.seconds)
                tell(f"{rate:,} messages/s through the echo")
                echoed = percentiles_ms(await echo.latencies_s(islice(drawn, clicks), per_s=rate))
                tell(f"{rate:,} clicks/s")
                listed = percentiles_ms(await shop.latencies_s(islice(drawn, clicks), per_s=rate))
                for name, value, baseline in zip(("p50", "p99"), listed, echoed, strict=True):
                    what = (
                        f"click to list, {rate:,}/s ({shop.sent_per_s:,.0f} kept), {sizes.products:,} products, {name}"
                    )
                    figures.append(Figure(what, value, "ms", baseline, ECHO, at_most=BARS_MS.get((rate, name))))
    return figures


async def durable_clicks(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """Clicks of a backlog that one process makes durable in a second of its CPU; beside it the echo's messages."""
    async with stage(kafka) as on:
        product_ids = await publish_shelf(on, sizes.products, tell, factors=True)
        shop = Shoppers(on, on.names.user_clicks)
        async with shop.answered_on(on.names.recommendations):
            tell(f"{sizes.backlog:,} clicks wait")
            await shop.send(islice(random_clicks(product_ids), sizes.backlog))
            await on.start(["clicks"], until_running=False)
            tell(f"one clicks process works on {sizes.backlog:,} clicks")
            clicks = await _drained(on, shop, "clicks")
    async with stage(kafka) as on:
        echo = Shoppers(on, echo_topics(on.settings)[0])
        async with echo.answered_on(echo_topics(on.settings)[1]):
            await echo.send(islice(random_clicks(product_ids), sizes.backlog))
            await on.start_echo()
            tell(f"the echo works on {sizes.backlog:,} messages")
            echoed = await _drained(on, echo, "echo")
    what = f"of one process, {sizes.products:,} products, lists of {on.settings.list_length}"
    return [
        Figure(f"durable clicks per CPU-second {what}", clicks.per_cpu_s, "", echoed.per_cpu_s, ECHO, at_least=2_500),
        Figure("the same as a share of the echo's", clicks.per_cpu_s / echoed.per_cpu_s, at_least=0.4),
        Figure(f"clicks per second {what}, of a backlog", clicks.per_s, "", echoed.per_s, ECHO),
        Figure("lists per click there", shop.lists / shop.answered),
    ]


async def restart(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """From kill -9 of a clicks process under a supervisor to the first list for a click sent meanwhile; its memory."""
    back_s, memory_mb = [], []
    async with stage(kafka) as on:
        product_ids = await publish_shelf(on, sizes.many_products, tell, factors=True)
        await on.start(["clicks"])
        shop = Shoppers(on, on.names.user_clicks)
        drawn = random_clicks(product_ids)
        async with shop.answered_on(on.names.recommendations):
            for turn in range(sizes.rounds):
                tell(f"clicks before death {turn + 1} of {sizes.rounds}")
                await shop.latencies_s(islice(drawn, RESTART_CLICKS), per_s=100)
                memory_mb.append(on.memory_mb()["clicks"])
                on.processes["clicks"].kill()
                killed_at = time.time()
                tell(f"until the first list after death {turn + 1} of {sizes.rounds}")
                await shop.send(islice(drawn, 1))
                await shop.until_answered(shop.sent)
                back_s.append(time.time() - killed_at)
    what = f"{sizes.many_products:,} products"
    return [
        Figure(f"kill -9 to the first new list, {what}, worst of {sizes.rounds}", max(back_s), "s", at_most=10),
        Figure(f"memory (RSS) of a clicks process, {what}", max(memory_mb), "MB", at_most=600),
    ]


class _Drained(NamedTuple):
    per_cpu_s: float
    per_s: float


async def _drained(on: Stage, shoppers: Shoppers, name: str) -> _Drained:
    """How fast the process answers all that was sent, after its first tenth."""
    await shoppers.until_answered(shoppers.sent // 10)
    process = on.processes[name]
    answered, cpu_s, began = shoppers.answered, _cpu_s(process), time.monotonic()
    await shoppers.until_answered(shoppers.sent)
    clicks = shoppers.answered - answered
    return _Drained(clicks / (_cpu_s(process) - cpu_s), clicks / (time.monotonic() - began))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
