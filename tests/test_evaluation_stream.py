"""From files to a stream: order, numbers, what is left out, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_models import Spy, evaluated

from streams.evaluation.schedules import Plan
from streams.evaluation.stream import Clicks, NotEvaluable, Stream, arrange, read_catalog, read_clicks, read_stream


def click(user: str, product: str, second: int, event: str = "view_item", **fields: Any) -> dict[str, Any]:
    at = f"2026-01-01T00:00:{second:02}Z"
    event_id = f"{user}-{product}-{second}-{event}"
    return {"event_id": event_id, "user_id": user, "product_id": product, "event": event, "occurred_at": at} | fields


def write(path: Path, values: list[Any]) -> Path:
    text = "".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(text.encode())
    return path


def columns(stream: Stream) -> tuple[list[int], list[int], list[int], list[float]]:
    seconds = (stream.times - stream.times[0]).tolist()
    return stream.users.tolist(), stream.rows.tolist(), stream.codes.tolist(), seconds


SHOP: list[Any] = [
    click("ann", "B", 9, "purchase"),
    click("bob", "A", 3),
    "",
    click("ann", "A", 5, "add_to_cart", position=3),
    click("ann", "C", 5),
]


@pytest.mark.parametrize("name", ["clicks.jsonl", "clicks.jsonl.gz"])
def test_clicks_are_put_in_order_of_time_and_numbered_by_first_click(tmp_path: Path, name: str) -> None:
    read: list[int] = []
    stream = read_stream(write(tmp_path / name, SHOP), progress=read.append)
    assert columns(stream) == ([0, 1, 1, 1], [0, 0, 1, 2], [0, 2, 0, 3], [0.0, 2.0, 2.0, 6.0])
    assert stream.facts.product_ids == ["A", "C", "B"]
    assert stream.known.tolist() == [0, 1, 1, 2, 3]
    assert stream.facts.events_total == 4
    assert stream.facts.catalog == {}
    assert read == [4]


def test_the_segment_of_each_click_is_a_number_and_is_told_to_who_predicts_and_learns_it(tmp_path: Path) -> None:
    values = [click("ann", "B", 9, segment="DE"), click("bob", "A", 3, segment="FR"), click("ann", "A", 5)]
    values.append(click("ann", "C", 7, segment=" DE "))
    stream = read_stream(write(tmp_path / "clicks.jsonl", values))
    assert stream.segments.tolist() == [1, -1, 0, 0]
    spy = Spy()
    evaluated(spy, stream, Plan(warm_up=0.0))
    assert [request.segment for request, _, _ in spy.taught] == [1, -1, 0, 0]
    assert [request.segment for request, _, _ in spy.asked] == [-1]  # the others are the first of their product
    assert read_stream(write(tmp_path / "none.jsonl", SHOP)).segments.tolist() == [-1] * 4


def test_a_line_that_comes_twice_counts_once_and_is_told(tmp_path: Path) -> None:
    first = click("ann", "B", 9, "purchase")
    other = click("bob", "B", 9, "purchase") | {"event_id": first["event_id"]}
    stream = read_stream(write(tmp_path / "clicks.jsonl", [*SHOP, first, other]))
    assert (len(stream), stream.twice) == (5, 1)


def test_the_catalogue_keeps_the_latest_upserts_and_counts_what_else_it_holds(tmp_path: Path) -> None:
    path = write(
        tmp_path / "catalog.jsonl",
        [
            {"op": "upsert", "product_id": "Z", "title": "First", "colour": "red"},
            {"op": "patch", "product_id": "Z", "title": "Patched"},
            {"op": "upsert", "product_id": "A", "title": "Other"},
            {"op": "upsert", "product_id": "Z", "title": "Second", "price": {"amount": 1.0, "currency": "EUR"}},
            {"op": "delete", "product_id": "A"},
        ],
    )
    catalog = read_catalog(path)
    assert catalog.passed_over == 2
    assert catalog.products["Z"]["title"] == "Second"
    assert catalog.products["Z"]["price"] == {"amount": 1.0, "currency": "EUR"}
    clicks = write(tmp_path / "clicks.jsonl", SHOP)
    known = read_stream(clicks, path, known="catalog")
    assert known.facts.product_ids == ["Z", "A", "C", "B"]
    assert known.known.tolist() == [2, 2, 2, 3, 4]
    assert known.passed_over == 2
    later = read_stream(clicks, path)
    assert later.facts.product_ids == ["A", "C", "B"]
    assert later.facts.catalog["A"]["title"] == "Other"


def test_vectors_are_put_by_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", product_ids=np.array(["B", "other", "A"]), fused=np.array([[1, 2], [9, 9], [3, 4]]))
    stream = read_stream(write(tmp_path / "clicks.jsonl", SHOP), vectors=tmp_path / "v.npz")
    assert stream.facts.fused is not None
    assert stream.facts.fused.tolist() == [[3, 4], [0, 0], [1, 2]]
    assert stream.facts.fused.dtype == np.float32


@pytest.mark.parametrize(
    "arrays",
    [
        {"product_ids": np.array(["A"])},
        {"product_ids": np.array(["A"]), "fused": np.ones((2, 3))},
        {"product_ids": np.array(["A"]), "fused": np.ones(1)},
        {"product_ids": np.array(["A"]), "fused": np.full((1, 2), np.nan)},
    ],
)
def test_vectors_that_fit_nothing_are_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(NotEvaluable, match=r"v.npz.* fused"):
        read_stream(write(tmp_path / "clicks.jsonl", SHOP), vectors=tmp_path / "v.npz")
    (tmp_path / "v.npz").write_bytes(b"no archive")
    with pytest.raises(NotEvaluable, match=r"v.npz should be an .npz of product_ids"):
        read_stream(tmp_path / "clicks.jsonl", vectors=tmp_path / "v.npz")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: value: Invalid JSON"),
        (click("ann", "A", 1, "glance"), "line 2: event: Input should be 'view_item', .* [(]got 'glance'[)]"),
        (click("ann", "A", 1) | {"occurred_at": "2026-01-01T00:00:00"}, "line 2: occurred_at: .*timezone"),
        ({"op": "upsert"}, "line 2: event_id: Field required"),
    ],
)
def test_a_line_that_breaks_the_contract_is_named(tmp_path: Path, line: Any, reason: str) -> None:
    with pytest.raises(NotEvaluable, match=f"clicks.jsonl, {reason}"):
        read_clicks(write(tmp_path / "clicks.jsonl", [SHOP[0], line]))


def test_files_that_hold_nothing_or_are_cut_short_are_refused(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.jsonl", ["", ""])
    with pytest.raises(NotEvaluable, match=r"empty.jsonl has no clicks: each line should be a user-clicks value"):
        read_stream(empty)
    whole = write(tmp_path / "whole.jsonl.gz", [click("ann", f"p{n}", n % 60) for n in range(500)])
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole.read_bytes()[:-900])
    with pytest.raises(NotEvaluable, match=r"cut.jsonl.gz is not whole after line \d+: "):
        read_stream(cut)
    with pytest.raises(NotEvaluable, match="known from the catalogue need one: name it with --catalog"):
        read_stream(empty, known="catalog")


def test_a_clock_that_goes_backwards_is_put_in_order(tmp_path: Path) -> None:
    forwards = [click("ann", f"p{n}", n) for n in range(5)]
    one, other = (
        read_stream(write(tmp_path / f"{n}.jsonl", lines)) for n, lines in enumerate((forwards, forwards[::-1]))
    )
    assert columns(one) == columns(other)
    assert one.facts.product_ids == other.facts.product_ids


def test_no_clicks_are_a_stream_of_none(tmp_path: Path) -> None:
    assert len(arrange(read_clicks(write(tmp_path / "none.jsonl", [])))) == 0


def test_clicks_of_one_time_can_be_shuffled_and_nothing_else_moves() -> None:
    minutes = np.repeat(np.arange(10.0), 20) * 60.0
    numbers = range(len(minutes))
    clicks = Clicks(
        ["u"], [str(n) for n in numbers], [0] * len(minutes), list(numbers), [0] * len(minutes), list(minutes)
    )
    in_file, shuffled, again = arrange(clicks), arrange(clicks, shuffle_seed=1), arrange(clicks, shuffle_seed=1)

    def products(stream: Stream) -> list[int]:
        return [int(stream.facts.product_ids[row]) for row in stream.rows]

    assert products(in_file) == list(numbers)
    assert products(shuffled) == products(again) != products(in_file)
    np.testing.assert_array_equal(shuffled.times, in_file.times)
    for minute in range(10):
        span = slice(20 * minute, 20 * minute + 20)
        assert sorted(products(shuffled)[span]) == list(numbers)[span]
