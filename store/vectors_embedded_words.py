"""The rules of the vector store in the words of qdrant-edge."""

from collections.abc import Mapping
from typing import Any

import qdrant_edge as edge

from store import vectors_rules as rules

KINDS = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
}


def index_payload(shard: edge.EdgeShard, indexed: Mapping[str, str]) -> None:
    """These payload fields have an index of their kind; where there was one, nothing changes."""
    for path, kind in indexed.items():
        shard.update(edge.UpdateOperation.create_field_index(path, KINDS[kind]))


def operation_of(write: rules.Write) -> edge.UpdateOperation:
    """The write in the engine's words."""
    operation = edge.UpdateOperation
    match write:
        case rules.Insert(products):
            points = [edge.Point(point_id, {}, {"product_id": product}) for point_id, product in products.items()]
            return operation.upsert_points(points, condition=filter_of(rules.NO_POINT))
        case rules.Replace(where, point_id, payload, vectors):
            lists = {name: vector.tolist() for name, vector in vectors.items()}
            return operation.upsert_points([edge.Point(point_id, lists, dict(payload))], condition=filter_of(where))
        case rules.SetPayload(where, payload):
            return operation.set_payload_by_filter(filter_of(where), dict(payload))
        case rules.SetVectors(where, point_id, vectors):
            lists = {name: vector.tolist() for name, vector in vectors.items()}
            return operation.update_vectors([edge.PointVectors(point_id, lists)], condition=filter_of(where))
        case rules.DropVectors(where, names):
            return operation.delete_vectors_by_filter(filter_of(where), list(names))
        case rules.DeletePoints(where):
            return operation.delete_points_by_filter(filter_of(where))


def filter_of(where: rules.Where) -> edge.Filter:
    """The conditions in the engine's words."""
    must: list[Any] = [edge.FieldCondition(path, match=edge.MatchValue(value)) for path, value in where.equal.items()]
    must_not: list[Any] = []
    if where.ids is not None:
        must.append(edge.HasIdCondition(set(where.ids)))
    if where.other_than:
        must_not.append(edge.HasIdCondition(set(where.other_than)))
    if where.missing is not None:
        must.append(edge.IsEmptyCondition(where.missing))
    if where.present is not None:
        must_not.append(edge.IsEmptyCondition(where.present))
    for path, highest in where.missing_or_at_most.items():
        at_most = edge.FieldCondition(path, range=edge.RangeFloat(lte=highest))
        must.append(edge.Filter(should=[edge.IsEmptyCondition(path), at_most]))
    for path, (low, high) in where.between.items():
        must.append(edge.FieldCondition(path, range=edge.RangeFloat(gte=low, lte=high)))
    if where.has_vector is not None:
        must.append(edge.HasVectorCondition(where.has_vector))
    return edge.Filter(must=must, must_not=must_not)
