"""`freshet up`: the embedded broker where none is named, the topics, and one supervised process per group of roles."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import SecretStr

from streams.embedded_broker import broker_command, until_answers
from streams.kept_documents import publish_all_kept
from streams.settings import Settings
from streams.status import ROLES
from streams.supervisor import Child, Supervisor
from streams.topics import TopicNames, create_topics
from streams.versions import known_fingerprints

log = logging.getLogger(__name__)

GROUPS = (("catalog",), ("encode",), ("index", "api"), ("clicks",), ("learner",))
BACKGROUND = frozenset({"encode", "learner"})  # they give way to what a shopper waits for
BACKGROUND_NICE = 10


class BadGroups(ValueError):
    """The roles cannot be grouped into processes like this; str() says how they can."""


def parse_groups(texts: Sequence[str], *, embedded_vectors: bool) -> list[tuple[str, ...]]:
    """The roles of each process, from texts like "index,api". Raises BadGroups.

    embedded_vectors  the vector store lives in the process of index and api, so they must share one
    """
    groups = [tuple(name.strip() for name in text.split(",")) for text in texts]
    named = [name for group in groups for name in group]
    for name in named:
        if name not in ROLES:
            raise BadGroups(f"there is no role {name!r}: the roles are {', '.join(ROLES)}")
        if named.count(name) > 1:
            raise BadGroups(
                f"the role {name} is named twice: to scale it, start `freshet worker {name}` elsewhere "
                "under its own FRESHET_WORKER_ID"
            )
    apart = [group for group in groups if {"index", "api"} & set(group)]
    if embedded_vectors and len(apart) > 1:
        raise BadGroups(
            "one process owns the embedded vector store: write --roles index,api, or set FRESHET_QDRANT_URL"
        )
    return groups


def worker_children(settings: Settings, groups: Sequence[Sequence[str]], *, log_level: str = "INFO") -> list[Child]:
    """A process per group; the roles in the background are nice."""
    return [
        Child(
            name="-".join(group),
            command=[sys.executable, "-m", "streams.cli", "worker", *group, "--log-level", log_level],
            environment=_environment(settings, threads=settings.encode_threads if "encode" in group else 1),
            nice=BACKGROUND_NICE if BACKGROUND.issuperset(group) else 0,
        )
        for group in groups
    ]


def broker_child(settings: Settings, names: TopicNames) -> Child:
    """The embedded broker; it is ready when every topic is there, and on them the rules and the experiment that SQL
    keeps. Raises EmbeddedBrokerMissing and PortTaken."""

    async def ready() -> None:
        await until_answers(settings.embedded_port)
        await asyncio.to_thread(create_topics, settings, names, known_fingerprints(settings))
        await asyncio.to_thread(publish_all_kept, settings, names)

    return Child("broker", broker_command(settings.embedded_port), ready=ready)


async def make_supervisor(
    settings: Settings, groups: Sequence[Sequence[str]], names: TopicNames, *, log_level: str = "INFO"
) -> Supervisor:
    """The supervisor of everything, not started; with a broker of one's own its topics are made.

    Raises EmbeddedBrokerMissing, PortTaken and BrokerUnavailable.
    """
    children = worker_children(settings, groups, log_level=log_level)
    if settings.kafka_bootstrap is None:
        children = [broker_child(settings, names), *children]
    else:
        await asyncio.to_thread(create_topics, settings, names, known_fingerprints(settings))
    return Supervisor(children, settings.home / "logs")


async def up(
    settings: Settings, groups: Sequence[Sequence[str]], names: TopicNames, *, log_level: str = "INFO"
) -> None:
    """Run everything until SIGTERM or SIGINT; no process is left then.

    Raises what make_supervisor and Supervisor.start raise, and ChildMisconfigured when a worker's settings are wrong.
    """
    running = asyncio.create_task(_run(settings, groups, names, log_level))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _run(settings: Settings, groups: Sequence[Sequence[str]], names: TopicNames, log_level: str) -> None:
    supervisor = await make_supervisor(settings, groups, names, log_level=log_level)
    await supervisor.start()
    try:
        log.info("every process started broker=%s", settings.bootstrap)
        if any("api" in group for group in groups):
            log.info("ready once http://%s:%d/readyz answers 200", settings.api_host, settings.api_port)
        await supervisor.wait()
    finally:
        log.info("stopping")
        await supervisor.stop()


def _environment(settings: Settings, *, threads: int) -> Mapping[str, str]:
    """This process's environment with the settings as they are here, and so many threads for numeric libraries."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
    libraries = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    return inherited | {f"{library}_NUM_THREADS": str(threads) for library in libraries} | _variables(settings)


def _variables(settings: Settings) -> dict[str, str]:
    """FRESHET_ variables from which the same settings are read."""
    variables = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value != type(settings).model_fields[name].default:
            variables[f"FRESHET_{name.upper()}"] = _text(value)
    return variables


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, frozenset):
        return orjson.dumps(sorted(value)).decode()
    return orjson.dumps(value).decode() if value is None or isinstance(value, bool) else str(value)
