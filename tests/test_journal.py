"""The journal: who was in hand when the process died, and that no two processes share one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.journal import CRASHES_MAX, EventId, Journal, JournalInUse

ONE, TWO, THREE = ("t", 0, 1), ("t", 0, 2), ("t", 1, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journals" / "w1-clicks.json"


def next_after(journal: Journal, path: Path) -> Journal:
    """The journal of the next process; of the one that died, the system has closed what was open."""
    os.close(journal._file)
    return Journal(path)


def crash(path: Path, *events: EventId) -> Journal:
    """A process takes these in hand and dies; the journal of the next one."""
    journal = Journal(path)
    journal.hold(events)
    return next_after(journal, path)


def test_what_was_in_hand_when_the_process_died_is_suspect(path: Path) -> None:
    journal = crash(path, ONE, TWO)
    assert journal.is_suspect(ONE)
    assert journal.is_suspect(TWO)
    assert not journal.is_suspect(THREE)
    assert not journal.crashed_too_often(ONE)


def test_an_event_is_given_up_after_three_crashes_and_not_before(path: Path) -> None:
    journal = Journal(path)
    for crashes in range(1, CRASHES_MAX + 1):
        journal.hold([ONE])
        journal = next_after(journal, path)
        assert journal.crashed_too_often(ONE) == (crashes == 3)


def test_a_crash_counts_against_nobody_who_was_released_or_done(path: Path) -> None:
    journal = Journal(path)
    journal.hold([ONE, TWO])
    journal.release([ONE])
    assert set(next_after(journal, path).crashes) == {TWO}


def test_what_went_well_is_no_suspect_any_more(path: Path) -> None:
    journal = crash(path, ONE, TWO)
    journal.hold([ONE])
    journal.release([ONE])
    journal.clear([ONE])
    journal.hold([THREE])
    assert next_after(journal, path).crashes == {TWO: 1, THREE: 1}


def test_nobody_is_to_blame_for_an_end_in_good_order(path: Path) -> None:
    journal = crash(path, ONE)
    journal.hold([ONE, TWO])
    journal.close()
    assert Journal(path).crashes == {ONE: 1}


def test_the_rest_of_a_longer_line_does_not_count(path: Path) -> None:
    journal = Journal(path)
    many = [("a-long-topic-id", 0, offset) for offset in range(1000)]
    journal.hold(many)
    journal.release(many)
    journal.hold([ONE])
    assert next_after(journal, path).crashes == {ONE: 1}


@pytest.mark.parametrize("raw", [b"", b"{", b'{"in_hand": [["t", 0', b"\x00\xff\n", b"half\n"])
def test_a_journal_that_was_cut_off_blames_nobody(path: Path, raw: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(raw)
    journal = Journal(path)
    assert journal.crashes == {}
    journal.hold([ONE])
    assert next_after(journal, path).is_suspect(ONE)


events = st.tuples(st.text(max_size=40), st.integers(0, 1000), st.integers(0, 2**62))


@given(st.lists(st.tuples(st.booleans(), st.sets(events, max_size=5)), max_size=12))
def test_a_new_journal_always_knows_exactly_what_was_in_hand(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, set[EventId]]]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j.json"
    journal = Journal(path)
    in_hand: set[EventId] = set()
    for takes, some in steps:
        (journal.hold if takes else journal.release)(some)
        in_hand = in_hand | some if takes else in_hand - some
    assert next_after(journal, path).crashes == dict.fromkeys(in_hand, 1)


# --- one process each --------------------------------------------------------------------------------------------

HOLDS = """
import signal, sys
from pathlib import Path
from streams.journal import Journal
journal = Journal(Path(sys.argv[1]))
journal.hold([("t", 0, 1)])
print("holds", flush=True)
signal.pause()
"""


@pytest.fixture
def holder(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the journal open and an event in hand."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_under_the_same_worker_id_is_refused_and_changes_nothing(
    path: Path, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.journal.LOCK_WAIT_S", 0.1)
    written = path.read_bytes()
    with pytest.raises(JournalInUse, match=rf"another worker has {path} open: .* its own FRESHET_WORKER_ID"):
        Journal(path)
    assert path.read_bytes() == written
    Journal(path.with_name("w2-clicks.json")).close()
    Journal(path.with_name("w1-catalog.json")).close()
    holder.kill()
    holder.wait()
    assert Journal(path).crashes == {ONE: 1}


def test_a_worker_that_is_started_again_at_once_waits_for_the_end_of_the_one_before(
    path: Path, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.journal.LOCK_WAIT_S", 60.0)
    ending = threading.Timer(0.3, holder.send_signal, [signal.SIGKILL])
    ending.start()
    assert Journal(path).is_suspect(ONE)
    ending.join()
