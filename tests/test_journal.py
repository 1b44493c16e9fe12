"""The journal: who was in hand when the process died."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.journal import CRASHES_MAX, EventId, Journal

ONE, TWO, THREE = ("t", 0, 1), ("t", 0, 2), ("t", 1, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journals" / "w1-clicks.json"


def crash(path: Path, *events: EventId) -> Journal:
    """A process takes these in hand and dies; the journal of the next one."""
    Journal(path).hold(events)
    return Journal(path)


def test_what_was_in_hand_when_the_process_died_is_suspect(path: Path) -> None:
    journal = crash(path, ONE, TWO)
    assert journal.is_suspect(ONE)
    assert journal.is_suspect(TWO)
    assert not journal.is_suspect(THREE)
    assert not journal.crashed_too_often(ONE)


def test_an_event_is_given_up_after_three_crashes_and_not_before(path: Path) -> None:
    for crashes in range(1, CRASHES_MAX + 1):
        assert crash(path, ONE).crashed_too_often(ONE) == (crashes == 3)


def test_a_crash_counts_against_nobody_who_was_released_or_done(path: Path) -> None:
    journal = Journal(path)
    journal.hold([ONE, TWO])
    journal.release([ONE])
    assert set(Journal(path).crashes) == {TWO}


def test_what_went_well_is_no_suspect_any_more(path: Path) -> None:
    journal = crash(path, ONE, TWO)
    journal.hold([ONE])
    journal.release([ONE])
    journal.clear([ONE])
    journal.hold([THREE])
    assert Journal(path).crashes == {TWO: 1, THREE: 1}


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
    assert Journal(path).crashes == {ONE: 1}


@pytest.mark.parametrize("raw", [b"", b"{", b'{"in_hand": [["t", 0', b"\x00\xff\n", b"half\n"])
def test_a_journal_that_was_cut_off_blames_nobody(path: Path, raw: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(raw)
    journal = Journal(path)
    assert journal.crashes == {}
    journal.hold([ONE])
    assert Journal(path).is_suspect(ONE)


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
    assert Journal(path).crashes == dict.fromkeys(in_hand, 1)
