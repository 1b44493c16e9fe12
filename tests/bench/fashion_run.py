"""The fashion photos: how fast they become vectors, and whether a product's nearest is of its own article type."""

import csv
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
import orjson
from brokers import LocalKafka
from numpy.typing import NDArray

from store.vectors import VECTOR_NAMES
from streams.evaluation.report import table
from streams.events import unpack_vector
from streams.imports import import_fashion
from streams.replicas import Replica
from streams.up import GROUPS
from tests.bench.report import Figure, shown
from tests.bench.stage import Stage, Tell, stage

FUSED_AT_LEAST = 0.89
COMPARED_AT_ONCE = 1_000
Vectors = dict[str, NDArray[np.float32]]
"""By product id, unit vectors of one name."""


async def run_fashion(kafka: LocalKafka, folder: Path, tell: Tell, *, products: int | None) -> str:
    """The photos and titles of a fashion shop become vectors; Markdown says how fast and how well."""
    with TemporaryDirectory(prefix="freshet-bench-shop-") as shop:
        catalog = _catalog(folder, Path(shop), tell, products)
    async with stage(kafka, pictures_root=folder.resolve()) as on:
        await on.start(*GROUPS)
        began = time.monotonic()
        await on.publish(on.names.catalog_updates, catalog)
        await on.until_retrievable(len(catalog), tell)
        took_s = time.monotonic() - began
        status = (await on.http.get("/v1/status")).json()
        vectors = await _vectors(on)
    shares = _shares(vectors, _article_types(folder))
    missing = status["stores"]["products"]["pictures_missing"]
    lines = [
        f"{len(catalog):,} products with photos in {shown(took_s, 's')}: {shown(len(catalog) / took_s)} products/s "
        f"from publication to retrievable, the start of the encoder's process not counted; "
        f"pictures missing: {missing}; dead letters: {status['dead_letters']}",
        "",
        table(("nearest of the others by", "has the same articleType", "bar"), shares),
    ]
    return "\n".join(lines)


def _catalog(folder: Path, shop: Path, tell: Tell, products: int | None) -> list[dict[str, Any]]:
    """So many products, evenly over the file."""
    import_fashion(folder, shop, lambda name, lines: tell(f"imports {name}: {lines:,}"))
    lines = (shop / "catalog.jsonl").read_bytes().splitlines()
    chosen = np.linspace(0, len(lines) - 1, min(products or len(lines), len(lines))).astype(int)
    return [orjson.loads(lines[place]) for place in chosen]


async def _vectors(on: Stage) -> dict[str, Vectors]:
    """The newest vectors of each product, as they stand on the topic, by name and product."""
    newest: dict[str, dict[str, Any]] = {}

    def put(key: bytes, value: bytes | None, _: object) -> None:
        if value is not None:
            newest[key.decode()] = orjson.loads(value)

    replica = Replica(on.broker, {on.names.product_vectors: put}, Lock())
    await replica.start()
    await replica.stop()
    return {
        name: {product: unpack_vector(record[name]) for product, record in newest.items() if record[name] is not None}
        for name in VECTOR_NAMES
    }


def _shares(vectors: dict[str, Vectors], labels: dict[str, str]) -> list[tuple[str, str, str]]:
    """A row for each kind of vector."""
    rows = []
    for name in VECTOR_NAMES:
        share = _share_of_same_label(vectors[name], labels)
        bar = Figure(name, share, at_least=FUSED_AT_LEAST).cells()[3:] if name == "fused" else ("",)
        rows.append((f"{name} ({len(vectors[name]):,} products)", f"{share:.3f}", " ".join(bar)))
    return rows


def _share_of_same_label(vectors: Vectors, labels: dict[str, str]) -> float:
    """Of the products, those whose nearest other by cosine has their own label."""
    if len(vectors) < 2:
        return float("nan")
    label = np.array([labels[product_id] for product_id in vectors])
    matrix = np.stack(list(vectors.values()))  # (P, D)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    same = 0
    for begin in range(0, len(matrix), COMPARED_AT_ONCE):
        cosines = matrix[begin : begin + COMPARED_AT_ONCE] @ matrix.T
        rows = np.arange(len(cosines))
        cosines[rows, begin + rows] = -np.inf
        same += int((label[cosines.argmax(axis=1)] == label[begin + rows]).sum())
    return same / len(matrix)


def _article_types(folder: Path) -> dict[str, str]:
    """The label of each product: nothing that the encoders read."""
    with (folder / "styles.csv").open(encoding="utf-8-sig", newline="") as file:
        return {row["id"]: row["articleType"] for row in csv.DictReader(file)}
