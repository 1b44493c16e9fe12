"""The finished trials of a search in an Optuna study, in an SQLite file: what a killed search goes on from.

A trial is written as a whole once it is finished, so one that was running leaves no trace and is done again.
"""

import base64
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import DatabaseError

from encoders.next_click import Floats
from streams.evaluation.tuning_runs import Result
from streams.evaluation.tuning_space import SPACE, Setting

NAME = "freshet tune"
MADE_FOR, NUMBER, BROKE, SETS = "made for", "number", "broke", "sets"  # names of attributes
BEYOND = 11.0  # ranks that no measure tells apart are kept as this one

optuna.logging.set_verbosity(optuna.logging.WARNING)


class StudyUnusable(ValueError):
    """The file cannot be gone on from; str() says why."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What a choice of settings was worth.

    number    0 is that of the defaults
    values    of the settings that are searched, by name
    relative  mean over the sets of the measure, as a multiple of what the defaults have; 0 if the model diverged
    results   by set; none if the model diverged
    broke     why it diverged
    """

    number: int
    values: dict[str, float]
    relative: float
    results: tuple[Result, ...]
    broke: str | None = None


class Study:
    """An open study. `optuna-dashboard` shows its file too."""

    def __init__(self, study: optuna.Study) -> None:
        """The study may hold trials already."""
        self._study = study

    def trials(self) -> list[Trial]:
        """Every finished trial, by number."""
        trials = [_thawed(frozen) for frozen in self._study.get_trials(deepcopy=False)]
        return sorted(trials, key=lambda trial: trial.number)

    def add(self, trial: Trial) -> None:
        """The trial is on the disk."""
        sets = [{"figures": result.figures, "ranks": _packed(result.ranks)} for result in trial.results]
        self._study.add_trial(frozen(trial, {NUMBER: trial.number, BROKE: trial.broke, SETS: sets}))


@contextmanager
def open_study(path: Path | None, made_for: Mapping[str, Any]) -> Iterator[Study]:
    """The study in the file, which is made if there is none; without a path, one that nothing outlasts.

    made_for  what its trials depend on, as JSON

    Raises StudyUnusable if the file is something else, or its trials depend on something else.
    """
    if path is None:
        yield Study(optuna.create_study(direction="maximize"))
        return
    if not path.parent.is_dir():
        raise StudyUnusable(f"there is no folder {path.parent} for the study")
    storage = None
    try:
        storage = RDBStorage(f"sqlite:///{path}")
        study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize", load_if_exists=True)
        kept = study.user_attrs.get(MADE_FOR)
        if kept is None:
            study.set_user_attr(MADE_FOR, dict(made_for))
        elif other := [name for name in made_for if kept.get(name) != made_for[name]]:
            raise StudyUnusable(f"{path} is of a search with other {' and '.join(other)}: name a new file")
        yield Study(study)
    except DatabaseError as error:
        raise StudyUnusable(f"{path} cannot be used as a study: {error.orig}") from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def distribution(setting: Setting) -> BaseDistribution:
    """The setting's bounds as Optuna has them."""
    if isinstance(setting.default, int):
        return IntDistribution(int(setting.low), int(setting.high), log=setting.log)
    return FloatDistribution(setting.low, setting.high, log=setting.log)


def frozen(trial: Trial, attributes: Mapping[str, Any] | None = None) -> FrozenTrial:
    """The trial as Optuna has it."""
    return optuna.create_trial(
        params=trial.values,
        distributions={name: distribution(SPACE[name]) for name in trial.values},
        value=trial.relative,
        user_attrs=dict(attributes or {}),
    )


def _thawed(frozen: FrozenTrial) -> Trial:
    kept = frozen.user_attrs
    results = tuple(Result(each["figures"], _unpacked(each["ranks"])) for each in kept[SETS])
    assert frozen.value is not None
    return Trial(kept[NUMBER], frozen.params, frozen.value, results, kept[BROKE])


def _packed(ranks: Floats) -> str:
    """Halves of ranks up to 10 are exact in float16; most clicks have the same rank BEYOND."""
    return base64.b85encode(zlib.compress(np.minimum(ranks, BEYOND).astype("<f2").tobytes())).decode()


def _unpacked(text: str) -> Floats:
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), "<f2").astype(np.float32)
