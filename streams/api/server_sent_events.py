"""Server-sent events, for as long as the client listens and may, and the api runs."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from streams.queued_stream import Item, QueuedStream

HEARTBEAT_S = 15.0  # proxies close a connection on which nothing comes for a minute or so
HEARTBEAT = b": alive\n\n"
RECONNECT_MS = 2_000
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would hold the events back


class ServerSentEvents(StreamingResponse, Generic[Item]):
    """The answer: an event for each item of a stream."""

    def __init__(
        self,
        stream: QueuedStream[Item],
        event_of: Callable[[Item], Awaitable[bytes]],
        is_allowed: Callable[[], Awaitable[bool]],
        *,
        first: bytes = b"",
    ) -> None:
        """
        stream      open, and closed when the answer has ended, however it does
        event_of    its bytes; none if the item is not told
        is_allowed  asked every HEARTBEAT_S; the answer ends when whoever listens may not any more
        first       the event that it begins with, if any
        """
        self._stream = stream
        self._event_of = event_of
        self._is_allowed = is_allowed
        super().__init__(self._events(first), headers=HEADERS, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stream:
            await super().__call__(scope, receive, send)

    async def _events(self, first: bytes) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % RECONNECT_MS
        if first:
            yield first
        asked_at = time.monotonic()
        while not self._stream.is_closed:
            item = await self._stream.next(HEARTBEAT_S)
            if item is None or time.monotonic() - asked_at > HEARTBEAT_S:
                if not await self._is_allowed():
                    return
                asked_at = time.monotonic()
            if item is not None:
                if event := await self._event_of(item):
                    yield event
            elif not self._stream.is_closed:
                yield HEARTBEAT
