"""Every model in a process of its own: its time and memory are its own, and it may use one core."""

import logging
import multiprocessing
import os
import pickle
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]

from encoders.next_click import Floats
from streams.evaluation.checkpoint import Unusable, identify, read_checkpoint, write_checkpoint
from streams.evaluation.models import Wanted, make, source_of
from streams.evaluation.prequential import Evaluation, Standing
from streams.evaluation.schedules import Plan
from streams.evaluation.stream import Stream

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

Told = Callable[[int, int], None]
"""Called with a job's number and how many clicks it has gone through."""

Noted = Callable[[str], None]
"""Called with what a person should know: a checkpoint is gone on from, or is not."""


@dataclass(frozen=True)
class Job:
    """One model to take through the stream."""

    label: str  # no two jobs have the same
    model: Wanted
    plan: Plan


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a job: ranks as in Standing, costs, memory in MiB."""

    job: Job
    ranks: Floats
    shelf_ranks: Floats
    published_ranks: Floats
    coverage: float | None  # share of the known products that were in any first ten; None without a list
    popularity: float | None  # mean clicks of what is in a first ten, as shares of a known product's mean clicks
    likeness: float | None  # mean cosine of every two in a first ten, from the mean of all vectors; None without any
    update_us: float | None
    list_us: float | None
    peak_mib: float  # most that the process had, looked at four times a second
    growth_mib: float  # the same, without what it had before the model was made
    model_mib: float  # the pickled model


class Failed(NamedTuple):
    """Why nothing came of a job."""

    job: Job
    reason: str


def run_jobs(
    jobs: Sequence[Job],
    stream: Stream,
    *,
    at_once: int = 1,
    checkpoints: Path | None = None,
    checkpoint_every_s: float = 60.0,
    told: Told = lambda *_: None,
    noted: Noted = lambda _: None,
) -> list[Outcome | Failed]:
    """What came of each job, in order; at most `at_once` processes run at the same time."""
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(jobs))[::-1]
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    results: dict[int, Outcome | Failed] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, job = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                arguments = (theirs, job, stream, checkpoints, checkpoint_every_s)
                process = context.Process(target=_child, args=arguments, name=job.label, daemon=True)
                running[ours] = number, process
                with _one_thread():
                    process.start()
                theirs.close()
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                number, process = running[connection]
                result = _heard(connection, process, jobs[number], lambda at, n=number: told(n, at), noted)  # type: ignore[misc]
                if result is not None:
                    results[number] = result
                    del running[connection]
                    connection.close()
                    process.join()
    finally:
        for connection, (_, process) in running.items():
            process.kill()
            process.join()
            connection.close()
    return [results[number] for number in range(len(jobs))]


def run_job(
    job: Job,
    stream: Stream,
    *,
    checkpoints: Path | None = None,
    checkpoint_every_s: float = 60.0,
    told: Callable[[int], None] = lambda _: None,
    noted: Noted = lambda _: None,
) -> Outcome:
    """Take the model through the stream in this process, from its checkpoint on if there is one that fits."""
    process = psutil.Process()
    had = peak = int(process.memory_info().rss)
    evaluation = Evaluation(stream, job.plan)
    path = None if checkpoints is None else checkpoints / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', job.label)}.checkpoint"
    identity = identify(
        stream, job.plan, f"{job.model.factory} {job.model.refits} {job.model.options}", source_of(job.model.factory)
    )
    standing = None
    if path is not None:
        try:
            standing = read_checkpoint(path, identity)
        except Unusable as reason:
            noted(f"{job.label}: {reason}")
    if standing is None:
        standing = Standing.start(make(job.model, stream.facts, job.plan.seed), stream)
    else:
        noted(f"{job.label}: goes on after {standing.position:,} clicks, from {path}")

    def look(standing: Standing) -> None:
        nonlocal peak
        peak = max(peak, int(process.memory_info().rss))
        told(standing.position)

    def save(standing: Standing) -> None:
        if path is not None:
            write_checkpoint(path, identity, standing)

    evaluation.run(standing, told=look, save=save, save_every_s=checkpoint_every_s if path else float("inf"))
    save(standing)
    known = int(stream.known[-1])
    return Outcome(
        job=job,
        ranks=standing.ranks,
        shelf_ranks=standing.shelf_ranks,
        published_ranks=standing.published_ranks,
        coverage=float(standing.shown.sum()) / known if standing.lists else None,
        popularity=standing.popularity / standing.lists if standing.lists else None,
        likeness=standing.likeness / standing.compared if standing.compared else None,
        update_us=standing.updating.mean_us,
        list_us=standing.listing.mean_us,
        peak_mib=peak / 2**20,
        growth_mib=(peak - had) / 2**20,
        model_mib=len(pickle.dumps(standing.model, protocol=pickle.HIGHEST_PROTOCOL)) / 2**20,
    )


def _heard(
    connection: Connection, process: SpawnProcess, job: Job, told: Callable[[int], None], noted: Noted
) -> Outcome | Failed | None:
    """The job's result if that is what came; else what came is passed on."""
    try:
        kind, value = connection.recv()
    except EOFError:
        process.join()
        return Failed(job, f"its process ended with {process.exitcode} (-9: it was killed; is there enough memory?)")
    if kind == "at":
        told(value)
    elif kind == "note":
        noted(value)
    elif kind == "failed":
        return Failed(job, value)
    else:
        outcome: Outcome = value
        return outcome
    return None


def _child(connection: Connection, job: Job, stream: Stream, checkpoints: Path | None, every_s: float) -> None:
    """The process of one job. It ends with the one that waits for it: then nobody takes what it tells."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends us

    def tell(kind: str, value: Any) -> None:
        try:
            connection.send((kind, value))
        except BrokenPipeError:
            os._exit(1)

    logging.basicConfig(level=logging.WARNING)
    try:
        outcome = run_job(
            job,
            stream,
            checkpoints=checkpoints,
            checkpoint_every_s=every_s,
            told=lambda position: tell("at", position),
            noted=lambda note: tell("note", note),
        )
    except BaseException as error:
        tell("failed", f"{type(error).__name__}: {error}")
        raise
    tell("done", outcome)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started meanwhile compute with one thread: numerical libraries read this when they are loaded."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
