"""What the routes answer, as /openapi.json shows it: examples that several of them share."""

from typing import Any

OFFER = {
    "brand": "Lumiska",
    "category": ["Lamps", "Table lamps"],
    "price": {"amount": 49.0, "currency": "EUR"},
    "availability": "in_stock",
    "image_link": "https://shop.example/lamp.jpg",
}
ITEM = {"product_id": "lamp-7", "title": "Brass table lamp", "offer": OFFER}


def answers(example: Any, status: int = 200, description: str | None = None) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route with an example of what it answers."""
    told = {} if description is None else {"description": description}
    return {status: {**told, "content": {"application/json": {"example": example}}}}
