"""When a cycle does not simply work: pausing, recovering from errors, draining, and looking back."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.workflow.core.facts import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    UNSAFE,
    make_config,
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
from workflow.core.machine import error_backoff, execute_cycle, recover, wants_insights
from workflow.core.reflection import is_reflecting_cycle
from workflow.core.state import CompletionStage, WorkflowState

S = WorkflowState
CONFIG = make_config()


def path(step):
    return only(step, fx.ReportStatus).path


# -- safety --------------------------------------------------------------------------------------------------------------------


def test_a_nova_never_starts_work_while_unsafe():
    inputs = make_inputs(
        safety=UNSAFE, dealt=[make_task()], signals=[make_signal()], objectives=[make_objective()], available=0
    )
    step = execute_cycle(make_state(), inputs, NOW)
    assert [type(effect) for effect in step.effects] == [fx.ReportViolation, fx.ReportStatus]
    assert step.state.safety_status == UNSAFE
    assert only(step, fx.ReportViolation) == fx.ReportViolation("frosty", UNSAFE.reason)
    again = execute_cycle(step.state, inputs, step.due_at)
    assert again.effects == []


def test_another_mechanism_is_another_violation():
    paused = execute_cycle(make_state(), make_inputs(safety=UNSAFE), NOW).state
    other = replace(UNSAFE, mechanism="api_guardian")
    step = execute_cycle(paused, make_inputs(safety=other), NOW + SECOND)
    assert only(step, fx.ReportViolation).mechanism == "api_guardian"


def test_a_paused_nova_still_completes_retries_and_blocks_what_has_ended():
    out_of_attempts = make_held(status="failed", execution_fields={"attempt": 3})
    held = [make_held(status="succeeded"), make_held(status="failed"), out_of_attempts]
    inputs = make_inputs(make_config(max_concurrent_tasks=3), safety=UNSAFE, held=held, dealt=[make_task()])
    step = execute_cycle(make_state(S.TASK_EXECUTION), inputs, NOW)
    ends = of_kind(step, fx.CompleteTask, fx.RetryTask, fx.BlockTask)
    assert [(type(end), end.task_id) for end in ends] == [
        (kind, task.id) for kind, task in zip((fx.CompleteTask, fx.RetryTask, fx.BlockTask), held, strict=True)
    ]
    assert only(step, fx.Celebrate).task_id == held[0].id
    assert not of_kind(step, fx.StartTask)
    assert step.state.current_state == S.SAFETY_PAUSE


def test_a_nova_that_is_safe_again_goes_on_where_it_was_in_the_same_cycle():
    paused = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(safety=UNSAFE, held=[make_held()]), NOW).state
    step = execute_cycle(paused, make_inputs(held=[make_held()]), NOW + SECOND)
    assert path(step) == ("safety_pause", "task_execution")
    assert step.state.resume_state is None
    assert step.state.safety_status.is_safe


def test_a_pause_with_an_end_is_due_at_its_end_but_looked_at_meanwhile():
    soon = replace(UNSAFE, expires_at=NOW + 7 * SECOND)
    assert execute_cycle(make_state(), make_inputs(safety=soon), NOW).due_at == NOW + 7 * SECOND
    late = replace(UNSAFE, expires_at=NOW + HOUR)
    assert execute_cycle(make_state(), make_inputs(safety=late), NOW).due_at == NOW + 30 * SECOND


def test_a_pause_without_an_end_is_looked_at_every_second_then_every_five():
    step = execute_cycle(make_state(), make_inputs(safety=UNSAFE), NOW)
    assert step.due_at == NOW + SECOND
    step = execute_cycle(step.state, make_inputs(safety=UNSAFE), NOW + MINUTE)
    assert step.due_at == NOW + MINUTE + 5 * SECOND


def test_mild_verdicts_that_differ_only_in_what_was_measured_write_nothing():
    state = make_state()
    measured = replace(state.safety_status, measured=3.0, reason="3 requests of 30.")
    step = execute_cycle(state, make_inputs(safety=measured), NOW)
    assert step.effects == []
    assert step.state.safety_status == state.safety_status


# -- errors --------------------------------------------------------------------------------------------------------------------


def test_an_error_is_waited_out_and_then_forgiven():
    failed = recover(make_state(S.TASK_EXECUTION), "the database went away", NOW)
    assert failed.state.resume_state == S.TASK_EXECUTION
    assert failed.state.last_error == "the database went away"
    assert only(failed, fx.ReportStatus).path == ("task_execution", "error_recovery")
    assert SECOND <= failed.due_at - NOW <= 1.25 * SECOND
    step = execute_cycle(failed.state, make_inputs(held=[make_held()]), failed.due_at)
    assert path(step) == ("error_recovery", "stream_check", "work_discovery", "task_execution")
    assert step.state.consecutive_errors == 0
    assert step.state.resume_state is None


def test_a_nova_woken_during_its_backoff_waits_on():
    failed = recover(make_state(), "it broke", NOW)
    step = execute_cycle(failed.state, make_inputs(dealt=[make_task()]), NOW + timedelta(milliseconds=10))
    assert step.effects == []
    assert step.due_at == failed.due_at


def test_error_backoff_doubles_up_to_five_minutes():
    waits = [error_backoff("torch", errors) for errors in range(1, 40)]
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(minutes=5)
    assert error_backoff("torch", 3) != error_backoff("echo", 3)


def test_an_error_in_a_pause_keeps_in_mind_what_the_pause_interrupted():
    paused = execute_cycle(make_state(S.TASK_EXECUTION), make_inputs(safety=UNSAFE), NOW).state
    assert recover(paused, "it broke", NOW).state.resume_state == S.TASK_EXECUTION


# -- draining ------------------------------------------------------------------------------------------------------------------


def test_a_draining_nova_finishes_what_it_holds_and_takes_on_nothing():
    config = make_config(draining=True)
    inputs = make_inputs(config, held=[make_held()], dealt=[make_task()], signals=[make_signal()])
    step = execute_cycle(make_state(S.TASK_EXECUTION, last_stream_check=None), inputs, NOW)
    assert step.effects == []
    inputs = make_inputs(config, held=[make_held(status="succeeded")], dealt=[make_task()], signals=[make_signal()])
    step = execute_cycle(step.state, inputs, NOW + SECOND)
    assert [type(effect) for effect in step.effects] == [
        fx.CompleteTask,
        fx.Celebrate,
        fx.RecordInsight,
        fx.FinishDrain,
        fx.ReportStatus,
    ]


@pytest.mark.parametrize("state", [S.INITIALIZING, S.STREAM_CHECK, S.TASK_EXECUTION, S.COMPLETION_ROUTINE])
def test_a_draining_nova_that_holds_nothing_has_finished(state):
    step = execute_cycle(make_state(state), make_inputs(make_config(draining=True), dealt=[make_task()]), NOW)
    assert of_kind(step, fx.FinishDrain)
    assert not of_kind(step, fx.StartTask)


def test_a_drain_is_finished_even_while_unsafe():
    step = execute_cycle(make_state(), make_inputs(make_config(draining=True), safety=UNSAFE), NOW)
    assert of_kind(step, fx.FinishDrain)


# -- reflecting ----------------------------------------------------------------------------------------------------------------


def test_a_reflecting_cycle_reviews_new_insights_once():
    config = make_config(reflection_frequency=1.0)
    step = execute_cycle(make_state(), make_inputs(config, recent_insights=["Estimates were short.", "Estimates again."]), NOW)
    review = only(step, fx.ReviewInsights)
    assert review.insight_count == 2
    assert "estimates in 2" in review.summary
    again = execute_cycle(step.state, make_inputs(config, recent_insights=["Estimates were short."]), NOW + MINUTE)
    assert again.effects == []
    newer = execute_cycle(again.state, make_inputs(config, recent_insights=["Something new."]), NOW + 2 * MINUTE)
    assert of_kind(newer, fx.ReviewInsights)


def test_a_cycle_that_completes_something_does_not_review():
    config = make_config(reflection_frequency=1.0)
    inputs = make_inputs(config, held=[make_held(status="succeeded")], recent_insights=["Estimates were short."])
    assert not of_kind(execute_cycle(make_state(S.TASK_EXECUTION), inputs, NOW), fx.ReviewInsights)


@pytest.mark.parametrize("frequency", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_the_share_of_reflecting_cycles_is_the_configured_one(frequency):
    share = sum(is_reflecting_cycle("torch", cycle, frequency) for cycle in range(10_000)) / 10_000
    assert abs(share - frequency) < 0.02


def test_only_a_nova_that_may_use_insights_wants_them():
    assert wants_insights(make_state(), make_config(reflection_frequency=1.0))
    assert not wants_insights(make_state(), make_config())
    personal = make_config(personal_phase_after=1, tasks_per_phase=5)
    assert wants_insights(make_state(tasks_completed_in_phase=4), personal)
    assert not wants_insights(make_state(tasks_completed_in_phase=2), personal)


def test_a_state_without_a_stage_deadline_does_not_stick():
    state = make_state(S.COMPLETION_ROUTINE, completion_stage=CompletionStage.REFLECTION)
    assert execute_cycle(state, make_inputs(), NOW).state.completion_stage == CompletionStage.NONE
