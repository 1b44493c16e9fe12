"""Which rules are about which of a shelf's rows, and what they come to: worked out when rules, products or the hour
change, and not for each list.

Rows that the same rules are about share one set of rules, and what a set comes to is worked out once: 50,000 products
under 100 rules are a few hundred sets. Everything is called under the shelf's lock.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Mask, Rows, longer
from store.conditions import ANY, Conditions
from streams.published_document import PublishedDocument
from streams.rules import DEFAULT_SCENARIO, NO_RULES, Pin, Rule, RuleSet
from streams.ruling import RuledRows, Ruling, new_sets

if TYPE_CHECKING:
    from streams.shelf import Shelf

ONE_BY_ONE_MAX = 64  # rows; of more that changed at once, all are looked at
RULINGS_MAX = 64  # scenarios whose rulings are kept: each is some bytes a product
NO_ROWS = np.empty(0, np.int32)
_About = tuple[frozenset[str], Conditions | None]
"""The products that a rule names, none for all, and what else is to be true of them."""


class ShelfRules:
    """P rows. What was published is obeyed from the next `follow` on."""

    def __init__(self) -> None:
        self.published: PublishedDocument[RuleSet] = PublishedDocument(NO_RULES)
        self._revision = 0  # of what is followed
        self._rules: list[tuple[str, Rule]] = []
        self._about: list[_About] = []  # of each rule
        self._sets = new_sets()
        self._set_of: NDArray[np.int32] = np.zeros(0, np.int32)  # (P,) the number of each row's set
        self._view = RuledRows(self._sets, self._set_of, {}, None)
        self._waiting: set[int] = set()  # rows that became another product's, or changed
        self._on: list[int] = []  # rules, by number, that hold at this hour
        self._until = math.inf  # s since 1970, when others do
        self._named: frozenset[str] = frozenset()  # scenarios that rules tell apart
        self._rulings: dict[str, Ruling | None] = {}
        self._blocked: Mask = np.zeros(0, np.bool_)  # (P,) in lists of the default scenario

    def regroup(self, row: int) -> None:
        """This row is another product's now, or has another brand, category or attribute."""
        if self._rules:
            self._waiting.add(row)

    def follow(self, shelf: "Shelf", now: float) -> Rows:
        """Work out what has changed by now (s since 1970); return the rows that are blocked in lists on the topic, and
        were not before."""
        is_new = self.published.revision != self._revision
        if not (is_new or self._rules):
            return NO_ROWS
        if is_new:
            self._take(self.published.current)
        if is_new or len(self._set_of) != len(shelf.listable) or len(self._waiting) > ONE_BY_ONE_MAX:
            self._sort_all(shelf)
            has_changed = True
        else:
            has_changed = self._sort(self._waiting, shelf)
        self._waiting.clear()
        if is_new or now >= self._until:
            self._look_at_the_hour(now)
            has_changed = True
        if not has_changed:
            return NO_ROWS
        self._rulings.clear()
        self._view = RuledRows(self._sets, self._set_of, shelf.rows, shelf.offers)
        return self._newly_blocked()

    def ruling(self, scenario: str) -> Ruling | None:
        """What holds in lists of this scenario since the last `follow`; None: nothing."""
        if not self._on:
            return None
        known = scenario if scenario in self._named else ""  # all others obey the same
        if known not in self._rulings:
            if len(self._rulings) >= RULINGS_MAX:
                self._rulings.clear()
            self._rulings[known] = self._ruling_of(scenario)
        return self._rulings[known]

    def is_blocked(self, row: int) -> bool:
        """True if lists on the topic may not hold this row."""
        return row < len(self._blocked) and bool(self._blocked[row])

    def told(self, listable: Mask) -> list[dict[str, Any]]:
        """Each rule as it was published, whether it holds at this hour, and how many listable products it is about."""
        counts = np.zeros(len(self._rules), np.int64)
        sets, of_set = np.unique(self._set_of[listable[: len(self._set_of)]], return_counts=True)
        for number, count in zip(sets.tolist(), of_set.tolist(), strict=True):
            counts[list(self._sets.values[number])] += count
        return [
            {"name": name, **rule.model_dump(mode="json", exclude_unset=True)}
            | {"is_on": number in self._on, "products_for_sale": int(counts[number])}
            for number, (name, rule) in enumerate(self._rules)
        ]

    # --- what has changed ----------------------------------------------------------------------------------------

    def _take(self, rule_set: RuleSet) -> None:
        self._revision = self.published.revision
        self._rules = list(rule_set.rules.items())
        self._about = [_about(rule) for _, rule in self._rules]
        self._named = frozenset(scenario for _, rule in self._rules for scenario in rule.scenarios)

    def _look_at_the_hour(self, now: float) -> None:
        self._on = [number for number, (_, rule) in enumerate(self._rules) if rule.is_on(now)]
        turns = [turn.timestamp() for _, rule in self._rules for turn in (rule.since, rule.until) if turn is not None]
        self._until = min((turn for turn in turns if turn > now), default=math.inf)

    def _sort_all(self, shelf: "Shelf") -> None:
        """Every row has the set of the rules that are about it."""
        self._sets, self._set_of = new_sets(), np.zeros(len(shelf.listable), np.int32)
        for number in range(len(self._rules)):
            about = self._rows_about(number, shelf)
            numbers = self._set_of[about]
            present = np.zeros(len(self._sets.values), np.bool_)
            present[numbers] = True
            grown = np.zeros(len(present), np.int32)
            for of_set in np.flatnonzero(present).tolist():
                grown[of_set] = self._sets.number_of((*self._sets.values[of_set], number))
            self._set_of[about] = grown[numbers]

    def _rows_about(self, number: int, shelf: "Shelf") -> Rows:
        products, conditions = self._about[number]
        known = np.array([shelf.rows[product_id] for product_id in products if product_id in shelf.rows], np.int32)
        if conditions is None:
            return known if products else np.arange(len(shelf.listable), dtype=np.int32)
        if shelf.offers is None:
            return NO_ROWS
        met = shelf.offers.meeting(conditions)
        return known[met[known]] if products else np.flatnonzero(met).astype(np.int32)

    def _sort(self, changed: Iterable[int], shelf: "Shelf") -> bool:
        """The same for these rows; False if nothing came of it."""
        has_changed = False
        for row in changed:
            product_id, offers = shelf.product_ids[row], shelf.offers
            about = tuple(
                number
                for number, (products, conditions) in enumerate(self._about)
                if (not products or product_id in products)
                and (conditions is None or (offers is not None and offers.is_meeting(row, conditions)))
            )
            number = self._sets.number_of(about)
            has_changed |= number != int(self._set_of[row])
            self._set_of[row] = number
        return has_changed

    # --- what it comes to ----------------------------------------------------------------------------------------

    def _ruling_of(self, scenario: str) -> Ruling | None:
        holding = {n: self._rules[n] for n in self._on if self._rules[n][1].holds_in(scenario)}
        return Ruling(holding, self._view) if holding else None

    def _newly_blocked(self) -> Rows:
        size = len(self._set_of)
        ruling = self.ruling(DEFAULT_SCENARIO)
        before = longer(self._blocked, size) if len(self._blocked) != size else self._blocked
        blocked = None if ruling is None else ruling.blocked
        self._blocked = np.zeros(size, np.bool_) if blocked is None else blocked
        return np.flatnonzero(self._blocked & ~before).astype(np.int32)


def _about(rule: Rule) -> _About:
    if isinstance(rule, Pin):
        return frozenset(rule.products), None
    return frozenset(rule.products), None if rule.conditions == ANY else rule.conditions
