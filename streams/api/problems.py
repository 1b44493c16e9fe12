"""What the api answers when it cannot answer: RFC 9457 problem documents, whose `detail` says what to do next."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from encoders.product import UnknownDevice
from encoders.weights import UnknownSource
from store.records import StoreUnavailable
from streams.broker import BrokerUnavailable
from streams.filters import BadQuery
from streams.query_encoder import StillLoading
from streams.queued_stream import TooManyStreams
from streams.replicas import ReplicaEnded
from streams.unread import NotStoredYet

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5


class Problem(JSONResponse):
    """A problem document; its type is about:blank, so its title is the status in words."""

    media_type = "application/problem+json"

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """errors: each {"at": where in the request, "detail": what is wrong with it}; more: members of this problem."""
        content: dict[str, Any] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
        content |= ({"errors": list(errors)} if errors else {}) | dict(more or {})
        super().__init__(content, status, headers)


def handle_errors(app: FastAPI) -> None:
    """Errors of these kinds are answered as said here, every other one by its kind alone: the log says more."""
    app.exception_handler(HTTPException)(_refused)
    app.exception_handler(RequestValidationError)(_malformed)
    app.exception_handler(StoreUnavailable)(_store_away)
    app.exception_handler(BrokerUnavailable)(_broker_away)
    app.exception_handler(ReplicaEnded)(_stale)
    app.exception_handler(BadQuery)(_bad_query)
    app.exception_handler(StillLoading)(_loading)
    app.exception_handler(TooManyStreams)(_loading)
    app.exception_handler(NotStoredYet)(_loading)
    app.exception_handler(UnknownSource)(_no_search)
    app.exception_handler(UnknownDevice)(_no_search)


def no_product(product_id: str) -> str:
    return f"there is no product {product_id!r}: it was not published yet, was deleted, or the id is misspelled"


def no_user(user_id: str) -> str:
    return f"nothing is held of a user {user_id!r}: she has no click yet, was forgotten, or the id is misspelled"


def remedy_of(ended: Exception) -> str:
    return f"{ended}; its log says why: end the api's process, and `freshet up` or your supervisor starts it again"


def defect(path: str, error: Exception) -> Problem:
    """The answer to a request at which the api failed; the traceback stays in the log."""
    log.error("request failed path=%s", path, exc_info=error)
    return Problem(500, "the api failed at this request: its log says why")


def _refused(request: Request, error: Exception) -> Problem:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = f"there is nothing at {request.url.path}: see /openapi.json, or open / in a browser"
    return Problem(error.status_code, detail, headers=error.headers)


def _malformed(_: Request, error: Exception) -> Problem:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    errors = [{"at": ".".join(map(str, found["loc"])), "detail": found["msg"]} for found in faults]
    said = "; ".join(f"{_last_name(found['loc'])}: {found['msg']}" for found in faults[:5])
    return Problem(422, said + ("" if len(errors) <= 5 else f"; and {len(errors) - 5} more"), errors)


def _last_name(place: Sequence[int | str]) -> str:
    """Of what stands there; of one of several, with its number."""
    parts = [str(part) for part in place]
    return ".".join(parts[-2:] if isinstance(place[-1], int) else parts[-1:])


def _store_away(request: Request, away: Exception) -> Problem:
    assert isinstance(away, StoreUnavailable)
    log.warning("store away path=%s reason=%s", request.url.path, away)
    return Problem(503, f"a store does not answer: {away.told}; try again in a moment", headers=again())


def _broker_away(_: Request, away: Exception) -> Problem:
    return Problem(503, f"the broker does not answer: {away}; try again in a moment", headers=again())


def _stale(_: Request, ended: Exception) -> Problem:
    """What sold out since might stand in a list."""
    return Problem(503, f"no lists: {remedy_of(ended)}", headers=again())


def _bad_query(_: Request, bad: Exception) -> Problem:
    return Problem(422, str(bad))


def _loading(_: Request, loading: Exception) -> Problem:
    return Problem(503, str(loading), headers=again())


def _no_search(_: Request, unknown: Exception) -> Problem:
    return Problem(503, f"no search: {unknown}", headers=again())


def again() -> dict[str, str]:
    """Headers of an answer that may be another one in a moment."""
    return {"Retry-After": str(RETRY_AFTER_S)}
