"""Where the files of the encoders' versions lie: one place for every worker, a folder or an object store."""

import uuid
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from encoders.product import ProductEncoder
from encoders.version import FILE, UnusableVersion, Version, read_version
from store.records import StoreUnavailable
from streams.events import EncoderVersion
from streams.settings import Settings
from streams.versions import known_rows, version_of


def load_encoder(settings: Settings, version: Version | None = None) -> ProductEncoder:
    """The models of a version, on the device of the settings; None: of the untrained one that they name.

    Raises UnknownSource, UnknownDevice, UnusableVersion.
    """
    s, made = settings, version or Version(settings.image_encoder, settings.text_encoder)
    return ProductEncoder(made, s.device, s.encode_threads, pickled_weights=s.pickled_weights)


def serving_version(settings: Settings) -> Version | None:
    """The version that serves; None where the shop knows of none yet, so the untrained one of the settings does.

    Raises as open_version does.
    """
    serving = next((row for row in known_rows(settings) if row.state == "serving"), None)
    return open_version(settings, version_of(serving)) if serving else None


def put_version(settings: Settings, folder: Path, fingerprint: str) -> None:
    """The folder's version is at the place of all versions, under its fingerprint. Raises StoreUnavailable."""
    files, place = fsspec.url_to_fs(_url(settings))
    target = f"{place.rstrip('/')}/{fingerprint}"
    try:
        files.makedirs(target, exist_ok=True)
        draft = f"{target}/.{uuid.uuid4().hex}.draft"
        files.pipe_file(draft, (folder / FILE).read_bytes())
        files.mv(draft, f"{target}/{FILE}")
    except OSError as error:
        raise StoreUnavailable(f"cannot write the version {fingerprint} at {_url(settings)}: {error}") from error


def remove_version(settings: Settings, fingerprint: str) -> None:
    """There are no files of it. Raises StoreUnavailable."""
    files, place = fsspec.url_to_fs(_url(settings))
    target = f"{place.rstrip('/')}/{fingerprint}"
    try:
        if files.exists(target):
            files.rm(target, recursive=True)
    except OSError as error:
        raise StoreUnavailable(f"cannot remove the version {fingerprint} at {_url(settings)}: {error}") from error


def open_version(settings: Settings, version: EncoderVersion) -> Version:
    """The version with its weights as they are here.

    Raises UnusableVersion, UnknownSource where the weights cannot be had, StoreUnavailable.
    """
    if version.has_files:
        made = read_version(_fetched(settings, version.fingerprint))
    else:
        made = Version(version.sources["image"], version.sources["text"])
    if made.fingerprint != version.fingerprint:
        raise UnusableVersion(
            f"with the weights here the version {version.fingerprint} is {made.fingerprint}: "
            f"install {made.image_source} and {made.text_source} as they were where it was added"
        )
    return made


def _fetched(settings: Settings, fingerprint: str) -> Path:
    """The version's folder on this machine."""
    files, place = fsspec.url_to_fs(_url(settings))
    if isinstance(files, LocalFileSystem):
        return Path(place) / fingerprint
    folder = settings.home / settings.namespace / "encoders" / "fetched" / fingerprint
    try:
        content = files.cat_file(f"{place.rstrip('/')}/{fingerprint}/{FILE}")
    except FileNotFoundError as error:
        raise UnusableVersion(
            f"there are no files of {fingerprint} at {_url(settings)}: add its folder again"
        ) from error
    except OSError as error:
        raise StoreUnavailable(f"cannot read the version {fingerprint} at {_url(settings)}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{uuid.uuid4().hex}.draft"
    draft.write_bytes(content)
    draft.replace(folder / FILE)
    return folder


def _url(settings: Settings) -> str:
    return settings.encoders_url or str((settings.home / settings.namespace / "encoders" / "versions").absolute())
