"""Events of a shop that has no Kafka client, on their way to the topics."""

from collections.abc import Callable
from typing import Any

from aiokafka.errors import MessageSizeTooLargeError
from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect

from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import answers
from streams.api.problems import Problem, again
from streams.broker import BrokerUnavailable
from streams.door import EVENTS_MAX, Door, Posted, WrongEvents
from streams.events import BadEvent, CatalogUpdate, UserEvent

Json = dict[str, Any]
CLICK: Json = {"user_id": "u-1", "product_id": "lamp-7", "event": "view_item"}
LAMP: Json = {
    "op": "upsert",
    "product_id": "lamp-7",
    "title": "Desk lamp, brass",
    "price": {"amount": 39.5, "currency": "EUR"},
}
GONE: Json = {"op": "delete", "product_id": "lamp-6"}
CLICKS_SEEN = "send the request again with these event_ids: one that came before counts once"
PRODUCTS_SEEN = "send the request again: a product that is told twice stays as it is"


def event_routes(door: Door, access: Access) -> APIRouter:
    """The routes; a request is published whole, or not at all because an event is wrong."""
    routes = APIRouter(prefix=PREFIX, tags=["events"])

    @routes.post(
        "/events/clicks",
        status_code=202,
        dependencies=[access.needs("write")],
        summary="Publish clicks",
        openapi_extra=_body(UserEvent, {"one": CLICK, "several": [CLICK, {**CLICK, "event": "add_to_cart"}]}),
        responses=_responses({"accepted": 1, "event_ids": ["e1f0a8"]}),
    )
    async def publish_clicks(request: Request) -> Response:
        """One event of `user-clicks`, or a list of up to 1,000; answered when the broker has confirmed all of them.

        An event_id or a time that is left out is made up, and the event_ids come back.
        """
        posted = await _checked(request, door.clicks_of)
        if isinstance(posted, Problem):
            return posted
        told = {"event_ids": posted.event_ids}
        return await _published(door, posted, {"accepted": len(posted.messages), **told}, CLICKS_SEEN, told)

    @routes.post(
        "/events/catalog",
        status_code=202,
        dependencies=[access.needs("write")],
        summary="Publish products",
        openapi_extra=_body(CatalogUpdate, {"one": LAMP, "several": [LAMP, GONE]}),
        responses=_responses({"accepted": 1}),
    )
    async def publish_products(request: Request) -> Response:
        """One event of `catalog-updates`, a delete among others, or a list of up to 1,000; answered as clicks are."""
        posted = await _checked(request, door.catalog_of)
        if isinstance(posted, Problem):
            return posted
        return await _published(door, posted, {"accepted": len(posted.messages)}, PRODUCTS_SEEN, {})

    return routes


async def _checked(request: Request, check: Callable[[bytes], Posted]) -> Posted | Problem:
    body = await json_body(request)
    try:
        return await run_in_threadpool(check, body)  # a thousand events would hold up all others
    except BadEvent as bad:
        return Problem(422, str(bad))
    except WrongEvents as wrong:
        reasons = wrong.reasons.items()
        return Problem(422, str(wrong), [{"at": f"body.{place}", "detail": reason} for place, reason in reasons])


async def _published(door: Door, posted: Posted, answer: Json, repeat: str, told: Json) -> Response:
    """told: what the problem document adds, for who sends it again."""
    try:
        await door.publish(posted.messages)
    except BrokerUnavailable as away:
        detail = f"the broker did not confirm: {away}; some may have been published all the same, so {repeat}"
        return Problem(503, detail, headers=again(), more=told)
    except MessageSizeTooLargeError:
        detail = (
            f"an event is larger than its topic takes; the others may have been published: shorten it, then {repeat}"
        )
        return Problem(413, detail, more=told)
    return JSONResponse(answer, 202)


async def json_body(request: Request) -> bytes:
    """The body. Raises HTTPException 415 if it does not call itself JSON, 400 if it breaks off.

    Without the first, any web page could send events to an api on this machine: browsers ask before they send JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"the body is {kind or 'of no type'}: send `Content-Type: application/json`")
    try:
        return await request.body()
    except ClientDisconnect as gone:
        raise HTTPException(400, "the body broke off: send it again") from gone


# --- what the OpenAPI document says ------------------------------------------------------------------------------


def _body(contract: Any, examples: dict[str, Any]) -> Json:
    """One event of the contract or a list of them, for a body that FastAPI does not read itself."""
    schema = TypeAdapter(contract).json_schema()
    event = _inlined(schema, schema.get("$defs", {}))
    for form in event.get("oneOf", ()):
        form["required"] = [name for name in form["required"] if name not in ("event_id", "occurred_at")]
    either = {"anyOf": [event, {"type": "array", "items": event, "maxItems": EVENTS_MAX}]}
    shown = {name: {"value": example} for name, example in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": either, "examples": shown}}}}


def _inlined(part: Any, definitions: Json) -> Any:
    """The schema with its definitions in their places, because they would have none in the whole document."""
    if isinstance(part, list):
        return [_inlined(inner, definitions) for inner in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inlined(definitions[part["$ref"].rpartition("/")[2]], definitions)
    return {
        name: _inlined(inner, definitions) for name, inner in part.items() if name not in ("$defs", "discriminator")
    }


def _responses(example: Json) -> dict[int | str, Json]:
    return answers(example, 202, "all are confirmed") | {
        413: {"description": "the body, or an event, is too large"},
        422: {"description": "nothing was published: `errors` names each wrong event and why"},
        503: {"description": "not confirmed: some may have been published; send it again after Retry-After"},
    }
