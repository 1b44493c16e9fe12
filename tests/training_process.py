"""A training of a few pairs in a process of its own, for tests that kill it or start several.

python -m tests.training_process FOLDER STEPS: prints each step; waits to be killed after so many (0: never).
"""

import sys
import time
from pathlib import Path

import numpy as np

from encoders.training.align import AlignmentRule, align
from encoders.training.loop import Progress, Run
from encoders.training.processes import training_processes
from streams.training.checkpoints import Checkpoint
from tests.test_alignment import pairs

RULE = AlignmentRule(width=8, epochs=4, batch=20, dropout=0.3)


def main(folder: Path, until: int, dropout: float) -> None:
    def told(at: Progress) -> None:
        print(at.step, flush=True)
        if at.step == until:
            time.sleep(600)

    pictures, words = pairs(100)
    rule = RULE._replace(dropout=dropout)
    with training_processes() as processes:
        kept = Checkpoint(folder, {"rule": rule._asdict()})
        learned = align(pictures, words, rule, Run(3, processes=processes, kept=kept, told=told, save_every_s=0.0))
        np.savez(folder / f"learned-{processes.rank}.npz", **learned.state())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else RULE.dropout)
