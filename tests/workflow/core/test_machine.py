"""What a cycle does, by example: beginning, working, waiting, creating work. Completion and phases have their own files."""

from copy import copy
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.workflow.core.facts import (
    HOUR,
    NOW,
    SECOND,
    make_config,
    make_execution,
    make_held,
    make_inputs,
    make_objective,
    make_signal,
    make_state,
    make_task,
    of_kind,
    only,
)
from workflow.core import effects as fx
from workflow.core.cycle import on_grid
from workflow.core.machine import execute_cycle
from workflow.core.state import WorkflowState, new_state
from workflow.core.tending import PUT_OFF_LIMIT, RETRY_LIMIT, retry_delay
from workflow.core.work import MomentumBudget, Priority

S = WorkflowState
CONFIG = make_config()


def path(step):
    return only(step, fx.ReportStatus).path


# -- beginning and idling ------------------------------------------------------------------------------------------------------


def test_a_new_nova_initializes_checks_its_streams_and_rests():
    step = execute_cycle(new_state("torch", NOW), make_inputs(), NOW)
    assert path(step) == ("initializing", "stream_check", "work_discovery", "stream_check")
    assert step.state.last_stream_check == NOW
    assert step.due_at == NOW + CONFIG.base_cycle_time


def test_a_new_nova_starts_waiting_work_in_its_first_cycle():
    step = execute_cycle(new_state("torch", NOW), make_inputs(dealt=[make_task()]), NOW)
    assert path(step) == ("initializing", "stream_check", "work_discovery", "task_execution")


def test_an_idle_cycle_wants_nothing_and_changes_only_its_clockwork():
    state = make_state()
    step = execute_cycle(state, make_inputs(), NOW)
    assert step.effects == []
    changed = {name for name in state.__dataclass_fields__ if getattr(state, name) != getattr(step.state, name)}
    assert changed == {"last_stream_check", "total_cycles_completed", "state_entered_at"}


def test_the_callers_state_is_never_changed():
    state = make_state(S.TASK_EXECUTION, context={"a": "b"})
    before = copy(state)
    execute_cycle(
        state, make_inputs(make_config(personal_phase_after=1, tasks_per_phase=1), held=[make_held(status="succeeded")]), NOW
    )
    assert state == before


def test_a_nova_woken_in_mid_cycle_keeps_its_beat():
    state = make_state(cycle_started_at=NOW - 10 * SECOND)
    step = execute_cycle(state, make_inputs(), NOW)
    assert step.state.cycle_started_at == NOW - 10 * SECOND
    assert step.due_at == NOW + 15 * SECOND


def test_a_nova_stepped_a_little_late_does_not_drift():
    state = make_state(cycle_started_at=NOW - 26 * SECOND)
    step = execute_cycle(state, make_inputs(), NOW)
    assert step.state.cycle_started_at == NOW - SECOND
    assert step.due_at == NOW + 24 * SECOND


def test_a_nova_stepped_much_too_late_does_not_catch_up():
    state = make_state(cycle_started_at=NOW - HOUR)
    step = execute_cycle(state, make_inputs(), NOW)
    assert step.state.cycle_started_at == NOW
    assert step.due_at == NOW + 25 * SECOND


def test_a_nova_whose_clock_went_back_is_due_within_a_cycle():
    step = execute_cycle(make_state(cycle_started_at=NOW + HOUR), make_inputs(), NOW)
    assert step.due_at == NOW + 25 * SECOND


def test_idle_due_times_are_rounded_up_to_a_quarter_of_a_second():
    step = execute_cycle(make_state(cycle_started_at=NOW - 10 * SECOND + timedelta(milliseconds=1)), make_inputs(), NOW)
    assert step.due_at == NOW + 15 * SECOND + timedelta(milliseconds=250)


@pytest.mark.parametrize(
    ("given", "rounded"), [(0, 0), (1, 250_000), (250_000, 250_000), (250_001, 500_000), (999_999, 1_000_000)]
)
def test_the_grid_rounds_up(given, rounded):
    assert on_grid(NOW + timedelta(microseconds=given)) == NOW + timedelta(microseconds=rounded)


def test_every_cycle_is_counted():
    assert execute_cycle(make_state(total_cycles_completed=41), make_inputs(), NOW).state.total_cycles_completed == 42


# -- starting and waiting ------------------------------------------------------------------------------------------------------


def test_a_dealt_task_is_started_with_everything_its_execution_needs():
    task = make_task("Count the streams", action="analyze_streams", cause="nova.work.queue/1-0", attempts=1)
    step = execute_cycle(make_state(), make_inputs(dealt=[task]), NOW)
    start = only(step, fx.StartTask)
    assert (start.task_id, start.executor, start.action, start.attempt) == (task.id, "builtin", "analyze_streams", 2)
    assert start.timeout == CONFIG.execution_timeout
    assert "Count the streams" in start.update
    assert step.state.current_state == S.TASK_EXECUTION
    assert step.state.tasks_in_flight == 1
    assert step.state.tool_use_count == 1
    report = only(step, fx.ReportStatus)
    assert report.cause == "nova.work.queue/1-0"
    assert report.path == ("stream_check", "work_discovery", "task_execution")


def test_assigned_and_dealt_tasks_are_started_by_rank_and_age_together():
    old_low = make_task("old", priority=Priority.LOW, created_at=NOW - 13 * HOUR)
    urgent = make_task("urgent", priority=Priority.CRITICAL, assignee="torch")
    step = execute_cycle(make_state(), make_inputs(assigned=[urgent], dealt=[old_low]), NOW)
    assert only(step, fx.StartTask).task_id == old_low.id
    younger = make_task("young", priority=Priority.LOW)
    step = execute_cycle(make_state(), make_inputs(assigned=[urgent], dealt=[younger]), NOW)
    assert only(step, fx.StartTask).task_id == urgent.id


def test_a_nova_with_three_slots_starts_three_tasks():
    tasks = [make_task(str(number)) for number in range(5)]
    step = execute_cycle(make_state(), make_inputs(make_config(max_concurrent_tasks=3), dealt=tasks), NOW)
    assert [start.task_id for start in of_kind(step, fx.StartTask)] == [task.id for task in tasks[:3]]


def test_a_nova_with_a_free_slot_starts_more_work_while_other_work_runs():
    state = make_state(S.TASK_EXECUTION)
    step = execute_cycle(state, make_inputs(make_config(max_concurrent_tasks=2), held=[make_held()], dealt=[make_task()]), NOW)
    assert path(step) == ("task_execution", "work_discovery", "task_execution")
    assert step.state.tasks_in_flight == 2


def test_a_nova_with_full_slots_starts_nothing():
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[make_held()], dealt=[make_task()]), NOW)
    assert step.effects == []


@pytest.mark.parametrize("executor", ["agent", ""])
def test_a_task_meant_for_an_agent_waits(executor):
    config = make_config(default_executor="agent")
    step = execute_cycle(make_state(), make_inputs(config, assigned=[make_task(assignee="torch", executor=executor)]), NOW)
    assert step.effects == []


def test_a_task_given_to_a_nova_that_may_not_run_it_is_blocked_for_the_operator():
    task = make_task(assignee="torch", executor="command")
    step = execute_cycle(make_state(), make_inputs(assigned=[task]), NOW)
    block = only(step, fx.BlockTask)
    assert (block.task_id, block.owner) == (task.id, "operator")
    assert block.action == "allow the executor command to torch, or give the task to another Nova"
    assert "command" in block.reason


def test_a_waiting_nova_is_due_at_the_deadline_of_its_execution_if_that_is_sooner_than_its_cycle():
    execution = make_execution("running", started_at=NOW - 295 * SECOND)
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[make_held(execution=execution)]), NOW)
    assert step.due_at == NOW + 5 * SECOND


@pytest.mark.parametrize("started_at", [None, NOW - SECOND, NOW - HOUR])
def test_a_waiting_nova_is_otherwise_due_with_its_cycle(started_at):
    held = make_held(execution=make_execution("running", started_at=started_at))
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    assert step.due_at == NOW + 15 * SECOND
    assert step.effects == []


def test_a_nova_whose_task_was_taken_away_looks_for_other_work():
    step = execute_cycle(make_state(S.TASK_EXECUTION, tasks_in_flight=1), make_inputs(), NOW)
    assert step.state.current_state == S.STREAM_CHECK
    assert step.state.tasks_in_flight == 0


def test_a_nova_leaves_a_task_alone_that_an_agent_works_on():
    held = replace(make_held(), execution=None)
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    assert step.effects == []
    assert step.state.current_state == S.TASK_EXECUTION


def test_a_busy_nova_looks_at_its_streams_once_a_cycle_time():
    state = make_state(S.TASK_EXECUTION, last_stream_check=NOW - 25 * SECOND)
    step = execute_cycle(state, make_inputs(held=[make_held()]), NOW)
    assert step.state.last_stream_check == NOW
    assert step.state.current_state == S.TASK_EXECUTION


def test_a_busy_nova_handles_a_signal_at_once_and_goes_on_waiting():
    step = execute_cycle(
        make_state(S.TASK_EXECUTION), make_inputs(held=[make_held()], signals=[make_signal(message="fyi")]), NOW
    )
    assert only(step, fx.HandleSignal).outcome == "noted"
    assert step.state.current_state == S.TASK_EXECUTION


# -- the ends of executions ----------------------------------------------------------------------------------------------------


def test_progress_is_reported_only_when_it_changed():
    held = make_held(execution_fields={"progress": 40}, progress=10)
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    update = only(step, fx.UpdateProgress)
    assert update.progress_percentage == 40
    assert "40 %" in update.update
    same = replace(held, progress=40)
    assert execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[same]), NOW).effects == []


def test_a_succeeded_execution_completes_its_task_with_results_and_metrics():
    held = make_held(status="succeeded", execution_fields={"metrics": {"found": 3, "tool_uses": 4}})
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    done = only(step, fx.CompleteTask)
    assert done.results == "the results"
    assert done.metrics == {"found": 3, "tool_uses": 4, "duration_seconds": 30.0, "attempts": 1}
    assert step.state.tool_use_count == 4


@pytest.mark.parametrize("status", ["failed", "timed_out", "abandoned", "cancelled"])
def test_a_retryable_end_with_attempts_left_is_retried_after_a_backoff(status):
    held = make_held(status=status, execution_fields={"attempt": 2})
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    retry = only(step, fx.RetryTask)
    assert retry.not_before == NOW + retry_delay(held.id, 2)
    assert "it broke" in retry.reason
    assert "Attempt 3 of 3" in retry.reason
    assert step.due_at == retry.not_before


def test_the_end_of_a_backoff_is_remembered_over_cycles_that_come_between():
    held = make_held(status="failed", execution_fields={"attempt": 2})
    first = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    woken = execute_cycle(first.state, make_inputs(), NOW + SECOND)
    assert woken.due_at == first.due_at
    later = execute_cycle(woken.state, make_inputs(), first.due_at)
    assert later.due_at > first.due_at
    assert later.state.context == {}


def test_an_end_that_was_put_off_waits_as_told_and_costs_no_attempt():
    later = NOW + 10 * 60 * SECOND
    execution = make_execution("failed", attempt=3, not_before=later)
    held = make_held(execution=execution, attempts=3, max_attempts=3)
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    retry = only(step, fx.RetryTask)
    assert (retry.not_before, retry.uncounted) == (later, True)
    assert "Attempt 4 of 4" in retry.reason
    assert step.state.error_ratio == 0


def test_nobody_is_put_off_for_ever():
    execution = make_execution("failed", attempt=PUT_OFF_LIMIT, not_before=NOW + SECOND)
    held = make_held(execution=execution, attempts=PUT_OFF_LIMIT, max_attempts=PUT_OFF_LIMIT)
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    assert only(step, fx.BlockTask).owner == "operator"


def test_retry_delays_double_differ_by_task_and_are_the_same_every_time():
    delays = [retry_delay("TORCH-1-aaaaaa", attempts) for attempts in range(1, 15)]
    assert timedelta(seconds=1.5) <= delays[0] <= timedelta(seconds=2.5)
    assert all(1.1 < later / earlier < 3.4 for earlier, later in zip(delays[:7], delays[1:8], strict=True))
    assert max(delays) == RETRY_LIMIT
    assert delays == [retry_delay("TORCH-1-aaaaaa", attempts) for attempts in range(1, 15)]
    assert len({retry_delay(f"TORCH-1-{number:06x}", 1) for number in range(50)}) > 40


def test_a_task_out_of_attempts_is_blocked_for_the_operator():
    held = make_held(status="failed", execution_fields={"attempt": 3}, max_attempts=3)
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    block = only(step, fx.BlockTask)
    assert block.owner == "operator"
    assert block.action == f"remove the cause of the last error, then unblock or cancel {held.id}"
    assert block.reason == "The execution failed: it broke."


def test_a_failure_that_is_not_retryable_is_blocked_at_once():
    held = make_held(status="failed", execution_fields={"retryable": False})
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    assert only(step, fx.BlockTask).action == f"correct what the error names, then unblock or cancel {held.id}"


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_work_that_needs_somebody_is_blocked_for_them_with_its_brief_and_never_called_done(status):
    needs = {"owner": "security", "action": "connect a model or an agent to torch"}
    held = make_held(status=status, execution_fields={"needs": needs, "results": "the brief", "metrics": {"related": 2}})
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[held]), NOW)
    block = only(step, fx.BlockTask)
    assert (block.owner, block.action) == ("security", "connect a model or an agent to torch")
    assert (block.results, block.metrics) == ("the brief", {"related": 2})
    assert not of_kind(step, fx.CompleteTask, fx.Celebrate)


def test_after_a_failure_the_next_task_is_started_in_the_same_cycle():
    step = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(held=[make_held(status="failed")], dealt=[make_task()]), NOW)
    assert path(step) == ("task_execution", "progress_update", "work_discovery", "task_execution")


# -- creating work -------------------------------------------------------------------------------------------------------------


def test_an_actionable_signal_becomes_work_and_the_nova_is_due_at_once():
    signal = make_signal(title="Please review the plan", sender="echo")
    step = execute_cycle(make_state(), make_inputs(signals=[signal]), NOW)
    create = only(step, fx.CreateTask)
    assert create.signal_id == signal.id
    assert create.item.assigned_to == "torch"
    assert create.item.cause == f"nova.coordination.torch/{signal.entry_id}"
    assert only(step, fx.HandleSignal).outcome == "work"
    assert step.due_at == NOW


def test_too_little_work_is_filled_up_to_three_items_with_momentum_work():
    inputs = make_inputs(available=1, momentum=MomentumBudget(("research_patterns", "validate_safety", "review_workflow")))
    step = execute_cycle(make_state(), inputs, NOW)
    assert [create.momentum_template for create in of_kind(step, fx.CreateTask)] == ["review_workflow", "validate_safety"]
    assert NOW < step.due_at <= NOW + timedelta(milliseconds=250)


def test_no_momentum_work_is_made_where_it_could_not_be_run():
    inputs = make_inputs(
        make_config(allowed_executors=frozenset(("agent",))), available=0, momentum=MomentumBudget(("review_workflow",))
    )
    assert execute_cycle(make_state(), inputs, NOW).effects == []


def test_a_due_objective_is_planned_and_advanced():
    objective = make_objective()
    step = execute_cycle(make_state(), make_inputs(objectives=[objective]), NOW)
    assert only(step, fx.CreateTask).objective_id == objective.id
    assert only(step, fx.AdvanceObjective).next_due_at == objective.due_at + timedelta(days=1)


def test_every_task_message_of_a_step_is_checked_and_counted():
    held = [make_held(status="succeeded"), make_held(execution_fields={"progress": 5})]
    inputs = make_inputs(make_config(max_concurrent_tasks=3), held=held, dealt=[make_task()])
    step = execute_cycle(make_state(S.TASK_EXECUTION), inputs, NOW)
    messages = of_kind(step, fx.CompleteTask, fx.UpdateProgress, fx.StartTask)
    assert len(messages) == step.state.protocol_checks == step.state.protocol_passes == 3


def test_a_message_that_breaks_the_protocol_is_counted_and_reported():
    step = execute_cycle(make_state(), make_inputs(dealt=[make_task("x" * 501)]), NOW)
    assert (step.state.protocol_checks, step.state.protocol_passes) == (1, 0)
    assert only(step, fx.ReportViolation).mechanism == "nova_protocol"
