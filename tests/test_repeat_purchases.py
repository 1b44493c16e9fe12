"""When what was bought is due again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.repeat_purchases import how_due

DAY_S = 86_400.0


def after(days: float, *bought_days: float) -> float | None:
    return how_due([day * DAY_S for day in bought_days], days * DAY_S)


def test_a_product_bought_every_ten_days_is_due_the_most_after_ten_days() -> None:
    assert after(25, 20, 10, 0) == 0.5
    assert after(30, 20, 10, 0) == 1.0
    assert after(40, 20, 10, 0) == 0.5
    assert after(30, 0, 20, 10, 20.5) == pytest.approx(0.95), "a second piece on the same day is the same occasion"


def test_what_was_bought_once_is_due_by_thirty_days_and_half_as_sure() -> None:
    assert after(14.9, 0) is None
    assert after(15, 0) == 0.25
    assert after(30, 0) == 0.5
    assert after(60, 0) == 0.25
    assert after(29, 0, 0.5) == pytest.approx(0.475)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=9), st.floats(0, 2e9))
def test_it_is_always_from_0_to_1_even_if_a_clock_was_wrong(bought_at: list[float], now: float) -> None:
    due = how_due(bought_at, now)
    assert due is None or 0.0 <= due <= 1.0
    assert due == how_due(bought_at[::-1], now)
