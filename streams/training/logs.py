"""What a training tells while it runs: a CSV of its epochs, and TensorBoard's file where that is asked for."""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streams.training.checkpoints import replace_file

CSV_NAME = "metrics.csv"


class NoTensorBoard(ValueError):
    """The package is not installed."""


def write_metrics(folder: Path, epochs: Sequence[dict[str, float]]) -> None:
    """metrics.csv has a row for each epoch, and is whole at any moment."""
    written = io.StringIO()
    table = csv.DictWriter(written, fieldnames=list(epochs[0]))
    table.writeheader()
    table.writerows({name: f"{value:.6g}" for name, value in epoch.items()} for epoch in epochs)
    replace_file(folder / CSV_NAME, written.getvalue().encode())


class TensorBoard:
    """Writes what `tensorboard --logdir FOLDER` draws."""

    def __init__(self, folder: Path) -> None:
        """Raises NoTensorBoard."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise NoTensorBoard("--tensorboard needs a package more: pip install tensorboard") from error
        self._event: Any = event_pb2.Event
        self._summary: Any = summary_pb2.Summary
        self._writer: Any = EventFileWriter(str(folder))

    def add(self, epoch: dict[str, float]) -> None:
        """The epoch's figures are in the file."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in epoch.items() if tag != "epoch"]
        event = self._event(wall_time=time.time(), step=int(epoch["epoch"]), summary=self._summary(value=values))
        self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Nothing is added any more."""
        self._writer.close()
