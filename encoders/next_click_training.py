"""The next-click model as it learns: one click after the other, each with replays of earlier ones.

The model knows products by row number only. What it draws at random comes from a state of its own, so a model
restored from `state()` and given the same calls ends with bit-identical parameters.

A removed product leaves the negatives and the replays at once. Its row is given to another product only after a sweep
has taken it out of the ring of kept examples; a sweep runs when enough rows wait to be worth its time.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import FACTORS, GAPS, Floats, Mask, Rows, Weights, embed, longer
from encoders.next_click_replays import EXAMPLES, RECENT, Ring, learn_examples, sweep
from encoders.next_click_step import Parameters, Rule, draw_normal

DEFAULT_RULE = Rule()


class FactorsDiverged(ArithmeticError):
    """A parameter is not finite: the model is of no use any more, go back to a checkpoint."""


class NextClickModel:
    """The learner's model. One thread at a time; learning leaves the GIL to the others."""

    def __init__(self, factors: int = FACTORS, *, seed: int = 0, rule: Rule = DEFAULT_RULE) -> None:
        """A model without products. The ring takes 4 LM + L + 8 bytes for each example that it keeps.

        Raises ValueError if recent_clicks does not fit into the ring.
        """
        if not 0 < rule.recent_clicks < rule.ring_examples:
            raise ValueError(
                f"recent_clicks={rule.recent_clicks} must be above 0 and below ring_examples={rule.ring_examples}"
            )
        self.rule = rule
        self.clicks = np.zeros(0, np.int64)  # (>= P,) learned clicks of each row, replays not counted
        self._rows = 0
        self._free: list[int] = []  # swept rows, the lowest last
        self._random = np.array([seed], np.int64).view(np.uint64)
        self._p = _new_parameters(factors, rule)
        self._ring = Ring(
            targets=np.zeros(rule.ring_examples, np.int32),
            histories=np.zeros((rule.ring_examples, rule.memory_length), np.int32),
            gaps=np.zeros((rule.ring_examples, rule.positions), np.int8),
            weights=np.ones(rule.ring_examples, np.float32),
            recent=np.zeros(0, np.int32),
            known=np.zeros(0, np.bool_),
            known_rows=np.zeros(0, np.int32),
            marks=np.zeros(0, np.int64),
            counters=np.zeros(3, np.int64),
        )

    @property
    def examples(self) -> int:
        """How many examples the model has learned, replays not counted."""
        return int(self._ring.counters[EXAMPLES])

    def add_product(self) -> int:
        """Return the row of a new product: small random vectors, bias 0, first in line to be published."""
        if not self._free and self._rows == len(self.clicks):
            self._grow(max(1024, 2 * self._rows))
        row = self._free.pop() if self._free else self._rows
        self._rows = max(self._rows, row + 1)
        p = self._p
        draw_normal(self._random, p.context[row], 0.05)
        draw_normal(self._random, p.offset[row], 0.005)
        p.bias[row], p.change[row] = 0.0, np.inf
        p.context_squares[row] = p.offset_squares[row] = p.bias_squares[row] = self.rule.adagrad_start
        self._ring.known[row] = True
        self._find_known_rows_again()
        return row

    def remove_product(self, row: int) -> Rows:
        """No later step has the product as target, in a history or as negative. Drop the row from every map of yours.

        Returns rows (n,) of removed products that may become other products' from now on; most often none.
        """
        self._require_known(np.array([row]))
        self._ring.known[row] = False
        self._find_known_rows_again()
        self._ring.counters[RECENT] -= self._ring.recent[row]
        self._ring.recent[row] = 0
        self._p.change[row] = 0.0
        self.clicks[row] = 0
        gone = np.flatnonzero(~self._ring.known[: self._rows])
        if len(gone) - len(self._free) > max(64, self._rows // 16):
            sweep(self._ring)
            self._free = gone[::-1].tolist()
            return gone.astype(np.int32)
        return gone[:0].astype(np.int32)

    def place(self, rows: Rows, context: Floats, target: Floats, bias: Floats) -> None:
        """Put products that nobody has clicked where the cold start sees them: (n, F), (n, F), (n,).

        Raises FactorsDiverged if a value is not finite.
        """
        self._require_known(rows)
        p = self._p
        way = np.linalg.norm(p.context[rows] - context, axis=1) + np.abs(p.bias[rows] - bias)
        way += np.linalg.norm(p.offset[rows] - (target - context), axis=1)
        if not np.isfinite(way).all():
            raise FactorsDiverged("the cold start's vectors are not finite: refit it from the last checkpoint")
        p.context[rows], p.offset[rows], p.bias[rows] = context, target - context, bias
        p.change[rows] += way

    def learn(self, row: int, history: Rows, ages_s: Floats, *, replays: int = 8) -> float:
        """Learn one example: learn_many of one."""
        return self.learn_many(np.array([row]), history[None], ages_s[None], replays=replays)

    def learn_many(
        self, rows: Rows, histories: Rows, ages_s: Floats, weights: Floats | None = None, *, replays: int = 8
    ) -> float:
        """Learn E examples in order, each followed by replays of earlier ones; return their mean loss.

        rows       (E,) int32, the clicked products, all known
        histories  (E, H) int32, rows clicked before, newest first; -1 and what is not known add nothing
        ages_s     (E, H) float32, how long before the example's click
        weights    (E,) float32 > 0, how much each example weighs, also in its replays; None: 1

        Raises ValueError if a clicked product is not known: nothing is learned then; FactorsDiverged if a parameter
        is not finite any more: some of the examples are learned then.
        """
        self._require_known(rows)
        if not len(self._ring.known_rows):
            self._ring = self._ring._replace(known_rows=np.flatnonzero(self._ring.known).astype(np.int32))
        loss = learn_examples(
            self._p,
            self._ring,
            self.rule,
            self._random,
            self.clicks,
            np.ascontiguousarray(rows, np.int32),
            np.ascontiguousarray(histories, np.int32),
            np.ascontiguousarray(ages_s, np.float32),
            np.ones(len(rows), np.float32) if weights is None else np.ascontiguousarray(weights, np.float32),
            replays,
        )
        if not np.isfinite(loss):
            raise FactorsDiverged(
                f"a parameter is not finite after example {self.examples}: restore the last checkpoint; "
                f"if it happens again, lower learning_rate={self.rule.learning_rate}"
            )
        return loss

    @property
    def products(self) -> int:
        """How many rows there are, those of removed products included."""
        return self._rows

    @property
    def known(self) -> Mask:
        """(P,) bool, which rows are products; a view."""
        return self._ring.known[: self._rows]

    def embed(self, history: Rows, ages_s: Floats) -> Floats:
        """(F,) the embedding of a history (H,) at this moment, without dropout; see encoders.next_click.embed."""
        shared, context, _, _ = self.served()
        length = np.array([len(history)], np.int32)
        embedding: Floats = embed(shared, context, history[None], ages_s[None], length)[0]
        return embedding

    def scores(self, embedding: Floats) -> Floats:
        """(P,) next-click scores of every row for an embedding (F,)."""
        _, context, offset, bias = self.served()
        scores: Floats = context @ embedding
        scores += offset @ embedding
        scores += bias
        return scores

    def weights(self) -> Weights:
        """A copy of what all products share."""
        p, rule = self._p, self.rule
        shared = (p.position_weights.copy(), p.gap_weights.copy(), p.memory_weights[0].copy())
        return Weights(*shared, rule.memory_length, rule.memory_decay)

    def served(self) -> tuple[Weights, Floats, Floats, Floats]:
        """Views, which change as it learns: what all products share, context (P, F), offset (P, F) and bias (P,)."""
        p, rule, rows = self._p, self.rule, self._rows
        shared = Weights(p.position_weights, p.gap_weights, p.memory_weights[0], rule.memory_length, rule.memory_decay)
        return shared, p.context[:rows], p.offset[:rows], p.bias[:rows]

    def vectors(self, rows: Rows) -> tuple[Floats, Floats, Floats]:
        """Copies of context (n, F), target (n, F) and bias (n,) of these rows."""
        context = self._p.context[rows]
        return context, context + self._p.offset[rows], self._p.bias[rows]

    def most_changed(self, limit: int) -> Rows:
        """At most `limit` rows that differ from what was published: new products first, then the longest way."""
        change = self._p.change[: self._rows]
        changed = np.flatnonzero(change > 0)
        return changed[np.argsort(-change[changed], kind="stable")][:limit].astype(np.int32)

    def mark_published(self, rows: Rows) -> None:
        """These rows are published as they are now."""
        self._p.change[rows] = 0.0

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of all that a checkpoint must hold."""
        state = {name: array.copy() for name, array in self._lasting_arrays().items()}
        state["free"] = np.array(self._free, np.int64)
        state["rule"] = np.array(self.rule, np.float64)
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """The model as it was, except that every product counts as not yet published."""
        rule = Rule._make(type(value)(kept) for value, kept in zip(DEFAULT_RULE, state["rule"], strict=True))
        model = cls(state["context"].shape[1], rule=rule)
        model._rows = len(state["known"])
        model._grow(max(1024, model._rows))
        model._ring.counters[:] = state["counters"]
        for name, array in model._lasting_arrays().items():
            array[...] = state[name]
        model._free = state["free"].tolist()
        model._p.change[: len(model._ring.known)][model._ring.known] = np.inf
        return model

    def _lasting_arrays(self) -> dict[str, NDArray[Any]]:
        """Views of what must outlast a restart, cut to what is in use."""
        p, ring, kept = self._p._asdict(), self._ring, min(self.examples, self.rule.ring_examples)
        del p["change"]
        arrays = {name: array[: self._rows] if name in _OF_PRODUCTS else array for name, array in p.items()}
        arrays |= {"targets": ring.targets[:kept], "histories": ring.histories[:kept], "gaps": ring.gaps[:kept]}
        arrays |= {"weights": ring.weights[:kept]}
        arrays |= {"recent": ring.recent[: self._rows], "known": ring.known[: self._rows]}
        return arrays | {"clicks": self.clicks[: self._rows], "counters": ring.counters, "random": self._random}

    def _grow(self, capacity: int) -> None:
        of_products = {name: longer(getattr(self._p, name), capacity) for name in (*_OF_PRODUCTS, "change")}
        self._p = self._p._replace(**of_products)
        ring = self._ring
        self._ring = ring._replace(
            recent=longer(ring.recent, capacity),
            known=longer(ring.known, capacity),
            marks=longer(ring.marks, capacity),
        )
        self.clicks = longer(self.clicks, capacity)

    def _find_known_rows_again(self) -> None:
        self._ring = self._ring._replace(known_rows=self._ring.known_rows[:0])

    def _require_known(self, rows: Rows) -> None:
        inside = (rows >= 0) & (rows < self._rows)
        if not (inside.all() and self._ring.known[rows].all()):
            strange = [int(row) for row in rows if not (0 <= row < self._rows and self._ring.known[row])]
            raise ValueError(f"rows {strange[:10]} are no known products: add_product gives the rows to use")


_OF_PRODUCTS = ("context", "context_squares", "offset", "offset_squares", "bias", "bias_squares")


def _new_parameters(factors: int, rule: Rule) -> Parameters:
    start = np.float32(rule.adagrad_start)
    by_position = 0.8 / (1.0 + np.arange(rule.positions, dtype=np.float32)[:, None])
    return Parameters(
        context=np.zeros((0, factors), np.float32),
        context_squares=np.zeros(0, np.float32),
        offset=np.zeros((0, factors), np.float32),
        offset_squares=np.zeros(0, np.float32),
        bias=np.zeros(0, np.float32),
        bias_squares=np.zeros(0, np.float32),
        position_weights=np.repeat(by_position.astype(np.float32), factors, axis=1),
        position_squares=np.full(rule.positions, start),
        gap_weights=np.ones((GAPS, factors), np.float32),
        gap_squares=np.full(GAPS, start),
        memory_weights=np.ones((1, factors), np.float32),
        memory_squares=np.full(1, start),
        change=np.zeros(0, np.float32),
    )
