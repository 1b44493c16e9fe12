"""The AsyncAPI document says what the contracts and the topics say."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml

from streams.asyncapi import CHANNELS, document, render
from streams.parsing import parse_catalog_update, parse_click
from streams.topics import TopicNames

COMMITTED = Path(__file__).parent.parent / "docs" / "asyncapi.yaml"
FIELDS = [field.name for field in fields(TopicNames)]
DOCUMENT = document()


def channel_of(field: str) -> dict[str, Any]:
    channel: dict[str, Any] = DOCUMENT["channels"][field.replace("_", "-")]
    return channel


def test_the_committed_document_is_the_one_that_the_contracts_make() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == render(), "run: python -m streams.asyncapi docs/asyncapi.yaml"


def test_yaml_gives_the_document_back() -> None:
    assert yaml.safe_load(render()) == DOCUMENT


@pytest.mark.parametrize("field", FIELDS)
def test_every_topic_has_an_address_and_the_schemas_of_key_and_value(field: str) -> None:
    message = channel_of(field)["messages"]["value"]
    assert channel_of(field)["address"].startswith(field.replace("_", "-"))
    assert message["bindings"]["kafka"]["key"]["type"] in ("string", "null")
    contracts = [reference.rpartition("/")[2] for reference in references_in(message["payload"])]
    assert contracts
    assert all(DOCUMENT["components"]["schemas"][name]["required"] for name in contracts)


def test_every_consumed_topic_has_its_dead_letters() -> None:
    letters = [name for name in DOCUMENT["channels"] if name.endswith(".dead-letters")]
    assert sorted(letters) == [
        "catalog-updates.dead-letters",
        "encode-requests.dead-letters",
        "product-index.dead-letters",
        "product-vectors.dead-letters",
        "user-clicks.dead-letters",
        "user-embeddings.dead-letters",
    ]


def test_every_reference_leads_somewhere() -> None:
    for reference in references_in(DOCUMENT):
        place = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_the_examples_pass_their_contract_and_their_schema() -> None:
    update, click = CHANNELS["catalog_updates"].example, CHANNELS["user_clicks"].example
    assert update is not None
    assert click is not None
    assert parse_catalog_update(b"lamp-7", orjson.dumps(update)).product_id == "lamp-7"
    assert parse_click(b"u-1", orjson.dumps(click), future_limit_s=1e12) is not None
    for field, example in (("catalog_updates", update), ("user_clicks", click)):
        jsonschema.validate(example, schema_of(field))


def test_the_schema_of_a_click_refuses_an_event_that_nobody_knows() -> None:
    click = CHANNELS["user_clicks"].example
    assert click is not None
    with pytest.raises(jsonschema.ValidationError, match="is not valid under any of the given schemas"):
        jsonschema.validate(click | {"event": "glance"}, schema_of("user_clicks"))
    past = {name: click[name] for name in ("product_id", "event", "occurred_at")}
    identify = {**click, "event": "identify", "clicks": [past]}
    jsonschema.validate(identify, schema_of("user_clicks"))
    assert parse_click(b"u-1", orjson.dumps(identify), future_limit_s=1e12) is not None
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(identify | {"clicks": []}, schema_of("user_clicks"))


def test_null_values_are_described_where_they_mean_something() -> None:
    described = {field for field in FIELDS if "tombstone" in channel_of(field)["messages"]}
    assert described >= {"catalog_updates", "user_clicks", "product_index", "encode_requests"}
    assert "recommendations" not in described


def test_a_compacted_topic_says_so_and_a_short_lived_one_for_how_long() -> None:
    compacted = channel_of("product_index")["bindings"]["kafka"]["topicConfiguration"]
    short_lived = channel_of("recommendations")["bindings"]["kafka"]["topicConfiguration"]
    assert compacted == {"cleanup.policy": ["compact"]}
    assert short_lived == {"retention.ms": 86_400_000}


def schema_of(field: str) -> dict[str, Any]:
    """A topic's value schema that a validator can resolve by itself."""
    return {**channel_of(field)["messages"]["value"]["payload"], "components": DOCUMENT["components"]}


def references_in(part: Any) -> list[str]:
    if isinstance(part, list):
        return [found for inner in part for found in references_in(inner)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [found for inner in part.values() for found in references_in(inner)]
