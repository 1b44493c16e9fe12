"""Two versions of the encoders side by side: which products each has vectors of, and whose neighbours differ."""

from collections.abc import Sequence
from typing import Any

from store.encoders import EncoderRow
from store.vectors import UnknownProduct, VectorStore

NEIGHBOURS = 10


def compare(store: VectorStore, one: EncoderRow, other: EncoderRow, product_ids: Sequence[str]) -> dict[str, Any]:
    """What is told of both, how much of the shop each has encoded, and how alike the neighbours are that they find.

    product_ids  a sample; of those that have a fused vector by both the NEIGHBOURS nearest are compared: `shared` is
                 the mean share of them that both find, `jaccard` the mean of what both find among what either does

    Raises StoreUnavailable.
    """
    shared, jaccard = [], []
    for product_id in product_ids:
        ours, theirs = (_nearest(store, product_id, row.fingerprint) for row in (one, other))
        if ours and theirs:
            both = len(ours & theirs)
            shared.append(both / min(NEIGHBOURS, max(len(ours), len(theirs))))
            jaccard.append(both / len(ours | theirs))
    return {
        "versions": [_told(store, row) for row in (one, other)],
        "neighbours": NEIGHBOURS,
        "sampled": len(product_ids),
        "compared": len(shared),
        "shared": sum(shared) / len(shared) if shared else None,
        "jaccard": sum(jaccard) / len(jaccard) if jaccard else None,
    }


def _nearest(store: VectorStore, product_id: str, fingerprint: str) -> set[str]:
    try:
        return {hit.product_id for hit in store.similar(product_id, NEIGHBOURS, fingerprint=fingerprint)}
    except UnknownProduct:  # sent a moment ago, or deleted
        return set()


def _told(store: VectorStore, row: EncoderRow) -> dict[str, Any]:
    counts = store.count(fingerprint=row.fingerprint)
    return {
        "fingerprint": row.fingerprint,
        "state": row.state,
        "widths": dict(row.widths),
        "products": counts["points"],
        "with_vectors": counts["fused"] / counts["points"] if counts["points"] else None,
        "figures": figures_of(row.about),
    }


def figures_of(about: Any) -> dict[str, float]:
    """The numbers among what is told of a version, by dotted name."""
    found: dict[str, float] = {}
    for name, value in about.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": number for inner, number in figures_of(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found
