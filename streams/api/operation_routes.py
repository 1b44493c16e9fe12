"""How it runs: whether it is alive and ready, and what each role says of itself and has still to do."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

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


def probe_routes(board: StatusBoard, counts: Counts, views: Views) -> APIRouter:
    """What a supervisor asks, without a key.

    counts  of the stores, by their names
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
    def readyz() -> JSONResponse:
        """200 if lists are made and answered, else 503, and what is missing."""
        missing = list(lacks(time.time()))
        return JSONResponse({"ready": not missing, "missing": missing}, 503 if missing else 200)

    def lacks(now: float) -> Iterator[str]:
        roles = board.summary(now)["roles"]
        for name in AWAITED:
            role = roles[name]
            if not role["alive"]:
                yield f"{name}: {role['state']}; start it with `freshet up` or `freshet worker {name}`"
            elif role["state"] != "running":
                yield f"{name}: {role['state']}" + (f", {role['reason']}" if role["reason"] else "")
        if lack := views.lack():
            yield f"api: {lack}"
        for name in ("users", "vectors"):
            counted = _counted(counts[name])
            if "error" in counted:
                yield f"{name}: {counted['error']}"

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
