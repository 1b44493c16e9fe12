"""What a list says of its products: where each came from, why it is there, and which rules have moved it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import ABSENT, Floats, Rows
from encoders.ranking_features import COLD_CLICKS, Knowledge
from streams.events import ListSource
from streams.reasons import NEW, plain_reason, reason_of
from streams.ruling import Pinned, Ruling
from streams.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Ranked:
    """A user's list, best first, and the embedding (F,) that it was made with, if there was one."""

    items: list[dict[str, Any]]  # as streams.events.ListItem
    embedding: NDArray[np.float32] | None
    pinned: Sequence[int] = field(default=(), kw_only=True)  # places of the items, from 0, that rules have pinned


@dataclass(frozen=True, slots=True)
class Scored:
    """The candidates of one user: rows (N,) int32 in no order, their scores in the list, her next-click scores (P,)."""

    rows: Rows
    scores: Floats
    next_click: Floats
    embedding: Floats | None  # (F,)


def list_items(
    shelf: Shelf,
    knowledge: Knowledge,
    scored: Scored,
    rows: Rows,
    clicked: Rows,
    codes: Sequence[int],
    behind: Rows,
    tried: Rows,
) -> list[dict[str, Any]]:
    """The items of these rows (K,), as streams.events.ListItem. Call under the shelf's lock.

    clicked  rows of her history, newest first, -1 unknown; codes of their events
    behind   (K,) as encoders.list_ranking.clicks_behind
    tried    rows that exploration has put there
    """
    scores = dict(zip(scored.rows.tolist(), np.round(scored.scores.astype(np.float64), 6).tolist(), strict=True))
    organic = [scores[row] for row in rows.tolist() if row in scores]
    is_known, new = bool((clicked != ABSENT).any()), set(tried.tolist())
    deeds = dict(zip(clicked.tolist()[::-1], codes[: len(clicked)][::-1], strict=True))  # the newest stays
    last = min(organic, default=0.0)
    items = []
    for place, (row, click) in enumerate(zip(rows.tolist(), behind.tolist(), strict=True), 1):
        source = _source(shelf, row, is_known and row in scores, row in new)
        if source in ("next-click", "content"):
            reason = reason_of(shelf, knowledge, deeds, row, click)
        else:
            reason = plain_reason(shelf, row) if source == "popular" else NEW
        if row in scores and organic:
            points = scores[row]
        else:  # behind what was scored; alone, the clicks are the score
            points = last = last - 1.0 if organic else float(shelf.clicks[row])
        item = {"product_id": shelf.product_ids[row], "score": points, "rank": place}
        items.append(item | {"source": source, "reason": reason})
    return items


def tell_rules(items: Sequence[dict[str, Any]], rows: Rows, ruling: Ruling, pins: Sequence[Pinned]) -> None:
    """Each item that a rule has moved names it under `rules`; where the item is explained, with what it did."""
    pinned: Mapping[int, Pinned] = {pin.row: pin for pin in pins}
    for item, row, moving in zip(items, rows.tolist(), ruling.moving(rows), strict=True):
        if (pin := pinned.get(row)) is not None:
            moving = [{"name": pin.name, "action": "pin", "position": pin.position}, *moving]
        if moving:
            item["rules"] = [rule["name"] for rule in moving]
        if "explanation" in item:
            item["explanation"]["rules"] = moving


def _source(shelf: Shelf, row: int, is_scored: bool, is_tried: bool) -> ListSource:
    if is_tried:
        return "new"
    if not is_scored:
        return "popular"
    return "content" if shelf.clicks[row] < COLD_CLICKS else "next-click"
