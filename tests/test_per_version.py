"""One consumer for each version of the encoders: which run, what a failure does, what the status adds up."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store.encoders import EncoderRow
from store.records import StoreUnavailable
from streams import per_version
from streams.events import EncoderVersion
from streams.per_version import NOBODY, PerVersion, Wanted
from streams.settings import Settings
from streams.versions import encoding, version_of

WITHIN_S = 10.0


def version(fingerprint: str, state: str, served: int = 0, revision: int = 1) -> EncoderVersion:
    row = EncoderRow(fingerprint, {}, {}, state=state, served=served, revision=revision, filled_at=1.0)  # type: ignore[arg-type]
    return version_of(row)


class Consumer:
    """Runs until it is stopped or told to fail."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.events = 0
        self.failure: Exception | None = None
        self._wake = asyncio.Event()
        self.has_ended = False

    async def run(self) -> None:
        await self._wake.wait()
        self.has_ended = True
        if self.failure:
            raise self.failure

    def stop(self) -> None:
        self._wake.set()

    def fail(self, failure: Exception) -> None:
        self.failure = failure
        self._wake.set()

    def status(self) -> dict[str, Any]:
        return {
            "state": "running",
            "reason": None,
            "events": self.events,
            "lag": 10 * self.events,
            "oldest_unprocessed_s": 1.0 * self.events,
            "dead_letters": 1,
            "details": {"fingerprint": self.fingerprint},
        }


class Stage:
    """What is told of the versions, and the consumers that were made."""

    def __init__(self, home: Path) -> None:
        self.told: list[EncoderVersion] = []
        self.made: list[Consumer] = []
        self.handled: list[list[str]] = []
        self.away = 0
        self.runnable = PerVersion(
            "encode", Settings(home=home), self.source, self.choose, self.make, self.also, look_every_s=0.01
        )

    async def source(self) -> list[EncoderVersion]:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("the database does not serve")
        return self.told

    def choose(self, versions: list[EncoderVersion]) -> list[Wanted]:
        return [Wanted(one.fingerprint, one.group, is_vital=not place) for place, one in enumerate(encoding(versions))]

    def make(self, wanted: Wanted, _: EncoderVersion | None) -> Consumer:
        self.made.append(Consumer(wanted.fingerprint))
        return self.made[-1]

    async def also(self, versions: list[EncoderVersion]) -> bool:
        self.handled.append(sorted(one.fingerprint for one in versions))
        return len(self.handled) != 1  # the first time it is not done

    @property
    def running(self) -> list[str]:
        return [one.fingerprint for one in self.made if not one.has_ended]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def play(self, scene: Callable[["Stage"], Any]) -> None:
        task = asyncio.create_task(self.runnable.run())
        try:
            await scene(self)
        finally:
            self.runnable.stop()
            await task


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_consumers_come_and_go_with_the_versions_and_the_serving_one_comes_first(stage: Stage) -> None:
    async def scene(stage: Stage) -> None:
        await stage.until(lambda: stage.runnable.status()["reason"] == NOBODY)
        stage.told = [version("bb", "filling"), version("aa", "serving", 1)]
        await stage.until(lambda: stage.running == ["aa", "bb"] and len(stage.handled) == 2)
        stage.told = [version("bb", "serving", 2, 2), version("aa", "filling", 1, 2)]
        await stage.until(lambda: stage.runnable.status()["details"]["fingerprint"] == "bb")
        await stage.until(lambda: len(stage.handled) == 3)
        assert len(stage.made) == 2, "a switch leaves both as they are"
        stage.told = [version("bb", "serving", 2, 2), version("aa", "idle", 1, 3)]
        await stage.until(lambda: stage.running == ["bb"] and len(stage.handled) == 4)

    asyncio.run(stage.play(scene))
    assert stage.running == []
    assert stage.handled == [["aa", "bb"]] * 4, "once more where it was not done, then at each change"


def test_the_status_counts_all_and_tells_the_rest_of_the_one_that_serves(stage: Stage) -> None:
    async def scene(stage: Stage) -> None:
        stage.told = [version("aa", "serving", 1), version("bb", "filling")]
        await stage.until(lambda: len(stage.made) == 2)
        serving, filling = stage.made
        serving.events, filling.events = 3, 4
        status = stage.runnable.status()
        assert (status["events"], status["dead_letters"], status["lag"], status["oldest_unprocessed_s"]) == (
            7,
            2,
            30,
            3,
        )
        assert status["details"] == {"fingerprint": "aa", "filling": "bb", "filling_lag": 40}
        stage.told = stage.told[:1]
        await stage.until(lambda: stage.running == ["aa"])
        status = stage.runnable.status()
        assert (status["events"], status["dead_letters"]) == (7, 2), "what was done stays done"
        assert status["details"] == {"fingerprint": "aa"}

    asyncio.run(stage.play(scene))


def test_a_version_that_fails_beside_the_serving_one_is_told_of_and_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        stage.told = [version("aa", "serving", 1), version("bb", "filling")]
        await stage.until(lambda: len(stage.made) == 2)
        stage.made[1].fail(RuntimeError("no such weights"))
        await stage.until(lambda: "failed_versions" in stage.runnable.status()["details"])
        assert stage.runnable.status()["details"]["failed_versions"] == "bb: no such weights"
        assert stage.running == ["aa"]
        monkeypatch.setattr(per_version, "AGAIN_AFTER_S", 0.0)
        await stage.until(lambda: stage.running == ["aa", "bb"])
        assert "failed_versions" not in stage.runnable.status()["details"]

    asyncio.run(stage.play(scene))


def test_the_failure_of_the_version_that_serves_ends_all(stage: Stage) -> None:
    async def scene(stage: Stage) -> None:
        stage.told = [version("aa", "serving", 1), version("bb", "filling")]
        await stage.until(lambda: len(stage.made) == 2)
        stage.made[0].fail(RuntimeError("out of memory"))
        await stage.until(lambda: not stage.running)

    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(stage.play(scene))


def test_while_the_versions_are_not_known_those_that_run_run_on(stage: Stage) -> None:
    async def scene(stage: Stage) -> None:
        stage.told = [version("aa", "serving", 1)]
        await stage.until(lambda: stage.running == ["aa"])
        stage.away = 3
        await stage.until(lambda: not stage.away)
        assert stage.running == ["aa"]

    asyncio.run(stage.play(scene))
    assert len(stage.made) == 1
