"""Experiments: their files, who gets what, and the lists that are made."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from shelves import factors, offer, vectors, weights

from store.history import History
from store.records import Click
from streams.events import BadEvent
from streams.experiment_ranking import ExperimentRanker, Listed
from streams.experiment_report import document_of
from streams.experiments import DRAWN, Experiment, PublishedExperiment, RunningExperiment, VariedSettings
from streams.list_ids import Origin, new_list_id, origin_of, tag_of
from streams.published_document import KEY, document_record
from streams.ranking import EVERYTHING, lists_ranker
from streams.settings import Settings
from streams.shelf import Shelf
from streams.yaml_documents import BadDocument, load_document, parse_document

GUIDE = Path(__file__).parent.parent / "docs" / "guides" / "experiments.md"
PLAIN, DIVERSE = {"name": "plain"}, {"name": "diverse", "settings": {"diversity": 1.0}}
USERS = [f"user-{number}" for number in range(60)]


def running(
    *variants: dict[str, Any], mode: str = "split", traffic: float = 1.0, name: str = "try"
) -> RunningExperiment:
    """As the topic tells it."""
    experiment = Experiment.model_validate(
        {"name": name, "mode": mode, "traffic": traffic, "variants": list(variants) or [PLAIN, DIVERSE]}
    )
    told = RunningExperiment()
    record = document_record("experiments", PublishedExperiment(experiment=experiment, started_at=0.0))
    told.put(record.key or b"", record.value, ())
    return told


# --- the file ----------------------------------------------------------------------------------------------------


def test_the_guide_s_examples_are_experiments(tmp_path: Path) -> None:
    found = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    read = []
    for text in found:
        (tmp_path / "experiment.yaml").write_text(text)
        read.append(load_document(tmp_path / "experiment.yaml", Experiment))
    split, drawn = read
    assert (split.name, split.mode, split.traffic) == ("fewer-alike", "split", 0.5)
    assert split.variants[1].settings.of_settings() == {"diversity": 0.3, "explore_share": 0.1}
    assert drawn.mode == "interleave"
    assert f"-{tag_of(split.name)}-v1" in GUIDE.read_text()


def faults_of(text: str) -> list[str]:
    with pytest.raises(BadDocument) as told:
        parse_document(text, Experiment, "x.yaml")
    return str(told.value).splitlines()


def test_every_fault_of_a_file_is_told_with_its_line() -> None:
    text = """\
name: Try It
traffic: 1.5
variants:
  - name: one
    settings:
      diversty: 0.3
      duplicates: many
  - name: two
    weight: 0
"""
    faults = faults_of(text)
    assert [fault.partition(": ")[0] for fault in faults] == [
        "x.yaml:1",
        "x.yaml:2",
        "x.yaml:6",
        "x.yaml:7",
        "x.yaml:9",
    ]
    assert "diversty: Extra inputs are not permitted" in faults[2]


@pytest.mark.parametrize(
    ("variants", "fault"),
    [
        (["one", "one"], "x.yaml:3: variants: two have the name one"),
        (["one", "two", "three"], "x.yaml:3: variants: lists are interleaved from two, and here are 3"),
        (
            ["one", "two, weight: 2.0"],
            "x.yaml:3: variants: interleaved lists hold as much of both: leave the weights out",
        ),
        (["one"], "x.yaml:3: variants: List should have at least 2 items"),
    ],
)
def test_variants_that_cannot_be_compared_are_refused(variants: list[str], fault: str) -> None:
    listed = "".join(f"  - {{name: {one}}}\n" for one in variants)
    assert faults_of(f"name: x\nmode: interleave\nvariants:\n{listed}")[0].startswith(fault)


def test_what_a_variant_may_set_has_the_bounds_of_the_shop_s_setting() -> None:
    varied, shop = (model.model_json_schema()["properties"] for model in (VariedSettings, Settings))
    for name in varied.keys() - {"second_stage"}:
        bounds = {key: value for key, value in shop[name].items() if key not in ("title", "default", "description")}
        assert varied[name]["anyOf"][0] == bounds, name


# --- who gets what -----------------------------------------------------------------------------------------------


def test_what_the_topic_told_last_runs_and_a_null_ends_it() -> None:
    told = running(traffic=0.5)
    trial = told.trial
    assert trial is not None
    assert trial.arm_of("ann") == running(traffic=0.5).trial.arm_of("ann")  # type: ignore[union-attr]
    arms = {trial.arm_of(user) for user in USERS}
    assert arms == {None, 0, 1}
    with pytest.raises(BadEvent, match="variants"):
        told.put(KEY, b'{"experiment": {"name": "x", "variants": []}, "started_at": 1.0}', ())
    assert told.trial is trial, "what cannot be read changes nothing"
    told.put(KEY, None, ())
    assert told.trial is None


def test_a_user_keeps_her_variant_when_more_take_part() -> None:
    few, many = running(traffic=0.3).trial, running(traffic=0.9).trial
    assert few is not None
    assert many is not None
    taking_part = [user for user in USERS if few.arm_of(user) is not None]
    assert taking_part
    assert all(few.arm_of(user) == many.arm_of(user) for user in taking_part)


def test_an_event_is_owed_to_a_list_of_this_experiment_that_the_user_s_variant_made() -> None:
    """The known list: positions 0 and 2 are the second team's."""
    split, drawn = running().trial, running(mode="interleave").trial
    assert split is not None
    assert drawn is not None
    tag = tag_of("try")
    made, both = new_list_id(Origin(tag, 1)), new_list_id(Origin(tag, None, (1, 0, 1)))
    assert split.attribute(1, made, None) == (None,)
    assert [drawn.attribute(DRAWN, both, position) for position in (0, 1, 2, 3, None)] == [
        *((1,), (0,), (1,)),
        *((None,), (None,)),
    ]
    for arm, foreign in (
        *((0, made), (1, both), (1, None), (1, "home-page"), (1, new_list_id())),
        *((1, new_list_id(Origin(tag_of("other"), 1))), (1, new_list_id(Origin(tag, 7)))),
    ):
        assert split.attribute(arm, foreign, 0) is None
    assert drawn.attribute(DRAWN, made, 0) is None
    assert split.mark_of(new_list_id(Origin(tag, 7))) is None
    assert (split.mark_of(made), drawn.mark_of(both)) == (
        {"name": "try", "variant": "diverse"},
        {"name": "try", "variant": None},
    )


def test_the_same_experiment_is_kept_as_the_same_text() -> None:
    one = Experiment.model_validate({"name": "x", "variants": [PLAIN, {"name": "b", "weight": 2.0}]})
    same = Experiment.model_validate({"mode": "split", "variants": [PLAIN, {"weight": 2.0, "name": "b"}], "name": "x"})
    assert document_of(one) == document_of(same)
    assert Experiment.model_validate_json(document_of(one)) == one


# --- lists -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    """Thirty products along one direction, by twos alike: a diverse list skips every other one."""
    shelf = Shelf()
    for number in range(30):
        key, angle = b"p%02d" % number, number // 2
        shelf.put_offer(key, offer(title=key.decode(), created_at=1.0), ())
        shelf.put_vectors(key, vectors([1.0, float(angle), float(angle % 3)]), ())
        shelf.put_factors(key, factors([1.0, 0.0], [1.0 - number / 100, 0.0], clicks=1_000_000), ())
    shelf.put_weights(b"next-click", weights(2), ())
    return shelf


SETTINGS = Settings(list_length=10, explore_share=0.0)
HISTORY = History.of((Click("p29", "view_item", 100.0),))


def ranked(shelf: Shelf, settings: Settings, **more: Any) -> list[str]:
    return [item["product_id"] for item in lists_ranker(shelf, settings, **more).rank([HISTORY])[0].items]


def ids(made: Listed) -> list[str]:
    return [item["product_id"] for item in made.items]


def made_for(ranker: ExperimentRanker, users: Sequence[str]) -> dict[str, Listed]:
    return dict(zip(users, ranker.rank([HISTORY] * len(users), user_ids=users), strict=True))


def test_who_takes_part_gets_her_variant_s_list_and_everybody_else_the_shop_s(shelf: Shelf) -> None:
    told = running(traffic=0.6)
    plain, diverse = ranked(shelf, SETTINGS), ranked(shelf, SETTINGS.model_copy(update={"diversity": 1.0}))
    assert plain != diverse
    made = made_for(ranker := ExperimentRanker(shelf, SETTINGS, told), USERS)
    trial = told.trial
    assert trial is not None
    for user, one in made.items():
        arm = trial.arm_of(user)
        assert ids(one) == (diverse if arm == 1 else plain)
        assert one.experiment == (None if arm is None else {"name": "try", "variant": ("plain", "diverse")[arm]})
        assert origin_of(one.list_id) == (None if arm is None else Origin(tag_of("try"), arm))
        with shelf.lock:
            [asked] = ranker.rank_narrowed([HISTORY], EVERYTHING, user_ids=[user], at=100.0, length=10)
        assert (ids(asked), asked.experiment) == (ids(one), one.experiment), "the api makes the same list"
    with shelf.lock:
        [visitor] = ranker.rank_narrowed([HISTORY], EVERYTHING, user_ids=[None], at=100.0, length=10)
    assert (ids(visitor), visitor.experiment, origin_of(visitor.list_id)) == (plain, None, None)
    told.put(KEY, None, ())
    assert {tuple(ids(one)) for one in made_for(ranker, USERS).values()} == {tuple(plain)}, "it has ended"


def test_a_drawn_list_holds_both_variants_best_and_its_id_tells_whose_each_is(shelf: Shelf) -> None:
    plain, diverse = ranked(shelf, SETTINGS), ranked(shelf, SETTINGS.model_copy(update={"diversity": 1.0}))
    made = made_for(ExperimentRanker(shelf, SETTINGS, running(mode="interleave")), USERS)
    beginners = set()
    for one in made.values():
        origin = origin_of(one.list_id)
        assert origin is not None
        assert [item["rank"] for item in one.items] == list(range(1, 11))
        assert len(set(ids(one))) == 10
        assert sum(origin.teams) == 5
        for team, ranking in enumerate((plain, diverse)):
            own = [ranking.index(id_) for id_, whose in zip(ids(one), origin.teams, strict=True) if whose == team]
            assert own == sorted(own)
        assert one.experiment == {"name": "try", "variant": None}
        beginners.add(origin.teams[0])
    assert beginners == {0, 1}, "a coin says who begins"


def test_a_drawn_list_obeys_the_rules_as_either_variant_does(shelf: Shelf) -> None:
    rules = b'{"rules": {"r": {"action": "pin", "products": ["p20", "p21"], "position": 4}, '
    rules += b'"few": {"action": "cap", "most": 2, "products": ["p00", "p02", "p04", "p06", "p20"]}}}'
    shelf.rules.published.put(KEY, rules, ())
    try:
        made = made_for(ExperimentRanker(shelf, SETTINGS, running(mode="interleave")), USERS)
    finally:
        shelf.rules.published.put(KEY, None, ())
    teams = set()
    for one in made.values():
        origin = origin_of(one.list_id)
        assert origin is not None
        assert ids(one)[3:5] == ["p20", "p21"]
        assert len(ids(one)) == len(set(ids(one))) == len(origin.teams) == 10
        assert len({"p00", "p02", "p04", "p06", "p20"} & set(ids(one))) <= 2
        teams.add(origin.teams[3:5])
    assert len(teams) == 4, "clicks on what is pinned tell of neither: a coin says whose it is"


def test_a_variant_without_the_second_stage_has_the_order_before_anything_was_learned(shelf: Shelf) -> None:
    """The learned order is turned about: its linear part weighs the readable score by -1."""
    before = ranked(shelf, SETTINGS)
    stage = shelf.stage
    learned = stage.reranker._replace(linear=-stage.reranker.linear)
    told = running(PLAIN, {"name": "first-stage", "settings": {"second_stage": False}})
    try:
        stage.show(stage.knowledge(shelf.clicks), {}, learned)
        made = made_for(ExperimentRanker(shelf, SETTINGS, told), USERS)
        after = ranked(shelf, SETTINGS)
    finally:
        stage.show(stage.knowledge(shelf.clicks), {}, stage.reranker._replace(linear=-learned.linear))
    assert after != before
    for user, one in made.items():
        assert told.trial is not None
        assert ids(one) == (before if told.trial.arm_of(user) == 1 else after)


def test_new_products_have_one_budget_in_a_split_and_a_variant_with_another_rule_its_own(shelf: Shelf) -> None:
    settings = Settings(list_length=10, explore_share=0.5)
    told = running(PLAIN, DIVERSE, {"name": "bold", "settings": {"explore_share": 0.9}})
    ranker = ExperimentRanker(shelf, settings, told, explores=True)
    made_for(ranker, USERS)
    usual, plain, diverse, bold = (one._exploration for one in ranker._rankers())
    assert usual is plain is diverse
    assert bold is not usual
    assert bold is not None
    assert bold.rule.share == 0.9
    drawn = ExperimentRanker(shelf, settings, running(mode="interleave"), explores=True)
    made_for(drawn, USERS)
    assert len({id(one._exploration) for one in drawn._rankers()}) == 3
    assert all(one._exploration is None for one in ExperimentRanker(shelf, settings, told)._rankers())


def shelf_with_twins() -> Shelf:
    shelf = Shelf()
    for number, product_id in enumerate((b"a", b"twin of a", b"b", b"c")):
        shelf.put_offer(product_id, offer(title="A blue enamel tea pot" if number < 2 else f"Thing {number}"), ())
        shelf.put_vectors(product_id, vectors([1.0, float(number)], picture=b""), ())
        shelf.put_factors(product_id, factors([1.0, 0.0], [1.0 - number / 10, 0.0], clicks=1_000_000), ())
    shelf.put_weights(b"next-click", weights(2), ())
    return shelf


def test_duplicates_stand_in_a_drawn_list_once() -> None:
    """Both variants keep one of each kind; with the same photo and title, one's best is the other's duplicate."""
    shelf = shelf_with_twins()
    assert len(shelf.duplicates.others(shelf.rows["a"])) == 1
    kept = {"name": "kept", "settings": {"duplicates": "keep"}}
    for variants, most in (([PLAIN, {"name": "same"}], 1), ([PLAIN, kept], 2)):
        ranker = ExperimentRanker(shelf, Settings(list_length=4), running(*variants, mode="interleave"))
        for one in ranker.rank([History.of(())] * 9, user_ids=USERS[:9]):
            assert sum(id_ in ("a", "twin of a") for id_ in ids(one)) == most
            assert len(one.items) == 2 + most


def test_what_is_pinned_in_one_of_two_lists_alone_is_drawn_once_and_in_its_place() -> None:
    """The other variant keeps it from her, because she bought its duplicate; there the list is shorter than the pin."""
    shelf = shelf_with_twins()
    shelf.rules.published.put(KEY, b'{"rules": {"r": {"action": "pin", "products": ["a"], "position": 3}}}', ())
    kept = {"name": "kept", "settings": {"duplicates": "keep"}}
    ranker = ExperimentRanker(shelf, Settings(list_length=4), running(kept, PLAIN, mode="interleave"))
    bought = History.of([Click("twin of a", "purchase", time.time())])
    teams = set()
    for one in ranker.rank([bought] * 20, user_ids=USERS[:20]):
        assert sorted(ids(one)) == ["a", "b", "c"]
        assert ids(one)[2] == "a"
        origin = origin_of(one.list_id)
        assert origin is not None
        teams.add(origin.teams[2])
    assert teams == {0, 1}


def test_the_record_of_the_topic_is_read_as_it_was_published() -> None:
    told = running()
    assert told.current.experiment is not None
    record = document_record("experiments", told.current)
    assert orjson.loads(record.value or b"")["experiment"]["variants"][1] == DIVERSE
