"""What is reported of an experiment: from its sums, by the command, over HTTP, and from start to report on a broker."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asked_shop import TITLES, AskedShop, ReplicasAtHand
from brokers import MakeSettings, environment_of
from test_clicks import lists
from test_experiment_counts import Shop, event
from typer.testing import CliRunner

from store.experiments import ExperimentRow, ExperimentStore, UserCounts, VariantSums
from store.records import UserRow
from streams.cli import app
from streams.cli_ask import names_of
from streams.embedded_broker import EmbeddedBroker
from streams.experiment_report import made_report
from streams.experiments import RunningExperiment
from streams.list_ids import Origin, origin_of
from streams.published_document import KEY
from streams.roles import Parts
from streams.settings import Settings
from streams.topics import create_topics

TWO = '{"name": "try", "variants": [{"name": "plain"}, {"name": "new", "weight": 3.0}]}'
DRAWN = '{"mode": "interleave", "name": "try", "variants": [{"name": "plain"}, {"name": "new"}]}'
FILE = "name: try\nvariants:\n  - name: plain\n  - name: new\n    settings: {diversity: 0.5}\n"


def sums(variant: str, users: int, **more: int) -> VariantSums:
    zeros = VariantSums(variant, users, *[0] * (len(VariantSums._fields) - 2))
    return zeros._replace(**more)


def measures(variant: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["measure"]: one for one in variant["measures"]}


# --- from sums ---------------------------------------------------------------------------------------------------


def test_a_report_tells_rates_intervals_and_differences_to_the_first_variant() -> None:
    """Newcombe's example: 48 of 80 and 56 of 70. One click on each list has no spread at all."""
    one_each = {"lists": 80, "clicks": 80, "lists_2": 80, "clicks_2": 80, "lists_clicks": 80}
    counted = {"plain": sums("plain", 80, clicked=48, **one_each), "new": sums("new", 70, clicked=56, **one_each)}
    report = made_report(ExperimentRow("try", TWO.replace("3.0", "1.0"), 0.0, 60.0), counted)
    assert (report["name"], report["mode"], report["traffic"]) == ("try", "split", 1.0)
    assert (report["started_at"], report["stopped_at"]) == ("1970-01-01T00:00:00+00:00", "1970-01-01T00:01:00+00:00")
    plain, new = report["variants"]
    assert measures(plain)["clicked"]["difference"] is None
    clicked = measures(new)["clicked"]
    assert (clicked["users"], clicked["value"]) == (56, 0.8)
    assert [clicked["difference"][name] for name in ("value", "low", "high", "is_clear")] == [
        *(0.2, pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5), True)
    ]
    assert measures(new)["bought"]["difference"]["is_clear"] is False
    per_list = measures(plain)["clicks_per_list"]
    assert (per_list["value"], per_list["low"], per_list["users"]) == (1.0, 1.0, None)
    assert report["split"]["is_off"] is False
    assert report["warnings"] == ["few users so far (70): what looks like a difference may be none tomorrow"]


def test_a_split_that_is_off_is_warned_of_with_what_to_look_at() -> None:
    counted = {"plain": sums("plain", 5_000, clicked=9), "new": sums("new", 5_000, clicked=9)}
    report = made_report(ExperimentRow("try", TWO, 0.0), counted)
    assert [variant["expected_users"] for variant in report["variants"]] == [2_500.0, 7_500.0]
    assert report["split"]["is_off"] is True
    (warning,) = report["warnings"]
    assert warning.startswith("the split is off (sample ratio mismatch, p = ")
    assert "robots" in warning
    fair = {"plain": sums("plain", 2_500, clicked=9), "new": sums("new", 7_500, clicked=9)}
    assert made_report(ExperimentRow("try", TWO, 0.0), fair)["warnings"] == []


def test_a_shop_that_sends_no_list_ids_back_is_told() -> None:
    counted = {"plain": sums("plain", 1_000, bought_at_all=9), "new": sums("new", 3_000)}
    assert made_report(ExperimentRow("try", TWO, 0.0), counted)["warnings"] == [
        "no event is of a list of this experiment: does the shop send the list's own list_id with the clicks on its "
        "items?"
    ]
    nobody = made_report(ExperimentRow("try", TWO, 0.0), {})
    assert nobody["split"] == {"p": 1.0, "is_off": False}
    assert [variant["users"] for variant in nobody["variants"]] == [0, 0]


def test_of_drawn_lists_it_tells_whom_users_prefer() -> None:
    """The second variant wins 9 of 10: a sign test gives 2 * 11 / 1024."""
    counted = {"": sums("", 2_000, clicked=14, clicks=30, team_clicks=28, first_wins=1, second_wins=9, ties=4)}
    report = made_report(ExperimentRow("try", DRAWN, 0.0), counted)
    assert report["variants"] == [{"name": "plain", "users_won": 1}, {"name": "new", "users_won": 9}]
    preference = report["preference"]
    assert (preference["variant"], preference["users"], preference["value"]) == ("new", 10, 0.9)
    assert preference["p"] == pytest.approx(22 / 1024)
    assert (preference["low"], preference["high"]) == pytest.approx((0.5958, 0.9821), abs=5e-5)
    assert report["warnings"] == [
        "2 of 30 clicks told no position in their list, so that they count for neither variant"
    ]
    assert made_report(ExperimentRow("try", DRAWN, 0.0), {})["preference"]["p"] == 1.0


# --- over HTTP ---------------------------------------------------------------------------------------------------


def test_the_api_tells_what_runs_what_it_has_shown_and_what_a_user_did(tmp_path: Path) -> None:
    shop = AskedShop(tmp_path, ReplicasAtHand())

    async def ask(*paths: str) -> list[Any]:
        async with shop.client() as client:
            return [
                await (client.post(path, json={}) if path == "/v1/recommendations" else client.get(path))
                for path in paths
            ]

    try:
        (before,) = asyncio.run(ask("/v1/experiments"))
        assert before.json() == {"running": None, "experiments": []}
        ExperimentStore(shop.users.engine).start("try", TWO, 0.0)
        shop.users.write([UserRow("ann", 1, (), (), {})], counted=[UserCounts("ann", "try", "new", lists=2, clicks=1)])
        shop.fill_shelf({product_id: [1.0, 0.0] for product_id in TITLES})
        shop.experiment.put(KEY, b'{"experiment": %s, "started_at": 0.0}' % TWO.encode(), ())
        asyncio.run(shop.api.views.fill())
        every, one, unknown, user, hers = asyncio.run(
            ask(
                *("/v1/experiments", "/v1/experiments/try", "/v1/experiments/never", "/v1/users/ann"),
                "/v1/users/ann/recommendations",
            )
        )
        (visitor,) = asyncio.run(ask("/v1/recommendations"))
        trial = shop.experiment.trial
        assert trial is not None
        arm = trial.arm_of("ann")
        assert arm is not None
        assert hers.json()["experiment"] == {"name": "try", "variant": ("plain", "new")[arm]}
        assert origin_of(hers.json()["list_id"]) == Origin(trial.tag, arm)
        assert "experiment" not in visitor.json()
        assert origin_of(visitor.json()["list_id"]) is None
        assert every.json()["running"] == "try"
        assert every.json()["experiments"][0]["stopped_at"] is None
        assert [variant["users"] for variant in one.json()["variants"]] == [0, 1]
        assert unknown.status_code == 404
        assert unknown.json()["detail"] == "there is no experiment never: there are try"
        assert user.json()["experiments"][0]["clicks"] == 1
    finally:
        shop.vectors.close()


# --- from start to report ----------------------------------------------------------------------------------------

Command = Callable[..., Any]


@pytest.fixture
def settings(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> Settings:
    settings = broker_settings(tansu)
    create_topics(settings, names_of(settings))
    return settings


@pytest.fixture
def command(settings: Settings) -> Command:
    environment = environment_of(settings) | {"COLUMNS": "200"}
    return lambda *arguments: CliRunner().invoke(app, ["experiments", *map(str, arguments)], env=environment)


async def told_now(settings: Settings) -> RunningExperiment:
    """What the topic holds, as a worker reads it at its start."""
    parts = Parts(settings)
    try:
        await parts.replica.start()
    finally:
        await parts.replica.stop()
    return parts.experiment


def test_from_start_to_report_the_planted_difference_is_found(
    settings: Settings, command: Command, tmp_path: Path
) -> None:
    """Of those with lists of `new` every one clicks, and of the others every fourth."""
    file = tmp_path / "experiment.yaml"
    file.write_text(FILE)
    assert command("show").stdout.startswith("no experiment was started yet")
    assert command("report").exit_code == 1
    assert command("check", file).stdout == "try: split plain, new, of 100% of the users\n"
    assert command("start", file).stdout == "try runs\n"
    assert command("start", file).stdout == "try runs already, and was published again\n"
    told = asyncio.run(told_now(settings))
    trial = told.trial
    assert trial is not None
    shop = Shop(settings.home, told, namespace=settings.namespace)
    users = [f"user-{number}" for number in range(120)]
    made = {one.user_id: one for one in lists(shop.compute(shop.records(*((user, event(user)) for user in users))))}
    clicks, expected = [], {"plain": 0, "new": 0}
    for number, user in enumerate(users):
        told_experiment = made[user].experiment
        assert told_experiment is not None
        variant = told_experiment.variant
        assert variant == trial.experiment.variants[trial.arm_of(user) or 0].name
        if variant == "new" or number % 4 == 0:
            expected[variant or ""] += 1
            clicks.append((user, event(user, event="select_item", list_id=made[user].list_id, position=0)))
    shop.compute(shop.records(*clicks))
    report = json.loads(command("report", "--json").stdout)
    plain, new = report["variants"]
    assert plain["users"] + new["users"] == 120
    assert (plain["clicks"], new["clicks"]) == (expected["plain"], expected["new"])
    assert measures(new)["clicked"]["value"] == 1.0
    assert measures(new)["clicked"]["difference"]["is_clear"] is True
    assert measures(new)["clicked"]["difference"]["low"] > 0.5
    drawn = command("report")
    assert "few users so far" in drawn.stderr
    assert "clicked in a list" in drawn.stdout
    assert "●" in drawn.stdout
    assert command("stop").stdout.startswith("try is stopped")
    assert asyncio.run(told_now(settings)).trial is None
    assert command("stop").stdout == "no experiment runs\n"
    refused = command("start", file)
    assert (refused.exit_code, "the name try was used" in refused.stderr) == (1, True)
    assert json.loads(command("show", "--json").stdout)[0]["experiment"]["variants"][1]["name"] == "new"


def test_a_file_with_faults_starts_nothing_and_drawn_lists_have_a_report_of_their_own(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(FILE.replace("0.5", "2"))
    for verb in ("check", "start"):
        wrong = command(verb, file)
        assert wrong.exit_code == 1
        assert f"{file}:5: diversity: Input should be less than or equal to 1" in wrong.stderr
    file.write_text("mode: interleave\n" + FILE)
    assert command("start", file).exit_code == 0
    reported = command("report")
    assert "new wins 0.0% [0.0%, 100.0%] of those that are no tie, p = 1" in reported.stdout
    assert "try" in command("show").stdout
    assert "there is no experiment never: there are try" in command("report", "never").stderr
    assert "the experiment try runs" in command("remove", "try").stderr
    command("stop")
    assert command("remove", "try").stdout == "try and its counts are removed\n"
