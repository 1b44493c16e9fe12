"""What the routes answer: packed, and as /openapi.json shows it, in examples that several of them share."""

from typing import Any

import orjson
from fastapi.responses import Response

Answer = dict[str, Any]
"""What a route answers with, where it packs its answer itself: its `response_model`."""
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


def packed(answer: Answer) -> Response:
    """The answer as JSON. Routes that are asked often pack it in their own thread: FastAPI would in the one of all."""
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
