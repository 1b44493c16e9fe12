"""Likeness of content and of clicks as one score: each puts products, or brands, in an order, and the orders are fused.

Cosines and shares of clicks have no common scale, places in an order have.
Source: Cormack, Clarke, Buettcher, SIGIR 2009 (reciprocal rank fusion).
"""

import numpy as np

from encoders.next_click import Floats

RANK_OFFSET = 60.0  # the paper's k


def fuse_orders(*orders: Floats) -> Floats:
    """(N,) float32, 0 to 1: 1 is the first of all orders, 0 stands in none.

    orders  (N,) each, the higher the better; NaN: not in this order. Equal values have the same place
    """
    total = np.zeros(len(orders[0]), np.float64)
    for values in orders:
        ranked = np.flatnonzero(~np.isnan(values))
        _, places = np.unique(-values[ranked], return_inverse=True)
        total[ranked] += (RANK_OFFSET + 1.0) / (RANK_OFFSET + 1.0 + places)
    return (total / len(orders)).astype(np.float32)
