"""What only the api of `freshet demo` answers: products of a visitor's own, and processes that stop and start."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Depends, HTTPException
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import answers
from streams.api.event_routes import json_body
from streams.api.problems import again
from streams.demo_orders import Orders, OrdersUnavailable, ProcessState, UnknownProcess
from streams.demo_products import TooManyPictures, own_product, store_picture
from streams.door import Door, WrongEvents
from streams.health import Backlog
from streams.search_query import decoded_picture
from streams.settings import Settings
from streams.status import StatusBoard

PROCESSES = {"processes": [{"name": "encode", "state": "held", "at_work": False, "waiting": 3}]}
LAMP = {"summary": "With a picture", "value": {"title": "My lamp", "price": 25.0, "picture": "/9j/4AAQSkZJRg=="}}


class OwnProduct(BaseModel):
    """A product of a visitor's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    price: Annotated[float | None, Field(ge=0, le=1e6, allow_inf_nan=False, description="EUR")] = None
    picture: Annotated[str | None, Field(description="base64 of a file: JPEG, PNG, WebP, GIF or BMP")] = None


def demo_routes(
    settings: Settings,
    orders: Orders,
    door: Door,
    board: StatusBoard,
    backlogs: Callable[[], Mapping[str, Backlog]],
    access: Access,
) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=f"{PREFIX}/demo", tags=["demo"])
    root = settings.pictures_root
    ordered = [access.needs("admin"), Depends(json_body)]  # what calls itself JSON comes from no other page
    takes_pictures = root is not None and root.resolve().is_relative_to(settings.home.resolve())

    @routes.get(
        "",
        summary="The processes that may be stopped",
        dependencies=[access.needs("read")],
        responses=answers({"takes_pictures": True, **PROCESSES}),
    )
    async def demo() -> dict[str, Any]:
        """Whether each runs, is held, or is pausing before it is started again; whether its roles are at work, which
        takes some seconds more; and how many events wait for them. takes_pictures: false while a shop's own folder is
        played, where nothing is to be stored."""
        return {"takes_pictures": takes_pictures, **await _told(orders.tell())}

    @routes.post(
        "/products",
        status_code=202,
        summary="Publish a product of your own",
        dependencies=[access.needs("write")],
        responses=answers({"product_id": "yours-my-lamp-3f2a9c", "published_at": 1772366400.0}, 202)
        | {422: {"description": "the picture is none, or there is no title"}},
    )
    async def publish(product: Annotated[OwnProduct, Body(openapi_examples={"lamp": LAMP})]) -> dict[str, Any]:
        """It stands in `catalog-updates`, confirmed, as if a shop had published it; published_at in s since 1970."""
        if product.picture is not None and not takes_pictures:
            raise HTTPException(409, "the pictures of this shop lie in its own folder: publish without a picture")
        upsert = own_product(product.title, product.price, has_picture=product.picture is not None)
        try:
            messages = (await run_in_threadpool(door.catalog_of, orjson.dumps(upsert))).messages
            stored = await run_in_threadpool(store, upsert, product.picture)
        except TooManyPictures as full:
            raise HTTPException(409, str(full)) from full
        except WrongEvents as wrong:
            raise HTTPException(422, str(wrong)) from wrong
        try:
            await door.publish(messages)
        except BaseException:
            if stored is not None:  # of a product that is not to come: tried again, it has another id
                stored.unlink(missing_ok=True)
            raise
        return {"product_id": upsert["product_id"], "published_at": time.time()}

    def store(upsert: dict[str, Any], picture: str | None) -> Path | None:
        if root is None or picture is None:
            return None
        decoded = decoded_picture(picture, settings.picture_max_bytes, settings.picture_max_pixels)
        return store_picture(upsert, decoded, root)

    @routes.post(
        "/processes/{name}/stop",
        summary="Stop a process",
        dependencies=ordered,
        responses=answers(PROCESSES) | {404: {"description": "none of this name may be stopped"}},
    )
    async def stop(name: str) -> dict[str, Any]:
        """It has ended, as at SIGTERM, and stays so until it is started: what comes for it waits in the topics. The
        body is {}."""
        return await _told(orders.stop(name))

    @routes.post(
        "/processes/{name}/start",
        summary="Start a process again",
        dependencies=ordered,
        responses=answers(PROCESSES) | {404: {"description": "none of this name may be stopped"}},
    )
    async def start(name: str) -> dict[str, Any]:
        """It starts again, and catches up; nothing is lost. The body is {}."""
        return await _told(orders.start(name))

    async def _told(asked: Any) -> dict[str, Any]:
        try:
            states = await asked
        except OrdersUnavailable as away:
            raise HTTPException(503, str(away), again()) from away
        except UnknownProcess as unknown:
            raise HTTPException(404, str(unknown)) from unknown
        roles = await run_in_threadpool(lambda: board.summary(time.time(), backlogs())["roles"])
        return {"processes": [_process(name, state, roles) for name, state in states.items()]}

    return routes


def _process(name: str, state: ProcessState, roles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    own = [roles[role] for role in name.split("-") if role in roles]
    at_work = all(role["alive"] and role["state"] == "running" and state.pid in role["pids"] for role in own)
    return {"name": name, "state": state.state, "at_work": at_work, "waiting": sum(role["lag"] for role in own)}
