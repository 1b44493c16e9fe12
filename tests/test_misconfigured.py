"""A worker that cannot work as it is set up ends with one line that says what to change, and with code 78 (EX_CONFIG).

The supervisor starts nothing again that ended so; see test_supervisor.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streams.journal import Journal
from streams.ports import free_port
from streams.terminal import FAILED, MISCONFIGURED


def worker(role: str, home: Path, **settings: str) -> tuple[int, list[str]]:
    """The exit code of a worker without a broker, and what it says as `freshet: ...`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
    chosen = {"HOME": str(home), "WORKER_ID": "w1", "KAFKA_BOOTSTRAP": f"127.0.0.1:{free_port()}", **settings}
    command = [sys.executable, "-m", "streams.cli", "worker", role]
    environment = inherited | {f"FRESHET_{name}": value for name, value in chosen.items()}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in ended.stderr
    return ended.returncode, [line for line in ended.stderr.splitlines() if line.startswith("freshet: ")]


@pytest.mark.parametrize(
    ("role", "settings", "said"),
    [
        ("encode", {"DEVICE": "cuda:99"}, "there is no device 'cuda:99' here"),
        ("encode", {"DEVICE": "gpu"}, "FRESHET_DEVICE='gpu': "),
        ("catalog", {"DATABASE_URL": "mysql://h/d"}, "FRESHET_DATABASE_URL: a database URL begins with postgresql://"),
        ("catalog", {"DATABASE_URL": "postgresql://u:p@ss:word@h/d"}, "the database URL cannot be read: write "),
        ("index", {"QDRANT_URL": "qdrant:6333"}, "FRESHET_QDRANT_URL='qdrant:6333': a Qdrant URL is like http://"),
        ("learner", {"CHECKPOINTS_URL": "s4://bucket"}, "FRESHET_CHECKPOINTS_URL='s4://bucket': fsspec knows no s4"),
    ],
)
def test_a_setting_that_cannot_work_ends_the_worker_for_good(
    tmp_path: Path, role: str, settings: dict[str, str], said: str
) -> None:
    code, lines = worker(role, tmp_path, **settings)
    assert code == MISCONFIGURED
    assert [line.startswith(f"freshet: {said}") for line in lines] == [True], lines


def test_a_database_that_does_not_answer_ends_the_worker_to_be_started_again(tmp_path: Path) -> None:
    code, lines = worker("catalog", tmp_path, DATABASE_URL=f"postgresql://u@127.0.0.1:{free_port()}/d")
    assert code == FAILED
    assert "does not serve" in lines[0]


def test_a_second_worker_of_a_home_under_the_same_id_is_told_to_take_another(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "shop" / "journals" / "w1-catalog.json")
    code, [line] = worker("catalog", tmp_path, NAMESPACE="shop")
    assert code == MISCONFIGURED
    assert line == (
        f"freshet: another worker has {tmp_path}/shop/journals/w1-catalog.json open: "
        "stop it, or give each worker of this home its own FRESHET_WORKER_ID"
    )
    journal.close()
