"""The OpenAPI document says what the routes say."""

from pathlib import Path

import orjson
import pytest

from streams.openapi import document, render

COMMITTED = Path(__file__).parent.parent / "docs" / "openapi.json"


def test_the_committed_document_is_the_one_that_the_routes_make_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRESHET_DATABASE_URL", "postgresql://nobody@nowhere/nothing")
    assert COMMITTED.read_bytes() == render(), "run: python -m streams.openapi docs/openapi.json"


def test_every_route_under_v1_may_be_refused_a_key_and_every_reference_leads_somewhere() -> None:
    described = document()
    asked = {path: methods for path, methods in described["paths"].items() if path.startswith("/v1/")}
    assert len(asked) > 10
    for path, methods in asked.items():
        for method, route in methods.items():
            assert route["security"], f"{method} {path} asks for no key"
    schemas = described["components"]["schemas"]
    text = orjson.dumps(described).decode()
    for reference in text.split('"$ref":"#/components/schemas/')[1:]:
        assert reference.partition('"')[0] in schemas
