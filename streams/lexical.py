"""Products by the very words of a query: BM25 over title, brand, category and attributes, in memory.

A product's words come and go with its records, so that the index is at every moment the one that would be built anew.
The last word of a query counts as a beginning, too, and a word that is misspelled by a letter or two as what was meant.
"""

import math
import sys
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Mask, Rows, longer
from streams.vocabulary import Vocabulary, words_in

K1, B = 1.2, 0.75  # how soon more of the same word counts no more, and how much a long text is held against it
TITLE, BRAND, CATEGORY, ATTRIBUTE = 3, 2, 2, 1  # as often as that a word counts that stands there once
BEGINNING = 0.5  # of what the word itself would count
BEGINNINGS_MAX = 64  # words that begin as the last one does, those of the most products
MISSPELT_TIMES = 10  # in so many times the products of a word, a word like it is what a shop meant by it, perhaps
WORDS_MAX = 16  # of a query; what stands behind is not looked at
LOOKED_UP_MAX = 5  # of those, looked up as a misspelling: it takes milliseconds, and nobody else searches meanwhile
MATCHED = 64  # a tier for each matched word, less one if it had to be corrected: more than WORDS_MAX

SCORE_MAX = 1e4  # more than any sum of BM25 over WORDS_MAX words of 1e9 products


class Document(NamedTuple):
    """What is read of an offer."""

    title: str
    brand: str = ""
    category: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()  # the values

    @classmethod
    def of(cls, offer: Mapping[str, Any]) -> "Document":
        """Of a value of product-index."""
        category, attributes = offer.get("category") or (), offer.get("attributes") or {}
        return cls(offer["title"], offer.get("brand") or "", tuple(category), tuple(attributes.values()))


class Found(NamedTuple):
    """What the words of a query found."""

    rows: Rows  # (n,) best first
    scores: NDArray[np.float64]  # (n,) BM25, within products that have as many of the words
    closest: Mask  # (R,) all that have as many of the words as the best one has, and no more of them corrected
    corrected: dict[str, list[str]]  # words that were misspelled, and what they were taken for, the commonest first
    unknown: list[str]  # words that no product has, nor any like them
    reading: str  # the query; if it has a word that no product has, its words, with what that was taken for


class _Postings(NamedTuple):
    """Products with a word, in no order: their rows, and how much the word counts in each."""

    rows: "array[int]"  # int32
    counts: "array[int]"  # uint16


class LexicalIndex:
    """Words of up to R rows. Whoever changes it and whoever asks it hold the same lock."""

    def __init__(self) -> None:
        self.vocabulary = Vocabulary()
        self._postings: dict[str, _Postings] = {}
        self._words: dict[int, tuple[str, ...]] = {}  # of each row
        self._documents: dict[int, int] = {}  # hash of each row's: most records change a price, and no word
        self._lengths: NDArray[np.int32] = np.zeros(0, np.int32)  # (R,) counts of all words
        self._length = 0  # of all rows together

    def __len__(self) -> int:
        return len(self._words)

    def put(self, row: int, document: Document | None) -> None:
        """The row's product is described so and no more as before; None: there is none."""
        new = None if document is None else hash(document)
        if self._documents.get(row) == new:
            return
        self._take_out(row)
        if document is None or new is None:
            return
        if row >= len(self._lengths):
            self._lengths = longer(self._lengths, max(1024, 2 * row))
        counts = _counts(document)
        for word, count in counts.items():
            postings = self._postings.get(word)
            if postings is None:
                postings = self._postings[word] = _Postings(array("i"), array("H"))
                self.vocabulary.add(word)
            postings.rows.append(row)
            postings.counts.append(min(count, 0xFFFF))
        self._documents[row], self._words[row] = new, tuple(counts)
        self._lengths[row] = length = counts.total()
        self._length += length

    def _take_out(self, row: int) -> None:
        for word in self._words.pop(row, ()):
            rows, counts = self._postings[word]
            place = int(np.flatnonzero(np.frombuffer(rows, np.int32) == row)[0])
            rows[place], counts[place] = rows[-1], counts[-1]
            rows.pop(), counts.pop()
            if not rows:
                del self._postings[word]
                self.vocabulary.remove(word)
        if self._documents.pop(row, None) is not None:
            self._length -= int(self._lengths[row])
            self._lengths[row] = 0

    def find(self, query: str, allowed: Mask, most: int, clicks: NDArray[np.int64]) -> Found:
        """The products with any of the words: those with more of them first, of as many those with fewer corrected,
        then by BM25, by more clicks, by lower row.

        allowed  (R,) rows that may be found
        most     how many
        clicks   (R,) of each row
        Source: Robertson, Zaragoza, Taylor, CIKM 2004, section 3 (fields: counts are weighted, and then saturated).
        """
        tiers, scores = np.zeros(len(allowed), np.int32), np.zeros(len(allowed))
        corrected: dict[str, list[str]] = {}
        unknown: list[str] = []
        looked_up = 0
        words = self._asked(query)
        read = dict(zip(words, words, strict=True))
        for place, word in enumerate(words):
            plain = self._plain(word, begins=place == len(words) - 1 and query[-1:].isalnum())
            likely: list[str] = []
            common = sum(map(self._products, plain))
            if looked_up < LOOKED_UP_MAX and common * MISSPELT_TIMES <= len(self):
                looked_up += 1
                likely = self._meant(word, plain, common)
            if likely:
                corrected[word] = likely
                read[word] = word if plain else likely[0]
            if not plain and not likely:
                unknown.append(word)
                continue
            matched, score = self._of_word(plain, likely, len(allowed))
            tiers += matched
            scores += score
        tiers[~allowed] = 0
        closest = (tiers > 0) & (tiers == tiers.max(initial=0))
        rows = _best(tiers, scores, clicks, most)
        reading = query if all(word == meant for word, meant in read.items()) else " ".join(read.values())
        return Found(rows, scores[rows], closest, corrected, unknown, reading)

    def _asked(self, query: str) -> list[str]:
        """The words, each once. T-shirt is one word where a product has it as one, else two."""
        asked: dict[str, None] = {}
        for parts in words_in(query):
            joined = "".join(parts)
            asked.update(dict.fromkeys([joined] if joined in self._postings else parts))
        return list(asked)[:WORDS_MAX]

    def _plain(self, word: str, *, begins: bool) -> dict[str, float]:
        """The catalogue's words that a word stands for, with their shares."""
        plain = {word: 1.0} if word in self._postings else {}
        if begins:
            longer_words = self._commonest(self.vocabulary.beginning_with(word))[:BEGINNINGS_MAX]
            plain |= dict.fromkeys(longer_words, BEGINNING)
        return plain

    def _meant(self, word: str, plain: Mapping[str, float], common: int) -> list[str]:
        """The catalogue's words that it is a misspelling of: those in much more products than its plain ones."""
        near = [other for other in self.vocabulary.near(word) if other not in plain]
        return self._commonest([other for other in near if self._products(other) >= common * MISSPELT_TIMES])

    def _of_word(self, plain: Mapping[str, float], likely: list[str], rows: int) -> tuple[Rows, NDArray[np.float64]]:
        """The tier (R,) and the score (R,) of one word of the query, by the best of its forms in each row."""
        tier, score = np.zeros(rows, np.int32), np.zeros(rows)
        shares = [*((form, share, MATCHED) for form, share in plain.items()), *((o, 1.0, MATCHED - 1) for o in likely)]
        products = max(self._products(form) for form, _, _ in shares)  # of the word, whichever way it is spelled
        idf = math.log1p((len(self) - products + 0.5) / (products + 0.5))
        for form, share, matched in shares:
            at, counts = (np.frombuffer(one, one.typecode) for one in self._postings[form])
            value = share * idf * self._saturated(at, counts)
            better = (tier[at] < matched) | ((tier[at] == matched) & (score[at] < value))
            tier[at[better]], score[at[better]] = matched, value[better]
        return tier, score

    def _saturated(self, rows: Rows, counts: NDArray[np.uint16]) -> NDArray[np.float64]:
        """(n,) how much a word says of the rows, 0 to 1 + K1."""
        average = self._length / len(self)
        norm = K1 * (1.0 - B + B * self._lengths[rows] / average)
        return counts * (K1 + 1.0) / (counts + norm)

    def _products(self, word: str) -> int:
        postings = self._postings.get(word)
        return 0 if postings is None else len(postings.rows)

    def _commonest(self, words: list[str]) -> list[str]:
        return sorted(words, key=lambda word: (-self._products(word), word))


def _counts(document: Document) -> "Counter[str]":
    """How often each word stands in a product, by where; of a compound, the whole and its parts."""
    counts: Counter[str] = Counter()
    fields = ((document.title, TITLE), (document.brand, BRAND))
    for text, weight in (
        *fields,
        *((c, CATEGORY) for c in document.category),
        *((a, ATTRIBUTE) for a in document.attributes),
    ):
        for parts in words_in(text):
            for word in {"".join(parts), *parts}:
                counts[sys.intern(word)] += weight  # one string, in however many products it stands
    return counts


def _best(tiers: Rows, scores: NDArray[np.float64], clicks: NDArray[np.int64], most: int) -> Rows:
    """The rows (<= most,) of a tier above 0, best first."""
    rows = np.flatnonzero(tiers).astype(np.int32)
    if len(rows) > most:  # the order of what cannot be among the best need not be known
        value = tiers[rows] * SCORE_MAX + scores[rows]
        rows = rows[value >= np.partition(value, len(rows) - most)[len(rows) - most]]
    order = np.lexsort((rows, -clicks[rows], -scores[rows], -tiers[rows]))[:most]
    return rows[order]
