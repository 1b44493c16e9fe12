"""How the command line speaks: errors as one line and an honest exit code, logs as one line each."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from pydantic import ValidationError
    from rich.progress import Progress

    from streams.settings import Settings

FAILED, MISUSED, MISCONFIGURED = 1, 2, 78

# By full name, because to import the classes would make every command slow; any other error is a defect.
EXIT_CODES = {
    "streams.terminal.Failure": FAILED,
    "streams.broker.BrokerUnavailable": FAILED,
    "streams.publish.BadLine": FAILED,
    "streams.publish.TopicMissing": FAILED,
    "streams.imports.NotAShop": FAILED,
    "streams.embedded_broker.EmbeddedBrokerFailed": FAILED,
    "streams.supervisor.ChildNotReady": FAILED,
    "store.records.StoreUnavailable": FAILED,
    "store.vectors_embedded.StoreInUse": FAILED,
    "encoders.reduction.CannotReduce": FAILED,
    "encoders.training.loop.CannotTrain": FAILED,
    "encoders.version.UnusableVersion": FAILED,
    "store.encoders.UnknownVersion": FAILED,
    "store.encoders.WrongState": FAILED,
    "store.keys.UnknownKey": FAILED,
    "store.experiments.ExperimentRefused": FAILED,
    "streams.training.checkpoints.OtherCheckpoint": FAILED,
    "streams.training.search.CannotSearch": FAILED,
    "streams.training.sources.CannotWriteSource": FAILED,
    "streams.training.logs.NoTensorBoard": FAILED,
    "streams.up.BadGroups": MISUSED,
    "streams.roles.UnknownRole": MISUSED,
    "streams.terminal.BadSettings": MISCONFIGURED,
    "streams.settings.UnknownSetting": MISCONFIGURED,
    "streams.supervisor.ChildMisconfigured": MISCONFIGURED,
    "streams.embedded_broker.EmbeddedBrokerMissing": MISCONFIGURED,
    "streams.ports.PortTaken": MISCONFIGURED,
    "streams.api.access.NoKeys": MISCONFIGURED,
    "streams.group.StreamNotCompiled": MISCONFIGURED,
    "streams.journal.JournalInUse": MISCONFIGURED,
    "encoders.recipes.UnknownSource": MISCONFIGURED,
    "encoders.product.UnknownDevice": MISCONFIGURED,
    "store.database.SchemaTooNew": MISCONFIGURED,
    "store.vectors.EmbeddedStoreMissing": MISCONFIGURED,
    "store.postgresql.WrongDatabase": MISCONFIGURED,
}
NOISY = (
    *("kafka", "aiokafka", "faust", "mode", "uvicorn", "httpx", "httpcore", "qdrant_client", "alembic", "asyncio"),
    "streams.group",  # Faust logs under the module that derives from its classes
)


class Failure(Exception):
    """A command cannot do what it was asked; str() says what to do next."""


class BadSettings(Exception):
    """FRESHET_ variables break their bounds; str() names each."""


class Commands(TyperGroup):
    """Turns an error that a person can act on into its text on stderr; a defect shows its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            code = exit_code_of(error)
            if code is None:
                raise
            typer.echo(f"freshet: {text_of(error)}", err=True)
            raise typer.Exit(code) from error


def exit_code_of(error: Exception) -> int | None:
    """The exit code of an error that a person can act on; None for a defect."""
    if isinstance(error, OSError) and error.filename is not None:
        return FAILED
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((EXIT_CODES[name] for name in names if name in EXIT_CODES), None)


def text_of(error: Exception) -> str:
    """One line; what a process wrote as `freshet: ...` does not say so twice."""
    if isinstance(error, OSError):
        return f"cannot open {error.filename}: {error.strerror}. Is the path right?"
    return str(error).replace("freshet: ", "")


def read_settings() -> "Settings":
    """Settings from the environment. Raises BadSettings, and UnknownSetting."""
    from pydantic import SecretStr, ValidationError
    from pydantic_settings import SettingsError

    from streams.settings import Settings, load_settings

    secret = {
        name for name, field in Settings.model_fields.items() if SecretStr in getattr(field.annotation, "__args__", ())
    }
    try:
        return load_settings()
    except ValidationError as error:
        raise BadSettings("; ".join(_problems(error, secret))) from None  # the cause would print what secrets hold
    except SettingsError as error:
        raise BadSettings(f"{error}: write a list as JSON, like '[\"purchase\"]'") from None


def _problems(error: "ValidationError", secret: set[str]) -> list[str]:
    return [
        f"FRESHET_{str(problem['loc'][0]).upper()}"
        + ("" if problem["loc"][0] in secret else f"={problem['input']!r}")
        + f": {problem['msg']}"
        for problem in error.errors(include_url=False)
    ]


class _OneLine(logging.Formatter):
    """time=... level=... from=... message; a traceback stays on the line."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", " | ")


def set_up_logging(level: str) -> None:
    """Log to stderr at this level; libraries that talk much from WARNING on. Raises Failure for an unknown level."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise Failure(f"there is no log level {level!r}: take DEBUG, INFO, WARNING or ERROR")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("time=%(asctime)s level=%(levelname)s from=%(name)s %(message)s"))
    logging.basicConfig(level=number, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


@contextmanager
def progress_bars(*, is_shown: bool = True) -> "Iterator[Progress]":
    """Bars on stderr with the rate and the time left, where that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, disable=not (is_shown and terminal.is_terminal)) as bar:
        yield bar
