"""The second stage as it serves: what the shelf knows of neighbours, trends and contents, by the shelf's rows."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.content_lift import AXES, ContentMap, Lift, fit_map, new_lift
from encoders.neighbours import NEIGHBOURS, Neighbours, drop_neighbours
from encoders.next_click import ABSENT, Floats, Mask, Rows, longer
from encoders.ranking_features import Knowledge, no_knowledge, room_for
from encoders.reranker import Reranker, before_learning, new_reranker
from encoders.segments import EVERYBODY, column_for, room_for_columns
from streams.events import unpack_vector

STAGE_KEY = "second-stage"
OWN_MAP_PRODUCTS_MIN = 2  # with a vector, before contents are mapped without the learner's map

Version = tuple[int, int]
Told = TypeVar("Told", ContentMap, Lift)


class MappedContents(NamedTuple):
    """Fused vectors (n, W) on the axes that the second stage reads."""

    content_map: ContentMap | None  # None: there is nothing to map by
    is_own: bool  # it is not the learner's
    contents: Floats  # (n, D)


def mapped(content_map: ContentMap | None, fused: Floats) -> MappedContents:
    """By this map of the learner's, or, without one, by a map of these vectors themselves."""
    used = content_map
    if used is None and len(fused) >= OWN_MAP_PRODUCTS_MIN:
        used = fit_map(fused)
    contents = used.apply(fused) if used is not None else np.zeros((len(fused), AXES), np.float32)
    return MappedContents(used, content_map is None, contents)


class ShelfStage:
    """Filled by the shelf, under its lock. Before the learner has told anything, rankings are the readable blend.

    The learner's map and lift are of one version's vectors, which they name. While that is another one than the
    shelf's, because the two do not change in the same moment, they are kept for when it is.
    """

    def __init__(self) -> None:
        self.content_map: ContentMap | None = None
        self.encoder: str | None = None  # of the version whose contents these are, once it is known
        self.reranker: Reranker = new_reranker()[0]
        self.unlearned = before_learning(self.reranker)  # the readable blend, by what the learner knows of features
        self._k = no_knowledge()
        self._segments: dict[str, int] = {}  # columns of Knowledge.segments
        self._neighbour_version: NDArray[np.int64] = np.zeros((0, 2), np.int64)
        self._versions: dict[str, Version] = {}  # by the key of model-weights
        self._map_is_own = True
        self._maps: dict[str | None, ContentMap] = {}  # of the learner, by the version; None: it named none
        self._lifts: dict[str | None, Lift] = {}

    def knowledge(self, clicks: NDArray[np.int64]) -> Knowledge:
        """All that a ranking reads, with the learned clicks (P,) of each product; views."""
        return self._k._replace(clicks=clicks)

    @property
    def is_learned(self) -> bool:
        """True once the learner has told what its re-ranker knows."""
        return STAGE_KEY in self._versions

    def is_newer(self, record: Mapping[str, Any]) -> bool:
        """True if no later record of this name has been put."""
        version = (record["epoch"], record["sequence"])
        if version < self._versions.get(record["name"], (0, 0)):
            return False
        self._versions[record["name"]] = version
        return True

    def column_of(self, segment: str | None) -> int:
        """The segment's column of what `knowledge` gives; EVERYBODY for one of which nothing is known."""
        return EVERYBODY if segment is None else self._segments.get(segment, EVERYBODY)

    def show(self, knowledge: Knowledge, segments: dict[str, int], reranker: Reranker) -> None:
        """All as the learner has it, in the same rows: views of what it goes on changing."""
        self._k, self._segments, self.reranker = knowledge, segments, reranker
        self.unlearned = before_learning(reranker)
        self._versions[STAGE_KEY] = (0, 0)

    # --- rows ----------------------------------------------------------------------------------------------------

    def grow(self, rows: int) -> None:
        """There is room for so many."""
        k = self._k
        self._k = room_for(k, rows)
        self._neighbour_version = longer(self._neighbour_version, rows)

    def clear(self, row: int) -> None:
        """Another product has this row now."""
        self._k.content[row] = 0.0
        self._k.trends.counts[row] = 0.0
        self._k.segments[row] = 0.0
        self._neighbour_version[row] = 0

    def forget(self, rows: Rows) -> None:
        """These rows are nobody's neighbours any more."""
        gone = np.zeros(len(self._k.content), np.bool_)
        gone[rows] = True
        drop_neighbours(self._k.after, gone)
        drop_neighbours(self._k.together, gone)

    # --- records -------------------------------------------------------------------------------------------------

    def put_trends(self, row: int, lately: list[float], counted_at: int) -> None:
        """From a record of item-factors."""
        self._k.trends.counts[row] = lately
        self._k.trends.counted_at[row] = counted_at

    def put_segments(self, row: int, clicks: Mapping[str, float]) -> None:
        """From the same record: by segment, "" for all users."""
        columns = {segment: column_for(self._segments, segment) for segment in clicks}
        if clicks:
            self._k = self._k._replace(segments=room_for_columns(self._k.segments, self._segments))
        self._k.segments[row] = 0.0
        for segment, column in columns.items():
            if column != EVERYBODY or not segment:
                self._k.segments[row, column] = clicks[segment]

    def put_neighbours(self, row: int, record: Mapping[str, Any], row_of: Callable[[str], int]) -> None:
        """A record of item-neighbours; row_of gives each product a row."""
        version = (record["epoch"], record["sequence"])
        if version < tuple(self._neighbour_version[row]):
            return
        for name in ("after", "together"):
            rows = [row_of(product_id) for product_id in record[name]["product_ids"]][:NEIGHBOURS]
            table: Neighbours = getattr(self._k, name)  # row_of may have made it longer
            table.ids[row], table.shares[row] = ABSENT, 0.0
            table.ids[row, : len(rows)] = rows
            table.shares[row, : len(rows)] = unpack_vector(record[name]["shares"])[: len(rows)]
        self._neighbour_version[row] = version

    def drop_neighbours_of(self, row: int) -> None:
        """A null record of item-neighbours."""
        for table in (self._k.after, self._k.together):
            table.ids[row], table.shares[row] = ABSENT, 0.0
        self._neighbour_version[row] = 0

    def put_stage(self, record: Mapping[str, Any]) -> None:
        """The record `second-stage` of model-weights."""
        lift = Lift(*_unpacked(record["lift"], new_lift()))
        self._lifts.pop(encoder := record.get("encoder"), None)
        self._lifts[encoder] = lift  # the newest is the last
        self._k = self._k._replace(lift=self._of(self._lifts, self.encoder) or new_lift(), now=record["now"])
        self.reranker = Reranker(*_unpacked(record["reranker"], new_reranker()[0]))
        self.unlearned = before_learning(self.reranker)

    def put_map(self, record: Mapping[str, Any], fused: Floats, has_vector: Mask) -> None:
        """The record `content-map` of model-weights; contents of all fused vectors (P, W) follow it, if they are those
        that it is of."""
        mean, axes, encoder = unpack_vector(record["mean"]), unpack_vector(record["axes"]), record.get("encoder")
        self._maps[encoder] = ContentMap(mean, axes.reshape(len(mean), -1), record["products"])
        if self.encoder is None or encoder in (None, self.encoder):
            self._map_is_own = False
            self._use_map(self._maps[encoder], fused, has_vector)

    def map_of(self, encoder: str, width: int) -> ContentMap | None:
        """The learner's map of this version's vectors, of so many values; None if it has told of none."""
        content_map = self._of(self._maps, encoder)
        return content_map if content_map is not None and len(content_map.mean) == width else None

    def take_contents(self, encoder: str, prepared: MappedContents, rows: Rows) -> None:
        """These rows (n,) have contents, of this version's vectors, and no others have any."""
        self.encoder = encoder
        self.content_map, self._map_is_own = prepared.content_map, prepared.is_own
        self._k.content[:] = 0.0
        self._k.content[rows] = prepared.contents
        self._k = self._k._replace(lift=self._of(self._lifts, encoder) or new_lift())

    @staticmethod
    def _of(told: Mapping[str | None, Told], encoder: str | None) -> Told | None:
        """What the learner told of this version, or of none, before it named any."""
        if encoder is None:
            return list(told.values())[-1] if told else None
        return told.get(encoder) or (told.get(None) if len(told) == 1 else None)

    def put_vector(self, row: int, fused: Floats | None) -> None:
        """A product's fused vector (W,); None: it has none."""
        if fused is None:
            self._k.content[row] = 0.0
        elif self.content_map is not None and len(fused) == len(self.content_map.mean):
            self._k.content[row] = self.content_map.apply(fused[None])[0]

    def map_alone(self, fused: Floats, has_vector: Mask) -> None:
        """Without a map of the learner's, contents are mapped here, anew when there are twice as many vectors."""
        count = int(has_vector.sum()) if self._map_is_own else 0
        known = 0 if self.content_map is None else self.content_map.products
        if count >= max(OWN_MAP_PRODUCTS_MIN, 2 * known):
            self._use_map(fit_map(fused[: len(has_vector)][has_vector]), fused, has_vector)

    def _use_map(self, content_map: ContentMap, fused: Floats, has_vector: Mask) -> None:
        self.content_map = content_map
        self._k.content[:] = 0.0
        rows = np.flatnonzero(has_vector)
        if len(rows) and fused.shape[1] == len(content_map.mean):
            self._k.content[rows] = content_map.apply(fused[rows])


def _unpacked(packed: Mapping[str, str], like: Lift | Reranker) -> list[Floats]:
    """Arrays in the order and the shapes of the named tuple.

    Copies: what was unpacked is read-only, for which everything compiled would be compiled once more, at a click.
    """
    return [unpack_vector(packed[name]).reshape(array.shape).copy() for name, array in like._asdict().items()]
