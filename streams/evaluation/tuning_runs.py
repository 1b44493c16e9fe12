"""One choice of settings taken through one set of clicks: in workers, processes that end with whoever made them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, Self

import numpy as np

from encoders.next_click import Floats
from encoders.next_click_training import FactorsDiverged
from streams.evaluation.measures import measured
from streams.evaluation.prequential import Evaluation, ScoresBroken, Standing
from streams.evaluation.schedules import Plan
from streams.evaluation.stream import Stream
from streams.evaluation.tuning_space import Values, model_of

SHELF = "new_shelf_"  # before the measures on products with few clicks
MEASURES = ("hr_at_10", "ndcg_at_10", SHELF + "hr_at_10")

Figures = dict[str, float | None]


class RunFailed(Exception):
    """A worker could not finish a run, for a reason that is not the settings'; str() says which."""


class Run(NamedTuple):
    """What a worker is asked for: the settings, the number of the set, and how its clicks are gone through."""

    trial: int
    number: int
    values: Values
    clicks: int  # the first so many are gone through
    judged_from: int  # clicks before the first that is judged
    measure: str
    plan: Plan  # its warm-up is not read: judged_from is


class Result(NamedTuple):
    """What a run had.

    figures  judged events and the measures with their standard errors, as `freshet evaluate` names them; and update_us
    ranks    (clicks,) float32 of the measure, NaN where nothing was judged
    """

    figures: Figures
    ranks: Floats


class Broke(NamedTuple):
    """The model diverged with these settings."""

    reason: str


Told = Callable[[Run, int], None]
"""Called with how many clicks a run has gone through."""


def first_clicks(stream: Stream, clicks: int) -> Stream:
    """The stream as if it had ended after so many clicks; products are known from their first click on."""
    products = int(stream.known[clicks])
    facts = stream.facts
    return replace(
        stream,
        users=stream.users[:clicks],
        rows=stream.rows[:clicks],
        codes=stream.codes[:clicks],
        times=stream.times[:clicks],
        segments=stream.segments[:clicks],
        known=stream.known[: clicks + 1],
        facts=facts._replace(
            product_ids=facts.product_ids[:products],
            fused=None if facts.fused is None else facts.fused[:products],
            events_total=clicks,
        ),
    )


def perform(run: Run, stream: Stream, told: Callable[[int], None] = lambda _: None) -> Result | Broke:
    """Predict and learn the run's clicks, in this process."""
    plan = replace(run.plan, warm_up=run.judged_from / run.clicks)
    part = first_clicks(stream, run.clicks)
    standing = Standing.start(model_of(run.values, part.facts, plan.seed), part)
    try:
        Evaluation(part, plan).run(standing, told=lambda standing: told(standing.position))
    except (FactorsDiverged, ScoresBroken) as error:
        return Broke(str(error))
    for ranks in (standing.ranks, standing.shelf_ranks):
        ranks[: run.judged_from] = np.nan  # the warm-up as a share may end one click early
    shelf = {SHELF + name: value for name, value in measured(standing.shelf_ranks, part.users).items()}
    figures = {
        name: value
        for name, value in (measured(standing.ranks, part.users) | shelf).items()
        if name.removesuffix("_stderr") in MEASURES or name.endswith("events")
    }
    ranks = standing.shelf_ranks if run.measure.startswith(SHELF) else standing.ranks
    return Result(figures | {"update_us": standing.updating.mean_us}, ranks)


class Workers:
    """Processes of one core each; a context, at whose end they are gone."""

    def __init__(self, streams: Sequence[Stream], count: int) -> None:
        """A run's number is a place in streams."""
        self._streams = streams
        self._count = count
        self._free: list[Connection] = []
        self._busy: dict[Connection, Run] = {}
        self._processes: dict[Connection, SpawnProcess] = {}

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, self._streams), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process
        self._free = list(self._processes)
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._processes.items():
            process.kill()
            process.join()
            connection.close()

    @property
    def free(self) -> bool:
        """There is a worker that waits for a run."""
        return bool(self._free)

    def start(self, run: Run) -> None:
        """A free worker has it. Raises RunFailed."""
        connection = self._free.pop()
        self._busy[connection] = run
        try:
            connection.send(run)
        except BrokenPipeError:
            raise self._death(connection) from None

    def wait(self, told: Told) -> list[tuple[Run, Result | Broke]]:
        """Wait until a worker says something, and return the runs that are finished by then. Raises RunFailed."""
        finished = []
        for connection in wait(list(self._busy)):
            assert isinstance(connection, Connection)
            run = self._busy[connection]
            try:
                kind, value = connection.recv()
            except (EOFError, ConnectionResetError):
                raise self._death(connection) from None
            if kind == "at":
                told(run, value)
            elif kind == "failed":
                raise RunFailed(f"trial {run.trial}: {value}")
            else:
                finished.append((run, value))
                del self._busy[connection]
                self._free.append(connection)
        return finished

    def _death(self, connection: Connection) -> RunFailed:
        process = self._processes[connection]
        process.join()
        return RunFailed(
            f"trial {self._busy[connection].trial}: its process ended with {process.exitcode} (-9: it was killed; "
            "is there enough memory?)"
        )


def _work(connection: Connection, streams: Sequence[Stream]) -> None:
    """A worker. It ends when nobody can ask for runs or take what it tells any more."""
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends us

    def tell(kind: str, value: Any) -> None:
        try:
            connection.send((kind, value))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)

    with threadpool_limits(1):
        while True:
            try:
                run: Run = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            try:
                result = perform(run, streams[run.number], lambda position: tell("at", position))
            except BaseException as error:
                tell("failed", f"{type(error).__name__}: {error}")
                raise
            tell("done", result)
