"""A share of the positions for new products: which positions of a list, and which products take them.

A product is new while it stood in fewer than N lists, or has few clicks and may yet be better than what lists hold. It
belongs before the users nearest to it: each product compares a user's affinity with that of the users before her,
    standing z = (affinity - mean) / deviation             of the product's own users, both forget slowly
and asks for a position where z is above its threshold. The threshold sinks a little with each list and rises with each
position, so that the product stands in the `nearest` of the lists and has its N impressions N / nearest lists after it
came; later where more products ask than there are positions. Those go to the largest
    z - threshold + log(index)
with the upper confidence bound of the product's clicks, in clicks of an average listed product:
    index = (1 + g + optimism * sqrt(1 + g)) / (1 + e)     g clicks since it was first listed, e were to be expected
which is mean and deviation of the posterior Gamma(1 + g, 1 + e): the prior is one click at the average rate. After N
impressions a product asks only while its index is above 1, and the more seldom the more impressions it had. Enough
clicks end it at any time: the ranking knows the product then.

Impressions are those of the lists that this process made: where several share the users, each counts, and spends N of
its own. Clicks are everybody's, but so is the average rate that e comes from. After a restart the counts begin anew.

Sources: Agrawal, Adv. Appl. Prob. 1995 (upper confidence bounds); Kaufmann, Cappe, Garivier, AISTATS 2012 (those of a
posterior); Balseiro, Gur, Management Science 2019 (thresholds that pace what is spent).
Shapes: P products, N candidates, K positions of a list, X unwanted rows, R explored products.
"""

from statistics import NormalDist

import numpy as np

import encoders.exploration_step as step
from encoders.exploration_step import PRODUCT, Counts, Rule, Shown
from encoders.next_click import Floats, Mask, Rows

OFFERED_MAX = 384  # candidates of a list; more new products take turns
FRESH_ROWS = 512  # after P / FRESH_ROWS lists new rows are looked for again: then that costs next to nothing a list
SLOTS = 1 << 17  # of each table of who was shown what
NEAREST_MAX = 0.97  # of a normal distribution, where a threshold starts at the lowest
_BITS = (1 << 64) - 1


class Exploration:
    """Chooses for list after list. One thread at a time; the same calls make the same choices."""

    def __init__(self, rule: Rule | None = None, *, seed: int = 0) -> None:
        """Nothing is known of any product. Raises ValueError if a value of the rule is out of bounds."""
        self.rule = rule or Rule()
        _require_bounds(self.rule)
        self._start = NormalDist().inv_cdf(1.0 - min(self.rule.nearest, NEAREST_MAX))
        self._random = np.array([seed], np.int64).view(np.uint64)
        self._credit = 0.0  # of a position, that the share has left over
        self._products = np.zeros(0, PRODUCT)
        self._pooled = np.zeros(3)  # affinities so far, and the mean and variance of all products'
        tables = np.zeros((2, SLOTS), np.uint64), np.zeros((2, SLOTS), np.uint8)
        self._shown = Shown(*tables, np.zeros(2, np.int64))
        self._new = np.empty(0, np.int32)
        self._first = 0  # place in _new of the next candidates
        self._lists = 0  # since new rows were looked for
        self._rate = 0.0  # clicks an impression of all that was listed

    def new_rows(self, allowed: Mask, clicks: Counts, births: Counts) -> Rows:
        """The candidates (N,) int32 of the next list or lists, each once, N <= OFFERED_MAX.

        allowed  (P,) bool, what may be explored at all; P never falls
        clicks   (P,) int64, learned clicks
        births   (P,) int64, another number when a row has become another product's: what was known of it is forgotten
        """
        self._fit(len(allowed))
        if self._lists * FRESH_ROWS >= len(allowed):
            self._lists = 0
            self._new, self._rate = step.find_new(self._products, self.rule, self._start, allowed, clicks, births)
        if len(self._new) <= OFFERED_MAX:
            return self._new
        self._first = (self._first + OFFERED_MAX) % len(self._new)
        rows = self._new[self._first : self._first + OFFERED_MAX]
        return np.concatenate((rows, self._new[: OFFERED_MAX - len(rows)]))

    def choose(
        self, user: int, rows: Rows, affinity: Floats, unwanted: Rows, listable: Mask, clicks: Counts, length: int
    ) -> tuple[Rows, Rows]:
        """Return positions (R,) int32 of a list, from 0, ascending, and the rows (R,) int32 that stand there.

        user      any number that is hers
        rows      (N,) int32, candidates from new_rows(), in any order
        affinity  (N,) float32, how well each fits her, in any unit in which the users of one product can be compared;
                  not finite: not offered to her
        unwanted  (X,) int32, what she must not get, and what her list holds already
        listable  (P,) bool, as it is at this moment; clicks (P,) int64
        length    K

        R is at most per_list, and over all lists so far share * K a list at most; most often 0 where little is new.
        """
        self._fit(len(clicks))
        slots = self._slots(length)
        if slots == 0 or not len(rows):
            return np.empty(0, np.int32), np.empty(0, np.int32)
        chosen = step.choose(
            self._products,
            self._pooled,
            self._shown,
            self.rule,
            np.uint64(user & _BITS),
            rows,
            affinity,
            self._index(rows, clicks),
            unwanted,
            listable,
            clicks,
            slots,
        )
        return step.positions(self._random, self.rule.top, length, len(chosen)), chosen

    def count(self, rows: Rows, clicks: Counts) -> None:
        """Each row (K,) of a list that went out, explored or not, has one impression more. clicks (P,) int64."""
        self._fit(len(clicks))
        self._lists += 1
        step.count(self._products, rows, clicks)

    def evidence(self, rows: Rows, clicks: Counts) -> tuple[Floats, Floats]:
        """g and e (N,) of each row: clicks since it was first listed, and those of an average listed product.

        Where e is 0, nothing was listed yet, or nothing was clicked.
        """
        return step.evidence(self._products, self._rate, rows, clicks)

    def _fit(self, rows: int) -> None:
        """There is a place for so many rows; new ones are looked for at once."""
        if rows > len(self._products):
            self._products = np.concatenate((self._products, np.zeros(rows - len(self._products), PRODUCT)))
            self._lists = rows

    def _slots(self, length: int) -> int:
        """Positions of this list: the whole ones of the share. The rest goes to the next list; none is saved up."""
        self._credit += self.rule.share * length
        slots = int(self._credit)
        self._credit -= slots
        return min(slots, self.rule.per_list, max(0, length - self.rule.top))

    def _index(self, rows: Rows, clicks: Counts) -> Floats:
        """(N,) how many times the average click rate each candidate may be worth."""
        return step.upper_bounds(self._products, self._rate, rows, clicks, self.rule.optimism)


def _require_bounds(rule: Rule) -> None:
    bounds = {
        "share": (0.0, 1.0),
        "impressions": (1, 1_000_000),
        "nearest": (0.001, 1.0),
        "per_list": (1, 1_000),
        "per_user": (1, 255),  # a byte counts them
        "top": (0, 1_000),
        "clicks": (1, 1_000_000),
        "optimism": (0.0, 10.0),
    }
    for name, (least, most) in bounds.items():
        if not least <= (value := getattr(rule, name)) <= most:
            raise ValueError(f"{name}={value} is out of bounds: give {least:,} to {most:,}")
