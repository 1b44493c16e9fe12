"""What was withdrawn leaves the lists that people have: first as a record of what remains, then as a whole list.

A product is withdrawn when it sells out, is deleted or forbidden. The record needs no ranking, so everybody has it
within a second; the whole list takes its place as soon as the clicks leave room.
"""

from collections.abc import Callable
from typing import Any

import orjson

from streams.audience import Audience
from streams.experiment_ranking import Mark
from streams.list_ids import shortened
from streams.lists import MadeList
from streams.shelf import Shelf


class Retraction:
    """Finds out whose list holds what may not be listed any more."""

    def __init__(
        self, shelf: Shelf, audience: Audience, experiment_of: Callable[[str], Mark | None] = lambda _: None
    ) -> None:
        """experiment_of: what is told of a list's experiment, by its id."""
        self._experiment_of = experiment_of
        self._shelf = shelf
        self._audience = audience
        self._position = 0  # in the shelf's notices of what was withdrawn

    def look(self) -> None:
        """Whoever holds what was withdrawn since the last look is owed a record."""
        with self._shelf.lock:
            rows, complete = self._shelf.withdrawn.since(self._position)
            self._position = self._shelf.withdrawn.end
        if not complete:  # so many at once: every list is looked at
            self._audience.owes_record |= self._audience.active_at > 0
        elif rows:
            self._audience.owe_holders_of(rows)

    def records(self, most: int, now: float) -> tuple[list[MadeList], int]:
        """Lists without what may not be listed now, and how many were looked at (<= most); 0: nobody is owed one.

        Who turns out to hold nothing of the kind is owed nothing any more.
        """
        slots = self._audience.latest(self._audience.owes_record, most)
        records = []
        with self._shelf.lock:
            for slot in slots:
                record = self._record(slot, now)
                if record is not None:
                    records.append(record)
                else:
                    self._audience.owes_record[slot] = False
        return records, len(slots)

    def _record(self, slot: int, now: float) -> MadeList | None:
        audience, rows, listable = self._audience, self._shelf.rows, self._shelf.listable
        items: list[dict[str, Any]] = []
        withdrawn: list[str] = []
        kept: list[int] = []
        for position, item in enumerate(audience.items(slot)):
            row = rows.get(item["product_id"])
            if row is not None and listable[row]:
                item["rank"] = len(items) + 1
                items.append(item)
                kept.append(position)
            else:
                withdrawn.append(item["product_id"])
        user_id = audience.user_ids[slot]
        if not withdrawn or user_id is None:
            return None
        list_id = shortened(audience.list_ids[slot], kept)
        return MadeList(
            user_id,
            int(audience.partition[slot]),
            int(audience.revision[slot]),
            audience.later(slot, now),
            "retraction",
            orjson.dumps(items),
            [item["product_id"] for item in items],
            withdrawn=withdrawn,
            list_id=list_id,
            experiment=self._experiment_of(list_id),
        )
