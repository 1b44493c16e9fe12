"""What the api answers when it cannot answer: every error is {"detail": what to do next}."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from store.records import StoreUnavailable
from streams.replicas import ReplicaEnded


def handle_errors(app: FastAPI) -> None:
    """Errors of these kinds are answered as said here."""
    app.exception_handler(StoreUnavailable)(_unavailable)
    app.exception_handler(ReplicaEnded)(_stale)
    app.exception_handler(RequestValidationError)(_refused)
    app.exception_handler(404)(_not_found)


def no_product(product_id: str) -> str:
    return f"there is no product {product_id!r}: it was not published yet, was deleted, or the id is misspelled"


def no_user(user_id: str) -> str:
    return f"nothing is held of a user {user_id!r}: she has no click yet, was forgotten, or the id is misspelled"


def remedy_of(ended: Exception) -> str:
    return f"{ended}; its log says why: end the api's process, and `freshet up` or your supervisor starts it again"


def _unavailable(_: Request, away: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"a store does not answer: {away}; try again in a moment"}, 503)


def _stale(_: Request, ended: Exception) -> JSONResponse:
    """What sold out since might stand in a list."""
    return JSONResponse({"detail": f"no lists: {remedy_of(ended)}"}, 503)


def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
    return JSONResponse({"detail": "; ".join(problems)}, 422)


def _not_found(request: Request, error: Exception) -> JSONResponse:
    detail = getattr(error, "detail", None)
    if detail == "Not Found":
        asked = "/status, /search?q=WORDS, /users/ID/recommendations, /products/ID/similar"
        detail = f"there is nothing at {request.url.path}: see {asked}"
    return JSONResponse({"detail": detail}, 404)
