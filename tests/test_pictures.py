"""Pictures by links: a real server on this machine, real files, real encodings, and what hostile ones do."""

import asyncio
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpcore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from streams.picture_decoding import SIDE_MAX_PX, decode
from streams.picture_hosts import HOSTS_MAX, HostSilent, SilentHosts
from streams.picture_transport import AddressRefused, check, is_public
from streams.pictures import Picture, PictureLoader, PictureMissing, shown

LIMITS = {"pictures_allow_private": True, "picture_max_bytes": 200_000, "picture_timeout_s": 2.0}


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


RED = Image.new("RGB", (20, 10), (250, 10, 20))
RED_PNG = saved(RED)


class Server(BaseHTTPRequestHandler):
    """One path for each way in which a picture can be served."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/red.png":
            return self.answer(200, RED_PNG)
        if path.startswith("/status/"):
            return self.answer(int(path.rpartition("/")[2]), b"no")
        if path.startswith("/hops/"):
            left = int(path.rpartition("/")[2])
            return self.answer(302, b"", Location=f"/hops/{left - 1}" if left else "/red.png")
        if path == "/elsewhere":
            return self.answer(302, b"", Location=self.path.partition("?to=")[2])
        if path == "/large-and-says-so":
            return self.answer(200, b"x" * 300_000)
        if path == "/large-and-endless":
            return self.endless(pause_s=0.0)
        if path == "/slow":
            return self.endless(pause_s=0.2)
        if path == "/cut":
            return self.answer(200, RED_PNG[:20], **{"Content-Length": str(len(RED_PNG))})
        if path == "/silent":
            return None  # closes without an answer
        if path == "/mute":
            return time.sleep(2.5)  # longer than a test waits
        return self.answer(200, b"<html>this is no picture</html>")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def endless(self, pause_s: float) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(10_000):
                self.wfile.write(b"x" * 10_000 if not pause_s else b"x")
                time.sleep(pause_s)
        except OSError:
            pass  # the reader has hung up, as it should

    def log_message(self, *_: object) -> None:
        pass


class Listener(ThreadingHTTPServer):
    request_queue_size = 64  # with the usual 5, connecting 16 times at once can take a second


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    listening = Listener(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()
    listening.server_close()
    thread.join()


def load(*links: str, **limits: object) -> list[Picture | PictureMissing]:
    async def all_of_them() -> list[Picture | PictureMissing]:
        async with PictureLoader(**(LIMITS | limits)) as loader:
            return [await loader.fetch_picture(link) for link in links]

    return asyncio.run(all_of_them())


def missing(link: str, **limits: object) -> PictureMissing:
    (outcome,) = load(link, **limits)
    assert isinstance(outcome, PictureMissing)
    return outcome


def pixels(outcome: Picture | PictureMissing) -> np.ndarray:
    assert isinstance(outcome, Picture), outcome
    assert outcome.array.dtype == np.uint8
    assert outcome.array.ndim == 3
    return outcome.array


# --- from the web ------------------------------------------------------------------------------------------------


def test_a_served_picture_has_the_pixels_that_were_drawn(server: str) -> None:
    (outcome,) = load(f"{server}/red.png")
    assert np.array_equal(pixels(outcome), np.asarray(RED))


def test_five_redirects_are_followed_and_not_six(server: str) -> None:
    followed, not_followed = load(f"{server}/hops/4", f"{server}/hops/5")
    assert np.array_equal(pixels(followed), np.asarray(RED))
    assert isinstance(not_followed, PictureMissing)
    assert "redirects more than 5 times" in not_followed.reason
    assert not not_followed.retry


@pytest.mark.parametrize(
    ("status", "retry"), [(404, True), (410, False), (403, False), (429, True), (500, True), (503, True), (204, False)]
)
def test_a_refusal_says_its_status_and_whether_waiting_may_help(server: str, status: int, retry: bool) -> None:
    outcome = missing(f"{server}/status/{status}")
    assert f"answered with status {status} instead of 200" in outcome.reason
    assert outcome.retry is retry


@pytest.mark.parametrize("path", ["/large-and-says-so", "/large-and-endless"])
def test_what_is_too_large_is_read_no_further_than_the_limit(server: str, path: str) -> None:
    outcome = missing(server + path)
    assert "more than 200000 bytes: shrink it or raise picture_max_bytes" in outcome.reason
    assert outcome.retry, "the setting may be raised"


def test_a_drip_feed_ends_with_the_time_limit_of_the_whole_fetch(server: str) -> None:
    start = time.monotonic()
    outcome = missing(f"{server}/slow", picture_timeout_s=0.5)
    assert time.monotonic() - start < 5
    assert "took more than 0.5 s" in outcome.reason
    assert outcome.retry


@pytest.mark.parametrize("path", ["/cut", "/silent"])
def test_a_broken_connection_is_worth_a_retry(server: str, path: str) -> None:
    outcome = missing(server + path)
    assert "cannot be reached" in outcome.reason
    assert outcome.retry


def test_a_closed_port_and_an_unknown_host_are_worth_a_retry() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = missing(f"http://127.0.0.1:{unused.getsockname()[1]}/a.png")
    unknown = missing("http://no-such-host.invalid/a.png", picture_timeout_s=10.0)
    assert "cannot be reached" in closed.reason
    assert "cannot be resolved" in unknown.reason
    assert closed.retry
    assert unknown.retry


def test_a_page_instead_of_a_picture_is_named_as_such(server: str) -> None:
    outcome = missing(f"{server}/page.html")
    assert "page.html': it is no picture in JPEG, PNG, WEBP, GIF, BMP (starts with b'<html>" in outcome.reason
    assert not outcome.retry


# --- where not to connect ----------------------------------------------------------------------------------------


def test_an_address_of_this_machine_is_refused_unless_allowed(server: str) -> None:
    for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "10.0.0.1", "[::ffff:127.0.0.1]"):
        outcome = missing(f"http://{host}/a.png", pictures_allow_private=False)
        assert "not a public address: serve it publicly, or set pictures_allow_private" in outcome.reason, host
        assert outcome.retry, "the setting may be made"
    outcome = missing(f"{server}/red.png", pictures_allow_private=False)
    assert "port" in outcome.reason
    assert outcome.retry


def test_a_redirect_to_a_private_address_is_refused_at_that_hop(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def only_the_first(host: str, port: int, addresses: list[str]) -> None:
        asked.append((host, port, addresses))
        if len(asked) > 1:
            check(host, port, addresses)

    monkeypatch.setattr("streams.picture_transport.check", only_the_first)
    outcome = missing(f"{server}/elsewhere?to=http://10.1.2.3/a.png", pictures_allow_private=False)
    assert "10.1.2.3 is 10.1.2.3, not a public address" in outcome.reason
    assert asked[1] == ("10.1.2.3", 80, ["10.1.2.3"])


def test_a_redirect_to_an_impossible_port_raises_nothing(server: str) -> None:
    assert "there is no port 99999" in missing(f"{server}/elsewhere?to=http://localhost:99999/a.png").reason


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/a.png"])
def test_a_redirect_to_another_scheme_is_refused(server: str, target: str, tmp_path: Path) -> None:
    outcome = missing(f"{server}/elsewhere?to={target}", pictures_root=tmp_path)
    assert not outcome.retry
    assert "correct it" in outcome.reason


def test_the_address_that_was_checked_is_the_one_connected_to(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(server.rpartition(":")[2])
    resolved = []

    async def first_here_then_elsewhere(host: str, _port: int) -> list[str]:
        resolved.append(host)
        return ["127.0.0.1"] if len(resolved) == 1 else ["10.255.255.1"]

    monkeypatch.setattr("streams.picture_transport.resolve", first_here_then_elsewhere)
    (outcome,) = load(f"http://shop.example:{port}/red.png")
    assert np.array_equal(pixels(outcome), np.asarray(RED))
    assert resolved == ["shop.example"]


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    check("shop.example", 443, ["93.184.216.34", "2606:2800:220:1::1"])
    with pytest.raises(AddressRefused, match=r"shop\.example is 192\.168\.1\.1, not a public address"):
        check("shop.example", 443, ["93.184.216.34", "192.168.1.1"])
    with pytest.raises(AddressRefused, match=r"port 6379 is none of \[80, 443, 8080, 8443\]"):
        check("shop.example", 6379, ["93.184.216.34"])


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_addresses_that_anybody_reaches_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("240.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1"),
    ],
)
def test_addresses_of_private_and_special_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


# --- from files --------------------------------------------------------------------------------------------------


def test_files_below_the_root_are_read_by_path_and_by_file_link(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "red bag.png"
    path.write_bytes(RED_PNG)
    outcomes = load("images/red bag.png", path.as_uri(), str(path), pictures_root=tmp_path)
    assert all(np.array_equal(pixels(outcome), np.asarray(RED)) for outcome in outcomes)


def test_files_outside_the_root_are_refused_after_links_are_resolved(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(RED_PNG)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    for link in ("../secret.png", "link.png", str(tmp_path / "secret.png"), (tmp_path / "secret.png").as_uri()):
        outcome = missing(link, pictures_root=root)
        assert "outside of pictures_root" in outcome.reason, link
        assert outcome.retry, "another root may hold it"


def test_without_a_root_no_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED_PNG)
    outcome = missing((tmp_path / "a.png").as_uri())
    assert "no pictures_root is set: set it" in outcome.reason
    assert outcome.retry


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(b"x" * 300_000)
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "folder.png").mkdir()
    absent = missing("absent.png", pictures_root=tmp_path)
    assert "is not below pictures_root" in absent.reason
    assert absent.retry
    large = missing("large.png", pictures_root=tmp_path)
    assert "more than 200000 bytes" in large.reason
    assert large.retry
    folder = missing("folder.png", pictures_root=tmp_path)
    assert "not a regular file" in folder.reason
    assert not folder.retry
    for link in ("circle.png", "x" * 5_000, "a\x00b", "file://other-machine/a.png"):
        assert "cannot be read" in missing(link, pictures_root=tmp_path).reason


@pytest.mark.parametrize("link", ["data:image/png;base64,AAAA", "ftp://a/b.png", "javascript:alert(1)", "s3://a/b"])
def test_links_of_other_schemes_are_refused(link: str, tmp_path: Path) -> None:
    assert "neither http(s) nor a file" in missing(link, pictures_root=tmp_path).reason


@pytest.mark.parametrize("link", ["http://", "http://[::1", "http://exa mple/\x01", "https://a:99999/b.png"])
def test_links_that_are_none_are_named_as_such(link: str) -> None:
    outcome = missing(link)
    assert "correct it" in outcome.reason
    assert not outcome.retry


def test_a_reason_shows_no_credentials_and_no_query() -> None:
    assert shown("https://user:secret@shop.example/a.png?token=secret#secret") == "'https://shop.example/a.png'"
    assert len(shown("x" * 2_000)) == 202


# --- many at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "expected"), [(1, (1, 1)), (2, (2, 1)), (5, (4, 1))])
def test_each_product_gets_its_pictures_that_can_be_had_in_order(
    server: str, most: int, expected: tuple[int, int]
) -> None:
    async def loaded() -> list[tuple[Picture, ...] | PictureMissing | None]:
        async with PictureLoader(**LIMITS, pictures_per_product=most) as loader:
            good, gone, page = f"{server}/red.png", f"{server}/status/410", f"{server}/page"
            some = [[good] * 4, [], [gone, page, good], [gone, f"{server}/status/503"]]
            return await loader.load_pictures(some)

    first, none, third, both_missing = asyncio.run(loaded())
    assert isinstance(first, tuple)
    assert none is None
    assert isinstance(third, tuple)
    assert (len(first), len(third)) == expected
    assert isinstance(both_missing, PictureMissing)
    assert "status 410" in both_missing.reason
    assert both_missing.retry  # for the second


def test_a_picture_that_cannot_be_had_holds_nobody_up(server: str) -> None:
    async def loaded() -> list[tuple[Picture, ...] | PictureMissing | None]:
        async with PictureLoader(**(LIMITS | {"picture_timeout_s": 1.0})) as loader:
            return await loader.load_pictures([[f"{server}/slow"]] * 3 + [[f"{server}/red.png"]] * 30)

    outcomes = asyncio.run(loaded())
    assert [isinstance(outcome, tuple) for outcome in outcomes] == [False] * 3 + [True] * 30


# --- hosts that give no answer -----------------------------------------------------------------------------------


@contextmanager
def dead_host() -> Iterator[tuple[str, list[socket.socket]]]:
    """A host that takes every connection and says nothing; and the connections that it took."""
    taken: list[socket.socket] = []

    def take() -> None:
        try:
            while True:
                taken.append(listening.accept()[0])
        except OSError:
            return  # shut down

    with socket.create_server(("127.0.0.1", 0), backlog=200) as listening:
        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", taken
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def test_a_dead_host_is_waited_for_once_and_its_other_links_are_answered_at_once(server: str) -> None:
    with dead_host() as (host, connections):

        async def loaded() -> list[tuple[Picture, ...] | PictureMissing | None]:
            async with PictureLoader(**(LIMITS | {"picture_timeout_s": 1.0}), at_once=16) as loader:
                dead = [[f"{host}/{product}/{link}.png" for link in range(3)] for product in range(32)]
                first = await loader.load_pictures(dead)
                return first + await loader.load_pictures([[f"{host}/later.png", f"{server}/red.png"]])

        *batch, later = asyncio.run(loaded())
        assert 1 <= len(connections) <= 16, "those that were under way side by side, of 97 links"
    assert isinstance(later, tuple), "the next link of the product is tried"
    reasons = [outcome.reason for outcome in batch if isinstance(outcome, PictureMissing) and outcome.retry]
    assert len(reasons) == 32
    waited = [reason for reason in reasons if "took more than 1 s" in reason]
    told = [reason for reason in reasons if f"{host} gave no answer a moment ago and is left alone for 3 s" in reason]
    assert len(waited) == 16
    assert len(told) == 16


def test_a_redirect_to_a_dead_host_is_held_against_that_host_alone(server: str) -> None:
    with dead_host() as (host, _):
        elsewhere = f"{server}/elsewhere?to={host}/a.png"
        outcomes = load(elsewhere, f"{server}/red.png", elsewhere, picture_timeout_s=1.0)
    assert isinstance(outcomes[1], Picture)
    assert isinstance(outcomes[2], PictureMissing)
    assert f"{host} gave no answer a moment ago" in outcomes[2].reason


def test_a_host_that_answers_others_meanwhile_is_asked_again_after_a_picture_that_takes_too_long(server: str) -> None:
    async def loaded() -> list[Picture | PictureMissing]:
        async with PictureLoader(**(LIMITS | {"picture_timeout_s": 1.0})) as loader:
            slow = asyncio.create_task(loader.fetch_picture(f"{server}/mute"))
            await asyncio.sleep(0.1)
            quick = await loader.fetch_picture(f"{server}/red.png")
            return [await slow, quick, await loader.fetch_picture(f"{server}/red.png")]

    slow, *quick = asyncio.run(loaded())
    assert isinstance(slow, PictureMissing)
    assert "took more than 1 s" in slow.reason
    assert all(isinstance(outcome, Picture) for outcome in quick)


class Clock:
    """Stands where it is put."""

    at = 0.0

    def __call__(self) -> float:
        return self.at


def unanswered(hosts: SilentHosts, host: str, error: BaseException) -> None:
    with pytest.raises(type(error)), hosts.asking(host):
        raise error


@pytest.mark.parametrize(
    "error", [httpcore.ConnectError(), httpcore.ConnectTimeout(), httpcore.ReadTimeout(), asyncio.CancelledError()]
)
def test_a_silent_host_is_left_alone_for_its_time_and_then_asked_again(error: BaseException) -> None:
    clock = Clock()
    hosts = SilentHosts(30.0, clock=clock)
    unanswered(hosts, "http://a", error)
    clock.at = 29.9
    with pytest.raises(HostSilent, match=r"http://a gave no answer .* left alone for 30 s: .* raise picture_timeout_s"):
        hosts.asking("http://a").__enter__()
    with hosts.asking("https://a"), hosts.asking("http://b"):
        pass
    clock.at = 30.0
    with hosts.asking("http://a"):
        pass


@pytest.mark.parametrize("error", [httpcore.ReadError(), httpcore.RemoteProtocolError(), AddressRefused()])
def test_a_host_that_answers_badly_is_asked_again(error: Exception) -> None:
    hosts = SilentHosts(30.0, clock=Clock())
    unanswered(hosts, "http://a", error)
    with hosts.asking("http://a"):
        pass


def test_no_more_hosts_are_remembered_than_the_newest_thousand() -> None:
    hosts = SilentHosts(30.0, clock=Clock())
    for number in range(HOSTS_MAX + 1):
        unanswered(hosts, f"http://{number}", httpcore.ConnectError())
    with hosts.asking("http://0"):
        pass
    with pytest.raises(HostSilent):
        hosts.asking("http://1").__enter__()


# --- decoding ----------------------------------------------------------------------------------------------------


def reason(content: bytes, max_pixels: int = 1_000_000, *, retry: bool = False) -> str:
    outcome = decode(content, max_pixels)
    assert isinstance(outcome, PictureMissing)
    assert outcome.retry is retry
    return outcome.reason


def near(image: Image.Image, format: str, colour: tuple[int, int, int], **options: object) -> None:
    array = pixels(decode(saved(image, format, **options), 1_000_000))
    assert array.shape == (image.height, image.width, 3)
    assert np.abs(array.astype(int) - colour).max() <= 6


def test_every_kind_of_picture_becomes_rgb() -> None:
    near(RED, "JPEG", (250, 10, 20), quality=95)
    near(RED, "WEBP", (250, 10, 20), lossless=True)
    near(RED, "BMP", (250, 10, 20))
    near(RED.convert("L"), "PNG", (83, 83, 83))
    near(RED.convert("L"), "JPEG", (83, 83, 83))
    near(Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "JPEG", (254, 0, 0), quality=95)
    near(Image.new("1", (20, 10), 1), "PNG", (255, 255, 255))
    near(Image.fromarray(np.full((10, 20), 0x8040, np.uint16)), "PNG", (128, 128, 128))


def test_what_is_transparent_becomes_white() -> None:
    near(Image.new("RGBA", (20, 10), (0, 0, 0, 0)), "PNG", (255, 255, 255))
    near(Image.new("RGBA", (20, 10), (0, 0, 0, 128)), "PNG", (127, 127, 127))
    palette = Image.new("P", (20, 10), 1)
    palette.putpalette([0, 0, 0, 250, 10, 20])
    near(palette, "PNG", (250, 10, 20))
    near(palette, "PNG", (255, 255, 255), transparency=1)
    near(palette, "GIF", (255, 255, 255), transparency=1)
    near(Image.new("L", (20, 10), 7), "PNG", (255, 255, 255), transparency=7)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    frames = [RED, Image.new("RGB", (20, 10), (0, 0, 255))]
    content = saved(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
    assert np.abs(pixels(decode(content, 1_000_000)).astype(int) - (250, 10, 20)).max() <= 12


def test_a_picture_stands_as_the_camera_was_held() -> None:
    lying = Image.new("RGB", (40, 20), "white")
    lying.paste("black", (0, 0, 20, 20))  # black on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: black ends on top
    array = pixels(decode(saved(lying, "JPEG", exif=exif), 1_000_000))
    assert array.shape == (40, 20, 3)
    assert array[:15].max() < 30
    assert array[25:].min() > 225


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_large_picture_is_shrunk_with_its_proportions(format: str) -> None:
    array = pixels(decode(saved(Image.new("RGB", (4000, 1000), "red"), format), 4_000_000))
    assert array.shape == (SIDE_MAX_PX // 4, SIDE_MAX_PX, 3)


def test_too_many_pixels_are_refused_before_they_are_unpacked() -> None:
    assert "20 x 10: the picture has more than 199 pixels: shrink it or raise picture_max_pixels" in reason(
        RED_PNG, max_pixels=199, retry=True
    )
    assert "more than 40000000 pixels" in reason(bomb(60_000, 60_000), max_pixels=40_000_000, retry=True)
    assert "more than 40000000 pixels" in reason(bomb(10_000, 10_000), max_pixels=40_000_000, retry=True)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises far more pixels than anybody should unpack."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\x00" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_picture_of_one_pixel_is_too_small_and_one_of_eight_is_not() -> None:
    assert "is 1 x 1 pixels, at least 8 x 8 are needed" in reason(saved(Image.new("RGB", (1, 1))))
    assert "is 100 x 7 pixels" in reason(saved(Image.new("RGB", (100, 7))))
    assert pixels(decode(saved(Image.new("RGB", (8, 8))), 64)).shape == (8, 8, 3)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    content = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    assert isinstance(decode(content, 10_000), Picture)
    assert "more than 64 scans" in reason(content + b"\xff\xda" * 64)


@pytest.mark.parametrize("content", [b"", b"hello", b"<svg/>", saved(RED, "TIFF"), saved(RED, "PPM")])
def test_what_is_no_picture_of_the_known_formats_is_refused(content: bytes) -> None:
    assert "is no picture in JPEG, PNG, WEBP, GIF, BMP" in reason(content)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_a_truncated_picture_is_refused(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = saved(noise, format)
    assert "upload it again" in reason(content[: len(content) // 2]) or "is no picture" in reason(content[:40])


@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP"]), st.data())
def test_no_bytes_at_all_make_the_decoder_raise(format: str, draw: st.DataObject) -> None:
    content = bytearray(saved(RED, format))
    for _ in range(draw.draw(st.integers(0, 8))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    outcome = decode(bytes(content), 1_000_000)
    assert isinstance(outcome, Picture | PictureMissing)
