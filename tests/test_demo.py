"""The demo's parts, without a broker: what it takes for a shop, what it waits for, and how it ends when it cannot play.

The whole of it runs in live/test_demo_processes.py.
"""

import asyncio
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
from rich.console import Console

from streams import demo, demo_stage
from streams.demo import Play, Seen
from streams.demo_screen import as_json, live, summary
from streams.demo_stage import Stage, read_products, stage
from streams.ports import free_port
from streams.settings import Settings
from streams.supervisor import Child, ChildMisconfigured, Supervisor
from streams.terminal import Failure
from streams.topics import topic_names


def upsert(product_id: str, **fields: Any) -> dict[str, Any]:
    return {"op": "upsert", "product_id": product_id, "title": f"The {product_id}", **fields}


def write_shop(folder: Path, *lines: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "catalog.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return folder


# --- the shop ----------------------------------------------------------------------------------------------------


def test_a_product_that_comes_twice_is_one_a_deleted_one_is_none_and_one_that_is_for_sale_is_last(
    tmp_path: Path,
) -> None:
    shop = write_shop(
        tmp_path / "shop",
        upsert("cup"),
        upsert("pot", title="Old pot"),
        upsert("jug"),
        {"op": "patch", "product_id": "cup", "availability": "out_of_stock"},
        upsert("pot", title="New pot"),
        {"op": "delete", "product_id": "jug"},
        upsert("pan", availability="in_stock"),
        upsert("can", availability="out_of_stock"),
    )
    products = read_products(shop / "catalog.jsonl")
    assert [product["product_id"] for product in products] == ["can", "cup", "pot", "pan"]
    assert products[2]["title"] == "New pot"


@pytest.mark.parametrize("lines", [[upsert("cup")], [upsert("cup"), upsert("cup")], [{"op": "delete"}]])
def test_a_shop_without_two_products_is_refused_and_nothing_is_left(
    lines: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary := tmp_path / "temporary"))
    temporary.mkdir()
    products = [line | {"product_id": "cup"} for line in lines]
    shop = write_shop(tmp_path / "shop", *products)

    async def play() -> None:
        async with stage(shop, seconds=1):
            pytest.fail("there is nothing to play")

    with pytest.raises(
        Failure, match=r"too few products in .*shop \([01]\): the demo needs 2 or more, because one of them"
    ):
        asyncio.run(play())
    assert not list(temporary.iterdir())


def test_an_import_that_is_cancelled_ends_before_its_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary := tmp_path / "temporary"))
    temporary.mkdir()
    shop = write_shop(tmp_path / "shop", *(upsert(f"p{n}") for n in range(20_000)))
    importing, ended = threading.Event(), threading.Event()
    copy = demo_stage.import_shop

    def import_and_tell(folder: Path, out: Path, progress: Any) -> Any:
        def tell(name: str, lines: int) -> None:
            importing.set()
            progress(name, lines)

        try:
            return copy(folder, out, tell)
        finally:
            ended.set()

    monkeypatch.setattr(demo_stage, "import_shop", import_and_tell)

    async def play() -> None:
        async with stage(shop, seconds=1):
            pytest.fail("it was cancelled")

    async def cancelled() -> None:
        playing = asyncio.create_task(play())
        await asyncio.to_thread(importing.wait, 60)
        playing.cancel()
        await asyncio.wait({playing})
        assert playing.cancelled()
        assert ended.is_set()
        assert not list(temporary.iterdir())

    asyncio.run(cancelled())


# --- the play ----------------------------------------------------------------------------------------------------


class Heard:
    """A consumer of these lists, then of none."""

    def __init__(self, *lists: dict[str, Any]) -> None:
        self.lists = [{"cause": "click", "event_ids": [], **made} for made in lists]
        self.is_stopped = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for made in self.lists:
            yield SimpleNamespace(value=orjson.dumps(made))
        await asyncio.Event().wait()

    async def stop(self) -> None:
        self.is_stopped = True


class Rehearsal(Play):
    """A play whose shop and api are this object; what it publishes is kept."""

    def __init__(self, home: Path, *, products: int, seconds: float) -> None:
        settings = Settings(home=home, api_port=free_port())
        catalog = [upsert(f"p{n}") for n in range(products)]
        super().__init__(settings, topic_names(settings, "f"), catalog, seconds=seconds)
        self.published: list[dict[str, Any]] = []
        self.reader = Heard()
        self.seen.began = self._progressed_at = time.monotonic()

    async def ask(self, _path: str, **_: int) -> httpx.Response:
        return httpx.Response(200, json={"items": [{"product_id": "p0"}]})

    async def _list_reader(self) -> Any:
        return self.reader

    async def _publish(self, _topic: str, values: list[dict[str, Any]], _key: str) -> None:
        self.published += values

    async def hear(self, user_id: str, *product_ids: str) -> None:
        """A list comes."""
        items = [{"product_id": product_id} for product_id in product_ids]
        self._newest[user_id] = {"items": items, "made_at": "2026-01-01T00:00:00Z", "event_ids": []}
        self.seen.lists += 1
        async with self._heard:
            self._heard.notify_all()


def run(play: Rehearsal, act: Coroutine[Any, Any, None]) -> None:
    """The act is over, or 20 s are."""

    async def acted() -> None:
        async with asyncio.timeout(20):
            await act
        await play.close()

    asyncio.run(acted())


def test_the_rate_of_indexing_counts_until_the_last_product_before_the_new_one(tmp_path: Path) -> None:
    play = Rehearsal(tmp_path, products=301, seconds=60)
    began = play.seen.began
    play._count(100, began + 5)
    play._count(300, began + 15)
    play._count(300, began + 20)
    play.seen.new_product = "The p300"
    play._count(301, began + 33)
    assert (play.seen.retrievable, play.seen.indexed, play.seen.indexing_s) == (301, 300, pytest.approx(15))
    assert as_json(play.seen)["products"]["per_s"] == pytest.approx(20)


def test_products_that_never_become_retrievable_do_not_keep_the_others_from_being_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STALLED_S", 0.02)
    play = Rehearsal(tmp_path, products=201, seconds=1_000)
    run(play, play._publish_catalog())
    assert [product["product_id"] for product in play.published] == [f"p{n}" for n in range(200)]


def test_no_more_products_are_published_than_may_wait(tmp_path: Path) -> None:
    play = Rehearsal(tmp_path, products=201, seconds=1_000)

    async def publish_for_a_moment() -> None:
        publishing = asyncio.create_task(play._publish_catalog())
        await asyncio.sleep(0.2)
        assert demo.WAITING_PRODUCTS_MAX <= len(play.published) <= demo.WAITING_PRODUCTS_MAX + 8
        play._count(60, time.monotonic())
        await asyncio.sleep(0.2)
        assert len(play.published) >= 100
        publishing.cancel()

    run(play, publish_for_a_moment())


def test_a_product_sells_out_although_the_new_one_is_in_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "WATCH_AFTER_SOLD_OUT_S", 0.2)
    play = Rehearsal(tmp_path, products=3, seconds=2)
    play.seen.titles |= {"p0": "The p0", "p1": "The p1"}

    async def skip_the_guest() -> None:
        play.seen.clicked.append("The p0")

    monkeypatch.setattr(play, "_before_and_after", skip_the_guest)

    async def look() -> None:
        await play.hear("ann", "p0", "p1")
        looking = asyncio.create_task(play._look_closer())
        while play.seen.lists_after_sold_out < 3:
            assert not looking.done(), looking.result()
            await play.hear("bob", "p1")
            await asyncio.sleep(0.02)
        looking.cancel()

    run(play, look())
    new, patch = play.published
    assert new == upsert("p2")
    assert patch == {"op": "patch", "product_id": "p1", "availability": "out_of_stock"}
    assert play.seen.sold_out == "The p1"
    assert play.seen.new_in_list_s is None
    assert play.seen.new_retrievable_s is not None


def test_after_the_play_shoppers_click_on_and_no_click_is_taken_for_one_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "CLICKS_PER_S_AFTER", 1_000.0)
    play = Rehearsal(tmp_path, products=3, seconds=60)
    play.seen.titles |= {"p0": "The p0", "p1": "The p1"}
    play._count(3, time.monotonic())

    async def click_on() -> None:
        for clicking in (play._shop_around(1_000.0), play.go_on()):
            before = len(play.published)
            task = asyncio.create_task(clicking)
            while len(play.published) < before + 20:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait({task})
            play.seen.state = "over"

    run(play, click_on())
    event_ids = [click["event_id"] for click in play.published]
    assert len(set(event_ids)) == len(event_ids) >= 40
    assert len(play._sent_at) < len(event_ids) - 19, "nobody waits for the lists of the later ones"


def test_a_simulated_click_on_an_item_of_the_shopper_s_newest_list_tells_the_list_and_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody's second list holds p2 and p0; nothing of the first one counts any more."""
    monkeypatch.setattr(demo, "CLICKS_PER_S_AFTER", 1_000.0)
    play = Rehearsal(tmp_path, products=5, seconds=60)
    play.seen.titles |= {f"p{n}": f"The p{n}" for n in range(4)}
    play.seen.state = "over"
    play._count(5, time.monotonic())
    users = [f"simulated-user-{n}" for n in range(0, demo.SHOPPERS, 2)]  # the others have none
    first = [{"user_id": user, "list_id": "first", "items": [{"product_id": "p1"}]} for user in users]
    items = [{"product_id": "p2"}, {"product_id": "p0"}]
    second = [{"user_id": user, "list_id": f"of {user}", "items": items} for user in users]
    play.reader = Heard(*first, *second)

    async def click_on() -> None:
        task = asyncio.create_task(play.go_on())
        while len(play.published) < 200:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        assert play.reader.is_stopped

    run(play, click_on())
    told = 0
    for click in play.published:
        listed = click["user_id"] in users and click["product_id"] in ("p2", "p0")
        expected = (f"of {click['user_id']}", 0 if click["product_id"] == "p2" else 1) if listed else (None, None)
        assert (click.get("list_id"), click.get("position")) == expected
        told += listed
    assert 0 < told < 200
    assert play.seen.lists == 0, "what was seen is what the play showed"


def test_where_no_list_holds_a_product_none_sells_out(tmp_path: Path) -> None:
    play = Rehearsal(tmp_path, products=2, seconds=60)

    async def sell_out() -> None:
        await play.hear("ann")
        await play._sell_out()

    run(play, sell_out())
    assert play.published == []
    assert play.seen.sold_out is None


# --- starting ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def set_stage(home: Path, code: str) -> AsyncIterator[Stage]:
    """The only role is this Python code, so nobody answers."""
    settings = Settings(home=home, api_port=free_port())
    children = [
        Child("clicks", [sys.executable, "-c", code]),
        Child("learner", [sys.executable, "-c", "import time; time.sleep(60)"]),
    ]
    supervisor = Supervisor(children, home / "logs", first_pause_s=0.01)
    await supervisor.start()
    try:
        play = Play(settings, topic_names(settings, "f"), [upsert("a"), upsert("b")], seconds=20)
        yield Stage(settings, supervisor, play)
    finally:
        await supervisor.stop()


async def run_on_stage(home: Path, code: str) -> None:
    async with set_stage(home, code) as on:
        await on.run()


def test_a_role_that_ends_again_and_again_ends_the_demo_with_what_it_wrote_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_stage, "READY_WITHIN_S", 2.0)
    told = (
        r"not ready within 2 s \(no answer from the api\): the process clicks was started again \d+ times, "
        r"and wrote last: .*the weights are damaged\. Mend that; `freshet up` keeps whole logs, in \.freshet/logs"
    )
    with pytest.raises(Failure, match=told):
        asyncio.run(run_on_stage(tmp_path, "raise SystemExit('the weights are damaged')"))


def test_roles_that_are_slow_to_start_end_the_demo_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_stage, "READY_WITHIN_S", 0.3)
    with pytest.raises(Failure, match=r"not ready within 0\.3 s .*: no process has failed, so the machine may be too"):
        asyncio.run(run_on_stage(tmp_path, "import time; time.sleep(60)"))


def test_a_role_whose_settings_are_wrong_ends_the_demo_at_once(tmp_path: Path) -> None:
    with pytest.raises(ChildMisconfigured, match=r"clicks: no such encoder"):
        asyncio.run(run_on_stage(tmp_path, "print('no such encoder'); raise SystemExit(78)"))


# --- the screen --------------------------------------------------------------------------------------------------


def printed(shown: Any) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(shown)
    return re.sub(r"\s+", " ", capture.get())


def test_a_play_in_which_nothing_happened_has_a_summary() -> None:
    text = printed(summary(Seen(products_known=301)))
    assert "products indexed 0 of the shop's 301, 0.0 a second" in text
    assert text.count("not seen: the time did not suffice, or no list held a product") == 2
    assert "started again" not in text
    assert json.loads(json.dumps(as_json(Seen())))["sold_out"]["title"] is None
    assert "Freshet demo: starting" in printed(live(Seen(), 60))


def test_a_summary_says_what_was_seen() -> None:
    seen = Seen(
        products_known=301,
        published=300,
        retrievable=301,
        indexed=300,
        indexing_s=15.0,
        clicks=1_400,
        lists=1_399,
        unasked=17,
        latencies_s=[0.010, 0.010, 0.010],
        new_product="Grey jumper",
        new_retrievable_s=0.24,
        sold_out="Red dress",
        sold_out_gone_s=0.01,
        lists_after_sold_out=101,
        restarts={"clicks": 2},
    )
    text = printed(summary(seen))
    assert "products indexed 300, 20.0 a second" in text
    assert "1,400 by 200 simulated shoppers; 1,399 lists" in text
    assert "17 lists: pushes of new products, retractions of what sold out" in text
    assert "p50 10.0 ms, p99 10.0 ms" in text
    assert "Grey jumper: retrievable 0.24 s and in no list yet after it was published" in text
    assert "Red dress: in no list made later than 0.01 s after (101 lists watched)" in text
    assert "started again clicks 2 times, because it ended by itself" in text
