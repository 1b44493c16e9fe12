"""Look-alikes through the whole system: real roles in a process of their own, on the embedded broker."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from brokers import MakeSettings, environment_of
from shelves import factors, offer, weights
from test_clicks import click
from tiny_encoders import untrained_version

from encoders.next_click import FACTORS
from encoders.weights import fingerprint_of
from store.vectors_embedded import EmbeddedVectors
from streams.broker import Broker
from streams.embedded_broker import EmbeddedBroker
from streams.ports import free_port
from streams.settings import Settings
from streams.supervisor import dies_with_parent
from streams.topics import TopicNames, create_topics, topic_names

ROLES = """
import asyncio
from streams import user_embeddings
from streams.roles import run_roles
from streams.settings import load_settings
user_embeddings.SETTLE_S = 0.0
asyncio.run(run_roles(["clicks", "index", "api"], load_settings()))
"""
FORGOTTEN_WITHIN_S = 5.0


@pytest.fixture
def settings(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> Settings:
    return broker_settings(tansu, api_port=free_port(), partitions=1)


@pytest.fixture
def names(settings: Settings) -> TopicNames:
    names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
    create_topics(settings, names)
    return names


@contextlib.contextmanager
def worker(settings: Settings) -> Iterator[None]:
    """The three roles, until the end."""
    path = settings.home / "worker.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", ROLES],
            env=environment_of(settings),
            stdout=log,
            stderr=log,
            preexec_fn=dies_with_parent(),
        )
        try:
            yield
        finally:
            process.terminate()
            ended = process.wait(30)
    assert ended == 0, path.read_text()


def until(url: str, within_s: float, told: Callable[[httpx.Response], bool]) -> Any:
    """The first answer of which `told` is true."""
    deadline, answer = time.monotonic() + within_s, None
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(url, trust_env=False)
            if told(answer):
                return answer.json()
        time.sleep(0.05)
    pytest.fail(f"{url} says {answer and answer.text} after {within_s} s")


def names_of(answer: httpx.Response) -> list[str] | None:
    return [one["user_id"] for one in answer.json()["users"]] if answer.is_success else None


def test_a_click_leads_to_look_alikes_and_who_is_forgotten_is_among_them_no_more(
    settings: Settings, names: TopicNames
) -> None:
    producer = Broker(settings).sync_producer()
    told = untrained_version(settings)
    producer.send(names.encoders, key=told.fingerprint.encode(), value=told.model_dump_json().encode())
    for place, product_id in enumerate((b"tea", b"cup", b"axe")):
        whole = orjson.loads(offer(title=product_id.decode().title()))
        made_up = {"product_id": product_id.decode(), "brand": None, "category": [], "price": None, "changed_at": 1.0}
        also = {"availability": "in_stock", "image_links": [], "attributes": {}}
        producer.send(names.product_index, key=product_id, value=orjson.dumps(whole | made_up | also))
        row = [1.0 if at in (place, FACTORS - 1) else 0.0 for at in range(FACTORS)]
        producer.send(names.item_factors, key=product_id, value=factors(row))
    producer.send(names.model_weights, key=b"next-click", value=weights(FACTORS))
    producer.flush()
    clicked = {"ann": ["tea"], "bob": ["cup", "tea"], "eve": ["axe"]}
    for user_id, product_ids in clicked.items():
        for number, product_id in enumerate(product_ids):
            value = click(product_id, event_id=f"{user_id}-{number}", user_id=user_id)
            producer.send(names.user_clicks, key=user_id.encode(), value=value)
    producer.flush()

    with worker(settings):
        users = f"http://127.0.0.1:{settings.api_port}/v1/users"
        # Ann is (1, 0, 0, .., 1); Bob (1, .5, 0, .., 1.5); Eve (0, 0, 1, .., 1): Bob is nearer.
        made = until(f"{users}/ann/look-alikes", 90, lambda answer: names_of(answer) == ["bob", "eve"])
        assert [one["clicked"] for one in made["users"]] == [
            [{"product_id": "cup", "title": "Cup"}],
            [{"product_id": "axe", "title": "Axe"}],
        ]
        assert made["users"][1]["score"] == pytest.approx(0.5, abs=1e-5)

        forgotten = httpx.delete(f"{users}/bob", trust_env=False)
        assert (forgotten.status_code, forgotten.json()["forgotten"]) == (200, True)
        assert httpx.get(f"{users}/bob", trust_env=False).status_code == 404
        until(f"{users}/ann/look-alikes", FORGOTTEN_WITHIN_S, lambda answer: names_of(answer) == ["eve"])
        until(f"{users}/bob/look-alikes", FORGOTTEN_WITHIN_S, lambda answer: answer.status_code == 404)
        # There is one partition: who is found now was written after Bob was removed.
        zoe = {"user_id": "zoe", "product_id": "axe", "event": "view_item"}
        assert httpx.post(f"{users[:-6]}/events/clicks", json=zoe, trust_env=False).status_code == 202
        producer.close()
        until(f"{users}/ann/look-alikes", 30, lambda answer: "zoe" in (names_of(answer) or []))

    store = EmbeddedVectors(settings.home / "vectors", settings.namespace)
    everywhere = np.ones(FACTORS, np.float32)
    assert sorted(hit.user_id for hit in store.look_alikes(everywhere, 9, epoch=1)) == ["ann", "eve", "zoe"]
    store.close()
