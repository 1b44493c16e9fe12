"""Several orders of the same things made one, by ranks alone: scores of two kinds need not be compared.

Source: Cormack, Clarke, Buettcher, SIGIR 2009, section 2.
"""

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from encoders.next_click import Floats

K = 60  # as the source has it; with more, the first places count less beside the others
Thing = TypeVar("Thing")


class Fused(NamedTuple, Generic[Thing]):
    """Where a thing stands in all orders together."""

    thing: Thing
    score: float  # 0 to 1, which is the first place in every order
    ranks: dict[str, int]  # from 1, in each order that it stands in


def fuse_ranks(
    orders: Mapping[str, Sequence[Thing]], weights: Mapping[str, float], *, k: int = K
) -> list[Fused[Thing]]:
    """Return all things of these orders by the weighted sum of 1 / (k + rank), the highest first.

    orders   by name, each best first, a thing at most once
    weights  of each, >= 0, no unit; only their proportions count. One of weight 0 is left out
    Of the same sum, that with the better best rank comes first, then that of the earlier order.
    """
    counted = {name: order for name, order in orders.items() if weights[name] > 0}
    most = sum(weights[name] / (k + 1) for name in counted)
    ranks: dict[Thing, dict[str, int]] = {}
    for name, order in counted.items():
        for rank, thing in enumerate(order, 1):
            ranks.setdefault(thing, {})[name] = rank
    fused = [
        Fused(thing, sum(weights[name] / (k + rank) for name, rank in own.items()) / most, own)
        for thing, own in ranks.items()
    ]
    return sorted(fused, key=lambda one: (-one.score, min(one.ranks.values())))  # stable: the earlier order first


def fuse_values(*orders: Floats) -> Floats:
    """(N,) float32, 0 to 1: 1 is the first of all orders, 0 stands in none; all orders count the same.

    orders  (N,) each, the higher the better; NaN: not in this order. Equal values have the same place
    """
    total = np.zeros(len(orders[0]), np.float64)
    for values in orders:
        ranked = np.flatnonzero(~np.isnan(values))
        _, places = np.unique(-values[ranked], return_inverse=True)
        total[ranked] += (K + 1.0) / (K + 1.0 + places)
    return (total / len(orders)).astype(np.float32)
