"""Every role in real processes on Apache Kafka, killed, crashed and stopped under load: then all is as was sent."""

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import orjson
import pytest
from brokers import LocalKafka, settings_on
from system import System, Worker, running
from truth import Json, Truth, check_all, check_examples, check_letters, check_lists, check_users

from streams.shop import draw_shop

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

PRODUCTS, STAYING = 40, 30  # the others are deleted and come back; clicks are on those that stay
USERS = 60
CLICKS_PER_S, UPDATES_PER_S = 40.0, 2.0
EVENTS = ("view_item", "view_item", "select_item", "add_to_cart", "purchase")
SCRIPT = Path(__file__).parent.parent / "crashing_worker.py"


class Load:
    """A shop's events at a steady rate, with bad and odd ones among them; the truth is told of each."""

    def __init__(self, system: System, catalog: Path, *, seed: int) -> None:
        """The catalogue is published."""
        self.system = system
        self.truth = Truth()
        self._chance = random.Random(seed)
        self._catalog = [orjson.loads(line) for line in catalog.read_bytes().splitlines()]
        self._clicks = 0
        self._newest: dict[str, Json] = {}  # click of each user
        for product in self._catalog:
            self._update(product)
        system.confirm()

    def run(self, until: Callable[[], bool], within_s: float, *, updates: bool = True) -> None:
        """Events come while the condition is false; then the broker has them. Fails after within_s."""
        began, clicks, changes = time.monotonic(), 0, 0

        def goes_on() -> bool:
            nonlocal clicks, changes
            passed_s = time.monotonic() - began
            for _ in range(clicks, int(passed_s * CLICKS_PER_S)):
                self._some_click()
                clicks += 1
            for _ in range(changes, int(passed_s * UPDATES_PER_S) if updates else 0):
                self._some_update()
                changes += 1
            return until()

        self.system.until(goes_on, within_s, "what the load runs for")
        self.system.confirm()

    def run_for(self, seconds: float, *, updates: bool = True) -> None:
        ends_at = time.monotonic() + seconds
        self.run(lambda: time.monotonic() >= ends_at, seconds + 30, updates=updates)

    def end(self, within_s: float = 120.0) -> None:
        """Each user has clicked once more, everything is done, and every worker has ended in good order."""
        system = self.system
        for user_id in [user_id for user_id in self.truth.clicks if user_id.startswith("user-")]:
            self._click(user_id, "view_item")
        system.confirm()
        system.until_quiet(within_s)
        system.until_learned(self.truth.learned, within_s)
        assert system.unasked_ends() == {}
        assert set(system.end_all().values()) == {0}

    # --- clicks ------------------------------------------------------------------------------------------------------

    def _some_click(self) -> None:
        user_id = f"user-{self._chance.randrange(USERS)}"
        match self._chance.randrange(200):
            case 0:
                self._bad(self.system.names.user_clicks, user_id, b'{"event_id": "cut of')
            case 1:
                self._bad(self.system.names.user_clicks, user_id, orjson.dumps(self._made(user_id, "teleport")))
            case 2 | 3 if user_id in self._newest:  # its publisher was not sure that it had come
                self._send_click(user_id, self._newest[user_id])
            case 4:
                stray = self._made(f"stray-{self._clicks}", "view_item")
                self._send_click(user_id, stray)  # under the key of another user
                self.truth.redirected.add(stray["user_id"])
            case 5:
                leaver = f"leaver-{self._clicks}"
                self._click(leaver, "purchase")
                self._click(leaver, "view_item")
                self.system.send(self.system.names.user_clicks, leaver.encode(), None)
                self.truth.forget(leaver)
            case _:
                self._click(user_id, self._chance.choice(EVENTS))

    def _click(self, user_id: str, event: str) -> None:
        self._newest[user_id] = click = self._made(user_id, event)
        self._send_click(user_id, click)

    def _made(self, user_id: str, event: str) -> Json:
        self._clicks += 1
        return {
            "event_id": f"click-{self._clicks}",
            "user_id": user_id,
            "product_id": self._chance.choice(self._catalog[:STAYING])["product_id"],
            "event": event,
            "occurred_at": datetime.now(UTC).isoformat(),
        }

    def _send_click(self, key: str, click: Json) -> None:
        self.truth.click(click)
        self.system.send(self.system.names.user_clicks, key.encode(), orjson.dumps(click))

    # --- the catalogue -----------------------------------------------------------------------------------------------

    def _some_update(self) -> None:
        place = self._chance.randrange(PRODUCTS)
        product = self._catalog[place]
        product_id = product["product_id"]
        if self.truth.products[product_id] is None:
            self._update(product)
        elif place >= STAYING and self._chance.random() < 0.5:
            self._update({"op": "delete", "product_id": product_id})
        else:
            self._update({"op": "patch", "product_id": product_id, **self._change(product)})
        if self._chance.random() < 0.05:
            patch = {"op": "patch", "product_id": "never-sold", "availability": "in_stock", "title": f"{place}"}
            self._bad(self.system.names.catalog_updates, "never-sold", orjson.dumps(patch))

    def _change(self, product: Json) -> Json:
        """Of the price, the stock, or of words or pictures, which are encoded again."""
        other = self._chance.choice(self._catalog)
        return self._chance.choice(
            [
                {"price": {"amount": round(self._chance.uniform(1, 99), 2), "currency": "EUR"}},
                {"availability": self._chance.choice(["in_stock", "out_of_stock"])},
                {"title": f"{product['title']}, edition {self._chance.randrange(1000)}"},
                {"image_links": other["image_links"], "description": other["description"]},
            ]
        )

    def _update(self, update: Json) -> None:
        self.truth.update(update)
        self.system.send(self.system.names.catalog_updates, update["product_id"].encode(), orjson.dumps(update))

    def _bad(self, topic: str, key: str, value: bytes) -> None:
        self.truth.bad[topic].append(value)
        self.system.send(topic, key.encode(), value)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shop(tmp_path_factory.mktemp("shop"), PRODUCTS)


@pytest.fixture
def load(frail_kafka: LocalKafka, tmp_path: Path, catalog: Path) -> Iterator[Load]:
    settings = settings_on(
        frail_kafka, tmp_path, pictures_root=catalog.parent, shutdown_s=3.0, checkpoint_every_s=2.0, lease_s=5.0
    )
    with running(settings, nice=0) as system:
        yield Load(system, catalog, seed=7)


def test_five_rounds_of_sigkill_to_every_role_under_load_lose_nothing_and_count_nothing_twice(load: Load) -> None:
    system, chance = load.system, random.Random(5)
    system.start("catalog", "encode", "index", "clicks", "learner")
    system.start("clicks", worker_id="w2")

    def is_at_work(name: str) -> bool:
        said = system.status(name)
        return said.get("state") == "running" and said["events"] > 0

    for _ in range(5):
        for name in chance.sample(sorted(system.workers), len(system.workers)):
            load.run(partial(is_at_work, name), 120)
            load.run_for(chance.uniform(0.05, 0.7))
            system.workers[name].crash()
    load.end()
    check_all(system, load.truth)


def test_clicks_workers_that_crash_at_the_worst_moments_join_and_leave_answer_every_click_once(load: Load) -> None:
    system = load.system

    def has_crashed(worker: Worker) -> bool:
        return worker.ends == [-signal.SIGKILL]

    system.start("catalog", "index", "clicks", "learner")
    load.run(lambda: system.is_running("clicks") and system.is_running("learner"), 180, updates=False)
    for point in ("publish", "commit", "acknowledge"):
        crash = [sys.executable, str(SCRIPT), "clicks", "--before", point, "--at", "3"]
        (crashing,) = system.start("clicks", worker_id="w2", command=crash)
        load.run(partial(has_crashed, crashing), 120, updates=False)
        system.start("clicks", worker_id="w2")
        load.run(lambda: system.is_running("clicks.w2"), 120, updates=False)
    for name in ("clicks", "clicks.w2", "clicks", "clicks.w2"):
        load.run_for(0.5, updates=False)
        system.workers[name].ask_to_end()
        load.run_for(0.5, updates=False)
        assert system.workers[name].code(within_s=10) == 0
        system.workers[name].start()
        load.run(partial(system.is_running, name), 120, updates=False)
    load.end()
    check_users(system, load.truth)
    check_lists(system, load.truth)
    check_examples(system, load.truth)
    check_letters(system, load.truth)


def test_a_sigterm_under_load_and_in_an_outage_of_the_broker_loses_nothing(load: Load, frail_kafka: LocalKafka) -> None:
    system = load.system
    roles = ("catalog", "encode", "index", "clicks", "learner")
    outages: dict[str, Callable[[], None]] = {
        "none": lambda: None,
        "the broker freezes": frail_kafka.pause,
        "the broker dies": frail_kafka.kill,
    }
    for outage, breaks in outages.items():
        system.start(*roles)
        load.run(lambda: all(map(system.is_running, roles)), 180)
        load.run_for(2)
        assert system.unasked_ends() == {}
        breaks()
        assert system.end_all(within_s=20) == dict.fromkeys(roles, 0), outage
        frail_kafka.mend()
    system.start(*roles)
    load.run(lambda: all(map(system.is_running, roles)), 180)
    frail_kafka.kill()  # and the roles live on
    frail_kafka.mend()
    load.run_for(2)
    load.end()
    check_all(system, load.truth)
