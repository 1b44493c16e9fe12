"""Lists for a person, made where they are asked for: from her row and the shelf as they are at this moment."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from encoders.repeat_purchases import how_due
from store.conditions import ANY, Conditions
from store.history import History
from store.records import Click, StoreUnavailable, UserRow
from store.users import UserStore
from streams.events import ClickEvent, Id, Segment
from streams.experiment_ranking import ExperimentRanker, Listed
from streams.experiments import RunningExperiment
from streams.filters import BadQuery, PageQuery
from streams.ranking import Narrowing
from streams.rules import DEFAULT_SCENARIO
from streams.settings import Settings
from streams.shelf import Shelf
from streams.shelf_offers import ShelfOffers

NAMED_MAX = 200  # products of one request
SERVER_WAITS = 4  # while rows come from a server; where all is in this process, calls only wait for one another
Answer = dict[str, Any]


class ListQuery(PageQuery):
    """What is asked of a list."""

    segment: Segment = None
    exclude: list[Id] = Field(
        default_factory=list,
        max_length=NAMED_MAX,
        description="products that are not to be listed, nor their duplicates; may be repeated",
    )
    scenario: Annotated[
        str | None, Field(max_length=100, description="where the list is shown, by a name that the shop's rules know")
    ] = None
    explain: Annotated[bool, Field(description="each item says how its score came about")] = False


class Viewed(BaseModel):
    """A product that a visitor has looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product_id: Id
    event: ClickEvent = "view_item"
    age_s: Annotated[
        float | None, Field(ge=0, le=1e9, allow_inf_nan=False, description="how long ago; as the one before it")
    ] = None


class VisitorQuery(ListQuery):
    """The same for somebody of whom nothing is held."""

    recently_viewed: list[Id | Viewed] = Field(default_factory=list, max_length=NAMED_MAX, description="newest first")

    def history(self, now: float) -> History:
        """Her clicks, as a row would have them."""
        clicks, age_s = [], 0.0
        for told in self.recently_viewed:
            viewed = Viewed(product_id=told) if isinstance(told, str) else told
            age_s = age_s if viewed.age_s is None else viewed.age_s
            clicks.append(Click(viewed.product_id, viewed.event, now - age_s))
        return History.of(clicks)


class Asked(NamedTuple):
    """A list that somebody asks for."""

    query: ListQuery
    user_id: str | None  # None: a visitor's, whose query is a VisitorQuery


class _Narrowed(NamedTuple):
    """What a list may hold, by the query: lists of the same are ranked together."""

    conditions: Conditions
    exclude: tuple[str, ...]
    explain: bool
    scenario: str
    limit: int

    @classmethod
    def of(cls, query: ListQuery, shelf: Shelf) -> "_Narrowed":
        """Raises BadQuery."""
        conditions, scenario = query.conditions(shelf.currencies), query.scenario or DEFAULT_SCENARIO
        return cls(conditions, tuple(sorted(query.exclude)), query.explain, scenario, query.limit)

    def rows(self, shelf: Shelf, offers: ShelfOffers) -> Narrowing:
        """The same by rows; the shelf's lock is held."""
        allowed = None if self.conditions == ANY else offers.meeting(self.conditions)
        known = [row for product_id in self.exclude if (row := shelf.rows.get(product_id)) is not None]
        return Narrowing(allowed, np.array(known, np.int32), explain=self.explain, scenario=self.scenario)


class LiveLists:
    """Answers in any thread. Its methods raise what ended the shelf's reader, if something did: a list from a stale
    shelf might hold what sold out."""

    def __init__(
        self,
        shelf: Shelf,
        users: UserStore,
        settings: Settings,
        check: Callable[[], None],
        experiment: RunningExperiment | None = None,
    ) -> None:
        """The shelf is empty yet; check raises what ended its reader, which fills the experiment, too."""
        self._shelf = shelf
        self._offers = shelf.keep_offers()
        self._users = users
        self._settings = settings
        self.length = settings.list_length  # of the lists on the topic
        self.at_work = 1 if settings.database_url is None else SERVER_WAITS  # calls of `make` that pay at a time
        self._check = check
        self._experiment = experiment or RunningExperiment()
        self._idle: list[ExperimentRanker] = []  # each is for one thread at a time

    @property
    def has_products(self) -> bool:
        """False while nothing is offered."""
        return bool(len(self._shelf))

    def of_user(self, user_id: str, query: ListQuery) -> Answer:
        """The list of `make` for one user. Raises BadQuery, StoreUnavailable."""
        [made] = self.make([Asked(query, user_id)])
        if isinstance(made, Exception):
            raise made
        return made

    def make(self, asked: Sequence[Asked]) -> list[Answer | BadQuery | StoreUnavailable]:
        """Lists for this moment, as on the topic `recommendations`, also for users who are not known. In the place of a
        list stands what is wrong with its query, and of a user's that her row cannot be read. Made together they cost
        much less than one by one.

        If a user takes part in an experiment, her list is her variant's. Of a visitor nothing is kept, and she takes
        part in none. Each item tells the product's title and offer.
        """
        self._check()
        made: dict[int, Answer | BadQuery | StoreUnavailable] = {}
        rows: dict[str, UserRow] = {}
        try:
            rows = self._users.read({one.user_id for one in asked if one.user_id is not None})
        except StoreUnavailable as away:
            made = {place: away for place, one in enumerate(asked) if one.user_id is not None}
        now = datetime.now(UTC)
        histories = []
        for one in asked:
            if isinstance(one.query, VisitorQuery):
                histories.append(one.query.history(now.timestamp()))
            else:
                row = rows.get(one.user_id or "")
                histories.append(History.of(row.clicks if row else ()))
        alike: dict[_Narrowed, list[int]] = defaultdict(list)
        for place, one in enumerate(asked):
            if place in made:
                continue
            try:
                alike[_Narrowed.of(one.query, self._shelf)].append(place)
            except BadQuery as bad:
                made[place] = bad
        for narrowed, places in alike.items():
            lists = self._rank(narrowed, [asked[p] for p in places], [histories[p] for p in places], now.timestamp())
            for place, listed in zip(places, lists, strict=True):
                made[place] = self._told(asked[place], rows, listed, now)
        return [made[place] for place in range(len(asked))]

    def recently_viewed(self, user_id: str, query: PageQuery) -> dict[str, Any]:
        """What she clicked last and is for sale: each product once, the newest first."""
        clicks: dict[str, Click] = {}
        for click in self._clicks(user_id):
            clicks.setdefault(click.product_id, click)
        told = {one.product_id: {"event": one.event, "occurred_at": _iso(one.occurred_at)} for one in clicks.values()}
        return {"user_id": user_id, "items": self._for_sale(told, query)}

    def buy_again(self, user_id: str, query: PageQuery) -> dict[str, Any]:
        """What she bought more than once, or a while ago, and is for sale: first what is due the most.

        A product is due by the mean time between her purchases of it, 30 days if there was one alone: the nearer that
        time since the last one, the more (encoders.repeat_purchases). Equally due ones: last bought first.
        """
        bought: dict[str, list[float]] = {}
        for click in self._clicks(user_id):
            if click.event == "purchase":
                bought.setdefault(click.product_id, []).append(click.occurred_at)
        now = datetime.now(UTC).timestamp()
        due = {product_id: score for product_id, at in bought.items() if (score := how_due(at, now)) is not None}
        told = {
            product_id: {
                "score": round(due[product_id], 6),
                "purchases": len(bought[product_id]),
                "bought_at": _iso(max(bought[product_id])),
            }
            for product_id in sorted(due, key=lambda one: (-due[one], -max(bought[one]), one))
        }
        return {"user_id": user_id, "items": self._for_sale(told, query)}

    def with_titles(self, record: dict[str, Any]) -> dict[str, Any]:
        """A list of the topic, its items told as here."""
        shelf = self._shelf
        with shelf.lock:
            rows = [shelf.rows.get(item["product_id"]) for item in record["items"]]
            items = [
                item if row is None else item | {"title": shelf.titles[row], "offer": self._offers.told(row)}
                for item, row in zip(record["items"], rows, strict=True)
            ]
        return {**record, "items": items}

    # --- one list ------------------------------------------------------------------------------------------------

    def _rank(
        self, narrowed: "_Narrowed", asked: Sequence[Asked], histories: Sequence[History], at: float
    ) -> list[Listed]:
        """Lists that hold the same, with titles and offers."""
        shelf, offers = self._shelf, self._offers
        try:
            ranker = self._idle.pop()
        except IndexError:  # all are in use by other threads
            ranker = ExperimentRanker(shelf, self._settings, self._experiment)
        try:
            with shelf.lock:
                lists = ranker.rank_narrowed(
                    histories,
                    narrowed.rows(shelf, offers),
                    user_ids=[one.user_id for one in asked],
                    at=at,
                    length=narrowed.limit,
                    segments=[one.query.segment for one in asked],
                )
                for made in lists:
                    for item in made.items:
                        row = shelf.rows[item["product_id"]]
                        item |= {"title": shelf.titles[row], "offer": offers.told(row)}
        finally:
            self._idle.append(ranker)
        return lists

    def _told(self, asked: Asked, rows: Mapping[str, UserRow], made: Listed, now: datetime) -> Answer:
        epoch, sequence = self._shelf.weights_version
        told: Answer = {"list_id": made.list_id}
        if asked.user_id is not None:
            row = rows.get(asked.user_id)
            told |= {"user_id": asked.user_id, "revision": row.revision if row else 0}
        told["made_at"] = now.isoformat()
        if asked.query.scenario is not None:
            told["scenario"] = asked.query.scenario
        if made.experiment is not None:
            told["experiment"] = made.experiment
        return told | {"versions": {"weights": f"{epoch}.{sequence}"}, "items": made.items}

    # --- what she had --------------------------------------------------------------------------------------------

    def _clicks(self, user_id: str) -> History:
        self._check()
        row = self._users.read([user_id]).get(user_id)
        return History.of(row.clicks if row else ())

    def _for_sale(self, told: dict[str, dict[str, Any]], query: PageQuery) -> list[dict[str, Any]]:
        """The first of these products that are listable and pass the filters, with what is told of each."""
        shelf, conditions = self._shelf, query.conditions(self._shelf.currencies)
        items: list[dict[str, Any]] = []
        with shelf.lock:
            allowed = shelf.listable if conditions == ANY else shelf.listable & self._offers.meeting(conditions)
            for product_id, more in told.items():
                row = shelf.rows.get(product_id)
                if row is not None and allowed[row]:
                    offer = self._offers.told(row)
                    items.append({"product_id": product_id, "title": shelf.titles[row], **more, "offer": offer})
                if len(items) == query.limit:
                    break
        return items


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
