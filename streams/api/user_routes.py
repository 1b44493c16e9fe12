"""Who is like a user, and all that is held of her."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query

from store.experiments import ExperimentStore
from store.users import UserStore
from streams.api import PREFIX
from streams.api.access import Access
from streams.api.ids import UserId
from streams.api.problems import no_user
from streams.api.views import Views
from streams.look_alikes import UnknownUser

Limit = Annotated[int, Query(ge=1, le=200)]


def user_routes(
    users: UserStore,
    experiments: ExperimentStore,
    look_alikes: Callable[[str, int], dict[str, Any]],
    views: Views,
    access: Access,
) -> APIRouter:
    """The routes. An id may hold slashes, so those with something behind the id come first."""
    routes = APIRouter(prefix=PREFIX, tags=["users"])

    @routes.get("/users/{user_id:path}/look-alikes", summary="Users like a user", dependencies=[access.needs("admin")])
    def users_like_her(user_id: UserId, limit: Limit = 20) -> dict[str, Any]:
        """Those whose clicks are most like this user's, best first, and what they clicked last that she has not."""
        views.need("look-alikes")
        try:
            return look_alikes(user_id, limit)
        except UnknownUser as unknown:
            raise HTTPException(404, no_user(user_id)) from unknown

    @routes.get("/users/{user_id:path}", summary="All that is held of a user", dependencies=[access.needs("admin")])
    def held_of_a_user(user_id: UserId) -> dict[str, Any]:
        """All that is held of a user, with the revision and the offsets of the events that made the row, and what she
        did in experiments."""
        row = users.read([user_id]).get(user_id)
        if row is None:
            raise HTTPException(404, no_user(user_id))
        return {
            "user_id": row.user_id,
            "revision": row.revision,
            "updated_at": row.updated_at,
            "clicks": [asdict(click) for click in row.clicks],
            "recent_event_ids": row.recent_event_ids,
            "offsets": row.offsets,
            "embedding_version": row.embedding_version,
            "embedding_bytes": len(row.embedding or b""),
            "experiments": experiments.of_user(user_id),
        }

    return routes
