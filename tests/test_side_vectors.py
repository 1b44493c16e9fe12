"""Another version's vectors take the place of those in use: wholly, in one go, and with what hangs on them."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import orjson
import pytest
from examples import TOPIC_IDS, example, learn_all, records
from hypothesis import given
from hypothesis import strategies as st
from shelves import factors, offer, vectors
from test_published_stage import NAMES, put

from encoders.content_lift import new_lift
from streams.assortment import Assortment
from streams.factors import factor_records
from streams.learning import Learning
from streams.shelf import Shelf
from streams.side_vectors import SideVectors

A, B = "aa11", "bb22"
PRODUCTS = [f"p{number}" for number in range(40)]


def side_of(reader: Shelf | Assortment, fingerprint: str, by_id: Mapping[str, Sequence[float] | None]) -> SideVectors:
    side = SideVectors(fingerprint, reader)
    for product_id, fused in by_id.items():
        side.put(product_id.encode(), vectors(fused), ())
    return side


def some(seed: int, width: int = 6, product_ids: Sequence[str] = PRODUCTS) -> dict[str, list[float]]:
    drawn = np.random.default_rng(seed).normal(size=(len(product_ids), width)).astype(np.float32)
    return dict(zip(product_ids, drawn.tolist(), strict=True))


def shelf_of(product_ids: Sequence[str] = PRODUCTS) -> Shelf:
    shelf = Shelf()
    for product_id in product_ids:
        shelf.put_offer(product_id.encode(), offer(), ())
    return shelf


def on(shelf: Shelf) -> dict[str, list[float]]:
    return {p: shelf.fused[row].tolist() for p, row in shelf.rows.items() if shelf.has_vector[row]}


# --- the shelf ---------------------------------------------------------------------------------------------------


def test_a_version_takes_the_place_of_another_of_other_width_and_goes_on_alone() -> None:
    shelf = shelf_of(["lamp", "rug", "cup"])
    before = side_of(shelf, A, {"lamp": [1, 0], "rug": [0, 1], "gone": [1, 1]})
    before.take()
    assert on(shelf) == {"lamp": [1, 0], "rug": [0, 1], "gone": [1, 1]}
    seen = shelf.newcomers.end
    after = side_of(shelf, B, {"lamp": [1, 2, 3], "cup": [4, 5, 6], "rug": None})
    assert shelf.encoder == A
    assert on(shelf).keys() == {"lamp", "rug", "gone"}, "what is gathered is not used"
    after.take()
    assert shelf.encoder == B
    assert on(shelf) == {"lamp": [1, 2, 3], "cup": [4, 5, 6]}
    assert "gone" not in shelf.rows, "nothing is left of it"
    assert [shelf.product_ids[row] for row in shelf.newcomers.since(seen)[0]] == ["cup"], "the lamp had one before"
    after.put(b"rug", vectors([7, 8, 9]), ())
    before.put(b"rug", vectors([0, 9], content_revision=5), ())
    assert on(shelf)["rug"] == [7, 8, 9], "a reader that is about to stop puts nothing any more"
    after.put(b"lamp", None, ())
    assert on(shelf).keys() == {"cup", "rug"}


RECORDS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 4), st.sampled_from([None, 1.0, 2.0, 3.0])), max_size=12
)


@given(first=RECORDS, second=RECORDS, later=RECORDS)
def test_whenever_it_is_taken_the_shelf_holds_what_one_holds_that_knew_no_other_version(
    first: list[tuple[str, int, float | None]],
    second: list[tuple[str, int, float | None]],
    later: list[tuple[str, int, float | None]],
) -> None:
    shelf, plain = shelf_of("abc"), shelf_of("abc")
    before, after = SideVectors(A, shelf), SideVectors(B, shelf)

    def put_all(reader: SideVectors | Shelf, chosen: list[tuple[str, int, float | None]], width: int) -> None:
        for product_id, revision, value in chosen:
            record = vectors(None if value is None else [value] * width, revision)
            where = reader.put if isinstance(reader, SideVectors) else reader.put_vectors
            where(product_id.encode(), record, ())

    put_all(before, first, 2)
    before.take()
    put_all(after, second, 3)
    put_all(before, later, 2)
    after.take()
    put_all(after, later, 3)
    put_all(plain, second, 3)
    put_all(plain, later, 3)
    assert on(shelf) == on(plain)


def test_at_no_time_does_a_reader_see_vectors_or_contents_of_two_versions() -> None:
    shelf = shelf_of()
    of = {A: some(1), B: some(2)}
    side_of(shelf, A, of[A]).take()
    failures: list[str] = []
    seen: set[str | None] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with shelf.lock:
                encoder, found, stage = shelf.encoder, on(shelf), shelf.stage
                content = stage.knowledge(shelf.clicks).content[list(shelf.rows.values())]
                expected = (
                    stage.content_map.apply(shelf.fused[list(shelf.rows.values())]) if stage.content_map else None
                )
            if (
                encoder is None
                or found != of[encoder]
                or expected is None
                or not np.allclose(content, expected, atol=1e-5)
            ):
                failures.append(f"a mix while {encoder} is used")
            seen.add(encoder)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        fingerprint = (B, A)[turn % 2]
        side = side_of(shelf, fingerprint, of[fingerprint])
        side.take()
        side.put(b"p0", vectors(of[fingerprint]["p0"], 2), ())
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert seen == {A, B}


# --- the learner, and its map on the shelf -----------------------------------------------------------------------


class Taught:
    """A learner on products with the vectors of A that has learned some clicks, and a shelf with all its records."""

    def __init__(self) -> None:
        self.assortment, self.shelf, self.sequence = Assortment(), shelf_of(), 0
        for product_id in PRODUCTS:
            self.assortment.put_offer(product_id.encode(), offer(), ())
        self.take(A, 1)
        self.learning = Learning(self.assortment, TOPIC_IDS, factors=4)
        drawn = np.random.default_rng(3)
        chosen = [drawn.integers(0, 30, 4) for _ in range(1_200)]  # nobody clicks the last ten
        self.learning.receive(records(*(example(n, *(f"p{m}" for m in row)) for n, row in enumerate(chosen))))
        learn_all(self.learning)
        self.publish()

    def take(self, fingerprint: str, seed: int) -> None:
        side_of(self.assortment, fingerprint, some(seed)).take()

    def publish(self) -> list[dict[str, object]]:
        """What was published to model-weights."""
        told = []
        while not (changes := self.learning.take_changes(10_000, 10_000)).is_empty():
            self.sequence += 1
            messages = factor_records(changes, NAMES, 1, self.sequence)
            self.learning.confirm(changes)
            put(self.shelf, messages)
            told += [orjson.loads(m.value or b"") for m in messages if m.topic == NAMES.model_weights]
        return told


@pytest.fixture(scope="module")
def taught() -> Taught:
    return Taught()


def contents(shop: Taught) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """By product: of the learner, and of the shelf."""
    learned = shop.learning.stage.knowledge(shop.learning.model.clicks).content
    served = shop.shelf.stage.knowledge(shop.shelf.clicks).content
    ours = {p: learned[row].round(4).tolist() for p, row in shop.learning.rows.items()}
    return ours, {p: served[shop.shelf.rows[p]].round(4).tolist() for p in shop.learning.rows}


def test_contents_and_cold_start_follow_the_vectors_and_a_shelf_never_places_by_a_map_of_others() -> None:
    shop = Taught()
    side_of(shop.shelf, A, some(1)).take()
    ours, theirs = contents(shop)
    assert ours == theirs
    model, row = shop.learning.model, shop.learning.rows["p35"]
    before = model.vectors(np.array([row], np.int32))[1].copy()
    clicked = model.vectors(np.array([shop.learning.rows["p0"]], np.int32))[1].copy()
    learned_lift = shop.learning.stage.serving().lift.last.copy()
    assert not np.allclose(learned_lift, new_lift().last)

    shop.take(B, 2)
    assert shop.learning.encoder == A, "not before it looks"
    shop.learning.follow_assortment()
    assert shop.learning.encoder == B
    assert np.abs(model.vectors(np.array([row], np.int32))[1] - before).max() > 1e-4, "nobody clicked it"
    np.testing.assert_array_equal(model.vectors(np.array([shop.learning.rows["p0"]], np.int32))[1], clicked)
    np.testing.assert_array_equal(shop.learning.stage.serving().lift.last, new_lift().last)
    told = shop.publish()
    assert [record["encoder"] for record in told if record["name"] == "content-map"] == [B]

    assert contents(shop)[1] == theirs, "the shelf still has the vectors of A, and their map"
    side_of(shop.shelf, B, some(2)).take()
    ours, theirs = contents(shop)
    assert ours == theirs, "the map of B was kept for them"
    side_of(shop.shelf, A, some(1)).take()
    assert shop.shelf.stage.content_map is not None
    assert contents(shop)[1] == contents_by_the_map_of(shop, A)


def contents_by_the_map_of(shop: Taught, fingerprint: str) -> dict[str, list[float]]:
    content_map = shop.shelf.stage.map_of(fingerprint, 6)
    assert content_map is not None
    return {p: content_map.apply(np.array([v], np.float32))[0].round(4).tolist() for p, v in some(1).items()}


def test_a_checkpoint_of_another_version_is_restored_without_its_contents(taught: Taught) -> None:
    saved = taught.learning.checkpoint()
    assert saved[1]["encoder"] == A
    same = Learning(taught.assortment, TOPIC_IDS, checkpoint=saved)
    np.testing.assert_array_equal(same.stage.serving().lift.last, taught.learning.stage.serving().lift.last)
    later = Assortment()
    for product_id in PRODUCTS:
        later.put_offer(product_id.encode(), offer(), ())
    side_of(later, B, some(2)).take()
    restored = Learning(later, TOPIC_IDS, checkpoint=saved)
    assert restored.encoder == B
    np.testing.assert_array_equal(restored.stage.serving().lift.last, new_lift().last)
    assert restored.stage.content_map is not None
    np.testing.assert_allclose(restored.stage.content_map.mean, np.mean(list(some(2).values()), axis=0), atol=1e-5)
    np.testing.assert_array_equal(restored.model.clicks[:40], taught.learning.model.clicks[:40])


def test_a_version_without_any_vectors_leaves_neither_contents_nor_a_cold_start() -> None:
    shop = Taught()
    side_of(shop.assortment, B, dict.fromkeys(PRODUCTS)).take()
    shop.learning.follow_assortment()
    assert shop.learning.stage.content_map is None
    assert not shop.learning.stage.knowledge(shop.learning.model.clicks).content.any()
    side_of(shop.shelf, B, dict.fromkeys(PRODUCTS)).take()
    assert on(shop.shelf) == {}
    shop.shelf.put_factors(b"p0", factors([1.0] * 4, sequence=99), ())
