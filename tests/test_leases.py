"""Leases: at any time at most one epoch is right."""

import threading
import uuid

import pytest
from databases import Database, database_fixture, engine_fixture  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from store.leases import LeaseLost, release, renew, take_lease


def test_the_epoch_rises_with_each_taking(engine: Engine) -> None:
    assert take_lease(engine, "learner", "a", ttl_s=15, now=100.0) == 1
    assert take_lease(engine, "learner", "b", ttl_s=15, now=114.9) is None
    assert take_lease(engine, "learner", "a", ttl_s=15, now=114.9) == 2  # it has started again
    assert take_lease(engine, "learner", "b", ttl_s=15, now=129.9) == 3  # expired
    assert take_lease(engine, "other", "a", ttl_s=15, now=129.9) == 1


def test_a_renewed_lease_lasts_longer(engine: Engine) -> None:
    assert take_lease(engine, "learner", "a", ttl_s=15, now=100.0) == 1
    renew(engine, "learner", 1, ttl_s=15, now=110.0)
    assert take_lease(engine, "learner", "b", ttl_s=15, now=120.0) is None
    renew(engine, "learner", 1, ttl_s=15, now=200.0)  # expired, but nobody took it
    assert take_lease(engine, "learner", "b", ttl_s=15, now=210.0) is None


def test_a_lease_that_somebody_took_cannot_be_renewed(engine: Engine) -> None:
    take_lease(engine, "learner", "a", ttl_s=15, now=100.0)
    take_lease(engine, "learner", "b", ttl_s=15, now=200.0)
    with pytest.raises(LeaseLost, match="epoch 1 of the lease 'learner' is over: b holds epoch 2"):
        renew(engine, "learner", 1, ttl_s=15, now=200.0)


def test_a_lease_that_nobody_ever_held_cannot_be_renewed(engine: Engine) -> None:
    with pytest.raises(LeaseLost, match="nobody holds it"):
        renew(engine, "learner", 1, ttl_s=15, now=200.0)


def test_a_released_lease_is_free_at_once_and_only_its_holder_can_release_it(engine: Engine) -> None:
    take_lease(engine, "learner", "a", ttl_s=15, now=100.0)
    release(engine, "learner", 1)
    assert take_lease(engine, "learner", "b", ttl_s=15, now=100.0) == 2
    release(engine, "learner", 1)
    assert take_lease(engine, "learner", "a", ttl_s=15, now=100.0) is None


def test_of_many_who_take_it_at_once_exactly_one_gets_it(database: Database) -> None:
    engines = [database.open() for _ in range(4)]
    start, epochs = threading.Barrier(4), []

    def take(holder: int) -> None:
        start.wait()
        epochs.append(take_lease(engines[holder], "learner", f"holder-{holder}", ttl_s=15, now=100.0))

    threads = [threading.Thread(target=take, args=(holder,)) for holder in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(epochs, key=str) == [1, None, None, None]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20)), min_size=1, max_size=12))
def test_epochs_rise_by_one_and_no_two_holders_overlap(engine: Engine, steps: list[tuple[str, float]]) -> None:
    name = uuid.uuid4().hex
    now, epoch, holder, expires = 0.0, 0, "", 0.0
    for taker, passed in steps:
        now += passed
        taken = take_lease(engine, name, taker, ttl_s=10, now=now)
        if taker != holder and now < expires:
            assert taken is None
        else:
            assert taken == epoch + 1
            epoch, holder, expires = epoch + 1, taker, now + 10
