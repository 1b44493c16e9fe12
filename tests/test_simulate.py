"""Simulated shoppers: their clicks keep the contract, and taste, drift and popularity show in them."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.parsing import parse_click
from streams.settings import Settings
from streams.simulate import Simulator, read_catalog, simulate, user_id

START = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = ("boots", "dresses", "hoodies", "lamps", "shorts", "totes", "trainers", "trousers")


def catalog() -> list[dict[str, Any]]:
    """200 products: 8 kinds of 25, brands and colours in turn."""
    return [
        {
            "op": "upsert",
            "product_id": f"p{n}",
            "title": f"Product {n}",
            "category": ["All", KINDS[n % 8]],
            "brand": f"brand {n % 3}",
            "attributes": {"colour": f"colour {n // 8 % 5}"},
            "price": {"amount": float(n), "currency": "EUR"},
        }
        for n in range(200)
    ]


def kind_of(click: dict[str, Any]) -> str:
    return KINDS[int(click["product_id"][1:]) % 8]


def test_a_shop_with_one_product_gets_clicks_on_it_and_nothing_else() -> None:
    one = {"op": "upsert", "product_id": "only", "title": "Only"}
    clicks = list(simulate([one], users=1, clicks=20, start=START))
    assert {(click["user_id"], click["product_id"]) for click in clicks} == {("simulated-user-0", "only")}
    assert clicks[0]["event"] in {"view_item", "select_item"}
    assert [click["event_id"] for click in clicks] == [f"simulated-0-{n}" for n in range(1, 21)]


def test_every_click_keeps_the_contract_in_order_of_time_with_ids_of_its_own() -> None:
    clicks = list(simulate(catalog(), users=50, clicks=2_000, start=START, days=2))
    parsed = [parse_click(click["user_id"].encode(), orjson.dumps(click), future_limit_s=1e9) for click in clicks]
    times = [click.occurred_at for click in parsed if click is not None]
    assert len(times) == 2_000
    assert times == sorted(times)
    assert START <= times[0] < times[-1] <= START + timedelta(days=2)
    assert len({click["event_id"] for click in clicks}) == 2_000
    assert {click["product_id"] for click in clicks} <= {line["product_id"] for line in catalog()}
    assert not any(click.model_extra for click in parsed if click is not None)


def test_without_a_start_the_clicks_end_now() -> None:
    last = list(simulate(catalog(), users=5, clicks=1_000, days=1))[-1]
    ago = datetime.now(UTC) - datetime.fromisoformat(last["occurred_at"])
    assert timedelta(0) <= ago < timedelta(hours=1)


def test_without_a_start_and_days_every_click_is_young_enough_to_make_a_list() -> None:
    first = next(iter(simulate(catalog(), users=5, clicks=1_000)))
    ago = datetime.now(UTC) - datetime.fromisoformat(first["occurred_at"])
    limit_s = Settings.model_fields["list_max_age_s"].default
    assert timedelta(hours=6) < ago < 0.75 * timedelta(seconds=limit_s)


def test_a_catalogue_is_read_and_clicks_that_are_taken_for_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl"
    lines = [catalog()[0], {"op": "delete", "product_id": "p1"}]
    path.write_bytes(b"\n".join([orjson.dumps(lines[0]), b"", orjson.dumps(lines[1])]))
    assert read_catalog(path) == lines
    click = next(iter(simulate(catalog(), users=1, clicks=1, start=START)))
    path.write_bytes(b"\n".join([orjson.dumps(lines[0]), b"", orjson.dumps(click)]))
    with pytest.raises(
        ValueError, match=r"line 3 is no catalogue line \(.*\): name a catalog\.jsonl, as `freshet import`"
    ):
        read_catalog(path)


def test_the_same_seed_gives_the_same_clicks_and_another_seed_others() -> None:
    one, again, other = (list(simulate(catalog(), 20, 500, seed, START)) for seed in (3, 3, 4))
    assert one == again
    assert [click["product_id"] for click in one] != [click["product_id"] for click in other]


def test_a_shopper_stays_with_her_favourite_kind_far_above_what_the_crowd_clicks() -> None:
    """Favourites are read from each one's earlier clicks, and counted in the later: chance alone gives the crowd's."""
    clicks = list(simulate(catalog(), users=60, clicks=12_000, start=START))
    crowd = Counter(map(kind_of, clicks))
    by_user: dict[str, list[str]] = defaultdict(list)
    for click in clicks:
        by_user[click["user_id"]].append(kind_of(click))
    own, expected = [], []
    for kinds in by_user.values():
        earlier, later = kinds[: len(kinds) // 2], kinds[len(kinds) // 2 :]
        favourite = Counter(earlier).most_common(1)[0][0]
        own.append(later.count(favourite) / len(later))
        expected.append(crowd[favourite] / len(clicks))
    assert float(np.mean(own)) > 2 * float(np.mean(expected))


def test_each_segment_has_shoppers_and_popular_products_of_its_own() -> None:
    clicks = list(simulate(catalog(), users=300, clicks=12_000, start=START, segments=3))
    by_user = {(click["user_id"], click["segment"]) for click in clicks}
    assert len(by_user) == len({click["user_id"] for click in clicks})
    halves = [Counter((c["segment"], c["product_id"]) for c in half) for half in (clicks[:6_000], clicks[6_000:])]

    def shares(half: Counter[tuple[str, str]], segment: int) -> Any:
        counts = np.array([half[f"segment-{segment}", f"p{n}"] for n in range(200)], np.float64)
        return counts / np.linalg.norm(counts)

    for segment in range(3):
        likeness = [float(shares(halves[0], segment) @ shares(halves[1], other)) for other in range(3)]
        assert likeness[segment] == max(likeness) > 1.3 * sorted(likeness)[1]
    assert "segment" not in next(simulate(catalog(), users=5, clicks=10, start=START))


def test_a_shopper_has_favourite_brands_within_a_kind() -> None:
    one_kind = [line | {"category": ["All", "dresses"]} for line in catalog()]
    by_user: dict[str, list[int]] = defaultdict(list)
    for click in simulate(one_kind, users=40, clicks=8_000, start=START):
        by_user[click["user_id"]].append(int(click["product_id"][1:]) % 3)
    steady = []
    for brands in by_user.values():
        earlier, later = brands[: len(brands) // 2], brands[len(brands) // 2 :]
        steady.append(later.count(Counter(earlier).most_common(1)[0][0]) / len(later))
    assert float(np.mean(steady)) > 0.45  # a third, were brands all the same to them


def test_the_next_product_is_often_like_the_one_before_and_never_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.simulate.LIKING", 0.0)  # so that tastes do not look like likeness
    one_kind = [line | {"category": ["All", "dresses"]} for line in catalog()]
    simulator = Simulator(one_kind, users=1)
    clicks = (simulator.next_click(START, user=0) for _ in range(4_000))
    seen = [int(click["product_id"][1:]) for click in clicks if click["event"] in {"view_item", "select_item"}]
    pairs = list(pairwise(seen))
    assert all(before != after for before, after in pairs)
    assert sum(before % 3 == after % 3 for before, after in pairs) / len(pairs) > 0.4  # a third by chance


def test_the_next_product_of_a_session_is_mostly_of_the_same_kind_or_of_the_one_that_goes_with_it() -> None:
    clicks = list(simulate(catalog(), users=1_000, clicks=6_000, start=START))
    last: dict[str, str] = {}
    crowd = Counter(map(kind_of, clicks))
    follows: Counter[tuple[str, str]] = Counter()
    for click in clicks:
        if click["user_id"] in last and click["event"] in {"view_item", "select_item"}:
            follows[last[click["user_id"]], kind_of(click)] += 1
        last[click["user_id"]] = kind_of(click)
    for kind in KINDS:
        after = Counter({b: n for (a, b), n in follows.items() if a == kind})
        (first, same), (_, second) = after.most_common(2)
        assert first == kind
        assert same / after.total() > 2 * crowd[kind] / len(clicks)
        assert second / after.total() > 0.1


def test_popularity_is_skewed_and_events_thin_out_towards_the_purchase() -> None:
    clicks = list(simulate(catalog(), users=500, clicks=10_000, start=START))
    popular = Counter(click["product_id"] for click in clicks).most_common()
    assert sum(count for _, count in popular[:20]) > 0.25 * len(clicks)  # a tenth of the products
    events = Counter(click["event"] for click in clicks)
    assert events["view_item"] > events["select_item"] > events["add_to_cart"] > events["purchase"] > 0


def test_what_goes_into_the_cart_was_viewed_and_what_is_bought_was_in_the_cart() -> None:
    simulator = Simulator(catalog(), users=3)
    before: dict[str, Any] = {}
    bought = 0
    for click in (simulator.next_click(START, user=1) for _ in range(500)):
        if click["event"] in {"add_to_cart", "purchase"}:
            assert click["product_id"] == before["product_id"]
            wanted = {"add_to_cart"} if click["event"] == "purchase" else {"view_item", "select_item"}
            assert before["event"] in wanted
            bought += click["event"] == "purchase"
        before = click
    assert bought > 5


def test_a_named_user_clicks_on_demand_at_the_time_given() -> None:
    simulator = Simulator(catalog(), users=10, seed=5)
    now = datetime.fromisoformat("2026-03-01T12:00:00+02:00")
    clicks = [simulator.next_click(now, user=7) for _ in range(3)]
    assert {click["user_id"] for click in clicks} == {"simulated-user-7"} == {user_id(7)}
    assert {click["occurred_at"] for click in clicks} == {"2026-03-01T10:00:00.000Z"}
    assert simulator.next_click(now)["event_id"] == "simulated-5-4"


def test_a_users_taste_does_not_depend_on_who_came_before() -> None:
    quiet, busy = (Simulator(catalog(), users=10) for _ in range(2))
    for _ in islice(iter(lambda: busy.next_click(START), None), 200):
        pass
    assert np.array_equal(quiet.shopper(4).kinds, busy.shopper(4).kinds)
    assert not np.array_equal(quiet.shopper(4).kinds, quiet.shopper(5).kinds)


fields = st.fixed_dictionaries(
    {"title": st.text(max_size=20)},
    optional={
        "category": st.lists(st.sampled_from(KINDS), max_size=3),
        "brand": st.none() | st.sampled_from(["A", "B"]),
        "attributes": st.dictionaries(st.sampled_from(["colour", "size"]), st.sampled_from(["x", "y"])),
        "price": st.none() | st.fixed_dictionaries({"amount": st.floats(0, 1e6), "currency": st.just("EUR")}),
    },
)


@settings(max_examples=40, deadline=None)
@given(st.lists(fields, min_size=1, max_size=30), st.integers(0, 2**32))
def test_any_catalogue_will_do_whatever_fields_it_lacks(lines: list[dict[str, Any]], seed: int) -> None:
    products = [line | {"op": "upsert", "product_id": f"p{n}"} for n, line in enumerate(lines)]
    clicks = list(simulate(products, users=3, clicks=20, seed=seed, start=START))
    assert len(clicks) == 20
    assert {click["product_id"] for click in clicks} <= {line["product_id"] for line in products}


def test_lines_that_are_no_upsert_are_not_clicked_on() -> None:
    lines = [{"op": "delete", "product_id": "gone"}, {"op": "upsert", "product_id": "here", "title": "Here"}]
    assert {click["product_id"] for click in simulate(lines, 2, 10, start=START)} == {"here"}


def test_what_cannot_be_simulated_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="no product to click on"):
        simulate([], users=1, clicks=1)
    with pytest.raises(ValueError, match="0 users"):
        simulate(catalog(), users=0, clicks=1)
    simulator = Simulator(catalog(), users=2)
    with pytest.raises(ValueError, match="no simulated user 2: they are 0 to 1"):
        simulator.next_click(START, user=2)
    with pytest.raises(ValueError, match="has no zone"):
        simulator.next_click(datetime(2026, 1, 1))
