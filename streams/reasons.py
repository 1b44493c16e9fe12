"""Why a product is in a list, in words that are true."""

from collections.abc import Mapping, Sequence
from typing import Any

from encoders.next_click import ABSENT
from encoders.ranking_features import COLD_CLICKS, Knowledge
from store.history import EVENTS
from streams.shelf import Shelf

NEW = "new in the shop"
SHARE_TOLD = 0.01  # of a product's neighbours, from which on two products are said to go together
DEEDS = {"view_item": "viewed", "select_item": "viewed", "add_to_cart": "put in the cart", "purchase": "bought"}


def reason_of(shelf: Shelf, k: Knowledge, deeds: Mapping[int, int], row: int, click: int) -> str:
    """What the product of this row has to do with the click without which it would stand lowest; -1: there is none.

    deeds  the code of the latest click on each product of the history, by row
    """
    if click == ABSENT:
        return "often clicked now" if shelf.clicks[row] >= COLD_CLICKS else plain_reason(shelf, row)
    title = shelf.titles[click]
    if shelf.clicks[row] < COLD_CLICKS and row != click:
        return f"like {title}"
    after, together = k.after.share(click, row), k.together.share(click, row)
    if max(after, together) >= SHARE_TOLD:
        return f"often together with {title}" if together > after else f"often next after {title}"
    return f"because you {DEEDS[EVENTS[deeds[click]]]} {title}"


def plain_reason(shelf: Shelf, row: int) -> str:
    """What may be said without knowing the user."""
    clicks = int(shelf.clicks[row])
    if clicks == 0:
        return NEW
    return "clicked once" if clicks == 1 else f"clicked {clicks} times"


def tell_of_others(items: Sequence[dict[str, Any]], others: Sequence[int]) -> None:
    """Each item's reason says how many like-minded shoppers clicked it, if any did."""
    for item, count in zip(items, others, strict=True):
        if count:
            who = f"{count} like-minded shoppers" if count > 1 else "a like-minded shopper"
            item["reason"] += f"; {who} clicked it lately"
