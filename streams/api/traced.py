"""Every request within a trace: the one that its header `traceparent` names, or one that begins here."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.api.metrics import METHODS, route_of
from streams.tracing import Tracing


class Traced:
    """Around the whole app."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        with self._tracing.request(method, Headers(scope=scope).get("traceparent")) as request:

            async def begin(message: Message) -> None:
                if message["type"] == "http.response.start":
                    request.answered(route_of(scope), message["status"])
                    kind = Headers(raw=message.get("headers", [])).get("content-type", "")
                    if kind.startswith("text/event-stream"):
                        request.end()
                await send(message)

            await self._app(scope, receive, begin)
