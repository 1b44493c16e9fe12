"""Who knows what when: a spy keeps what it is asked and taught, and a plain reference says what it should have been."""

import numpy as np
import pytest
from evaluation_models import Click, Counting, Spy, evaluated, stream_of
from hypothesis import given
from hypothesis import strategies as st

from store.history import EVENTS
from streams.evaluation.moments import Moments
from streams.evaluation.prequential import Evaluation, Standing
from streams.evaluation.schedules import Plan, judged
from streams.evaluation.stream import Stream

clicks_in_order = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("ABCDE"), st.sampled_from(EVENTS), st.sampled_from([0, 0, 1, 5])),
    min_size=1,
    max_size=40,
).map(lambda steps: [(u, p, e, float(sum(step[3] for step in steps[: n + 1]))) for n, (u, p, e, _) in enumerate(steps)])


def spied(stream: Stream, plan: Plan) -> tuple[Spy, list[int]]:
    """The spy after the stream, and the judged clicks."""
    spy, evaluation = Spy(), Evaluation(stream, plan)
    evaluation.run(Standing.start(spy, stream))
    return spy, np.flatnonzero(evaluation.judged.mask).tolist()


def history_of(stream: Stream, user: int, clicks: int) -> list[int]:
    """Rows that the user clicked among the first so many clicks of the stream, newest first."""
    return [int(stream.rows[n]) for n in range(clicks) if stream.users[n] == user][::-1][:200]


def had_by(stream: Stream, user: int, clicks: int, seen: tuple[str, ...] = ("purchase",)) -> set[int]:
    codes = {EVENTS.index(event) for event in seen}
    return {int(stream.rows[n]) for n in range(clicks) if stream.users[n] == user and stream.codes[n] in codes}


# --- test, then learn --------------------------------------------------------------------------------------------


def test_each_click_is_predicted_and_then_learned() -> None:
    stream = stream_of(
        [
            ("u", "A", "purchase", 0),
            ("v", "B", "view_item", 1),
            ("u", "B", "add_to_cart", 31),
            ("v", "A", "purchase", 40),
        ]
    )
    spy, places = spied(stream, Plan(warm_up=0.0))
    assert places == [2, 3]  # nobody could know A and B before their first click
    request, learned, known = spy.asked[0]
    assert (learned, known) == (2, 2)
    assert (request.user, request.at) == (0, 31.0)
    assert request.history.tolist() == [0]
    assert request.codes.tolist() == [3]
    assert request.ages_s.tolist() == [31.0]
    assert request.excluded.tolist() == [0]
    assert [(row, code) for _, row, code in spy.taught] == [(0, 3), (1, 0), (1, 2), (0, 3)]


@given(clicks_in_order, st.booleans())
def test_no_model_sees_a_click_before_it_has_predicted_it(clicks: list[Click], repeats: bool) -> None:
    stream = stream_of(clicks)
    spy, places = spied(stream, Plan(warm_up=0.0, repeats=repeats))
    assert len(places) == len(spy.asked)
    for click, (request, learned, known) in zip(places, spy.asked, strict=True):
        user = int(stream.users[click])
        assert learned == click
        assert known == len({int(row) for row in stream.rows[:click]})
        assert request.user == user
        assert request.history.tolist() == history_of(stream, user, click)
        assert set(request.excluded.tolist()) == had_by(stream, user, click)
        assert len(request.excluded) == len(had_by(stream, user, click))
        assert request.at == stream.times[click]
        assert (request.ages_s >= 0).all()
        assert stream.rows[click] not in request.excluded
    assert [(row, code) for _, row, code in spy.taught] == list(
        zip(stream.rows.tolist(), stream.codes.tolist(), strict=True)
    )
    for click, (request, _, _) in enumerate(spy.taught):
        assert request.history.tolist() == history_of(stream, int(stream.users[click]), click)


@given(clicks_in_order, st.booleans(), st.integers(1, 3))
def test_what_is_judged_is_what_somebody_could_predict(clicks: list[Click], repeats: bool, every: int) -> None:
    stream = stream_of(clicks)
    plan = Plan(warm_up=0.25, repeats=repeats, every=every)
    left = judged(stream, Moments(stream, plan.seen_events), plan)
    possible, first_clicks, again = [], 0, 0
    for click in range(int(len(stream) * 0.25), len(stream)):
        user, row = int(stream.users[click]), int(stream.rows[click])
        before = had_by(stream, user, click) if repeats else set(history_of(stream, user, click))
        if row not in stream.rows[:click]:
            first_clicks += 1
        elif row in before:
            again += 1
        else:
            possible.append(click)
    assert np.flatnonzero(left.mask).tolist() == possible[::every]
    assert (left.first_clicks, left.repeats) == (first_clicks, again)
    assert left.passed_over == len(possible) - len(possible[::every])


def test_from_view_to_purchase_only_the_first_click_counts_but_all_are_learned() -> None:
    chain = [("u", "A", event, float(n)) for n, event in enumerate(("view_item", "add_to_cart", "purchase"), 1)]
    stream = stream_of([("v", "A", "view_item", 0.0), *chain])
    spy, places = spied(stream, Plan(warm_up=0.0))
    assert places == [1]
    assert len(spy.taught) == 4
    assert spied(stream, Plan(warm_up=0.0, repeats=True))[1] == [1, 2, 3]


def test_what_is_bought_again_is_not_judged_as_long_as_it_is_not_listed_again() -> None:
    stream = stream_of([("u", "A", "purchase", 0.0), ("u", "A", "purchase", 1.0)])
    assert spied(stream, Plan(warm_up=0.0, repeats=True))[1] == []
    assert spied(stream, Plan(warm_up=0.0, repeats=True, seen_events=()))[1] == [1]


def test_a_catalogue_makes_products_known_from_the_beginning() -> None:
    stream = stream_of([("u", "B", "view_item", 0.0), ("u", "X", "view_item", 1.0)], catalog=["A", "B"])
    assert stream.facts.product_ids == ["A", "B", "X"]
    spy, places = spied(stream, Plan(warm_up=0.0))
    assert places == [0]  # X is in no catalogue
    assert spy.asked[0][2] == 2


def test_a_history_ends_after_two_hundred_clicks() -> None:
    stream = stream_of([("u", f"p{n}", "view_item", float(n)) for n in range(230)] + [("v", "p0", "view_item", 300.0)])
    request = Moments(stream, ()).at(229, 229.0)
    assert request.history.tolist() == list(range(228, 28, -1))
    assert len(request.codes) == len(request.ages_s) == 200
    assert request.ages_s[[0, -1]].tolist() == [1.0, 200.0]


def test_arrays_of_a_request_belong_to_the_model() -> None:
    stream = stream_of([("u", "A", "purchase", 0.0), ("u", "B", "view_item", 1.0)])
    moments = Moments(stream, ("purchase",))
    request = moments.at(1, 1.0)
    for array in (request.history, request.excluded, request.ages_s, request.codes):
        array[:] = 9
    assert moments.at(1, 1.0).history.tolist() == [0]
    assert moments.at(1, 1.0).excluded.tolist() == [0]


# --- the list on the topic ---------------------------------------------------------------------------------------


@given(clicks_in_order)
def test_the_published_list_is_made_right_after_the_click_before(clicks: list[Click]) -> None:
    stream = stream_of(clicks)
    spy, places = spied(stream, Plan(warm_up=0.0, judged_list="published"))
    made_after = []
    for click in places:
        before = [n for n in range(click) if stream.users[n] == stream.users[click]]
        made_after += before[-1:]
    assert len(made_after) == len(spy.asked)
    for click, (request, learned, known) in zip(sorted(made_after), spy.asked, strict=True):
        user = int(stream.users[click])
        assert learned == click + 1
        assert known == len({int(row) for row in stream.rows[: click + 1]})
        assert request.at == stream.times[click]
        assert request.history.tolist() == history_of(stream, user, click + 1)
        assert request.ages_s[0] == 0.0
        assert set(request.excluded.tolist()) == had_by(stream, user, click + 1)


def test_beyond_its_twenty_items_the_published_list_misses() -> None:
    products = [f"p{n}" for n in range(30)]
    clicks = [("u", "p29", "view_item", 0.0), ("u", "p19", "view_item", 1.0), ("u", "p20", "view_item", 2.0)]
    standing = evaluated(Counting(), stream_of(clicks, catalog=products), Plan(warm_up=0.0, judged_list="both"))
    # p29 has been clicked and leads each list; then come the others by row, p19 as 21st.
    np.testing.assert_array_equal(standing.published_ranks, [np.inf, np.inf, np.inf])
    nearer = [clicks[0], ("u", "p18", "view_item", 1.0)]
    standing = evaluated(Counting(), stream_of(nearer, catalog=products), Plan(warm_up=0.0, judged_list="both"))
    np.testing.assert_array_equal(standing.published_ranks, [np.inf, 20.0])


def test_a_product_that_came_after_the_published_list_is_missed() -> None:
    stream = stream_of([("u", "A", "view_item", 0.0), ("v", "B", "view_item", 1.0), ("u", "B", "view_item", 2.0)])
    standing = evaluated(Counting(), stream, Plan(warm_up=0.0, judged_list="both"))
    np.testing.assert_array_equal(standing.published_ranks, [np.nan, np.nan, np.inf])
    assert standing.ranks[2] == 1.5


# --- one cut, and delays -----------------------------------------------------------------------------------------


@given(clicks_in_order)
def test_after_the_cut_nothing_is_learned_but_histories_grow(clicks: list[Click]) -> None:
    stream = stream_of(clicks)
    cut = len(stream) // 2
    spy, places = spied(stream, Plan("split", warm_up=0.5))
    assert [row for _, row, _ in spy.taught] == stream.rows[:cut].tolist()
    assert min(places, default=cut) >= cut
    for click, (request, learned, known) in zip(places, spy.asked, strict=True):
        assert learned == cut
        assert known == len({int(row) for row in stream.rows[:click]})
        assert request.history.tolist() == history_of(stream, int(stream.users[click]), click)


@given(clicks_in_order, st.sampled_from([0.0, 1.0, 3.0, 100.0]), st.booleans())
def test_with_a_delay_just_the_clicks_that_are_old_enough_are_learned(
    clicks: list[Click], delay_s: float, delay_history: bool
) -> None:
    stream = stream_of(clicks)
    spy, places = spied(stream, Plan("delayed", 0.0, delay_s, delay_history))
    for click, (request, learned, _) in zip(places, spy.asked, strict=True):
        user, at = int(stream.users[click]), stream.times[click]
        due = sum(time + delay_s <= at for time in stream.times[:click].tolist())
        assert learned == due
        told = due if delay_history else click
        assert request.history.tolist() == history_of(stream, user, told)
        assert set(request.excluded.tolist()) == had_by(stream, user, told)
    assert [row for _, row, _ in spy.taught] == stream.rows[: len(spy.taught)].tolist()
    for click, (request, _, _) in enumerate(spy.taught):
        assert request.at == stream.times[click]
        assert request.history.tolist() == history_of(stream, int(stream.users[click]), click)


@given(clicks_in_order)
def test_no_delay_is_to_test_and_then_learn(clicks: list[Click]) -> None:
    stream = stream_of(clicks)
    at_once = evaluated(Counting(), stream, Plan(warm_up=0.0, judged_list="both"))
    delayed = evaluated(Counting(), stream, Plan("delayed", 0.0, 0.0, judged_list="both"))
    np.testing.assert_array_equal(at_once.ranks, delayed.ranks)
    np.testing.assert_array_equal(at_once.shelf_ranks, delayed.shelf_ranks)


def test_what_was_learned_late_costs_hits() -> None:
    """Everybody takes B a second after A; who learns an hour late cannot know."""
    clicks = [
        (f"u{n}", product, "view_item", 10.0 * n + place) for n in range(60) for place, product in enumerate("AB")
    ]
    stream = stream_of(clicks, catalog=[f"p{n}" for n in range(30)])
    ranks = {
        delay_s: evaluated(Counting(), stream, Plan("delayed", 0.5, delay_s)).ranks[61::2] for delay_s in (0.0, 3_600.0)
    }
    assert (ranks[0.0] == 1).all()
    assert (ranks[3_600.0] > 10).all()


@pytest.mark.parametrize("plan", [Plan(), Plan("split", 0.8), Plan("delayed", 0.2, 5.0)])
def test_one_click_is_too_few_to_judge_and_no_error(plan: Plan) -> None:
    standing = evaluated(Counting(), stream_of([("u", "A", "view_item", 0.0)]), plan)
    assert np.isnan(standing.ranks).all()
