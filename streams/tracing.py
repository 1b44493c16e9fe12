"""Traces from a click to its list; nothing at all where no collector is named (FRESHET_OTLP_ENDPOINT).

    request -> click -> batch -> read users, rank, publish, commit

A record carries its trace in the header `traceparent` (W3C Trace Context): a click's is the parent of what comes of it,
and stands in the list's record again. What is here is the null form; `streams.otlp` tells a collector, and imports
OpenTelemetry. Spans tell of routes, topics and counts, of no user and no product.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from streams.broker import Headers
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.role import Message


class BatchTrace:
    """A batch that nobody traces."""

    def begin(self, step: str) -> None:
        """The step before it has ended, and this one begins."""

    def carried(self, place: int) -> Headers:  # noqa: ARG002
        """Headers by which a record belongs to the trace of the message at this place of the batch."""
        return ()

    def end(self) -> None:
        """All that the batch led to is durable. Of a batch that does not come to its end nothing is told."""


class RequestTrace:
    """A request that nobody traces."""

    def answered(self, route: str, status: int) -> None:
        """The answer begins; route is the template."""

    def end(self) -> None:
        """It is not followed to the end of the answer: a stream has none."""


class Tracing:
    """Traces nothing."""

    is_on = False

    def batch(self, name: str, messages: Sequence[Message]) -> BatchTrace:  # noqa: ARG002
        """A batch in the hand of the role of this name."""
        return UNTRACED

    def request(self, method: str, traceparent: str | None) -> AbstractContextManager[RequestTrace]:  # noqa: ARG002
        """Around the answer to a request, within the trace that it names."""
        return nullcontext(RequestTrace())

    def carried(self) -> Headers:
        """Headers by which a record belongs to the trace of the request that is being answered."""
        return ()

    def close(self) -> None:
        """What has ended is told. A collector that is away holds it up for some seconds at most."""


UNTRACED = BatchTrace()
NO_TRACING = Tracing()


def open_tracing(settings: Settings) -> Tracing:
    """As the settings say."""
    if settings.otlp_endpoint is None:
        return NO_TRACING
    from streams.otlp import OtlpTracing

    more: dict[str, Any] = {"service.namespace": settings.namespace} if settings.namespace else {}
    told = {"service.name": "freshet", "service.instance.id": settings.worker_id, **more}
    return OtlpTracing(settings.otlp_endpoint, settings.trace_share, told)
