"""The engine, step by step, on the real database: what a cycle does to tasks, states and journal, and what it leaves alone."""

from datetime import timedelta
from typing import Any

import pytest

from safety.core.status import FleetFacts
from safety.models import AuditEntry, OutboxEntry
from tests.factories import (
    NOW,
    PERSONALITIES,
    make_execution,
    make_healthy_fleet,
    make_inbox_message,
    make_nova,
    make_policy,
    make_safety_state,
    make_task,
)
from tests.workflow.driving import Driver, published, silence_momentum, state_of, story
from workflow import services, waking
from workflow.core.machine import execute_cycle
from workflow.models import Execution, NovaState, Task, TaskStatistics
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db

ECHO = {"executor": "builtin", "action": "echo"}


@pytest.fixture
def driver():
    silence_momentum()
    return Driver()


def reload(task: Task) -> Task:
    return Task.objects.get(pk=task.pk)


# -- the life of a task


def test_an_open_task_is_done_in_two_steps_and_the_journal_tells_its_whole_story(driver):
    make_nova()
    task = make_task(description="hello", **ECHO)

    committed = driver.step()
    assert (committed.steps, committed.dispatched, committed.fenced) == (1, 1, 0)
    task = reload(task)
    assert (task.status, task.assignee_id, task.attempts, task.reserved_by) == ("in_progress", "torch", 1, "")
    execution = Execution.objects.get()
    assert (execution.task_id, execution.nova_id, execution.executor, execution.action) == (task.id, "torch", "builtin", "echo")
    assert (execution.attempt, execution.status, execution.timeout) == (1, "dispatched", 300.0)
    assert driver.step() is None  # it waits for the execution, and is not due

    driver.end(seconds=2, results="hello", metrics={"bytes": 5})
    committed = driver.step()
    assert (committed.steps, committed.dispatched) == (1, 0)
    task = reload(task)
    assert (task.status, task.outcome, task.results, task.progress) == ("completed", "succeeded", "hello", 100)
    assert task.metrics == {"bytes": 5, "attempts": 1, "duration_seconds": 2.0}
    assert set(task.insights) == {"lessons_learned", "process_improvements", "skill_development", "future_applications"}
    statistics = TaskStatistics.objects.get()
    assert (statistics.key, statistics.count, statistics.seconds) == ("requested:builtin:echo", 1, 2.0)
    state = state_of()
    assert (state.current_state, state.completion_stage, state.tasks_completed_in_phase) == (
        "completion_routine",
        "celebration",
        1,
    )
    assert (state.tasks_in_flight, state.last_completion_celebration, state.last_task_change) == (0, driver.now, driver.now)
    assert story(task.id) == [
        "workflow.task.claimed",
        "workflow.task.started",
        "workflow.task.completed",
        "workflow.task.celebrated",
        "workflow.insight.recorded",
    ]
    entries = AuditEntry.objects.filter(nova_id="torch").order_by("id")
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert published() == [entry.pk for entry in entries if entry.stream]
    streams = [entry.stream for entry in entries if entry.object_id == task.id]
    assert streams == [
        "nova.tasks.torch.todo",
        "nova.tasks.torch.progress",
        "nova.tasks.torch.completed",
        "nova.celebrations.torch",
        "nova.insights.torch",
    ]


def test_without_facts_of_the_fleet_given_the_stored_ones_are_used(driver):
    make_nova()
    make_task(**ECHO)
    driver.fleet = None
    make_healthy_fleet()
    assert driver.step().dispatched == 1


def test_without_any_facts_of_the_fleet_nothing_is_started(driver):
    make_nova()
    make_task(**ECHO)
    driver.fleet = None
    assert driver.step().dispatched == 0
    assert state_of().current_state == "safety_pause"


def test_with_a_backlog_one_step_completes_a_task_and_starts_the_next(driver):
    make_nova()
    tasks = [make_task(f"Task {number}", created_at=NOW + timedelta(seconds=number), **ECHO) for number in range(3)]
    driver.begin()
    for done, following in ((0, 1), (1, 2)):
        driver.end()
        assert driver.step().dispatched == 1
        assert (reload(tasks[done]).status, reload(tasks[following]).status) == ("completed", "in_progress")
    driver.end()
    assert driver.step().dispatched == 0
    assert Task.objects.filter(outcome="succeeded").count() == 3
    assert AuditEntry.objects.filter(action="workflow.task.celebrated").count() == 3


def test_the_more_urgent_task_is_taken_first(driver):
    make_nova()
    make_task("Later", priority="low", **ECHO)
    urgent = make_task("Now", priority="critical", **ECHO)
    make_task("Soon", priority="medium", **ECHO)
    driver.step()
    assert reload(urgent).status == "in_progress"


def test_a_nova_works_on_as_many_tasks_as_its_policy_allows(driver):
    make_policy("wide", max_concurrent_tasks=3)
    make_nova(policy="wide")
    for number in range(5):
        make_task(f"Task {number}", **ECHO)
    first, *_ = driver.begin(3)
    assert state_of().tasks_in_flight == 3
    driver.end(first.task_id)
    assert driver.step().dispatched == 1
    driver.end()
    assert driver.step().dispatched == 1
    assert list(Task.objects.order_by("status").values_list("status", flat=True)) == ["completed"] * 4 + ["in_progress"]


def test_open_tasks_are_dealt_evenly_among_the_novas_of_a_batch(driver, fleet):
    for number in range(5):
        make_task(f"Task {number}", **ECHO)
    assert driver.step().dispatched == 5
    assert set(Task.objects.values_list("assignee_id", flat=True)) == set(PERSONALITIES)


def test_what_a_running_execution_reports_is_told_once(driver):
    make_nova()
    task = make_task(**ECHO)
    driver.begin()
    Execution.objects.update(progress=40)
    waking.mark_due(["torch"], now=driver.now)
    driver.step()
    waking.mark_due(["torch"], now=driver.now)
    driver.step()
    assert reload(task).progress == 40
    (entry,) = AuditEntry.objects.filter(action="workflow.task.progressed")
    assert (entry.stream, entry.message["progress_percentage"]) == ("nova.tasks.torch.progress", "40")


# -- what does not succeed


def test_a_failed_execution_is_tried_again_after_a_backoff_and_blocked_when_out_of_attempts(driver):
    make_nova()
    task = make_task(**ECHO)
    driver.begin()
    for attempt in (1, 2):
        driver.end(status="failed", error="Boom.")
        assert driver.step().dispatched == 0
        waiting = reload(task)
        assert (waiting.status, waiting.assignee_id, waiting.attempts) == ("pending", "torch", attempt)
        assert waiting.not_before is not None
        assert waiting.not_before > driver.now
        assert state_of().due_at <= waiting.not_before
        driver.now = waiting.not_before - timedelta(milliseconds=1)
        driver.run()
        assert Execution.objects.count() == attempt
        driver.now = waiting.not_before
        driver.begin()
    driver.end(status="timed_out", error="It ran longer than its 300 s and was stopped.")
    driver.step()
    task = reload(task)
    assert (task.status, task.block_owner, task.attempts) == ("blocked", "operator", 3)
    assert task.id in task.block_action
    assert "300 s" in task.block_reason
    assert list(Execution.objects.order_by("id").values_list("attempt", flat=True)) == [1, 2, 3]
    assert story(task.id).count("workflow.task.retried") == 2
    assert story(task.id)[-1] == "workflow.task.blocked"
    assert not TaskStatistics.objects.exists()


def test_a_failure_that_no_retry_can_help_is_blocked_at_once(driver):
    make_nova()
    task = make_task(**ECHO)
    driver.begin()
    driver.end(status="failed", error="There is no such thing.", retryable=False)
    driver.step()
    assert (reload(task).status, reload(task).attempts) == ("blocked", 1)


def test_work_that_nothing_here_can_do_is_blocked_with_its_brief(driver):
    make_nova()
    task = make_task("Write the quarterly report")
    driver.begin()
    needs = {"owner": "operator", "action": "connect a model or an agent to torch"}
    driver.end(results="The brief.", metrics={"related": []}, needs=needs)
    driver.step()
    task = reload(task)
    assert (task.status, task.results, task.metrics) == ("blocked", "The brief.", {"related": []})
    assert (task.block_owner, task.block_action) == ("operator", "connect a model or an agent to torch")
    assert AuditEntry.objects.get(action="workflow.task.blocked").message["results"] == "The brief."
    assert not AuditEntry.objects.filter(action="workflow.task.celebrated").exists()


def test_an_unblocked_task_is_taken_at_once_although_it_is_old_and_the_nova_was_idle(driver):
    """Completion drift is work left lying, not work that could not be done until now."""
    make_nova()
    task = make_task(assignee="torch", status="blocked", **ECHO)
    driver.run()
    for _ in range(3):
        driver.now += timedelta(hours=1)
        driver.run()
    with TaskTracker.open(now=driver.now) as tracker:
        tracker.unblock_task(task.id, "A model is connected.")
    assert driver.step().dispatched == 1
    assert not AuditEntry.objects.filter(action="safety.nova.unsafe").exists()


def test_a_cancelled_task_leaves_its_nova_free_for_the_next(driver):
    make_nova()
    first, second = make_task("First", priority="high", **ECHO), make_task("Second", **ECHO)
    driver.begin()
    with TaskTracker.open(now=driver.now) as tracker:
        tracker.cancel_task(first.id, "not wanted")
    assert driver.step().dispatched == 1
    assert reload(second).status == "in_progress"
    assert state_of().tasks_in_flight == 1
    assert not AuditEntry.objects.filter(action="workflow.task.celebrated").exists()


# -- who takes what


def test_a_task_for_an_agent_stays_unclaimed(driver):
    make_nova()
    tasks = [make_task(executor="agent"), make_task(executor="agent", assignee="torch")]
    assert driver.step().dispatched == 0
    assert [reload(task).status for task in tasks] == ["pending", "pending"]
    assert [reload(task).assignee_id for task in tasks] == [None, "torch"]


def test_an_agents_nova_is_not_said_to_drift_while_its_tasks_wait_for_the_agent(driver):
    make_nova(default_executor="agent")
    make_task(assignee="torch", created_at=NOW - timedelta(hours=2))
    driver.run()
    driver.now += timedelta(hours=2)
    driver.run()
    assert state_of().current_state == "stream_check"
    assert not AuditEntry.objects.filter(action="safety.nova.unsafe").exists()


def test_an_open_task_waits_for_a_nova_that_may_use_its_executor(driver):
    make_nova("echo")
    task = make_task(executor="command")
    driver.step()
    assert (reload(task).status, reload(task).assignee_id) == ("pending", None)
    make_nova("helix", allowed_executors=["builtin", "command"])
    assert driver.step().dispatched == 1
    assert reload(task).assignee_id == "helix"


def test_an_assigned_task_whose_executor_is_not_allowed_is_blocked_for_an_operator(driver):
    make_nova()
    task = make_task(executor="command", assignee="torch")
    driver.step()
    task = reload(task)
    assert (task.status, task.block_owner) == ("blocked", "operator")
    assert "command" in task.block_action


def test_a_teams_task_goes_to_that_team_and_an_assigned_one_to_its_nova(driver):
    make_nova("echo", team="builders")
    make_nova("helix", team="watch")
    make_nova("torch")
    builders, watch = make_task("Build", team="builders", **ECHO), make_task("Watch", team="watch", **ECHO)
    mine = make_task("Mine", assignee="torch", **ECHO)
    driver.step()
    assert [reload(task).assignee_id for task in (builders, watch, mine)] == ["echo", "helix", "torch"]


def test_the_urgent_work_of_one_team_does_not_keep_another_team_waiting(driver):
    make_nova("echo", team="builders")
    make_nova("helix", team="watch")
    for number in range(4):
        make_task(f"Build {number}", team="builders", priority="critical", **ECHO)
    watch = make_task("Watch", team="watch", priority="low", **ECHO)
    assert driver.step().dispatched == 2
    assert reload(watch).assignee_id == "helix"
    assert not Task.objects.filter(status="pending").exclude(reserved_by="").exists()


def test_work_that_no_nova_of_its_team_may_do_does_not_keep_other_work_waiting(driver):
    make_nova("echo", team="builders")
    make_nova("helix", team="watch", allowed_executors=["builtin", "model"])
    for number in range(4):
        make_task(f"Model {number}", team="builders", executor="model", priority="critical")
    for number in range(2):
        make_task(f"Anybody {number}", **ECHO)
    assert driver.step().dispatched == 2


def test_a_task_waits_until_its_time_has_come(driver):
    make_nova()
    make_task(not_before=NOW + timedelta(minutes=1), **ECHO)
    make_task(waiting_on=1, **ECHO)
    assert driver.step().dispatched == 0


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


# -- what the engine must not do


def test_a_personal_tasks_text_reaches_no_message(driver):
    make_nova()
    task = make_task("planted secret", assignee="torch", personal=True, **ECHO)
    driver.begin()
    driver.end(results="planted result")
    driver.run()
    assert reload(task).outcome == "succeeded"
    assert not any("planted" in str(entry.message) for entry in AuditEntry.objects.exclude(stream=""))
    assert not AuditEntry.objects.filter(action="workflow.task.celebrated").exists()


def test_a_signal_makes_its_task_and_the_next_step_starts_it(driver):
    make_nova()
    make_inbox_message(nova_id="torch", fields={"title": "Please review the plan", "sender": "echo"})
    driver.step()
    task = Task.objects.get()
    assert (task.assignee_id, task.work_type, task.status) == ("torch", "signal", "pending")
    assert driver.step().dispatched == 1


def test_an_execution_of_a_task_that_is_no_longer_in_hand_changes_nothing(driver):
    make_nova()
    task = make_task(assignee="torch", status="completed", **ECHO)
    make_execution(task, status="succeeded", finished_at=NOW)
    driver.run()
    assert story(task.id) == []
