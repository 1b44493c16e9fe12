"""Which users take part in an experiment, and in which of its variants: a function of two names, stored nowhere.

Source: Kohavi, Tang, Xu, Trustworthy Online Controlled Experiments, 2020, chapter 4 and 14.
"""

from collections.abc import Sequence
from hashlib import blake2b

_BITS = 53  # of each hash: what a float holds exactly


def fractions_of(experiment: str, user_id: str) -> tuple[float, float]:
    """Two numbers in [0, 1), as if drawn at random for each pair of names, independent of one another.

    The first and the second 64 bits, big-endian, of the 128-bit BLAKE2b of both names with a line break between them:
    `printf 'EXPERIMENT\\nUSER' | b2sum -l 128`. The same everywhere and for ever.
    """
    digest = blake2b(f"{experiment}\n{user_id}".encode(), digest_size=16).digest()
    return _fraction(digest[:8]), _fraction(digest[8:])


def part_of(fraction: float, weights: Sequence[float]) -> int:
    """The number of the part that a fraction in [0, 1) falls into, each as wide as its weight (> 0)."""
    reached, total = 0.0, sum(weights)
    for part, weight in enumerate(weights):
        reached += weight
        if fraction * total < reached:
            return part
    return len(weights) - 1  # rounding


def _fraction(eight_bytes: bytes) -> float:
    return float(int.from_bytes(eight_bytes) >> (64 - _BITS)) / float(1 << _BITS)
