"""The vector store on a server: what goes wrong on the way there."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from qdrant_client.http.exceptions import UnexpectedResponse

from store.records import StoreUnavailable
from store.vectors import OfferPoint, collection_name
from store.vectors_server import ServerVectors


@contextmanager
def answering(status: int, answer: Any) -> Iterator[str]:
    """The URL of an HTTP server that gives every request the same answer."""

    class Answer(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.do_POST()

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_server_that_cannot_answer_now_is_unavailable(status: int) -> None:
    with answering(status, {"status": {"error": "later"}}) as url:
        store = ServerVectors(url, None, "")
        with pytest.raises(StoreUnavailable, match=f"answers {status}"):
            store.ensure("ab12", {"fused": 2})
        store.close()


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_server_that_refuses_stays_an_error(status: int) -> None:
    with answering(status, {"status": {"error": "no"}}) as url:
        store = ServerVectors(url, None, "")
        with pytest.raises(UnexpectedResponse, match=str(status)):
            store.ensure("ab12", {"fused": 2})
        store.close()


def test_writes_that_are_not_applied_in_time_are_unavailable() -> None:
    answer = {"result": [{"operation_id": 1, "status": "wait_timeout"}], "status": "ok", "time": 1.0}
    with answering(200, answer) as url:
        store = ServerVectors(url, None, "")
        store._target = collection_name("", "ab12")
        store._widths[store._target] = {"fused": 2}
        with pytest.raises(StoreUnavailable, match="has not applied them within 10 s"):
            store.put_offers([OfferPoint("p", 1, {"state": "listable"})])
        store.close()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with answering(200, {}) as url:
        pass
    store = ServerVectors(url, None, "")
    with pytest.raises(StoreUnavailable, match=f"Qdrant at {url} does not answer: .*refused"):
        store.fetch("p")
    store.close()


def test_a_server_that_hangs_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.vectors_server.TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # connects, by its backlog, and never answers
        store = ServerVectors(f"http://127.0.0.1:{listener.getsockname()[1]}", None, "")
        with pytest.raises(StoreUnavailable, match="does not answer: timed out"):
            store.count()
        store.close()
