"""--search: what a task learns with is chosen on products held out from those that are taught."""

from collections.abc import Callable
from typing import Any, TypeVar

import typer

from encoders.training.loop import CannotTrain
from streams.evaluation.encoder_figures import Rows, Split, split
from streams.training.search import CannotSearch, Range, Space, Values, forget, search, told_of
from streams.training.session import Session

Rule = TypeVar("Rule", bound=Any)

ALIGN: Space = {
    "learning_rate": Range(3e-4, 1e-2, (1e-3, 2e-3, 4e-3), log=True),
    "dropout": Range(0.2, 0.7, (0.3, 0.5, 0.6)),
    "weight_decay": Range(1e-3, 1.0, (1e-2, 1e-1), log=True),
    "temperature": Range(0.02, 0.2, (0.03, 0.05, 0.1), log=True),
}
LANGUAGE: Space = {
    "learning_rate": Range(3e-6, 1e-4, (1e-5, 2e-5, 5e-5), log=True),
    "epochs": Range(1, 4, (1, 2, 3)),
}
FUSE: Space = {
    "learning_rate": Range(1e-4, 1e-2, (5e-4, 1e-3, 3e-3), log=True),
    "pull": Range(1e-4, 1.0, (1e-3, 1e-2, 1e-1), log=True),
    "temperature": Range(0.02, 0.3, (0.05, 0.1, 0.2), log=True),
}


def searched(
    session: Session,
    rule: Rule,
    space: Space,
    parts: Split,
    quality: Callable[[Rule, Split], float],
    *,
    measure: str,
    data: str,
) -> Rule:
    """The rule with the values of the best trial; the rule itself where no search is asked for.

    parts    of these the taught alone are used: a fifth of them judges, the others teach
    quality  of what is taught on the taught of a split, as its held out judge it
    data     checksum of what is learned from
    """
    options = session.options
    if options.search is None:
        return rule
    if session.processes.world > 1:
        raise CannotSearch("a search runs in one process: search first, then train in several with what it found")
    assert options.folder is not None
    if options.is_fresh:
        forget(options.folder)
    inner = inner_split(parts.taught, options.seed)
    bar = session.bars.add_task("searching", total=options.trials)

    def worth(values: Values) -> float:
        try:
            return quality(rule._replace(**values), inner)
        except CannotTrain:  # diverged
            return float("nan")

    trials = search(
        options.search,
        options.trials,
        space,
        worth,
        options.folder,
        made_for={"rule": rule._asdict(), "data": data, "seed": options.seed},
        seed=options.seed,
        told=lambda done, best: session.bars.update(bar, completed=done, description=f"searching, best {best:.3f}"),
    )
    typer.echo(told_of(trials, measure))
    best = trials[0].values
    said = ", ".join(f"{name} {value:.4g}" for name, value in best.items())
    typer.echo(f"best of {len(trials)}: {said}; teaching with it")
    chosen: Rule = rule._replace(**best)
    return chosen


def inner_split(taught: Rows, seed: int) -> Split:
    """A fifth of these rows judges, the others teach."""
    inner = split(len(taught), seed)
    return Split(taught[inner.taught], taught[inner.held_out])
