"""What the rules come to for the lists of one scenario, as arrays that the ranking reads: P rows of a shelf."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, Mask, Rows
from encoders.ranking_features import top
from streams.rules import Block, Cap, Pin, Rule, Weigh
from streams.shelf_offers import Numbered, ShelfOffers

BOOSTED_MAX = 50  # boosted products that become candidates of a list by their next-click score, beside those that are
RuleSets = Numbered[tuple[int, ...]]
"""Sets of rules, each as ascending numbers; the empty one has the number 0."""


def new_sets() -> RuleSets:
    """The empty one alone."""
    sets = RuleSets()
    sets.number_of(())
    return sets


class RuledRows(NamedTuple):
    """Which rules are about which rows, and what else rules are told by."""

    sets: RuleSets
    set_of: NDArray[np.int32]  # (P,) numbers of sets
    rows: Mapping[str, int]  # by product id
    offers: ShelfOffers | None


class Pinned(NamedTuple):
    """A product that is to stand at this position (from 1), or behind what is pinned to it before."""

    position: int
    row: int
    name: str  # of the rule


class Ruling:
    """Nothing of it changes."""

    def __init__(self, holding: Mapping[int, tuple[str, Rule]], view: RuledRows) -> None:
        """holding: the rules that hold, by number, with their names, in the order of the numbers"""
        self._view = view
        rules = {number: rule for number, (_, rule) in holding.items()}
        self._weighs = {number: (name, rule) for number, (name, rule) in holding.items() if isinstance(rule, Weigh)}
        self.caps = {number: rule for number, rule in rules.items() if isinstance(rule, Cap)}
        blocks = {number for number, rule in rules.items() if isinstance(rule, Block)}
        self.blocked: Mask | None = None  # (P,)
        self.moves: Floats | None = None  # (P,) what is added to the score: natural logarithms of odds
        self._boosted: Mask | None = None  # (P,)
        if blocks:
            self.blocked = np.array([not blocks.isdisjoint(one) for one in view.sets.values])[view.set_of]
        if self._weighs:
            moves = np.array([sum(self._move(number) for number in one) for one in view.sets.values], np.float32)
            self.moves = moves[view.set_of]
            self._boosted = (moves > 0)[view.set_of] if (moves > 0).any() else None
        self._moving_of: dict[int, list[dict[str, Any]]] = {}  # of each set that was asked for
        self.pins = [
            Pinned(rule.position, view.rows[product_id], name)
            for name, rule in holding.values()
            if isinstance(rule, Pin)
            for product_id in rule.products
            if product_id in view.rows
        ]
        self.pins.sort(key=lambda pin: pin.position)
        with_cap = {number: [at for at, one in enumerate(view.sets.values) if number in one] for number in self.caps}
        self._sets_with = {number: np.array(sets, np.int32) for number, sets in with_cap.items()}
        self._caps_of = [tuple(number for number in one if number in self.caps) for one in view.sets.values]

    def without_blocked(self, allowed: Mask) -> Mask:
        """(P,) bool"""
        return allowed if self.blocked is None else allowed & ~self.blocked

    def more_candidates(self, candidates: Rows, next_click: Floats, allowed: Mask) -> Rows:
        """Rows that the rules want and that are no candidates yet: what is pinned, and of what is boosted at most
        BOOSTED_MAX, the best by next-click score; those without a score come last.

        next_click  (<= P,) NaN for a product without factors
        allowed     (P,) bool
        """
        if self._boosted is None and not self.pins:
            return np.empty(0, np.int32)
        free = allowed.copy()
        free[candidates] = False
        pinned = np.unique(np.array([pin.row for pin in self.pins if free[pin.row]], np.int32))
        if self._boosted is None:
            return pinned
        free[pinned] = False
        wanted, best = free & self._boosted, np.empty(BOOSTED_MAX, np.int32)
        best = best[: top(next_click, wanted, BOOSTED_MAX, best)]
        if len(best) < BOOSTED_MAX:
            wanted[best] = False
            best = np.concatenate((best, np.flatnonzero(wanted)[: BOOSTED_MAX - len(best)].astype(np.int32)))
        return np.concatenate((pinned, best))

    def moving(self, rows: Rows) -> list[list[dict[str, Any]]]:
        """Of each of these rows the rules that move its score: name, action, factor, and what is added."""
        return [self._moving(of_set) for of_set in self._view.set_of[rows].tolist()]

    def groups_of(self, row: int) -> list[tuple[int, int]]:
        """Those that this row is in and of which a list holds only so many: number of the cap, and of brand or path."""
        groups, offers = [], self._view.offers
        for number in self._caps_of[self._view.set_of[row]]:
            each = self.caps[number].each
            if each is None:
                groups.append((number, 0))
            elif offers is not None and offers.has(each, row):
                groups.append((number, int(offers.numbers(each)[row])))
        return groups

    def in_groups(self, rows: Rows, full: Mapping[int, list[int]]) -> Mask:
        """(N,) bool, which of these rows (N,) are in any of these groups: by cap, the numbers of brands or paths."""
        sets, offers = self._view.set_of[rows], self._view.offers
        found = np.zeros(len(rows), np.bool_)
        for number, groups in full.items():
            has_cap = np.zeros(len(self._view.sets.values), np.bool_)
            has_cap[self._sets_with[number]] = True
            each, those = self.caps[number].each, has_cap[sets]
            if each is not None:
                assert offers is not None, "there are no groups of brands without offers"
                those &= np.isin(offers.numbers(each)[rows], groups)
            found |= those
        return found

    def _moving(self, of_set: int) -> list[dict[str, Any]]:
        if of_set not in self._moving_of:
            numbers = [number for number in self._view.sets.values[of_set] if number in self._weighs]
            self._moving_of[of_set] = [
                {"name": name, "action": rule.action, "factor": rule.factor, "added_to_score": round(moved, 6)}
                for (name, rule), moved in ((self._weighs[number], self._move(number)) for number in numbers)
            ]
        return self._moving_of[of_set]

    def _move(self, number: int) -> float:
        if number not in self._weighs:
            return 0.0
        rule = self._weighs[number][1]
        return math.log(rule.factor) * (1 if rule.action == "boost" else -1)


class CapCount:
    """How many a list holds so far of what is capped."""

    def __init__(self, ruling: Ruling, counts: Mapping[tuple[int, int], int] | None = None) -> None:
        self._ruling = ruling
        self._counts = dict(counts or {})

    def copy(self) -> "CapCount":
        """Counts on by itself."""
        return CapCount(self._ruling, self._counts)

    def admit(self, row: int) -> bool:
        """True if the list may hold this row too; then it counts."""
        groups = self._ruling.groups_of(row)
        if any(self._counts.get(group, 0) >= self._ruling.caps[group[0]].most for group in groups):
            return False
        for group in groups:
            self._counts[group] = self._counts.get(group, 0) + 1
        return True

    def admitted(self, rows: Rows) -> list[int]:
        """Those of these rows, in their order, that the list may hold; they count."""
        return [row for row in rows.tolist() if self.admit(row)]

    def take(self, other: "CapCount") -> None:
        """It counts what the other one has counted."""
        self._counts = dict(other._counts)

    def closed(self, rows: Rows) -> Mask:
        """(N,) bool, which of these rows (N,) it may not hold any more."""
        full: dict[int, list[int]] = {}
        for (number, group), count in self._counts.items():
            if count >= self._ruling.caps[number].most:
                full.setdefault(number, []).append(group)
        return self._ruling.in_groups(rows, full)
