"""Checkpoints: what counts is what was written last under the lease, and a damaged one is not believed."""

import logging
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from databases import database_fixture, engine_fixture  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from sqlalchemy import Engine, text

from store.checkpoints import CheckpointStore, NoReadableCheckpoint
from store.database import transaction
from store.leases import LeaseLost, take_lease
from store.records import StoreUnavailable

WEIGHTS = {"c": np.arange(6, dtype=np.float32).reshape(2, 3), "ids": np.array(["cup", "lamp"])}


@pytest.fixture
def lease(engine: Engine) -> int:
    """Epoch 1 of the lease that protects the checkpoint `learner`."""
    epoch = take_lease(engine, "learner", "a", ttl_s=15, now=time.time())
    assert epoch == 1
    return epoch


def loaded_step(store: CheckpointStore) -> Any:
    checkpoint = store.load("learner")
    return checkpoint and checkpoint[1]["step"]


def saved_steps(store: CheckpointStore, lease: int, count: int) -> list[str]:
    """Save steps 0, 1, ...; returns the files that stay, oldest first."""
    for step in range(count):
        store.save("learner", lease, WEIGHTS, {"step": step})
    with transaction(store._engine) as connection:
        return list(connection.execute(text("SELECT file FROM checkpoints ORDER BY sequence")).scalars())


@pytest.mark.parametrize("place", ["folder", "file", "memory"])
def test_what_was_saved_last_is_loaded(engine: Engine, lease: int, tmp_path: Path, place: str) -> None:
    url = {"folder": str(tmp_path / "new" / "c"), "file": f"file://{tmp_path}/c", "memory": f"memory://{tmp_path}"}[
        place
    ]
    store = CheckpointStore(engine, url)
    assert store.load("learner") is None
    store.save("learner", lease, WEIGHTS, {"offsets": {"t/0": 1}})
    store.save("learner", lease, {**WEIGHTS, "c": WEIGHTS["c"] + 1}, {"offsets": {"t/0": 2}})
    checkpoint = CheckpointStore(engine, url).load("learner")
    assert checkpoint
    arrays, meta = checkpoint
    assert meta == {"offsets": {"t/0": 2}}
    assert arrays.keys() == {"c", "ids"}
    np.testing.assert_array_equal(arrays["c"], WEIGHTS["c"] + 1)
    assert arrays["c"].dtype == np.float32
    assert arrays["ids"].tolist() == ["cup", "lamp"]


anything = arrays_of.arrays(
    st.sampled_from([np.float32, np.int64, np.bool_, np.uint8]), arrays_of.array_shapes(min_dims=0, min_side=0)
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), anything, max_size=3))
def test_any_arrays_survive_the_round_trip(
    engine: Engine, lease: int, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    store = CheckpointStore(engine, str(tmp_path))
    store.save("learner", lease, arrays, {})
    checkpoint = store.load("learner")
    assert checkpoint
    assert checkpoint[0].keys() == arrays.keys()
    for name, array in arrays.items():
        assert checkpoint[0][name].dtype == array.dtype
        np.testing.assert_array_equal(checkpoint[0][name], array)


def test_the_newest_three_stay(engine: Engine, lease: int, tmp_path: Path) -> None:
    store = CheckpointStore(engine, str(tmp_path))
    files = saved_steps(store, lease, 5)
    assert sorted(path.name for path in tmp_path.glob("learner-*")) == sorted(files)
    assert len(files) == 3


def test_who_has_lost_the_lease_changes_nothing(engine: Engine, lease: int, tmp_path: Path) -> None:
    store = CheckpointStore(engine, str(tmp_path))
    store.save("learner", lease, WEIGHTS, {"step": 0})
    assert take_lease(engine, "learner", "b", ttl_s=15, now=time.time() + 60) == 2
    with pytest.raises(LeaseLost, match="b holds epoch 2"):
        store.save("learner", lease, WEIGHTS, {"step": 1})
    assert loaded_step(store) == 0


def test_files_that_no_row_names_go_with_the_next_save_but_not_a_later_epochs(
    engine: Engine, lease: int, tmp_path: Path
) -> None:
    died_while_writing = tmp_path / f"learner-{lease:010}-{'a' * 32}.npz"
    being_written_now = tmp_path / f"learner-{lease + 1:010}-{'b' * 32}.npz"
    others = [tmp_path / f"learner-2-{lease:010}-{'c' * 32}.npz", tmp_path / "learner-notes.txt"]
    for path in (died_while_writing, being_written_now, *others):
        path.write_bytes(b"")
    CheckpointStore(engine, str(tmp_path)).save("learner", lease, WEIGHTS, {})
    assert not died_while_writing.exists()
    assert all(path.exists() for path in (being_written_now, *others))


@pytest.mark.parametrize("damage", ["torn", "changed", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(
    engine: Engine, lease: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store = CheckpointStore(engine, str(tmp_path))
    newest = tmp_path / saved_steps(store, lease, 3)[-1]
    content = newest.read_bytes()
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes(content[:-10] if damage == "torn" else b"P" + bytes([content[1] ^ 1]) + content[2:])
    with caplog.at_level(logging.ERROR):
        assert loaded_step(store) == 1
    assert newest.name in caplog.text
    assert ("gone" if damage == "gone" else "not what was written") in caplog.text


def test_if_none_is_whole_the_error_says_what_to_do(engine: Engine, lease: int, tmp_path: Path) -> None:
    store = CheckpointStore(engine, str(tmp_path))
    for file in saved_steps(store, lease, 3):
        (tmp_path / file).write_bytes(b"rubbish")
    with pytest.raises(
        NoReadableCheckpoint, match=r"(?s)no checkpoint of 'learner' at .*put the files back, or delete"
    ):
        store.load("learner")


def test_a_place_that_cannot_be_written_is_unavailable(engine: Engine, lease: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = CheckpointStore(engine, str(tmp_path / "file" / "checkpoints"))
    with pytest.raises(StoreUnavailable, match="cannot write the checkpoint learner-"):
        store.save("learner", lease, WEIGHTS, {})
    assert store.load("learner") is None


def test_a_place_that_cannot_be_read_is_unavailable_not_damaged(engine: Engine, lease: int, tmp_path: Path) -> None:
    store = CheckpointStore(engine, str(tmp_path))
    (file,) = saved_steps(store, lease, 1)
    (tmp_path / file).unlink()
    (tmp_path / file).mkdir()
    with pytest.raises(StoreUnavailable, match="cannot read the checkpoint learner-"):
        store.load("learner")


def test_the_place_of_meta_is_not_for_an_array(engine: Engine, lease: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be named 'meta\.json'"):
        CheckpointStore(engine, str(tmp_path)).save("learner", lease, {"meta.json": WEIGHTS["c"]}, {})


def test_a_store_in_memory_is_cleaned_as_well(engine: Engine, lease: int, tmp_path: Path) -> None:
    store = CheckpointStore(engine, f"memory://{tmp_path}")
    files = saved_steps(store, lease, 4)
    assert sorted(
        path.rsplit("/", 1)[-1] for path in fsspec.filesystem("memory").ls(str(tmp_path), detail=False)
    ) == sorted(files)
