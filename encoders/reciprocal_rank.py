"""Several orders of the same things made one, by ranks alone: scores of two kinds need not be compared."""

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

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

    Source: Cormack, Clarke, Buettcher, SIGIR 2009, section 2.
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
