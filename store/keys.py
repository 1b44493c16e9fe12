"""The api's keys: what each may do, and only the hash of its secret.

A key reads fk_ID_SECRET. The secret has 256 random bits, so one round of SHA-256 protects it as well as a slow hash,
and can be computed with every request.
"""

import hashlib
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Column, Double, Engine, Table, Text, delete, insert, select

from store.database import metadata, reading, transaction

SCOPES = ("read", "write", "admin")
PREFIX = "fk"

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)


class UnknownKey(LookupError):
    """No key has this id; str() names those that there are."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key."""

    key_id: str
    name: str  # whom it was made for
    hash: str  # SHA-256 of the secret, in hex digits
    scopes: frozenset[str]  # of SCOPES
    created_at: float  # s since 1970

    def allows(self, scope: str) -> bool:
        """An admin may do everything; to write does not include to read."""
        return scope in self.scopes or "admin" in self.scopes

    def is_opened_by(self, secret: str) -> bool:
        return secrets.compare_digest(self.hash, _hash(secret))


class KeyStore:
    """All keys. Its methods raise StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> list[ApiKey]:
        """In the order in which they were made."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)).all()
        return [ApiKey(row.key_id, row.name, row.hash, frozenset(row.scopes.split()), row.created_at) for row in rows]

    def make(self, name: str, scopes: Collection[str]) -> tuple[ApiKey, str]:
        """A new key, and its text, which nothing can tell again. Raises ValueError for no or an unknown scope."""
        unknown = set(scopes) - set(SCOPES)
        if unknown or not scopes:
            raise ValueError(
                f"a key needs scopes, any of {', '.join(SCOPES)}; not {', '.join(sorted(unknown)) or 'none'}"
            )
        key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        key = ApiKey(key_id, name, _hash(secret), frozenset(scopes), time.time())
        with transaction(self._engine) as connection:
            connection.execute(
                insert(api_keys).values(
                    key_id=key_id,
                    name=name,
                    hash=key.hash,
                    scopes=" ".join(sorted(key.scopes)),
                    created_at=key.created_at,
                )
            )
        return key, f"{PREFIX}_{key_id}_{secret}"

    def remove(self, key_id: str) -> None:
        """It opens nothing any more. Raises UnknownKey."""
        with transaction(self._engine) as connection:
            gone = connection.execute(delete(api_keys).where(api_keys.c.key_id == key_id)).rowcount
        if not gone:
            named = ", ".join(key.key_id for key in self.all()) or "none"
            raise UnknownKey(f"there is no key {key_id!r}: there are {named}")


def parts_of(text: str) -> tuple[str, str] | None:
    """Id and secret of a key as it was told; None if it is no key."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    return (key_id, secret) if prefix == PREFIX and key_id and secret else None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
