"""The command that searches: by words, by a picture, or by both."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from streams.cli_ask import Json, Limit, ask, print_json, print_table
from streams.terminal import Failure, read_settings

app = typer.Typer()

Weight = Annotated[float, typer.Option(min=0, max=1_000, help="How much it counts beside the other.")]


@app.command(rich_help_panel="Ask")
def search(
    words: Annotated[str, typer.Argument(help='Like "red summer dress".', show_default=False)] = "",
    image: Annotated[Path | None, typer.Option(help="A picture of what is looked for: a JPEG, PNG, WebP, ...")] = None,
    words_weight: Weight = 1.0,
    image_weight: Weight = 1.0,
    by: Annotated[
        Literal["fused", "image", "text"], typer.Option(help="Which vectors of the products are looked at.")
    ] = "fused",
    mode: Annotated[
        Literal["hybrid", "dense", "lexical"],
        typer.Option(help="By vectors, by the words themselves, or both."),
    ] = "hybrid",
    user: Annotated[str, typer.Option(help="What this user is likely to click stands higher.")] = "",
    facets: Annotated[str, typer.Option(help="Count the found by these: brand,category,availability,price.")] = "",
    brand: Annotated[str | None, typer.Option(help="Only of this brand, spelled as the shop does.")] = None,
    category: Annotated[str | None, typer.Option(help="Only with this anywhere in the category path.")] = None,
    availability: Annotated[
        Literal["in_stock", "out_of_stock", "preorder", "backorder"] | None, typer.Option(help="Only these.")
    ] = None,
    price_min: Annotated[float | None, typer.Option(min=0, help="Lowest price, included.")] = None,
    price_max: Annotated[float | None, typer.Option(min=0, help="Highest price, included.")] = None,
    currency: Annotated[str | None, typer.Option(help="Of the prices, like EUR; needed if there are several.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Sold-out products, too.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Find products by words, by a picture, or by both.

    Words find products that have them, also misspelled by a letter or two, and those that say such things otherwise;
    what a picture shows they find once the encoders were taught that, see `freshet train`.
    """
    query: dict[str, Any] = {
        "q": words,
        "by": by,
        "mode": mode,
        "user": user or None,
        "facets": facets or None,
        "words_weight": words_weight,
        "image_weight": image_weight,
        "brand": brand,
        "category": category,
        "availability": availability,
        "price_min": price_min,
        "price_max": price_max,
        "currency": currency,
        "all": every,
        "limit": limit,
    }
    if image is not None:
        query["picture"] = _in_base64(image)
    made = ask("/search", body={name: value for name, value in query.items() if value is not None})
    if as_json:
        print_json(made)
        return
    _tell_how(made)
    if made["items"]:
        rows = [
            (f"{i['score']:.3f}", _places(i["ranks"]), i["title"] or "", _price(i["offer"]), i["product_id"])
            for i in made["items"]
        ]
        print_table(("score", "place by", "found", "price", "product_id"), rows)
    else:
        typer.echo("nothing is found: no product has such a vector or word and meets the conditions")
    if made["facets"]:
        _print_facets(made["facets"])


def _tell_how(made: dict[str, Any]) -> None:
    """What is to be known of the answer before one reads it."""
    if made["degraded"]:
        typer.echo(made["degraded"], err=True)
    for word, forms in made["corrected"].items():
        typer.echo(f"{word}: also {', '.join(forms)}")
    if made["unknown"]:
        typer.echo(f"in no product: {', '.join(made['unknown'])}")


def _places(ranks: dict[str, int]) -> str:
    """`words 1, vectors 3`, in the order in which they are told."""
    names = {"lexical": "words", "dense": "vectors", "user": "user"}
    return ", ".join(f"{names[name]} {rank}" for name, rank in ranks.items())


def _print_facets(facets: dict[str, Any]) -> None:
    rows = []
    for name, counted in facets.items():
        for one in counted if name != "total" else ():
            value = one.get("value") or f"{one['price_min']:.2f} to {one['price_max']:.2f} {one['currency']}"
            rows.append((name, value, str(one["count"])))
    print_table(("facet", "value", f"of {facets['total']}"), rows)


def _in_base64(image: Path) -> str:
    """The file's bytes. Raises Failure if they cannot be had, or are more than the api takes."""
    from base64 import b64encode

    most = read_settings().picture_max_bytes
    try:
        with image.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise Failure(f"{image} cannot be read ({error.strerror}): check its name") from error
    if len(content) > most:
        raise Failure(f"{image} has more than {most} bytes: shrink it or raise FRESHET_PICTURE_MAX_BYTES")
    if not content:
        raise Failure(f"{image} is empty: name a picture")
    return b64encode(content).decode()


def _price(offer: dict[str, Any]) -> str:
    price = offer.get("price")
    return f"{price['amount']:.2f} {price['currency']}" if price else ""
