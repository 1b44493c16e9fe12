"""Lists that no click asked for: a product in every list is withdrawn, a new one comes by itself; the worker dies."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from brokers import LocalKafka, settings_on
from system import System, running

from streams.events import RecommendationList
from streams.parsing import parse

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

USERS = 2_000
KINDS = {"lamp": "a lamp of brass and linen", "boat": "a wooden toy boat with a sail", "rug": "a woven rug of wool"}
OF_A_KIND = 5
EVERYWHERE = ("everywhere-1", "everywhere-2", "everywhere-3")  # nobody clicks on them, so they are in every list
PUSH_USERS = 50


class Shop:
    """Fewer products than a list has items, and shoppers who have all been there lately."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.users = [f"user-{number}" for number in range(USERS)]
        self._chance = random.Random(5)
        self._clicks = 0

    def publish(self, product_id: str, words: str) -> None:
        self._update({"op": "upsert", "product_id": product_id, "title": words, "description": words})

    def sell_out(self, product_id: str) -> None:
        self._update({"op": "patch", "product_id": product_id, "availability": "out_of_stock"})

    def delete(self, product_id: str) -> None:
        self._update({"op": "delete", "product_id": product_id})

    def click(self, user_id: str) -> None:
        """On one of the user's kind."""
        self._clicks += 1
        click = {
            "event_id": f"click-{self._clicks}",
            "user_id": user_id,
            "product_id": f"{kind_of(user_id)}-{self._chance.randrange(OF_A_KIND)}",
            "event": "view_item",
            "occurred_at": datetime.now(UTC).isoformat(),
        }
        self.system.send(self.system.names.user_clicks, user_id.encode(), orjson.dumps(click))

    def lists(self) -> list[RecommendationList]:
        """Every list, in the order in which each user got hers."""
        return [parse(RecommendationList, record.value) for record in self.system.records(self._topic)]

    def last_lists(self) -> dict[str, RecommendationList]:
        """As readers should keep them."""
        found: dict[str, RecommendationList] = {}
        for made in self.lists():
            known = found.get(made.user_id)
            if known is None or (made.revision, made.made_at) > (known.revision, known.made_at):
                found[made.user_id] = made
        return found

    def until_all(self, condition: Callable[[RecommendationList], bool], within_s: float, what: str) -> None:
        """The last list of each user fulfils it."""

        def all_do() -> bool:
            last = self.last_lists()
            return len(last) == USERS and all(map(condition, last.values()))

        self.system.until(all_do, within_s, what)

    @property
    def _topic(self) -> str:
        return self.system.names.recommendations

    def _update(self, update: dict[str, Any]) -> None:
        self.system.send(self.system.names.catalog_updates, update["product_id"].encode(), orjson.dumps(update))
        self.system.confirm()


@pytest.fixture
def shop(kafka: LocalKafka, tmp_path: Path) -> Iterator[Shop]:
    """Every user has a list, with everything in it but what she clicked."""
    with running(settings_on(kafka, tmp_path, push_users=PUSH_USERS)) as system:
        shop = Shop(system)
        for kind, words in KINDS.items():
            for number in range(OF_A_KIND):
                shop.publish(f"{kind}-{number}", f"{words} no. {number}")
        for product_id in EVERYWHERE:
            shop.publish(product_id, f"{product_id}: a thing for everybody")
        system.start("catalog", "encode", "index", "clicks", "learner")
        system.until_at_work("clicks", "learner", "encode")
        system.until_quiet(120)
        for user_id in shop.users:
            shop.click(user_id)
        system.confirm()
        shop.until_all(lambda made: set(EVERYWHERE) <= ids(made), 60, "a list with everything for each user")
        yield shop
        assert {name: ends for name, ends in system.unasked_ends().items() if set(ends) != {-9}} == {}


def test_what_is_withdrawn_leaves_every_list_and_what_is_new_comes_by_itself(shop: Shop) -> None:
    system = shop.system
    first, second, third = EVERYWHERE

    shop.sell_out(first)
    for user_id in shop.users[::20]:  # clicks go on meanwhile
        shop.click(user_id)
    system.confirm()
    shop.until_all(lambda made: not made.withdrawn and first not in ids(made), 60, f"nobody's list holds {first}")
    check_retraction(shop, first)

    shop.delete(second)
    shop.until_all(lambda made: not made.withdrawn and second not in ids(made), 60, f"nobody's list holds {second}")
    check_retraction(shop, second)

    # While no worker looks: the next one finds the lists on the topic.
    system.workers["clicks"].kill()
    shop.sell_out(third)
    system.until_quiet(30)
    system.start("clicks")
    shop.until_all(lambda made: not made.withdrawn and third not in ids(made), 90, f"nobody's list holds {third}")
    check_retraction(shop, third)

    clicks = len([made for made in shop.lists() if made.cause == "click"])
    shop.publish("boat-new", KINDS["boat"])
    system.until(lambda: len(pushes(shop)) >= PUSH_USERS, 60, "the new boat in the lists of those nearest to it")
    pushed = pushes(shop)
    assert all("boat-new" in ids(made) for made in pushed)
    assert len(pushed) == len({made.user_id for made in pushed}) == PUSH_USERS
    # Half of them by content; the other half by the factors of a model that has hardly learned anything.
    assert sum(kind_of(made.user_id) == "boat" for made in pushed) >= PUSH_USERS / 2
    assert len([made for made in shop.lists() if made.cause == "click"]) == clicks
    revisions = {user_id: row.revision for user_id, row in system.parts.users.read(shop.users).items()}
    assert {user_id: made.revision for user_id, made in shop.last_lists().items()} == revisions


def check_retraction(shop: Shop, product_id: str) -> None:
    """Who had it got a record that names it, then a whole list; no list made after the first such record holds it."""
    lists = shop.lists()
    records = [made for made in lists if product_id in made.withdrawn]
    consumed_at = min(made.made_at for made in records)
    late = [made for made in lists if made.made_at >= consumed_at and product_id in ids(made)]
    assert late == [], f"{product_id} was in a list until {late[-1].made_at - consumed_at} after it was withdrawn"
    before: dict[str, RecommendationList] = {}
    told: dict[str, list[RecommendationList]] = defaultdict(list)
    for made in lists:
        if made.made_at < consumed_at:
            before[made.user_id] = made
        else:
            told[made.user_id].append(made)
    holders = [user_id for user_id, made in before.items() if product_id in ids(made)]
    assert len(holders) > USERS / 2
    for user_id in holders:
        first = told[user_id][0]
        assert first.cause == "click" or (first.cause, first.withdrawn) == ("retraction", [product_id])
        if first.withdrawn:
            assert [item.product_id for item in first.items] == [
                item.product_id for item in before[user_id].items if item.product_id != product_id
            ]
            assert [item.rank for item in first.items] == [*range(1, len(first.items) + 1)]
            assert first.revision == before[user_id].revision


def pushes(shop: Shop) -> list[RecommendationList]:
    return [made for made in shop.lists() if made.cause == "push"]


def kind_of(user_id: str) -> str:
    """What the user likes."""
    return list(KINDS)[int(user_id.partition("-")[2]) % len(KINDS)]


def ids(made: RecommendationList) -> set[str]:
    return {item.product_id for item in made.items}
