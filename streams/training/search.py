"""Searches what a task learns with, by Optuna, on products held out from those that are taught.

A trial is in the run's folder once it is done, so a killed search goes on.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from streams.evaluation.report import table
from streams.training.checkpoints import REMEDY

Method = Literal["grid", "random", "tpe"]
Values = dict[str, float]
NAME = "trials.log"
MADE_FOR = "made for"


class CannotSearch(ValueError):
    """The search cannot be made, or not be gone on with; str() says what to do."""


class Range(NamedTuple):
    """Bounds of one value, and three of them for a grid. Whole numbers where they are ints; with log, by factors."""

    low: float
    high: float
    grid: tuple[float, ...]
    log: bool = False


Space = Mapping[str, Range]


class Found(NamedTuple):
    """A trial that is done."""

    values: Values
    quality: float


def search(
    method: Method,
    trials: int,
    space: Space,
    quality: Callable[[Values], float],
    folder: Path,
    *,
    made_for: Mapping[str, Any],
    seed: int = 0,
    told: Callable[[int, float], None] = lambda *_: None,
) -> list[Found]:
    """The trials, the best first; at most as many as the grid has, where it is one.

    quality   of a model taught with these values: the higher the better; nan counts as the worst
    made_for  what a quality depends on besides, as JSON
    told      after each trial: how many are done, and the best quality

    Raises CannotSearch.
    """
    try:
        import optuna
    except ImportError as error:
        raise CannotSearch("--search needs Optuna: pip install '.[evaluate]' in Freshet's folder") from error
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "grid": lambda: optuna.samplers.GridSampler({name: list(each.grid) for name, each in space.items()}, seed),
        "random": lambda: optuna.samplers.RandomSampler(seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
    }
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / NAME)))
    study = optuna.create_study(
        storage=storage, sampler=samplers[method](), study_name="search", direction="maximize", load_if_exists=True
    )
    wanted = {**made_for, "method": method, "space": {name: list(each) for name, each in space.items()}}
    kept = study.user_attrs.get(MADE_FOR)
    if kept is None:
        study.set_user_attr(MADE_FOR, wanted)
    elif other := [name for name in wanted if _plain(kept.get(name)) != _plain(wanted[name])]:
        raise CannotSearch(f"{folder / NAME} is of a search with other {' and '.join(other)}: {REMEDY}")

    def one(trial: optuna.Trial) -> float:
        values = {name: _suggested(trial, name, each) for name, each in space.items()}
        found = quality(values)
        return found if found == found else float("-inf")

    def done() -> list[Found]:
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        found = [Found(trial.params, trial.value) for trial in finished if trial.value is not None]
        return sorted(found, key=lambda trial: -trial.quality)

    def tell(*_: object) -> None:
        told(len(done()), done()[0].quality)

    left = trials - len(done())
    if method == "grid":
        left = min(left, _size(space) - len(done()))
    if left > 0:
        study.optimize(one, n_trials=left, callbacks=[tell])
    return done()


def forget(folder: Path) -> None:
    """No trial is in the folder."""
    (folder / NAME).unlink(missing_ok=True)


def told_of(trials: list[Found], measure: str, most: int = 20) -> str:
    """The best of them as a Markdown table."""
    names = list(trials[0].values)
    rows = [[f"{trial.quality:.4f}", *(f"{trial.values[name]:.4g}" for name in names)] for trial in trials[:most]]
    return table((measure, *names), rows)


def _suggested(trial: Any, name: str, bounds: Range) -> float:
    whole = isinstance(bounds.low, int) and isinstance(bounds.high, int)
    suggest = trial.suggest_int if whole else trial.suggest_float
    found: float = suggest(name, bounds.low, bounds.high, log=bounds.log)
    return found


def _size(space: Space) -> int:
    size = 1
    for each in space.values():
        size *= len(each.grid)
    return size


def _plain(value: Any) -> Any:
    import orjson

    return orjson.loads(orjson.dumps(value))
