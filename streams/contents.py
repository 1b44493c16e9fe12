"""Contents of the learner's products: their fused vectors on the axes that the second stage reads."""

from collections.abc import Iterable, Mapping

import numpy as np

from encoders.next_click import Floats
from encoders.second_stage import SecondStage

PRODUCTS_MIN = 20  # with a vector, before contents are mapped; mapped anew when there are twice as many


def place_contents(
    stage: SecondStage, rows: Mapping[str, int], vectors: Mapping[str, Floats], product_ids: Iterable[str]
) -> None:
    """Contents of these products, or of all where there are twice as many as when contents were mapped.

    rows     of the products that there are; ids without one are left out
    vectors  (W,) fused, by product id, of other products too; who has none has no content
    """
    known = stage.content_map
    if known is not None and len(next(iter(vectors.values()), known.mean)) != len(known.mean):
        known = None  # another encoder's vectors: the map is of no use for them
    wanted = PRODUCTS_MIN if known is None else 2 * known.products
    is_due = len(vectors) >= wanted and sum(product_id in vectors for product_id in rows) >= wanted
    among = rows if is_due else [product_id for product_id in product_ids if product_id in rows]
    placed = [product_id for product_id in among if product_id in vectors] if is_due or known is not None else []
    others = set(among).difference(placed)
    stage.take_content(np.array([rows[product_id] for product_id in others], np.int32))
    if not placed:
        return
    placed_rows = np.array([rows[product_id] for product_id in placed], np.int32)
    fused = np.stack([vectors[product_id] for product_id in placed])
    if is_due:
        stage.fit(placed_rows, fused)
    else:
        stage.place(placed_rows, fused)
