"""A user's lists as server-sent events, for as long as the client listens and the api runs."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import orjson
from fastapi.concurrency import run_in_threadpool

from streams.api.server_sent_events import ServerSentEvents
from streams.list_feed import ListStream

Place = tuple[int, int]  # revision of the user's row, and ms since 1970: of two lists the higher one counts
BEFORE_ALL: Place = (-1, 0)


class ListEvents(ServerSentEvents[bytes]):
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
        lists, is_allowed  as of ServerSentEvents
        with_titles  makes of a published list what is sent; called in any thread
        after        the id of an event: no older list is sent
        """
        self._with_titles = with_titles
        self._sent = _place_in(after)
        super().__init__(lists, self._newer, is_allowed, first=_event(current) if self._advance(current) else b"")

    async def _newer(self, record: bytes) -> bytes:
        made = orjson.loads(record)
        return _event(await run_in_threadpool(self._with_titles, made)) if self._advance(made) else b""

    def _advance(self, made: dict[str, Any]) -> bool:
        """True if it is not older than what was sent; then it counts as sent. A push leaves the revision."""
        if _place_of(made) < self._sent:
            return False
        self._sent = _place_of(made)
        return True


def _event(made: dict[str, Any]) -> bytes:
    revision, at_ms = _place_of(made)
    return b"id: %d.%d\nevent: list\ndata: %s\n\n" % (revision, at_ms, orjson.dumps(made))


def _place_of(made: dict[str, Any]) -> Place:
    return made["revision"], int(datetime.fromisoformat(made["made_at"]).timestamp() * 1000)


def _place_in(event_id: str | None) -> Place:
    """Of an event's id; what is none counts as before all."""
    named = re.fullmatch(r"([0-9]{1,18})\.([0-9]{1,18})", event_id or "")
    return (int(named[1]), int(named[2])) if named else BEFORE_ALL
