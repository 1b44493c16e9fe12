"""A container is healthy while its worker's role says that it runs."""

import pytest

from streams.events import WorkerStatus
from streams.health import HEARD_S, trouble

NOW = 1_000_000.0


def status(worker_id: str = "w-1", role: str = "index", *, age_s: float = 1.0, state: str = "running") -> WorkerStatus:
    return WorkerStatus.model_validate(
        {
            "worker_id": worker_id,
            "role": role,
            "pid": 7,
            "state": state,
            "reason": "Qdrant does not answer" if state == "waiting" else None,
            "started_at": NOW - 60,
            "at": NOW - age_s,
            "events": 3,
            "events_per_s": 0.0,
            "lag": 0,
            "oldest_unprocessed_s": 0.0,
            "dead_letters": 0,
            "details": {},
        }
    )


def test_a_role_that_runs_has_no_trouble() -> None:
    assert trouble([status(age_s=HEARD_S)], "w-1", "index", NOW) is None


def test_the_newest_status_counts() -> None:
    assert trouble([status(state="waiting", age_s=3.0), status(age_s=2.0)], "w-1", "index", NOW) is None


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ([], "index of w-1 has said nothing yet"),
        ([status("w-2"), status(role="clicks")], "index of w-1 has said nothing yet"),
        ([status(age_s=16.0)], "index of w-1 is silent for 16 s, the limit is 15 s"),
        ([status(state="waiting")], "index of w-1 is waiting: Qdrant does not answer"),
        ([status(state="starting")], "index of w-1 is starting: it has just begun"),
    ],
)
def test_trouble_is_named(statuses: list[WorkerStatus], reason: str) -> None:
    assert trouble(statuses, "w-1", "index", NOW) == reason
