"""How many clicks the positions spent on new products find: a uniform share beside two bandits, and none.

    python -m tests.bench.exploration [--quick]

Needs no broker. A world is drawn anew for each seed, and every policy plays the same one, with the same draws of
clicks. Users and products have taste vectors; a click on position k (from 1) comes with the chance
1.5 / log2(k + 1) * sigmoid(-4.2 + quality + match), which nobody but the simulation knows. The ranking sees a product
through its content at first (correlation with the true match 0.6 over the users, and nothing of its quality), through
its clicks later (0.9): c clicks weigh c / (c + 5). What a user clicked is not listed to her again. Clicks are learned
at once.
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.exploration import Counts, Exploration
from encoders.exploration_step import Rule, positions
from encoders.next_click import ABSENT, Floats, Mask, Rows, best, compiled
from streams.evaluation.report import table
from tests.bench.report import Progress, shown

LENGTH = 20  # of a list
ESTABLISHED, ESTABLISHED_CLICKS = 600, 50
USERS, WIDTH, TASTES = 1_500, 12, 16
EVIDENCE = 5.0
FOUND_CLICKS = 5  # a new product with so many has factors of its own
GOOD_SHARE = 0.2  # of the new products, the ones with the highest true click rate
ARRIVE_UNTIL = 0.8  # of the lists
MARKETS = {"quiet: new products need a third of the share": 1 / 3, "busy: they need all of it": 1.0}


@dataclass(frozen=True)
class World:
    """U users, P products, T lists."""

    chance: Floats  # (U, P) of a click at the first position, before EXAMINED
    by_clicks: Floats  # (U, P) what the ranking thinks of a product with many clicks, in log odds
    by_content: Floats  # (U, P) of one without
    visitors: Rows  # (T,) whose list it is
    arrives_at: Counts  # (P,) list from which on a product is there
    draws: Floats  # (T, K)

    @property
    def good(self) -> Mask:
        """(P,) new products that are worth finding."""
        rates, new = self.chance.mean(axis=0), self.arrives_at > 0
        return new & (rates >= np.quantile(rates[new], 1 - GOOD_SHARE))


def draw_world(arrivals: int, lists: int, seed: int) -> World:
    """The new products come evenly spread at random."""
    chance = np.random.default_rng(seed)
    products = ESTABLISHED + arrivals
    tastes = chance.standard_normal((TASTES, WIDTH))

    def around(count: int, near: float, own: float) -> NDArray[np.float64]:
        return near * tastes[chance.integers(TASTES, size=count)] + own * chance.standard_normal((count, WIDTH))

    def match(users: NDArray[np.float64], items: NDArray[np.float64], blur: float) -> NDArray[np.float64]:
        seen = items + blur * items.std() * chance.standard_normal(items.shape)
        matched = (users + min(blur, 0.35) * users.std() * chance.standard_normal(users.shape)) @ seen.T
        return np.asarray(matched / matched.std())

    users, items = around(USERS, 0.8, 0.6), around(products, 0.7, 0.7)
    quality = 0.8 * chance.standard_normal(products)
    true = match(users, items, 0.0) + quality - 4.2
    by_clicks = 0.9 * (match(users, items, 0.35) + quality) - 4.2
    by_content = 0.6 * match(users, items, 1.2) - 4.2
    activity = chance.gamma(1.0, size=USERS)
    arrives_at = np.zeros(products, np.int64)
    arrives_at[ESTABLISHED:] = np.sort(chance.integers(1, int(ARRIVE_UNTIL * lists), size=arrivals))
    return World(
        (1.5 / (1.0 + np.exp(-true))).astype(np.float32),
        by_clicks.astype(np.float32),
        by_content.astype(np.float32),
        chance.choice(USERS, lists, p=activity / activity.sum()).astype(np.int32),
        arrives_at,
        chance.random((lists, LENGTH), np.float32),
    )


# --- policies --------------------------------------------------------------------------------------------------------


class Uniform(Exploration):
    """A random new product for whoever comes, until it has its N impressions."""

    def __init__(self, rule: Rule, *, seed: int) -> None:
        super().__init__(rule, seed=seed)
        self._chance = np.random.default_rng(seed)
        self._had: dict[tuple[int, int], int] = {}

    def choose(
        self, user: int, rows: Rows, affinity: Floats, unwanted: Rows, listable: Mask, clicks: Counts, length: int
    ) -> tuple[Rows, Rows]:
        slots = self._slots(length)
        fits = listable[rows] & np.isfinite(affinity) & (self._products["impressions"][rows] < self.rule.impressions)
        fits &= ~np.isin(rows, unwanted) & (clicks[rows] < self.rule.clicks)
        places = [p for p in np.flatnonzero(fits) if self._had.get((user, int(rows[p])), 0) < self.rule.per_user]
        chosen = rows[self._pick(places, affinity)[:slots]]
        for row in chosen.tolist():
            self._had[user, row] = self._had.get((user, row), 0) + 1
        return positions(self._random, self.rule.top, length, len(chosen)), chosen

    def _pick(self, places: list[int], affinity: Floats) -> NDArray[np.int64]:  # noqa: ARG002
        return self._chance.permutation(np.array(places, np.int64))


class Nearest(Uniform):
    """The new product with the most affinity for whoever comes, until it has its N impressions."""

    def _pick(self, places: list[int], affinity: Floats) -> NDArray[np.int64]:
        return np.array(sorted(places, key=lambda place: -float(affinity[place])), np.int64)


class Thompson(Exploration):
    """A draw from the posterior where the upper confidence bound was."""

    def __init__(self, rule: Rule, *, seed: int) -> None:
        super().__init__(rule._replace(optimism=3.0), seed=seed)  # who might draw above 1 is a candidate
        self._chance = np.random.default_rng(seed)

    def _index(self, rows: Rows, clicks: Counts) -> Floats:
        gained, expected = self.evidence(rows, clicks)
        return (self._chance.gamma(1.0 + gained) / (1.0 + expected)).astype(np.float32)


POLICIES = {
    "no exploration": lambda seed: Exploration(Rule(share=0.0), seed=seed),
    "uniform share": lambda seed: Uniform(Rule(), seed=seed),
    "nearest new product to each user": lambda seed: Nearest(Rule(), seed=seed),
    "thresholds + Thompson sampling": lambda seed: Thompson(Rule(), seed=seed),
    "thresholds + upper confidence bound": lambda seed: Exploration(Rule(), seed=seed),
}
UNIFORM, THOMPSON, CHOSEN = list(POLICIES)[1], list(POLICIES)[3], list(POLICIES)[4]


# --- play ------------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What a policy came to in one world."""

    spent: float  # positions on explored products
    per_100: float  # clicks that 100 of those found
    found: float  # % of the good new products that had FOUND_CLICKS by the end
    found_after: float  # lists from arrival until then, median; the end of the run where it was not found
    supplied: float  # % of the new products that stood in N lists, explored or not
    clicks_per_list: float  # at all positions


@compiled
def _scores(
    by_clicks: Floats, by_content: Floats, clicks: Counts, had: Mask, arrives_at: Counts, now: int, out: Floats
) -> None:
    for row in range(len(out)):
        weight = clicks[row] / (clicks[row] + EVIDENCE)
        out[row] = weight * by_clicks[row] + (1.0 - weight) * by_content[row]
        if had[row] or arrives_at[row] > now:
            out[row] = -np.inf


def play(world: World, policy: Exploration) -> Outcome:
    """Every list of the world, one after the other."""
    lists, products = len(world.visitors), len(world.arrives_at)
    examined = (1.0 / np.log2(np.arange(LENGTH) + 2)).astype(np.float32)
    clicks = np.zeros(products, np.int64)
    clicks[:ESTABLISHED] = ESTABLISHED_CLICKS
    had = np.zeros((USERS, products), np.bool_)
    impressions, births = np.zeros(products, np.int64), np.zeros(products, np.int64)
    found_at = np.full(products, lists)
    spent = gained = total = 0
    scores, nothing = np.empty((1, products), np.float32), np.full((1, 1), ABSENT, np.int32)
    for now, user in enumerate(world.visitors.tolist()):
        listable = world.arrives_at <= now
        _scores(world.by_clicks[user], world.by_content[user], clicks, had[user], world.arrives_at, now, scores[0])
        listed = best(scores, listable, nothing, LENGTH)[0][0]
        rows = policy.new_rows(listable, clicks, births)
        affinity = scores[0, rows] - scores[0, listed[-1]]
        places, explored = policy.choose(user, rows, affinity, listed, listable, clicks, LENGTH)
        if len(explored):
            listed = np.insert(listed, places - np.arange(len(places)), explored)[:LENGTH]
        policy.count(listed, clicks)
        clicked = listed[world.draws[now] < examined * world.chance[user, listed]]
        clicks[clicked] += 1
        had[user, clicked] = True
        impressions[listed] += 1
        found_at[clicked[clicks[clicked] == FOUND_CLICKS]] = now
        spent, gained, total = (
            spent + len(explored),
            gained + len(np.intersect1d(clicked, explored)),
            total + len(clicked),
        )
    new = world.arrives_at > 0
    return Outcome(
        spent,
        100.0 * gained / max(1, spent),
        100.0 * float((found_at < lists)[world.good].mean()),
        float(np.median((found_at - world.arrives_at)[world.good])),
        100.0 * float((impressions >= policy.rule.impressions)[new].mean()),
        total / lists,
    )


# --- report ----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.exploration", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="sizes that say nothing")
    worlds, lists = (2, 2_000) if parser.parse_args().quick else (6, 24_000)
    libraries = ", ".join(f"{package} {version(package)}" for package in ("numba", "numpy"))
    command = " ".join(["python -m tests.bench.exploration", *sys.argv[1:]])
    print(f"`{command}`; {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}\n")
    for market, needed in MARKETS.items():
        arrivals = round(needed * lists * Rule().share * LENGTH / Rule().impressions)
        print(f"{market} ({arrivals} arrive in {lists:,} lists of {LENGTH}; {worlds} worlds, mean ± standard error)\n")
        with Progress(market) as tell:
            outcomes = _play_all(arrivals, lists, worlds, tell)
        print(table(COLUMNS, [(name, *_cells(of)) for name, of in outcomes.items()]) + "\n")
        print(_compared(outcomes) + "\n", flush=True)


COLUMNS = (
    "policy",
    "positions spent",
    "clicks found per 100 of them",
    "good new products found, %",
    "lists until then, median",
    "new products that stood in N lists, %",
    "clicks a list, all positions",
)


def _play_all(arrivals: int, lists: int, worlds: int, tell: Progress) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {name: [] for name in POLICIES}
    for seed in range(worlds):
        world = draw_world(arrivals, lists, seed)
        for name, policy in POLICIES.items():
            tell(f"{name}, world {seed + 1} of {worlds}")
            outcomes[name].append(play(world, policy(seed)))
    return outcomes


def _cells(outcomes: Sequence[Outcome]) -> list[str]:
    cells = [_mean([getattr(outcome, field) for outcome in outcomes]) for field in Outcome._fields]
    return cells if outcomes[0].spent else ["0", "-", *cells[2:]]


def _mean(values: Sequence[float]) -> str:
    error = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return f"{shown(float(np.mean(values)))} ± {error:.2g}"


def _compared(outcomes: dict[str, list[Outcome]]) -> str:
    """The same worlds side by side: the standard error is that of the difference."""
    chosen = outcomes[CHOSEN]
    parts = [
        f"{_mean([a.per_100 - b.per_100 for a, b in zip(chosen, outcomes[other], strict=True)])} more than {other}"
        for other in (UNIFORM, THOMPSON)
    ]
    ratio = np.mean([o.per_100 for o in chosen]) / np.mean([o.per_100 for o in outcomes[UNIFORM]])
    lists = _mean([a.clicks_per_list - b.clicks_per_list for a, b in zip(chosen, outcomes[UNIFORM], strict=True)])
    return (
        f"In the same worlds, {CHOSEN}: clicks per 100 positions {', '.join(parts)}; {ratio:.1f} times as many as the "
        f"{UNIFORM}; clicks a list {lists} more than the {UNIFORM}."
    )


if __name__ == "__main__":
    main()
