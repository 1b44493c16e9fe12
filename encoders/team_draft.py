"""Two rankings drawn into one list, so that clicks on it tell which of them was better: team-draft interleaving.

Source: Radlinski, Kurup, Joachims, CIKM 2008, section 5.2.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

FIRST, SECOND = 0, 1


class Pick(NamedTuple):
    """An item of the drawn list."""

    team: int  # FIRST or SECOND: whose pick it was
    place: int  # where it stands in that ranking, from 0


def draft(first: Sequence[Hashable], second: Sequence[Hashable], count: int, coins: int) -> list[Pick]:
    """Return the picks (K,) of the drawn list, best first, K <= count.

    The team with fewer picks takes the best of its ranking that is not taken yet; with as many, a coin says whose turn
    it is. A team whose ranking is used up takes no more, and the other one fills the list.

    first, second  what is ranked, best first; equal ones are the same item, and the list holds it once
    coins          its bits, the lowest first, are the tosses: 1 is the first team's turn; (count + 1) // 2 bits suffice
    """
    rankings, places, picks = (first, second), [0, 0], [0, 0]
    taken: set[Hashable] = set()
    drawn: list[Pick] = []
    while len(drawn) < count:
        for team, ranking in enumerate(rankings):
            while places[team] < len(ranking) and ranking[places[team]] in taken:
                places[team] += 1
        left = [places[team] < len(ranking) for team, ranking in enumerate(rankings)]
        if not any(left):
            break
        if not all(left):
            team = left.index(True)
        elif picks[FIRST] != picks[SECOND]:
            team = FIRST if picks[FIRST] < picks[SECOND] else SECOND
        else:
            team, coins = (FIRST if coins & 1 else SECOND), coins >> 1
        drawn.append(Pick(team, places[team]))
        taken.add(rankings[team][places[team]])
        picks[team] += 1
    return drawn
