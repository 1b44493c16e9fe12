"""What clicks say and what content says, weighed by the evidence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.blending import blend

FUSED = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0], [0.6, 0.8]], np.float32)
ALL = np.arange(5, dtype=np.int32)
NOBODY = np.empty(0, np.int32)


def ranked(scores: list[float], clicks: list[int], *, profile: list[int] | None = None, **more: object) -> list[int]:
    arguments = {"listable": np.ones(5, np.bool_), "excluded": NOBODY, "count": 5, "candidates": ALL} | more
    rows, _, _, _ = blend(
        arguments["candidates"],
        np.array(scores, np.float32),
        FUSED,
        np.array([0] if profile is None else profile, np.int32),
        np.array(clicks, np.int64),
        arguments["listable"],
        arguments["excluded"],
        5.0,
        arguments["count"],
    )
    return rows.tolist()


def test_what_nobody_clicked_is_ordered_by_content() -> None:
    assert ranked([0, 1, 2, 3, 4], [0] * 5) == [0, 1, 4, 2, 3]


def test_what_everybody_clicked_is_ordered_by_score() -> None:
    assert ranked([0, 1, 2, 3, 4], [10**9] * 5) == [4, 3, 2, 1, 0]


def test_at_the_evidence_both_count_the_same() -> None:
    _, y, by_clicks, _ = blend(
        np.array([0, 3], np.int32),
        np.array([0, 0, 0, 9, 0], np.float32),
        FUSED,
        np.array([0], np.int32),
        np.full(5, 5, np.int64),
        np.ones(5, np.bool_),
        NOBODY,
        5.0,
        2,
    )
    # Row 0 is one deviation above in content and one below in score, row 3 the other way round: a draw at 0.
    np.testing.assert_allclose(y, [0, 0], atol=1e-6)
    assert sorted(by_clicks.tolist()) == [False, True]


def test_without_scores_content_decides_even_for_the_well_known() -> None:
    assert ranked([], [100] * 5) == [0, 1, 4, 2, 3]


def test_without_a_profile_clicks_decide_even_for_the_new() -> None:
    assert ranked([5, 4, 3, 2, 1], [0] * 5, profile=[]) == [0, 1, 2, 3, 4]


def test_without_a_profile_clicks_are_the_reason_even_of_the_last() -> None:
    _, _, by_clicks, nearest = blend(
        ALL,
        np.array([5, 4, 3, 2, 1], np.float32),
        FUSED,
        NOBODY,
        np.zeros(5, np.int64),
        np.ones(5, np.bool_),
        NOBODY,
        5.0,
        5,
    )
    assert by_clicks.all()
    assert nearest.tolist() == [-1] * 5


def test_the_nearest_click_is_named() -> None:
    *_, nearest = blend(
        np.array([1, 4], np.int32),
        np.empty(0, np.float32),
        FUSED,
        np.array([2, 0], np.int32),
        np.zeros(5, np.int64),
        np.ones(5, np.bool_),
        NOBODY,
        5.0,
        2,
    )
    assert sorted(nearest.tolist()) == [0, 1]


def test_no_candidate_gives_an_empty_list() -> None:
    assert ranked([1] * 5, [1] * 5, candidates=NOBODY) == []
    assert ranked([1] * 5, [1] * 5, candidates=np.array([-1], np.int32)) == []


@given(
    st.lists(st.integers(-1, 4), max_size=12),
    st.lists(st.integers(0, 4), max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.integers(1, 6),
)
def test_nothing_excluded_unlistable_or_double_is_returned(
    candidates: list[int], excluded: list[int], listable: list[bool], count: int
) -> None:
    rows = ranked(
        [1, 5, 2, 4, 3],
        [0, 3, 9, 100, 5],
        candidates=np.array(candidates, np.int32),
        excluded=np.array(excluded, np.int32),
        listable=np.array(listable),
        count=count,
    )
    allowed = {row for row in candidates if row >= 0 and listable[row] and row not in excluded}
    assert set(rows) <= allowed
    assert len(rows) == len(set(rows)) == min(count, len(allowed))


def test_the_order_of_the_candidates_does_not_matter() -> None:
    backwards = ALL[::-1].copy()
    assert ranked([3, 1, 4, 1, 5], [2] * 5) == ranked([3, 1, 4, 1, 5], [2] * 5, candidates=backwards)


@pytest.mark.parametrize("evidence", [0.5, 50.0])
def test_more_evidence_is_asked_for_before_clicks_outweigh_content(evidence: float) -> None:
    *_, by_clicks, _ = blend(
        np.array([0, 3], np.int32),
        np.array([9, 0, 0, 0, 0], np.float32),
        FUSED,
        np.array([0], np.int32),
        np.full(5, 5, np.int64),
        np.ones(5, np.bool_),
        NOBODY,
        evidence,
        1,
    )
    assert by_clicks.tolist() == [evidence < 5]
