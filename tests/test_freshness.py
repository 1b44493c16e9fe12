"""How long things take until they can be seen, as the roles tell it in their status."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import NAMES, Source, run
from test_clicks import Clicks, click

from store.database import open_database
from store.products import ProductStore
from store.vectors_server import ServerVectors
from streams.catalog import CatalogRole
from streams.events import pack_vector
from streams.index import AGAIN_S, IndexRole
from streams.settings import Settings


def test_a_click_is_timed_from_its_record_until_its_list_is_confirmed(tmp_path: Path) -> None:
    clicks = Clicks(tmp_path)
    record = clicks.record(click())._replace(at=time.time() - 100.0)
    outcome = clicks.compute([record], commits=False)
    assert "click_to_list_p50_s" not in clicks.role.details(), "nothing is confirmed yet"
    outcome.commit()
    assert clicks.role.details()["click_to_list_p50_s"] == pytest.approx(100.0, abs=50.0)
    clicks.compute([clicks.record(click(event_id="e2", at=time.time() - 200_000))._replace(at=0.0)])
    assert clicks.role.details()["click_to_list_p99_s"] == pytest.approx(100.0, abs=50.0), "too old: no list was made"


def test_an_update_is_timed_until_its_offer_is_confirmed_and_vectors_are_not(tmp_path: Path) -> None:
    role = CatalogRole(Settings(home=tmp_path), NAMES, ProductStore(open_database(None, tmp_path, "products")))
    upsert = {"op": "upsert", "product_id": "cup", "title": "Cup"}
    run(role, Source(NAMES.catalog_updates).message("cup", upsert, at=time.time() - 100.0))
    vectors = {"product_id": "cup", "content_revision": 1, "encoder": "ab12", "missing": []}
    vectors |= {"image": None, "text": None, "fused": None}
    run(role, Source(NAMES.product_vectors, "vectors").message("cup", vectors, at=0.0))
    assert role.details()["update_to_offer_p99_s"] == pytest.approx(100.0, abs=50.0)


def test_a_product_is_timed_from_its_change_until_offer_and_vectors_are_in_the_index(tmp_path: Path) -> None:
    store = ServerVectors(":memory:", None, "test")
    role = IndexRole(Settings(home=tmp_path), NAMES, store, "ab12", {"image": 2, "text": 2, "fused": 2}, 2)
    asyncio.run(role.start())
    offers, answers = Source(NAMES.product_index), Source(NAMES.product_vectors)
    now = time.time()

    def offer(revision: int, changed_at: float, at: float) -> Any:
        facts = {"product_id": "cup", "revision": revision, "state": "listable", "title": "Cup", "brand": None}
        facts |= {"category": [], "price": None, "availability": "in_stock", "image_links": [], "attributes": {}}
        return offers.message("cup", facts | {"changed_at": changed_at, "created_at": 1.0}, at=at)

    def answer(content_revision: int) -> Any:
        facts = {"product_id": "cup", "content_revision": content_revision, "encoder": "ab12", "missing": []}
        vector = pack_vector(np.ones(2, np.float32))
        return answers.message("cup", facts | {"image": None, "text": None, "fused": vector})

    run(role, offer(3, now - 100.0, now - 100.0), answer(2))
    assert role.details()["product_to_offer_p50_s"] == pytest.approx(100.0, abs=50.0)
    assert "product_to_vectors_p50_s" not in role.details(), "these vectors are of the content before"
    run(role, answer(3), answer(3))
    assert role.details()["product_to_vectors_p99_s"] == pytest.approx(100.0, abs=50.0)
    run(role, offer(4, now - 900.0, now - 900.0 + AGAIN_S), answer(4))
    assert role.details()["product_to_offer_p99_s"] == pytest.approx(100.0, abs=50.0), "it was published again"
    store.close()
