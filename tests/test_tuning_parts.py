"""What `freshet tune` is made of: the space of settings, one run, the workers, the study."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_models import Click, Forgetful, stream_of
from hypothesis import given
from hypothesis import strategies as st

from encoders.next_click_training import DEFAULT_RULE
from streams.evaluation import tuning_runs
from streams.evaluation.live import FreshetModel
from streams.evaluation.moments import Moments
from streams.evaluation.schedules import Plan
from streams.evaluation.tuning_runs import Broke, Result, Run, RunFailed, Workers, first_clicks, perform
from streams.evaluation.tuning_space import SPACE, BadSpace, chosen, combinations, defaults_of, model_of, read_grid
from streams.evaluation.tuning_study import StudyUnusable, Trial, open_study

PLAN = Plan(seen_events=("purchase",))
TWELVE: list[Click] = [
    (user, product, "view_item", float(at))
    for at, (user, product) in enumerate(zip("ababcacbdabc", "ABCABDCBADCA", strict=True))
]

# --- the space ---------------------------------------------------------------------------------------------------


def test_the_defaults_lie_within_the_bounds_and_make_the_model_of_the_code() -> None:
    assert len(SPACE) == 16
    for setting in SPACE.values():
        assert setting.low <= setting.default <= setting.high, setting
        assert setting.low > 0 or not setting.log, setting
    stream = stream_of(TWELVE)
    made, plain = model_of(defaults_of(SPACE), stream.facts, 3), FreshetModel(stream.facts, seed=3)
    assert made._learning.model.rule == DEFAULT_RULE
    moments = Moments(stream, ())
    for model in (made, plain):
        model.grow(4)
        for click in range(len(stream)):
            model.learn(moments.at(click, float(click)), int(stream.rows[click]), int(stream.codes[click]))
    expected = plain._learning.model.state()
    for name, array in made._learning.model.state().items():
        assert np.array_equal(array, expected[name]), name


@pytest.mark.parametrize("name", list(SPACE))
def test_every_setting_reaches_the_model(name: str) -> None:
    stream = stream_of([(*click[:2], ("add_to_cart", "purchase")[at % 2], click[3]) for at, click in enumerate(TWELVE)])
    parts = []
    for value in (SPACE[name].default, SPACE[name].low):
        model = model_of({name: value}, stream.facts, 0)
        shape = model._learning.model.vectors(np.zeros(0, np.int32))[0].shape
        parts.append((model._learning.model.rule, shape, model._replays, model._learning._event_weights))
    assert parts[0] != parts[1]


def test_a_grid_has_every_combination_but_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "grid").write_text("# twice as many\n\n negatives = 50, 100\ndropout=0\n")
    grid = read_grid(["learning_rate=.02,.04,.02", str(tmp_path / "grid")])
    assert grid == {"learning_rate": (0.02, 0.04), "negatives": (50, 100), "dropout": (0.0,)}
    assert [type(values[0]) for values in grid.values()] == [float, int, float]
    assert combinations(grid) == [
        {"learning_rate": rate, "negatives": negatives, "dropout": 0.0}
        for rate in (0.02, 0.04)
        for negatives in (50, 100)
    ]
    assert combinations({"replays": (4, 8)}) == [{"replays": 4}]  # 8 is the default
    assert len(combinations(read_grid([]))) == 8


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["speed=1"], "'speed' is no setting: take learning_rate, "),
        (["dropout=.3", "dropout=.4"], "dropout: write its values once"),
        (["dropout=much"], "dropout=much: write numbers, like 0.5"),
        (["replays=1.5"], "replays=1.5: write whole numbers, like 8"),
        (["dropout=.9"], "dropout=.9: take 0 to 0.8"),
        (["dropout=nan"], "dropout=nan: take 0 to 0.8"),
    ],
)
def test_a_grid_that_cannot_be_searched_is_told(texts: list[str], told: str) -> None:
    with pytest.raises(BadSpace, match=re.escape(told)):
        read_grid(texts)


def test_the_weight_of_an_event_is_tuned_only_beside_other_events() -> None:
    bought = stream_of([("a", "A", "purchase", 1.0), ("a", "B", "purchase", 2.0)])
    mixed = stream_of([("a", "A", "purchase", 1.0), ("a", "B", "view_item", 2.0)])
    assert len(chosen([], [bought])) == len(SPACE) - 2
    assert chosen([], [bought, mixed])[-1] == "event_weights.purchase"
    assert chosen(["dropout", "learning_rate"], [bought]) == ["learning_rate", "dropout"]
    with pytest.raises(BadSpace, match=r"event_weights.purchase cannot be tuned on these clicks: take learning_rate, "):
        chosen(["event_weights.purchase"], [bought])


# --- one run -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 12))
def test_the_first_clicks_are_those_of_a_stream_that_ended_there(clicks: int) -> None:
    stream = stream_of(TWELVE)
    stream = replace(stream, facts=stream.facts._replace(fused=np.eye(4, dtype=np.float32)))
    part, expected = first_clicks(stream, clicks), stream_of(TWELVE[:clicks])
    for name in ("users", "rows", "codes", "times", "known"):
        assert np.array_equal(getattr(part, name), getattr(expected, name)), name
    assert part.facts.product_ids == expected.facts.product_ids
    assert part.facts.events_total == clicks
    assert part.facts.fused is not None
    assert np.array_equal(part.facts.fused, np.eye(4, dtype=np.float32)[: part.known[-1]])


def test_a_run_judges_what_comes_after_its_warm_up_only() -> None:
    run = Run(0, 0, {}, 12, 7, "hr_at_10", PLAN)
    result = perform(run, stream_of(TWELVE))
    assert isinstance(result, Result)
    # From the eighth on: b B, d A, a D, b C, c A, of which b B and a D are repeats
    assert np.flatnonzero(~np.isnan(result.ranks)).tolist() == [8, 10, 11]
    assert result.figures["events"] == 3
    assert result.figures["hr_at_10"] == 1.0  # there are four products


def test_settings_with_which_a_model_gives_no_number_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_runs, "model_of", lambda *_: Forgetful())
    result = perform(Run(3, 0, {}, 12, 2, "hr_at_10", PLAN), stream_of(TWELVE))
    assert isinstance(result, Broke)
    assert result.reason.startswith("forgetful gave no number as the score of row")


def heard(workers: Workers, run: Run) -> Any:
    """What came of one run."""
    workers.start(run)
    while not (finished := workers.wait(lambda *_: None)):
        pass
    return finished


def test_a_worker_that_fails_ends_the_search() -> None:
    run = Run(3, 0, {"factors": -1}, 12, 2, "hr_at_10", PLAN)
    told = "trial 3: ValueError: negative dimensions are not allowed"
    with Workers([stream_of(TWELVE)], 1) as workers, pytest.raises(RunFailed, match=told):
        heard(workers, run)


def test_a_worker_that_is_killed_ends_the_search() -> None:
    run = Run(3, 0, {}, 12, 2, "hr_at_10", PLAN)
    told = r"trial 3: its process ended with -9 \(-9: it was killed; is there enough memory\?\)"
    with Workers([stream_of(TWELVE)], 1) as workers:
        (process,) = workers._processes.values()
        process.kill()
        process.join()
        with pytest.raises(RunFailed, match=told):
            heard(workers, run)


# --- the study ---------------------------------------------------------------------------------------------------


def test_a_study_keeps_what_was_measured(tmp_path: Path) -> None:
    ranks = np.array([np.nan, 1.0, 2.5, 10.5, 4_000.0, np.inf], np.float32)
    figures = {"hr_at_10": 0.25, "hr_at_10_stderr": None, "events": 4}
    trials = [
        Trial(4, {"dropout": 0.25, "replays": 3}, 1.5, (Result(figures, ranks), Result(figures, ranks[:3]))),
        Trial(2, {"dropout": 0.5, "replays": 8}, 0.0, (), "it diverged"),
    ]
    with open_study(tmp_path / "study.db", {"seed": 1}) as study:
        for trial in trials:
            study.add(trial)
    with open_study(tmp_path / "study.db", {"seed": 1}) as study:
        diverged, whole = study.trials()
    assert (diverged.number, diverged.values, diverged.relative) == (2, {"dropout": 0.5, "replays": 8}, 0.0)
    assert (diverged.results, diverged.broke) == ((), "it diverged")
    assert (whole.number, whole.values, whole.relative, whole.broke) == (4, trials[0].values, 1.5, None)
    assert [result.figures for result in whole.results] == [figures, figures]
    assert np.array_equal(whole.results[0].ranks, [np.nan, 1.0, 2.5, 10.5, 11.0, 11.0], equal_nan=True)


def test_what_is_no_study_is_told(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database, but long enough to be looked at as one\n" * 100)
    with (
        pytest.raises(StudyUnusable, match=r"study\.db cannot be used as a study: file is not a database"),
        open_study(tmp_path / "study.db", {}),
    ):
        pass
    with (
        pytest.raises(StudyUnusable, match=r"there is no folder .*/none for the study"),
        open_study(tmp_path / "none" / "study.db", {}),
    ):
        pass
