"""Duplicates among real fashion photos: what is found, what of products listed again is found, and what it costs.

    python -m tests.bench.duplicates FOLDER

FOLDER holds styles.csv and images/, as `freshet import fashion` takes it. Needs no Kafka.
"""

import csv
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from encoders.picture_hash import sign_picture
from store.history import History
from store.records import Click
from streams.compiling import compile_ranking
from streams.duplicates import Duplicates
from streams.evaluation.report import row, table
from streams.picture_decoding import Picture, decode
from streams.ranking import lists_ranker
from streams.settings import Settings
from tests.bench.lists import shelf_of
from tests.bench.report import where
from tests.bench.shelf import ids_of

PIXELS_MAX = 40_000_000
AGAIN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is, JPEG of quality 60": lambda image: image,
    "three times as large": lambda image: image.resize((3 * image.width, 3 * image.height)),
    "half as large": lambda image: image.resize((image.width // 2, image.height // 2)),
    "a pixel of 60 cut off at each side": lambda image: image.crop((1, 1, image.width - 1, image.height - 1)),
}


def main() -> None:
    folder = Path(sys.argv[1])
    with (folder / "styles.csv").open(newline="") as file:
        rows = [line for line in csv.DictReader(file) if (folder / "images" / f"{line['id']}.jpg").exists()]
    titles = [line["productDisplayName"] for line in rows]
    photos = [(folder / "images" / f"{line['id']}.jpg").read_bytes() for line in rows]
    print(where("python -m tests.bench.duplicates FOLDER") + "\n")
    print(table(("", ""), []))
    pictures = [picture.array for photo in photos if isinstance(picture := decode(photo, PIXELS_MAX), Picture)]
    began = time.process_time()
    signatures = [sign_picture(picture) for picture in pictures]
    print(row(("signature of a picture of 60 x 80", f"{_us(began, len(rows)):.0f} us")))
    duplicates = Duplicates()
    duplicates.grow(2 * len(rows))
    began = time.process_time()
    for at, (title, signature) in enumerate(zip(titles, signatures, strict=True)):
        duplicates.put_offer(at, title)
        duplicates.put_picture(at, signature)
    print(row(("a product put among the others", f"{_us(began, len(rows)):.0f} us")))
    groups: dict[int, list[int]] = {}
    for at in np.flatnonzero(duplicates.group >= 0).tolist():
        groups.setdefault(int(duplicates.group[at]), []).append(at)
    print(row((f"groups among {len(rows):,}", f"{len(groups)} of {sum(map(len, groups.values()))} products")))
    for members in groups.values():
        print(row(("", "; ".join(f"{rows[at]['id']} {titles[at]}" for at in members))))
    _list_again(duplicates, titles, photos)
    _lists()


def _list_again(duplicates: Duplicates, titles: list[str], photos: list[bytes]) -> None:
    """Every tenth product once more, its photo changed and its title spelled otherwise."""
    chosen, row_of_it = range(0, len(titles), 10), len(titles)
    for name, change in AGAIN.items():
        found = wrong = 0
        for at in chosen:
            file = io.BytesIO()
            change(Image.open(io.BytesIO(photos[at])).convert("RGB")).save(file, "JPEG", quality=60)
            picture = decode(file.getvalue(), PIXELS_MAX)
            assert isinstance(picture, Picture)
            before = {at, *duplicates.others(at)}
            duplicates.put_offer(row_of_it, titles[at].upper().replace("T-SHIRT", "TSHIRT"))
            duplicates.put_picture(row_of_it, sign_picture(picture.array))
            others = {*duplicates.others(row_of_it)}
            found += at in others
            wrong += bool(others - before)
            duplicates.clear(row_of_it)
        print(row((f"listed again, {name}: found", f"{found} of {len(chosen)}, {wrong} in a group with others")))


def _lists() -> None:
    """Lists from a shelf of 20,000 of which one in a hundred is a duplicate."""
    compile_ranking()
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    shelf, product_ids = shelf_of(settings, 20_000, lambda _: None), ids_of(20_000)
    for at, product_id in enumerate(product_ids):
        place = shelf.rows[product_id]
        shelf.duplicates.put_offer(place, f"Thing {at // 2}" if at % 100 < 2 else f"Another thing {at}")
        shelf.duplicates.put_picture(place, b"")
    grouped = int((shelf.duplicates.group >= 0).sum())
    chance = np.random.default_rng(1)
    users = [
        History.of([Click(product_ids[at], "view_item", 1e9 - age) for age, at in enumerate(chance.choice(20_000, 10))])
        for _ in range(64)
    ]
    spent: dict[str, list[float]] = {}
    for _ in range(12):
        for kept in ("keep", "one"):
            ranker = lists_ranker(shelf, settings.model_copy(update={"duplicates": kept}))
            began = time.process_time()
            ranker.rank(users)
            spent.setdefault(kept, []).append(_us(began, len(users)))
    keep, one = (min(spent[kept]) for kept in ("keep", "one"))
    print(
        row((f"a list of 20,000 products, {grouped} of them duplicates: all, one of each", f"{keep:.0f}, {one:.0f} us"))
    )


def _us(began: float, count: int) -> float:
    return (time.process_time() - began) / count * 1e6


if __name__ == "__main__":
    main()
