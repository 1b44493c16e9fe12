"""The rights of a person: to be forgotten, and to be known again."""

from typing import Annotated

from fastapi import APIRouter, HTTPException
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import answers
from streams.api.ids import UserId
from streams.api.problems import Problem, again
from streams.broker import BrokerUnavailable
from streams.door import Door
from streams.events import Id

VisitorId = Annotated[Id, StringConstraints(pattern=r"^[^\x00]*$")]
NOT_YET = (
    "the wish is published and will be carried out, but was not yet: is the clicks role up (GET /readyz)? "
    "GET /v1/users/{id} tells when nothing is held any more"
)


class Visitor(BaseModel):
    """Who turned out to be the user, by the id that her clicks carried until now."""

    model_config = ConfigDict(strict=True, json_schema_extra={"examples": [{"anonymous_id": "cookie-9"}]})

    anonymous_id: VisitorId
    forget: Annotated[
        bool, Field(description="forget the anonymous id, now that its clicks are the user's; takes the scope admin")
    ] = False


def person_routes(door: Door, access: Access) -> APIRouter:
    """The routes. An id may hold slashes."""
    routes = APIRouter(prefix=PREFIX, tags=["users"])

    @routes.delete(
        "/users/{user_id:path}",
        dependencies=[access.needs("admin")],
        summary="Forget a user",
        responses=answers({"user_id": "u-1", "forgotten": True}, 200, "she is forgotten")
        | answers({"user_id": "u-1", "forgotten": False, "detail": NOT_YET}, 202, "published, and not yet through"),
    )
    async def forget(user_id: UserId) -> Response:
        """Publishes the wish and answers when the user's row is gone; after 10 s with 202 and what to do."""
        if await door.forget(user_id):
            return JSONResponse({"user_id": user_id, "forgotten": True})
        return JSONResponse({"user_id": user_id, "forgotten": False, "detail": NOT_YET}, 202)

    @routes.post(
        "/users/{user_id:path}/identify",
        status_code=202,
        dependencies=[access.needs("write")],
        summary="Give a visitor's clicks to a user",
        responses=answers(
            {"user_id": "u-1", "event_id": "e1f0a8", "clicks": 7, "forget": True}, 202, "the broker has confirmed"
        ),
    )
    async def identify(user_id: UserId, visitor: Visitor, may_forget: Annotated[bool, access.may("admin")]) -> Response:
        """The clicks of the anonymous id join the user's history by their time, and a list is published for her.

        To ask it again adds nothing twice. Without any clicks of that id there is no event.
        """
        if visitor.anonymous_id == user_id:
            raise HTTPException(422, "the anonymous_id is the user's own id: nothing is to be joined")
        if visitor.forget and not may_forget:
            raise HTTPException(403, "to forget somebody takes a key with the scope admin: leave `forget` out")
        try:
            made = await door.identify(user_id, visitor.anonymous_id, forget=visitor.forget)
        except BrokerUnavailable as away:
            detail = f"the broker did not confirm: {away}; send the request again: what came before counts once"
            return Problem(503, detail, headers=again())
        answer = {"user_id": user_id, "event_id": made.event_id, "clicks": made.clicks, "forget": visitor.forget}
        return JSONResponse(answer, 202)

    return routes
