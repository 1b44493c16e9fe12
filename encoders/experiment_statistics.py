"""What can be said of an experiment's counts: intervals of rates and ratios, of their differences, and tests.

The unit is the user: her clicks depend on each other, users do not.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from scipy.special import bdtr, chdtrc

LEVEL = 0.95  # of all intervals


class Estimate(NamedTuple):
    """A value, and the interval that holds the true one in LEVEL of all experiments."""

    value: float
    low: float
    high: float


class Ratio(NamedTuple):
    """A ratio of two sums over users, and its variance."""

    value: float
    variance: float


def rate(successes: int, users: int) -> Estimate:
    """The share of users, with the Wilson score interval. Without users it may be anything from 0 to 1.

    Source: Wilson, JASA 1927; Newcombe, Statistics in Medicine 17:857, 1998, method 3.
    """
    if users == 0:
        return Estimate(0.0, 0.0, 1.0)
    z, share = _z(), successes / users
    middle = share + z * z / (2 * users)
    reach = z * math.sqrt(share * (1 - share) / users + z * z / (4 * users * users))
    shrunk = 1 + z * z / users
    return Estimate(share, max(0.0, (middle - reach) / shrunk), min(1.0, (middle + reach) / shrunk))


def rate_difference(rate_of: Estimate, control: Estimate) -> Estimate:
    """How much higher a rate is than the control's, from the Wilson intervals of both.

    Source: Newcombe, Statistics in Medicine 17:873, 1998, method 10.
    """
    difference = rate_of.value - control.value
    below = math.hypot(rate_of.value - rate_of.low, control.high - control.value)
    above = math.hypot(rate_of.high - rate_of.value, control.value - control.low)
    return Estimate(difference, difference - below, difference + above)


def ratio(users: int, below: float, above: float, below_2: float, above_2: float, both: float) -> Ratio | None:
    """Sum over users of what stands above, by the sum of what stands below: as clicks by lists.

    below, above      sums over users of each
    below_2, above_2  sums of their squares
    both              sum of their products

    None with less than two users, or nothing below. The variance is that of the delta method.
    Source: Deng, Knoblich, Lu, KDD 2018, section 3.
    """
    if users < 2 or below <= 0:
        return None
    value = above / below
    # The squared deviations from the line through the origin: above_i - value * below_i, whose mean is 0.
    squares = max(0.0, above_2 - 2 * value * both + value * value * below_2)
    return Ratio(value, squares / (users - 1) * users / (below * below))


def ratio_interval(made: Ratio) -> Estimate:
    """The ratio with a normal interval."""
    reach = _z() * math.sqrt(made.variance)
    return Estimate(made.value, made.value - reach, made.value + reach)


def ratio_difference(made: Ratio, control: Ratio) -> Estimate:
    """How much higher it is than the control's; the users of both are others."""
    return ratio_interval(Ratio(made.value - control.value, made.variance + control.variance))


def split_p(users: Sequence[int], weights: Sequence[float]) -> float:
    """How probable a split as far off the weights (> 0) is, if nothing but chance is at work: chi-square test.

    Source: Fabijan et al., KDD 2019: below .001 something is wrong with the experiment.
    """
    total, share = sum(users), sum(weights)
    if total == 0:
        return 1.0
    expected = [total * weight / share for weight in weights]
    squares = sum((count - one) ** 2 / one for count, one in zip(users, expected, strict=True))
    return float(chdtrc(len(users) - 1, squares))


def sign_p(wins: int, losses: int) -> float:
    """How probable a lead as large, either way, is if both win as often: the two-sided sign test without ties."""
    games = wins + losses
    return min(1.0, 2.0 * float(bdtr(min(wins, losses), games, 0.5))) if games else 1.0


def _z() -> float:
    return NormalDist().inv_cdf(0.5 + LEVEL / 2)
