"""`freshet demo`: a shop and all roles, embedded, in a folder that is removed, and the play upon this stage."""

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from encoders.weights import fingerprint_of
from streams.demo import Play
from streams.demo_orders import fits, orders_taken
from streams.imports import import_shop
from streams.ports import free_port
from streams.settings import Settings
from streams.shop import draw_shop
from streams.supervisor import Supervisor
from streams.terminal import Failure
from streams.topics import topic_names
from streams.up import GROUPS, make_supervisor

READY_WITHIN_S = 180.0  # where nothing is compiled yet and the machine is busy
LAST_WORDS = 300  # characters of what a process wrote last
DRAWN_PRODUCTS = 300
LEAST_PRODUCTS = 2  # one to click on, and one that appears while we watch
MAY_STOP = ["-".join(group) for group in GROUPS if "api" not in group]  # the page itself goes on
ELSEWHERE = ("kafka_bootstrap", "database_url", "qdrant_url", "checkpoints_url")  # the demo touches none of these


class _GivenUp(Exception):
    """Nobody waits for the shop any more."""


class Stage:
    """Everything is started, and the play is not."""

    def __init__(self, settings: Settings, supervisor: Supervisor, play: Play) -> None:
        self.play = play
        self.settings = settings
        self._supervisor = supervisor

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.settings.api_host}:{self.settings.api_port}"

    async def run(self) -> None:
        """Play, as soon as every role is ready.

        Raises Failure if they are not in READY_WITHIN_S, what ended a process for good (as Supervisor.wait), and what
        Play.run raises.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._supervisor.wait())
                await self._until_ready()
                await self.play.run()
                watching.cancel()
        except ExceptionGroup as several:
            raise _first(several) from several
        finally:
            self.play.seen.restarts = {name: count for name, count in self._supervisor.restarts.items() if count}
            await self.play.close()

    async def stay(self) -> None:
        """All runs on, until this is cancelled. Raises what ended a process for good, and what Play.go_on raises."""
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._supervisor.wait())
                await self.play.go_on()
                watching.cancel()
        except ExceptionGroup as several:
            raise _first(several) from several

    async def _until_ready(self) -> None:
        missing = "no answer from the api"
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while (answer := await self.play.ask("/readyz")).status_code != 200:
                    if lacking := answer.json().get("missing"):
                        missing = "; ".join(lacking)
                        self.play.seen.state = f"starting {', '.join(one.partition(':')[0] for one in lacking)}"
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise Failure(f"not ready within {READY_WITHIN_S:g} s ({missing}): {self._advice()}") from None

    def _advice(self) -> str:
        ends = self._supervisor.restarts
        name = max(ends, key=ends.__getitem__)
        if not ends[name]:
            return "no process has failed, so the machine may be too busy: try again when it is less so"
        log = self.settings.home / "logs" / f"{name}.log"
        words = " ".join(log.read_text(errors="replace").split()) if log.exists() else ""
        return (
            f"the process {name} was started again {ends[name]} times, and wrote last: "
            f"{words[-LAST_WORDS:] or 'nothing'}. Mend that; `freshet up` keeps whole logs, in .freshet/logs"
        )


@contextlib.asynccontextmanager
async def stage(shop: Path | None, *, seconds: float) -> AsyncIterator[Stage]:
    """A shop, drawn or imported, and everything embedded running in a folder that is removed in the end.

    Raises NotAShop, Failure for a shop that is too small, and what make_supervisor and Supervisor.start raise.
    """
    home = Path(tempfile.mkdtemp(prefix="freshet-demo-"))
    try:
        pictures, catalog = await _prepared(shop, home)
        orders = home / "orders"
        settings = Settings(
            home=home,
            worker_id="demo",
            embedded_port=free_port(),
            api_host="127.0.0.1",
            api_port=free_port(),
            kafka_security_protocol="PLAINTEXT",
            pictures_root=pictures,
            encode_batch=8,
            partitions=2,
            demo_orders=orders if fits(orders) else None,
            **dict.fromkeys(ELSEWHERE),
        )
        names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
        supervisor = await make_supervisor(settings, GROUPS, names)
        try:
            await supervisor.start()
            async with contextlib.AsyncExitStack() as taken:
                if settings.demo_orders is not None:
                    await taken.enter_async_context(orders_taken(supervisor, MAY_STOP, settings.demo_orders))
                yield Stage(settings, supervisor, Play(settings, names, catalog, seconds=seconds))
        finally:
            await supervisor.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def read_products(catalog: Path) -> list[dict[str, Any]]:
    """The products that are left when every line was applied in order, each once, one that is for sale last.

    Patches are left out: they come from what changes a shop, not from a catalogue.
    """
    products: dict[str, dict[str, Any]] = {}
    for line in catalog.read_bytes().splitlines():
        update = orjson.loads(line)
        if update["op"] == "upsert":
            products[update["product_id"]] = update
        elif update["op"] == "delete":
            products.pop(update["product_id"], None)
    # The sort is stable. The last product is the new one, which is looked for in the lists.
    return sorted(products.values(), key=lambda product: product.get("availability", "in_stock") == "in_stock")


async def _prepared(shop: Path | None, home: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of the pictures, and the products. When this is cancelled, nobody writes to home any more."""
    given_up = threading.Event()
    preparing = asyncio.create_task(asyncio.to_thread(_prepare, shop, home, given_up))
    try:
        return await asyncio.shield(preparing)
    finally:
        given_up.set()
        await asyncio.gather(preparing, return_exceptions=True)


def _prepare(shop: Path | None, home: Path, given_up: threading.Event) -> tuple[Path, list[dict[str, Any]]]:
    def go_on(*_: Any) -> None:
        if given_up.is_set():
            raise _GivenUp

    if shop is None:
        catalog, pictures = draw_shop(home / "shop", DRAWN_PRODUCTS + 1), home / "shop"
    else:
        import_shop(shop, home / "shop", go_on)
        catalog, pictures = home / "shop" / "catalog.jsonl", shop
    products = read_products(catalog)
    if len(products) < LEAST_PRODUCTS:
        raise Failure(
            f"too few products in {shop} ({len(products)}): the demo needs {LEAST_PRODUCTS} or more, "
            "because one of them appears while the others are clicked on"
        )
    return pictures, products


def _first(several: ExceptionGroup[Exception]) -> Exception:
    """The first error in it that is no group."""
    error = several.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
