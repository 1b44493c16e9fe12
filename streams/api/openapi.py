"""How the routes show in /openapi.json."""

from typing import Any


def answers(example: Any) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route with an example of what it answers."""
    return {200: {"content": {"application/json": {"example": example}}}}
