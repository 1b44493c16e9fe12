"""Questions that are answered together: each gets its own answer or error, whatever becomes of the others."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from fastapi import HTTPException

from streams.api import batches
from streams.api.batches import AT_ONCE, Batched

pytestmark = pytest.mark.anyio
DEFECT = 1_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Doubles:
    """Doubles numbers, once it may begin, and remembers which were asked together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_begin = threading.Event()
        self.may_begin.set()

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        assert self.may_begin.wait(10)
        if DEFECT in numbers:
            raise RuntimeError("a defect")
        return [ValueError(f"{number} is below 0") if number < 0 else 2 * number for number in numbers]


async def asked(batched: Batched[int, int], *numbers: int) -> list[int | BaseException]:
    return await asyncio.gather(*(batched.ask(number) for number in numbers), return_exceptions=True)


async def test_what_is_asked_meanwhile_is_answered_together_each_with_its_own() -> None:
    doubles = Doubles()
    doubles.may_begin.clear()
    batched = Batched(doubles, at_work=1)
    first = asyncio.create_task(batched.ask(1))
    while not doubles.batches:
        await asyncio.sleep(0)
    others = asyncio.create_task(asked(batched, *range(2, 3 + AT_ONCE)))
    await asyncio.sleep(0)
    doubles.may_begin.set()
    assert [await first, *await others] == [2 * number for number in range(1, 3 + AT_ONCE)]
    assert doubles.batches == [[1], list(range(2, 2 + AT_ONCE)), [2 + AT_ONCE]]


async def test_what_is_wrong_with_one_question_and_a_defect_that_one_meets_are_its_own() -> None:
    batched = Batched(doubles := Doubles(), at_work=1)
    two, wrong, defect, four = await asked(batched, 1, -1, DEFECT, 2)
    assert (two, four) == (2, 4)
    assert isinstance(wrong, ValueError)
    assert isinstance(defect, RuntimeError)
    assert doubles.batches == [[1, -1, DEFECT, 2], [1], [-1], [DEFECT], [2]]
    assert await asked(batched, 3) == [6], "it goes on"


async def test_who_goes_away_is_not_answered_and_holds_up_nobody() -> None:
    doubles = Doubles()
    doubles.may_begin.clear()
    batched = Batched(doubles, at_work=1)
    first, gone, last = (asyncio.create_task(batched.ask(number)) for number in (1, 2, 3))
    while not doubles.batches:
        await asyncio.sleep(0)
    late = asyncio.create_task(batched.ask(4))
    await asyncio.sleep(0)
    gone.cancel()
    late.cancel()
    doubles.may_begin.set()
    assert [await first, await last] == [2, 6]
    assert await batched.ask(5) == 10
    assert [4] not in doubles.batches


async def test_beyond_a_number_that_wait_who_asks_is_told_to_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WAITING_MAX", 2)
    *answered, refused = await asked(Batched(Doubles(), at_work=1), 1, 2, 3)
    assert answered == [2, 4]
    assert isinstance(refused, HTTPException)
    assert (refused.status_code, refused.headers) == (503, {"Retry-After": "1"})


async def test_several_batches_are_at_work_where_they_may_be() -> None:
    doubles = Doubles()
    doubles.may_begin.clear()
    batched = Batched(doubles, at_work=2)
    tasks = [asyncio.create_task(batched.ask(number)) for number in range(AT_ONCE + 1)]
    while len(doubles.batches) < 2:
        await asyncio.sleep(0.001)
    doubles.may_begin.set()
    assert await asyncio.gather(*tasks) == [2 * number for number in range(AT_ONCE + 1)]
