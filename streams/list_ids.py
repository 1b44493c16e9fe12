"""Ids of lists that tell which variant of an experiment made them, as no list that was asked for is stored.

    UUID              a list of no experiment; the UUID in 32 hexadecimal digits
    UUID-TAG-v1       made by the variant number 1 of the experiment whose name has this tag
    UUID-TAG-tTEAMS   drawn from two variants: TEAMS has a bit for each position, the first one the lowest, and a 1
                      above the last: 0 is the first variant's item

Numbers are written in the digits 0-9 a-v. A list of 200 has an id of 84 characters.
"""

import base64
import re
import uuid
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

TAG_DIGITS = 8
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_FORM = re.compile(rf"[0-9a-f]{{32}}-([{_DIGITS}]{{{TAG_DIGITS}}})-(?:v([0-9])|t([1-9a-v][{_DIGITS}]{{0,40}}))")


class Origin(NamedTuple):
    """Where a list of an experiment comes from."""

    tag: str  # of tag_of
    variant: int | None  # number of the variant that made it; None: it was drawn from two
    teams: tuple[int, ...] = ()  # of a drawn list: 0 or 1 for each position, whose item stands there


def tag_of(experiment: str) -> str:
    """What stands for the experiment's name: 40 bits of its hash."""
    return base64.b32hexencode(blake2b(experiment.encode(), digest_size=5).digest()).decode().lower()


def new_list_id(origin: Origin | None = None) -> str:
    """An id that no other list has."""
    return list_id_of(uuid.uuid4().hex, origin)


def list_id_of(unique: str, origin: Origin | None) -> str:
    """The id of a list. unique: a UUID of its own, in hexadecimal digits."""
    if origin is None:
        return unique
    if origin.variant is not None:
        return f"{unique}-{origin.tag}-v{origin.variant}"
    bits = 1 << len(origin.teams)
    for position, team in enumerate(origin.teams):
        bits |= team << position
    return f"{unique}-{origin.tag}-t{_written(bits)}"


def origin_of(list_id: str) -> Origin | None:
    """What the id tells; None for any other text than list_id_of makes."""
    found = _FORM.fullmatch(list_id)
    if found is None:
        return None
    tag, variant, written = found.groups()
    if variant is not None:
        return Origin(tag, int(variant))
    bits = int(written, 32)
    return Origin(tag, None, tuple(bits >> position & 1 for position in range(bits.bit_length() - 1)))


def shortened(list_id: str, kept: Sequence[int]) -> str:
    """A new id for what is left of a list: the items that stood at these positions, from 0."""
    origin = origin_of(list_id)
    if origin is not None and origin.variant is None:
        teams = origin.teams
        origin = origin._replace(teams=tuple(teams[position] for position in kept if position < len(teams)))
    return new_list_id(origin)


def _written(number: int) -> str:
    digits = ""
    while number:
        digits = _DIGITS[number & 31] + digits
        number >>= 5
    return digits or "0"
