"""The index of words: known answers of BM25, beginnings, misspelled words, and that it is always as if built anew."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.lexical import ATTRIBUTE, BRAND, CATEGORY, K1, LOOKED_UP_MAX, TITLE, B, Document, Found, LexicalIndex

NO_CLICKS: Mapping[int, int] = {}
DRESSES = ("red dress", "red red lamp of steel", "blue dress")


def index_of(*documents: Document | str) -> LexicalIndex:
    index = LexicalIndex()
    for row, document in enumerate(documents):
        index.put(row, Document(document) if isinstance(document, str) else document)
    return index


def find(
    index: LexicalIndex,
    query: str,
    *,
    rows: int = 8,
    only: Sequence[int] | None = None,
    clicks: Mapping[int, int] = NO_CLICKS,
    most: int = 100,
) -> Found:
    allowed = np.ones(rows, np.bool_) if only is None else np.isin(np.arange(rows), only)
    clicked = np.zeros(rows, np.int64)
    for row, count in clicks.items():
        clicked[row] = count
    return index.find(query, allowed, most, clicked)


# --- known answers -----------------------------------------------------------------------------------------------


def test_of_three_documents_each_has_the_bm25_that_is_worked_out_by_hand() -> None:
    """`red` is in 2 of 3, so its idf is log(1 + 1.5 / 2.5); the titles have 2, 5 and 2 words, 3 on average."""
    found = find(index_of(*DRESSES), "red ")
    idf = math.log(1 + 1.5 / 2.5)

    def bm25(count: float, length: float) -> float:
        return idf * count * (K1 + 1) / (count + K1 * (1 - B + B * length / (3 * TITLE)))

    expected = {0: bm25(TITLE, 2 * TITLE), 1: bm25(2 * TITLE, 5 * TITLE)}
    assert dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True)) == expected
    assert found.rows.tolist() == sorted(expected, key=lambda row: -expected[row])


def test_a_word_counts_by_where_it_stands() -> None:
    fields = (
        Document("x", brand="nord"),
        Document("nord"),
        Document("x", attributes=("nord",)),
        Document("x", "", ("nord",)),
    )
    counts = (BRAND, TITLE, ATTRIBUTE, CATEGORY)
    same_length = [
        doc._replace(attributes=(*doc.attributes, *["y"] * (9 - c))) for doc, c in zip(fields, counts, strict=True)
    ]
    scores = find(index_of(*same_length), "nord")
    assert scores.rows.tolist() == [1, 0, 3, 2]


def test_more_of_the_words_come_first_then_more_clicks_then_lower_rows() -> None:
    index = index_of("red lamp", "red dress", "blue dress", "red dress")
    assert find(index, "red dress ").rows.tolist() == [1, 3, 0, 2]
    assert find(index, "red dress ", clicks={2: 1, 3: 5}).rows.tolist() == [3, 1, 2, 0]
    assert np.flatnonzero(find(index, "red dress ").closest).tolist() == [1, 3]
    assert find(index, "red dress ", most=2).rows.tolist() == [1, 3]


def test_only_what_is_allowed_is_found_also_where_others_match_better() -> None:
    index = index_of("red dress", "red dress", "red lamp")
    found = find(index, "red dress ", only=[2])
    assert (found.rows.tolist(), np.flatnonzero(found.closest).tolist()) == ([2], [2])


def test_case_accents_and_hyphens_do_not_count() -> None:
    index = index_of("Café T-Shirt Größe", "Men's shoe")
    for query in ("CAFE ", "tshirt ", "t-shirt ", "shirt ", "grosse ", "t shirt "):
        assert find(index, query).rows.tolist() == [0], query
    for query in ("mens ", "men ", "men’s "):
        assert find(index, query).rows.tolist() == [1], query


def test_the_last_word_is_a_beginning_too_and_the_word_itself_comes_first() -> None:
    index = index_of("kettledrum", "kettle", "cattle")
    assert find(index, "kett").rows.tolist() == [0, 1]
    assert find(index, "kettle").rows.tolist() == [1, 0]
    assert find(index, "kettle ").rows.tolist() == [1], "with a space behind it is whole"
    assert find(index, "kett kettle ").unknown == ["kett"]


# --- misspelled words --------------------------------------------------------------------------------------------


def test_one_letter_may_be_wrong_in_four_and_two_in_eight() -> None:
    index = index_of("kettle", "backpack", "lamp", "red", "x12 iphone12")
    for query, row in (
        ("ketle ", 0), ("kettel ", 0), ("kettlle ", 0), ("jettle ", 0),
        ("bakcpakc ", 1), ("bacpac ", None), ("lmap ", 2), ("rde ", None), ("iphone13 ", None), ("kette1 ", None),
    ):  # fmt: skip
        found = find(index, query)
        assert found.rows.tolist() == ([] if row is None else [row]), query
        word = query.strip()
        if row is None:
            assert (found.corrected, found.unknown) == ({}, [word])
        else:
            assert found.corrected == {word: [("kettle", "backpack", "lamp")[row]]}
            assert found.reading == found.corrected[word][0]


def test_what_has_the_word_itself_comes_before_what_has_a_word_like_it() -> None:
    index = index_of("kettel", *["kettle"] * 20)
    found = find(index, "kettel ", rows=32)
    assert found.rows.tolist() == list(range(21))
    assert found.corrected == {"kettel": ["kettle"]}
    assert found.reading == "kettel ", "it is a word of the catalogue"
    assert np.flatnonzero(found.closest).tolist() == [0]
    assert find(index, "kettle ", rows=32).corrected == {}, "a rare word is not what a common one was meant to be"


def test_of_as_many_words_those_that_need_no_correction_come_first() -> None:
    index = index_of("lether bag of steel and glass", "leather bag", *["leather"] * 20)
    assert find(index, "lether bag ", rows=32).rows.tolist()[:2] == [0, 1]
    assert find(index, "leather bag ", rows=32).rows.tolist()[:2] == [1, 0]


def test_of_a_long_query_the_first_words_that_are_unknown_are_corrected() -> None:
    """Each costs milliseconds in which nobody else can search: a text of unknown words is no reason to wait for it."""
    words = ["kettle", "bottle", "saddle", "candle", "pebble", "ladder", "basket"]
    found = find(index_of(*words), " ".join(word[:-1] + "x" for word in words) + " ", rows=32)
    assert [*found.corrected.values()] == [[word] for word in words[:LOOKED_UP_MAX]]
    assert len(found.unknown) == len(words) - LOOKED_UP_MAX


# --- as if built anew --------------------------------------------------------------------------------------------

WORDS = st.sampled_from(["red", "blue", "dress", "dresses", "kettle", "kettel", "T-shirt", "été", "12", "x"])
DOCUMENTS = st.builds(
    Document,
    st.lists(WORDS, max_size=4).map(" ".join),
    WORDS,
    st.lists(WORDS, max_size=2).map(tuple),
    st.lists(WORDS, max_size=2).map(tuple),
)


def state(index: LexicalIndex) -> Any:
    postings = {w: sorted(zip(p.rows, p.counts, strict=True)) for w, p in index._postings.items()}
    lengths = {row: int(index._lengths[row]) for row in index._words}
    return postings, lengths, index._length, sorted(index.vocabulary._words), index.vocabulary._ordered


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | DOCUMENTS), max_size=30), WORDS, WORDS)
def test_after_any_puts_and_removals_it_is_the_index_that_is_built_anew(
    puts: list[tuple[int, Document | None]], one: str, other: str
) -> None:
    index, last = LexicalIndex(), dict[int, Document]()
    for row, document in puts:
        index.put(row, document)
        last.pop(row, None)
        if document is not None:
            last[row] = document
    anew = LexicalIndex()
    for row, document in last.items():
        anew.put(row, document)
    assert state(index) == state(anew)
    for query in (f"{one} {other}", f"{one[:-1]} {other[::-1]} "):
        found, again = find(index, query), find(anew, query)
        np.testing.assert_array_equal(found.rows, again.rows)
        np.testing.assert_array_equal(found.scores, again.scores)
        assert found[3:] == again[3:]


def test_an_empty_index_and_a_query_without_words_find_nothing() -> None:
    assert find(LexicalIndex(), "red dress").rows.tolist() == []
    assert find(index_of("red dress"), " \u200b - ").rows.tolist() == []
    assert find(LexicalIndex(), "red", rows=0).rows.tolist() == []
    emptied = index_of("red dress")
    emptied.put(0, None)
    assert (len(emptied), find(emptied, "red").unknown) == (0, ["red"])
