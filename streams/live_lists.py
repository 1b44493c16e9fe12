"""Lists for a person, made where they are asked for: from her row and the shelf as they are at this moment."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from encoders.repeat_purchases import how_due
from store.conditions import ANY
from store.history import History
from store.records import Click
from store.users import UserStore
from streams.events import ClickEvent, Id, Segment
from streams.experiment_ranking import ExperimentRanker, Listed
from streams.experiments import RunningExperiment
from streams.filters import PageQuery
from streams.ranking import Narrowing
from streams.settings import Settings
from streams.shelf import Shelf

NAMED_MAX = 200  # products of one request
AT_ONCE = 4  # while rows come over the network; else lists would only wait for the shelf and for Python, one another


class ListQuery(PageQuery):
    """What is asked of a list."""

    segment: Segment = None
    exclude: list[Id] = Field(
        default_factory=list,
        max_length=NAMED_MAX,
        description="products that are not to be listed, nor their duplicates; may be repeated",
    )
    scenario: Annotated[
        str | None, Field(max_length=100, description="where the list is shown, by a name of the shop's")
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
        self.at_once = 1 if settings.database_url is None else AT_ONCE  # lists that it pays to make side by side
        self._check = check
        self._experiment = experiment or RunningExperiment()
        self._idle: list[ExperimentRanker] = []  # each is for one thread at a time

    def of_user(self, user_id: str, query: ListQuery) -> dict[str, Any]:
        """A list for this moment, as on the topic `recommendations`, also for a user who is not known.

        If she takes part in an experiment, it is her variant's.

        Each item tells the product's title and offer. Raises BadQuery, StoreUnavailable.
        """
        self._check()
        row = self._users.read([user_id]).get(user_id)
        history = History.of(row.clicks if row else ())
        now = datetime.now(UTC)
        return self._list(history, query, now, {"user_id": user_id, "revision": row.revision if row else 0})

    def of_visitor(self, query: VisitorQuery) -> dict[str, Any]:
        """The same after what she looked at, of which nothing is kept. She takes part in no experiment. Raises
        BadQuery."""
        self._check()
        now = datetime.now(UTC)
        return self._list(query.history(now.timestamp()), query, now, {})

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

    def _list(self, history: History, query: ListQuery, now: datetime, whose: dict[str, Any]) -> dict[str, Any]:
        made = self._rank(history, query, now.timestamp(), whose.get("user_id"))
        epoch, sequence = self._shelf.weights_version
        head = {"list_id": made.list_id, **whose, "made_at": now.isoformat()}
        if query.scenario is not None:
            head["scenario"] = query.scenario
        if made.experiment is not None:
            head["experiment"] = made.experiment
        return {**head, "versions": {"weights": f"{epoch}.{sequence}"}, "items": made.items}

    def _rank(self, history: History, query: ListQuery, at: float, user_id: str | None) -> Listed:
        shelf, offers = self._shelf, self._offers
        conditions = query.conditions(shelf.currencies)
        idle = self._idle.pop() if self._idle else None
        ranker = idle or ExperimentRanker(shelf, self._settings, self._experiment)
        try:
            with shelf.lock:
                known = [row for product_id in query.exclude if (row := shelf.rows.get(product_id)) is not None]
                narrowing = Narrowing(
                    None if conditions == ANY else offers.meeting(conditions),
                    np.array(known, np.int32),
                    explain=query.explain,
                )
                made = ranker.rank_narrowed(
                    history, narrowing, user_id=user_id, at=at, length=query.limit, segment=query.segment
                )
                for item in made.items:
                    row = shelf.rows[item["product_id"]]
                    item |= {"title": shelf.titles[row], "offer": offers.told(row)}
        finally:
            self._idle.append(ranker)
        return made

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
