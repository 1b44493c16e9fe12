"""What the demo shows: live while it plays, then a summary."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from streams.demo import NO_MORE_PRODUCTS_AT, SHOPPERS, Seen
from streams.demo_stage import stage

STOPPED = "stopped; no process is left"
TOO_SHORT = "not seen: the time did not suffice, or no list held a product"


async def show(shop: Path | None, *, seconds: float, json: bool, stay: bool) -> None:
    """Play on the terminal and print the summary. Ctrl-C, SIGTERM and a closed terminal end it early; nothing is left.

    stay  after the summary the page goes on, until one of these

    Raises what stage() and Stage.run() raise; nothing is left then either.
    """
    console = Console(stderr=json)
    playing = asyncio.create_task(_play(shop, seconds, console, json=json, stay=stay))

    def end_early() -> None:
        if not playing.cancelling():  # a second Ctrl-C must not end the clearing away
            playing.cancel()

    loop, heard = asyncio.get_running_loop(), []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # ignored: under nohup
            loop.add_signal_handler(number, end_early)
            heard.append(number)
    try:
        await playing
    except asyncio.CancelledError:
        console.print(STOPPED)
        return
    finally:
        for number in heard:  # nothing is left to end: a signal while the process exits must not change how it does
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


async def _play(shop: Path | None, seconds: float, console: Console, *, json: bool, stay: bool) -> None:
    console.print(f"Preparing {f'the shop of {shop}' if shop else 'the drawn shop'}, then starting every part here")
    async with stage(shop, seconds=seconds) as on:
        console.print(f"Open [bold]{on.url}[/] in a browser: search, click, and see your list change")
        running = asyncio.create_task(on.run())
        try:
            with Live(console=console, refresh_per_second=4, transient=True) as screen:
                while not running.done():
                    screen.update(live(on.play.seen, seconds))
                    await asyncio.wait({running}, timeout=0.25)
            running.result()
        finally:
            running.cancel()
            await asyncio.wait({running})
        if json:
            print(orjson.dumps(as_json(on.play.seen), option=orjson.OPT_INDENT_2).decode())
        else:
            console.print(summary(on.play.seen))
        if stay:
            console.print(f"{on.url} stays open; Ctrl-C ends everything")
            await on.stay()


def live(seen: Seen, seconds: float) -> Panel:
    """The play as it is now."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _live_facts(seen):
        facts.add_row(f"[dim]{name}[/]", value)
    played = time.monotonic() - seen.began if seen.began else 0.0
    bar = ProgressBar(total=seconds, completed=min(played, seconds))
    return Panel(Group(bar, facts), title=f"Freshet demo: {seen.state}", title_align="left")


def summary(seen: Seen) -> Group:
    """What was measured and seen."""
    parts: list[Any] = [Panel(_figures(seen), title="One shop, played", title_align="left")]
    if seen.after:
        parts.append(Panel(_lists(seen), title="One simulated shopper", title_align="left"))
    return Group(*parts)


def as_json(seen: Seen) -> dict[str, Any]:
    """The summary for programs."""
    p50_ms, p99_ms = _latencies_ms(seen)
    return {
        "products": {
            "known": seen.products_known,
            "published": seen.published,
            "retrievable": seen.retrievable,
            "indexed": seen.indexed,
            "per_s": _rate(seen),
        },
        "clicks": seen.clicks,
        "lists": seen.lists,
        "unasked_lists": seen.unasked,
        "click_to_list_ms": {"p50": p50_ms, "p99": p99_ms},
        "before": seen.before,
        "clicked": seen.clicked,
        "after": seen.after,
        "new_product": {
            "title": seen.new_product,
            "retrievable_s": seen.new_retrievable_s,
            "in_a_list_s": seen.new_in_list_s,
        },
        "sold_out": {
            "title": seen.sold_out,
            "gone_s": seen.sold_out_gone_s,
            "late_lists": seen.sold_out_lists,
            "lists_after": seen.lists_after_sold_out,
        },
        "restarts": seen.restarts,
    }


def _live_facts(seen: Seen) -> Iterator[tuple[str, str]]:
    p50_ms, p99_ms = _latencies_ms(seen)
    yield "products", f"{seen.retrievable} retrievable of {seen.published} published ({_rate(seen):.1f}/s)"
    yield "simulated shoppers", f"{seen.clicks} clicks, {seen.lists} lists"
    yield "click to list", f"p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms" if seen.latencies_s else "-"
    if seen.clicked:
        yield "one shopper clicks", seen.clicked[-1]
    if seen.new_product:
        yield "new product", f"{seen.new_product}: {_new_product(seen)}"
    if seen.sold_out:
        yield "sold out", f"{seen.sold_out}: {_sold_out(seen)}"


def _figures(seen: Seen) -> Table:
    p50_ms, p99_ms = _latencies_ms(seen)
    table = Table.grid(padding=(0, 2))
    share = "" if seen.published >= seen.products_known - 1 else f" of the shop's {seen.products_known:,}"
    cut = f"; the time allowed no more ({NO_MORE_PRODUCTS_AT:.0%} of the play)" if share else ""
    table.add_row("products indexed", f"{seen.indexed:,}{share}, {_rate(seen):.1f} a second{cut}")
    table.add_row("clicks", f"{seen.clicks:,} by {SHOPPERS} simulated shoppers; {seen.lists:,} lists")
    table.add_row("without a click", f"{seen.unasked:,} lists: pushes of new products, retractions of what sold out")
    table.add_row("click to list", f"p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, measured at the topic")
    table.add_row("a new product", f"{seen.new_product}: {_new_product(seen)}" if seen.new_product else TOO_SHORT)
    table.add_row("a product sells out", f"{seen.sold_out}: {_sold_out(seen)}" if seen.sold_out else TOO_SHORT)
    if seen.restarts:
        again = ", ".join(f"{name} {count} times" for name, count in seen.restarts.items())
        table.add_row("started again", f"{again}, because it ended by itself")
    return table


def _lists(seen: Seen) -> Table:
    table = Table(box=None, padding=(0, 2))
    table.add_column("before any click")
    table.add_column("after clicking " + ", ".join(seen.clicked))
    for place in range(max(len(seen.before), len(seen.after))):
        table.add_row(_item(seen, seen.before, place), _item(seen, seen.after, place))
    return table


def _item(seen: Seen, items: list[dict[str, Any]], place: int) -> str:
    if place >= len(items):
        return ""
    item = items[place]
    title = seen.titles.get(item["product_id"]) or item["product_id"]
    return f"{place + 1}. {title}\n   [dim]{item['source']}: {item['reason']}[/]"


def _new_product(seen: Seen) -> str:
    retrievable = (
        "not retrievable yet" if seen.new_retrievable_s is None else f"retrievable {seen.new_retrievable_s:.2f} s"
    )
    listed = "in no list yet" if seen.new_in_list_s is None else f"in somebody's list {seen.new_in_list_s:.2f} s"
    return f"{retrievable} and {listed} after it was published"


def _sold_out(seen: Seen) -> str:
    if seen.sold_out_gone_s is None:
        return "not known yet"
    return f"in no list made later than {seen.sold_out_gone_s:.2f} s after ({seen.lists_after_sold_out} lists watched)"


def _rate(seen: Seen) -> float:
    return seen.indexed / seen.indexing_s if seen.indexing_s else 0.0


def _latencies_ms(seen: Seen) -> tuple[float, float]:
    if not seen.latencies_s:
        return 0.0, 0.0
    p50, p99 = np.percentile(seen.latencies_s, [50, 99]) * 1e3
    return float(p50), float(p99)
