"""Products that are listed twice: the same photo and almost the same title; or no photo, and the same title and brand.

Of a product without vectors nothing is known of its picture, so it has no duplicates yet. Attributes and prices do not
count: what differs in nothing that a shopper sees in a list is one thing to her.
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Rows, longer
from encoders.picture_hash import SIGNATURE_BYTES, is_same_picture
from streams.titles import Words, keys_of, same_title, words_of

ALONE = -1
NO_PICTURE = b""
NO_ROWS = np.empty(0, np.int32)


class Listing(NamedTuple):
    """What decides whose duplicate a product is."""

    words: Words
    brand: str  # casefolded, "" for none
    picture: bytes  # of encoders.picture_hash.sign_picture, or NO_PICTURE


class Duplicates:
    """Groups of rows: a row's group is all that is reached from it over pairs that are the same.

    So a group does not depend on the order in which its products came. A put costs as much as the products with almost
    the same title are many; what is the same in everything counts as one.
    """

    def __init__(self) -> None:
        self.group: NDArray[np.int64] = np.zeros(0, np.int64)  # (P,) a number for each group, ALONE without others
        self._names: dict[int, tuple[str, str | None]] = {}  # row -> title and brand
        self._pictures: dict[int, bytes] = {}
        self._listing: dict[int, Listing] = {}
        self._rows: dict[Listing, set[int]] = {}
        self._near: dict[Listing, set[Listing]] = {}  # only of listings that are the same as others
        self._alike: dict[int, Listing | set[Listing]] = {}  # by each of keys_of
        self._members: dict[int, set[int]] = {}  # rows of each group
        self._groups = 0

    def grow(self, rows: int) -> None:
        """There is room for so many."""
        self.group = longer(self.group, rows, ALONE)

    def put_offer(self, row: int, title: str | None, brand: str | None = None) -> None:
        """The row's product is called so; None: there is no offer of it."""
        if title is None:
            self._names.pop(row, None)
        elif self._names.get(row) == (title, brand):
            return
        else:
            self._names[row] = title, brand
        self._renew(row)

    def put_picture(self, row: int, picture: bytes | None) -> None:
        """The signature of its picture, NO_PICTURE if it has none; None: it is not known."""
        if picture is None:
            self._pictures.pop(row, None)
        elif self._pictures.get(row) == picture:
            return
        else:
            self._pictures[row] = picture
        self._renew(row)

    def clear(self, row: int) -> None:
        """Another product has this row now."""
        self._names.pop(row, None)
        self._pictures.pop(row, None)
        self._renew(row)

    def with_others(self, rows: Rows) -> Rows:
        """These rows and all others of their groups."""
        more = [other for row in rows[self.group[rows] != ALONE].tolist() for other in self.others(row)]
        return np.concatenate((rows, np.array(more, np.int32))) if more else rows

    def others(self, row: int) -> list[int]:
        """The rows of its group without itself, in no order."""
        members = self._members.get(int(self.group[row]), set())
        return [other for other in members if other != row]

    # --- listings ------------------------------------------------------------------------------------------------

    def _renew(self, row: int) -> None:
        listing = None
        if row in self._names and row in self._pictures:
            title, brand = self._names[row]
            listing = Listing(words_of(title), (brand or "").strip().casefold(), self._pictures[row])
        before = self._listing.get(row)
        if listing == before:
            return
        if before is not None:
            self._take_out(row, before)
        if listing is not None and listing.words:
            self._put_in(row, listing)

    def _put_in(self, row: int, listing: Listing) -> None:
        self._listing[row] = listing
        if (rows := self._rows.get(listing)) is not None:
            self._join(row, next(iter(rows)))
            rows.add(row)
            return
        self._rows[listing] = {row}
        keys = keys_of(listing.words)
        near = self._same(listing, keys)
        for key in keys:
            known = self._alike.get(key)
            if known is None:
                self._alike[key] = listing
            elif isinstance(known, set):
                known.add(listing)
            else:
                self._alike[key] = {known, listing}
        if near:
            self._near[listing] = near
            for other in near:
                self._near.setdefault(other, set()).add(listing)
            self._regroup({listing})

    def _take_out(self, row: int, listing: Listing) -> None:
        del self._listing[row]
        self._leave(row)
        rows = self._rows[listing]
        rows.discard(row)
        if rows:
            return
        del self._rows[listing]
        for key in keys_of(listing.words):
            known = self._alike[key]
            if not isinstance(known, set):
                del self._alike[key]
            else:
                known.discard(listing)
                if len(known) == 1:
                    self._alike[key] = known.pop()
        near = self._near.pop(listing, set())
        for other in near:
            self._near[other].discard(listing)
            if not self._near[other]:
                del self._near[other]
        if len(near) > 1:
            self._regroup(near)

    def _same(self, listing: Listing, keys: list[int]) -> set[Listing]:
        """All other listings that are the same as this one."""
        found: set[Listing] = set()
        for key in keys:
            known = self._alike.get(key)
            if known is not None:
                found |= known if isinstance(known, set) else {known}
        if not listing.picture:
            return set()  # without pictures, the same title and brand is the same listing
        some = [other for other in found if other.picture]
        if not some:
            return set()
        same = is_same_picture(listing.picture, [other.picture for other in some])
        return {some[at] for at in np.flatnonzero(same) if _same_words(listing, some[at])}

    # --- groups --------------------------------------------------------------------------------------------------

    def _join(self, row: int, other: int) -> None:
        group = int(self.group[other])
        if group == ALONE:
            self._make_group({row, other})
        else:
            self.group[row] = group
            self._members[group].add(row)

    def _leave(self, row: int) -> None:
        group = int(self.group[row])
        if group == ALONE:
            return
        self.group[row] = ALONE
        members = self._members[group]
        members.discard(row)
        if len(members) == 1:
            self.group[members.pop()] = ALONE
            del self._members[group]

    def _regroup(self, listings: set[Listing]) -> None:
        """All that is reached from any of these has its group."""
        left = set(listings)
        while left:
            reached, todo = set[Listing](), [left.pop()]
            while todo:
                listing = todo.pop()
                if listing not in reached:
                    reached.add(listing)
                    todo += self._near.get(listing, ())
            left -= reached
            rows = set[int]().union(*(self._rows[listing] for listing in reached))
            for row in rows:
                self._members.pop(int(self.group[row]), None)
                self.group[row] = ALONE
            if len(rows) > 1:
                self._make_group(rows)

    def _make_group(self, rows: set[int]) -> None:
        self._groups += 1
        self._members[self._groups] = rows
        self.group[list(rows)] = self._groups


def _same_words(one: Listing, other: Listing) -> bool:
    brands = {one.brand, other.brand} - {""}
    return len(brands) < 2 and same_title(one.words, other.words)


def picture_of(record: Mapping[str, Any]) -> bytes | None:
    """What a record of product-vectors says for put_picture. It does not depend on the version of the encoders."""
    if packed := record.get("picture_signature"):
        signature = b64decode(packed, validate=True)
        return signature if len(signature) == SIGNATURE_BYTES else None
    return NO_PICTURE if "image" in record and record["image"] is None else None  # older records have no signature


def kept_once(groups: NDArray[np.int64], among: Rows, listed: Rows = NO_ROWS) -> NDArray[np.bool_]:
    """Which of the rows `among` (N,), best first, stay if each group is to be shown once, and is in `listed` already.

    groups  (P,) as Duplicates.group
    """
    own = groups[among]
    kept: NDArray[np.bool_] = own == ALONE
    grouped = np.flatnonzero(~kept)
    if len(grouped):
        first = grouped[np.unique(own[grouped], return_index=True)[1]]
        kept[first] = ~np.isin(own[first], groups[listed])
    return kept


def best_of_each(groups: NDArray[np.int64], rows: Rows, scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Places (K,) of those rows (N,) that are the best by score of their group, or ALONE; ties by lower row."""
    kept = groups[rows] == ALONE
    if not kept.all():
        grouped = np.flatnonzero(~kept)
        order = grouped[np.lexsort((rows[grouped], -scores[grouped]))]
        kept[order[kept_once(groups, rows[order])]] = True
    return np.flatnonzero(kept)
