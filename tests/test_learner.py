"""The learner on a real broker: examples in, factors out, one learner at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from brokers import MakeSettings, broker_settings, tansu_fixture  # noqa: F401
from examples import Topics, example

from encoders.next_click_training import FactorsDiverged
from store.database import open_database
from store.leases import LeaseLost, take_lease
from streams.broker import Broker, Publisher
from streams.embedded_broker import EmbeddedBroker
from streams.example_reader import ExampleReader
from streams.learner import Learner
from streams.model_events import ItemFactors, ModelWeights
from streams.ports import free_port
from streams.settings import Settings
from streams.shelf import Shelf

WITHIN_S = 30.0


@pytest.fixture(name="settings")
def settings_fixture(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> Settings:  # noqa: F811
    return broker_settings(tansu, partitions=2, learn_replays=1, checkpoint_every_s=0.2, lease_s=3.0)


@pytest.fixture(name="topics")
def topics_fixture(settings: Settings) -> Iterator[Topics]:
    topics = Topics(settings)
    yield topics
    topics.close()


class Running:
    """A learner that runs in this process until the block ends."""

    def __init__(self, settings: Settings, topics: Topics) -> None:
        self.engine = open_database(None, settings.home, "learner", settings.namespace)
        self._publisher = Publisher(topics.broker)
        self.learner = Learner(settings, topics.names, topics.broker, self._publisher, self.engine)

    async def __aenter__(self) -> "Running":
        self.task = asyncio.create_task(self.learner.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.learner.stop()
        await asyncio.wait({self.task})
        await self._publisher.stop()
        self.engine.dispose()

    def fact(self, name: str) -> Any:
        status = self.learner.status()
        return status["details"].get(name, status.get(name))

    async def until(self, **facts: Any) -> None:
        """The status says this. Raises what ended the learner, or AssertionError."""
        deadline = time.monotonic() + WITHIN_S
        while any(self.fact(name) != value for name, value in facts.items()):
            if self.task.done():
                self.task.result()
            assert time.monotonic() < deadline, f"not {facts} but {self.learner.status()}"
            await asyncio.sleep(0.02)

    async def until_published(self) -> None:
        """All that was learned is published."""
        await self.until(lag=0, rows_to_publish=0)
        await asyncio.sleep(1.2)  # two turns


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(_awaited(scenario), 2 * WITHIN_S))


async def _awaited(scenario: Callable[[], Awaitable[None]]) -> None:
    await scenario()


def factors(topics: Topics) -> list[tuple[str, dict[str, Any] | None]]:
    found = topics.read(topics.names.item_factors)
    for _, value in found:
        if value is not None:
            ItemFactors.model_validate(value)
    return found


def weights(topics: Topics) -> list[ModelWeights]:
    found = topics.read(topics.names.model_weights)
    return [ModelWeights.model_validate(value) for key, value in found if key == "next-click"]


def test_examples_become_factors_and_after_a_restart_every_row_comes_under_a_higher_epoch(
    settings: Settings, topics: Topics
) -> None:
    topics.put_products({"a": None, "b": None, "c": None})
    topics.put_examples([example(n, "a", "b") for n in range(5)], partition=0)
    topics.put_examples([example(n, "b", "a", partition=1) for n in range(3)], partition=1)

    async def scenario() -> None:
        async with Running(settings, topics) as one:
            await one.until(events=8, state="running")
            await one.until_published()
            assert (one.fact("epoch"), one.fact("products"), one.fact("duplicates")) == (1, 3, 0)
            assert one.fact("newest_example_age_s") < WITHIN_S
            first = factors(topics)
            await asyncio.sleep(1.5)
            assert factors(topics) == first  # nothing was learned since
        async with Running(settings, topics) as two:
            await two.until(state="running")
            assert (two.fact("epoch"), two.fact("examples"), two.fact("events")) == (2, 8, 0)

    run(scenario)
    clicks = {key: value["clicks"] for key, value in factors(topics) if value is not None and value["epoch"] == 1}
    assert clicks == {"a": 5, "b": 3, "c": 0}
    again = [key for key, value in factors(topics) if value is not None and value["epoch"] == 2]
    assert sorted(again) == ["a", "b", "c"]
    versions = [(record.epoch, record.sequence) for record in weights(topics)]
    assert versions == sorted(versions)
    assert (weights(topics)[-1].epoch, weights(topics)[-1].examples) == (2, 8)


def test_what_the_learner_publishes_fills_a_shelf(settings: Settings, topics: Topics) -> None:
    topics.put_products({"a": None, "b": None})
    topics.put_examples([example(0, "a", "b")])

    async def scenario() -> None:
        async with Running(settings, topics) as one:
            await one.until(events=1)
            await one.until_published()
            learning = one.learner._now_learning
            context, target, bias = learning.model.vectors(np.array([learning.rows["a"]], np.int32))
            shelf = Shelf()
            consumer = topics.broker.sync_consumer()
            consumer.subscribe([topics.names.item_factors, topics.names.model_weights])
            while shelf.weights is None or not {"a", "b"} <= shelf.rows.keys():
                for some in consumer.poll(timeout_ms=50).values():
                    for record in some:
                        put = shelf.put_factors if record.topic == topics.names.item_factors else shelf.put_weights
                        put(record.key, record.value, record.headers)
            consumer.close()
            row = shelf.rows["a"]
            np.testing.assert_array_equal(shelf.context[row], context[0])
            np.testing.assert_array_equal(shelf.target[row], target[0])
            assert (shelf.bias[row], shelf.clicks[row]) == (bias[0], 1)

    run(scenario)


def test_a_product_that_comes_is_published_at_once_and_one_that_goes_is_withdrawn(
    settings: Settings, topics: Topics
) -> None:
    topics.put_products({"a": None})

    async def scenario() -> None:
        async with Running(settings, topics) as one:
            await one.until(products=1, state="running")
            topics.put_examples([example(0, "new", "a"), b"not an example"])
            await one.until(waiting_examples=1, malformed=1)
            topics.put_products({"new": None})
            await one.until(events=1, waiting_examples=0)
            topics.delete_product("a")
            await one.until(products=1)
            await one.until_published()

    run(scenario)
    found = factors(topics)
    assert [value is None for key, value in found if key == "a"][-1]
    assert [value["clicks"] for key, value in found if key == "new" and value is not None][-1] == 1


def test_before_the_first_read_the_backlog_counts_from_the_checkpoint_s_offsets(topics: Topics) -> None:
    topics.put_examples([example(n, "a", "b") for n in range(5)], partition=0)
    topics.put_examples([example(n, "a", "b", partition=1) for n in range(3)], partition=1)

    async def scenario() -> None:
        reader = ExampleReader(topics.broker, topics.names.training_examples)
        await reader.open()
        await reader.seek({0: 4})
        assert reader.lag == 1 + 3
        await asyncio.sleep(0.1)
        assert 0.1 <= reader.oldest_age_s < WITHIN_S
        read = []
        while len(read) < 4:
            read += await reader.read(100, wait=True)
        assert sorted((record.partition, record.offset) for record in read) == [(0, 4), (1, 0), (1, 1), (1, 2)]
        assert reader.lag == 0
        await reader.seek({0: 5, 1: 3})
        assert (reader.lag, reader.oldest_age_s) == (0, 0.0)
        await reader.close()

    run(scenario)


def test_the_status_counts_the_records_that_the_view_of_the_products_skipped(
    settings: Settings, topics: Topics
) -> None:
    topics.put_products({"a": None})
    producer = topics.broker.sync_producer()
    producer.send(topics.names.product_index, key=b"b", value=b"garbage").get(10)
    producer.close()

    async def scenario() -> None:
        async with Running(settings, topics) as one:
            await one.until(state="running", products=1)
            assert (one.fact("replica_malformed"), one.fact("malformed")) == (1, 0)

    run(scenario)


def test_a_second_learner_waits_until_the_first_has_stopped(settings: Settings, topics: Topics) -> None:
    topics.put_products({"a": None, "b": None})

    async def scenario() -> None:
        async with Running(settings, topics) as one:
            await one.until(state="running")
            async with Running(settings.model_copy(update={"worker_id": "w2"}), topics) as two:
                await two.until(state="waiting", reason="another learner holds the lease")
                topics.put_examples([example(0, "a", "b")])
                await one.until(events=1)
                assert two.fact("epoch") == 0
                one.learner.stop()
                await two.until(state="running", epoch=2, examples=1)

    run(scenario)


def test_a_learner_whose_lease_may_have_expired_asks_before_it_publishes(settings: Settings, topics: Topics) -> None:
    """As after a freeze: its own clock says that the lease is over, and another learner has taken it."""
    topics.put_products({"a": None, "b": None})
    slow = settings.model_copy(update={"lease_s": 60.0, "checkpoint_every_s": 60.0})

    async def scenario() -> None:
        async with Running(slow, topics) as one:
            await one.until(state="running")
            before = factors(topics)
            taken = take_lease(one.engine, one.learner._lease.name, "w2", ttl_s=60, now=time.time() + 61)
            assert taken == 2
            one.learner._lease._expires_at = time.time()
            topics.put_examples([example(0, "a", "b")])
            with pytest.raises(LeaseLost, match="epoch 1 of the lease"):
                await one.until(state="never")
            assert factors(topics) == before

    run(scenario)


def test_a_learner_that_diverges_goes_back_once_and_ends_when_it_happens_again(
    settings: Settings, topics: Topics
) -> None:
    topics.put_products({"a": None, "b": None})

    def break_it(learner: Learner) -> None:
        learner._now_learning.model._p.context[:] = np.nan

    async def scenario() -> None:
        async with Running(settings, topics) as one:
            topics.put_examples([example(0, "a", "b")])
            await one.until(events=1)
            break_it(one.learner)
            topics.put_examples([example(1, "a", "b"), example(2, "b", "a")])
            await one.until(examples=3, lag=0)  # it went back, and learned all of them
            await one.until_published()
            one.learner._diverged_at = 4
            break_it(one.learner)
            topics.put_examples([example(3, "a", "b")])
            with pytest.raises(FactorsDiverged, match="is not finite"):
                await one.until(state="never")

    run(scenario)
    factors(topics)  # none has a value that is not finite: there is no JSON for it


def test_a_learner_that_finds_no_broker_waits_and_stops_when_asked(settings: Settings, topics: Topics) -> None:
    nobody = settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})

    async def scenario() -> None:
        async with Running(nobody, topics) as one:
            one.learner._replica._broker = Broker(nobody)
            await one.until(state="waiting")
            while "cannot read" not in one.fact("reason"):
                await asyncio.sleep(0.05)
            assert one.fact("lag") == 0

    run(scenario)


def test_vectors_reach_the_cold_start(settings: Settings, topics: Topics) -> None:
    topics.put_products({f"p{n}": (float(n), 1.0) for n in range(3)})

    async def scenario() -> None:
        async with Running(settings, topics) as one:
            await one.until(state="running", products=3)
            assert one.learner._assortment.vectors["p2"].tolist() == [2.0, 1.0]

    run(scenario)
