"""What `freshet tune` may change: every setting that shapes what is learned, with its bounds, in one place.

The bounds are wide around the defaults. Left out: ring_examples, which is memory rather than quality.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.next_click_step import Rule
from encoders.next_click_training import DEFAULT_RULE
from streams.evaluation.live import DEFAULTS, FreshetModel
from streams.evaluation.stream import CODES, Stream, StreamFacts

Values = Mapping[str, float]
"""Settings by name; those that are left out are as in the code."""

FACTORS = 64  # as the learner makes its model
WEIGHT = "event_weights."  # before the event
WEIGHED = ("add_to_cart", "purchase")  # against the others, which keep the weight of the settings


class BadSpace(ValueError):
    """Settings or values that cannot be searched; str() names them and what may be taken."""


@dataclass(frozen=True)
class Setting:
    """One setting; numbers are whole if its default is an int. With log, a factor counts the same wherever it is."""

    name: str
    default: float
    low: float
    high: float
    log: bool = False

    def read(self, text: str) -> float:
        """The value written as text. Raises BadSpace."""
        try:
            value = type(self.default)(text)
        except ValueError:
            whole = "whole " if isinstance(self.default, int) else ""
            raise BadSpace(f"{self.name}={text}: write {whole}numbers, like {self.default}") from None
        if not self.low <= value <= self.high:
            raise BadSpace(f"{self.name}={text}: take {self.low:g} to {self.high:g}")
        return value


def _of_rule(name: str, low: float, high: float, *, log: bool = False) -> Setting:
    return Setting(name, getattr(DEFAULT_RULE, name), low, high, log)


def _of_event(event: str) -> Setting:
    return Setting(WEIGHT + event, float(DEFAULTS["event_weights"].get(event, 1.0)), 0.25, 10.0, log=True)


SPACE = {
    setting.name: setting
    for setting in (
        _of_rule("learning_rate", 0.005, 0.2, log=True),
        _of_rule("shared_rate", 0.0002, 0.02, log=True),
        _of_rule("bias_rate", 0.005, 0.5, log=True),
        _of_rule("pull", 0.0002, 0.05, log=True),
        _of_rule("dropout", 0.0, 0.8),
        _of_rule("adagrad_start", 0.01, 1.0, log=True),
        _of_rule("negatives", 20, 300, log=True),
        _of_rule("recent_clicks", 1_000, 100_000, log=True),
        _of_rule("recent_scale", 100.0, 50_000.0, log=True),
        _of_rule("positions", 1, 20),
        _of_rule("memory_length", 10, 50),  # no history is longer: encoders.ranking_features.HISTORY
        _of_rule("memory_decay", 0.5, 0.99),
        Setting("factors", FACTORS, 16, 128, log=True),
        Setting("replays", int(DEFAULTS["learn_replays"]), 0, 16),
        *map(_of_event, WEIGHED),
    )
}
SMALL_GRID: dict[str, tuple[float, ...]] = {"learning_rate": (0.04, 0.08, 0.16), "dropout": (0.3, 0.5, 0.7)}


def defaults_of(names: Iterable[str]) -> dict[str, float]:
    """The values of these settings in the code."""
    return {name: SPACE[name].default for name in names}


def tunable(streams: Sequence[Stream]) -> list[str]:
    """The names of what can be told apart on these clicks: an event weighs more or less only beside other events."""
    there = [frozenset(np.unique(stream.codes).tolist()) for stream in streams]
    mixed: frozenset[int] = frozenset().union(*(codes for codes in there if len(codes) > 1))
    idle = {WEIGHT + event for event in WEIGHED if CODES[event] not in mixed}
    return [name for name in SPACE if name not in idle]


def chosen(names: Sequence[str], streams: Sequence[Stream]) -> list[str]:
    """These settings in the order of SPACE, or all that are tunable where none is named. Raises BadSpace."""
    possible = tunable(streams)
    if unknown := [name for name in names if name not in possible]:
        raise BadSpace(f"{', '.join(unknown)} cannot be tuned on these clicks: take {', '.join(possible)}")
    return [name for name in possible if name in names or not names]


def read_grid(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The values of each setting from texts like learning_rate=.02,.04, or paths of files of such lines.

    Without a text it is SMALL_GRID. Raises BadSpace; OSError where a file cannot be opened.
    """
    grid: dict[str, tuple[float, ...]] = {}
    for line in itertools.chain.from_iterable(map(_lines, texts)):
        name, _, values = (part.strip() for part in line.partition("="))
        if name not in SPACE:
            raise BadSpace(f"{name!r} is no setting: take {', '.join(SPACE)}")
        if name in grid:
            raise BadSpace(f"{name}: write its values once, like {name}={SPACE[name].low:g},{SPACE[name].high:g}")
        grid[name] = tuple(dict.fromkeys(SPACE[name].read(value.strip()) for value in values.split(",")))
    return grid or SMALL_GRID


def combinations(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Every combination of the values, but for the defaults."""
    found = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [values for values in found if values != defaults_of(grid)]


def model_of(values: Values, facts: StreamFacts, seed: int) -> FreshetModel:
    """The model under evaluation with these settings."""
    full: dict[str, Any] = defaults_of(SPACE) | dict(values)
    return FreshetModel(
        facts,
        seed=seed,
        replays=full["replays"],
        factors=full["factors"],
        rule=DEFAULT_RULE._replace(**{name: value for name, value in full.items() if name in Rule._fields}),
        event_weights=DEFAULTS["event_weights"] | {event: full[WEIGHT + event] for event in WEIGHED},
    )


def _lines(text: str) -> Iterator[str]:
    """The text itself, or the lines of the file that it names, without those that are empty or begin with #."""
    if "=" in text:
        yield text
    else:
        lines = map(str.strip, Path(text).read_text().splitlines())
        yield from (line for line in lines if line and not line.startswith("#"))
