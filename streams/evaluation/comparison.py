"""Two models on the same clicks: the difference, and how sure it is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from encoders.next_click import Floats, Rows
from streams.evaluation.measures import mean, value_of

NORMAL_95 = 1.959964  # of the normal distribution, 95 % lies within so many standard deviations


class Difference(NamedTuple):
    """How much more the first has than the second, over the clicks that both were judged on."""

    measure: str
    events: int
    difference: float
    low: float  # the 95 % interval; NaN where the clicks are of one user only
    high: float


def compare(first: Floats, second: Floats, users: Rows, measure: str = "hr_at_10") -> Difference | None:
    """The paired difference of a measure, None where no click was judged with both.

    first, second  (N,) float32, ranks, NaN where a click was not judged      users  (N,) int32
    """
    both = ~np.isnan(first) & ~np.isnan(second)
    if not both.any():
        return None
    each = value_of(measure, first[both]) - value_of(measure, second[both])
    found = mean(each, users[both])
    reach = NORMAL_95 * (np.nan if found.stderr is None else found.stderr)
    return Difference(measure, int(both.sum()), found.value, found.value - reach, found.value + reach)


def pairs(labels: Sequence[str], hit_rates: Sequence[float | None], models: Sequence[str]) -> list[tuple[str, str]]:
    """What is compared with what where nobody says: each of the others with the best; delays with the shortest.

    labels  of what was evaluated      hit_rates  HR@10 of each, None where nothing was judged
    models  the model of each label: where one has several labels, they are in order of delay
    """
    if len(set(models)) < len(models):
        first = dict(zip(models[::-1], labels[::-1], strict=True))
        return [(label, first[model]) for label, model in zip(labels, models, strict=True) if first[model] != label]
    ranked = sorted(range(len(labels)), key=lambda place: -(hit_rates[place] or 0.0))
    return [(labels[place], labels[ranked[0]]) for place in ranked[1:]]
