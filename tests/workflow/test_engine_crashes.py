"""The engine dies at every seam, or comes too late, and another goes on: every effect once, no task lost, nothing unsaid."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, transaction

from safety.models import AuditEntry, OutboxEntry
from tests.factories import (
    NOW,
    make_execution,
    make_inbox_message,
    make_installation,
    make_nova,
    make_novas,
    make_objective,
    make_task,
)
from tests.workflow.driving import Driver, published, silence_momentum, state_of, story
from workflow import services
from workflow.committing import Commit
from workflow.core.work import Priority
from workflow.engine import WorkflowEngine
from workflow.models import Execution, InboxMessage, MomentumLedger, NovaState, Objective, Task, TaskStatistics
from workflow.streams.relay import Relay
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db

ECHO = {"executor": "builtin", "action": "echo"}
EXPIRED = settings.LEASE_SECONDS + 1.0


class Crash(BaseException):
    """The process is gone: no wall of the engine may catch this."""


def crashing(*_: Any, **__: Any) -> None:
    raise Crash


def after(original: Callable[..., Any]) -> Callable[..., Any]:
    """Do it, then die."""

    def call(*args: Any, **values: Any) -> None:
        original(*args, **values)
        raise Crash

    return call


SEAMS = {
    "after the claim": ("workflow.engine.WorkflowEngine.gather", crashing),
    "after the reservation": ("workflow.engine.load_facts", crashing),
    "after gathering": ("workflow.engine.WorkflowEngine.step", crashing),
    "after the steps": ("workflow.engine.WorkflowEngine.commit", crashing),
    "after the states": ("workflow.committing.EffectCarrier", crashing),
    "after the first effect": ("workflow.carrying.EffectCarrier.carry", "after"),
    "after the tasks": ("workflow.task_tracker.TaskTracker.write_changes", "after"),
    "after the journal": ("workflow.engine.store_verdicts", crashing),
    "after the executions": ("workflow.committing.momentum.note_runs", crashing),
    "before the transaction ends": ("workflow.committing.Commit._release_reservations", "after"),
    "after the commit": ("workflow.engine.WorkflowEngine.emit", crashing),
}


@pytest.fixture
def world():
    """A busy instant: work that has ended, open work, a signal, an objective, momentum work to be found."""
    make_nova("echo")
    make_nova("helix")
    held = make_task("Held", assignee="helix", status="in_progress", **ECHO)
    make_execution(held, status="succeeded", results="Done.", started_at=NOW, finished_at=NOW)
    for number in range(3):
        make_task(f"Open {number}", **ECHO)
    make_inbox_message(nova_id="echo", fields={"title": "Please review the plan", "sender": "helix"})
    make_objective(nova="echo")


def play(driver: Driver) -> None:
    """Let everything be done that was asked for, at instants that don't depend on what crashed before."""
    for _ in range(40):
        driver.run()
        if not Task.objects.exclude(status="completed").exclude(work_type="momentum").exists():
            return
        if Execution.objects.filter(status="dispatched").exists():
            driver.end(seconds=1)
        else:
            driver.now = NovaState.objects.earliest("due_at").due_at
    raise AssertionError("The work was not done.")


def told() -> Counter[tuple[str, str]]:
    """Give what the journal tells of tasks, signals and objectives; which Nova takes what is not the same in two runs."""
    titles = dict(Task.objects.values_list("id", "title"))
    entries = AuditEntry.objects.exclude(action__in=("workflow.nova.moved", "workflow.insight.reviewed"))
    return Counter((action, titles.get(object_id, "")) for action, object_id in entries.values_list("action", "object_id"))


def told_without_a_crash() -> Counter[tuple[str, str]]:
    """Play it undisturbed, and take it all back."""
    with transaction.atomic():
        play(Driver(now=NOW + timedelta(seconds=EXPIRED)))
        result = told()
        transaction.set_rollback(True)
    return result


def check_that_everything_happened_once() -> None:
    for task in Task.objects.exclude(work_type="momentum"):
        assert (task.status, task.outcome) == ("completed", "succeeded"), task.title
        actions = story(task.id)
        for action in ("claimed", "started", "completed", "celebrated"):
            assert actions.count(f"workflow.task.{action}") <= 1
        assert actions.count("workflow.task.completed") == actions.count("workflow.insight.recorded") == 1
        assert list(task.executions.values_list("attempt", flat=True)) == [1]
    signal = InboxMessage.objects.get()
    assert signal.status == "handled"
    assert Task.objects.filter(work_type="signal").values_list("id", flat=True).get() == signal.task_id
    assert Task.objects.filter(work_type="strategic").count() == 1
    assert Objective.objects.get().open_task_id == ""
    assert dict(TaskStatistics.objects.values_list("key", "count")) == {
        "requested:builtin:echo": 4,
        "signal::": 1,
        "strategic::": 1,
    }
    momentum = Task.objects.filter(work_type="momentum").values_list("action", flat=True)
    assert len(momentum) == len(set(momentum)) == MomentumLedger.objects.count()
    entries = AuditEntry.objects.order_by("id")
    assert published() == [entry.pk for entry in entries if entry.stream]
    for nova_id in ("echo", "helix"):
        own = [entry.seq for entry in entries if entry.nova_id == nova_id]
        assert own == list(range(1, len(own) + 1))
    assert not NovaState.objects.exclude(lease_until=None).exists()
    assert not Task.objects.exclude(reserved_by="").exists()


@pytest.mark.parametrize("seam", SEAMS)
def test_what_a_crash_interrupts_is_done_once_by_the_next_engine(world, monkeypatch, seam):
    undisturbed = told_without_a_crash()
    target, how = SEAMS[seam]
    first = Driver("e1")
    with monkeypatch.context() as patch:
        if how == "after":
            module, _, name = target.rpartition(".")
            owner = pytest.importorskip(module.rpartition(".")[0])
            original = getattr(getattr(owner, module.rpartition(".")[2]), name)
            patch.setattr(target, after(original))
        else:
            patch.setattr(target, how)
        with pytest.raises(Crash):
            first.step()
    second = Driver("e2", now=NOW)
    assert seam == "after the commit" or second.step(settings.LEASE_SECONDS - 1) is None  # the dead one's lease still holds
    second.now = NOW + timedelta(seconds=EXPIRED)
    play(second)
    check_that_everything_happened_once()
    assert told() == undisturbed
    assert set(NovaState.objects.values_list("crashes", flat=True)) == {0}


def test_what_the_relay_published_before_it_died_goes_out_again_under_the_same_event_ids(world, stream):
    make_installation()
    play(Driver())
    wanted = len(published())

    class Dying:
        def execute(self, commands):
            stream.execute(commands)
            raise Crash

    with pytest.raises(Crash):
        Relay(Dying()).relay_batch(now=NOW)
    assert len(published()) == wanted
    relay = Relay(stream)
    while relay.relay_batch(now=NOW):
        pass
    assert not OutboxEntry.objects.exists()
    names = [name for name in stream.call("KEYS", "nova.*") if not name.startswith((b"nova.enterprise", b"nova.wake"))]
    seen: list[bytes] = [fields[b"event_id"] for name in names for _, fields in stream.call("XRANGE", name, "-", "+")]
    assert len(set(seen)) == wanted
    assert set(Counter(seen).values()) <= {1, 2}


# -- too late


def everything() -> dict[str, Any]:
    """Give all rows that a step may write, but for the journal."""
    models = (NovaState, Task, Execution, InboxMessage, Objective, MomentumLedger, TaskStatistics)
    return {model.__name__: list(model.objects.order_by("pk").values()) for model in models}


def test_an_engine_that_comes_too_late_changes_nothing_and_is_journalled_as_fenced(world):
    late, quick = Driver("late"), Driver("quick", now=NOW + timedelta(seconds=EXPIRED))
    cycle = late.claim_gather_step()
    quick.run()
    before, last = everything(), AuditEntry.objects.latest("id").pk
    committed = late.engine.commit(*cycle)
    assert (committed.steps, committed.dispatched, committed.fenced) == (0, 0, 2)
    assert everything() == before
    added = AuditEntry.objects.filter(pk__gt=last).order_by("nova_id")
    assert [(entry.action, entry.nova_id, entry.stream) for entry in added] == [
        ("workflow.nova.fenced", "echo", ""),
        ("workflow.nova.fenced", "helix", ""),
    ]
    assert added[0].after["holder"] == "late"
    play(quick)
    check_that_everything_happened_once()


def test_a_late_commit_counts_where_nobody_else_has_taken_over(world):
    late = Driver("late")
    cycle = late.claim_gather_step()
    late.now += timedelta(seconds=EXPIRED)
    assert late.engine.commit(*cycle).steps == 2
    play(late)
    check_that_everything_happened_once()


def test_a_task_taken_by_somebody_else_makes_only_that_novas_step_void(world):
    driver = Driver()
    silence_momentum()
    cycle = driver.claim_gather_step()
    task = Task.objects.get(pk=next(iter(cycle[0][0].tasks)))
    loser = next(stepped.claimed.nova_id for stepped in cycle[0] if task.id in stepped.tasks)
    with TaskTracker.open(now=driver.now) as tracker:
        if task.status == "pending":
            tracker.set_priority(task.id, Priority.CRITICAL, "it burns")
        else:
            tracker.cancel_task(task.id, "not wanted")
    committed = driver.engine.commit(*cycle)
    assert (committed.steps, committed.fenced) == (1, 0)
    assert state_of(loser).total_cycles_completed == 0
    (winner,) = NovaState.objects.exclude(nova_id=loser)
    assert winner.total_cycles_completed == 1
    state = state_of(loser)
    assert (state.lease_until, state.crashes, state.due_at) == (None, 0, NOW)
    assert not AuditEntry.objects.filter(action="workflow.nova.fenced").exists()
    play(driver)
    assert not Task.objects.exclude(status="completed").exists()


# -- what kills its worker


def test_a_nova_that_keeps_killing_its_worker_is_quarantined_alone_and_can_be_resumed(monkeypatch):
    silence_momentum()
    for nova_id in ("echo", "helix", "torch"):
        make_nova(nova_id)
        make_task(f"For {nova_id}", assignee=nova_id, **ECHO)
    original = WorkflowEngine.step

    def deadly(self, nova, batch, now):
        if nova.nova_id == "helix":
            raise Crash
        return original(self, nova, batch, now)

    monkeypatch.setattr("workflow.engine.WorkflowEngine.step", deadly)
    deaths = 0
    driver = Driver()
    for _ in range(12):
        try:
            driver.run()
        except Crash:
            deaths += 1
            driver = Driver("next", now=driver.now + timedelta(seconds=EXPIRED))  # the process is replaced
        else:
            if state_of("helix").mode == "quarantined":
                break
    assert deaths == 3
    state = state_of("helix")
    assert (state.mode, state.crashes, state.lease_until) == ("quarantined", 0, None)
    assert "death of their worker" in state.mode_reason
    (entry,) = AuditEntry.objects.filter(action="workflow.nova.quarantined")
    assert (entry.nova_id, entry.stream, entry.message["status"]) == ("helix", "nova.status.helix", "quarantined")
    for innocent in ("echo", "torch"):
        assert (state_of(innocent).mode, state_of(innocent).crashes) == ("running", 0)
        assert Task.objects.get(assignee=innocent).status == "in_progress"

    monkeypatch.undo()
    services.resume_nova("helix", reason="its task was mended", now=driver.now)
    driver.run()
    assert Task.objects.get(assignee="helix").status == "in_progress"
    assert (state_of("helix").mode, state_of("helix").crashes) == ("running", 0)


def test_a_suspect_gets_its_turn_although_the_others_are_always_due():
    make_novas(3)
    make_nova("suspect", state={"crashes": 1})
    driver = Driver()
    for _ in range(3):
        driver.step(1)
        NovaState.objects.exclude(nova_id="suspect").update(due_at=driver.now)
    assert state_of("suspect").total_cycles_completed > 0


def test_a_commit_that_fails_leaves_the_whole_batch_as_it_was(world, monkeypatch):
    before = {name: rows for name, rows in everything().items() if name != "NovaState"}

    class Broken(Exception):
        pass

    def failing(*_):
        raise Broken

    monkeypatch.setattr(Commit, "_write_rest", failing)
    with pytest.raises(Broken):
        Driver().step()
    after_it = everything()
    for row in after_it["Task"]:  # reserved until the lease would have ended
        row.update(reserved_by="", reserved_until=None)
    for name, rows in before.items():
        for old, new in zip(rows, after_it[name], strict=True):
            assert {key: value for key, value in new.items() if key != "fence"} == {
                key: value for key, value in old.items() if key != "fence"
            }
    assert not AuditEntry.objects.exists()


def test_a_batch_that_the_database_refused_is_due_again_at_once_and_nobody_is_suspected(world, monkeypatch):
    def deadlocked(*_):
        raise OperationalError("deadlock detected")

    driver = Driver()
    with monkeypatch.context() as patch:
        patch.setattr(Commit, "_write_rest", deadlocked)
        with pytest.raises(OperationalError):
            driver.step()
    assert set(NovaState.objects.values_list("crashes", "lease_until", "lease_holder")) == {(0, None, "")}
    driver.now += timedelta(seconds=EXPIRED)  # the reservations expire by themselves
    play(driver)
    check_that_everything_happened_once()
