"""What a search tells: a line of JSON for each trial, and Markdown for people."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from streams.evaluation.comparison import Difference, compare
from streams.evaluation.report import command, commit, table, where
from streams.evaluation.tuning import ClickSet, Search
from streams.evaluation.tuning_runs import MEASURES, SHELF, Broke, Figures, Result
from streams.evaluation.tuning_space import SPACE
from streams.evaluation.tuning_study import Trial

SHOWN = 10  # trials
TITLES = {"hr_at_10": "HR@10", "ndcg_at_10": "NDCG@10", SHELF + "hr_at_10": "new shelf HR@10"}
EVENTS = {name: f"{SHELF}events" if name.startswith(SHELF) else "events" for name in MEASURES}

HeldOut = Sequence[tuple[Result | Broke, Result | Broke]]
"""By set, what the defaults and the best have on clicks that took no part in the choice."""


def difference(best: Result, defaults: Result, each: ClickSet, measure: str) -> Difference | None:
    """How much more the best has than the defaults, on the same clicks; None where none was judged."""
    users = each.stream.users[: len(best.ranks)]
    return compare(best.ranks, defaults.ranks, users, measure.removeprefix(SHELF))


# --- JSON --------------------------------------------------------------------------------------------------------


def json_lines(
    trials: Sequence[Trial], search: Search, sets: Sequence[ClickSet], held_out: HeldOut
) -> Iterator[dict[str, Any]]:
    """An object for each trial, the best first; the first and that of the defaults tell of the held-out clicks too."""
    defaults = _defaults(trials)
    for trial in trials:
        place = {0: 0, trials[0].number: 1}.get(trial.number)
        pairs = zip(sets, trial.results, defaults.results, strict=not trial.broke)
        yield {
            "trial": trial.number,
            "relative": trial.relative,
            "settings": {name: SPACE[name].default for name in SPACE} | trial.values,
            "diverged": trial.broke,
            "measure": search.measure,
            "sets": [
                {
                    "set": each.label,
                    **result.figures,
                    "compared": _as_json(difference(result, default, each, search.measure)),
                }
                for each, result, default in pairs
            ],
            "held_out": [_held_out_figures(pair[place]) for pair in held_out] if place is not None else [],
            "search": search.kind,
            "seed": search.plan.seed,
            "every": search.plan.every,
            "commit": commit(),
            "command": command(),
        }


def _as_json(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else found._asdict()


def _held_out_figures(result: Result | Broke) -> dict[str, Any]:
    return {"diverged": result.reason} if isinstance(result, Broke) else dict(result.figures)


# --- Markdown ----------------------------------------------------------------------------------------------------


def markdown(trials: Sequence[Trial], search: Search, sets: Sequence[ClickSet], held_out: HeldOut) -> str:
    """The whole report; trials are in order, the best first."""
    best, defaults, title = trials[0], _defaults(trials), TITLES[search.measure]
    parts = [
        where(),
        _what(trials, search),
        f"The defaults: {_settings(search.names, defaults)}.",
        table(
            ("set", "clicks", "users", "products", "judged", *TITLES.values(), "update us"),
            [_defaults_row(*pair, search.measure) for pair in zip(sets, defaults.results, strict=True)],
        ),
        f"The best trials, and {title} on each set:",
        table(
            ("trial", "of the defaults", *(each.label for each in sets), "update us", "settings"),
            [_trial_row(trial, search, len(sets)) for trial in _shown(trials)],
        ),
    ]
    if best.number == 0:
        return "\n\n".join([*parts, "No trial does better than the defaults."])
    pairs = list(zip(sets, defaults.results, best.results, strict=True))
    parts += [
        f"Trial {best.number} against the defaults on the clicks that it was chosen on. {_verdict(pairs, search)}",
        _comparison(pairs, search),
        f"These figures overstate it: it is the best of {len(trials) - 1} on these very clicks, so some of its lead is "
        "chance, and the intervals do not allow for that. "
        + ("The next are the ones to go by." if held_out else "Give --held-out to see what is left on other clicks."),
    ]
    if held_out:
        held = [(each, default, found) for each, (default, found) in zip(sets, held_out, strict=True)]
        broken = [f"{each.label}: {r.reason}" for each, *both in held for r in both if isinstance(r, Broke)]
        whole = [
            (each, default, found)
            for each, default, found in held
            if isinstance(default, Result) and isinstance(found, Result)
        ]
        verdict = "; ".join(f"It diverged on {text}" for text in broken) or _verdict(whole, search)
        parts += [
            f"Trial {best.number} against the defaults on the clicks after those, no part of the choice. {verdict}",
            _comparison(whole, search),
        ]
    return "\n\n".join(parts)


def _what(trials: Sequence[Trial], search: Search) -> str:
    plan = search.plan
    how = {"grid": "all combinations of given values", "random": "drawn at random", "tpe": "chosen by TPE"}[search.kind]
    every = f", 1 in {plan.every}" if plan.every > 1 else ""
    return (
        f"{len(trials) - 1:,} trials, {how}, seed {plan.seed}; each click is predicted, then learned, and after the "
        f"first {plan.warm_up:.0%} those on known products, new to their user, are judged{every}. Of the defaults: the "
        f"mean over the sets of {TITLES[search.measure]}, as a multiple of what the defaults have on the same set. ± "
        "is the standard error of one figure; it allows for likeness among the clicks of a user. Update: mean time to "
        "learn one click; what else runs on the machine lengthens it."
    )


def _defaults_row(each: ClickSet, result: Result, measure: str) -> list[str]:
    users = int(each.stream.users[: each.clicks].max()) + 1
    return [
        each.label,
        *(f"{count:,}" for count in (each.clicks, users, int(each.stream.known[each.clicks]))),
        f"{result.figures[EVENTS[measure]]:,}",
        *(_figure(result.figures, name) for name in TITLES),
        _microseconds([result]),
    ]


def _trial_row(trial: Trial, search: Search, sets: int) -> list[str]:
    name = str(trial.number) if trial.number else "defaults"
    figures = [_figure(result.figures, search.measure) for result in trial.results]
    figures = figures or [""] * sets
    settings = _settings(search.names, trial) if trial.number else ""
    said = f"{settings} (diverged)" if trial.broke else settings
    return [name, f"{trial.relative:.4f}", *figures, _microseconds(trial.results), said]


def _comparison(pairs: Sequence[tuple[ClickSet, Result, Result]], search: Search) -> str:
    rows = []
    for each, default, found in pairs:
        apart = difference(found, default, each, search.measure)
        rows.append(
            [
                each.label,
                f"{found.figures[EVENTS[search.measure]]:,}",
                _figure(default.figures, search.measure),
                _figure(found.figures, search.measure),
                f"{apart.difference:+.4f} ({apart.low:+.4f} to {apart.high:+.4f})" if apart else "",
                *(
                    f"{(found.figures[name] or 0.0) - (default.figures[name] or 0.0):+.4f}"
                    for name in TITLES
                    if name != search.measure
                ),
            ]
        )
    title = TITLES[search.measure]
    others = [f"{name}, difference" for measure, name in TITLES.items() if measure != search.measure]
    return table(("set", "judged", f"{title}, defaults", title, "difference, 95 % interval", *others), rows)


def _verdict(pairs: Sequence[tuple[ClickSet, Result, Result]], search: Search) -> str:
    """One sentence: on how many sets the best beats the defaults, and on how many clearly."""
    found = [difference(best, default, each, search.measure) for each, default, best in pairs]
    ahead = sum(apart is not None and apart.difference > 0 for apart in found)
    clear = sum(apart is not None and apart.low > 0 for apart in found)
    count = f"on {ahead} of {len(found)} sets" if len(found) > 1 else ("on it" if ahead else "not on it")
    first = "It beats them on every set" if ahead == len(found) > 1 else f"It beats them {count}"
    return f"{first}, and on {clear} by more than the interval."


def _shown(trials: Sequence[Trial]) -> list[Trial]:
    """The best, and the defaults wherever they are."""
    return [trial for place, trial in enumerate(trials) if place < SHOWN or trial.number == 0]


def _defaults(trials: Iterable[Trial]) -> Trial:
    return next(trial for trial in trials if trial.number == 0)


def _settings(names: Iterable[str], trial: Trial) -> str:
    return ", ".join(
        f"{name} {value:,}" if isinstance(value := trial.values[name], int) else f"{name} {value:.3g}" for name in names
    )


def _microseconds(results: Sequence[Result]) -> str:
    """The mean over the sets."""
    found = [value for result in results if (value := result.figures["update_us"]) is not None]
    return f"{np.mean(found):,.0f}" if found else ""


def _figure(figures: Figures, measure: str) -> str:
    value, stderr = figures[measure], figures[f"{measure}_stderr"]
    return "" if value is None else f"{value:.4f}" + (f" ± {stderr:.4f}" if stderr is not None else "")
