"""A shop's clicks from a file into columns, in order of time; and what is told of its products."""

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, Rows
from encoders.recommender import Codes
from store.history import EVENTS
from streams.events import BadEvent, CatalogUpdate, ProductUpsert, UserClick
from streams.parsing import parse

Known = Literal["first-click", "catalog"]
Progress = Callable[[int], None]
"""Called with how many clicks are read, every PROGRESS_EVERY lines and at the end."""

PROGRESS_EVERY = 1_000
CODES = {event: code for code, event in enumerate(EVENTS)}


class NotEvaluable(ValueError):
    """The files hold nothing that can be evaluated; str() names the file, the line where there is one, and why."""


class Clicks(NamedTuple):
    """Clicks as columns, in the order of the file: ids once, and numbers for them."""

    user_ids: Sequence[str]
    product_ids: Sequence[str]
    users: Sequence[int]
    products: Sequence[int]
    codes: Sequence[int]
    times: Sequence[float]  # s since 1970
    segments: Sequence[int] = ()  # numbers from 0, -1 for none; empty: no click names one
    twice: int = 0  # lines left out, because the user had an event of that event_id before


class Catalog(NamedTuple):
    """The latest upsert of each product, as JSON objects, and how many other updates were passed over."""

    products: dict[str, dict[str, Any]]
    passed_over: int = 0


NO_CATALOG = Catalog({})


class StreamFacts(NamedTuple):
    """What a recommender may be told before it starts; rows that are not known yet are in it as well.

    product_ids   P ids by row
    catalog       the catalogue's line of a product by its id; empty without a catalogue
    fused         (P, D) float32, zeros for a product without a vector; None where no vectors were given
    events_total  clicks that are gone through, N
    """

    product_ids: Sequence[str]
    catalog: dict[str, dict[str, Any]]
    fused: Floats | None
    events_total: int


@dataclass(frozen=True, eq=False)
class Stream:
    """N clicks in order of time; U users and P products by number, both in order of their first click.

    With known from the catalogue, its products have the first rows, in its order.

    users  (N,) int32      rows   (N,) int32, products      codes  (N,) uint8, indices of store.history.EVENTS
    times  (N,) float64, s since 1970, not falling
    segments  (N,) int32, numbers in no order; -1 for a click that names none
    known  (N + 1,) int32: rows below known[i] are known before click i, and below known[N] at the end
    """

    users: Rows
    rows: Rows
    codes: Codes
    times: NDArray[np.float64]
    segments: Rows
    known: Rows
    facts: StreamFacts
    twice: int
    passed_over: int

    def __len__(self) -> int:
        return len(self.rows)


def read_stream(
    events: Path,
    catalog: Path | None = None,
    vectors: Path | None = None,
    *,
    known: Known = "first-click",
    shuffle_seed: int | None = None,
    progress: Progress = lambda _: None,
) -> Stream:
    """Read `user-clicks` values, and beside them a catalogue (`catalog-updates` values) and vectors (.npz).

    known         a product is known from its first click on, or if it is in the catalogue from the beginning
    vectors       arrays `product_ids` (V,) and `fused` (V, D)
    shuffle_seed  clicks of one time come in a random order; None: in that of the file

    Raises NotEvaluable; OSError where a file cannot be opened.
    """
    if known == "catalog" and catalog is None:
        raise NotEvaluable("products known from the catalogue need one: name it with --catalog")
    products = NO_CATALOG if catalog is None else read_catalog(catalog)
    stream = arrange(read_clicks(events, progress), products, known, shuffle_seed)
    if not len(stream):
        raise NotEvaluable(f"{events} has no clicks: each line should be a user-clicks value")
    return stream if vectors is None else with_vectors(stream, vectors)


def with_vectors(stream: Stream, vectors: Path) -> Stream:
    """The same clicks with the vectors of this .npz, as in read_stream. Raises NotEvaluable."""
    fused = read_vectors(vectors, stream.facts.product_ids)
    return Stream(**vars(stream) | {"facts": stream.facts._replace(fused=fused)})


def read_clicks(path: Path, progress: Progress = lambda _: None) -> Clicks:
    """Every line as a click; a line whose event the user had before is left out. Raises NotEvaluable."""
    users: dict[str, int] = {}
    products: dict[str, int] = {}
    segments: dict[str, int] = {}
    columns: tuple[list[int], list[int], list[int], list[float], list[int]] = [], [], [], [], []
    events: set[tuple[int, str]] = set()
    read = 0
    for read, click in enumerate(_parsed(path, UserClick), 1):
        user = users.setdefault(click.user_id, len(users))
        event = (user, click.event_id)
        if event not in events:
            events.add(event)
            product = products.setdefault(click.product_id, len(products))
            columns[0].append(user)
            columns[1].append(product)
            columns[2].append(CODES[click.event])
            columns[3].append(click.occurred_at.timestamp())
            segment = click.segment
            columns[4].append(-1 if segment is None else segments.setdefault(segment, len(segments)))
        if read % PROGRESS_EVERY == 0:
            progress(read)
    progress(read)
    return Clicks(list(users), list(products), *columns, twice=read - len(events))


def read_catalog(path: Path) -> Catalog:
    """The upserts of a catalogue, the latest of each product. Raises NotEvaluable."""
    products: dict[str, dict[str, Any]] = {}
    passed_over = 0
    for update in _parsed(path, CatalogUpdate):
        if isinstance(update, ProductUpsert):
            products[update.product_id] = update.model_dump(mode="json", exclude_unset=True)
        else:
            passed_over += 1
    return Catalog(products, passed_over)


def read_vectors(path: Path, product_ids: Sequence[str]) -> Floats:
    """(P, D) float32 by row, zeros where the file has no vector. Raises NotEvaluable."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, fused = arrays["product_ids"].tolist(), arrays["fused"].astype(np.float32)
            places = dict(zip(ids, range(len(fused)), strict=True))
    except (KeyError, ValueError, TypeError, AttributeError, EOFError, zlib.error) as error:
        raise NotEvaluable(f"{path} should be an .npz of product_ids (V,) and fused (V, D): {error}") from error
    if fused.ndim != 2 or not np.isfinite(fused).all():
        raise NotEvaluable(f"{path}: fused should be (V, D) finite numbers, and has the shape {fused.shape}")
    by_row = np.zeros((len(product_ids), fused.shape[1]), np.float32)
    for row, product_id in enumerate(product_ids):
        if product_id in places:
            by_row[row] = fused[places[product_id]]
    return by_row


def arrange(
    clicks: Clicks, catalog: Catalog = NO_CATALOG, known: Known = "first-click", shuffle_seed: int | None = None
) -> Stream:
    """The clicks in order of time; those of one time stay in the order of the file, or are shuffled by a seed."""
    times = np.array(clicks.times, np.float64)
    order = np.arange(len(times))
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(order)
    order = order[np.argsort(times[order], kind="stable")]
    users, _ = _numbered(np.array(clicks.users, np.int64)[order], len(clicks.user_ids))
    first: list[str] = list(catalog.products) if known == "catalog" else []
    named = {product_id: row for row, product_id in enumerate(first)}
    products = np.array(clicks.products, np.int64)[order]
    _, by_first_click = _numbered(products, len(clicks.product_ids))
    row_of = np.empty(len(clicks.product_ids), np.int32)
    for product in by_first_click.tolist():
        row_of[product] = named.setdefault(clicks.product_ids[product], len(named))
    rows = row_of[products]
    return Stream(
        users=users,
        rows=rows,
        codes=np.array(clicks.codes, np.uint8)[order],
        times=times[order],
        segments=np.array(clicks.segments or [-1] * len(times), np.int32)[order],
        known=np.maximum.accumulate(np.concatenate(([len(first)], rows + 1))).astype(np.int32),
        facts=StreamFacts(list(named), catalog.products, None, len(rows)),
        twice=clicks.twice,
        passed_over=catalog.passed_over,
    )


def _numbered(values: NDArray[np.int64], count: int) -> tuple[Rows, NDArray[np.int64]]:
    """The values (each below count) numbered anew by first appearance, and the values in that order."""
    distinct, first = np.unique(values, return_index=True)
    in_order = distinct[np.argsort(first)]
    numbers = np.empty(count, np.int32)
    numbers[in_order] = np.arange(len(in_order), dtype=np.int32)
    return numbers[values], in_order


def _parsed(path: Path, contract: Any) -> Iterator[Any]:
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for line in file:
                number += 1
                if value := line.strip():
                    yield parse(contract, value)
    except BadEvent as error:
        raise NotEvaluable(f"{path}, line {number}: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise NotEvaluable(f"{path} is not whole after line {number}: {error}") from error
