"""Lists for a person: what is recommended to her, now and as it changes; what she looked at, and may need again."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials

from streams.api import PREFIX
from streams.api.access import Access, bearer
from streams.api.answers import ITEM, Answer, answers, packed
from streams.api.batches import Batched
from streams.api.ids import UserId
from streams.api.list_events import ListEvents
from streams.api.read_at_once import read_at_once
from streams.api.views import Views
from streams.filters import PageQuery
from streams.list_feed import ListFeed
from streams.live_lists import Asked, ListQuery, LiveLists, VisitorQuery

LISTED = ITEM | {"score": 1.25, "rank": 1, "source": "next-click", "reason": "often next after Linen shade"}
MADE = {
    "list_id": "5f0c",
    "made_at": "2026-03-01T12:00:00+00:00",
    "versions": {"weights": "1.204"},
    "items": [LISTED],
}
MADE_FOR_USER = MADE | {
    "user_id": "ann",
    "revision": 17,
    "list_id": "d9428888122b11e1b85c61cd3cbb3210-egs8h46e-v1",
    "experiment": {"name": "fewer-alike", "variant": "diverse"},
}
VIEWED = ITEM | {"event": "view_item", "occurred_at": "2026-03-01T11:59:00+00:00"}
DUE = ITEM | {"score": 0.93, "purchases": 3, "bought_at": "2026-01-28T09:30:00+00:00"}
STREAMED = 'id: 17.1772366400000\nevent: list\ndata: {"list_id": "5f0c", "user_id": "ann", "items": []}\n\n'


def list_routes(lists: LiveLists, feed: ListFeed, views: Views, access: Access) -> APIRouter:
    """The routes. An id may hold slashes: routes that take the rest of a path as an id must come behind these."""
    routes = APIRouter(prefix=PREFIX, tags=["lists"], dependencies=[access.needs("read")])

    def make(asked: Sequence[Asked]) -> list[Response | Exception]:
        return [one if isinstance(one, Exception) else packed(one) for one in lists.make(asked)]

    made = Batched(make, at_work=lists.at_work)

    @routes.get(
        "/users/{user_id:path}/recommendations",
        summary="Recommended to a user",
        response_model=Answer,
        responses=answers(MADE_FOR_USER),
    )
    async def recommendations(user_id: UserId, query: Annotated[ListQuery, Query()]) -> Response:
        """The list for this moment, full wherever so many products pass the filters. The segment counts while nothing
        is known of her; `scenario` comes back as it was told. Clicks on its items carry the `list_id`: where she takes
        part in an experiment, it tells of which variant they were."""
        views.need("lists")
        return await made.ask(Asked(query, user_id))

    read_at_once(routes, recommendations, access, needs="read", model=ListQuery, path_ids={"user_id": UserId})

    @routes.post("/recommendations", summary="Recommended to a visitor", response_model=Answer, responses=answers(MADE))
    async def recommended_to_a_visitor(
        query: Annotated[
            VisitorQuery,
            Body(
                openapi_examples={
                    "ids": {"value": {"recently_viewed": ["lamp-7", "rug-2"], "limit": 10}},
                    "deeds": {
                        "value": {
                            "recently_viewed": [{"product_id": "lamp-7", "event": "add_to_cart", "age_s": 20}],
                            "category": "Lamps",
                            "attributes": {"colour": "brass"},
                        }
                    },
                }
            ),
        ],
    ) -> Response:
        """The same for somebody without an id, after what she looked at last, newest first. Nothing is stored."""
        views.need("lists")
        return await made.ask(Asked(query, None))

    @routes.get(
        "/users/{user_id:path}/recommendations/stream",
        summary="A user's lists as they change",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"example": STREAMED}}}},
    )
    async def stream(
        user_id: UserId,
        told: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """Server-sent events: first the list for this moment, then each one that is published for her, as on the topic
        `recommendations`, with titles and offers. The id is the revision and the time of the list; who comes back with
        `Last-Event-ID` gets no older list. A client that reads too slowly misses the oldest ones. A
        key that is removed ends its streams, of which it may have 100 at once."""
        views.need("lists")
        told_key = told.credentials if told else None
        key = await access.key_of(told_key)
        opened = feed.open(user_id, key.key_id if key else None)

        try:
            current = await run_in_threadpool(lists.of_user, user_id, ListQuery(limit=lists.length))
        except BaseException:
            opened.close()
            raise
        return ListEvents(opened, current, lists.with_titles, partial(access.knows, told_key), after=last_event_id)

    @routes.get(
        "/users/{user_id:path}/recently-viewed",
        summary="What a user clicked last",
        responses=answers({"user_id": "ann", "items": [VIEWED]}),
    )
    def recently_viewed(user_id: UserId, query: Annotated[PageQuery, Query()]) -> dict[str, Any]:
        """The products that she clicked and that are for sale, each once, newest first."""
        views.need("lists")
        return lists.recently_viewed(user_id, query)

    @routes.get(
        "/users/{user_id:path}/buy-again",
        summary="What a user may need again",
        responses=answers({"user_id": "ann", "items": [DUE]}),
    )
    def buy_again(user_id: UserId, query: Annotated[PageQuery, Query()]) -> dict[str, Any]:
        """The products that she bought more than once, or a while ago, and that are for sale, by how due they are: the
        nearer the usual time between two of her purchases (30 days after a single one) since the last one."""
        views.need("lists")
        return lists.buy_again(user_id, query)

    return routes
