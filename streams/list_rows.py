"""Which rows a list holds: the best of the scored candidates, filled up with what is clicked most, as rules want it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoders.list_ranking import choose_listed
from encoders.next_click import Floats, Mask, Rows
from streams.duplicates import best_of_each, kept_once
from streams.ruling import CapCount, Pinned, Ruling
from streams.shelf import Shelf

NO_ROWS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What a list holds whatever the ranking says, and what it may hold beside."""

    length: int  # of the whole list
    allowed: Mask  # (P,)
    unwanted: Rows  # that her list must not hold, listable or not
    pins: Sequence[Pinned] = ()  # each at its place in the list
    tried: Rows = field(default_factory=NO_ROWS.copy)  # new products
    caps: CapCount | None = None  # what is pinned and tried counts
    moves: Floats | None = None  # (P,) what rules add to scores

    @property
    def rows(self) -> Rows:
        """What is pinned and tried."""
        return np.concatenate((np.array([pin.row for pin in self.pins], np.int32), self.tried))

    def pinned_in(self, rows: Rows) -> list[int]:
        """Places, from 0, of what is pinned in the whole list (K,)."""
        pinned = {pin.row for pin in self.pins}
        return [place for place, row in enumerate(rows.tolist()) if row in pinned] if pinned else []

    @property
    def room(self) -> int:
        """Positions that are left."""
        return self.length - len(self.pins) - len(self.tried)


class ListRows:
    """Chooses from a shelf, under its lock."""

    def __init__(self, shelf: Shelf, *, diversity: float, one_of_each: bool) -> None:
        """As Ranker has them."""
        self._shelf = shelf
        self._diversity = diversity
        self._one_of_each = one_of_each

    def hold(self, ruling: Ruling | None, allowed: Mask, unwanted: Rows, length: int) -> Held:
        """What the rules pin of what she may get: where two want one position, the later one has the next."""
        if ruling is None:
            return Held(length, allowed, unwanted)
        caps = CapCount(ruling) if ruling.caps else None
        pins: list[Pinned] = []
        out = set(unwanted.tolist())
        for pin in ruling.pins:
            place = max(pin.position, pins[-1].position + 1 if pins else 1)
            if place > length:
                break
            if allowed[pin.row] and pin.row not in out and (caps is None or caps.admit(pin.row)):
                pins.append(pin._replace(position=place))
                out |= set(self.with_others(np.array([pin.row], np.int32)).tolist())
        return Held(length, allowed, unwanted, pins, caps=caps, moves=ruling.moves)

    def with_others(self, rows: Rows) -> Rows:
        """These rows, and where a list holds one of each, their duplicates."""
        return self._shelf.duplicates.with_others(rows) if self._one_of_each else rows

    def once(self, among: Rows, listed: Rows = NO_ROWS) -> NDArray[np.bool_]:
        """Which of these, best first, are duplicates neither of a better one nor of what is listed."""
        if not self._one_of_each:
            return np.ones(len(among), np.bool_)
        return kept_once(self._shelf.duplicates.group, among, listed)

    def choose(self, held: Held, among: Rows, scores: Floats, content: Floats) -> Rows:
        """The rest of the list (<= room,), best first.

        among  (N,) candidates, their scores (N,); none: what is clicked most makes the list
        """
        taken = self.with_others(held.rows) if held.pins or len(held.tried) else NO_ROWS
        caps = None if held.caps is None else held.caps.copy()
        if len(taken):
            free = held.allowed.copy()
            free[taken] = False
            among, scores = among[free[among]], scores[free[among]]
        if self._one_of_each:
            best = best_of_each(self._shelf.duplicates.group, among, scores)
            among, scores = among[best], scores[best]
        rows = self._best(among, scores, content, held.room, caps)
        if len(rows) < held.room:
            more = self._most_clicked(held, np.concatenate((held.unwanted, taken, rows)))
            more = more[self.once(more, rows)]
            rows = np.concatenate((rows, _first(more, held.room - len(rows), caps)))
        return rows

    def whole(self, held: Held, rows: Rows) -> Rows:
        """The list (<= length,): these rows (K,), best first and the tried ones among them, and what is pinned."""
        if not held.pins:
            return rows[: held.length]
        listed = rows[: held.length - len(held.pins)].tolist()
        for pin in held.pins:
            listed.insert(pin.position - 1, pin.row)
        return np.array(listed, np.int32)

    def _best(self, among: Rows, scores: Floats, content: Floats, count: int, caps: CapCount | None) -> Rows:
        """The best candidates (<= count,); with caps, whatever is too many gives way to the next best."""
        chosen = among[choose_listed(scores, among, content, self._diversity, count)]
        while caps is not None:
            counted = caps.copy()
            kept = counted.admitted(chosen)
            if len(kept) == len(chosen):
                caps.take(counted)
                break
            left = ~counted.closed(among) | np.isin(among, kept)  # of a full group those that fill it
            among, scores = among[left], scores[left]
            chosen = among[choose_listed(scores, among, content, self._diversity, count)]
        return chosen

    def _most_clicked(self, held: Held, out: Rows) -> Rows:
        """What she may get beside these rows, by its clicks, then its age; a rule multiplies the clicks."""
        shelf, others = self._shelf, held.allowed.copy()
        others[out] = False
        left = np.flatnonzero(others)
        clicks = shelf.clicks[left].astype(np.float64)
        if held.moves is not None:
            clicks = (1.0 + clicks) * np.exp(held.moves[left].astype(np.float64))
        order = np.lexsort((left, -shelf.created_at[left], -clicks))
        return left[order].astype(np.int32)


def _first(rows: Rows, count: int, caps: CapCount | None) -> Rows:
    """The first of these rows (<= count,) that the caps admit."""
    if caps is None:
        return rows[:count]
    found: list[int] = []
    while len(found) < count and len(rows):
        head = rows[: count - len(found)]
        found += caps.admitted(head)
        rows = rows[len(head) :]
        rows = rows[~caps.closed(rows)]
    return np.array(found, np.int32)
