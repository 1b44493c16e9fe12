"""What is asked while an answer is made is answered together, next: one thread works, and nothing waits for company."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from anyio import to_thread

AT_ONCE = 16
Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batched(Generic[Question, Answer]):
    """Answers questions of one event loop. Side by side they would only wait for each other's locks and for Python."""

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer | Exception]]) -> None:
        """answer: of each question its answer, or what is wrong with it alone; in a thread, once at a time."""
        self._answer = answer
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._working: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """Its answer. Raises what is told in its place, and what the answering raises."""
        told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, told))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="batches")
        return await told

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            batch = [(question, told) for question, told in batch if not told.done()]  # who asked may be gone
            questions = [question for question, _ in batch]
            try:
                answers = await to_thread.run_sync(self._answer, questions)
            except Exception as error:  # noqa: BLE001 -- whoever asked is told of it
                answers = [error] * len(batch)
            for (_, told), answer in zip(batch, answers, strict=True):
                if told.done():
                    continue
                if isinstance(answer, Exception):
                    told.set_exception(answer)
                else:
                    told.set_result(answer)
