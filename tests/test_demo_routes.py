"""What the api of the demo answers beside the rest: own products, and processes that are stopped and started."""

import asyncio
import contextlib
import stat
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from asked_shop import AskedShop, ReplicasAtHand
from PIL import Image
from test_api import status_of

from store.keys import KeyStore
from streams import demo_products
from streams.api import access
from streams.broker import BrokerUnavailable, Outgoing
from streams.demo_orders import PATH_MAX_BYTES, Orders, OrdersUnavailable, fits, orders_taken
from streams.events import ProductUpsert
from streams.health import Backlog
from streams.parsing import parse_catalog_update
from streams.picture_decoding import Picture, decode
from streams.supervisor import Child, Supervisor

pytestmark = pytest.mark.anyio
SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
LAMP = {"title": " My lamp ", "price": 25.0}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class DemoShop(AskedShop):
    """What is published is kept."""

    def __init__(self, home: Path, **more: Any) -> None:
        super().__init__(home, ReplicasAtHand(), demo_orders=home / "orders", **more)
        self.published: list[Outgoing] = []

        async def publish(messages: list[Outgoing]) -> list[Any]:
            self.published += messages
            return []

        self.publisher.publish = publish  # type: ignore[method-assign]

    async def asked(self, method: str, path: str = "", key: str = "", **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.client() as client:
            return await client.request(method, f"/v1/demo{path}", headers=headers, **more)


@pytest.fixture
def shop(tmp_path: Path) -> DemoShop:
    shop = DemoShop(tmp_path, pictures_root=tmp_path / "shop")
    (tmp_path / "shop").mkdir()
    shop.vectors.close()  # nobody asks for them
    return shop


@contextlib.asynccontextmanager
async def supervised(shop: DemoShop) -> AsyncIterator[Supervisor]:
    """Of three processes, two may be ordered to stop."""
    children = [Child(name, SLEEPS) for name in ("encode", "clicks", "index-api")]
    supervisor = Supervisor(children, shop.settings.home / "logs", first_pause_s=0.01)
    await supervisor.start()
    try:
        assert shop.settings.demo_orders is not None
        async with orders_taken(supervisor, ["encode", "clicks"], shop.settings.demo_orders):
            yield supervisor
    finally:
        await supervisor.stop()


def picture() -> str:
    """A red square in base64."""
    file = BytesIO()
    Image.fromarray(np.full((40, 60, 3), (200, 10, 10), np.uint8)).save(file, "PNG")
    return b64encode(file.getvalue()).decode()


# --- processes ---------------------------------------------------------------------------------------------------


async def test_a_process_is_stopped_stays_so_and_is_started_again(shop: DemoShop) -> None:
    shop.backlogs["encode"] = Backlog(3, None)
    async with supervised(shop) as supervisor:
        before = supervisor.processes
        shop.board.put(status_of("clicks", 9e12, lag=0, pid=before["clicks"]))
        shop.board.put(status_of("encode", 9e12, pid=1))  # of a process before this one
        told = (await shop.asked("GET")).json()
        assert told["takes_pictures"] is True
        assert told["processes"] == [
            {"name": "encode", "state": "running", "at_work": False, "waiting": 3},  # it has said nothing yet itself
            {"name": "clicks", "state": "running", "at_work": True, "waiting": 0},
        ]
        stopped = await shop.asked("POST", "/processes/encode/stop", json={})
        assert [one["state"] for one in stopped.json()["processes"]] == ["held", "running"]
        assert set(supervisor.processes) == {"clicks", "index-api"}
        await asyncio.sleep(0.05)
        assert "encode" not in supervisor.processes, "the supervisor has left it stopped"
        assert (await shop.asked("POST", "/processes/encode/start", json={})).status_code == 200
        async with asyncio.timeout(10):
            while "encode" not in supervisor.processes:
                await asyncio.sleep(0.01)
        after = supervisor.processes
        assert after["encode"] != before["encode"]
        assert after["clicks"] == before["clicks"]
        for other in ("index-api", "broker", "7"):
            answer = await shop.asked("POST", f"/processes/{other}/stop", json={})
            assert answer.status_code == 404
            assert f"no process '{other}' may be stopped" in answer.json()["detail"]
        for path in ("/processes/clicks/stop", "/products"):
            foreign = await shop.asked("POST", path, content=b"{}")
            assert foreign.status_code in (415, 422), "as a page of another site could send it"
        assert supervisor.processes == after


async def test_nobody_else_may_order_and_what_is_no_order_is_not_answered(shop: DemoShop) -> None:
    path = shop.settings.demo_orders
    assert path is not None
    async with supervised(shop) as supervisor:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        before = supervisor.processes
        for line in (b"stop\n", b"\n", b"x" * 10_000 + b"\n", b""):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(line)
            with contextlib.suppress(OSError):
                writer.write_eof()
                assert await reader.read() == b""
            writer.close()
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'["stop"]\n')
        assert b'"encode":{"state":"running"' in await reader.readline(), "it is taken as a question"
        writer.close()
        assert supervisor.processes == before
    assert not path.exists()
    with pytest.raises(OrdersUnavailable, match="the supervisor takes no orders"):
        await Orders(path).tell()
    away = await shop.asked("GET")
    assert (away.status_code, away.headers["retry-after"]) == (503, "5")
    assert "is `freshet demo` ending?" in away.json()["detail"]


async def test_each_route_needs_its_scope_and_where_no_demo_runs_there_is_nothing(
    shop: DemoShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "KNOWN_FOR_S", 0.0)
    keys = KeyStore(shop.products.engine)
    told = {scope: keys.make(scope, [scope])[1] for scope in ("read", "write")}
    for method, path, may, may_not in (
        ("GET", "", "read", "write"),
        ("POST", "/products", "write", "read"),
        ("POST", "/processes/encode/stop", None, "write"),
        ("POST", "/processes/encode/start", None, "read"),
    ):
        assert (await shop.asked(method, path, told[may_not], json={})).status_code == 403
        if may is not None:
            assert (await shop.asked(method, path, told[may], json={})).status_code in (422, 503)
    (tmp_path / "other").mkdir()
    other = AskedShop(tmp_path / "other", ReplicasAtHand())
    other.vectors.close()
    async with other.client() as client:
        assert (await client.get("/v1/demo")).status_code == 404
        assert (await client.post("/v1/demo/products", json=LAMP)).status_code == 404


def test_a_path_that_no_socket_can_have_is_told() -> None:
    assert fits(Path("/" + "x" * (PATH_MAX_BYTES - 1)))
    assert not fits(Path("/" + "é" * (PATH_MAX_BYTES // 2)))


# --- own products ------------------------------------------------------------------------------------------------


async def test_an_own_product_goes_through_the_door_with_its_picture(shop: DemoShop) -> None:
    answer = await shop.asked("POST", "/products", json={**LAMP, "picture": picture()})
    assert answer.status_code == 202, answer.json()
    (message,) = shop.published
    assert message.topic == shop.names.catalog_updates
    upsert = parse_catalog_update(message.key, message.value)
    assert isinstance(upsert, ProductUpsert)
    assert upsert.product_id == answer.json()["product_id"]
    assert upsert.product_id.startswith("yours-my-lamp-")
    assert (upsert.title, upsert.price and upsert.price.amount) == ("My lamp", 25.0)
    assert shop.settings.pictures_root is not None
    stored = decode((shop.settings.pictures_root / upsert.image_links[0]).read_bytes(), 10_000)
    assert isinstance(stored, Picture)
    assert stored.array.shape == (40, 60, 3)
    assert np.abs(stored.array.astype(int) - (200, 10, 10)).max() < 12
    plain = await shop.asked("POST", "/products", json={"title": "«»"})
    assert plain.json()["product_id"].startswith("yours-product-")
    assert len(shop.published) == 2


async def test_what_is_no_product_is_refused_and_nothing_published(
    shop: DemoShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong, why in (
        ({"title": "  "}, "title"),
        ({**LAMP, "price": -1}, "price"),
        ({**LAMP, "picture": "%"}, "picture: it is not base64"),
        ({**LAMP, "picture": b64encode(b"GIF89a").decode()}, "picture: "),
        ({"title": "a\0b"}, "NUL"),
        ({**LAMP, "stock": 3}, "stock"),
    ):
        answer = await shop.asked("POST", "/products", json=wrong)
        assert answer.status_code == 422
        assert why in answer.json()["detail"]
    monkeypatch.setattr(demo_products, "PICTURES_MAX", 0)
    full = await shop.asked("POST", "/products", json={**LAMP, "picture": picture()})
    assert (full.status_code, "start it anew" in full.json()["detail"]) == (409, True)
    assert shop.published == []


async def test_of_a_product_that_did_not_come_no_picture_stays(shop: DemoShop, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = await shop.asked("POST", "/products", json={"title": "a\0b", "picture": picture()})
    assert (wrong.status_code, "NUL" in wrong.json()["detail"]) == (422, True)
    folder = shop.settings.home / "shop" / demo_products.FOLDER
    assert not folder.exists()

    async def away(_: list[Outgoing]) -> list[Any]:
        assert len(list(folder.iterdir())) == 1, "it lies there before its product is told of"
        raise BrokerUnavailable("no answer")

    monkeypatch.setattr(shop.publisher, "publish", away)
    for _ in range(2):
        assert (await shop.asked("POST", "/products", json={**LAMP, "picture": picture()})).status_code == 503
    assert list(folder.iterdir()) == []


async def test_nothing_is_stored_in_a_shops_own_folder(tmp_path: Path) -> None:
    (folder := tmp_path / "shop").mkdir()
    (home := tmp_path / "home").mkdir()
    shop = DemoShop(home, pictures_root=folder)
    shop.vectors.close()
    async with supervised(shop):
        assert (await shop.asked("GET")).json()["takes_pictures"] is False
    refused = await shop.asked("POST", "/products", json={**LAMP, "picture": picture()})
    assert (refused.status_code, "publish without a picture" in refused.json()["detail"]) == (409, True)
    assert (await shop.asked("POST", "/products", json=LAMP)).status_code == 202
    assert not list(folder.iterdir())
