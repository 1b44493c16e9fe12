"""Whether two titles name the same thing: spelling and order do not count, numbers, sizes and other words do."""

import re
import sys
import unicodedata

Words = tuple[str, ...]
"""Of a title: each once, sorted."""

COMMON_BESIDE_AN_EXTRA = 4  # words: at least 4 of 5 are common, a Jaccard similarity of .8
COMMON_BESIDE_A_TYPO = 2
TYPO_LETTERS_MIN = 5  # in shorter words another letter is another word: 12 mm and 12 cm, left and lift
_WORD = re.compile(r"\w+")
_WITHIN = re.compile(r"(?<=\w)['’\-‐‑](?=\w)")  # T-shirt is tshirt
_SIZE = re.compile(r"x+[sl]")


def words_of(title: str) -> Words:
    """The title's words without case, accents, hyphens and marks, each once and sorted."""
    plain = unicodedata.normalize("NFKD", title.casefold())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return tuple(sorted({sys.intern(word) for word in _WORD.findall(_WITHIN.sub("", bare))}))


def is_code(word: str) -> bool:
    """True for what tells variants apart: numbers, models, units, sizes, single letters."""
    return len(word) <= 2 or any(letter.isdigit() for letter in word) or _SIZE.fullmatch(word) is not None


def same_title(one: Words, other: Words) -> bool:
    """True if both have the same words, but for one long word spelled otherwise, or one more on one side.

    iPhone 12 and iPhone 13 differ in a code, red dress and blue dress in a word: they are not the same.
    """
    left, right = set(one) - set(other), set(other) - set(one)
    if not left and not right:
        return bool(one)
    if len(left) > 1 or len(right) > 1 or any(map(is_code, left | right)):
        return False
    common = len(one) - len(left)
    if not left or not right:
        return common >= COMMON_BESIDE_AN_EXTRA
    return common >= COMMON_BESIDE_A_TYPO and _is_typo(*left, *right)


def keys_of(words: Words) -> list[int]:
    """Hashes of which two titles that are the same share one: of all words, and of all but one."""
    keys = [hash(words)] if words else []
    if len(words) > COMMON_BESIDE_A_TYPO:
        keys += [hash(words[:at] + words[at + 1 :]) for at, word in enumerate(words) if not is_code(word)]
    return keys


def _is_typo(one: str, other: str) -> bool:
    """True for two long words that begin alike and differ in one letter: colour, color."""
    short, long = sorted((one, other), key=len)
    if len(short) < TYPO_LETTERS_MIN or len(long) > len(short) + 1 or short[0] != long[0]:
        return False
    if not (short.isascii() and long.isascii()):  # in other scripts one sign may be a word
        return False
    at = next((at for at, letter in enumerate(short) if letter != long[at]), len(short))
    return short[at + 1 :] == long[at + 1 :] if len(short) == len(long) else short[at:] == long[at + 1 :]
