"""Cuts of real shops through every role on Apache Kafka: all is indexed, listed, learned, and exactly what was sent."""

import gzip
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from brokers import LocalKafka, settings_on
from system import System, running
from truth import Truth, check_all

from streams.imports import import_fashion, import_online_retail
from streams.ports import free_port
from streams.simulate import simulate

pytestmark = [pytest.mark.kafka, pytest.mark.shared_data, pytest.mark.timeout(600)]

Json = dict[str, Any]
ROLES = ("catalog", "encode", "index,api", "clicks", "learner")


def test_500_fashion_products_with_photos_and_simulated_shoppers_go_through_every_role(
    kafka: LocalKafka, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shared_data("fashion-5k")
    import_fashion(folder, tmp_path / "shop")
    products = read(tmp_path / "shop" / "catalog.jsonl")[:500]
    clicks = list(simulate(products, users=100, clicks=2_000, seed=1, days=0.02))
    settings = settings_on(kafka, tmp_path, pictures_root=folder, api_port=free_port())
    with running(settings, nice=0) as system:
        truth = play(system, products, clicks)
        asked = ask(system, f"/v1/users/{clicks[-1]['user_id']}/recommendations")
        assert len(asked["items"]) == settings.list_length
        assert {item["product_id"] for item in asked["items"]} <= truth.products.keys()
        end(system)
        check_all(system, truth)
        rows = system.parts.products.read(truth.products)
        assert {row.image_state for row in rows.values()} == {"encoded"}
        assert {len(made["items"]) for made in system.lists()[-100:]} == {settings.list_length}


def test_the_first_3000_purchases_of_300_online_retail_products_are_in_the_histories_and_learned(
    kafka: LocalKafka, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    cut(shared_data("online-retail") / "purchases.csv.gz", tmp_path / "cut" / "purchases.csv.gz", rows=30_000)
    import_online_retail(tmp_path / "cut", tmp_path / "shop")
    products = read(tmp_path / "shop" / "catalog.jsonl")[:300]
    sold = {product["product_id"] for product in products}
    clicks = [click for click in read(tmp_path / "shop" / "clicks.jsonl") if click["product_id"] in sold][:3_000]
    assert len(clicks) == 3_000
    # The purchases are of 2009: with the default age they would be learned without a list.
    settings = settings_on(kafka, tmp_path, list_max_age_s=None, api_port=free_port())
    with running(settings, nice=0) as system:
        truth = play(system, products, clicks)
        end(system)
        check_all(system, truth)


def play(system: System, products: Sequence[Json], clicks: Sequence[Json]) -> Truth:
    """Everything was sent, worked on and learned."""
    truth = Truth()
    for product in products:
        truth.update(product)
        system.send(system.names.catalog_updates, product["product_id"].encode(), orjson.dumps(product))
    for click in clicks:
        truth.click(click)
        system.send(system.names.user_clicks, click["user_id"].encode(), orjson.dumps(click))
    system.confirm()
    system.start(*ROLES)
    system.until_at_work(*ROLES)
    system.until_quiet(300)
    system.until_learned(truth.learned, 120)
    return truth


def end(system: System) -> None:
    """Every process has ended in good order, and none before."""
    assert system.unasked_ends() == {}
    assert set(system.end_all().values()) == {0}


def ask(system: System, path: str) -> Json:
    answer: Json = httpx.get(f"http://127.0.0.1:{system.settings.api_port}{path}", timeout=10).raise_for_status().json()
    return answer


def cut(source: Path, target: Path, *, rows: int) -> None:
    """The first rows of a compressed CSV file."""
    target.parent.mkdir()
    with gzip.open(source, "rb") as whole, gzip.open(target, "wb") as part:
        part.writelines(islice(whole, rows + 1))


def read(path: Path) -> list[Json]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]
