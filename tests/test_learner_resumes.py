"""Whatever dies, each example is in the model once, and only the newest learner publishes."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brokers import MakeSettings, broker_settings, environment_of, tansu_fixture  # noqa: F401
from examples import Topics, example, learn_all, records, vectors
from numpy.typing import NDArray

from store.checkpoints import CheckpointStore
from store.database import open_database
from streams.assortment import Assortment
from streams.embedded_broker import EmbeddedBroker
from streams.examples import TopicIds
from streams.learning import Learning
from streams.settings import Settings
from streams.supervisor import dies_with_parent

SCRIPT = Path(__file__).parent / "learner_process.py"
WITHIN_S = 60.0
PRODUCTS = {f"p{n:02d}": (float(n % 2), float(n % 3), float(n % 5)) for n in range(40)}
CLICKS = 1_500


@pytest.fixture(name="settings")
def settings_fixture(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> Settings:  # noqa: F811
    # The process that compiles rounds otherwise than those that load what it kept: here all of them load it.
    subprocess.run([sys.executable, "-m", "streams.compiling"], check=True)
    return broker_settings(tansu, partitions=1, learn_replays=2, checkpoint_every_s=0.1, lease_s=2.0)


@pytest.fixture(name="topics")
def topics_fixture(settings: Settings) -> Iterator[Topics]:
    topics = Topics(settings)
    yield topics
    topics.close()


class Process:
    """A learner in a process of its own; what it says is kept."""

    def __init__(self, settings: Settings, *arguments: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *arguments],
                env=environment_of(settings),
                stdout=said,
                stderr=said,
                preexec_fn=dies_with_parent(),
            )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def says(self, text: str) -> bool:
        return text in self._log.read_text()

    def until_it_says(self, text: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not self.says(text):
            assert self._process.poll() is None, f"it ended: {self._log.read_text()[-3_000:]}"
            assert time.monotonic() < deadline, f"no {text!r}: {self._log.read_text()[-3_000:]}"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Its exit code, when it has ended by itself."""
        return self._process.wait(WITHIN_S)


def clicks() -> list[bytes]:
    """CLICKS examples of one partition; some come twice, as from a writer that retries, and some are unknown."""
    drawn = random.Random(5)
    names = [*PRODUCTS][:35]  # nobody clicks the last five
    made = []
    for position in range(CLICKS):
        unknown = ["not-for-sale"] if position % 100 == 99 else []
        made.append(example(position, *drawn.sample(names, 4)[: 4 - len(unknown)], *unknown))
    again = [made[0]]
    for first in range(0, CLICKS, 50):
        again += [*made[first : first + 50], *made[max(0, first - 2) : first + 10]]
    return again


def without_a_death(settings: Settings) -> tuple[dict[str, NDArray[Any]], int]:
    """What a learner knows and how many examples it learned, from the same records, when nothing happens to it."""
    assortment = Assortment()
    for product_id, fused in PRODUCTS.items():
        assortment.put_offer(product_id.encode(), b'{"revision": 1}', ())
        assortment.put_vectors(product_id.encode(), vectors(*fused), ())
    learning = Learning(assortment, TopicIds("", "", ""))
    learning.receive(records(*clicks()))
    learn_all(learning, replays=settings.learn_replays)
    return learning.checkpoint()[0], learning.model.examples


def test_a_learner_killed_again_and_again_ends_where_one_that_lived_ends(
    settings: Settings, topics: Topics, tmp_path: Path
) -> None:
    """SIGKILL at random moments, and between the checkpoint's file and its row; SIGTERM in the end."""
    topics.put_products(PRODUCTS)
    published = clicks()
    rounds, moments = 4, random.Random(time.time_ns())
    share = len(published) // rounds
    for number in range(rounds):
        # The second process dies between file and row.
        arguments = [str(tmp_path / "died")] if number == 1 else []
        with Process(settings, *arguments, log=tmp_path / f"{number}.log") as process:
            if number == 0:
                process.until_it_says("every row published")
            last = number == rounds - 1
            part = published[number * share :] if last else published[number * share : (number + 1) * share]
            topics.put_examples(part)
            if number == 1:
                assert process.end() == -signal.SIGKILL
            elif not last:
                process.until_it_says("every row published")
                time.sleep(moments.uniform(0.0, 0.6))
                process.signal(signal.SIGKILL)
            else:
                process.until_it_says("every row published")
                _until_read(settings, len(published))
                process.signal(signal.SIGTERM)
                assert process.end() == 0
    assert (tmp_path / "died").exists()
    arrays, meta = _saved(settings)
    # In a process of its own, which loads what was compiled: this one may have compiled it, for another test.
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        truth, examples = other.submit(without_a_death, settings).result()
    assert meta["examples"] == CLICKS == examples
    assert meta["positions"] == {"0": len(published)}
    for name, array in truth.items():
        np.testing.assert_allclose(arrays[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


Saved = tuple[dict[str, np.ndarray], dict[str, object]]


def _saved(settings: Settings) -> Saved:
    saved = _saved_by_now(settings)
    assert saved is not None
    return saved


def _saved_by_now(settings: Settings) -> Saved | None:
    engine = open_database(None, settings.home, "learner", settings.namespace)
    store = CheckpointStore(engine, str(settings.home / settings.namespace / "checkpoints"))
    saved = store.load(f"{settings.namespace}.learner")
    engine.dispose()
    return saved


def _until_read(settings: Settings, count: int) -> None:
    """The checkpoint is behind the last example."""
    deadline = time.monotonic() + WITHIN_S
    while (saved := _saved_by_now(settings)) is None or saved[1]["positions"] != {"0": count}:
        assert time.monotonic() < deadline, saved and saved[1]["positions"]
        time.sleep(0.1)


def test_a_learner_that_was_frozen_longer_than_its_lease_publishes_nothing_more(
    settings: Settings, topics: Topics, tmp_path: Path
) -> None:
    topics.put_products(PRODUCTS)
    one_log, two_log = tmp_path / "one.log", tmp_path / "two.log"
    second = settings.model_copy(update={"worker_id": "w2"})
    with Process(settings, log=one_log) as one, Process(second, log=two_log) as two:
        one_first = _first_of(one, two)
        frozen, other = (one, two) if one_first else (two, one)
        other.until_it_says("another learner holds the lease")
        frozen.signal(signal.SIGSTOP)
        other.until_it_says("every row published epoch=2")
        topics.put_examples([example(n, "p01", "p02") for n in range(50)])
        frozen.signal(signal.SIGCONT)
        assert frozen.end() == 1
        assert frozen.says("LeaseLost: epoch 1 of the lease")
        _until_read(settings, 50)
        time.sleep(1.0)
        other.signal(signal.SIGTERM)
        assert other.end() == 0
    epochs = [value["epoch"] for _, value in topics.read(topics.names.item_factors) if value is not None]
    assert set(epochs) == {1, 2}
    assert epochs == sorted(epochs)
    assert _saved(settings)[1]["examples"] == 50


def _first_of(one: Process, two: Process) -> bool:
    """True if the first of the two got the lease."""
    deadline = time.monotonic() + WITHIN_S
    while not (one.says("every row published") or two.says("every row published")):
        assert time.monotonic() < deadline, "neither learner got the lease"
        time.sleep(0.02)
    return one.says("every row published")
