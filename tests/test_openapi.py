"""The OpenAPI document says what the routes say."""

from pathlib import Path

import jsonschema
import orjson
import pytest

from streams.api.problems import Problem
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


def test_a_refusal_is_described_as_the_problem_document_that_it_is() -> None:
    described = document()
    refused, problem = described["components"]["responses"]["Refused"], described["components"]["schemas"]["Problem"]
    assert refused["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            responses = route["responses"]
            assert responses["4XX"] == {"$ref": "#/components/responses/Refused"}, (method, path)
            assert ("503" in responses) == (path not in ("/healthz",)), "keys and lists come from what may be away"
            assert all("content" in told or "$ref" in told for status, told in responses.items() if status[0] in "45")
    told = [{"at": "query.limit", "detail": "too many"}]
    jsonschema.validate(orjson.loads(Problem(422, "too many", told, more={"event_ids": ["e"]}).body), problem)
    with pytest.raises(jsonschema.ValidationError, match="'detail' is a required property"):
        jsonschema.validate({"title": "Not Found", "status": 404}, problem)
    assert "HTTPValidationError" not in orjson.dumps(described).decode(), "FastAPI's form, which no route answers"
