"""Who may ask what: keys and their scopes, how often a key asks, how large a request is, and by which name it came."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from store.keys import ApiKey, KeyStore, parts_of
from store.records import StoreUnavailable
from streams.api.problems import Problem, defect
from streams.ports import names_loopback

log = logging.getLogger(__name__)

KNOWN_FOR_S = 2.0  # a key that was removed opens nothing after so long, if the database answers
WAITED_FOR_S = 1.0  # for a database that hangs
WITH_BODY = ("POST", "PUT", "PATCH")
BURST_S = 2.0  # a key may ask at once what it may ask in so long
bearer = HTTPBearer(auto_error=False, description="A key of `freshet keys make`; none is needed while none was made.")


class NoKeys(Exception):
    """The api is to listen where others reach it, and nobody could be told from anybody."""


class Access:
    """Tells whether a request may be answered. While no key was made, everybody on this machine may ask all."""

    def __init__(self, keys: KeyStore, *, is_loopback: bool, requests_per_s: int) -> None:
        """requests_per_s: of each key; 0 = as many as it likes."""
        self._store = keys
        self._is_loopback = is_loopback
        self._requests_per_s = requests_per_s
        self._keys: Mapping[str, ApiKey] | None = None
        self._read_at = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._waited_until = 0.0  # for the reading
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")  # others may take every thread of the process
        self._allowances: dict[str, tuple[float, float]] = {}  # key -> requests left, and when that was so

    def require_keys(self) -> None:
        """Raises NoKeys where others could ask without one; StoreUnavailable."""
        if not self._is_loopback and not self._store.all():
            raise NoKeys(
                "FRESHET_API_HOST is an address that others reach, and no key was made: "
                "make one with `freshet keys make NAME`, or let it be 127.0.0.1"
            )

    def needs(self, scope: str) -> Any:
        """A dependency of routes that a key with this scope opens."""

        async def check(told: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> None:
            await self.require(told, scope)

        return Depends(check)

    def may(self, scope: str) -> Any:
        """A dependency whose value tells whether the request may do that, too."""

        async def check(told: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> bool:
            return await self._lets(told, scope)

        return Depends(check)

    def lets(self, scope: str) -> Any:
        """A dependency as `may`, whose value is False, too, where a key is needed and none that is known was sent."""

        async def check(told: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> bool:
            try:
                return await self._lets(told, scope)
            except (HTTPException, StoreUnavailable):
                return False

        return Depends(check)

    async def _lets(self, told: HTTPAuthorizationCredentials | None, scope: str) -> bool:
        key = await self.key_of(told.credentials if told else None)
        return key is None or key.allows(scope)

    async def key_of(self, told: str | None) -> ApiKey | None:
        """The key that was told; None where none is needed. Raises HTTPException 401."""
        known = await self._known()
        if not known and self._is_loopback:
            return None
        parts = parts_of(told or "")
        key = known.get(parts[0]) if parts else None
        if key is None or parts is None or not key.is_opened_by(parts[1]):
            wrong = "the key is not known" if told else "a key is needed"
            raise HTTPException(401, f"{wrong}: send `Authorization: Bearer KEY`", {"WWW-Authenticate": "Bearer"})
        return key

    async def knows(self, told: str | None) -> bool:
        """False once the key that was told is removed."""
        try:
            await self.key_of(told)
        except HTTPException:
            return False
        return True

    async def require(self, told: HTTPAuthorizationCredentials | None, scope: str) -> None:
        """Raises HTTPException unless the key that was told opens the scope now: 401, 403 or 429."""
        key = await self.key_of(told.credentials if told else None)
        if key is None:
            return
        if not key.allows(scope):
            raise HTTPException(403, f"the key of {key.name!r} may not {scope}: ask with one that has this scope")
        if wait_s := self._wait_s(key.key_id, time.monotonic()):
            raise HTTPException(
                429, f"the key of {key.name!r} asks more than {self._requests_per_s} times a second: ask more slowly",
                {"Retry-After": str(max(1, round(wait_s)))},
            )  # fmt: skip

    async def _known(self) -> Mapping[str, ApiKey]:
        """The keys of KNOWN_FOR_S ago at most; while the database does not answer, those that were known before."""
        now = time.monotonic()
        if self._keys is None or now - self._read_at > KNOWN_FOR_S:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read(), name="keys")
                self._waited_until = now + WAITED_FOR_S
            if self._keys is None:
                await asyncio.shield(self._reading)
            elif now < self._waited_until:
                await asyncio.wait({self._reading}, timeout=self._waited_until - now)
        assert self._keys is not None
        return self._keys

    async def _read(self) -> None:
        try:
            keys = await asyncio.get_running_loop().run_in_executor(self._thread, self._store.all)
            self._keys = {key.key_id: key for key in keys}
        except StoreUnavailable as away:
            if self._keys is None:
                raise
            log.warning("keys stay those that were known reason=%s", away)
        self._read_at = time.monotonic()

    def _wait_s(self, key_id: str, now: float) -> float:
        """How long until the key may ask; 0 if it may now, which is counted then."""
        if not self._requests_per_s:
            return 0.0
        most = self._requests_per_s * BURST_S
        left, at = self._allowances.get(key_id, (most, now))
        left = min(most, left + (now - at) * self._requests_per_s)
        self._allowances[key_id] = (left - 1.0 if left >= 1.0 else left, now)
        return 0.0 if left >= 1.0 else (1.0 - left) / self._requests_per_s


class Guard:
    """Around the whole app: no body above a size is read, and none of who has no key; no traceback leaves.

    On a loopback address only its names are answered, or a web page whose name was made to lead here could ask.
    """

    def __init__(
        self, app: ASGIApp, *, access: Access, body_max_bytes: int, is_loopback: bool, answered: Callable[[], None]
    ) -> None:
        """answered is called with every answer."""
        self._app = app
        self._access = access
        self._body_max_bytes = body_max_bytes
        self._is_loopback = is_loopback
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer: Callable[[Scope, Receive, Send], Awaitable[None]] = self._app
        headers = Headers(scope=scope)
        if self._is_loopback and not names_loopback(host_of(headers.get("host", ""))):
            answer = Problem(421, "the api answers to 127.0.0.1 and localhost: FRESHET_API_HOST sets other addresses")
        elif (length := headers.get("content-length", "0")).isdigit() and int(length) > self._body_max_bytes:
            answer = self._too_large()
        elif scope["method"] in WITH_BODY and (refused := await self._refused(headers.get("authorization", ""))):
            answer = refused
        is_begun = False

        async def begin(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        try:
            await answer(scope, self._limited(receive), begin)
        except Exception as error:
            if is_begun:
                raise
            await defect(scope["path"], error)(scope, receive, send)
        finally:
            self._answered()

    async def _refused(self, authorization: str) -> Problem | None:
        """The answer to who has no key; the router would read the body first."""
        try:
            scheme, _, told = authorization.partition(" ")
            await self._access.key_of(told.strip() if scheme.lower() == "bearer" else None)
        except HTTPException as error:
            return Problem(error.status_code, str(error.detail), headers=error.headers)
        except StoreUnavailable:
            return None  # the route tells of it
        return None

    def _limited(self, receive: Receive) -> Receive:
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._body_max_bytes:
                raise HTTPException(413, self._why_too_large())
            return message

        return limited

    def _too_large(self) -> Problem:
        return Problem(413, self._why_too_large())

    def _why_too_large(self) -> str:
        return (
            f"the body has more than {self._body_max_bytes} bytes: send less at once, shrink the picture, "
            "or raise FRESHET_PICTURE_MAX_BYTES"
        )


def host_of(header: str) -> str:
    """The name or address in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
