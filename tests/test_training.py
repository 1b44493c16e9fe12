"""What every training shares: the same weights after a kill, on several processes, and from the same seed."""

import csv
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoders.training.loop import Batch, CannotTrain, Optimizer, OtherStanding, Progress, Run, train
from streams.training import logs
from streams.training.checkpoints import Checkpoint, OtherCheckpoint
from streams.training.runs import Options, checksum, finished, run_of
from tests.training_process import RULE

ROOT = Path(__file__).parent.parent


class Line(nn.Module):
    """Learns y = 2 x from four examples."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))
        self.x = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, batch: Batch) -> Tensor:
        x = self.x[batch.own]
        return ((self.slope * x - 2 * x) ** 2).mean()


def learned(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "learned-0.npz") as arrays:
        return dict(arrays)


def started(folder: Path, until: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.training_process", str(folder), str(until)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


# --- the loop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad"])
def test_a_line_is_learned_by_each_optimiser(optimizer: Optimizer) -> None:
    told: list[Progress] = []
    line, run = Line(), Run(told=told.append)
    rate = 2.0 if optimizer == "adagrad" else 0.3  # it shrinks its steps
    rule = RULE._replace(epochs=60, batch=2, learning_rate=rate, weight_decay=0.0, optimizer=optimizer)
    train(line, 4, rule, run, run.seeded()[1])
    assert line.slope.item() == pytest.approx(2, abs=0.05)
    assert (told[-1].step, told[-1].steps, len(told)) == (120, 120, 120)
    assert told[0].loss > 10 > told[-1].loss
    assert [epoch["epoch"] for epoch in told[-1].epochs] == list(range(1, 61))


def test_bfloat16_learns_too_and_float16_is_for_cuda() -> None:
    line, run = Line(), Run()
    rule = RULE._replace(epochs=60, batch=2, learning_rate=0.3, precision="bfloat16")
    train(line, 4, rule, run, run.seeded()[1])
    assert line.slope.item() == pytest.approx(2, abs=0.1)
    with pytest.raises(CannotTrain, match="float16 is for CUDA, this is cpu: take --precision bfloat16 or float32"):
        train(Line(), 4, rule._replace(precision="float16"), run, run.seeded()[1])


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    line, run = Line(), Run()
    line.x[1] = torch.nan
    with pytest.raises(CannotTrain, match="the loss is no number any more: take a lower learning rate"):
        train(line, 4, RULE, run, run.seeded()[1])


# --- going on ----------------------------------------------------------------------------------------------------


def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with started(whole, 0) as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == [str(step) for step in range(1, 21)]
    for until, first in ((7, 1), (13, 7)):  # five steps an epoch; what a step has told is on the disk
        with started(killed, until) as process:
            assert process.stdout is not None
            steps = [int(process.stdout.readline()) for _ in range(until - first + (first == 1))]
            process.send_signal(signal.SIGKILL)
        assert steps == list(range(first + (first > 1), until + 1))
        assert not (killed / "learned-0.npz").exists()
    with started(killed, 0) as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == [str(step) for step in range(14, 21)]
    for name, array in learned(whole).items():
        np.testing.assert_array_equal(array, learned(killed)[name])


def test_a_run_that_was_done_is_done_at_once(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path, {})
    for expected in (8, 0):
        told: list[Progress] = []
        line, run = Line(), Run(kept=kept, told=told.append)
        train(line, 4, RULE._replace(epochs=4, batch=2, learning_rate=0.3), run, run.seeded()[1])
        assert len(told) == expected
        assert line.slope.item() != 0


def test_a_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path: Path) -> None:
    identity = {"task": "align", "rule": {"width": 8, "batch": 20}, "data": "abc"}
    Checkpoint(tmp_path, identity).write(b"standing")
    assert Checkpoint(tmp_path, identity).read() == b"standing"
    other = {"task": "align", "rule": {"width": 9, "batch": 20}, "data": "xyz"}
    with pytest.raises(OtherCheckpoint, match=r"another training \(width was 8, is 9; data was abc, is xyz\): begin"):
        Checkpoint(tmp_path, other).read()
    with pytest.raises(OtherCheckpoint, match=r"\(rule was .*, is None\)"):
        Checkpoint(tmp_path, {"task": "align", "data": "abc"}).read()


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-3], lambda whole: whole[:9], lambda _: b"", lambda _: b"[]\n"]
)
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path: Path, damage: "object") -> None:
    kept = Checkpoint(tmp_path, {})
    kept.write(b"standing")
    kept.path.write_bytes(damage(kept.path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(OtherCheckpoint, match="is not whole: begin again with --fresh, or name another folder"):
        kept.read()


def test_an_interrupted_write_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoint(tmp_path, {})
    kept.write(b"first")

    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="No space left"):
        kept.write(b"second")
    assert kept.read() == b"first"


def test_a_standing_of_another_shape_is_refused(tmp_path: Path) -> None:
    class Plane(Line):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.zeros(2))

        def forward(self, batch: Batch) -> Tensor:
            return (self.slope - 2).square().mean() * len(batch.own)

    options = Options(folder=tmp_path)
    rule = RULE._replace(epochs=1, batch=2)
    with run_of(options, {}) as run:
        train(Line(), 4, rule, run, run.seeded()[1])
    with (
        pytest.raises(OtherCheckpoint, match=r"it holds slope as \(1,\), this training as \(2,\)\): begin again with"),
        run_of(options, {}) as run,
    ):
        train(Plane(), 4, rule, run, run.seeded()[1])
    with pytest.raises(OtherStanding, match="slope"):
        train(Plane(), 4, rule, run, run.seeded()[1])
    with run_of(Options(folder=tmp_path, is_fresh=True), {}) as run:
        train(Plane(), 4, RULE._replace(epochs=1, batch=4), run, run.seeded()[1])
    finished(options)
    assert not (tmp_path / "checkpoint").exists()


# --- what is told ------------------------------------------------------------------------------------------------


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_epoch_is_a_row_once_though_the_run_was_broken_off(tmp_path: Path) -> None:
    class Breaks(Line):
        at = 0

        def forward(self, batch: Batch) -> Tensor:
            self.at += 1
            if self.at == 6:
                raise KeyboardInterrupt
            return super().forward(batch)

    rule = RULE._replace(epochs=4, batch=2, learning_rate=0.3)
    with pytest.raises(KeyboardInterrupt), run_of(Options(folder=tmp_path), {}) as run:
        train(Breaks(), 4, rule, run, run.seeded()[1])
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2"]
    with run_of(Options(folder=tmp_path), {}) as run:
        train(Line(), 4, rule, run, run.seeded()[1])
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == ["1", "2", "3", "4"]
    assert list(found[0]) == ["epoch", "loss", "learning_rate", "seconds"]
    assert float(found[-1]["loss"]) < float(found[0]["loss"])


def test_tensorboard_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard.compat.proto", "tensorboard.summary.writer.event_file_writer"):
        monkeypatch.setitem(sys.modules, name, None)
    with (
        pytest.raises(logs.NoTensorBoard, match="pip install tensorboard"),
        run_of(Options(folder=tmp_path, tensorboard=True), {}),
    ):
        pass


def test_tensorboard_has_each_epoch_where_it_is_installed(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    with run_of(Options(folder=tmp_path, tensorboard=True), {}) as run:
        train(Line(), 4, RULE._replace(epochs=2, batch=2), run, run.seeded()[1])
    (path,) = tmp_path.glob("events.out.tfevents.*")
    events = list(loader.EventFileLoader(str(path)).Load())
    tags = [(event.step, value.tag) for event in events for value in event.summary.value]
    assert [step for step, tag in tags if tag == "loss"] == [1, 2]


def test_a_checksum_tells_arrays_apart_by_values_shape_and_type() -> None:
    one = np.arange(6, dtype=np.float32)

    def several() -> Iterator[str]:
        yield from (checksum(one), checksum(one + 1), checksum(one.reshape(2, 3)), checksum(one.astype(np.float64)))

    assert len(set(several())) == 4
    assert checksum(one) == checksum(one.copy())


# --- several processes -------------------------------------------------------------------------------------------


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    """Pairs have the batch of both as negatives; nothing is dropped, because each process drops other values."""
    one, two = tmp_path / "one", tmp_path / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command, folder in ([sys.executable], one), (torchrun, two):
        started = [*command, "-m", "tests.training_process", str(folder), "0", "0.0"]
        done = subprocess.run(started, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    alone = learned(one)
    for rank in range(2):
        with np.load(two / f"learned-{rank}.npz") as arrays:
            for name, array in alone.items():
                np.testing.assert_allclose(arrays[name], array, atol=1e-4)
                np.testing.assert_array_equal(arrays[name], learned(two)[name])
    assert (two / "checkpoint").exists()  # by the first alone
