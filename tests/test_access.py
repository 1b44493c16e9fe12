"""Who may ask the api: keys by scope and rate, sizes, names, over HTTP with real stores."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asked_shop import AskedShop, ReplicasAtHand
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from typer.testing import CliRunner

from store.database import open_database, reading
from store.keys import KeyStore, UnknownKey, parts_of
from store.records import StoreUnavailable
from streams.api import access
from streams.api.access import NoKeys, host_of
from streams.cli import app
from streams.ports import names_loopback

PATHS = {
    "read": ("GET", "/v1/users/ann/recommendations"),
    "admin": ("GET", "/v1/status"),
}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[AskedShop]:
    shop = AskedShop(tmp_path, ReplicasAtHand())
    shop.fill()
    asyncio.run(shop.api.views.fill())
    yield shop
    shop.vectors.close()


@pytest.fixture
def keys(shop: AskedShop) -> KeyStore:
    return KeyStore(shop.products.engine)


def send(shop: AskedShop, method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        async with shop.client() as client:
            return await client.request(method, path, headers=headers, **more)

    return asyncio.run(ask())


def codes(shop: AskedShop, key: str | None) -> dict[str, int]:
    return {scope: send(shop, *asked, key).status_code for scope, asked in PATHS.items()}


# --- keys --------------------------------------------------------------------------------------------------------


def test_a_key_opens_what_its_scope_allows_and_nothing_else_once_there_is_one(
    shop: AskedShop, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "KNOWN_FOR_S", 0.0)
    assert codes(shop, None) == {"read": 200, "admin": 200}, "on this machine, while no key was made"
    reads, admin = keys.make("web", ["read"])[1], keys.make("ops", ["admin"])[1]
    writes = keys.make("till", ["write"])[1]
    assert codes(shop, None) == {"read": 401, "admin": 401}
    assert codes(shop, reads) == {"read": 200, "admin": 403}
    assert codes(shop, writes) == {"read": 403, "admin": 403}
    assert codes(shop, admin) == {"read": 200, "admin": 200}
    for wrong in (reads + "x", reads.replace("fk_", "fk_0"), "fk_", "nothing", "fk_a_b"):
        told = send(shop, *PATHS["read"], wrong)
        assert (told.status_code, told.headers["www-authenticate"]) == (401, "Bearer")
        assert told.json()["detail"] == "the key is not known: send `Authorization: Bearer KEY`"
    assert "may not admin: ask with one" in send(shop, *PATHS["admin"], reads).json()["detail"]
    assert send(shop, "GET", "/healthz").status_code == 200, "a supervisor has no key"
    keys.remove(parts_of(reads)[0])  # type: ignore[index]
    assert codes(shop, reads) == {"read": 401, "admin": 401}


def test_only_the_hash_of_a_key_is_kept(shop: AskedShop, keys: KeyStore) -> None:
    made, told = keys.make("web", ["read", "write"])
    secret = told.rpartition("_")[2] if told.count("_") == 2 else told.split("_", 2)[2]
    with reading(shop.products.engine) as connection:
        rows = connection.execute(text("SELECT * FROM api_keys")).all()
    assert len(rows) == 1
    assert secret not in str(rows)
    assert keys.all() == [made]
    assert made.is_opened_by(secret)
    assert not made.is_opened_by(secret[:-1])


def test_keys_that_cannot_be_are_refused(keys: KeyStore) -> None:
    for scopes in ([], ["reed"], ["read", "all"]):
        with pytest.raises(ValueError, match="a key needs scopes, any of read, write, admin"):
            keys.make("web", scopes)
    with pytest.raises(UnknownKey, match="there is no key 'x': there are none"):
        keys.remove("x")


@given(st.text(max_size=20))
def test_no_text_breaks_the_reading_of_a_key(told: str) -> None:
    parts = parts_of(told)
    assert parts is None or "_".join(["fk", *parts]) == told


def test_while_the_database_is_away_known_keys_go_on_and_unknown_ones_are_told(
    shop: AskedShop, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "KNOWN_FOR_S", 0.0)
    key = keys.make("web", ["read"])[1]

    def away() -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(shop.api._access._store, "all", away)
    assert send(shop, *PATHS["read"], key).status_code == 503
    monkeypatch.undo()
    assert send(shop, *PATHS["read"], key).status_code == 200
    monkeypatch.setattr(access, "KNOWN_FOR_S", 0.0)
    monkeypatch.setattr(shop.api._access._store, "all", away)
    assert send(shop, *PATHS["read"], key).status_code == 200


def test_while_the_database_hangs_known_keys_wait_for_it_a_moment_at_most(
    shop: AskedShop, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, removed = keys.make("web", ["read"])[1], keys.make("old", ["read"])
    hangs, answers = threading.Event(), threading.Event()

    def hang(read: Callable[[], Any] = shop.api._access._store.all) -> Any:
        hangs.set()
        answers.wait(30)
        return read()

    async def ask() -> None:
        async with shop.client() as client:

            async def code(key: str) -> int:
                answer = await client.get(PATHS["read"][1], headers={"Authorization": f"Bearer {key}"})
                return answer.status_code

            assert [await code(key), await code(removed[1])] == [200, 200]
            keys.remove(removed[0].key_id)
            monkeypatch.setattr(access, "KNOWN_FOR_S", 0.0)
            monkeypatch.setattr(shop.api._access._store, "all", hang)
            async with asyncio.timeout(20):
                assert set(await asyncio.gather(*(code(key) for _ in range(20)))) == {200}
                assert hangs.is_set()
                answers.set()
                while await code(removed[1]) != 401:  # until it was read again
                    await asyncio.sleep(0.01)
            assert await code(key) == 200

    try:
        asyncio.run(ask())
    finally:
        answers.set()


def test_readyz_tells_why_to_whoever_may_know_it(
    shop: AskedShop, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing, to everybody; why, where keys are needed, to an admin's alone."""

    def away() -> None:
        raise StoreUnavailable("Qdrant at http://10.0.0.7 does not answer", "Qdrant does not answer")

    monkeypatch.setattr(shop.vectors, "serving", away)
    assert "vectors: Qdrant at http://10.0.0.7 does not answer" in send(shop, "GET", "/readyz").json()["missing"]
    reads, admin = keys.make("web", ["read"])[1], keys.make("ops", ["admin"])[1]
    time.sleep(access.KNOWN_FOR_S + 0.1)
    for key, told in ((None, "Qdrant does"), (reads, "Qdrant does"), (admin, "Qdrant at http://10.0.0.7 does")):
        answer = send(shop, "GET", "/readyz", key)
        assert answer.status_code == 503
        assert f"vectors: {told} not answer" in answer.json()["missing"]


def test_a_key_that_asks_too_often_is_told_when_to_come_again(shop: AskedShop, keys: KeyStore) -> None:
    made, key = keys.make("web", ["read"])
    shop.api._access._requests_per_s = 3
    shop.api._access._wait_s = lambda key_id, _now: wait_s(key_id, 100.0)  # type: ignore[method-assign]
    wait_s = type(shop.api._access)._wait_s.__get__(shop.api._access)
    found = [send(shop, *PATHS["read"], key) for _ in range(7)]
    assert [one.status_code for one in found] == [200] * 6 + [429]
    assert found[-1].headers["retry-after"] == "1"
    assert "asks more than 3 times a second" in found[-1].json()["detail"]
    assert wait_s(made.key_id, 100.1) == pytest.approx((1 - 0.3) / 3)
    assert wait_s(made.key_id, 101.0) == 0.0
    assert wait_s("other", 100.0) == 0.0


# --- where it listens --------------------------------------------------------------------------------------------


def test_an_address_that_others_reach_needs_a_key_first(tmp_path: Path) -> None:
    shop = AskedShop(tmp_path, ReplicasAtHand(), api_host="0.0.0.0")
    with pytest.raises(NoKeys, match="make one with `freshet keys make NAME`"):
        asyncio.run(shop.api.run())
    assert codes(shop, None) == {"read": 401, "admin": 401}, "also where the last key is removed later"
    KeyStore(shop.products.engine).make("web", ["read"])
    shop.api._access.require_keys()
    shop.vectors.close()


def test_on_a_loopback_address_a_page_under_another_name_gets_nothing(shop: AskedShop) -> None:
    for host, code in (
        ("localhost:8470", 200),
        ("127.0.0.1", 200),
        ("[::1]:8470", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:8470", 421),
        ("", 421),
    ):
        told = send(shop, "GET", "/healthz", headers={"Host": host})
        assert told.status_code == code, host
    assert told.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("header", "host", "loopback"),
    [
        ("localhost", "localhost", True),
        ("LOCALHOST:1", "LOCALHOST", True),
        ("127.9.9.9:80", "127.9.9.9", True),
        ("[::1]:80", "::1", True),
        ("[::2]", "::2", False),
        ("0.0.0.0", "0.0.0.0", False),
        ("shop.example:443", "shop.example", False),
    ],
)
def test_names_of_this_machine_are_told_from_others(header: str, host: str, loopback: bool) -> None:
    assert (host_of(header), names_loopback(host)) == (host, loopback)


# --- how large ---------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_not_read_whatever_it_says_of_itself(shop: AskedShop) -> None:
    most = shop.settings.picture_max_bytes * 4 // 3 + 100_000
    told = send(shop, "POST", "/v1/search", content=b"x", headers={"Content-Length": str(most + 1)})
    assert (told.status_code, told.json()["status"]) == (413, 413)
    pieces: list[int] = []

    async def body() -> Any:
        for number in range(1_000):
            pieces.append(number)
            yield b" " * 1_000_000

    told = send(shop, "POST", "/v1/search", content=body(), headers={"Content-Type": "application/json"})
    assert told.status_code == 413
    assert len(pieces) < 20


# --- the commands ------------------------------------------------------------------------------------------------


def test_keys_are_made_listed_and_removed_by_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(name)

    def freshet(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["keys", *arguments], env={"FRESHET_HOME": str(tmp_path), "COLUMNS": "120"})

    assert "no key was made: everybody on this machine" in freshet("list").stdout
    made = freshet("make", "web", "--scope", "read", "--scope", "write")
    key_id, secret = parts_of(made.stdout.strip()) or ("", "")
    store = KeyStore(open_database(None, tmp_path, "products"))
    assert [(key.key_id, key.scopes, key.is_opened_by(secret)) for key in store.all()] == [
        (key_id, {"read", "write"}, True)
    ]
    assert f"{key_id} may read, write" in made.stderr
    assert all(part in freshet("list").stdout for part in (key_id, "web", "read, write"))
    assert "a key needs scopes" in freshet("make", "web", "--scope", "all").output
    assert freshet("remove", key_id).exit_code == 0
    assert store.all() == []
    assert "there is no key" in freshet("remove", key_id).stderr
