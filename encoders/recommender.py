"""The contract of everything that can be evaluated: score the products for a user at a moment, then learn her click."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, Rows

Codes = NDArray[np.uint8]
UNTOLD = np.empty(0, np.uint8)


class Request(NamedTuple):
    """A user at a moment: what is known of her before the click that is to be predicted.

    user      a number of the user, from 0
    history   (H,) int32, rows of the products clicked before, newest first, H <= 200; no row is -1
    ages_s    (H,) float32 >= 0, how long before this moment
    at        s since 1970
    excluded  (X,) int32, rows that must not be listed: the shop's setting of what counts as seen
    codes     (H,) uint8, what each click of the history was: 0 view_item, 1 select_item, 2 add_to_cart, 3 purchase;
              (0,) where nobody tells
    segment   a number of the user's segment, a country for instance, from 0; -1 none
    """

    user: int
    history: Rows
    ages_s: Floats
    at: float
    excluded: Rows
    codes: Codes = UNTOLD
    segment: int = -1


class Recommender(Protocol):
    """Learns one click after the other; P products are known by row number, 0 to P - 1.

    Deterministic: the same calls give the same scores. Pickles, at any moment, to what goes on alike: a run that was
    killed goes on from the pickle.
    """

    name: str

    def grow(self, products: int) -> None:
        """Rows up to products - 1 are known now; P never falls."""

    def score(self, request: Request, out: Floats) -> None:
        """Fill out (P,) float32: higher is better, equal is a tie, NaN is an error. Learns nothing.

        Excluded rows get any score: who lists or ranks leaves them out.
        """

    def learn(self, request: Request, row: int, code: int = 3) -> None:
        """The user of the request has clicked the product of this row at that moment; code as in Request.codes."""
