"""The versions of the encoders as the roles see them: a view of the topic `encoders`, and records of it."""

import logging
from threading import Lock

from store.encoders import EncoderRow, EncoderStore
from store.records import StoreUnavailable
from streams.broker import Headers, Outgoing
from streams.databases import database_of, is_there
from streams.events import EncoderVersion
from streams.parsing import parse
from streams.settings import Settings
from streams.topics import TopicNames

log = logging.getLogger(__name__)


class Versions:
    """Every version that was told of, in its highest revision; `lock` is held while one is put."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._told: dict[str, EncoderVersion] = {}

    def put(self, key: bytes, value: bytes | None, headers: Headers) -> None:  # noqa: ARG002
        """A record of encoders. Raises BadEvent."""
        version: EncoderVersion = parse(EncoderVersion, value or b"")
        known = self._told.get(version.fingerprint)
        if known is None or version.revision >= known.revision:
            self._told = {**self._told, version.fingerprint: version}  # readers take no lock: they see one or the other

    def all(self) -> list[EncoderVersion]:
        """Those that were told of, removed ones too."""
        return list(self._told.values())

    @property
    def serving(self) -> EncoderVersion | None:
        """The one that serves, as far as was told."""
        return serving_of(self.all())


def serving_of(versions: list[EncoderVersion]) -> EncoderVersion | None:
    """The version that serves. A switch is two records, which do not come at once: so the later one decides."""
    served = [version for version in versions if version.served and version.state != "removed"]
    return max(served, key=lambda version: version.served, default=None)


def encoding(versions: list[EncoderVersion]) -> list[EncoderVersion]:
    """Those that encode what is new, the one that serves first."""
    return _serving_first([version for version in versions if version.state in ("serving", "filling")])


def filled(versions: list[EncoderVersion]) -> list[EncoderVersion]:
    """Those with a collection, the one that serves first: offers reach them all, also where nothing is encoded."""
    return _serving_first([version for version in versions if version.is_filled and version.state != "removed"])


def _serving_first(versions: list[EncoderVersion]) -> list[EncoderVersion]:
    return sorted(versions, key=lambda version: (-version.served, version.fingerprint))


def known_rows(settings: Settings) -> list[EncoderRow]:
    """The versions that SQL knows; none where there is no database yet. Raises StoreUnavailable."""
    if not is_there(settings, "products"):
        return []
    engine = database_of(settings, "products")
    try:
        return EncoderStore(engine).known()
    finally:
        engine.dispose()


def known_fingerprints(settings: Settings) -> list[str]:
    """Of the versions that have topics; none where no database answers, either."""
    try:
        return [row.fingerprint for row in known_rows(settings) if row.filled_at is not None]
    except StoreUnavailable as away:
        log.warning("topics of other versions of the encoders are not looked after reason=%s", away)
        return []


def version_of(row: EncoderRow) -> EncoderVersion:
    """The row as it is published."""
    group = "" if row.first and row.life == 1 else f"-{row.fingerprint}" + (f"-{row.life}" if row.life > 1 else "")
    return EncoderVersion(
        fingerprint=row.fingerprint,
        revision=row.revision,
        state=row.state,
        served=row.served,
        group=group,
        is_filled=row.filled_at is not None,
        has_files=row.has_files,
        sources=dict(row.sources),
        widths=dict(row.widths),
    )


def version_record(names: TopicNames, version: EncoderVersion) -> Outgoing:
    """The message that tells of it."""
    return Outgoing(names.encoders, version.fingerprint.encode(), version.model_dump_json().encode())
