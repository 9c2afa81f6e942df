"""The engine, step by step, on the real database: what a cycle does to tasks, states and journal, and what it leaves alone."""

from datetime import timedelta

import pytest

from safety.models import AuditEntry
from tests.factories import (
    NOW,
    PERSONALITIES,
    make_execution,
    make_healthy_fleet,
    make_inbox_message,
    make_nova,
    make_policy,
    make_task,
)
from tests.workflow.driving import Driver, published, silence_momentum, state_of, story
from workflow import waking
from workflow.models import Execution, Task, TaskStatistics
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


def test_an_attempt_that_was_put_off_is_given_back(driver):
    make_nova()
    task = make_task(max_attempts=1, **ECHO)
    driver.begin()
    later = driver.now + timedelta(minutes=10)
    driver.end(status="failed", error="The provider has enough for now.", not_before=later)
    driver.step()
    task = reload(task)
    assert (task.status, task.attempts, task.max_attempts, task.not_before) == ("pending", 1, 2, later)
    driver.now = later
    driver.begin()


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


def test_a_task_whose_dependency_has_just_succeeded_is_taken_at_once_although_it_is_old(driver):
    make_nova()
    make_nova("helix", state={"mode": "paused"})
    with TaskTracker.open(now=NOW) as tracker:
        first = tracker.create_task("First", assignee="helix", executor="agent")
    with TaskTracker.open(now=NOW) as tracker:
        second = tracker.create_task("Then", assignee="torch", dependencies=[first], **ECHO)
        tracker.start_task(tracker._row(first), nova_id="helix", update="I begin.", attempt=1)
    for _ in range(3):
        driver.run()
        driver.now += timedelta(hours=1)
    driver.run()
    with TaskTracker.open(now=driver.now) as tracker:
        tracker.complete_task(first, "Done.")
    assert driver.step().dispatched == 1
    assert Execution.objects.get().task_id == second
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
