"""What is asked while answers are made is answered together, next: few threads work, and nothing waits for company."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from fastapi import HTTPException

AT_ONCE = 16
WAITING_MAX = 1_000
Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batched(Generic[Question, Answer]):
    """Answers the questions of one event loop."""

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer | Exception]], *, at_work: int) -> None:
        """
        answer   of each question its answer, or what is wrong with it alone; in a thread
        at_work  batches at a time: more than one pays while they wait for a server, else they wait for Python
        """
        self._answer = answer
        self._at_work = at_work
        self._threads = ThreadPoolExecutor(at_work, thread_name_prefix="batches")
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._workers: set[asyncio.Task[None] | None] = set()

    async def ask(self, question: Question) -> Answer:
        """Its answer. Raises what is told in its place, what the answering raises, and HTTPException 503 where too
        many wait already."""
        if len(self._waiting) >= WAITING_MAX:
            raise HTTPException(503, f"{WAITING_MAX} requests wait already: ask more slowly", {"Retry-After": "1"})
        told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, told))
        if len(self._workers) < self._at_work:
            self._workers.add(asyncio.create_task(self._work(), name="batches"))
        return await told

    async def _work(self) -> None:
        try:
            await self._answer_waiting()
        finally:
            self._workers.discard(asyncio.current_task())

    async def _answer_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            batch = [(question, told) for question, told in batch if not told.done()]  # who asked may be gone
            for (_, told), answer in zip(batch, await self._answers([one for one, _ in batch]), strict=True):
                if told.done():
                    continue
                if isinstance(answer, Exception):
                    told.set_exception(answer)
                else:
                    told.set_result(answer)

    async def _answers(self, questions: list[Question]) -> Sequence[Answer | Exception]:
        """Of each; where answering them together fails, each is answered alone, so that one defect fails one."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, questions)
        except Exception as error:  # noqa: BLE001 -- whoever asked is told of it
            if len(questions) == 1:
                return [error]
            return [one for question in questions for one in await self._answers([question])]
