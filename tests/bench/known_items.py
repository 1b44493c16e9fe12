"""Known items among real titles: whether some words of a title find its product, by each half of the search and both.

    python -m tests.bench.known_items FOLDER [--products N]

FOLDER holds styles.csv, as `freshet import fashion` takes it; of its products N are looked for. Only their words are
encoded, since a query of words has no picture. Needs no Kafka.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from encoders.product import ProductEncoder, product_content
from encoders.version import Version
from store.vectors import OfferPoint, VectorPoint, VectorStore, open_vectors
from streams.evaluation.report import row, table
from streams.imports import import_fashion
from streams.listed_twice import ListedTwice
from streams.search import Search
from streams.search_query import WordsQuery
from streams.settings import Settings
from streams.shelf import Shelf
from streams.shelf_search import ShelfSearch
from streams.vocabulary import edits_allowed, words_in
from tests.bench.report import where

FOUND_WITHIN = 10
MODES = ("lexical", "dense", "hybrid")
ENCODED_AT_ONCE = 64
CONTENT = ("title", "brand", "category", "attributes", "description")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.known_items", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--products", type=int, default=300, help="that are looked for (300)")
    chosen = parser.parse_args()
    print(where("python -m tests.bench.known_items FOLDER") + "\n")
    with TemporaryDirectory(prefix="freshet-bench-known-") as folder:
        import_fashion(chosen.folder, Path(folder))
        catalog = [orjson.loads(line) for line in (Path(folder) / "catalog.jsonl").read_bytes().splitlines()]
        settings = Settings(home=Path(folder), device="cpu", _env_file=None)  # type: ignore[call-arg]
        encoder = ProductEncoder(Version(settings.image_encoder, settings.text_encoder), device="cpu")
        vectors, shelf = open_vectors(None, None, settings.home, ""), Shelf()
        asked = ShelfSearch(shelf)
        put_products(catalog, encoder, vectors, shelf)
        search = Search(settings, vectors, asked, ListedTwice(shelf, keeps_one=False), lambda _: encoder)
        report(search, catalog, chosen.products)
        search.close()
        vectors.close()


def put_products(catalog: list[dict[str, Any]], encoder: ProductEncoder, vectors: VectorStore, shelf: Shelf) -> None:
    """They are for sale, with the vectors of their words."""
    vectors.ensure(encoder.fingerprint, encoder.widths)
    for begin in range(0, len(catalog), ENCODED_AT_ONCE):
        some = catalog[begin : begin + ENCODED_AT_ONCE]
        contents = [product_content(**{name: one[name] for name in CONTENT if name in one}) for one in some]
        for product, encoded in zip(some, encoder.encode(contents), strict=True):
            offer = {**product, "revision": 1, "state": "listable", "created_at": 1.0}
            present = {name: v for name in encoder.widths if (v := getattr(encoded, name)) is not None}
            vectors.put_offers([OfferPoint(product["product_id"], 1, offer)])
            vectors.put_vectors([VectorPoint(product["product_id"], 1, present)])
            shelf.put_offer(product["product_id"].encode(), orjson.dumps(offer), ())


def report(search: Search, catalog: Sequence[dict[str, Any]], products: int) -> None:
    """A row for each kind of query: the share of products of which one with the same title is among the first.

    Two words are in hundreds of titles, so that beside it stands what a draw among the products with all of them has.
    """
    titles = {product["product_id"]: product["title"] for product in catalog}
    bags = [{*_words(title)} for title in titles.values()]
    wanted = random.Random(0).sample(sorted(titles), products)
    print(table((f"recall@{FOUND_WITHIN} by", "chance, of those with all words", *MODES), []))
    for words in (2, 3):
        for typo in (False, True):
            queries = [*_queries(wanted, titles, words, typo=typo)]
            by_chance = [min(1.0, FOUND_WITHIN / sum(asked <= bag for bag in bags)) for _, asked, _ in queries]
            what = f"{words} words of the title{', one misspelled' if typo else ''}"
            cells = [what, f"{sum(by_chance) / len(by_chance):.3f}"]
            for mode in MODES:
                found = 0
                for product_id, _, text in queries:
                    page = search.find(WordsQuery(q=text, mode=mode, limit=FOUND_WITHIN))["items"]  # type: ignore[arg-type]
                    found += titles[product_id] in {item["title"] for item in page}
                cells.append(f"{found / len(queries):.3f}")
            print(row(cells), flush=True)


def _queries(
    wanted: Sequence[str], titles: dict[str, str], words: int, *, typo: bool
) -> Iterator[tuple[str, set[str], str]]:
    """Products, so many words of the title of each, and the text that is typed."""
    for product_id in wanted:
        chance = random.Random(f"{product_id} {words}")  # the same words with a typo and without
        title = _words(titles[product_id])
        places = [place for place, word in enumerate(title) if len(word) > 2 and not word.isdigit()]
        long = [place for place in places if edits_allowed(title[place])]
        if len(places) < words or not long:
            continue
        wrong = chance.choice(long)
        others = chance.sample([place for place in places if place != wrong], words - 1)
        asked = [title[place] for place in sorted([wrong, *others])]
        typed = [_misspelled(word, chance) if typo and word == title[wrong] else word for word in asked]
        yield product_id, {*asked}, " ".join(typed)


def _words(title: str) -> list[str]:
    return list(dict.fromkeys("".join(parts) for parts in words_in(title)))


def _misspelled(word: str, chance: random.Random) -> str:
    """With one letter behind the first dropped, doubled, replaced or exchanged with the next."""
    at = chance.randrange(1, len(word) - 1)
    kinds = [word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]]
    kinds.append(word[:at] + chance.choice(LETTERS.replace(word[at], "")) + word[at + 1 :])
    kinds.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    return chance.choice([kind for kind in kinds if kind != word])


if __name__ == "__main__":
    main()
