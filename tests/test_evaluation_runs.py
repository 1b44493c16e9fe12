"""Whole runs: killed and gone on, and in processes of their own."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_models import (
    Click,
    Counting,
    Interrupted,
    Numbered,
    NumberedRule,
    Seeded,
    evaluated,
    stream_of,
)

from encoders.recommender import Request
from streams.evaluation.checkpoint import Unusable, identify, read_checkpoint, write_checkpoint
from streams.evaluation.jobs import Failed, Job, Outcome, run_job, run_jobs
from streams.evaluation.models import MODELS, REFITS, UnknownModel, make, wanted
from streams.evaluation.prequential import Standing
from streams.evaluation.schedules import Plan
from streams.evaluation.stream import Stream, StreamFacts


def shop_stream(clicks: int = 200) -> Stream:
    """Clicks of 12 users on 30 products, some much more popular than others."""
    chance = np.random.default_rng(5)
    made: list[Click] = []
    for n in range(clicks):
        user, product = int(chance.integers(0, 12)), int(30 * chance.random() ** 2)
        made.append((f"u{user}", f"p{product}", str(chance.choice(["view_item", "purchase"])), float(n)))
    return stream_of(made)


def job(model: str) -> Job:
    return Job(model, wanted(f"evaluation_models.{model}"), Plan(judged_list="both"))


def same(one: Outcome, other: Outcome) -> None:
    """All but times and memory is equal, to the last bit."""
    for name in ("ranks", "shelf_ranks", "published_ranks"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.coverage, one.popularity) == (other.coverage, other.popularity)


# --- killed, and gone on -----------------------------------------------------------------------------------------


def test_a_killed_run_that_goes_on_equals_one_that_was_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, breaking = shop_stream(), job("Breaking")
    whole = run_job(breaking, stream)
    notes: list[str] = []
    told = tmp_path / "breaks-at"
    monkeypatch.setenv("BREAKING", str(told))
    for breaks_at in (60, 140):
        told.write_text(str(breaks_at))
        with pytest.raises(Interrupted, match=f"broken at click {breaks_at}"):
            run_job(breaking, stream, checkpoints=tmp_path, checkpoint_every_s=0.0, noted=notes.append)
    told.unlink()
    gone_on = run_job(breaking, stream, checkpoints=tmp_path, checkpoint_every_s=0.0, noted=notes.append)
    same(whole, gone_on)
    assert (~np.isnan(whole.ranks)).sum() > 50
    path = tmp_path / "Breaking.checkpoint"
    assert notes == [f"Breaking: goes on after {clicks} clicks, from {path}" for clicks in (60, 140)]
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_that_had_ended_tells_the_same_again_without_the_model(tmp_path: Path) -> None:
    stream = shop_stream()
    first = run_job(job("Counting"), stream, checkpoints=tmp_path)
    positions: list[int] = []
    again = run_job(job("Counting"), stream, checkpoints=tmp_path, told=positions.append)
    same(first, again)
    assert positions == [len(stream)]
    assert again.update_us == first.update_us


def test_a_checkpoint_of_other_arguments_clicks_or_code_is_not_gone_on_from(tmp_path: Path) -> None:
    stream, plan, path = shop_stream(), Plan(), tmp_path / "deep" / "x.checkpoint"
    identity = identify(stream, plan, "model", None)
    assert identity == identify(shop_stream(), replace(plan, seen_events=("purchase",)), "model", None)
    standing = evaluated(Counting(), stream, plan)
    assert read_checkpoint(path, identity) is None
    write_checkpoint(path, identity, standing)
    found = read_checkpoint(path, identity)
    assert found is not None
    np.testing.assert_array_equal(found.ranks, standing.ranks)
    (tmp_path / "changed.py").write_text("changed = True")
    others = {
        "arguments": [
            identify(stream, plan, "other", None),
            *(identify(stream, replace(plan, **{name: value}), "model", None) for name, value in OTHER_PLANS.items()),
        ],
        "clicks": [identify(shop_stream(201), plan, "model", None)],
        "code": [identify(stream, plan, "model", tmp_path / "changed.py")],
    }
    for what, identities in others.items():
        for other in identities:
            with pytest.raises(Unusable, match=f"x.checkpoint was made with other {what}: starting again"):
                read_checkpoint(path, other)


OTHER_PLANS: dict[str, Any] = {
    "protocol": "split",
    "warm_up": 0.3,
    "delay_s": 1.0,
    "delay_history": True,
    "judged_list": "both",
    "repeats": True,
    "seen_events": (),
    "every": 2,
    "seed": 1,
}


def test_a_broken_checkpoint_is_told_and_started_again(tmp_path: Path) -> None:
    stream, notes = shop_stream(), list[str]()
    whole = run_job(job("Counting"), stream, checkpoints=tmp_path)
    path = tmp_path / "Counting.checkpoint"
    for broken in (path.read_bytes()[:-1], b"", b"[]\nx", b"\xff"):
        path.write_bytes(broken)
        same(whole, run_job(job("Counting"), stream, checkpoints=tmp_path, noted=notes.append))
    assert notes == [f"Counting: {path} is not a whole checkpoint: starting again"] * 4


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, path = shop_stream(), tmp_path / "x.checkpoint"
    identity = identify(stream, Plan(), "model", None)
    write_checkpoint(path, identity, Standing.start(Counting(), stream))

    def full(_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_checkpoint(path, identity, evaluated(Counting(), stream, Plan()))
    found = read_checkpoint(path, identity)
    assert found is not None
    assert found.position == 0


# --- models ------------------------------------------------------------------------------------------------------


def test_a_model_is_named_with_how_often_it_is_judged() -> None:
    assert wanted("popularity") == ("popularity", MODELS["popularity"].factory, 1, REFITS, ())
    assert wanted("popularity:every=5:refits=7")[2:] == (5, 7, ())
    assert wanted("als").refits == MODELS["als"].refits
    assert wanted("my.own.Model", every=3) == ("my.own.Model", "my.own.Model", 3, REFITS, ())
    with pytest.raises(
        UnknownModel, match=r"there is no model 'popularty': take one of freshet, popularity, .*two-towers, or mod"
    ):
        wanted("popularty")
    for wrong in ("popularity:every=0", "popularity:every=x"):
        with pytest.raises(ValueError, match=f"'{wrong}': every is a whole number from 1, as in popularity:every=5"):
            wanted(wrong)
    with pytest.raises(ValueError, match="'popularity:often': options are numbers, as in every=5, and often= is none"):
        wanted("popularity:often")


def test_a_model_takes_numbers_of_its_own() -> None:
    facts = StreamFacts(["A"], {}, None, 500)
    slow = wanted("popularity:every=5:half_life_clicks=1e4")
    assert (slow.name, slow.every) == ("popularity:half_life_clicks=10000", 5)
    assert make(slow, facts, 0).name == "popularity-10000"
    model = make(wanted("evaluation_models.Numbered:whole=3:weights.purchase=2:rule.pull=.5"), facts, 0)
    assert isinstance(model, Numbered)
    assert (model.whole, model.weights, model.rule) == (3, {"view_item": 1.0, "purchase": 2.0}, NumberedRule(0.5, 4))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("half=2", "no number half: its options are every, refits, whole, weights.PART, rule.PART"),
        ("name=2", "no number name: "),
        ("rule.push=2", "no number rule.push: "),
        ("whole.part=2", "no number whole.part: "),
        ("whole=1.5", "whole=1.5: write whole numbers, like 1"),
        ("rule.steps=inf", "rule.steps=inf: write whole numbers, like 4"),
    ],
)
def test_a_number_that_a_model_does_not_take_is_refused(options: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"'evaluation_models.Numbered:{options}': {told}"):
        wanted(f"evaluation_models.Numbered:{options}")


def test_a_factory_is_given_what_it_takes() -> None:
    facts = StreamFacts(["A"], {}, None, 500)
    assert isinstance(make(wanted("evaluation_models.Counting"), facts, 7), Counting)
    one, other = (make(wanted("evaluation_models.Seeded"), facts, seed) for seed in (7, 8))
    assert isinstance(one, Seeded)
    assert isinstance(other, Seeded)
    assert one.chance.random() == np.random.default_rng(7).random() != other.chance.random()
    for nowhere in ("evaluation_models.None_", "no_module.X"):
        with pytest.raises(UnknownModel, match=f"there is no model at {nowhere}: "):
            make(wanted(nowhere), facts, 0)


def test_freshet_refuses_numbers_that_its_settings_refuse() -> None:
    facts = StreamFacts(["A"], {}, None, 500)
    with pytest.raises(ValueError, match="no event purchse: they are view_item"):
        make(wanted("freshet:event_weights.purchse=4"), facts, 0)
    for wrong in ("event_weights.purchase=0", "diversity=7"):
        with pytest.raises(ValueError, match="validation error"):
            make(wanted(f"freshet:{wrong}"), facts, 0)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_table_keeps_the_contract(name: str) -> None:
    """It is made, scores before and after it has learned, and goes on from a pickle as if nothing had been."""
    stream = shop_stream()
    model = make(wanted(name), stream.facts, seed=0)
    assert model.name.startswith(name)
    whole = evaluated(model, stream, Plan(warm_up=0.0))
    assert not np.isnan(whole.ranks[whole.ranks > 0]).any()
    assert (whole.ranks > 0).any()
    copy = pickle.loads(pickle.dumps(model))
    request = Request(0, np.array([1, 0], np.int32), np.array([5, 9], np.float32), 1e6, np.array([2], np.int32))
    scores = [np.zeros(int(stream.known[-1]), np.float32) for _ in range(2)]
    for each, out in zip((model, copy), scores, strict=True):
        each.learn(request, 3, 0)
        each.score(request, out)
    np.testing.assert_array_equal(*scores)


# --- processes ---------------------------------------------------------------------------------------------------


def test_jobs_in_processes_of_their_own_come_to_what_they_would_here() -> None:
    stream = shop_stream()
    positions: dict[int, int] = {}
    results = run_jobs([job("Counting"), job("Constant")], stream, at_once=2, told=positions.__setitem__)
    assert positions == {0: len(stream), 1: len(stream)}
    for result, name in zip(results, ("Counting", "Constant"), strict=True):
        assert isinstance(result, Outcome)
        same(result, run_job(job(name), stream))
        assert result.peak_mib > result.growth_mib >= 0
        assert result.model_mib > 0
        assert result.update_us is not None
        assert result.update_us > 0


def test_a_job_that_fails_leaves_the_others_alone(capfd: pytest.CaptureFixture[str]) -> None:
    results = run_jobs([job("Forgetful"), job("Dying"), job("Nowhere"), job("Counting")], shop_stream(), at_once=2)
    broken, dead, nowhere, well = results
    assert isinstance(broken, Failed)
    assert broken.reason.startswith("ScoresBroken: forgetful gave no number as the score of row")
    assert isinstance(dead, Failed)
    assert dead.reason == "its process ended with 9 (-9: it was killed; is there enough memory?)"
    assert isinstance(nowhere, Failed)
    assert nowhere.reason.startswith("UnknownModel: there is no model at evaluation_models.Nowhere: ")
    assert isinstance(well, Outcome)
    assert "Traceback" in capfd.readouterr().err  # of what broke, for whoever wrote the model
