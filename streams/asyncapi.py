"""The AsyncAPI 3.0 document of every topic, made from the contracts: `python -m streams.asyncapi docs/asyncapi.yaml`.

Needs PyYAML (the extra `dev`). The workers never import this module.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from streams.events import (
    CatalogUpdate,
    EncodeRequest,
    EncoderVersion,
    Offer,
    ProductVectors,
    RecommendationList,
    TrainingExample,
    UserEmbedding,
    UserEvent,
    WorkerStatus,
)
from streams.experiments import PublishedExperiment
from streams.model_events import ItemFactors, ItemNeighbours, ModelRecord
from streams.rules import RuleSet
from streams.settings import Settings
from streams.topics import Topic, TopicNames, topic_names, topics_of

Json = dict[str, Any]
DESCRIPTION = (
    "Values are UTF-8 JSON, checked strictly: no coercion, no NaN, no NUL character. A field that the contract does "
    "not know is ignored and counted. Keys are raw UTF-8; the partition is the key's murmur2 hash. Vectors are base64 "
    "of little-endian float32. A namespace `shop-a` puts `shop-a.` before every topic. What breaks a contract goes to "
    "the topic's `.dead-letters` with the reason. What an operator publishes again from there carries the header "
    "`replayed-from`, the place where it stood before. Clicks and "
    "lists may carry `traceparent` (W3C Trace Context): a list belongs to the trace of its newest click."
)
FINGERPRINT: Json = {"fingerprint": {"description": "hash of every weight and setting of the encoder"}}

PRODUCT_KEY: Json = {"type": "string", "minLength": 1, "maxLength": 200, "description": "product_id"}
USER_KEY: Json = {"type": "string", "minLength": 1, "maxLength": 200, "description": "user_id"}


@dataclass(frozen=True)
class Channel:
    """A topic as a reader of the document sees it; what a null value means, where one is allowed."""

    contract: Any
    key: Json
    summary: str
    writer: str
    readers: tuple[str, ...]
    null: str | None = None
    example: Json | None = None


CHANNELS: dict[str, Channel] = {
    "catalog_updates": Channel(
        CatalogUpdate,
        PRODUCT_KEY,
        "The shop tells of a product: all of it, some fields, or that it is gone.",
        "shop",
        ("catalog",),
        null="Delete the product of this key.",
        example={
            "op": "upsert",
            "product_id": "lamp-7",
            "title": "Desk lamp, brass",
            "category": ["Home", "Lamps"],
            "price": {"amount": 39.5, "currency": "EUR"},
            "availability": "in_stock",
        },
    ),
    "user_clicks": Channel(
        UserEvent,
        USER_KEY,
        "A shopper viewed, selected, put into the basket or bought a product; or a visitor turned out to be her.",
        "shop",
        ("clicks",),
        null="Forget the user of this key.",
        example={
            "event_id": "e-1",
            "user_id": "u-1",
            "product_id": "lamp-7",
            "event": "view_item",
            "occurred_at": "2026-01-31T12:00:00.250Z",
        },
    ),
    "product_index": Channel(
        Offer,
        PRODUCT_KEY,
        "What is for sale now.",
        "catalog",
        ("index", "clicks", "learner", "api"),
        null="Deleted; the header `revision` is its last revision.",
    ),
    "encode_requests": Channel(
        EncodeRequest,
        PRODUCT_KEY,
        "All that an encoder reads of a product, sent when it has changed.",
        "catalog",
        ("encode",),
        null="Deleted; the header `revision` is its last revision.",
    ),
    "product_vectors": Channel(
        ProductVectors,
        PRODUCT_KEY,
        "A product's image, text and fused vectors by one encoder, and what was missing.",
        "encode",
        ("catalog", "index", "clicks", "learner", "api"),
        null="Deleted; the header `revision` is its last revision.",
    ),
    "user_embeddings": Channel(
        UserEmbedding,
        USER_KEY,
        "The embedding of a user who was active lately, some time after her clicks, for look-alikes.",
        "clicks",
        ("index",),
        null="The user was forgotten; the header `revision` is her last revision.",
    ),
    "training_examples": Channel(
        TrainingExample,
        {"type": "null", "description": "no key: the record stands in the partition of its click"},
        "One accepted click with the history before it; names no user.",
        "clicks",
        ("learner",),
    ),
    "item_factors": Channel(
        ItemFactors,
        PRODUCT_KEY,
        "A product's row of the next-click model.",
        "learner",
        ("clicks", "api"),
        null="The product has no row any more.",
    ),
    "item_neighbours": Channel(
        ItemNeighbours,
        PRODUCT_KEY,
        "The products most often clicked after this one, and together with it.",
        "learner",
        ("clicks", "api"),
        null="The product has no row any more.",
    ),
    "model_weights": Channel(
        ModelRecord,
        {
            "type": "string",
            "enum": ["next-click", "content-map", "second-stage"],
            "description": "the name in the value",
        },
        "What all products share in the next-click model, in the map of contents and in the second stage.",
        "learner",
        ("clicks", "api"),
    ),
    "recommendations": Channel(
        RecommendationList,
        USER_KEY,
        "A user's list after the clicks that it names.",
        "clicks",
        ("shop",),
    ),
    "worker_status": Channel(
        WorkerStatus,
        {"type": "string", "description": "<worker_id>/<role>"},
        "What a role says of itself, about once a second.",
        "every role",
        ("command line", "api"),
    ),
    "encoders": Channel(
        EncoderVersion,
        {"type": "string", "minLength": 1, "maxLength": 40, "description": "the fingerprint"},
        "A version of the encoders: whether it is filled, and whether it serves.",
        "catalog",
        ("encode", "index", "clicks", "learner", "api"),
    ),
    "rules": Channel(
        RuleSet,
        {"type": "string", "enum": ["document"], "description": "there is one: the newest holds"},
        "What the shop wants of its lists, whatever the ranking says.",
        "command line",
        ("clicks", "api"),
        null="No rule holds.",
        example={"rules": {"lamps first": {"action": "boost", "category": "Lamps", "factor": 3.0}}},
    ),
    "experiments": Channel(
        PublishedExperiment,
        {"type": "string", "const": "document"},
        "The experiment that runs: `freshet experiments start`.",
        "command line",
        ("clicks", "api"),
        null="None runs any more.",
    ),
}


def document() -> Json:
    """The whole document, for the default settings and without a namespace."""
    settings = Settings.model_construct()  # the defaults, whatever the environment says
    names = topic_names(settings, "{fingerprint}")
    topics = {topic.name: topic for topic in topics_of(settings, names)}
    contracts, schemas = _schemas()
    channels = {_name(name): _channel(name, names, topics, contracts[name]) for name in CHANNELS}
    for topic in topics.values():
        if topic.name not in {getattr(names, field.name) for field in fields(TopicNames)}:
            channels[topic.name.replace("-{fingerprint}", "")] = _dead_letters(topic)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Freshet's topics",
            "version": "0.1.0",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": dict(_operations()),
        "components": {"schemas": schemas},
    }


def _name(field: str) -> str:
    return field.replace("_", "-")


def _schemas() -> tuple[dict[str, Json], Json]:
    """The value schema of each topic, and the schemas that they refer to."""
    adapters = [(name, "validation", TypeAdapter(channel.contract)) for name, channel in CHANNELS.items()]
    contracts, shared = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return {name: _draft7(schema) for (name, _), schema in contracts.items()}, _draft7(shared["$defs"])


def _draft7(schema: Any) -> Any:
    """AsyncAPI's own dialect: `discriminator` is the property's name alone."""
    if isinstance(schema, list):
        return [_draft7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value["propertyName"] if key == "discriminator" and "propertyName" in value else _draft7(value)
        for key, value in schema.items()
    }


def _channel(name: str, names: TopicNames, topics: dict[str, Topic], payload: Json) -> Json:
    channel = CHANNELS[name]
    messages = {"value": _message(_name(name), channel.key, payload, channel.summary)}
    if channel.example:
        messages["value"]["examples"] = [{"payload": channel.example}]
    if channel.null:
        messages["tombstone"] = _message(f"{_name(name)}-tombstone", channel.key, {"type": "null"}, channel.null)
    return _described(topics[getattr(names, name)], channel.summary, messages)


def _described(topic: Topic, summary: str, messages: Json) -> Json:
    """The channel object of a topic; the shop decides how long it keeps what it publishes."""
    kafka: Json = {"partitions": topic.partitions, "bindingVersion": "0.5.0"}
    config = topic.config(min_insync_replicas=1)
    if topic.kept == "compacted":
        kafka["topicConfiguration"] = {"cleanup.policy": [config["cleanup.policy"]]}
    if topic.kept == "days":
        kafka["topicConfiguration"] = {"retention.ms": int(config["retention.ms"])}
    described: Json = {"address": topic.name, "summary": summary, "messages": messages, "bindings": {"kafka": kafka}}
    if "{fingerprint}" in topic.name:
        described["parameters"] = FINGERPRINT
    return described


def _message(name: str, key: Json, payload: Json, summary: str) -> Json:
    return {
        "name": name,
        "summary": summary,
        "payload": payload,
        "bindings": {"kafka": {"key": dict(key), "bindingVersion": "0.5.0"}},
    }


def _dead_letters(topic: Topic) -> Json:
    key = {"type": ["string", "null"], "description": "the source record's key"}
    message = _message(topic.name, key, {}, "The source record's value as raw bytes, whatever they are.")
    headers = ("reason", "source-topic", "source-partition", "source-offset", "time")
    message |= {
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in (*headers, "source-topic-id")},
            "required": list(headers),
        },
    }
    return _described(topic, "What could not be used, and what to change.", {"value": message})


def _operations() -> Iterator[tuple[str, Json]]:
    """Freshet's own sends and receives; the shop's are the other side of them."""
    for field, channel in CHANNELS.items():
        reference = {"channel": {"$ref": f"#/channels/{_name(field)}"}}
        if channel.writer != "shop":
            yield f"send-{_name(field)}", {"action": "send", "summary": f"by: {channel.writer}", **reference}
        if own := [reader for reader in channel.readers if reader != "shop"]:
            yield f"receive-{_name(field)}", {"action": "receive", "summary": f"by: {', '.join(own)}", **reference}


class _Dumper(yaml.SafeDumper):
    """Writes shared parts in full: aliases are hard to read."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def render() -> str:
    """The document as YAML, the same text for the same contracts."""
    head = "# Made by `python -m streams.asyncapi docs/asyncapi.yaml` from the contracts and streams/topics.py.\n"
    return head + yaml.dump(document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
