"""What comes from now on, for one reader who may be slow. All of it runs on the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Item = TypeVar("Item")


class TooManyStreams(Exception):
    """No more are opened; str() says what to do."""


class QueuedStream(Generic[Item]):
    """What is put, in its order; of too much, the newest. A context manager, whose end closes it."""

    def __init__(self, kept: int, drop: Callable[[], None], key_id: str | None) -> None:
        """
        kept    so many wait for their reader; then the oldest goes
        drop    called when it closes, which may be more than once
        key_id  of who reads; None where no key is needed
        """
        self.is_closed = False
        self.key_id = key_id
        self._drop = drop
        self._waiting: deque[Item] = deque(maxlen=kept)
        self._changed = asyncio.Event()

    def put(self, item: Item) -> bool:
        """It waits for the reader. True if the oldest went unread for it."""
        is_full = len(self._waiting) == self._waiting.maxlen
        self._waiting.append(item)
        self._changed.set()
        return is_full

    async def next(self, within_s: float) -> Item | None:
        """The next one; None if none came within so long, or the stream was closed."""
        if not self._waiting and not self.is_closed:
            try:
                await asyncio.wait_for(self._changed.wait(), within_s)
            except TimeoutError:
                return None
        self._changed.clear()
        return self._waiting.popleft() if self._waiting and not self.is_closed else None

    def close(self) -> None:
        """Nothing comes any more; safe to call at any time."""
        self.is_closed = True
        self._changed.set()
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def require_share(key_id: str | None, streams: Iterable[QueuedStream[Any]], most: int) -> None:
    """Raises TooManyStreams if so many of these are of this key; None has no share."""
    if key_id is not None and sum(stream.key_id == key_id for stream in streams) >= most:
        raise TooManyStreams(f"this key holds {most} streams already: close some, or ask with a key of your own")
