"""The loop that every task of training shares: batches, optimiser, schedule, precision, processes, and going on.

A task is a module whose forward takes a Batch and returns the mean loss of its part. The learning rate rises for a
tenth of the steps, then falls (Smith, Topin, arXiv 1708.07120). A run that was killed goes on from its last standing
and ends with the very weights of one that was not, on a CPU.
"""

import io
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from encoders.training.processes import ALONE, Processes

Optimizer = Literal["adam", "adamw", "adagrad"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
}
SAVE_EVERY_S = 30.0


class CannotTrain(ValueError):
    """There is too little to learn from, or it cannot be done so; str() says what to do."""


class OtherStanding(ValueError):
    """The standing is of another training; str() says what differs."""


class Pace(Protocol):
    """What the rule of each task has among its own."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...  # at its highest
    @property
    def weight_decay(self) -> float: ...
    @property
    def optimizer(self) -> Optimizer: ...
    @property
    def precision(self) -> Precision: ...


class Batch(NamedTuple):
    """B examples of one step, of which a part is this process's."""

    rows: NDArray[np.int64]  # (B,) all of them, the same in each process
    part: slice
    chance: np.random.Generator  # draws the same in each process: draw for all rows, then take the part
    processes: Processes

    @property
    def own(self) -> NDArray[np.int64]:
        """(B / world,) this process's."""
        return self.rows[self.part]


Metrics = dict[str, float]
"""Of one epoch: epoch, loss, learning_rate, seconds."""


class Progress(NamedTuple):
    """Where a run stands after a step."""

    step: int
    steps: int
    loss: float  # mean of this epoch's steps so far
    epochs: tuple[Metrics, ...]  # those that are done


class Kept(Protocol):
    """Where the standing of a run is kept."""

    def read(self) -> bytes | None: ...
    def write(self, standing: bytes) -> None: ...


class Run(NamedTuple):
    """How a run is made; but for the seed it shapes nothing on a CPU."""

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    processes: Processes = ALONE
    kept: Kept | None = None
    told: Callable[[Progress], None] = lambda _: None
    save_every_s: float = SAVE_EVERY_S

    def seeded(self) -> "tuple[torch.device, np.random.Generator]":
        """Where the run's arrays belong, and its chance; the weights that are drawn from now on are the seed's."""
        torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)
        return torch.device(self.device), np.random.default_rng(self.seed)


def train(task: nn.Module, examples: int, rule: Pace, run: Run, chance: np.random.Generator) -> None:
    """The task's parameters are those after so many epochs.

    examples  how many there are; what is left after the last whole batch of an epoch waits for the next one

    Raises CannotTrain where the loss is no number any more, OtherStanding where what is kept does not fit.
    """
    world, device = run.processes.world, torch.device(run.device)
    batch = min(rule.batch, examples) // world * world
    if batch == 0:
        raise CannotTrain(f"{examples} examples for {world} processes: give each process one at least")
    batches = examples // batch
    task.to(device).train()
    taught = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
    optimizer = OPTIMIZERS[rule.optimizer](taught.values(), lr=rule.learning_rate, weight_decay=rule.weight_decay)  # type: ignore[call-arg]
    pace = _pace(optimizer, rule, rule.epochs * batches)
    precision = _precision(rule.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    together = DistributedDataParallel(task, find_unused_parameters=False) if run.processes.connected else task
    if not run.processes.is_first:
        torch.manual_seed(run.seed + run.processes.rank)  # each process drops other values
    parts: dict[str, Any] = {"optimizer": optimizer, "pace": pace, "scaler": scaler}
    at = _Standing()
    if run.kept is not None and (kept := run.processes.agreed(run.kept.read())) is not None:
        at = _restore(kept, taught, parts, chance, run.processes)
    saved_at = last = time.monotonic()
    part = run.processes.part(batch)
    while len(at.epochs) < rule.epochs:
        if at.order is None:
            at.order, at.losses = chance.permutation(examples), []
        for begin in range(len(at.losses) * batch, batches * batch, batch):
            rows = at.order[begin : begin + batch]  # (B,)
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                loss: Tensor = together(Batch(rows, part, chance, run.processes))
            optimizer.zero_grad()
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            pace.step()
            at.losses.append(loss.item())
            if not np.isfinite(at.losses[-1]):
                raise CannotTrain("the loss is no number any more: take a lower learning rate, or more precision")
            now = time.monotonic()
            at.seconds, last = at.seconds + now - last, now
            ends = len(at.losses) == batches
            if ends:
                at.end_epoch(float(pace.get_last_lr()[0]))
            is_due = ends or now - saved_at > run.save_every_s
            if run.kept is not None and run.processes.agreed(is_due):
                random = run.processes.from_all(torch.get_rng_state())
                if run.processes.is_first:
                    run.kept.write(_saved(at, taught, parts, chance, random))
                saved_at = now
            done = len(at.epochs) * batches + len(at.losses) * (not ends)
            run.told(Progress(done, rule.epochs * batches, float(np.mean(at.losses)), tuple(at.epochs)))
    task.eval()


class _Standing:
    """Where a run stands, but for what torch holds."""

    def __init__(self) -> None:
        self.epochs: list[Metrics] = []
        self.order: NDArray[np.int64] | None = None  # of the running epoch's examples; None between epochs
        self.losses: list[float] = []  # of the running epoch's steps
        self.seconds = 0.0

    def end_epoch(self, learning_rate: float) -> None:
        loss = float(np.mean(self.losses))
        row = {"epoch": len(self.epochs) + 1, "loss": loss, "learning_rate": learning_rate, "seconds": self.seconds}
        self.epochs.append(row)
        self.order = None


def _pace(optimizer: torch.optim.Optimizer, rule: Pace, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    rising = min(max(0.1, 2 / steps), 0.75)  # a rise that ends with the first step divides by zero
    has_momentum = rule.optimizer != "adagrad"
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rule.learning_rate, total_steps=steps, pct_start=rising, cycle_momentum=has_momentum
    )


def _precision(name: Precision, device: torch.device) -> torch.dtype:
    """Of the matrix products. Raises CannotTrain."""
    is_cuda = device.type == "cuda"
    if name == "auto":
        if not is_cuda:
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name == "float16" and not is_cuda:
        raise CannotTrain(f"float16 is for CUDA, this is {device.type}: take --precision bfloat16 or float32")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _saved(
    at: _Standing, taught: dict[str, nn.Parameter], parts: dict[str, Any], chance: np.random.Generator, random: Any
) -> bytes:
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"taught": {name: parameter.detach() for name, parameter in taught.items()}}
    state |= {"at": {**vars(at), "order": None if at.order is None else torch.from_numpy(at.order)}}
    state |= {"chance": chance.bit_generator.state, "random": random}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _restore(
    kept: bytes,
    taught: dict[str, nn.Parameter],
    parts: dict[str, Any],
    chance: np.random.Generator,
    processes: Processes,
) -> _Standing:
    """What is kept is what torch, the chance and the parameters hold from now on."""
    state = torch.load(io.BytesIO(kept), map_location="cpu", weights_only=True)
    shapes = {name: tuple(parameter.shape) for name, parameter in taught.items()}
    others = {name: tuple(parameter.shape) for name, parameter in state["taught"].items()}
    for name in shapes.keys() | others.keys():
        if shapes.get(name) != others.get(name):
            raise OtherStanding(f"it holds {name} as {others.get(name)}, this training as {shapes.get(name)}")
    if len(state["random"]) != processes.world:
        raise OtherStanding(f"it is of {len(state['random'])} processes, these are {processes.world}")
    with torch.no_grad():
        for name, parameter in taught.items():
            parameter.copy_(state["taught"][name])
    for name, part in parts.items():
        part.load_state_dict(state[name])
    chance.bit_generator.state = state["chance"]
    torch.set_rng_state(state["random"][processes.rank])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    at = _Standing()
    vars(at).update(state["at"])
    at.order = None if at.order is None else at.order.numpy()  # type: ignore[attr-defined]
    return at
