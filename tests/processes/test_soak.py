"""The whole stack under load, with default timings, while its processes are killed: it comes back, nothing accepted is lost.

The tests stand in order and share one stack: each begins with what the last one left running.
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.load import PREPARE, Listener, Load, effects
from tests.processes.stack import ROOT, RunningStack, reads_a_queue, runs, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

RISES_WITHIN = 15.0
RETURNS_WITHIN = 10.0
STOPS_WITHIN = 10.0
DRAINS_WITHIN = 60.0
IN_FLIGHT = 20
RISE = 20  # completions that count as a rise: more than were running already

CLUSTER_ROLES = ("busy", "idle", "pusher", "monitor", "sentinel", "main", "workers")
ROLES = ["web", "stream", *(f"{role}:{cluster}" for cluster in ("loops", "work") for role in CLUSTER_ROLES)]
KEEPERS = ("main", "sentinel", "workers")  # what stands below them must not outlive them
WEDGING = ("idle", "monitor")  # they may die with a lock of django-q2's queues in hand, which nobody gives back
LONGER_THAN_A_STOP = 12_000  # milliseconds
NOTICED_WITHIN = 25.0  # a probe's interval and limit, and a restart


@pytest.fixture(scope="module")
def effects_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("effects") / "lines"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, effects_file: Path) -> Iterator[RunningStack]:
    """A stack of its own that runs."""
    environment = {"NOVAWF_EXECUTORS": "append=tests.processes.executors.Append", "NOVAWF_APPEND_FILE": str(effects_file)}
    made = RunningStack(tmp_path_factory.mktemp("stack"), environment=environment)
    subprocess.run(made.command("shell", "-v", "0", "-c", PREPARE), env=made.environment, cwd=ROOT, check=True)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def load(stack: RunningStack) -> Iterator[Load]:
    """Tasks, always enough of them in flight."""
    made = Load(stack)
    made.start()
    try:
        wait_until(lambda: made.ledger.completed() >= RISE, seconds=30, what="the load runs")
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def listener(stack: RunningStack, load: Load) -> Iterator[Listener]:
    """Somebody outside who hears what is completed; begins with the first entry, whenever it is asked for."""
    made = Listener(stack)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def wait_until_whole(stack: RunningStack) -> None:
    """Wait until the stack is ready, and say what is missing if it does not become so."""
    ends = time.monotonic() + 20
    while not (answer := stack.readiness()).get("ready"):
        missing = {name: check["detail"] for name, check in answer.get("checks", {}).items() if not check["ok"]}
        assert time.monotonic() < ends, f"not whole again: {missing or 'no answer'}\n{stack.text()[-3000:]}"
        time.sleep(0.2)


def put_under_load(load: Load) -> None:
    """See that enough tasks are in flight."""
    load.flowing.set()
    wait_until(lambda: load.ledger.open() >= IN_FLIGHT, seconds=20, what="enough tasks are in flight")


def seconds_until_rise(load: Load, *, limit: float, what: str) -> float:
    """Wait until clearly more is completed than now; give the seconds that took."""
    before, begun = load.ledger.completed(), time.monotonic()
    wait_until(lambda: load.ledger.completed() >= before + RISE, seconds=limit, what=what)
    return time.monotonic() - begun


def drain(load: Load) -> None:
    """Stop the load and wait until all that was accepted is done and published."""
    load.pause()
    ends = time.monotonic() + DRAINS_WITHIN
    while any(left := (load.unread(), load.ledger.open(), load.ledger.unpublished())):
        assert time.monotonic() < ends, f"after {DRAINS_WITHIN:.0f} s (unread, not done, not published) are {left}"
        time.sleep(0.5)


def assert_done_once(load: Load, effects_file: Path) -> None:
    """Every accepted entry: one task, completed once in the journal, its effect done, repeats of the effect owned up to."""
    ledger = load.ledger
    accepted = ledger.accepted()
    assert len(set(accepted.values())) == len(accepted)
    completions = ledger.rows(
        "SELECT t.id, t.status, t.outcome, (SELECT count(*) FROM safety_auditentry a"
        " WHERE a.object_id = t.id AND a.action = 'workflow.task.completed'),"
        " (SELECT sum(e.runs) FROM workflow_execution e WHERE e.task_id = t.id)"
        " FROM workflow_task t WHERE t.executor = 'append'"
    )
    assert {row[0] for row in completions} == set(accepted.values())
    assert {row[1:4] for row in completions} == {("completed", "succeeded", 1)}
    done = effects(effects_file)
    runs_of = {row[0]: row[4] for row in completions}
    assert set(done) == set(accepted.values())
    lied = {task: (count, runs_of[task]) for task, count in done.items() if count > runs_of[task]}
    assert not lied, f"more effects than runs told: {lied}"


def assert_told_once(load: Load, listener: Listener) -> None:
    """Every accepted entry was told to be completed, to somebody outside, by one entry."""
    accepted = load.ledger.accepted().keys()
    wait_until(lambda: not accepted - listener.told().keys(), seconds=10, what="every completion is told")
    told = listener.told()
    assert {told[entry] for entry in accepted} == {1}


@pytest.mark.parametrize("role", ROLES)
def test_work_goes_on_after_kill_9_of(role: str, stack: RunningStack, load: Load, listener: Listener) -> None:
    wait_until_whole(stack)
    put_under_load(load)
    victim = wait_until(lambda: stack.role(role), seconds=20, what=f"there is a process {role}")
    below = victim.children(recursive=True)
    begun = stack.output.stat().st_size
    takes_a_lock_along = role.split(":")[0] in WEDGING and reads_a_queue(victim)
    victim.send_signal(signal.SIGKILL)
    if role.split(":")[0] in KEEPERS:
        wait_until(lambda: not any(runs(process) for process in below), seconds=2, what="no orphan runs", interval=0.01)
    took = seconds_until_rise(load, limit=RISES_WITHIN, what=f"completions rise again after kill -9 of {role}")
    print(f"{role}: completions rose after {took:.1f} s")  # noqa: T201 - the figure a person wants
    if takes_a_lock_along:
        wait_until(lambda: stack.said("cluster_restarted", begun), seconds=NOTICED_WITHIN, what="the wedge is noticed")
        seconds_until_rise(load, limit=RISES_WITHIN, what=f"completions rise after the restart that {role} made necessary")
    wait_until(lambda: stack.role(role), seconds=20, what=f"there is a {role} again")


def test_every_accepted_task_is_done_once_after_all_these_kills(load: Load, effects_file: Path, listener: Listener) -> None:
    drain(load)
    assert load.ledger.accepted().keys() >= load.sent
    assert_done_once(load, effects_file)
    assert_told_once(load, listener)


def test_kill_9_of_everything_at_once_loses_nothing(
    stack: RunningStack, load: Load, effects_file: Path, listener: Listener
) -> None:
    put_under_load(load)
    stack.kill_everything()
    wait_until(lambda: not stack.survivors(), seconds=2, what="everything is dead", interval=0.01)
    load.pause()
    stack.start()
    drain(load)
    assert load.ledger.accepted().keys() >= load.sent
    assert_done_once(load, effects_file)
    assert_told_once(load, listener)


def test_flushall_under_load_loses_nothing_accepted(
    stack: RunningStack, load: Load, effects_file: Path, listener: Listener
) -> None:
    put_under_load(load)
    stream = stack.stream()
    stream.call("FLUSHALL")
    stream.close()
    seconds_until_rise(load, limit=RETURNS_WITHIN, what="completions rise after FLUSHALL")
    load.sent &= load.ledger.accepted().keys()  # an entry that nobody had read yet went with the server's memory
    drain(load)
    assert_done_once(load, effects_file)
    assert_told_once(load, listener)


def test_a_killed_stream_server_without_its_files_loses_nothing_accepted(
    stack: RunningStack, load: Load, effects_file: Path, listener: Listener
) -> None:
    put_under_load(load)
    server = stack.role("stream")
    assert server is not None
    server.suspend()  # so that nothing is published any more, while executions end
    shutil.rmtree(stack.folder / "stream" / "appendonlydir")
    server.kill()
    wait_until(lambda: stack.role("stream"), seconds=10, what="the stream server is started again")
    seconds_until_rise(load, limit=RETURNS_WITHIN, what="completions rise after the loss of the stream server's files")
    load.sent &= load.ledger.accepted().keys()
    drain(load)
    assert_done_once(load, effects_file)
    assert_told_once(load, listener)


def test_kill_9_of_up_leaves_no_process(stack: RunningStack, load: Load) -> None:
    put_under_load(load)
    assert len(stack.processes()) >= 18
    up = stack.kill("up")
    wait_until(lambda: not stack.survivors(), seconds=2, what="no process is left", interval=0.01)
    assert not runs(up)
    stack.start()
    seconds_until_rise(load, limit=RISES_WITHIN, what="completions rise after the restart")


def test_sigterm_under_load_stops_everything_in_time(
    stack: RunningStack, load: Load, effects_file: Path, listener: Listener
) -> None:
    put_under_load(load)
    stream = stack.stream()
    long_one = load.send(stream, LONGER_THAN_A_STOP)
    stream.close()
    wait_until(lambda: load.ledger.begun(long_one), seconds=20, what="an execution runs that will not end before the stop")
    took = stack.terminate()
    assert took < STOPS_WITHIN
    assert stack.process is not None
    assert stack.process.returncode == 0
    assert not stack.survivors()
    assert stack.said("Stopped.")
    load.pause()
    stack.start()
    drain(load)
    assert_done_once(load, effects_file)
    assert_told_once(load, listener)


def test_memory_of_the_whole_stack_stays_small(stack: RunningStack) -> None:
    total = sum(process.memory_full_info().pss for process in stack.processes() if runs(process))
    print(f"PSS of the whole stack: {total / 1e6:.0f} MB")  # noqa: T201
    assert total < 500e6
