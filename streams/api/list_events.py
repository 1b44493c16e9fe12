"""A user's lists as server-sent events, for as long as the client listens and the api runs."""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any

import orjson
from fastapi.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from streams.list_feed import ListStream

HEARTBEAT_S = 15.0  # proxies close a connection on which nothing comes for a minute or so
HEARTBEAT = b": alive\n\n"
RECONNECT_MS = 2_000
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would hold the events back
Place = tuple[int, int]  # revision of the user's row, and ms since 1970: of two lists the higher one counts
BEFORE_ALL: Place = (-1, 0)


class ListEvents(StreamingResponse):
    """The answer: the current list, then each newer one."""

    def __init__(
        self,
        lists: ListStream,
        current: dict[str, Any],
        with_titles: Callable[[dict[str, Any]], dict[str, Any]],
        is_allowed: Callable[[], Awaitable[bool]],
        *,
        after: str | None = None,
    ) -> None:
        """
        lists        open, and closed when the answer has ended, however it does
        with_titles  makes of a published list what is sent; called in any thread
        is_allowed   asked every HEARTBEAT_S; the answer ends when whoever listens may not any more
        after        the id of an event: no older list is sent
        """
        self._lists = lists
        self._with_titles = with_titles
        self._is_allowed = is_allowed
        super().__init__(self._events(current, _place_in(after)), headers=HEADERS, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._lists:
            await super().__call__(scope, receive, send)

    async def _events(self, current: dict[str, Any], sent: Place) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % RECONNECT_MS
        if _place_of(current) >= sent:
            sent = _place_of(current)
            yield _event(current)
        asked_at = time.monotonic()
        while not self._lists.is_closed:
            record = await self._lists.next(HEARTBEAT_S)
            if record is None or time.monotonic() - asked_at > HEARTBEAT_S:
                if not await self._is_allowed():
                    return
                asked_at = time.monotonic()
            if record is None:
                if not self._lists.is_closed:
                    yield HEARTBEAT
                continue
            made = orjson.loads(record)
            if _place_of(made) >= sent:  # a push leaves the revision
                sent = _place_of(made)
                yield _event(await run_in_threadpool(self._with_titles, made))


def _event(made: dict[str, Any]) -> bytes:
    revision, at_ms = _place_of(made)
    return b"id: %d.%d\nevent: list\ndata: %s\n\n" % (revision, at_ms, orjson.dumps(made))


def _place_of(made: dict[str, Any]) -> Place:
    return made["revision"], int(datetime.fromisoformat(made["made_at"]).timestamp() * 1000)


def _place_in(event_id: str | None) -> Place:
    """Of an event's id; what is none counts as before all."""
    named = re.fullmatch(r"([0-9]{1,18})\.([0-9]{1,18})", event_id or "")
    return (int(named[1]), int(named[2])) if named else BEFORE_ALL
