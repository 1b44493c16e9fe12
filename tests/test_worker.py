"""A process ends with what it runs, whatever that leaves behind."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from streams.group import _Daemon

SCRIPT = """
import asyncio, logging, sys, threading
from streams import worker

async def swallows():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def main():
    if sys.argv[1] == "task":
        asyncio.get_running_loop().kept = asyncio.ensure_future(swallows())
    if sys.argv[1] == "thread":
        asyncio.get_running_loop().kept = asyncio.ensure_future(asyncio.to_thread(threading.Event().wait))
    await asyncio.sleep(0.1)
    if sys.argv[2] == "fails":
        raise ValueError("so it was")

logging.basicConfig(level=logging.INFO)
worker.LEFT_BEHIND_AFTER_S = float(sys.argv[3])
worker.run_process(main())
print("it returned")
"""


def ended(left: str, how: str, after_s: float) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", SCRIPT, left, how, str(after_s)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("left", ["task", "thread"])
@pytest.mark.parametrize(("how", "code"), [("well", 0), ("fails", 1)])
def test_what_does_not_end_is_left_behind(left: str, how: str, code: int) -> None:
    process = ended(left, how, 0.3)
    assert (process.returncode, process.stdout) == (code, "")
    assert "left behind what did not end after_s=0.3" in process.stderr
    assert ("ValueError: so it was" in process.stderr) is (code == 1), "why it failed is not lost"


def test_a_process_in_which_all_has_ended_goes_on_to_its_end() -> None:
    process = ended("nothing", "well", 30.0)
    assert (process.returncode, process.stdout, process.stderr) == (0, "it returned\n", "")
    process = ended("nothing", "fails", 30.0)
    assert process.returncode == 1
    assert process.stderr.endswith("ValueError: so it was\n")


def test_a_consumer_thread_that_waits_for_a_broker_does_not_hold_up_the_loop() -> None:
    broker_answers = threading.Event()
    thread = _Daemon(SimpleNamespace(_start_thread=broker_answers.wait))
    thread.start()
    thread.stop()
    assert thread.is_alive()
    broker_answers.set()
    thread.join(30)
    assert not thread.is_alive()
    thread.stop()
