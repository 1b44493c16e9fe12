"""The rules of the vector store in the words of qdrant-client."""

from typing import Any

from qdrant_client import models as qdrant

from store import vectors_rules as rules


def operation_of(write: rules.Write) -> qdrant.UpdateOperation:
    """The write in the server's words."""
    match write:
        case rules.Insert(products):
            points = [
                qdrant.PointStruct(id=point_id, vector={}, payload={"product_id": product})
                for point_id, product in products.items()
            ]
            return qdrant.UpsertOperation(
                upsert=qdrant.PointsList(points=points, update_filter=filter_of(rules.NO_POINT))
            )
        case rules.Replace(where, point_id, payload, vectors):
            named: Any = {name: vector.tolist() for name, vector in vectors.items()}
            point = qdrant.PointStruct(id=point_id, vector=named, payload=dict(payload))
            return qdrant.UpsertOperation(upsert=qdrant.PointsList(points=[point], update_filter=filter_of(where)))
        case rules.SetPayload(where, payload):
            return qdrant.SetPayloadOperation(
                set_payload=qdrant.SetPayload(payload=dict(payload), filter=filter_of(where))
            )
        case rules.SetVectors(where, point_id, vectors):
            lists: Any = {name: vector.tolist() for name, vector in vectors.items()}
            changed = [qdrant.PointVectors(id=point_id, vector=lists)]
            return qdrant.UpdateVectorsOperation(
                update_vectors=qdrant.UpdateVectors(points=changed, update_filter=filter_of(where))
            )
        case rules.DropVectors(where, names):
            return qdrant.DeleteVectorsOperation(
                delete_vectors=qdrant.DeleteVectors(filter=filter_of(where), vector=list(names))
            )
        case rules.DeletePoints(where):
            return qdrant.DeleteOperation(delete=qdrant.FilterSelector(filter=filter_of(where)))


def filter_of(where: rules.Where) -> qdrant.Filter:
    """The conditions in the server's words."""
    must: list[Any] = [
        qdrant.FieldCondition(key=path, match=qdrant.MatchValue(value=value)) for path, value in where.equal.items()
    ]
    must_not: list[Any] = []
    if where.ids is not None:
        must.append(qdrant.HasIdCondition(has_id=list(where.ids)))
    if where.other_than:
        must_not.append(qdrant.HasIdCondition(has_id=list(where.other_than)))
    if where.missing is not None:
        must.append(_empty(where.missing))
    if where.present is not None:
        must_not.append(_empty(where.present))
    for path, highest in where.missing_or_at_most.items():
        at_most = qdrant.FieldCondition(key=path, range=qdrant.Range(lte=highest))
        must.append(qdrant.Filter(should=[_empty(path), at_most]))
    for path, (low, high) in where.between.items():
        must.append(qdrant.FieldCondition(key=path, range=qdrant.Range(gte=low, lte=high)))
    if where.has_vector is not None:
        must.append(qdrant.HasVectorCondition(has_vector=where.has_vector))
    return qdrant.Filter(must=must, must_not=must_not)


def _empty(path: str) -> qdrant.IsEmptyCondition:
    return qdrant.IsEmptyCondition(is_empty=qdrant.PayloadField(key=path))
