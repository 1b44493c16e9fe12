"""Turns with the models: what serves is never behind more than the batch that is in hand."""

import threading
import time

from streams.turns import Turns

WITHIN_S = 10.0


def test_who_is_first_comes_before_all_who_wait() -> None:
    turns, order = Turns(), list[str]()

    def work(name: str, first: bool) -> None:
        with turns.take(first=first):
            order.append(name)

    waiting = [threading.Thread(target=work, args=(f"filling {n}", False)) for n in range(3)]
    waiting.append(threading.Thread(target=work, args=("serving", True)))
    with turns.take(first=False):
        for thread in waiting:
            thread.start()
        deadline = time.monotonic() + WITHIN_S
        while not turns._first_waiting:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    for thread in waiting:
        thread.join(WITHIN_S)
    assert order[0] == "serving"
    assert sorted(order[1:]) == ["filling 0", "filling 1", "filling 2"]


def test_two_are_never_in_it_at_once_and_a_failure_gives_it_back() -> None:
    turns, inside, most = Turns(), 0, 0

    def work(first: bool) -> None:
        nonlocal inside, most
        for number in range(200):
            try:
                with turns.take(first=first):
                    inside += 1
                    most = max(most, inside)
                    inside -= 1
                    if number % 50 == 0:
                        raise KeyError
            except KeyError:
                pass

    threads = [threading.Thread(target=work, args=(first,)) for first in (True, True, False, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
        assert not thread.is_alive()
    assert (inside, most) == (0, 1)
