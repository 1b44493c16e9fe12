"""The values that the stores hand out and take back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Offsets = dict[str, int]
"""The last offset applied of each source, by "<topic id>/<partition>"."""

ImageState = Literal["none", "pending", "encoded", "missing"]


def source_key(topic_id: str, partition: int) -> str:
    """The key in Offsets: a topic that was made again has another id, so its offsets start anew."""
    return f"{topic_id}/{partition}"


@dataclass(frozen=True, slots=True)
class ProductRow:
    """A product as the catalogue knows it; a deleted one stays as a tombstone for longer than its topic is kept."""

    product_id: str
    fields: dict[str, Any]  # the product fields as JSON values; {} in a tombstone
    revision: int  # rises by one with each write of the row
    content_hash: str  # of what an encoder reads
    content_revision: int  # the revision at which the content changed last
    created_at: float  # s since 1970
    changed_at: float  # s since 1970
    deleted: bool = False
    field_times: dict[str, float] = field(default_factory=dict)  # field -> updated_at, s since 1970
    encoder: str | None = None  # fingerprint that saw this content last
    image_state: ImageState = "none"
    image_reason: str | None = None  # why the picture is missing
    retry_at: float | None = None  # s since 1970, when the encode request is sent again
    retries: int = 0
    offsets: Offsets = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Click:
    product_id: str
    event: str
    occurred_at: float  # s since 1970


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user: the history is all that is personal here, and the embedding is a function of it."""

    user_id: str
    revision: int  # rises by one with each write of the row
    clicks: Sequence[Click]  # newest first; a store.history.History as read, any sequence to write
    recent_event_ids: tuple[str, ...]  # newest first: a publisher's duplicates are known by it
    offsets: Offsets
    embedding: bytes | None = None  # (F,) little-endian float32
    embedding_version: str = ""  # "<epoch>.<sequence>" of the weights it was made with
    updated_at: float = 0.0  # s since 1970


class StaleRows(Exception):
    """Another worker has written a row since it was read: read again and compute anew."""


class StoreUnavailable(Exception):
    """A store does not answer: try the same batch again later."""

    def __init__(self, reason: str, told: str | None = None) -> None:
        """told: the same for whoever asks, without an address; None: the reason has none."""
        super().__init__(reason)
        self.told = told or reason
