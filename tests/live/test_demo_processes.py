"""`freshet demo` as a person runs it: it ends with 0, by itself or at Ctrl-C, and leaves neither process nor file."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import which

import psutil  # type: ignore[import-untyped]
import pytest

from streams.shop import draw_shop

pytestmark = pytest.mark.timeout(240)

REPOSITORY = Path(__file__).parent.parent.parent
PROCESSES = 6  # the broker and one for each group of roles
CTRL_C = b"\x03"


class Demo:
    """A demo that runs, with a folder for temporary files of its own."""

    def __init__(self, temporary: Path, *arguments: str) -> None:
        self._temporary = temporary
        temporary.mkdir()
        self._seen: set[psutil.Process] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streams.cli", "demo", *arguments],
            cwd=REPOSITORY,
            env=environment(temporary),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until_processes(self, count: int) -> None:
        """So many processes of it have been seen."""
        deadline = time.monotonic() + 120
        while len(self._seen) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"only {len(self._seen)} processes"
            self._seen |= set(psutil.Process(self.process.pid).children(recursive=True))
            time.sleep(0.1)

    def end(self) -> tuple[str, str]:
        """What it wrote to stdout and stderr; it ended with 0 and has left nothing."""
        written = self.process.communicate(timeout=150)
        assert self.process.returncode == 0, written
        assert not [process for process in self._seen if process.is_running()]
        assert not list(self._temporary.iterdir())
        return written

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def environment(temporary: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
    return ours | {"TMPDIR": str(temporary), "COLUMNS": "100"}


@contextlib.contextmanager
def running(temporary: Path, *arguments: str) -> Iterator[Demo]:
    demo = Demo(temporary, *arguments)
    try:
        yield demo
    finally:
        demo.kill()


def test_a_shop_is_played_and_everything_is_seen_and_nothing_left(tmp_path: Path) -> None:
    draw_shop(tmp_path / "shop", products=41)
    with (tmp_path / "shop" / "catalog.jsonl").open("r+b") as catalog:  # every line twice
        lines = catalog.read()
        catalog.write(lines)
    # The shop's folder is also where its pictures are, as in a shop of one's own. A minute: the encoder is nice, so
    # on a busy machine 40 products take it 20 seconds.
    with running(tmp_path / "temporary", "--shop", str(tmp_path / "shop"), "--seconds", "60", "--json") as demo:
        demo.until_processes(PROCESSES)
        seen = json.loads(demo.end()[0])
    assert seen["products"]["known"] == 41
    assert seen["products"]["indexed"] == seen["products"]["published"] == 40
    assert seen["products"]["per_s"] > 0
    assert seen["clicks"] >= seen["lists"] > 0
    assert seen["unasked_lists"] > 0
    assert 0 < seen["click_to_list_ms"]["p50"] <= seen["click_to_list_ms"]["p99"]
    assert len(seen["before"]) == len(seen["after"]) == 5
    assert [item["product_id"] for item in seen["before"]] != [item["product_id"] for item in seen["after"]]
    assert 1 <= len(seen["clicked"]) <= 3
    assert seen["new_product"]["title"]
    assert seen["new_product"]["retrievable_s"] > 0
    assert seen["sold_out"]["title"]
    assert seen["sold_out"]["lists_after"] > 0
    assert seen["restarts"] == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_early_with_0(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path / "temporary") as demo:
        demo.until_processes(PROCESSES)
        time.sleep(3)
        demo.process.send_signal(number)
        time.sleep(0.5)
        if demo.process.poll() is None:
            demo.process.send_signal(number)  # of somebody impatient
        written, _ = demo.end()
    assert written.endswith("stopped; no process is left\n")


def test_ctrl_c_while_the_shop_is_drawn_ends_it_with_0(tmp_path: Path) -> None:
    with running(tmp_path / "temporary") as demo:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "temporary").glob("freshet-demo-*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        demo.process.send_signal(signal.SIGINT)
        written, _ = demo.end()
    assert written.endswith("stopped; no process is left\n")


@pytest.mark.skipif(which("make") is None or not (REPOSITORY / ".venv" / "bin" / "freshet").exists(), reason="no make")
def test_ctrl_c_on_a_terminal_ends_make_demo_with_0_too(tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    terminal, its_side = pty.openpty()
    make = subprocess.Popen(
        ["make", "--assume-old=.venv/.test", "--assume-old=.venv/.demo", "demo"],  # nothing is installed by a test
        cwd=REPOSITORY,
        env=environment(temporary),
        stdin=its_side,
        stdout=its_side,
        stderr=its_side,
        start_new_session=True,
        preexec_fn=partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0),
    )
    os.close(its_side)
    seen: set[psutil.Process] = set()
    written = b""
    interrupted = False
    deadline = time.monotonic() + 150
    try:
        while make.poll() is None:
            assert time.monotonic() < deadline, written.decode(errors="replace")
            with contextlib.suppress(psutil.NoSuchProcess):
                seen |= set(psutil.Process(make.pid).children(recursive=True))
            written += read_what_is_there(terminal)
            if not interrupted and len(seen) >= PROCESSES + 2:  # the shell and the demo itself beside them
                os.write(terminal, CTRL_C)
                interrupted = True
        written += read_what_is_there(terminal)
    finally:
        os.close(terminal)  # which ends what is left, by SIGHUP
        make.kill()
        make.wait()
    assert interrupted
    assert make.returncode == 0, written.decode(errors="replace")
    assert b"stopped; no process is left" in written
    assert len(seen) >= PROCESSES
    assert not [process for process in seen if process.is_running()]
    assert not list(temporary.iterdir())


def read_what_is_there(terminal: int) -> bytes:
    """What is written on it within .1 s."""
    if not select.select([terminal], [], [], 0.1)[0]:
        return b""
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux tells so that nobody has the other side any more
        return b""
