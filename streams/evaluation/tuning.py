"""The search for settings: Optuna says what to try next, workers try it, and a study keeps what came of it.

What a choice of settings is worth is the mean over the sets of the measure, each as a multiple of what the defaults
have on the same set: so a set on which everybody does well counts no more than another.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from streams.evaluation.checkpoint import identify
from streams.evaluation.schedules import Plan, warm_up_clicks
from streams.evaluation.stream import Stream
from streams.evaluation.tuning_runs import Broke, Result, Run, Workers, first_clicks
from streams.evaluation.tuning_space import SPACE, combinations, defaults_of
from streams.evaluation.tuning_study import Study, Trial, distribution, frozen

Kind = Literal["grid", "random", "tpe"]
Told = Callable[[int, int, int], None]
"""Called with the trial that was heard of, how many clicks are gone through, and how many there are to go through."""

Noted = Callable[[str], None]
"""Called with what a person should know: a search is gone on with, a trial is finished."""


class NotTunable(ValueError):
    """Nothing can be compared on these clicks; str() names the set and the remedy."""


class ClickSet(NamedTuple):
    """Clicks to tune on: the first so many of the stream. What is held out comes after them."""

    label: str
    stream: Stream
    clicks: int


@dataclass(frozen=True)
class Search:
    """What is tried and how it is measured; the same search on the same clicks tries the same.

    With several workers that is so for TPE up to the trials that happen to be finished when it is asked.
    """

    kind: Kind
    trials: int  # beside the defaults
    names: tuple[str, ...]  # of the settings
    measure: str
    plan: Plan
    grid: Mapping[str, Sequence[float]]  # of a grid search

    @classmethod
    def of_grid(cls, grid: Mapping[str, Sequence[float]], measure: str, plan: Plan) -> "Search":
        """Every combination."""
        return cls("grid", len(combinations(grid)), tuple(grid), measure, plan, grid)


def made_for(search: Search, sets: Sequence[ClickSet]) -> dict[str, Any]:
    """All that the figures of a trial depend on, so that only what is alike goes into one study."""
    parts = [first_clicks(each.stream, each.clicks) for each in sets]
    identities = [identify(part, search.plan, "freshet", None) for part in parts]
    plan = asdict(search.plan) | {"seen_events": sorted(search.plan.seen_events)}
    return {
        "search": search.kind,
        "settings": list(search.names),
        "grid": {name: list(values) for name, values in search.grid.items()},
        "measure": search.measure,
        "plan": {name: plan[name] for name in ("warm_up", "every", "seed", "seen_events")},
        "clicks": [identity.clicks for identity in identities],
        "code": identities[0].code,
    }


def run_search(
    search: Search,
    sets: Sequence[ClickSet],
    workers: Workers,
    study: Study,
    *,
    told: Told = lambda *_: None,
    noted: Noted = lambda _: None,
) -> list[Trial]:
    """Try what the study does not hold yet and return every trial, the best first; of equal ones the earlier.

    Raises NotTunable if the defaults hit nothing or diverge, RunFailed, and what the study's file raises.
    """
    trials = {trial.number: trial for trial in study.trials() if trial.number <= search.trials}
    if trials:
        noted(f"goes on after {len(trials):,} of {search.trials + 1:,} trials")
    asked = _Asked(search, trials.values())
    left = deque(number for number in range(search.trials + 1) if number not in trials)
    total = len(left) * sum(each.clicks for each in sets)
    running: dict[int, _Running] = {}
    waiting: deque[Run] = deque()
    gone = _Gone(total, told)

    def fill() -> None:
        """Every worker has a run, as far as there are any; what the defaults have comes before all others."""
        while workers.free:
            if not waiting and left and (0 in trials or not running):
                number = left.popleft()
                running[number] = _Running(asked.values(number), {})
                waiting.extend(_runs(number, running[number].values, search, sets))
            if not waiting:
                return
            workers.start(waiting.popleft())

    fill()
    while running:
        for run, result in workers.wait(gone.at):
            gone.at(run, run.clicks)
            running[run.trial].results[run.number] = result
            if len(running[run.trial].results) == len(sets):
                values, results = running.pop(run.trial)
                trial = _trial(run.trial, values, [results[place] for place in range(len(sets))], sets)
                if not trials:
                    _require_hits(trial, search.measure, sets)
                trial = replace(trial, relative=_worth(trial, trials.get(0, trial), search.measure))
                study.add(trial)
                asked.tell(trial)
                trials[trial.number] = trial
                noted(f"trial {trial.number} of {search.trials}: {trial.relative:.4f} of the defaults")
        fill()
    return sorted(trials.values(), key=lambda trial: (-trial.relative, trial.number))


def held_out(
    best: Trial,
    search: Search,
    sets: Sequence[ClickSet],
    clicks: int,
    workers: Workers,
    *,
    told: Told = lambda *_: None,
) -> list[tuple[Result | Broke, Result | Broke]]:
    """By set, what the defaults and the best have on so many clicks after those that were tuned on.

    Each learns the clicks before them too, as it would have in service. Raises RunFailed.
    """
    choices = {0: defaults_of(search.names), best.number: best.values}
    waiting = deque(
        Run(trial, place, values, each.clicks + clicks, each.clicks, search.measure, search.plan)
        for place, each in enumerate(sets)
        for trial, values in choices.items()
    )
    gone = _Gone(sum(run.clicks for run in waiting), told)
    found: dict[tuple[int, int], Result | Broke] = {}
    wanted = len(waiting)
    while len(found) < wanted:
        while waiting and workers.free:
            workers.start(waiting.popleft())
        for run, result in workers.wait(gone.at):
            gone.at(run, run.clicks)
            found[run.number, run.trial] = result
    return [(found[place, 0], found[place, best.number]) for place in range(len(sets))]


# --- one trial ---------------------------------------------------------------------------------------------------


class _Running(NamedTuple):
    values: dict[str, float]
    results: dict[int, Result | Broke]  # by set


class _Gone:
    """How many clicks all runs together have gone through."""

    def __init__(self, total: int, told: Told) -> None:
        self._total = total
        self._told = told
        self._at: dict[tuple[int, int], int] = {}

    def at(self, run: Run, position: int) -> None:
        self._at[run.trial, run.number] = position
        self._told(run.trial, sum(self._at.values()), self._total)


class _Asked:
    """What is tried next. Optuna keeps what runs here, in memory, and the sampler's seed follows from the number.

    So a search that went on is asked for the same as one that was never stopped.
    """

    def __init__(self, search: Search, trials: Iterable[Trial]) -> None:
        self._search = search
        self._study = optuna.create_study(direction="maximize")
        self._distributions = {name: distribution(SPACE[name]) for name in search.names}
        self._grid = combinations(search.grid) if search.kind == "grid" else []
        self._running: dict[int, optuna.Trial] = {}
        for trial in sorted(trials, key=lambda trial: trial.number):
            self._study.add_trial(frozen(trial))

    def values(self, number: int) -> dict[str, float]:
        """The settings of the trial of this number: 0 is the defaults."""
        if number == 0:
            self._study.enqueue_trial(defaults_of(self._search.names))
        elif self._grid:
            self._study.enqueue_trial(self._grid[number - 1])
        else:
            self._study.sampler = self._sampler(number)
        self._running[number] = self._study.ask(self._distributions)
        return self._running[number].params

    def tell(self, trial: Trial) -> None:
        self._study.tell(self._running.pop(trial.number), trial.relative)

    def _sampler(self, number: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._search.plan.seed % 2**32, number]).generate_state(1)[0])
        return RandomSampler(seed=seed) if self._search.kind == "random" else TPESampler(seed=seed)


def _runs(number: int, values: Mapping[str, float], search: Search, sets: Sequence[ClickSet]) -> list[Run]:
    return [
        Run(
            number,
            place,
            values,
            each.clicks,
            warm_up_clicks(each.clicks, search.plan),
            search.measure,
            search.plan,
        )
        for place, each in enumerate(sets)
    ]


def _trial(number: int, values: dict[str, float], results: Sequence[Result | Broke], sets: Sequence[ClickSet]) -> Trial:
    """The trial, not yet compared with the defaults."""
    labels = [each.label for each in sets]
    broken = [f"{label}: {each.reason}" for label, each in zip(labels, results, strict=True) if isinstance(each, Broke)]
    whole = () if broken else tuple(result for result in results if isinstance(result, Result))
    return Trial(number, values, 0.0, whole, "; ".join(broken) or None)


def _require_hits(defaults: Trial, measure: str, sets: Sequence[ClickSet]) -> None:
    """The defaults can be compared with."""
    if defaults.broke:
        raise NotTunable(f"the defaults diverge, so there is nothing to compare with: {defaults.broke}")
    for each, result in zip(sets, defaults.results, strict=True):
        if not result.figures[measure]:
            raise NotTunable(
                f"{each.label}: with the defaults {measure} is nothing on {each.clicks:,} clicks, so there is nothing "
                "to compare with: take more clicks"
            )


def _worth(trial: Trial, defaults: Trial, measure: str) -> float:
    """The mean over the sets of the measure as a multiple of the defaults'; 0 if the model diverged."""
    ratios = [
        (result.figures[measure] or 0.0) / (default.figures[measure] or np.nan)
        for result, default in zip(trial.results, defaults.results, strict=not trial.broke)
    ]
    return float(np.mean(ratios)) if ratios else 0.0
