"""The protocols: which clicks the model has learned when a click is predicted, and which predictions are judged."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Mask
from streams.evaluation.moments import Ints, Moments
from streams.evaluation.stream import Stream

Protocol = Literal["prequential", "split", "delayed"]
JudgedList = Literal["request", "published", "both"]


@dataclass(frozen=True)
class Plan:
    """How the clicks are gone through and judged, all but the model."""

    protocol: Protocol = "prequential"
    warm_up: float = 0.2  # share of the clicks that come before the first that is judged
    delay_s: float = 0.0  # of the protocol delayed
    delay_history: bool = False
    judged_list: JudgedList = "request"
    repeats: bool = False
    seen_events: Collection[str] = ("purchase",)
    every: int = 1  # of the clicks that can be judged, each every-th is
    seed: int = 0


class Schedule(NamedTuple):
    """How far the model, and what is known of a user, have come at each click.

    learned_before  (N,) int64: when click i is predicted, so many clicks, the first ones, are learned
    learned_after   (N,) int64: the same when the list after click i is made
    told_before     (N,) int64: when click i is predicted, the user's history is of the first so many clicks
    told_after      (N,) int64: the same when the list after click i is made
    """

    learned_before: Ints
    learned_after: Ints
    told_before: Ints
    told_after: Ints


class Judged(NamedTuple):
    """Which clicks are judged, and why the others after the warm-up are not."""

    mask: Mask  # (N,)
    warm_up: int  # clicks before the first that could be judged
    first_clicks: int  # of products that nobody could know
    repeats: int  # of products that the user clicked before, or had and is not shown again
    passed_over: int  # because only every n-th is judged


def schedule(times: NDArray[np.float64], plan: Plan) -> Schedule:
    """Test, then learn; with a split nothing is learned after the warm-up, with a delay each click that much later.

    times  (N,) float64, s, not falling
    """
    clicks = np.arange(len(times), dtype=np.int64)
    before, after = clicks, clicks + 1
    if plan.protocol == "split":
        cut = warm_up_clicks(len(times), plan)
        return Schedule(np.minimum(before, cut), np.minimum(after, cut), before, after)
    if plan.protocol == "delayed":
        due = np.searchsorted(times, times - plan.delay_s, side="right")
        learned = np.minimum(due, before), np.minimum(due, after)
        return Schedule(*learned, *(learned if plan.delay_history else (before, after)))
    return Schedule(before, after, before, after)


def judged(stream: Stream, moments: Moments, plan: Plan) -> Judged:
    """A click is judged if its product is known and new to this user; with repeats, if it is not one that she has had.

    What she has had is not listed again, so nobody could predict it.
    """
    warm_up = warm_up_clicks(len(stream), plan)
    later = np.arange(len(stream)) >= warm_up
    known = stream.rows < stream.known[:-1]
    repeated = moments.had if plan.repeats else moments.repeated
    possible = np.flatnonzero(later & known & ~repeated)
    mask = np.zeros(len(stream), np.bool_)
    mask[possible[:: plan.every]] = True
    return Judged(
        mask,
        warm_up,
        first_clicks=int((later & ~known).sum()),
        repeats=int((later & known & repeated).sum()),
        passed_over=len(possible) - int(mask.sum()),
    )


def warm_up_clicks(clicks: int, plan: Plan) -> int:
    """How many clicks come before the first that may be judged."""
    return int(clicks * plan.warm_up)
