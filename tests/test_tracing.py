"""Traces from a click to its list: real workers, a real broker, and a collector that is asked over HTTP."""

import asyncio
import gzip
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from brokers import environment_of, settings_on
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from test_clicks import Clicks, click
from tiny_encoders import untrained_version

from encoders.weights import fingerprint_of
from store.records import StoreUnavailable
from store.users import UserStore
from streams import otlp
from streams.api.traced import Traced
from streams.broker import Broker
from streams.embedded_broker import EmbeddedBroker
from streams.otlp import OtlpTracing
from streams.ports import free_port
from streams.role import Message
from streams.settings import Settings
from streams.supervisor import dies_with_parent
from streams.topics import create_topics, topic_names
from streams.tracing import NO_TRACING, open_tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"  # the example of W3C Trace Context
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
NOT_TOLD = f"00-{TRACE}-b7ad6b7169203331-00"


class Collector:
    """Takes spans over OTLP/HTTP, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.about: dict[str, str] = {}  # attributes of the process that told
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.take(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, body: bytes) -> None:
        for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.about |= {one.key: one.value.string_value for one in of_process.resource.attributes}
            self.spans += [span for scope in of_process.scope_spans for span in scope.spans]

    def named(self, name: str) -> Span:
        [span] = [span for span in self.spans if span.name == name]
        return span

    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with closing(Collector()) as collector:
        yield collector


@pytest.fixture
def tracing(collector: Collector) -> Iterator[OtlpTracing]:
    tracing = OtlpTracing(collector.url, 1.0, {"service.name": "freshet"})
    yield tracing
    tracing.close()


def test_the_trace_of_a_request_goes_through_the_click_and_the_batch_to_the_list(
    collector: Collector, tansu: EmbeddedBroker, tmp_path: Path
) -> None:
    settings = settings_on(tansu, tmp_path, api_port=free_port(), otlp_endpoint=collector.url)
    names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
    create_topics(settings, names)
    with working(settings, names.encoders, tmp_path / "log") as api:
        event = {"user_id": "ann", "product_id": "tea", "event": "view_item"}
        answer = httpx.post(f"{api}/v1/events/clicks", json=event, headers={"traceparent": PARENT}, trust_env=False)
        assert answer.status_code == 202, answer.text
        record = first_record(settings, names.recommendations)
    assert orjson.loads(record.value)["event_ids"] == answer.json()["event_ids"]
    asked, clicked, batch = map(collector.named, ("POST /v1/events/clicks", "clicks message", "clicks batch"))
    steps = [collector.named(name) for name in ("read users", "rank", "publish", "commit")]
    assert {span.trace_id.hex() for span in (asked, clicked, batch, *steps)} == {TRACE}
    assert asked.parent_span_id.hex() == PARENT.split("-")[2]
    assert (clicked.parent_span_id, batch.parent_span_id) == (asked.span_id, clicked.span_id)
    assert [link.span_id for link in batch.links] == [clicked.span_id]
    assert {step.parent_span_id for step in steps} == {batch.span_id}
    times = [time for step in steps for time in (step.start_time_unix_nano, step.end_time_unix_nano)]
    assert sorted(times) == times, "one after the other"
    assert clicked.start_time_unix_nano <= times[0] <= times[-1] == clicked.end_time_unix_nano
    assert belongs_to(record.headers) == (TRACE, clicked.span_id.hex(), True)
    assert (collector.about["service.name"], collector.about["service.instance.id"]) == ("freshet", "w1")
    told = "".join(map(str, collector.spans))
    assert "tea" not in told
    assert "ann" not in told


@contextmanager
def working(settings: Settings, versions: str, log: Path) -> Iterator[str]:
    """Workers of the roles clicks and api, until they have ended in good order; the api's address."""
    version = untrained_version(settings)
    with closing(Broker(settings).sync_producer()) as producer:
        producer.send(versions, key=version.fingerprint.encode(), value=version.model_dump_json().encode())
        producer.flush()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams.cli", "worker", "clicks", "api"],
            env=environment_of(settings),
            stdout=file,
            stderr=file,
            preexec_fn=dies_with_parent(),
        )
    api = f"http://127.0.0.1:{settings.api_port}"
    deadline = time.monotonic() + 120.0
    while not answers(f"{api}/v1/trending"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    yield api
    process.terminate()
    assert process.wait(30) == 0, log.read_text()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def first_record(settings: Settings, topic: str) -> Any:
    with closing(Broker(settings).sync_consumer(consumer_timeout_ms=30_000)) as consumer:
        consumer.subscribe([topic])
        return next(consumer)


# --- a batch -----------------------------------------------------------------------------------------------------


def traced(record: Message, traceparent: str) -> Message:
    return record._replace(headers=[("traceparent", traceparent.encode()), ("other", b"\xff")])


def belongs_to(headers: Any) -> tuple[str, str, bool]:
    """The trace and the span that a record's headers name, and whether they are told."""
    [(name, value)] = headers
    _, trace, span, flags = value.decode().split("-")
    assert name == "traceparent"
    return trace, span, bool(int(flags, 16) & 1)


def test_a_list_belongs_to_the_newest_click_s_trace_and_the_batch_to_the_first_that_is_told(
    collector: Collector, tracing: OtlpTracing, tmp_path: Path
) -> None:
    clicks = Clicks(tmp_path)
    clicks.role._tracing = tracing
    first = traced(clicks.record(click("tea", event_id="e1")), NOT_TOLD)
    second = clicks.record(click("cup", event_id="e2"))
    of_bob = traced(clicks.record(click("pot", user_id="bob"), key="bob"), PARENT)
    outcome = clicks.compute([first, second, of_bob])
    lists = {one.key: belongs_to(one.headers) for one in outcome.publish if one.headers}
    tracing.close()
    messages = {span.attributes[3].value.int_value: span for span in collector.spans if span.name == "clicks message"}
    assert {span.attributes[3].key for span in messages.values()} == {"messaging.kafka.offset"}
    assert set(messages) == {1, 2}, "not the one that is not told"
    told = [(span.trace_id.hex(), span.span_id.hex(), True) for span in messages.values()]
    assert lists == dict(zip((b"ann", b"bob"), told, strict=True))
    assert (messages[1].parent_span_id, messages[2].trace_id.hex()) == (b"", TRACE)
    batch = collector.named("clicks batch")
    assert batch.parent_span_id == messages[1].span_id
    assert [link.span_id for link in batch.links] == [span.span_id for span in messages.values()]
    assert batch.attributes[0].value.int_value == 3


def test_of_an_attempt_that_fails_nothing_is_told_and_all_of_the_one_that_succeeds(
    collector: Collector, tracing: OtlpTracing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicks = Clicks(tmp_path)
    clicks.role._tracing = tracing
    record = clicks.record(click())

    def away(*_: Any) -> None:
        raise StoreUnavailable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(UserStore, "write", away)
        with pytest.raises(StoreUnavailable):
            clicks.compute([record])
    clicks.compute([record])
    tracing.close()
    assert collector.names() == ["clicks batch", "clicks message", "commit", "publish", "rank", "read users"]


def test_a_share_is_of_the_traces_that_begin_here_and_what_is_not_told_stays_so(
    collector: Collector, tmp_path: Path
) -> None:
    clicks = Clicks(tmp_path)
    tracing = clicks.role._tracing = OtlpTracing(collector.url, 0.0, {})
    (of_none,) = [one.headers for one in clicks.compute([clicks.record(click())]).publish if one.headers]
    assert not belongs_to(of_none)[2]
    clicks.compute([traced(clicks.record(click(event_id="e2")), PARENT)])
    tracing.close()
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


# --- requests ----------------------------------------------------------------------------------------------------


def test_a_request_that_fails_says_so_and_a_stream_s_span_ends_when_it_begins(
    collector: Collector, tracing: OtlpTracing
) -> None:
    carried: list[str] = []

    async def fails(_: Request) -> Response:
        carried.extend(value.decode() for _, value in tracing.carried())
        return Response(status_code=503)

    async def streams(_: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            carried.extend(value.decode() for _, value in tracing.carried())

        return StreamingResponse(lines(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/fails/{user}", fails), Route("/streams", streams)])

    async def ask() -> None:
        transport = httpx.ASGITransport(Traced(app, tracing=tracing))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.get("/fails/ann", headers={"traceparent": "no such thing"})
            await client.get("/streams")

    asyncio.run(ask())
    assert tracing.carried() == [], "nothing is being answered"
    tracing.close()
    failed, streamed = collector.named("GET /fails/{user}"), collector.named("GET /streams")
    assert [one.split("-")[2] for one in carried] == [failed.span_id.hex(), streamed.span_id.hex()]
    assert (failed.status.code, streamed.status.code) == (Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET)
    assert failed.kind == Span.SPAN_KIND_SERVER
    attributes = {one.key: one.value for one in failed.attributes}
    assert attributes["http.response.status_code"].int_value == 503
    assert set(attributes) == {"http.request.method", "http.route", "http.response.status_code"}


# --- without a collector -----------------------------------------------------------------------------------------


def test_without_a_collector_no_opentelemetry_is_imported_and_a_batch_s_records_have_no_headers(
    tmp_path: Path,
) -> None:
    assert open_tracing(Settings(home=tmp_path)) is NO_TRACING
    clicks = Clicks(tmp_path)
    assert [list(one.headers) for one in clicks.compute([clicks.record(click())]).publish] == [[], []]
    code = (
        "import sys, streams.clicks, streams.roles\n"
        "streams.roles.Parts(streams.settings.Settings()).tracing\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
        "import streams.api.role\n"  # FastAPI imports OpenTelemetry's interface, which does nothing by itself
        "assert not any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_collector_that_cannot_be_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="an OTLP endpoint is like http://localhost:4318"):
        Settings(otlp_endpoint="localhost:4318")
    monkeypatch.setattr("streams.settings.find_spec", lambda _: None)
    with pytest.raises(ValidationError, match=r"pip install '\.\[opentelemetry\]' in Freshet's folder"):
        Settings(otlp_endpoint="http://localhost:4318")


def test_a_collector_that_is_away_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "TOLD_WITHIN_S", 0.5)
    clicks = Clicks(tmp_path)
    tracing = clicks.role._tracing = OtlpTracing(f"http://127.0.0.1:{free_port()}", 1.0, {})
    clicks.compute([clicks.record(click())])
    begun = time.monotonic()
    tracing.close()
    assert time.monotonic() - begun < 10, "OpenTelemetry's own limit"
