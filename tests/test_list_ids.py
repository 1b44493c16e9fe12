"""Ids of lists: what they tell of an experiment, and that nothing else is taken for it."""

from base64 import b32hexencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.list_ids import Origin, list_id_of, new_list_id, origin_of, shortened, tag_of

UNIQUE = "0123456789abcdef0123456789abcdef"
origins = st.builds(
    lambda tag, variant, teams: Origin(tag, variant) if variant is not None else Origin(tag, None, tuple(teams)),
    st.sampled_from([tag_of("a"), tag_of("fewer-alike")]),
    st.none() | st.integers(0, 7),
    st.lists(st.integers(0, 1), max_size=200),
)


def test_an_id_tells_variant_or_teams() -> None:
    """`printf fewer-alike | b2sum -l 40`. Teams 1, 0, 0, 1, 1 are the bits 11001, with a 1 above them 57 = 32 + 25."""
    tag = b32hexencode(bytes.fromhex("74388890ce")).decode().lower()
    assert tag_of("fewer-alike") == tag
    assert list_id_of(UNIQUE, Origin(tag, 3)) == f"{UNIQUE}-{tag}-v3"
    assert list_id_of(UNIQUE, Origin(tag, None, (1, 0, 0, 1, 1))) == f"{UNIQUE}-{tag}-t1p"
    assert list_id_of(UNIQUE, None) == UNIQUE
    assert origin_of(new_list_id()) is None
    assert new_list_id() != new_list_id()


@given(origin=origins)
def test_what_an_id_was_made_of_is_read_from_it(origin: Origin) -> None:
    made = new_list_id(origin)
    assert origin_of(made) == origin
    assert len(made) <= 200, "a click could not carry it"
    assert origin_of(shortened(made, range(len(origin.teams)))) == origin


@given(
    text=st.text(max_size=30)
    | st.builds("{}-{}-{}".format, st.just(UNIQUE), st.just("abcdefgh"), st.from_regex(r"[vt][0-9a-v]{0,42}"))
)
def test_of_any_text_that_it_did_not_make_it_tells_nothing(text: str) -> None:
    origin = origin_of(text)
    assert origin is None or list_id_of(text[:32], origin) == text


@pytest.mark.parametrize("end", ["v", "v12", "t", "t0", "t01", "tw", "T1", "t1 ", "t1\n", "x1", "t1" + "0" * 41])
def test_nothing_is_read_from_what_is_nearly_an_id(end: str) -> None:
    assert origin_of(f"{UNIQUE}-abcdefgh-{end}") is None


def test_what_is_left_of_a_list_keeps_the_teams_of_its_items() -> None:
    made = new_list_id(Origin("abcdefgh", None, (1, 0, 0, 1)))
    left = shortened(made, [0, 2, 3])
    assert origin_of(left) == Origin("abcdefgh", None, (1, 0, 1))
    assert left[:32] != made[:32]
    assert origin_of(shortened("", [0])) is None
