"""Every role in real processes on Apache Kafka, killed, crashed and stopped under load: then all is as was sent."""

import random
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from brokers import LocalKafka, settings_on
from load import PRODUCTS, Load
from system import System, Worker, running
from truth import check_all, check_examples, check_letters, check_lists, check_products, check_users

from streams.ports import free_port
from streams.shop import draw_shop

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parent.parent / "crashing_worker.py"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shop(tmp_path_factory.mktemp("shop"), PRODUCTS)


@pytest.fixture
def load(frail_kafka: LocalKafka, tmp_path: Path, catalog: Path) -> Iterator[Load]:
    settings = settings_on(
        frail_kafka,
        tmp_path,
        pictures_root=catalog.parent,
        shutdown_s=3.0,
        checkpoint_every_s=2.0,
        lease_s=5.0,
        batch_max=16,
        encode_batch=8,
        api_port=free_port(),
    )
    with running(settings, nice=0) as system:
        yield Load(system, catalog, seed=7)


def answers(system: System, load: Load) -> bool:
    """The api tells what is held of a product, what is alike, and a list."""
    product_id = next(product_id for product_id, fields in load.truth.products.items() if fields is not None)
    paths = (f"v1/products/{product_id}", f"v1/products/{product_id}/similar", "v1/users/user-1/recommendations")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{system.settings.api_port}", trust_env=False) as client:
            found = [client.get(path) for path in paths]
    except httpx.TransportError:
        return False
    return all(response.status_code == 200 for response in found) and len(found[-1].json()["items"]) > 0


def test_five_rounds_of_sigkill_to_every_role_under_load_lose_nothing_and_count_nothing_twice(load: Load) -> None:
    system, chance = load.system, random.Random(5)
    system.start("catalog", "encode", "index,api", "clicks", "learner")
    system.start("clicks", worker_id="w2")

    def is_at_work(name: str) -> bool:
        said = system.status(name)
        at_work = said.get("state") == "running" and said["events"] > 0
        return at_work and ("api" not in system.workers[name].roles or answers(system, load))

    for _ in range(5):
        for name in chance.sample(sorted(system.workers), len(system.workers)):
            load.run(partial(is_at_work, name), 120)
            load.run_for(chance.uniform(0.05, 0.7))
            system.workers[name].crash()
    load.run(partial(is_at_work, "index,api"), 120)
    load.end()
    check_all(system, load.truth)


def test_catalog_encode_and_index_that_crash_at_the_worst_moments_leave_the_last_of_each_product(load: Load) -> None:
    system = load.system
    for points in (
        {"catalog": "publish", "encode": "publish", "index": "commit"},  # index publishes nothing, encode has no rows
        {"catalog": "commit", "encode": "acknowledge", "index": "acknowledge"},
        {"catalog": "acknowledge"},
    ):
        crashing: dict[str, Worker] = {}
        for role, point in points.items():
            crash = [sys.executable, str(SCRIPT), role, "--before", point, "--at", "2"]
            (crashing[role],) = system.start(role, command=crash)

        def have_crashed(crashing: dict[str, Worker] = crashing) -> bool:
            """Who has, runs again, and crashes no more."""
            for role in [role for role, worker in crashing.items() if worker.ends]:
                assert crashing.pop(role).ends == [-signal.SIGKILL], role
                system.start(role)
            return not crashing

        load.run(have_crashed, 120, clicks=False)
    load.run_for(2, clicks=False)
    system.until_quiet(120)
    assert system.unasked_ends() == {}
    assert set(system.end_all().values()) == {0}
    check_products(system, load.truth)
    check_letters(system, load.truth)


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
