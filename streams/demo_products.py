"""Products that a visitor of `freshet demo` publishes, with pictures of their own."""

import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER = "yours"  # below pictures_root
PICTURES_MAX = 500
QUALITY = 92  # of a JPEG: an encoder sees no difference


class TooManyPictures(Exception):
    """The folder holds PICTURES_MAX."""


def own_product(title: str, price: float | None, *, has_picture: bool) -> dict[str, Any]:
    """An upsert for `catalog-updates` under a new id; price in EUR. Its picture lies where store_picture puts it."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
    product_id = f"yours-{words or 'product'}-{uuid.uuid4().hex[:6]}"
    upsert: dict[str, Any] = {"op": "upsert", "product_id": product_id, "title": title, "availability": "in_stock"}
    if price is not None:
        upsert["price"] = {"amount": price, "currency": "EUR"}
    if has_picture:
        upsert["image_links"] = [f"{FOLDER}/{product_id}.jpg"]
    return upsert


def store_picture(upsert: Mapping[str, Any], picture: NDArray[np.uint8], pictures_root: Path) -> Path:
    """The own product's picture lies at this path, to which its link leads.

    picture  (H, W, 3) RGB; only what it shows is stored, and nothing that a camera wrote beside it

    Raises TooManyPictures.
    """
    path: Path = pictures_root / upsert["image_links"][0]
    path.parent.mkdir(exist_ok=True)
    if sum(1 for _ in path.parent.iterdir()) >= PICTURES_MAX:
        raise TooManyPictures(f"the demo keeps {PICTURES_MAX} pictures of yours, and has them: start it anew")
    Image.fromarray(picture).save(path, quality=QUALITY)
    return path
