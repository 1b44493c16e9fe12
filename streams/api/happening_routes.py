"""What just happened, as server-sent events, and what became of the products that are new."""

import time
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Security
from fastapi.security import HTTPAuthorizationCredentials
from starlette.responses import StreamingResponse

from streams.api import PREFIX
from streams.api.access import Access, bearer
from streams.api.answers import ITEM, answers
from streams.api.server_sent_events import ServerSentEvents
from streams.api.views import Views
from streams.events import Id
from streams.first_clicks import FirstClicks
from streams.happenings import Happening, Happenings

STREAMED = 'event: indexed\ndata: {"kind": "indexed", "at": 1772366400.2, "product_id": "lamp-7", "after_s": 0.31}\n\n'
NEW = ITEM | {
    "created_at": 1772366400.0,
    "first_click_at": 1772366460.0,
    "is_clicked": True,
    "is_retrievable": True,
}


def happening_routes(
    happenings: Happenings, first_clicks: FirstClicks, views: Views, access: Access, *, is_demo: bool
) -> APIRouter:
    """The routes. is_demo: everybody may see what all users do."""
    routes = APIRouter(prefix=PREFIX)

    @routes.get(
        "/events/stream",
        tags=["events"],
        summary="What happens, as it happens",
        dependencies=[access.needs("read")],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"example": STREAMED}}}},
    )
    async def stream(
        told: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
        sees_all: Annotated[bool, access.may("admin")],
        user: Annotated[Id | None, Query(description="whose clicks and lists are told, too")] = None,
    ) -> StreamingResponse:
        """Server-sent events from now on: `indexed` (a new product can be found, `after_s` from its publication),
        `sold_out` and `restored`; `click` and `list` (`took_ms` from the click) of the user who is named. With the
        scope admin those of all users, and `worker` (stopped, started, restarted). Who reads too slowly misses the
        oldest. A key that is removed ends its streams, of which it may have 20 at once."""
        told_key = told.credentials if told else None

        key = await access.key_of(told_key)
        opened = happenings.open(user, key.key_id if key else None, sees_all=sees_all or is_demo, names_users=sees_all)
        return ServerSentEvents(opened, _event, partial(access.knows, told_key))

    @routes.get(
        "/newcomers",
        tags=["operation"],
        summary="New products and their first clicks",
        dependencies=[access.needs("admin")],
        responses=answers({"products": 1, "clicked": 1, "items": [NEW]}),
    )
    def newcomers(limit: Annotated[int, Query(ge=1, le=200)] = 20) -> dict[str, Any]:
        """The products that came in the last day, newest first, and when each was clicked first, as far as the api has
        read it since its start: of one that was clicked before, only that it was. Times in seconds since 1970."""
        views.need("newcomers")
        return first_clicks.newcomers(limit, time.time())

    return routes


async def _event(happening: Happening) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (happening["kind"].encode(), orjson.dumps(happening))
