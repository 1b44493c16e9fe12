"""All products and purchases of a real shop through every role: at even rates first, then as fast as they are taken."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from brokers import LocalKafka

from streams.evaluation.report import table
from streams.publish import publish_lines
from streams.up import GROUPS
from streams.worker import STATUS_EVERY_S
from tests.bench.report import Figure, percentiles_ms, shown
from tests.bench.retail_report import Sample, checks, lists_and_purchases, memory, over_time, sizes, summary
from tests.bench.retail_shop import Shop, load_shop
from tests.bench.shoppers import Click, Shoppers
from tests.bench.stage import NotInTime, Stage, Tell, stage

RATES = (100, 1_000)  # clicks per second
BARS_MS = {(100, "p50"): 8.0, (100, "p99"): 30.0, (1_000, "p99"): 100.0}
WARM_UP_SHARE = 1 / 6  # of a paced phase, before the first, not measured
EVERY_CLICK = 1_000_000  # a minute: no real purchase is a robot's
SAMPLE_EVERY_S = 5.0
STUCK_AFTER_S = 120.0


async def run_online_retail(
    kafka: LocalKafka,
    kafka_data: Path,
    folder: Path,
    tell: Tell,
    *,
    products: int | None,
    clicks: int | None,
    paced_s: float,
) -> str:
    """Markdown says how fast, how large, how right and how good it was.

    products, clicks  only so many, None for all
    paced_s           of each phase at an even rate
    """
    shop = load_shop(folder, tell, products=products, clicks=clicks)
    samples: list[Sample] = []
    async with stage(kafka, list_max_age_s=None, learn_clicks_per_minute=EVERY_CLICK) as on:
        await on.start(*GROUPS)
        encoding_s = await _publish_catalog(on, shop, tell)
        shoppers = Shoppers(on, on.names.user_clicks)
        async with shoppers.answered_on(on.names.recommendations), asyncio.TaskGroup() as tasks:
            sampling = tasks.create_task(_sample(on, shoppers, samples, len(shop.played), tell))
            paced, rest = await _paced(shoppers, shop.played, paced_s)
            took_s = await _drain(on, shoppers, rest)
            await _grows(lambda: samples[-1].learned, len(shop.played), "examples are learned", on)
            sampling.cancel()
        await asyncio.sleep(2 * STATUS_EVERY_S)
        status = (await on.http.get("/v1/status")).json()
        parts = [
            f"{len(shop.catalog):,} products (words only) in {shown(encoding_s, 's')}: "
            f"{shown(len(shop.catalog) / encoding_s)} products/s from publication to retrievable",
            paced,
            summary(shop, shoppers, len(rest), took_s, samples[-1]),
            over_time(samples),
            memory(samples),
            sizes(on, kafka_data),
            checks(on, shop, shoppers, status),
            await lists_and_purchases(on, shop, shoppers),
        ]
    return "\n\n".join(parts)


async def _publish_catalog(on: Stage, shop: Shop, tell: Tell) -> float:
    """Every product is retrievable; how many seconds that took."""
    began = time.monotonic()
    await on.publish(on.names.catalog_updates, shop.catalog)
    await on.until_retrievable(len(shop.catalog), tell)
    return time.monotonic() - began


async def _paced(shoppers: Shoppers, clicks: Sequence[Click], paced_s: float) -> tuple[str, Sequence[Click]]:
    """The first clicks at even rates: the times to their lists as Markdown, and the clicks that are left."""
    coming = iter(clicks)
    await shoppers.latencies_s(islice(coming, int(RATES[0] * paced_s * WARM_UP_SHARE)), per_s=RATES[0])
    rows = []
    for rate in RATES:
        latencies_s = await shoppers.latencies_s(islice(coming, int(rate * paced_s)), per_s=rate)
        for name, value in zip(("p50", "p99"), percentiles_ms(latencies_s), strict=True):
            what = f"click to list at {rate:,}/s ({shoppers.sent_per_s:,.0f} kept) for {paced_s:g} s, {name}"
            what, measured, _, *bar = Figure(what, value, "ms", at_most=BARS_MS.get((rate, name))).cells()
            rows.append((what, measured, *bar))
    return table(("what", "measured", "bar", "reached"), rows), list(coming)


async def _drain(on: Stage, shoppers: Shoppers, clicks: Sequence[Click]) -> float:
    """These clicks, published at once, are answered; how many seconds that took. Raises NotInTime."""
    began = time.monotonic()
    wanted = shoppers.answered + len(clicks)
    lines = (click.line for click in clicks)
    publishing = asyncio.create_task(asyncio.to_thread(publish_lines, on.broker, on.names.user_clicks, lines))
    await _grows(lambda: shoppers.answered, wanted, "clicks are answered", on)
    await publishing
    return time.monotonic() - began


async def _grows(count: Callable[[], int], wanted: int, what: str, on: Stage) -> None:
    """The count has reached what is wanted. Raises NotInTime if it stands still for too long."""
    known, changed_at = -1, time.monotonic()
    while known < wanted:
        if (now := count()) > known:
            known, changed_at = now, time.monotonic()
        if time.monotonic() - changed_at > STUCK_AFTER_S:
            raise NotInTime(f"{known:,} of {wanted:,} {what}, no more for {STUCK_AFTER_S:.0f} s: {on.last_words()}")
        await asyncio.sleep(0.05)


async def _sample(on: Stage, shoppers: Shoppers, samples: list[Sample], clicks: int, tell: Tell) -> None:
    """For ever, look at the roles: often at first, then every SAMPLE_EVERY_S."""
    began = time.monotonic()
    while True:
        learner = on.status("learner")
        sample = Sample(
            at_s=time.monotonic() - began,
            answered=shoppers.answered,
            lists=shoppers.lists,
            learned=int(learner["details"].get("examples", 0)),
            learner_lag=int(learner["lag"]),
            replays=int(learner["details"].get("replays", 0)),
            memory_mb=on.memory_mb(),
        )
        samples.append(sample)
        tell(
            f"{sample.answered:,} of {clicks:,} clicks answered by {sample.lists:,} lists, "
            f"{sample.learned:,} learned (R {sample.replays})"
        )
        await asyncio.sleep(min(SAMPLE_EVERY_S, 1.0 + sample.at_s / 20))
