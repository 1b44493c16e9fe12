"""Experiments, and what each user that takes part did: counts that are written with her row, or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Engine,
    Table,
    Text,
    and_,
    case,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from store.database import metadata, reading, transaction

STARTING_LOCK = 470_211_125  # advisory lock in PostgreSQL: of two who start at once, the second one sees the first
COUNTS = ("lists", "clicks", "carts", "purchases", "all_carts", "all_purchases", "first_team", "second_team")

experiments = Table(
    "experiments",
    metadata,
    Column("name", Text, primary_key=True),
    Column("document", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("stopped_at", Double),
)

# The user comes first in the key: whoever is forgotten is looked up by it, and a report reads the table once.
experiment_users = Table(
    "experiment_users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("experiment", Text, primary_key=True),
    Column("variant", Text, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in COUNTS),
)


class ExperimentRefused(Exception):
    """It cannot be started or stopped as things are; str() says what to do."""


@dataclass(frozen=True, slots=True)
class ExperimentRow:
    """An experiment that was started; its name is used once, because counts are kept by it."""

    name: str
    document: str  # JSON, as it was started
    started_at: float  # s since 1970
    stopped_at: float | None = None


@dataclass(slots=True)
class UserCounts:
    """What a user did in an experiment, or what is to be added to that."""

    user_id: str
    experiment: str
    variant: str  # "": lists drawn from two
    lists: int = 0  # that were published after her clicks
    clicks: int = 0  # on items of the experiment's lists
    carts: int = 0  # put into the basket from such lists
    purchases: int = 0  # from such lists
    all_carts: int = 0  # from anywhere
    all_purchases: int = 0
    first_team: int = 0  # clicks on items of the first variant in drawn lists
    second_team: int = 0


class VariantSums(NamedTuple):
    """Sums over the users of a variant."""

    variant: str
    users: int
    lists: int
    clicks: int
    lists_2: int  # sum of the squares
    clicks_2: int
    lists_clicks: int  # sum of the products
    clicked: int  # users with at least one
    put_into_cart: int
    bought: int
    put_into_cart_at_all: int
    bought_at_all: int
    team_clicks: int  # of both teams
    first_wins: int  # users with more clicks on the first team's items
    second_wins: int
    ties: int  # users with as many on both, and not none


@dataclass(frozen=True, slots=True)
class Started:
    """What came of a start."""

    row: ExperimentRow
    is_new: bool = True  # False: it was running already


class ExperimentStore:
    """All experiments and their sums. Its methods raise StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> list[ExperimentRow]:
        """The one that was started last comes first."""
        statement = select(experiments).order_by(experiments.c.started_at.desc(), experiments.c.name)
        with reading(self._engine) as connection:
            return [ExperimentRow(*row) for row in connection.execute(statement)]

    def start(self, name: str, document: str, now: float) -> Started:
        """It runs. To start what runs, with the same document, changes nothing.

        Raises ExperimentRefused if another one runs, or the name was used before.
        """
        with transaction(self._engine) as connection:
            if connection.dialect.name == "postgresql":  # SQLite's transaction is alone anyway
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": STARTING_LOCK})
            for row in [ExperimentRow(*row) for row in connection.execute(select(experiments))]:
                if row.name == name and row.stopped_at is None and row.document == document:
                    return Started(row, is_new=False)
                if row.stopped_at is None:
                    raise ExperimentRefused(f"the experiment {row.name} runs: stop it with `freshet experiments stop`")
                if row.name == name:
                    raise ExperimentRefused(f"the name {name} was used, its counts are kept: give it another one")
            made = ExperimentRow(name, document, now)
            values = {"name": name, "document": document, "started_at": now, "stopped_at": None}
            # Of one that was removed a worker may have written counts behind that.
            connection.execute(delete(experiment_users).where(experiment_users.c.experiment == name))
            connection.execute(insert(experiments), values)
            return Started(made)

    def stop(self, name: str, now: float) -> None:
        """It runs no more, from then on."""
        is_running = and_(experiments.c.name == name, experiments.c.stopped_at.is_(None))
        with transaction(self._engine) as connection:
            connection.execute(update(experiments).where(is_running).values(stopped_at=now))

    def remove(self, name: str) -> None:
        """Neither it nor its counts are held any more. Raises ExperimentRefused if it runs, or is not there."""
        own = experiments.c.name == name
        with transaction(self._engine) as connection:
            row = connection.execute(select(experiments.c.stopped_at).where(own)).one_or_none()
            if row is None:
                raise ExperimentRefused(f"there is no experiment {name}: `freshet experiments show` lists them")
            if row.stopped_at is None:
                raise ExperimentRefused(f"the experiment {name} runs: stop it with `freshet experiments stop`")
            connection.execute(delete(experiments).where(own))
            connection.execute(delete(experiment_users).where(experiment_users.c.experiment == name))

    def sums(self, name: str) -> dict[str, VariantSums]:
        """By the names of those variants that have users."""
        with reading(self._engine) as connection:
            rows = connection.execute(_sums(name)).all()
        return {row[0]: VariantSums(row[0], *map(int, row[1:])) for row in rows}

    def of_user(self, user_id: str) -> list[dict[str, Any]]:
        """All that is held of a user here."""
        statement = select(experiment_users).where(experiment_users.c.user_id == user_id)
        with reading(self._engine) as connection:
            rows = connection.execute(statement.order_by(experiment_users.c.experiment)).mappings().all()
        return [{name: value for name, value in row.items() if name != "user_id"} for row in rows]


def addition_of_counts(engine: Engine) -> str:
    """The statement that adds a user's counts. Text, for the reason that store.database.write_of_next_revision has."""
    upsert = insert(experiment_users)
    added = {name: experiment_users.c[name] + upsert.excluded[name] for name in COUNTS}
    return str(upsert.on_conflict_do_update(index_elements=["user_id", "experiment"], set_=added).compile(engine))


def add_counts(connection: Connection, addition: str, counts: Sequence[UserCounts]) -> None:
    """They are added, once the transaction of the connection is through. addition: of addition_of_counts."""
    if counts:
        # In the order of the keys, so that two workers with the same users wait instead of blocking each other.
        ordered = sorted(counts, key=lambda one: (one.user_id, one.experiment))
        connection.exec_driver_sql(addition, [_values(one) for one in ordered])


def forget_counts(connection: Connection, user_id: str) -> None:
    """Nothing of this user is left, once the transaction of the connection is through."""
    connection.execute(delete(experiment_users).where(experiment_users.c.user_id == user_id))


def _values(one: UserCounts) -> dict[str, Any]:
    named = {"user_id": one.user_id, "experiment": one.experiment, "variant": one.variant}
    return named | {name: getattr(one, name) for name in COUNTS}


def _sums(name: str) -> Any:
    c = experiment_users.c
    first, second = c.first_team, c.second_team
    return (
        select(
            c.variant,
            func.count(),
            func.sum(c.lists),
            func.sum(c.clicks),
            func.sum(c.lists * c.lists),
            func.sum(c.clicks * c.clicks),
            func.sum(c.lists * c.clicks),
            *(_users(c[done] > 0) for done in ("clicks", "carts", "purchases", "all_carts", "all_purchases")),
            func.sum(first + second),
            _users(first > second),
            _users(second > first),
            _users(and_(first == second, first > 0)),
        )
        .where(c.experiment == name)
        .group_by(c.variant)
    )


def _users(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """How many of them it is true for."""
    counted: ColumnElement[int] = func.sum(case((condition, 1), else_=0))
    return counted
