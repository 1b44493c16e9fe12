"""The words of a catalogue: those that begin so, and those that are spelled almost so."""

import re
import sys
import unicodedata
from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import longer

ONE_EDIT_LETTERS_MIN = 4  # in shorter words another letter is another word
TWO_EDITS_LETTERS_MIN = 8
NEVER_NEAR = -9  # a length that is no word's within two edits
LAST_LETTER = chr(sys.maxunicode)  # stands in no word
_WORD = re.compile(r"\w+(?:['’\-‐‑]\w+)*")
_JOINT = re.compile(r"['’\-‐‑]")


def words_in(text: str) -> Iterator[tuple[str, ...]]:
    """The words without case and accents, in their order; one with hyphens or apostrophes is the tuple of its parts."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    for word in _WORD.findall(bare):
        yield tuple(_JOINT.split(word))


def edits_allowed(word: str) -> int:
    """How many letters of a word may be wrong; in what holds a digit, none: it is a number, a size or a model."""
    if len(word) < ONE_EDIT_LETTERS_MIN or _is_code(word):
        return 0
    return 2 if len(word) >= TWO_EDITS_LETTERS_MIN else 1


def edits_between(one: str, other: str, most: int) -> int:
    """How many letters are added, dropped, replaced or exchanged with the next, no part twice; most + 1 if more.

    Source: Boytsov, ACM Journal of Experimental Algorithmics 2011, section 2.2 (optimal string alignment).
    """
    same = 0
    for letter, another in zip(one, other, strict=False):
        if letter != another:
            break
        same += 1
    one, other = one[same:], other[same:]
    if not one or not other:
        return min(len(one) + len(other), most + 1)
    if most == 0 or abs(len(one) - len(other)) > most:
        return most + 1
    least = min(
        edits_between(one[1:], other[1:], most - 1),
        edits_between(one[1:], other, most - 1),
        edits_between(one, other[1:], most - 1),
    )
    if one[:2] == other[1::-1]:
        least = min(least, edits_between(one[2:], other[2:], most - 1))
    return 1 + least


class Vocabulary:
    """Distinct words, which come and go one by one.

    A word and one that is an edit away differ in two of their letters at most, so most words are told apart by a set
    of letters in 64 bits, all at once, before any is spelled out.
    """

    def __init__(self) -> None:
        self._ordered: list[str] = []
        self._words: list[str] = []
        self._places: dict[str, int] = {}
        self._letters: NDArray[np.uint64] = np.zeros(0, np.uint64)  # (V,) bit ord % 64 of each
        self._lengths: NDArray[np.int32] = np.zeros(0, np.int32)  # (V,)

    def __len__(self) -> int:
        return len(self._words)

    def add(self, word: str) -> None:
        """A word that is not there yet."""
        insort(self._ordered, word)
        place = len(self._words)
        if place == len(self._letters):
            room = max(1024, 2 * place)
            self._letters, self._lengths = longer(self._letters, room), longer(self._lengths, room)
        self._words.append(word)
        self._places[word] = place
        self._letters[place] = _letters(word)
        self._lengths[place] = NEVER_NEAR if _is_code(word) else len(word)

    def remove(self, word: str) -> None:
        """A word that is there; the last one takes its place."""
        del self._ordered[bisect_left(self._ordered, word)]
        place, last = self._places.pop(word), len(self._words) - 1
        moved = self._words.pop()
        if place != last:
            self._words[place] = moved
            self._places[moved] = place
            self._letters[place], self._lengths[place] = self._letters[last], self._lengths[last]

    def beginning_with(self, prefix: str) -> list[str]:
        """All words that are longer than this beginning, in their order."""
        begin = bisect_left(self._ordered, prefix)
        end = bisect_left(self._ordered, prefix + LAST_LETTER, begin)
        return [word for word in self._ordered[begin:end] if word != prefix]

    def near(self, word: str) -> list[str]:
        """The other words that are the fewest edits away, of as many as such a word is allowed; in their order."""
        most = edits_allowed(word)
        if not most:
            return []
        count = len(self._words)
        apart = np.bitwise_count(self._letters[:count] ^ np.uint64(_letters(word)))
        alike = (apart <= 2 * most) & (np.abs(self._lengths[:count] - len(word)) <= most)
        found: list[list[str]] = [[] for _ in range(most + 1)]  # by edits
        for place in np.flatnonzero(alike).tolist():
            other = self._words[place]
            if other != word and (edits := edits_between(word, other, most)) <= most:
                found[edits].append(other)
        return sorted(next((words for words in found if words), []))


def _is_code(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def _letters(word: str) -> int:
    bits = 0
    for letter in word:
        bits |= 1 << (ord(letter) & 63)
    return bits
