"""Pictures by their links: fetched or read within limits, decoded, or a reason why not. Never raises for a picture."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit

import httpcore
import httpx

from streams.picture_decoding import Picture, PictureMissing, decode
from streams.picture_hosts import HostSilent
from streams.picture_transport import AddressRefused, CheckedTransport

__all__ = ["Picture", "PictureLoader", "PictureMissing"]

Given = TypeVar("Given")
Made = TypeVar("Made")

LINKS_TRIED = 3  # of one product, or as many as pictures are wanted: what is no picture is passed over
REDIRECTS_MAX = 5
SILENT_TIMES = 3  # the time limit: so long a host that gave no answer is left alone
MAYBE_LATER = frozenset({404, 408, 425, 429})  # feeds run ahead of the picture server, so 404 is worth a retry


class PictureLoader:
    """Loads pictures from http(s) and from files below a root. An async context manager.

    The limits are named as in the settings; see there.
    """

    def __init__(
        self,
        *,
        pictures_root: Path | None = None,
        pictures_allow_private: bool = False,
        picture_max_bytes: int = 10_000_000,
        picture_max_pixels: int = 40_000_000,
        picture_timeout_s: float = 10.0,
        pictures_per_product: int = 3,
        at_once: int = 16,
        decode_threads: int = 2,
    ) -> None:
        """at_once bounds the fetches, decode_threads the pictures unpacked in memory (4 bytes a pixel each)."""
        self._root = pictures_root.resolve() if pictures_root else None
        self._max_bytes = picture_max_bytes
        self._max_pixels = picture_max_pixels
        self._timeout_s = picture_timeout_s
        self._per_product = pictures_per_product
        self._at_once = asyncio.Semaphore(at_once)
        self._threads = ThreadPoolExecutor(decode_threads, thread_name_prefix="pictures")
        self._client = httpx.AsyncClient(
            transport=CheckedTransport(
                allow_private=pictures_allow_private,
                max_connections=at_once,
                silent_s=SILENT_TIMES * picture_timeout_s,
            ),
            trust_env=False,  # a proxy of the environment would connect for us, unchecked
            follow_redirects=True,
            max_redirects=REDIRECTS_MAX,
            timeout=picture_timeout_s,
            headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "Freshet"},
        )

    def over(self, call: Callable[[Given], Made], given: Iterable[Given], /) -> Iterator[Made]:
        """As `map`, by the threads that decode."""
        return self._threads.map(call, given)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def load_pictures(self, links: Sequence[Sequence[str]]) -> list[tuple[Picture, ...] | PictureMissing | None]:
        """For each product's links its pictures that can be had, else the first reason; None without links."""
        return list(await asyncio.gather(*map(self._pictures_of, links)))

    async def fetch_picture(self, link: str) -> Picture | PictureMissing:
        """The picture at an http(s) link, a `file:` link or a path below the root."""
        async with self._at_once:
            content = await self._content(link)
            if isinstance(content, PictureMissing):
                return content
            unpacking = asyncio.get_running_loop().run_in_executor(self._threads, decode, content, self._max_pixels)
            outcome = await unpacking
        if isinstance(outcome, PictureMissing):
            return PictureMissing(f"{shown(link)}: {outcome.reason}", outcome.retry)
        return outcome

    async def _pictures_of(self, links: Sequence[str]) -> tuple[Picture, ...] | PictureMissing | None:
        """In the order of the links; a link is followed only while the pictures before it do not suffice."""
        pictures: list[Picture] = []
        missing: list[PictureMissing] = []
        for link in links[: max(LINKS_TRIED, self._per_product)]:
            outcome = await self.fetch_picture(link)
            if isinstance(outcome, Picture):
                pictures.append(outcome)
            else:
                missing.append(outcome)
            if len(pictures) == self._per_product:
                break
        if pictures:
            return tuple(pictures)
        return PictureMissing(missing[0].reason, retry=any(each.retry for each in missing)) if missing else None

    async def _content(self, link: str) -> bytes | PictureMissing:
        try:
            parts = urlsplit(link)
            scheme, _ = parts.scheme.lower(), parts.port  # reading the port checks it
        except ValueError as error:
            return PictureMissing(f"{shown(link)} is not a valid link ({error}): correct it", retry=False)
        if scheme in ("http", "https"):
            return await self._from_web(link)
        if scheme in ("file", ""):
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._from_file, link)
        return PictureMissing(f"{shown(link)} is neither http(s) nor a file: publish such a link", retry=False)

    async def _from_web(self, link: str) -> bytes | PictureMissing:
        try:
            async with asyncio.timeout(self._timeout_s), self._client.stream("GET", link) as response:
                if response.status_code != 200:
                    return _refused(link, response.status_code)
                return await self._body(link, response)
        except (TimeoutError, httpx.TimeoutException, httpcore.TimeoutException):
            reason = f"{shown(link)} took more than {self._timeout_s:g} s: make it faster or raise picture_timeout_s"
            return PictureMissing(reason, retry=True)
        except (AddressRefused, HostSilent) as error:
            return PictureMissing(f"{shown(link)}: {error}", retry=True)
        except httpx.TooManyRedirects:
            return PictureMissing(
                f"{shown(link)} redirects more than {REDIRECTS_MAX} times: link to the picture", False
            )
        except (httpx.InvalidURL, httpcore.UnsupportedProtocol, ValueError) as error:
            return PictureMissing(f"{shown(link)} does not lead to a picture over http(s) ({error}): correct it", False)
        except (httpx.HTTPError, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            reason = f"{shown(link)} cannot be reached ({type(error).__name__} {error}): check that it is served"
            return PictureMissing(reason, retry=True)

    async def _body(self, link: str, response: httpx.Response) -> bytes | PictureMissing:
        """The answer's bytes, read no further than the limit."""
        body = bytearray()
        too_large = int(response.headers.get("content-length", "0")) > self._max_bytes
        if not too_large:
            async for piece in response.aiter_raw():
                body += piece
                too_large = len(body) > self._max_bytes
                if too_large:
                    break
        return self._too_large(link) if too_large else bytes(body)

    def _from_file(self, link: str) -> bytes | PictureMissing:
        return read_picture(link, self._root, self._max_bytes)

    def _too_large(self, link: str) -> PictureMissing:
        return _too_large(link, self._max_bytes)


def read_picture(link: str, root: Path | None, max_bytes: int) -> bytes | PictureMissing:
    """The bytes of the file that the link names, which lies below root (resolved)."""
    if root is None:
        return PictureMissing(f"{shown(link)} is a file, and no pictures_root is set: set it", retry=True)
    try:
        path = (root / _path_of(link)).resolve()
        if not path.is_relative_to(root):
            return PictureMissing(f"{shown(link)} lies outside of pictures_root: move it below", retry=True)
        if not path.exists():
            return PictureMissing(f"{shown(link)} is not below pictures_root: put it there", retry=True)
        if not path.is_file():  # a pipe or a device would block for ever
            return PictureMissing(f"{shown(link)} is not a regular file: link to one", retry=False)
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: symlinks in a circle
        return PictureMissing(f"{shown(link)} cannot be read ({error}): check its name and rights", retry=True)
    return _too_large(link, max_bytes) if len(content) > max_bytes else content


def shown(link: str) -> str:
    """The link as a reason shows it: without credentials and query, which may be secrets, and not too long."""
    plain = link.partition("?")[0].partition("#")[0]
    scheme, separator, rest = plain.partition("://")
    if separator:
        host, slash, path = rest.partition("/")
        plain = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return repr(plain if len(plain) <= 200 else f"{plain[:197]}...")


def _path_of(link: str) -> str:
    """The path of a `file:` link, or the link itself, relative to the root."""
    if not link.lower().startswith("file:"):
        return link
    parts = urlsplit(link)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"the file is on another machine, {parts.netloc!r}")
    return unquote(parts.path)


def _refused(link: str, status: int) -> PictureMissing:
    retry = status in MAYBE_LATER or status >= 500
    return PictureMissing(f"{shown(link)} was answered with status {status} instead of 200: check the link", retry)


def _too_large(link: str, max_bytes: int) -> PictureMissing:
    reason = f"{shown(link)} has more than {max_bytes} bytes: shrink it or raise picture_max_bytes"
    return PictureMissing(reason, retry=True)
