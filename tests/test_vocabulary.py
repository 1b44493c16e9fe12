"""Words that begin so, and words that are spelled almost so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.vocabulary import Vocabulary, edits_allowed, edits_between, words_in

TEXT = st.text("abc", max_size=6)


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("kettle", "kettle", 0), ("kettle", "kettel", 1), ("kettle", "ketle", 1), ("kettle", "kettles", 1),
     ("kettle", "mettle", 1), ("kettle", "metle", 2), ("abcd", "badc", 2), ("ca", "abc", 3),
     ("", "ab", 2), ("ab", "cde", 3)],
)  # fmt: skip
def test_edits_are_those_that_are_counted_by_hand(one: str, other: str, edits: int) -> None:
    assert edits_between(one, other, 3) == edits_between(other, one, 3) == edits
    assert edits_between(one, other, 1) == min(edits, 2)


def alignment(one: str, other: str) -> int:
    """The whole table, as the source has it."""
    table = [[row + column for column in range(len(other) + 1)] for row in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            differs = one[i - 1] != other[j - 1]
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + differs)
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


@given(TEXT, TEXT, st.integers(0, 3))
def test_edits_are_those_of_the_whole_table(one: str, other: str, most: int) -> None:
    assert edits_between(one, other, most) == min(alignment(one, other), most + 1)


@given(st.sets(st.text("abé1", min_size=1, max_size=9)), st.sets(st.text("abé1", min_size=1, max_size=9)), TEXT)
def test_what_is_found_is_what_comparing_each_word_finds(kept: set[str], gone: set[str], asked: str) -> None:
    vocabulary = Vocabulary()
    for word in kept | gone:
        vocabulary.add(word)
    for word in gone - kept:
        vocabulary.remove(word)
    assert len(vocabulary) == len(kept)
    assert vocabulary.beginning_with(asked) == sorted(word for word in kept if word.startswith(asked) and word != asked)
    most = edits_allowed(asked)
    near: dict[int, list[str]] = {}
    for word in kept - {asked}:
        if not any(letter.isdigit() for letter in word):
            near.setdefault(alignment(word, asked), []).append(word)
    fewest = min((edits for edits in near if edits <= most), default=None)
    assert vocabulary.near(asked) == ([] if fewest is None else sorted(near[fewest]))


def test_words_are_without_case_accents_and_marks() -> None:
    assert [*words_in("Été T-Shirt, Men’s 12.5cm (neu)")] == [
        ("ete",), ("t", "shirt"), ("men", "s"), ("12",), ("5cm",), ("neu",),
    ]  # fmt: skip
