"""How it runs: whether it is alive and ready, and what each role says of itself and has still to do."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from store.records import StoreUnavailable
from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import answers
from streams.api.views import Views
from streams.health import Backlog
from streams.status import StatusBoard

AWAITED = ("catalog", "encode", "index", "clicks")  # without the learner, lists still come from the last factors
LACKING = {"ready": False, "missing": ["clicks: silent; start it with `freshet up` or `freshet worker clicks`"]}
Counts = Mapping[str, Callable[[], dict[str, int]]]
"""Of the stores, by their names."""


def probe_routes(
    board: StatusBoard, pings: Mapping[str, Callable[[], object]], views: Views, access: Access
) -> APIRouter:
    """What a supervisor asks, without a key.

    pings  of the stores, by their names: they raise StoreUnavailable
    """
    routes = APIRouter(tags=["operation"])

    @routes.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, Any]:
        """The process answers."""
        return {"alive": True}

    @routes.get(
        "/readyz",
        summary="Whether all is there, and what is missing",
        responses=answers(LACKING, 503, "what is missing"),
    )
    def readyz(in_full: Annotated[bool, access.lets("admin")]) -> JSONResponse:
        """200 if lists are made and answered, else 503, and what is missing; where keys are needed, why is told to one
        of the scope admin alone."""
        missing = list(lacks(time.time(), in_full))
        return JSONResponse({"ready": not missing, "missing": missing}, 503 if missing else 200)

    def lacks(now: float, in_full: bool) -> Iterator[str]:
        roles = board.summary(now)["roles"]
        for name in AWAITED:
            role = roles[name]
            if not role["alive"]:
                yield f"{name}: {role['state']}; start it with `freshet up` or `freshet worker {name}`"
            elif role["state"] != "running":
                yield f"{name}: {role['state']}" + (f", {role['reason']}" if role["reason"] and in_full else "")
        if lack := views.lack():
            yield f"api: {lack if in_full else 'waiting'}"
        for name, ping in pings.items():
            try:
                ping()
            except StoreUnavailable as away:
                yield f"{name}: {away if in_full else away.told}"

    return routes


def status_routes(
    board: StatusBoard, counts: Counts, backlogs: Callable[[], Mapping[str, Backlog]], access: Access
) -> APIRouter:
    """What an operator asks."""
    routes = APIRouter(prefix=PREFIX, tags=["operation"])

    @routes.get("/status", summary="How every role and store does", dependencies=[access.needs("admin")])
    def status() -> dict[str, Any]:
        """What each role says of itself and has still to do, and the counts of each store, or why there are none."""
        stores = {name: _counted(count) for name, count in counts.items()}
        return board.summary(time.time(), backlogs()) | {"stores": stores}

    return routes


def _counted(count: Callable[[], dict[str, int]]) -> dict[str, Any]:
    try:
        return dict(count())
    except StoreUnavailable as away:
        return {"error": str(away)}
