"""When a product that was bought is due again, told by when it was bought."""

from collections.abc import Sequence

DAY_S = 86_400.0
OCCASION_S = DAY_S  # purchases within it are one: a second piece, or a corrected order
AGAIN_S = 30 * DAY_S  # between two purchases of a product that was bought once so far
AWHILE = 0.5  # of that: before so much has passed, what was bought once is not due at all
ONCE = 0.5  # how much one purchase says beside two


def how_due(bought_at: Sequence[float], now: float) -> float | None:
    """0 to 1, highest where the usual time between two purchases has just passed; None: not due at all.

    bought_at  s since 1970, at least one, in any order; now as well

    The usual time is the mean between the occasions so far. Until it has passed, a product is as due as the part of it
    that has; after twice the time it is half as due, since she may have it from elsewhere by now.
    """
    occasions: list[float] = []
    for at in sorted(bought_at):
        if not occasions or at - occasions[-1] >= OCCASION_S:
            occasions.append(at)
    if len(occasions) > 1:
        waited = (now - max(bought_at)) / ((occasions[-1] - occasions[0]) / (len(occasions) - 1))
        return min(max(waited, 0.0), 1.0 / max(waited, 1.0))
    waited = (now - max(bought_at)) / AGAIN_S
    return None if waited < AWHILE else ONCE * min(waited, 1.0 / waited)
