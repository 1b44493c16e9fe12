"""Traces for an OpenTelemetry collector, over OTLP/HTTP. Imported only where one is named.

Spans are told in the background, from a thread of the exporter: a collector that is away costs spans, and a line in the
log. The headers of its requests, as for a key, are OpenTelemetry's own OTEL_EXPORTER_OTLP_HEADERS.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, set_span_in_context, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streams.broker import Headers
from streams.role import Message
from streams.tracing import UNTRACED, BatchTrace, RequestTrace, Tracing

NAMED = ("traceparent", "tracestate")
TOLD_WITHIN_S = 2.0  # a portion of spans, tried again included; else it is lost, and an end waits no longer
W3C = TraceContextTextMapPropagator()


class OtlpTracing(Tracing):
    """Tells a collector. Its methods may be called from any thread."""

    is_on = True

    def __init__(self, endpoint: str, share: float, about: Mapping[str, str]) -> None:
        """
        endpoint  of the collector; its traces are at /v1/traces below it
        share     of the traces that begin here; one that began elsewhere is told if its beginner said so
        about     attributes of the whole process
        """
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=TOLD_WITHIN_S)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=Resource.create(dict(about)), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("freshet")

    def batch(self, name: str, messages: Sequence[Message]) -> BatchTrace:
        return _Batch(self._tracer, name, messages) if messages else UNTRACED

    @contextmanager
    def request(self, method: str, traceparent: str | None) -> Iterator[RequestTrace]:
        parent = W3C.extract({} if traceparent is None else {"traceparent": traceparent})
        span = self._tracer.start_span(
            method, parent, SpanKind.SERVER, {"http.request.method": method} if method else None
        )
        request = _Request(span, method)
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                yield request
        finally:
            request.end()

    def carried(self) -> Headers:
        return _headers(None)

    def close(self) -> None:
        self._provider.shutdown()


class _Request(RequestTrace):
    def __init__(self, span: Span, method: str) -> None:
        self._span = span
        self._method = method

    def answered(self, route: str, status: int) -> None:
        self._span.update_name(f"{self._method} {route}")
        self._span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        if self._span.is_recording():
            self._span.end()


class _Batch(BatchTrace):
    """Each message has a span, from the time of its record to the end; the batch is within the first one that is told,
    and linked to all. The spans of the steps are made at the end, when nobody waits any more."""

    def __init__(self, tracer: Tracer, name: str, messages: Sequence[Message]) -> None:
        self._tracer = tracer
        self._name = name
        self._begun_at = time.time_ns()
        self._steps: list[tuple[str, int]] = []
        self._spans = [self._span(message) for message in messages]

    def begin(self, step: str) -> None:
        self._steps.append((step, time.time_ns()))

    def carried(self, place: int) -> Headers:
        return _headers(set_span_in_context(self._spans[place], Context()))

    def end(self) -> None:
        now = time.time_ns()
        told = [span for span in self._spans if span.is_recording()]
        if told:
            batch = self._tracer.start_span(
                f"{self._name} batch",
                set_span_in_context(told[0], Context()),
                attributes={"messaging.batch.message_count": len(self._spans)},
                links=[Link(span.get_span_context()) for span in told],
                start_time=self._begun_at,
            )
            within = set_span_in_context(batch, Context())
            ends = [at for _, at in self._steps[1:]] + [now]
            for (step, at), end in zip(self._steps, ends, strict=True):
                self._tracer.start_span(step, within, start_time=at).end(end)
            batch.end(now)
        for span in told:
            span.end(now)

    def _span(self, message: Message) -> Span:
        told = {name: value.decode("latin-1") for name, value in message.headers if name in NAMED}
        return self._tracer.start_span(
            f"{self._name} message",
            W3C.extract(told, Context()),
            SpanKind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.destination.name": message.topic,
                "messaging.destination.partition.id": str(message.partition),
                "messaging.kafka.offset": message.offset,
            },
            start_time=min(int(message.at * 1e9), self._begun_at),
        )


def _headers(context: Context | None) -> Headers:
    """None: of the span that is current."""
    told: dict[str, str] = {}
    W3C.inject(told, context)
    return [(name, value.encode()) for name, value in told.items()]
