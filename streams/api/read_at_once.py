"""A route's query, and an id in its path, read in one go. FastAPI looks for each field of a query by itself, which for
twelve of them takes a quarter of all that a list costs the api.

FastAPI still documents the route, and whatever is not read here is left to it, refusals above all.
"""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send

from streams.api.access import Access, bearer


def read_at_once(
    routes: APIRouter,
    endpoint: Callable[..., Awaitable[Response]],
    access: Access,
    *,
    needs: str,
    model: type[BaseModel],
    path_ids: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """From now on the route that was added last reads its request so.

    endpoint  of that route: takes the model as `query` and ids by their names, and answers packed
    needs     the scope of its key
    model     of its query
    path_ids  the types of what its path names
    """
    route = routes.routes[-1]
    assert isinstance(route, APIRoute)
    ids, otherwise = {name: TypeAdapter(type_of_id) for name, type_of_id in path_ids.items()}, route.app
    lists = {field for field, told in model.model_fields.items() if told.default_factory is list}

    def read(scope: Scope) -> dict[str, Any] | None:
        told: dict[str, Any] = {}
        for key, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
            if key in lists:
                told.setdefault(key, []).append(value)
            elif key in told:
                return None
            else:
                told[key] = value
        try:
            named = {name: of_id.validate_python(scope["path_params"][name]) for name, of_id in ids.items()}
            return {**named, "query": model.model_validate(told)}
        except ValidationError:
            return None

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if (asked := read(scope)) is None:
            await otherwise(scope, receive, send)
            return
        request = Request(scope, receive, send)
        await access.require(await bearer(request), needs)
        answer = await endpoint(**asked)
        await answer(scope, receive, send)

    route.app = app
