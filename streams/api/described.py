"""What the OpenAPI document says that no route does: that every answer which is no success is a problem document, and
how attributes stand in an address."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

Json = dict[str, Any]
PROBLEM: Json = {
    "title": "Problem",
    "description": "RFC 9457; its type is about:blank.",
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string", "description": "the status in words"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong, and what to do next"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["at", "detail"],
                "properties": {"at": {"type": "string"}, "detail": {"type": "string"}},
            },
            "description": "each with the place in the request",
        },
    },
}
CONTENT: Json = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
REFUSED: Json = {
    "description": "Refused: 401 no key, 403 a key without the scope, 404 nothing of that name, 405 another method, "
    "413 too large, 415 not JSON, 421 a name that is not this machine's, 422 not as described here, 429 too often.",
    "content": CONTENT,
}
UNAVAILABLE: Json = {
    "description": "Not now: a store or the broker is away, or what the answer needs is still being read. "
    "Try again after Retry-After.",
    "headers": {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
    "content": CONTENT,
}
MADE_BY_FASTAPI = ("HTTPValidationError", "ValidationError")  # the form of a 422 that no route has


def describe(app: FastAPI) -> None:
    """The app's OpenAPI document says so."""
    made: Callable[[], Json] = app.openapi

    def described() -> Json:
        if app.openapi_schema is None:
            _add_problems(made())
            _tell_attributes(made())
        return made()

    app.openapi = described  # type: ignore[method-assign]


def _add_problems(document: Json) -> None:
    components = document["components"]
    for name in MADE_BY_FASTAPI:
        components["schemas"].pop(name, None)
    components["schemas"]["Problem"] = PROBLEM
    components["responses"] = {"Refused": REFUSED, "Unavailable": UNAVAILABLE}
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            if any(name in str(responses.get("422")) for name in MADE_BY_FASTAPI):
                del responses["422"]
            for status, response in responses.items():
                if status[0] in "45":
                    response.setdefault("content", CONTENT)
            responses["4XX"] = {"$ref": "#/components/responses/Refused"}
            if "security" in operation:  # keys are read from a store
                responses.setdefault("503", {"$ref": "#/components/responses/Unavailable"})


def _tell_attributes(document: Json) -> None:
    """As `attributes[NAME]=VALUE`; by OpenAPI's default it would be `NAME=VALUE`, which no route takes."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "attributes":
                    parameter |= {"style": "deepObject", "explode": True}
