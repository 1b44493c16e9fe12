"""Simulated shoppers with tastes, for shops without clicks. They are not people: each user_id says so.

A shopper likes a few kinds of products (the last step of the category path), and some values of the other fields:
brand, attributes, price level. A session drifts: the next product is most often of the same kind, sometimes of the
kind that goes with it, and often alike. What was viewed may be put into the cart, and what is in the cart be bought.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from streams.events import BadEvent, CatalogUpdate
from streams.parsing import parse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

POPULARITY_EXPONENT = 0.8  # Zipf: the n-th most popular product draws n^-.8 as much
ACTIVITY_EXPONENT = 0.5  # the same for how often a shopper comes
KIND_SHAPE = 2.0  # of the gamma law of a shopper's liking, over all kinds: the smaller, the fewer she looks at
LIKING = 0.9  # standard deviation of the log of her liking for a brand, a colour, ...
LIKENESS = 0.6  # log of how much more a product draws for each value it shares with the one before
SAME_KIND, COMPLEMENT = 0.62, 0.16  # of the next products in a session; the rest starts from her tastes again
SELECT = 0.3  # of new products: select_item, otherwise view_item
TO_CART, TO_PURCHASE = 0.14, 0.45  # that a viewed product goes into the cart, and one in the cart is bought
SESSION_CLICKS = 8.0  # mean length
CLICK_GAP_S = 40.0  # mean time between the clicks of a session, in simulate()
SEGMENT_LIKING = 1.0  # standard deviation of the log of how much more a product draws in one segment than in another
MOST_TRAITS, MOST_VALUES = 5, 100  # attributes that count, and values of each field


@dataclass
class Shopper:
    """One simulated user: tastes that stay, and where the session is."""

    kinds: Floats  # (K,) cumulative share of each kind in her choices
    likings: NDArray[np.float32]  # (V,) log of her liking for each value
    segment: int  # 0 without any
    previous: int = -1  # product of the last click, -1 at a session's start
    stage: str = ""  # event of the last click, "" at a session's start


class Simulator:
    """Makes clicks one by one, for ever; the same catalogue, arguments and calls give the same clicks."""

    def __init__(
        self, catalog: Iterable[dict[str, Any]], users: int, seed: int = 0, *, browsing: int = 20, segments: int = 0
    ) -> None:
        """Take the upserts of the catalogue; `browsing` shoppers are in a session at the same time.

        segments  every shopper is of one of so many, which her clicks name; each has popular products of its own

        Raises ValueError if there is no product, or users or browsing is below 1.
        """
        products = [line for line in catalog if line.get("op", "upsert") == "upsert"]
        if not products:
            raise ValueError("the catalogue has no product to click on: does it hold lines with op upsert?")
        if users < 1 or browsing < 1:
            raise ValueError(f"{users} users, {browsing} of them browsing: at least 1 is needed of each")
        self._chance = np.random.default_rng([seed, 1])
        self._seed = seed
        self.users = users
        self.product_ids = [str(line["product_id"]) for line in products]
        self._kind_of = _numbered(_kinds(products))
        self._members = [np.flatnonzero(self._kind_of == kind) for kind in range(self._kind_of.max() + 1)]
        self._values = _values(products)  # (P, A), 0 where the field is missing or says nothing
        self._popularity = _zipf(len(products), POPULARITY_EXPONENT)[self._chance.permutation(len(products))]
        self.segments = segments
        parts = max(1, segments)
        if segments:
            liked = np.random.default_rng([seed, 4]).standard_normal((segments, len(products)))
            self._popularity = self._popularity * np.exp(SEGMENT_LIKING * liked)
        self._popularity = self._popularity.reshape(parts, -1)  # (S, P)
        self._crowd = np.array([[part[members].sum() for members in self._members] for part in self._popularity])
        kinds = len(self._members)
        shuffled = self._chance.permutation(kinds)
        self._complement = np.arange(kinds)  # pairs: one goes with the other and back; of an odd number one is alone
        self._complement[shuffled[: kinds // 2 * 2]] = shuffled[: kinds // 2 * 2].reshape(-1, 2)[:, ::-1].ravel()
        self._activity = np.cumsum(_zipf(users, ACTIVITY_EXPONENT))
        self._by_activity = self._chance.permutation(users)
        self._shoppers: dict[int, Shopper] = {}
        self._sessions = [self._comes() for _ in range(min(browsing, users))]
        self._clicks = 0

    def next_click(self, now: datetime, user: int | None = None) -> dict[str, Any]:
        """The next click, as a `user-clicks` value that occurred now, of this user or of one who is browsing.

        user  0 to users - 1; the user_id is user_id(user)
        Raises ValueError if there is no such user, or now has no zone.
        """
        if now.tzinfo is None:
            raise ValueError(f"{now.isoformat()} has no zone: give an aware time")
        if user is None:
            user = self._browsing()
        if not 0 <= user < self.users:
            raise ValueError(f"there is no simulated user {user}: they are 0 to {self.users - 1}")
        shopper = self.shopper(user)
        self._step(shopper)
        self._clicks += 1
        click = {
            "event_id": f"simulated-{self._seed}-{self._clicks}",
            "user_id": user_id(user),
            "product_id": self.product_ids[shopper.previous],
            "event": shopper.stage,
            "occurred_at": now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        return click | ({"segment": f"segment-{shopper.segment}"} if self.segments else {})

    def shopper(self, user: int) -> Shopper:
        """The shopper with her tastes; they depend on the seed and the user only."""
        if user not in self._shoppers:
            chance = np.random.default_rng([self._seed, 2, user])
            segment = user % max(1, self.segments)
            crowd = self._crowd[segment]
            kinds = crowd * chance.gamma(KIND_SHAPE / len(crowd), size=len(crowd)) + 1e-12
            likings = LIKING * chance.standard_normal(int(self._values.max(initial=0)) + 1, dtype=np.float32)
            likings[0] = 0.0
            self._shoppers[user] = Shopper(np.cumsum(kinds / kinds.sum()), likings, segment)
        return self._shoppers[user]

    def _comes(self) -> int:
        """A user who starts a session."""
        user = int(self._by_activity[_drawn(self._activity, self._chance)])
        shopper = self.shopper(user)
        shopper.previous, shopper.stage = -1, ""
        return user

    def _browsing(self) -> int:
        place = int(self._chance.integers(len(self._sessions)))
        if self._chance.random() < 1 / SESSION_CLICKS:
            self._sessions[place] = self._comes()
        return self._sessions[place]

    def _step(self, shopper: Shopper) -> None:
        """Move on: the product in view to the cart or the till, or another product."""
        further = {"view_item": TO_CART, "select_item": TO_CART, "add_to_cart": TO_PURCHASE}
        if self._chance.random() < further.get(shopper.stage, 0.0):
            shopper.stage = "purchase" if shopper.stage == "add_to_cart" else "add_to_cart"
            return
        shopper.previous = self._product(shopper, self._kind(shopper))
        shopper.stage = "select_item" if self._chance.random() < SELECT else "view_item"

    def _kind(self, shopper: Shopper) -> int:
        where = self._chance.random()
        if shopper.previous >= 0 and where < SAME_KIND + COMPLEMENT:
            kind = int(self._kind_of[shopper.previous])
            return kind if where < SAME_KIND else int(self._complement[kind])
        return _drawn(shopper.kinds, self._chance)

    def _product(self, shopper: Shopper, kind: int) -> int:
        """A product of the kind: popular, to her taste, like the one before, and not that one again."""
        members = self._members[kind]
        values = self._values[members]
        draw = shopper.likings[values].sum(axis=1)
        if shopper.previous >= 0:
            before = self._values[shopper.previous]
            draw += LIKENESS * ((values == before) & (before > 0)).sum(axis=1)
            if len(members) > 1:
                draw[members == shopper.previous] = -np.inf
        popularity = self._popularity[shopper.segment, members]
        return int(members[_drawn(np.cumsum(popularity * np.exp(draw)), self._chance)])


def user_id(user: int) -> str:
    """The id of a simulated user: it says what she is."""
    return f"simulated-user-{user}"


def read_catalog(path: Path) -> list[dict[str, Any]]:
    """The lines of a catalog.jsonl, each a `catalog-updates` value.

    Raises ValueError that names the first line that is none: with the clicks of a clicks.jsonl taken for products,
    shoppers would click on clicks.
    """
    updates = []
    with path.open("rb") as lines:
        for number, line in enumerate(map(bytes.strip, lines), 1):
            if line:
                try:
                    parse(CatalogUpdate, line)
                except BadEvent as error:
                    raise ValueError(
                        f"line {number} is no catalogue line ({error}): name a catalog.jsonl, as `freshet import` makes"
                    ) from error
                updates.append(orjson.loads(line))
    return updates


def simulate(
    catalog: Iterable[dict[str, Any]],
    users: int = 1_000,
    clicks: int = 100_000,
    seed: int = 0,
    start: datetime | None = None,
    *,
    days: float = 0.5,
    segments: int = 0,
) -> Iterator[dict[str, Any]]:
    """`user-clicks` values in order of time, spread over `days` from start; without a start they end now.

    Half a day, because clicks older than the setting list_max_age_s, a day, make no list. Everything but the default
    start follows from the arguments. Raises ValueError like Simulator.
    """
    start = start or datetime.now(UTC) - timedelta(days=days)
    span_s = days * 86_400
    browsing = round(CLICK_GAP_S * clicks / span_s)
    simulator = Simulator(catalog, users, seed, browsing=max(1, browsing), segments=segments)
    times_s = np.sort(np.random.default_rng([seed, 3]).uniform(0, span_s, clicks))
    return (simulator.next_click(start + timedelta(seconds=float(at_s))) for at_s in times_s)


# --- what a catalogue offers to like -----------------------------------------------------------------------------


def _kinds(products: list[dict[str, Any]]) -> list[str]:
    """The last step of each category path; without one the last word of the title that five titles end with."""
    last_words = [(str(line.get("title") or "").lower().split() or [""])[-1] for line in products]
    common = Counter(last_words)
    return [
        str((line.get("category") or [word if common[word] >= 5 else "other"])[-1])
        for line, word in zip(products, last_words, strict=True)
    ]


def _values(products: list[dict[str, Any]]) -> Ints:
    """(P, A) numbers of the values of brand, price level and the commonest attributes; 0 for what says nothing."""
    names = Counter(name for line in products for name in line.get("attributes") or {})
    columns = [[line.get("brand") for line in products], _price_levels(products)]
    columns += [
        [(line.get("attributes") or {}).get(name) for line in products] for name, _ in names.most_common(MOST_TRAITS)
    ]
    numbered = np.zeros((len(products), len(columns)), dtype=np.int64)
    next_number = 1
    for place, column in enumerate(columns):
        shared = [value for value, count in Counter(column).most_common(MOST_VALUES) if count > 1 and value is not None]
        numbers = {value: next_number + n for n, value in enumerate(shared)}
        numbered[:, place] = [numbers.get(value, 0) for value in column]
        next_number += len(numbers)
    return numbered


def _price_levels(products: list[dict[str, Any]]) -> list[str | None]:
    """Which quarter of its kind's prices each price is in."""
    amounts = np.array([float((line.get("price") or {}).get("amount", np.nan)) for line in products])
    levels: list[str | None] = [None] * len(products)
    kinds = _numbered(_kinds(products))
    for kind in range(kinds.max() + 1):
        priced = np.flatnonzero((kinds == kind) & np.isfinite(amounts))
        if len(priced):
            quarters = np.searchsorted(np.quantile(amounts[priced], [0.25, 0.5, 0.75]), amounts[priced])
            for place, quarter in zip(priced, quarters, strict=True):
                levels[place] = f"quarter {quarter}"
    return levels


def _numbered(names: list[str]) -> Ints:
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _zipf(length: int, exponent: float) -> Floats:
    weights = np.arange(1, length + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum())


def _drawn(cumulative: Floats, chance: np.random.Generator) -> int:
    """A place, with the chance that its step of the cumulative weights has."""
    return min(int(np.searchsorted(cumulative, chance.random() * cumulative[-1], side="right")), len(cumulative) - 1)
