"""The databases that the settings name."""

from sqlalchemy import Engine

from store.database import open_database
from streams.settings import Settings


def database_of(settings: Settings, name: str) -> Engine:
    """An engine: a SQLite file of this name, or the one PostgreSQL. Raises as store.database.open_database."""
    url = settings.database_url.get_secret_value() if settings.database_url else None
    return open_database(url, settings.home, name, settings.namespace)


def is_there(settings: Settings, name: str) -> bool:
    """False where to open it would make an empty file."""
    return settings.database_url is not None or (settings.home / settings.namespace / f"{name}.db").is_file()
