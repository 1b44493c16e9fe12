"""Reading back the last lists of the assigned partitions, on both brokers."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from brokers import LocalKafka, MakeSettings
from kafka.admin import NewTopic

from streams.broker import Broker, Outgoing, Publisher
from streams.embedded_broker import EmbeddedBroker
from streams.last_lists import MARGIN_S, LastLists
from streams.settings import Settings

USERS = [f"user-{number}" for number in range(40)]


@pytest.fixture(params=["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> EmbeddedBroker | LocalKafka:
    found: EmbeddedBroker | LocalKafka = request.getfixturevalue(request.param)
    return found


class Lists:
    """A topic of lists beside one of clicks, and what is read back."""

    def __init__(self, settings: Settings, *, clicks_partitions: int, partitions: int) -> None:
        self.broker = Broker(settings)
        self.clicks, self.topic = (f"{settings.namespace}.{name}" for name in ("clicks", "lists"))
        counts = {self.clicks: clicks_partitions, self.topic: partitions}
        with self.broker.admin() as admin:
            admin.create_topics([NewTopic(topic, count, 1) for topic, count in counts.items()])
            admin.wait_for_topics(list(counts), timeout_ms=20_000)

    def reader(self, *, window_s: float = 3_600.0, most: int = 1_000) -> LastLists:
        return LastLists(self.broker, lists=self.topic, clicks=self.clicks, window_s=window_s, most=most)

    async def publish(self, revision: int, user_ids: list[str] = USERS) -> None:
        publisher = Publisher(self.broker)
        values = [Outgoing(self.topic, user.encode(), orjson.dumps({"revision": revision})) for user in user_ids]
        await publisher.publish(values)
        await publisher.stop()

    async def read(self, reader: LastLists, partitions: set[int], *, at: float | None = None) -> dict[str, int]:
        """The revision found of each user, when all is read."""
        reader.found.clear()
        reader.read_back(partitions, time.time() if at is None else at)
        deadline = time.monotonic() + 30
        while reader.is_reading:
            assert time.monotonic() < deadline, "the lists are not read"
            await asyncio.sleep(0.02)
        reader.check()
        assert {found.partition for found in reader.found.values()} <= partitions
        return {user_id: orjson.loads(found.value)["revision"] for user_id, found in reader.found.items()}


@pytest.fixture
def lists_of(broker: Any, broker_settings: MakeSettings) -> Callable[..., Lists]:
    return lambda **counts: Lists(broker_settings(broker), **({"clicks_partitions": 4, "partitions": 4} | counts))


@pytest.mark.parametrize("partitions", [4, 3], ids=["as many as clicks", "another number"])
def test_the_last_list_of_each_user_of_the_partitions_is_found_and_of_no_other(
    lists_of: Callable[..., Lists], partitions: int
) -> None:
    async def scene() -> None:
        lists = lists_of(partitions=partitions)
        reader = lists.reader()
        assert await lists.read(reader, {0, 1, 2, 3}) == {}
        for revision in (1, 2, 3):
            await lists.publish(revision)
        halves = [await lists.read(reader, some) for some in ({0, 1}, {2, 3})]
        assert {**halves[0], **halves[1]} == dict.fromkeys(USERS, 3)
        assert not halves[0].keys() & halves[1].keys()
        assert len(halves[0]) > 5
        await reader.stop()

    asyncio.run(scene())


def test_what_is_older_than_the_window_is_not_read(lists_of: Callable[..., Lists]) -> None:
    async def scene() -> None:
        lists = lists_of()
        await lists.publish(1)
        reader = lists.reader(window_s=100.0)
        assert await lists.read(reader, {0, 1, 2, 3}, at=time.time() + 101.0 + MARGIN_S) == {}
        assert len(await lists.read(lists.reader(window_s=100.0), {0, 1, 2, 3}, at=time.time() + 80.0)) == len(USERS)
        await reader.stop()

    asyncio.run(scene())


def test_a_partition_that_stays_is_read_from_where_it_was_known_and_a_lost_one_anew(
    lists_of: Callable[..., Lists],
) -> None:
    async def scene() -> None:
        lists = lists_of()
        await lists.publish(1)
        reader = lists.reader()
        both = await lists.read(reader, {0, 1})
        reader.known(time.time() + 2 * MARGIN_S)
        assert await lists.read(reader, {0, 1}) == {}
        reader.known(time.time() + 2 * MARGIN_S)
        assert await lists.read(reader, {1}) == {}
        reader.known(time.time() + 2 * MARGIN_S)
        assert await lists.read(reader, {0, 1}) == await lists.read(lists.reader(), {0})
        assert len(both) > 5
        await reader.stop()

    asyncio.run(scene())


@pytest.mark.kafka
def test_no_more_records_are_read_than_there_is_room_for(kafka: LocalKafka, broker_settings: MakeSettings) -> None:
    async def scene() -> None:
        lists = Lists(broker_settings(kafka), clicks_partitions=1, partitions=1)
        for revision in (1, 2):
            await lists.publish(revision)
        reader = lists.reader(most=50)
        found = await lists.read(reader, {0})
        assert reader.read == 50
        assert found == dict.fromkeys(USERS, 2)
        await reader.stop()

    asyncio.run(scene())


def test_nothing_is_found_before_all_is_read_and_what_was_listed_last_comes_first(
    lists_of: Callable[..., Lists], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        monkeypatch.setattr("streams.last_lists.RECORDS_AT_ONCE", 5)
        lists = lists_of(clicks_partitions=1, partitions=1)
        await lists.publish(1)
        await lists.publish(2, USERS[:3])
        reader = lists.reader()
        reader.read_back({0}, time.time())
        while reader.is_reading:
            assert not reader.found
            await asyncio.sleep(0)
        assert [reader.found.popitem()[0] for _ in USERS[:4]] == ["user-2", "user-1", "user-0", "user-39"]
        await reader.stop()

    asyncio.run(scene())


def test_an_unexpected_end_of_the_reader_is_told(tmp_path: Path) -> None:
    async def scene() -> None:
        reader = LastLists(Broker(Settings(home=tmp_path)), lists="l", clicks="c", window_s=1.0, most=1)
        reader.check()
        reader._broker = None  # type: ignore[assignment]
        reader.read_back({0}, 0.0)
        while reader.is_reading:
            await asyncio.sleep(0)
        with pytest.raises(AttributeError, match="consumer"):
            reader.check()

    asyncio.run(scene())
