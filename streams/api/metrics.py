"""GET /metrics, in Prometheus' text: what this api measures of itself, and what every worker says on the status board.

A scrape needs no key where nobody does, else one with the scope `read`: there are counts and times here, and nothing of
a user or a product, and whoever scrapes should not have to hold a key that may do more.
"""

import time
from collections.abc import Callable
from typing import Any, cast

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.api.access import Access
from streams.search import Search

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"  # the route of a request for which there is none
LISTS = "/recommendations"  # how the routes end that make a list

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside each counter and bucket that no expression needs


class Metrics:
    """What one api counts; each Api has its own registry."""

    def __init__(self, *collectors: Collector) -> None:
        """collectors: what is collected beside it at each scrape, in a thread."""
        self.registry = CollectorRegistry()
        for collector in collectors:
            self.registry.register(collector)
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "freshet_http_requests_total",
            "Requests that were answered, by the template of their route.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._took_s = Histogram(
            "freshet_http_request_duration_seconds",
            "Time from a request to the begin of its answer, by the template of its route.",
            ("method", "route"),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._open_streams = Gauge(
            "freshet_http_open_streams", "Streams of events that are open now.", registry=self.registry
        )
        self._lists = Counter(
            "freshet_lists_answered_total", "Lists of recommendations that were made and answered.",
            registry=self.registry,
        )  # fmt: skip
        self._searches_s = Histogram(
            "freshet_search_duration_seconds",
            "Time of a search that was answered, by what was searched by (words, picture, both) and by which halves.",
            ("kind", "mode"),
            buckets=BUCKETS_S,
            registry=self.registry,
        )

    def render(self) -> bytes:
        """All of it in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)

    def timed(self, search: Search) -> Search:
        """The same search; its answers are timed."""
        return cast(Search, _TimedSearch(search, self._count_search))

    def count_answer(self, method: str, route: str, status: int, took_s: float) -> None:
        method = method if method in METHODS else "OTHER"
        self._requests.labels(method, route, str(status)).inc()
        self._took_s.labels(method, route).observe(took_s)
        if route.endswith(LISTS) and status == 200:
            self._lists.inc()

    def count_stream(self, change: int) -> None:
        """One more is open (1), or one less (-1)."""
        self._open_streams.inc(change)

    def _count_search(self, kind: str, mode: str, took_s: float) -> None:
        self._searches_s.labels(kind, mode).observe(took_s)


class Measured:
    """Around the whole app: every request is counted when its answer begins."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        is_stream = False

        async def begin(message: Message) -> None:
            nonlocal is_stream
            if message["type"] == "http.response.start":
                took_s = time.perf_counter() - begun
                self._metrics.count_answer(scope["method"], route_of(scope), message["status"], took_s)
                if Headers(raw=message.get("headers", [])).get("content-type", "").startswith("text/event-stream"):
                    is_stream = True
                    self._metrics.count_stream(1)
            await send(message)

        try:
            await self._app(scope, receive, begin)
        finally:
            if is_stream:
                self._metrics.count_stream(-1)


class _TimedSearch:
    """A Search in all but its `find`."""

    def __init__(self, search: Search, observe: Callable[[str, str, float], None]) -> None:
        self._search = search
        self._observe = observe

    def find(self, query: Any, *more: Any) -> Any:
        begun = time.perf_counter()
        found = self._search.find(query, *more)
        has_words, has_picture = bool(query.q.strip()), bool(getattr(query, "picture", None))
        kind = "both" if has_words and has_picture else "picture" if has_picture else "words"
        self._observe(kind, query.mode, time.perf_counter() - begun)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._search, name)


def metric_routes(metrics: Metrics, access: Access) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["operation"])

    @routes.get(
        "/metrics",
        summary="What Prometheus scrapes",
        dependencies=[access.needs("read")],
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {"example": "freshet_factors_age_seconds 1.2\n"}}}},
    )
    def scrape() -> PlainTextResponse:
        """Requests, searches and lists of this api, and of every worker what it says of itself: Prometheus' text."""
        return PlainTextResponse(metrics.render(), media_type=CONTENT_TYPE)

    return routes


def route_of(scope: Scope) -> str:
    """The template of the route that took the request, as the OpenAPI document has it."""
    route = scope.get("route")
    return route.path_format if isinstance(route, Route) else UNMATCHED
