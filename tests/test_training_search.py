"""What a task learns with is searched: by a grid, by chance or by TPE, and goes on after a kill."""

import math
import sys
from pathlib import Path

import pytest

from streams.evaluation.encoder_figures import split
from streams.training.search import CannotSearch, Method, Range, Values, forget, search, told_of
from streams.training.searching import inner_split

SPACE = {"rate": Range(0.01, 1.0, (0.01, 0.1, 1.0), log=True), "layers": Range(1, 3, (1, 2))}


def quality(values: Values) -> float:
    """Best at a rate of .1 and two layers, where it is 1."""
    return 1 - abs(math.log10(values["rate"]) + 1) - abs(values["layers"] - 2)


def test_a_grid_tries_each_combination_once(tmp_path: Path) -> None:
    trials = search("grid", 100, SPACE, quality, tmp_path, made_for={})
    tried = {(trial.values["rate"], trial.values["layers"]) for trial in trials}
    assert tried == {(rate, layers) for rate in (0.01, 0.1, 1.0) for layers in (1, 2)}
    assert len(trials) == 6
    assert trials[0].values == {"rate": 0.1, "layers": 2}
    assert trials[0].quality == 1
    assert "| 1.0000 | 0.1 | 2 |" in told_of(trials, "quality")


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_the_bounds_are_kept_and_the_best_is_first(tmp_path: Path, method: Method) -> None:
    told: list[tuple[int, float]] = []
    trials = search(
        method, 15, SPACE, quality, tmp_path, made_for={}, told=lambda done, best: told.append((done, best))
    )
    assert [trial.quality for trial in trials] == sorted((trial.quality for trial in trials), reverse=True)
    assert all(0.01 <= trial.values["rate"] <= 1 and trial.values["layers"] in (1, 2, 3) for trial in trials)
    assert [done for done, _ in told] == list(range(1, 16))
    assert told[-1][1] == trials[0].quality > 0.3


def test_a_search_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    asked: list[Values] = []

    def breaks(values: Values) -> float:
        asked.append(values)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return quality(values)

    with pytest.raises(KeyboardInterrupt):
        search("random", 6, SPACE, breaks, tmp_path, made_for={"data": "a"})
    trials = search("random", 6, SPACE, breaks, tmp_path, made_for={"data": "a"})
    assert (len(trials), len(asked)) == (6, 7)
    with pytest.raises(CannotSearch, match=r"of a search with other data: begin again with --fresh"):
        search("random", 6, SPACE, quality, tmp_path, made_for={"data": "b"})
    forget(tmp_path)
    assert len(search("random", 2, SPACE, quality, tmp_path, made_for={"data": "b"})) == 2


def test_values_that_end_in_no_number_are_the_worst(tmp_path: Path) -> None:
    trials = search("grid", 6, SPACE, lambda values: math.nan if values["rate"] == 1 else 0.5, tmp_path, made_for={})
    assert {trial.values["rate"] for trial in trials[-2:]} == {1.0}


def test_without_optuna_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(CannotSearch, match=r"pip install '\.\[evaluate\]' in Freshet's folder"):
        search("tpe", 2, SPACE, quality, tmp_path, made_for={})


def test_what_judges_a_search_is_never_what_is_held_out() -> None:
    parts = split(100, seed=1)
    inner = inner_split(parts.taught, seed=1)
    assert sorted([*inner.taught.tolist(), *inner.held_out.tolist()]) == sorted(parts.taught.tolist())
    assert len(inner.held_out) == 16
