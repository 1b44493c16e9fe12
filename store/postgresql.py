"""An engine for PostgreSQL from its URL, and what is wrong with a URL that makes none."""

from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, exc, make_url

CONNECT_TIMEOUT_S = 5


class WrongDatabase(ValueError):
    """The URL names no database that can be opened here, however long one waits; str() shows no part of a password."""


def postgresql_engine(url: str, schema: str) -> Engine:
    """An engine whose connections see the tables of this schema; nothing is connected yet. Raises WrongDatabase."""
    address = _read_address(url)
    # A server that vanished without a word is noticed after 10 s instead of the system's 15 minutes.
    waits = {"connect_timeout": CONNECT_TIMEOUT_S, "tcp_user_timeout": 10_000}
    try:
        from psycopg import ProgrammingError, conninfo

        engine = create_engine(address, connect_args=waits)
    except ImportError as error:
        raise WrongDatabase(
            f"PostgreSQL has no driver here ({error}): pip install '.[postgresql]' in Freshet's folder"
        ) from error
    _, options = engine.dialect.create_connect_args(address)
    options.pop("context", None)  # of psycopg itself; the others go to the server's library
    try:
        conninfo.make_conninfo(**options)
    except ProgrammingError as error:
        raise WrongDatabase(
            f"the database URL has an option that PostgreSQL does not know: {str(error).strip()}"
        ) from error

    def prepare(connection: Any, _: Any) -> None:
        try:
            connection.execute(f'SET search_path TO "{schema}"')
            connection.commit()
        except BaseException:  # a server that is going down: the pool does not know this connection yet
            connection.close()
            raise

    event.listen(engine, "connect", prepare)
    return engine


def _read_address(url: str) -> URL:
    """Raises WrongDatabase without a cause, which would show a password that was cut in the wrong place."""
    try:
        address = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise WrongDatabase(
            "the database URL cannot be read: write postgresql://user:password@host:5432/name, "
            "with %40 for an @ in the password, %3A for a :, %2F for a /"
        ) from None
    if address.get_backend_name() not in ("postgresql", "postgres"):
        raise WrongDatabase(
            f"a database URL begins with postgresql://, not {address.drivername}://; unset it for SQLite"
        )
    return address.set(drivername="postgresql+psycopg")
