"""Loops, round by round, on a real server: who reads and who relays, what an outage does, and that it ends by itself."""

import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.conf import settings as conf

from safety.facts import note_process
from safety.models import AuditEntry, FleetFact, Installation, OutboxEntry, SafetyIncident
from tests.factories import make_installation, make_nova
from tests.workflow.driving import silence_momentum, state_of
from workflow import leases
from workflow import loop as module
from workflow.loop import Loop
from workflow.models import Execution, InboxMessage, Lease, NovaState, StreamCursor, Task
from workflow.streams.reader import EPOCH_KEY
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db

ECHO = {"executor": "builtin", "action": "echo"}


class Clock:
    """The real time, which a test may turn forward, and processor time as the test says."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.worked = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.offset)

    def monotonic(self) -> float:
        return time.monotonic() + self.offset

    def process_time(self) -> float:
        return self.worked


class Driven(Loop):
    """A loop whose process tells what it uses, as the slice does that drives one."""

    def round(self) -> None:
        note_process("slot:loops:test:0", "test", memory=100.0, cpu=0.0, now=module._now())
        super().round()


@pytest.fixture
def clock(monkeypatch, settings):
    settings.STREAM_BLOCK_LIMIT = 0.03  # an idle round's sleep
    clock = Clock()
    monkeypatch.setattr("workflow.loop._now", clock.now)
    monkeypatch.setattr("workflow.loop.time", clock)
    # the machine that runs the tests may be anything but at ease
    monkeypatch.setattr("safety.facts.psutil.getloadavg", lambda: (0.1, 0.1, 0.1))
    monkeypatch.setattr("safety.facts.psutil.virtual_memory", lambda: SimpleNamespace(percent=20.0))
    return clock


@pytest.fixture
def loops(stream, clock):
    """Give loops by name, each made when first named, over a fleet of one Nova."""
    make_installation()
    silence_momentum()
    make_nova(now=clock.now())
    made: dict[str, Loop] = {}

    def loop(name: str) -> Loop:
        if name not in made:
            made[name] = Driven(name, threading.Event())
        return made[name]

    yield loop
    for one in made.values():
        one.close()


def rounds(loop: Loop, count: int = 6) -> None:
    for _ in range(count):
        loop.round()


def roles() -> dict[str, str]:
    """Give who holds which role."""
    return dict(Lease.objects.filter(name__in=("intake", "relay")).exclude(holder="").values_list("name", "holder"))


def read(stream, name):
    entries = stream.call("XRANGE", name, "-", "+")
    return [{key.decode(): value.decode() for key, value in fields.items()} for _, fields in entries]


def living_slots(clock: Clock, count: int = 2) -> None:
    """Let as many loop slots show a sign of life."""
    for number in range(count):
        leases.acquire(f"slot:loops:test:{number}", f"slot-{number}", now=clock.now(), seconds=60)


# -- roles


def test_a_loop_alone_reads_and_relays(loops):
    loops("one").round()
    assert roles() == {"intake": "one", "relay": "one"}
    assert {"intake_lag", "outbox_age", "stream_reachable"} <= set(FleetFact.objects.values_list("name", flat=True))


def test_a_loop_that_begins_knows_enough_to_let_its_novas_work(loops):
    rounds(loops("one"), 2)
    assert state_of().current_state == "stream_check"
    assert not SafetyIncident.objects.exists()


def test_a_second_loop_leaves_the_roles_to_the_first_that_lives(loops, clock):
    loops("one").round()
    for _ in range(8):
        clock.offset += 2
        loops("one").round()
        loops("two").round()
    assert roles() == {"intake": "one", "relay": "one"}


def test_what_a_loop_gives_back_at_its_close_is_taken_over_at_once(loops):
    loops("one").round()
    loops("two").round()
    loops("one").close()
    assert roles() == {}
    begun = time.monotonic()
    rounds(loops("two"), 2)
    assert roles() == {"intake": "two", "relay": "two"}
    assert time.monotonic() - begun < 1.0


def test_the_roles_of_a_loop_that_died_are_taken_over_when_they_expire(loops, clock):
    loops("one").round()
    clock.offset += conf.LEASE_SECONDS - 1
    rounds(loops("two"))
    assert roles() == {"intake": "one", "relay": "one"}
    clock.offset += 2
    rounds(loops("two"))
    assert roles() == {"intake": "two", "relay": "two"}


def test_a_loop_that_was_overtaken_lets_go_and_takes_nothing_in(loops, clock, stream):
    rounds(loops("one"))
    clock.offset += conf.LEASE_SECONDS + 1
    rounds(loops("two"))
    stream.call("XADD", "nova.work.queue", "*", "title", "Once")
    clock.offset -= conf.LEASE_SECONDS + 1  # the first has stood still: it does not know yet
    loops("one").round()
    assert not Task.objects.exists()
    clock.offset += conf.LEASE_SECONDS + 1
    rounds(loops("two"))
    rounds(loops("one"))
    assert Task.objects.count() == 1
    assert roles() == {"intake": "two", "relay": "two"}


def test_a_reader_without_rest_shares_with_a_slot_that_lives_and_takes_the_relay_back_when_it_is_calm(loops, clock):
    one, two = loops("one"), loops("two")
    rounds(one)
    living_slots(clock)
    for number in range(3):  # rounds in which it worked without a rest
        clock.worked += 1
        with TaskTracker.open(now=clock.now()) as tracker:
            tracker.create_task(f"Task {number}", assignee="torch", executor="agent")
        one.round()
    clock.offset += 1.1
    living_slots(clock)
    one.round()
    rounds(two, 3)
    assert roles() == {"intake": "one", "relay": "two"}
    for _ in range(6):
        clock.offset += 1.1
        living_slots(clock)
        one.round()
        two.round()
    one.round()
    assert roles() == {"intake": "one", "relay": "one"}


def test_nothing_is_read_twice_when_the_roles_change_hands(loops, clock, stream):
    for number in range(3):
        stream.call("XADD", "nova.work.queue", "*", "title", f"Task {number}", "executor", "agent")
    with TaskTracker.open(now=datetime.now(UTC)) as tracker:
        tracker.create_task("Ours", assignee="torch", executor="agent")
    rounds(loops("one"))
    assert stream.call("XLEN", "nova.tasks.torch.todo") == 1
    clock.offset += 5.1  # when `todo` streams are looked at
    rounds(loops("one"))
    loops("one").close()
    kept = dict(StreamCursor.objects.values_list("stream", "last_id"))
    assert kept.keys() >= {"nova.work.queue", "nova.tasks.torch.todo"}  # of our own entry too
    read_again: list[int] = []
    two = loops("two")
    two.round()
    original = two._reader.taken
    two._reader.taken = lambda reply: (read_again.append(len(reply)), original(reply))[1]
    rounds(two)
    assert read_again == []
    assert Task.objects.count() == 4
    assert InboxMessage.objects.count() == 3


# -- work


def test_an_entry_goes_all_the_way_in_a_few_rounds(loops, stream):
    loop = loops("one")
    rounds(loop)
    entry = stream.call("XADD", "nova.work.queue", "*", "title", "Count", "executor", "builtin", "action", "echo").decode()
    rounds(loop)
    execution = Execution.objects.get()
    now = datetime.now(UTC)
    Execution.objects.update(status="succeeded", results="Done.", started_at=now, finished_at=now)
    NovaState.objects.update(due_at=now)
    rounds(loop)
    (completed,) = read(stream, "nova.tasks.torch.completed")
    assert (completed["task_id"], completed["cause"]) == (execution.task_id, f"nova.work.queue/{entry}")
    assert not OutboxEntry.objects.exists()
    assert read(stream, "nova.celebrations.torch")


def test_the_loop_sleeps_until_a_nova_is_due_and_not_much_longer(loops, settings):
    settings.STREAM_BLOCK_LIMIT = 1.0
    loop = loops("one")
    rounds(loop, 3)
    NovaState.objects.update(due_at=datetime.now(UTC) + timedelta(seconds=0.15))
    cycles, begun = state_of().total_cycles_completed, time.monotonic()
    while state_of().total_cycles_completed == cycles:
        loop.round()
    assert 0.1 < time.monotonic() - begun < 0.9


@pytest.mark.django_db(transaction=True)  # a failed round drops old connections
def test_a_round_that_fails_is_waited_out_and_the_loop_goes_on(loops, monkeypatch):
    loop = loops("one")
    rounds(loop, 2)

    def failing(**_):
        raise ValueError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr(loop._engine, "run_once", failing)
        rounds(loop, 2)
    NovaState.objects.update(due_at=datetime.now(UTC))
    cycles = state_of().total_cycles_completed
    rounds(loop)
    assert state_of().total_cycles_completed > cycles


def test_state_hashes_are_written_before_they_could_expire_whoever_relays(loops, clock, stream):
    rounds(loops("one"))
    assert stream.call("TTL", "workflow:state:torch") > 0
    stream.call("DEL", "workflow:state:torch")
    NovaState.objects.update(due_at=clock.now() + timedelta(days=1))
    clock.offset += conf.STATE_HASH_REFRESH + 60
    rounds(loops("one"))
    assert stream.call("TTL", "workflow:state:torch") > 0


# -- the server away, or another


def test_an_empty_server_is_filled_again_within_a_second(loops, clock, stream):
    loop = loops("one")
    with TaskTracker.open(now=clock.now()) as tracker:
        tracker.create_task("Ours", assignee="torch", executor="agent")
    rounds(loop)
    (before,) = read(stream, "nova.tasks.torch.todo")
    clock.offset += 5.1  # when `todo` streams are looked at: what was read tells that this is not the first start
    rounds(loop)
    stream.call("FLUSHALL")
    stream.call("XADD", "nova.work.queue", "*", "title", "Meanwhile", "executor", "agent")
    clock.offset += 1.1
    rounds(loop)
    (after,) = read(stream, "nova.tasks.torch.todo")
    assert after["event_id"] == before["event_id"]
    assert stream.call("EXISTS", "workflow:state:torch") == 1
    assert stream.call("GET", EPOCH_KEY).decode() == Installation.objects.get().epoch
    assert sorted(Task.objects.values_list("title", flat=True)) == ["Meanwhile", "Ours"]
    assert not InboxMessage.objects.filter(status="rejected").exists()


def test_while_the_server_is_away_nobody_is_stepped_and_it_is_noted_once(loops, clock, stream_server):
    one, two = loops("one"), loops("two")
    rounds(one)
    rounds(two, 2)
    stream_server.stop()
    try:
        clock.offset += 1.1
        rounds(one, 2)
        cycles = state_of().total_cycles_completed
        with TaskTracker.open(now=clock.now()) as tracker:
            task_id = tracker.create_task("Accepted meanwhile", assignee="torch", **ECHO)
        for _ in range(3):
            clock.offset += 1.1
            one.round()
            two.round()
        assert state_of().total_cycles_completed == cycles
        assert not Execution.objects.exists()
        assert AuditEntry.objects.filter(action="safety.stream.lost").count() == 1
        assert SafetyIncident.objects.filter(mechanism="stream_monitor", ended_at=None).count() == 1
        assert FleetFact.objects.get(name="stream_reachable").value is False
        assert OutboxEntry.objects.exists()
        assert roles() == {"intake": "one", "relay": "one"}  # leases stand in the database
    finally:
        stream_server.start()

    clock.offset += 1.1
    rounds(one)
    assert AuditEntry.objects.filter(action="safety.stream.returned").count() == 1
    assert not SafetyIncident.objects.filter(ended_at=None).exists()
    assert Execution.objects.get().task_id == task_id
    assert not OutboxEntry.objects.exists()


def test_work_goes_on_by_itself_when_the_server_comes_back_empty(loops, clock, stream, stream_server):
    loop = loops("one")
    rounds(loop)
    stream_server.stop()
    clock.offset += 1.1
    rounds(loop, 2)
    stream_server.start()
    stream.close()  # the next command connects anew
    stream.call("XADD", "nova.work.queue", "*", "title", "First on the new one", "executor", "builtin", "action", "echo")
    clock.offset += 1.1
    rounds(loop)
    assert Execution.objects.get().task.title == "First on the new one"
    assert read(stream, "nova.tasks.torch.progress")


def test_a_loop_may_be_closed_while_the_server_is_away(loops, stream_server):
    rounds(loops("one"), 2)
    stream_server.stop()
    try:
        loops("one").close()
    finally:
        stream_server.start()
    assert roles() == {}
