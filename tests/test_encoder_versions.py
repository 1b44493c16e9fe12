"""Another version of the encoders in a running shop: filled beside the one that serves, killed, switched to, and back.

Real processes on either broker and the embedded vector store; the encoders alone are such as take no time.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from brokers import MakeSettings, environment_of
from tiny_encoders import tiny_vector
from typer.testing import CliRunner

from encoders.product import product_content
from encoders.weights import fingerprint_of, widths_of
from store.encoders import EncoderRow
from streams.broker import Broker
from streams.cli import app
from streams.ports import free_port
from streams.roles import Parts
from streams.settings import Settings
from streams.supervisor import dies_with_parent
from streams.topics import create_topics, topic_names

pytestmark = pytest.mark.timeout(400)

SCRIPT = Path(__file__).parent / "tiny_worker.py"
REPOSITORY = Path(__file__).parent.parent
B, WIDTHS = "bb22cc33dd44", {"image": 4, "text": 4, "fused": 8}
PAUSE_S = 0.03  # that a product takes the version which is filled
PRODUCTS = 90
ALIKE = 4
WITHIN_S = 90.0


class Shop:
    """The roles as processes, and what is known of each product."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.parts = Parts(settings)
        self.names, self.encoders = self.parts.names, self.parts.encoders
        self.a = fingerprint_of(settings.image_encoder, settings.text_encoder)
        self.widths = widths_of(settings.image_encoder, settings.text_encoder)
        self.titles: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        create_topics(settings, self.names)
        self._producer = Broker(settings).sync_producer()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{settings.api_port}", trust_env=False, timeout=20)

    def start(self, *groups: str) -> None:
        for group in groups:
            with (self.settings.home / f"{group}.log").open("ab") as log:
                self._processes[group] = subprocess.Popen(
                    [sys.executable, str(SCRIPT), str(PAUSE_S), *group.split(",")],
                    env=environment_of(self.settings) | {"PYTHONPATH": str(REPOSITORY)},
                    stdout=log,
                    stderr=log,
                    preexec_fn=dies_with_parent(),
                )

    def kill(self, *groups: str) -> None:
        for group in groups:
            os.kill(self._processes[group].pid, signal.SIGKILL)
            self._processes[group].wait()

    def close(self) -> dict[str, int]:
        """The exit codes of all who were asked to end."""
        for process in self._processes.values():
            process.terminate()
        codes = {group: process.wait(40) for group, process in self._processes.items()}
        self._client.close()
        self._producer.close()
        return codes

    def publish(self, count: int) -> None:
        for number in range(len(self.titles), len(self.titles) + count):
            product_id, title = f"p{number}", f"Thing number {number}"
            self.titles[product_id] = title
            update = {"op": "upsert", "product_id": product_id, "title": title}
            self._producer.send(self.names.catalog_updates, key=product_id.encode(), value=orjson.dumps(update))
        self._producer.flush()

    def get(self, path: str) -> Any:
        response = self._client.get(path)
        response.raise_for_status()
        return response.json()

    def versions(self) -> dict[str, dict[str, Any]]:
        return {version["fingerprint"]: version for version in self.get("/v1/encoders")}

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                if condition():
                    return
            except (httpx.HTTPError, KeyError):
                pass
            if time.monotonic() > deadline:
                said = [f"--- {path.name}\n{path.read_text()[-1_500:]}" for path in self.settings.home.glob("*.log")]
                pytest.fail(f"not within {WITHIN_S:g} s: {what}\n" + "\n".join(said), pytrace=False)
            time.sleep(0.05)

    def until_encoded(self, fingerprint: str) -> None:
        self.until(lambda: self.versions()[fingerprint]["encoded"] == len(self.titles), f"all encoded by {fingerprint}")

    def alike(self, product_id: str) -> tuple[str, ...]:
        items = self.get(f"/v1/products/{product_id}/similar?limit={ALIKE}")["items"]
        return tuple(item["product_id"] for item in items)

    def expected(self, product_id: str, fingerprint: str) -> tuple[str, ...]:
        """Its neighbours among all products by this version alone."""
        width = WIDTHS["fused"] if fingerprint == B else self.widths["fused"]
        texts = {key: product_content(title=title).text for key, title in self.titles.items()}
        vectors = {key: tiny_vector(fingerprint, text, width) for key, text in texts.items()}
        cosines = {key: float(vectors[product_id] @ vector) for key, vector in vectors.items() if key != product_id}
        return tuple(sorted(cosines, key=lambda key: -cosines[key])[:ALIKE])

    def command(self, *words: str) -> str:
        """What `freshet encoders ...` says; it must succeed."""
        env = {name: value for name, value in environment_of(self.settings).items() if name.startswith("FRESHET_")}
        result = CliRunner().invoke(app, ["encoders", *words], env=env)
        assert result.exit_code == 0, (words, result.output, result.exception)
        return result.output


# On the embedded broker live/test_training_guide.py switches.
@pytest.fixture(params=[pytest.param("kafka", marks=pytest.mark.kafka)])
def shop(request: pytest.FixtureRequest, broker_settings: MakeSettings) -> Iterator[Shop]:
    broker = request.getfixturevalue(request.param)
    shop = Shop(broker_settings(broker, api_port=free_port(), partitions=2, shutdown_s=3.0, encode_batch=16))
    yield shop
    codes = shop.close()
    assert set(codes.values()) <= {0, -signal.SIGTERM}, codes


@contextmanager
def asked_without_pause(shop: Shop, product_ids: list[str]) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    """Three clients who ask what is like these products; their answers, and no failure."""
    answers: list[tuple[str, tuple[str, ...]]] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def ask(seed: int) -> None:
        chance = np.random.default_rng(seed)
        try:
            while not done.is_set():
                product_id = product_ids[chance.integers(len(product_ids))]
                answers.append((product_id, shop.alike(product_id)))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_version_is_filled_under_kill_9_switched_to_under_load_and_back(shop: Shop) -> None:
    shop.start("catalog", "encode", "index,api")
    shop.publish(PRODUCTS)
    shop.until_encoded(shop.a)
    assert shop.alike("p7") == shop.expected("p7", shop.a)

    shop.encoders.add(EncoderRow(B, {"image": "package:i", "text": "package:t"}, WIDTHS, {"figures": {"r_at_1": 0.5}}))
    assert f"{B} is filling" in shop.command("fill", B[:4], "--no-wait")
    for number, killed in enumerate(("encode", "index,api", "encode"), 1):
        shop.until(lambda least=number * 15: (shop.versions()[B]["encoded"] or 0) > least, "filled further")  # type: ignore[misc]
        shop.kill(killed)
        shop.publish(2)  # what is new goes to both
        shop.start(killed)
    shop.until_encoded(shop.a)
    assert f"{B} is full: `freshet encoders switch {B}`" in shop.command("fill", B)
    shop.until_encoded(B)
    assert shop.versions()[B]["lacks"] == 0

    compared = orjson.loads(shop.command("compare", shop.a, B, "--sample", "30", "--json"))
    assert [version["with_vectors"] for version in compared["versions"]] == [1.0, 1.0]
    assert (compared["compared"], compared["versions"][1]["figures"]) == (30, {"figures.r_at_1": 0.5})
    assert 0.0 < compared["jaccard"] < 0.5, "of 95 products few are near to another by both"
    assert "r_at_1" in shop.command("compare", shop.a, B)

    asked = [f"p{number}" for number in range(0, PRODUCTS, 9)]
    of = {fingerprint: {key: shop.expected(key, fingerprint) for key in asked} for fingerprint in (shop.a, B)}
    with asked_without_pause(shop, asked) as answers:
        for fingerprint, words in ((B, ("switch", B)), (shop.a, ("rollback",)), (B, ("rollback",))):
            shop.until(lambda: len(answers) > 30, "some answers")
            answers.clear()
            assert f"{fingerprint} serves" in shop.command(*words)
            assert shop.alike("p0") == of[fingerprint]["p0"], "at once"
            shop.until(lambda: len(answers) > 60, "more answers")
            time.sleep(1.5)  # until every role has heard of it
            mixed = [(key, found) for key, found in answers if found not in (of[shop.a][key], of[B][key])]
            assert mixed == []
            late = answers[-20:]
            assert all(found == of[fingerprint][key] for key, found in late)
    shop.until(lambda: shop.parts.products.read(["p3"])["p3"].encoder == B, "noted in the rows")
    shop.publish(1)
    shop.until_encoded(B)
    shop.until_encoded(shop.a)


def test_a_switch_that_died_before_it_moved_the_alias_is_carried_on_and_what_is_removed_is_gone(shop: Shop) -> None:
    shop.start("catalog", "encode", "index,api")
    shop.publish(20)
    shop.until_encoded(shop.a)
    shop.encoders.add(EncoderRow(B, {"image": "package:i", "text": "package:t"}, WIDTHS))
    shop.command("fill", B)
    shop.encoders.switch(B)  # and the command dies
    shop.until(lambda: shop.alike("p1") == shop.expected("p1", B), "readers see what serves")
    assert f"{shop.a} serves" in shop.command("rollback")
    assert "is idle" in shop.command("stop", B)
    shop.until(lambda: shop.get("/v1/status")["roles"]["encode"]["details"].get("filling") is None, "no more filled")
    shop.publish(1)
    shop.until_encoded(shop.a)
    time.sleep(1)
    assert shop.versions()[B]["lacks"] == 1
    assert f"{B} is removed" in shop.command("remove", B)
    shop.until(lambda: B not in shop.versions(), "unknown")
    folder = shop.settings.home / "vectors" / f"{shop.settings.namespace}-products-{B}"
    shop.until(lambda: not folder.exists(), "its collection is dropped")
    topic = topic_names(shop.settings, B).product_vectors
    assert shop.parts.broker.topic_ids([topic]) == {}
    assert shop.alike("p1") == shop.expected("p1", shop.a)
