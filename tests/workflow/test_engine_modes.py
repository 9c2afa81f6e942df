"""The engine and what keeps a Nova from working: modes, safety, errors, nothing to do, and its times of reflection."""

from datetime import timedelta
from typing import Any

import pytest

from safety.core.status import FleetFacts
from safety.models import AuditEntry, OutboxEntry
from tests.factories import NOW, PERSONALITIES, make_nova, make_policy, make_safety_state, make_task
from tests.workflow.driving import Driver, published, silence_momentum, state_of, story
from workflow import services, waking
from workflow.core.machine import execute_cycle
from workflow.models import Execution, NovaState, Task
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db

ECHO = {"executor": "builtin", "action": "echo"}


@pytest.fixture
def driver():
    silence_momentum()
    return Driver()


def reload(task: Task) -> Task:
    return Task.objects.get(pk=task.pk)


# -- modes


def test_a_draining_nova_finishes_what_it_holds_takes_nothing_new_and_is_paused(driver):
    make_nova()
    first, second = make_task("First", priority="high", **ECHO), make_task("Second", **ECHO)
    driver.begin()
    services.drain_nova("torch", reason="maintenance", now=driver.now)
    driver.step()
    assert state_of().mode == "draining"
    driver.end()
    driver.run()
    assert (reload(first).outcome, reload(second).status) == ("succeeded", "pending")
    state = state_of()
    assert (state.mode, state.mode_since, state.tasks_in_flight) == ("paused", driver.now, 0)
    assert "workflow.nova.drained" in story("torch")
    assert driver.step(3600) is None


@pytest.mark.parametrize("mode", ["paused", "quarantined", "archived"])
def test_a_nova_out_of_service_is_not_claimed(driver, mode):
    make_nova(state={"mode": mode})
    make_task(**ECHO)
    assert driver.step(60) is None
    assert Task.objects.get().assignee_id is None


def test_a_nova_paused_in_mid_step_starts_nothing(driver):
    make_nova()
    task = make_task(**ECHO)
    cycle = driver.claim_gather_step()
    services.pause_nova("torch", reason="stop", now=driver.now)
    committed = driver.engine.commit(*cycle)
    assert (committed.steps, committed.dispatched, committed.fenced) == (0, 0, 1)
    assert (state_of().mode, state_of().current_state) == ("paused", "initializing")
    task = reload(task)
    assert (task.status, task.assignee_id, task.reserved_by) == ("pending", None, "")
    assert not Execution.objects.exists()
    assert story("torch") == ["workflow.nova.paused", "workflow.nova.fenced"]


# -- safety


def test_an_unsafe_nova_starts_nothing_but_completes_what_has_ended(driver):
    make_nova()
    first, second = make_task("First", priority="high", **ECHO), make_task("Second", **ECHO)
    driver.begin()
    driver.end()
    until = driver.now + timedelta(seconds=30)
    make_safety_state(cooldown_since=driver.now, cooldown_until=until, cooldown_reason="61 tool uses in a minute.")
    committed = driver.step()
    assert (committed.steps, committed.dispatched) == (1, 0)
    assert (reload(first).outcome, reload(second).status) == ("succeeded", "pending")
    state = state_of()
    assert (state.current_state, state.safety_status["mechanism"], state.due_at) == ("safety_pause", "frosty", until)
    driver.now = until
    driver.run()
    assert reload(second).status == "in_progress"
    entries = AuditEntry.objects.filter(stream="nova.safety.torch").order_by("id")
    assert [entry.action for entry in entries] == ["safety.nova.unsafe", "safety.nova.safe"]


def test_open_work_is_dealt_to_the_safe_before_those_that_may_be_unsafe_still(driver):
    for nova_id in ("a-first", "z-last"):
        make_nova(nova_id)
        make_safety_state(nova_id, cooldown_until=NOW + timedelta(minutes=30), cooldown_reason="61 tool uses in a minute.")
    driver.run()
    make_nova("m-safe")
    make_task(**ECHO)
    NovaState.objects.update(due_at=driver.now)
    assert driver.step().dispatched == 1
    assert Task.objects.get().assignee_id == "m-safe"


def test_while_the_stream_server_is_away_every_nova_pauses_and_the_fleets_incident_is_told_once(driver, fleet):
    driver.fleet = FleetFacts(stream_reachable=False, stream_unreachable_since=NOW - timedelta(minutes=5))
    make_task(**ECHO)
    for _ in range(3):
        driver.run()
        driver.now += timedelta(seconds=5)
    assert set(NovaState.objects.values_list("current_state", flat=True)) == {"safety_pause"}
    assert AuditEntry.objects.filter(action="safety.fleet.unsafe").count() == 1
    assert not Execution.objects.exists()


# -- errors


def test_a_step_that_raises_puts_only_its_own_nova_into_recovery_with_a_backoff(driver, monkeypatch):
    make_nova("echo")
    make_nova("helix")
    tasks = [make_task("For echo", assignee="echo", **ECHO), make_task("For helix", assignee="helix", **ECHO)]
    make_task("Open", **ECHO)

    def failing(state, inputs, now):
        if state.nova_id == "echo":
            raise ValueError("a poisoned fact")
        return execute_cycle(state, inputs, now)

    monkeypatch.setattr("workflow.engine.execute_cycle", failing)
    committed = driver.step()
    assert (committed.steps, committed.dispatched) == (2, 1)
    state = state_of("echo")
    assert (state.current_state, state.consecutive_errors, state.crashes) == ("error_recovery", 1, 0)
    assert state.last_error == "ValueError: a poisoned fact"
    first_wait = state.due_at - driver.now
    assert timedelta(seconds=1) <= first_wait <= timedelta(seconds=2)
    assert [reload(task).status for task in tasks] == ["pending", "in_progress"]
    assert not Task.objects.exclude(reserved_by="").exists()

    driver.now = state.due_at
    driver.step()
    assert state_of("echo").due_at - driver.now > first_wait
    monkeypatch.undo()
    driver.now = state_of("echo").due_at
    driver.run()
    state = state_of("echo")
    assert (state.current_state, state.consecutive_errors) == ("task_execution", 0)
    assert reload(tasks[0]).status == "in_progress"


# -- idling


def test_an_idle_cycle_writes_nothing_but_its_own_counters(driver, fleet):
    driver.run()
    driver.now += timedelta(minutes=2)
    driver.run()
    entries, rows = AuditEntry.objects.count(), list(OutboxEntry.objects.values_list("id", flat=True))
    before: dict[str, Any] = {str(row["nova_id"]): dict(row) for row in NovaState.objects.values()}
    driver.now += timedelta(minutes=2)
    assert sum(committed.steps for committed in driver.run()) == 5
    assert AuditEntry.objects.count() == entries
    assert list(OutboxEntry.objects.values_list("id", flat=True)) == rows
    counters = {
        "last_stream_check", "total_cycles_completed", "cycle_started_at", "state_entered_at", "due_at", "fence",
        "lease_holder",
    }  # fmt: skip
    row: dict[str, Any]
    for row in map(dict, NovaState.objects.values()):
        old = before[str(row["nova_id"])]
        assert {name for name, value in row.items() if value != old[name]} <= counters
        assert row["total_cycles_completed"] == old["total_cycles_completed"] + 1


def test_an_idle_nova_rests_one_cycle_time_of_its_personality(driver, fleet):
    driver.run()
    for nova_id, personality in PERSONALITIES.items():
        assert state_of(nova_id).due_at == NOW + timedelta(seconds=personality["base_cycle_time"])


def test_a_nova_woken_between_claim_and_commit_is_due_again_at_once(driver):
    make_nova()
    cycle = driver.claim_gather_step()
    waking.mark_due(["torch"], now=driver.now)
    driver.engine.commit(*cycle)
    assert state_of().due_at <= driver.now
    assert driver.step().steps == 1
    assert driver.step() is None


def test_a_nova_is_woken_for_open_work_that_comes_while_it_is_in_mid_step(driver):
    make_nova()
    cycle = driver.claim_gather_step()
    with TaskTracker.open(now=driver.now) as tracker:
        tracker.create_task("Just now", **ECHO)
    driver.engine.commit(*cycle)
    assert driver.step().dispatched == 1


def test_a_nova_with_a_free_slot_is_woken_for_open_work_although_it_is_busy(driver):
    make_policy("wide", max_concurrent_tasks=3)
    make_nova(policy="wide")
    make_task(**ECHO)
    driver.begin()
    driver.now += timedelta(seconds=1)
    with TaskTracker.open(now=driver.now) as tracker:
        tracker.create_task("One more", **ECHO)
    assert driver.step().dispatched == 1


def test_a_busy_nova_without_a_free_slot_is_not_woken_for_open_work(driver):
    make_nova()
    make_task(**ECHO)
    driver.begin()
    with TaskTracker.open(now=driver.now) as tracker:
        tracker.create_task("One more", **ECHO)
    assert driver.step() is None


# -- reflection


def test_a_personal_phase_writes_one_private_entry_and_nothing_for_the_streams_of_it(driver):
    make_nova(tasks_per_phase=1, personal_phase_after=1, personal_phase_minutes=2.0)
    make_task("Plant roses", **ECHO)
    driver.begin()
    driver.end()
    driver.run_until(lambda: state_of().current_phase == "personal_phase")
    state = state_of()
    assert state.personal_reflections == 1
    (entry,) = AuditEntry.objects.filter(personal=True)
    assert (entry.action, entry.nova_id, entry.stream, entry.message) == ("workflow.nova.reflected", "torch", "", None)
    assert "Plant roses" in entry.after["text"]
    assert entry.pk not in published()
    assert not any(entry.after["text"] in str(other.message) for other in AuditEntry.objects.exclude(pk=entry.pk))
    later = make_task("Not now", **ECHO)
    waking.mark_due(["torch"], now=driver.now)
    driver.run()
    assert reload(later).status == "pending"
    driver.now = state.phase_started_at + timedelta(minutes=2)
    driver.run()
    assert state_of().current_phase == "work_phase_2"
    assert reload(later).status == "in_progress"


def test_what_completed_tasks_taught_is_reviewed_in_a_reflecting_cycle(driver):
    nova = make_nova()
    nova.personality.reflection_frequency = 1.0
    nova.personality.save()
    make_task("Count the streams", **ECHO)
    driver.begin()
    driver.end()
    for _ in range(12):
        driver.run()
        driver.now += timedelta(minutes=1)
    driver.run()
    (entry,) = AuditEntry.objects.filter(action="workflow.insight.reviewed")
    assert (entry.stream, entry.message["type"]) == ("nova.insights.torch", "INSIGHT_REVIEW")
    assert "Count the streams" in entry.message["insights"]


def test_each_of_two_backoffs_is_remembered_while_the_nova_celebrates(driver):
    make_nova()
    for title in ("First", "Second"):
        make_task(title, **ECHO)
    for seconds in (0.1, 1.4):
        driver.begin()
        driver.end(status="failed", error="Boom.", seconds=seconds)
    driver.step()
    later = Task.objects.latest("not_before")
    assert later.not_before is not None
    driver.run_until(lambda: Execution.objects.filter(status="dispatched").exists())
    driver.end(seconds=0.1)
    driver.run()
    assert state_of().current_state == "completion_routine"
    assert state_of().due_at <= later.not_before
