"""A role's own work between its batches: whoever waits has the next turn, and an assignment that is over ends it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from streams.broker import Broker, BrokerUnavailable, Outgoing
from streams.lossless import LosslessConsumer
from streams.role import Assignment, Outcome, Role
from streams.settings import Settings


class Busy(Role[Any]):
    """Has always something to do, until `portions` are done."""

    name = "busy"
    topics = ("events",)
    aside_every_s = 0.01

    def __init__(self, portions: int) -> None:
        self.left = portions
        self.asked: list[Assignment] = []
        self.committed = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def aside(self, assignment: Assignment) -> Outcome | None:
        self.asked.append(assignment)
        self.meanwhile()
        if self.left == 0:
            return None
        return Outcome([Outgoing("results", b"key", b"value")], self._commit)

    def _commit(self) -> None:
        self.left -= 1
        self.committed += 1


class Publisher:
    def __init__(self) -> None:
        self.published = 0
        self.fails = 0

    async def publish(self, messages: list[Outgoing]) -> None:
        if self.fails:
            self.fails -= 1
            raise BrokerUnavailable("away")
        await asyncio.sleep(0.001)
        self.published += len(messages)


class Scene:
    """A consumer that has partitions 0 and 1, without a broker."""

    def __init__(self, home: Path, role: Busy) -> None:
        self.role = role
        self.publisher = Publisher()
        settings = Settings(home=home, worker_id="w", retry_max_s=0.1)
        self.consumer = LosslessConsumer(role, settings, Broker(settings), self.publisher)  # type: ignore[arg-type]
        self.group = SimpleNamespace(consumer_generation_id=7)
        self.consumer._group = self.group  # type: ignore[assignment]
        self.consumer._assigned = {TopicPartition("events", 0), TopicPartition("events", 1)}
        self.consumer._standing.run()

    async def play(self, act: Callable[[], Awaitable[None]]) -> None:
        """The role works aside while this goes on."""
        aside = asyncio.create_task(self.consumer._aside())
        await act()
        self.consumer._standing.stop()
        await asyncio.wait_for(aside, 5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, Busy(portions=20))


def test_portions_are_published_and_committed_one_after_the_other(scene: Scene) -> None:
    async def act() -> None:
        await until(lambda: len(scene.role.asked) > 22)

    asyncio.run(scene.play(act))
    assert (scene.role.committed, scene.publisher.published) == (20, 20)
    assert set(scene.role.asked) == {Assignment(7, frozenset({0, 1}))}


def test_a_batch_that_waits_comes_after_the_portion_in_hand(scene: Scene) -> None:
    scene.role.left = 1_000_000
    between = []

    async def act() -> None:
        await until(lambda: scene.role.committed > 0)
        for _ in range(10):
            before = scene.role.committed
            async with scene.consumer._turn():
                between.append(scene.role.committed - before)
            await asyncio.sleep(0.005)

    asyncio.run(scene.play(act))
    assert max(between) <= 1
    assert scene.role.committed > 10


def test_what_is_away_is_waited_for_and_the_portion_is_made_again(scene: Scene) -> None:
    scene.publisher.fails = 2

    async def act() -> None:
        await until(lambda: scene.role.committed == 20)

    asyncio.run(scene.play(act))
    assert scene.publisher.published == 20


def test_a_portion_of_an_assignment_that_is_over_comes_to_nothing(scene: Scene) -> None:
    published = []

    def rebalance() -> None:
        published.append(scene.publisher.published)
        scene.group.consumer_generation_id += len(scene.role.asked) == 1

    scene.role.meanwhile = rebalance

    async def act() -> None:
        await until(lambda: scene.role.committed == 20)

    asyncio.run(scene.play(act))
    assert published[:3] == [0, 0, 1]
    assert [assignment.generation for assignment in scene.role.asked[:2]] == [7, 8]


def test_without_partitions_there_is_nothing_to_do(scene: Scene) -> None:
    scene.consumer._assigned = set()

    async def act() -> None:
        await asyncio.sleep(0.05)

    asyncio.run(scene.play(act))
    assert scene.role.asked == []
