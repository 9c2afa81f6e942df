"""The completion routine: levels, impact and insights from the facts, stages as deadlines, and who may cut it short."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflow.core.facts import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    make_config,
    make_execution,
    make_held,
    make_inputs,
    make_signal,
    make_state,
    make_task,
    of_kind,
    only,
)
from workflow.core import effects as fx
from workflow.core.completion import LEVELS, CompletionFacts, CompletionRoutineManager, completion_facts, span
from workflow.core.machine import execute_cycle
from workflow.core.personality import celebration_stages
from workflow.core.state import CompletionStage, WorkflowState
from workflow.core.work import MomentumBudget, Priority, SimilarTasks, WorkType, similarity_key

S = WorkflowState
ROUTINE = CompletionRoutineManager()
STYLES = ("sustained_energy", "burst_energy", "measured_energy", "constant_energy", "adaptive_energy")


def make_facts(**fields):
    values = {
        "title": "Write the report",
        "kind": "builtin brief",
        "priority": Priority.MEDIUM,
        "work_type": WorkType.REQUESTED,
        "duration": 60 * SECOND,
        "waited": 30 * SECOND,
        "estimate": timedelta(0),
        "attempts": 1,
        "blocked": timedelta(0),
        "dependants": 0,
        "similar": SimilarTasks(9, 60 * SECOND),
    }
    return CompletionFacts(**(values | fields))


PLAIN = make_facts()

# -- level and impact ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (PLAIN, "quiet"),
        (make_facts(work_type=WorkType.MOMENTUM), "quiet"),
        (make_facts(priority=Priority.HIGH), "steady"),
        (make_facts(dependants=1), "steady"),
        (make_facts(attempts=2), "steady"),
        (make_facts(blocked=HOUR), "steady"),
        (make_facts(similar=SimilarTasks()), "steady"),
        (make_facts(estimate=2 * MINUTE), "steady"),
        (make_facts(estimate=MINUTE), "quiet"),
        (make_facts(priority=Priority.CRITICAL), "strong"),
        (make_facts(dependants=5, attempts=2), "strong"),
        (make_facts(priority=Priority.CRITICAL, dependants=3), "outstanding"),
        (make_facts(priority=Priority.CRITICAL, dependants=3, work_type=WorkType.MOMENTUM), "strong"),
    ],
)
def test_the_celebration_level_follows_from_the_facts(facts, level):
    assert ROUTINE.celebration_level(facts) == level


@pytest.mark.parametrize(
    ("facts", "impact"),
    [
        (PLAIN, "One more piece of requested work is done, in 1 min."),
        (make_facts(work_type=WorkType.MOMENTUM), "One more piece of its own initiative is done, in 1 min."),
        (make_facts(dependants=1), "1 task no longer waits for it."),
        (make_facts(dependants=2), "2 tasks no longer wait for it."),
        (make_facts(priority=Priority.HIGH), "Work of high priority was done 1 min 30 s after it came."),
        (
            make_facts(dependants=2, estimate=5 * MINUTE),
            "2 tasks no longer wait for it; 4 min of the estimate were not needed.",
        ),
    ],
)
def test_the_achievement_impact_says_what_changed(facts, impact):
    assert ROUTINE.achievement_impact(facts) == impact


# -- insights ------------------------------------------------------------------------------------------------------------------


def test_insights_have_the_spec_s_four_keys_and_are_sentences():
    insights = ROUTINE.insights(PLAIN)
    assert list(insights) == ["lessons_learned", "process_improvements", "skill_development", "future_applications"]
    assert all(text.endswith(".") for text in insights.values())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "'Write the report' took 1 min; nobody had estimated it."),
        ({"estimate": 2 * MINUTE}, "'Write the report' took 1 min, 50 % less than the 2 min estimated."),
        ({"estimate": 65 * SECOND}, "'Write the report' took 1 min, about as estimated (1 min 5 s)."),
        ({"estimate": 20 * SECOND}, "'Write the report' took 1 min, 3.0 times the 20 s estimated."),
        ({"attempts": 3}, "'Write the report' took 1 min; nobody had estimated it. It needed 3 attempts."),
    ],
)
def test_the_lesson_compares_duration_and_estimate(fields, text):
    assert ROUTINE.insights(make_facts(**fields))["lessons_learned"] == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "Nothing held it up: it waited 30 s and succeeded at the first attempt."),
        ({"attempts": 2}, "Find out why 1 attempt failed before this one."),
        ({"attempts": 3, "blocked": HOUR}, "Find out why 2 attempts failed before this one. It was also blocked for 1 h."),
        ({"blocked": HOUR}, "It was blocked for 1 h: ask for what such work needs before it starts."),
        ({"waited": HOUR}, "It waited 1 h for 1 min of work: the wait is what to shorten, not the work."),
        ({"estimate": 20 * SECOND}, "The estimate was 40 s too short: split such work, or estimate it higher."),
    ],
)
def test_the_improvement_names_what_cost_time(fields, text):
    assert ROUTINE.insights(make_facts(**fields))["process_improvements"] == text


@pytest.mark.parametrize(
    ("similar", "text"),
    [
        (SimilarTasks(), "This was the first success of its kind (builtin brief); 1 min is the first measure of it."),
        (SimilarTasks(4), "This was success number 5 of its kind (builtin brief); it took 1 min."),
        (SimilarTasks(4, MINUTE), "This was success number 5 of its kind (builtin brief), at about the mean of 1 min."),
        (
            SimilarTasks(4, 4 * MINUTE),
            "This was success number 5 of its kind (builtin brief), 75 % faster than the mean of 4 min.",
        ),
        (
            SimilarTasks(4, 20 * SECOND),
            "This was success number 5 of its kind (builtin brief), 3.0 times as long as the mean of 20 s.",
        ),
    ],
)
def test_the_skill_compares_with_similar_tasks(similar, text):
    assert ROUTINE.insights(make_facts(similar=similar))["skill_development"] == text


def test_the_application_estimates_the_next_one_from_all_so_far():
    text = ROUTINE.insights(make_facts(similar=SimilarTasks(3, 100 * SECOND), dependants=2))["future_applications"]
    assert text == (
        "Estimate the next work of its kind (builtin brief) at 1 min 30 s, from 4 successes. "
        "Its results are there for the 2 tasks that needed them."
    )


durations = st.integers(0, 10**7).map(lambda milliseconds: timedelta(milliseconds=milliseconds))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.builds(
        make_facts,
        duration=durations,
        waited=durations,
        estimate=durations,
        attempts=st.integers(1, 9),
        blocked=durations,
        dependants=st.integers(0, 9),
        similar=st.builds(SimilarTasks, st.integers(0, 99), durations),
        priority=st.sampled_from(Priority),
        work_type=st.sampled_from(WorkType),
    )
)
def test_any_facts_give_a_level_an_impact_and_four_sentences_that_name_what_was_measured(facts):
    assert ROUTINE.celebration_level(facts) in LEVELS
    assert ROUTINE.achievement_impact(facts).endswith(".")
    insights = ROUTINE.insights(facts)
    assert span(facts.duration) in insights["lessons_learned"]
    assert (f"{facts.attempts} attempts" in insights["lessons_learned"]) == (facts.attempts > 1)
    assert ("blocked" in insights["process_improvements"]) == bool(facts.blocked)
    assert ("first success" in insights["skill_development"]) == (facts.similar.count == 0)
    assert (f"{facts.dependants} task" in insights["future_applications"]) == bool(facts.dependants)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.25, "250 ms"),
        (0.9996, "1.0 s"),
        (2.5, "2.5 s"),
        (42, "42 s"),
        (59.97, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (3599.6, "1 h"),
        (86400, "1 d"),
        (273600, "3 d 4 h"),
    ],
)
def test_a_duration_is_written_for_people(seconds, text):
    assert span(timedelta(seconds=seconds)) == text


def test_facts_leave_out_the_time_a_task_was_blocked():
    task = make_held(
        status="succeeded", created_at=NOW - 3 * HOUR, started_at=NOW - 2 * HOUR, blocked_time=HOUR, action="brief"
    )
    facts = completion_facts(task, None, NOW)
    assert (facts.duration, facts.waited, facts.blocked) == (HOUR, HOUR, HOUR)
    assert facts.kind == "brief"
    assert completion_facts(replace(task, action=""), None, NOW).kind == "requested work"


# -- in the cycle --------------------------------------------------------------------------------------------------------------


def complete(config=None, *, held=None, **inputs):
    """Step a Nova whose task has just succeeded."""
    return execute_cycle(
        make_state(S.TASK_EXECUTION), make_inputs(config, held=held or [make_held(status="succeeded")], **inputs), NOW
    )


def test_celebration_and_insight_are_written_in_the_completing_cycle():
    held = make_held("Mend the fence", status="succeeded")
    step = complete(held=[held])
    assert [type(effect) for effect in step.effects] == [fx.CompleteTask, fx.Celebrate, fx.RecordInsight, fx.ReportStatus]
    celebration = only(step, fx.Celebrate)
    assert (celebration.task_id, celebration.task_title) == (held.id, "Mend the fence")
    assert celebration.achievement_impact in celebration.message
    assert step.state.last_completion_celebration == NOW


def test_similar_tasks_of_the_same_kind_are_what_is_compared_with():
    held = make_held(status="succeeded", executor="builtin", action="brief")
    similar = {similarity_key("requested", "builtin", "brief"): SimilarTasks(41, HOUR)}
    step = complete(held=[held], similar=similar)
    assert "success number 42" in only(step, fx.RecordInsight).insights["skill_development"]


def test_a_personal_task_is_completed_without_celebration_and_its_title_is_said_nowhere():
    step = complete(held=[make_held("My own secret", status="succeeded", personal=True)])
    assert [type(effect) for effect in step.effects] == [fx.CompleteTask, fx.ReportStatus]
    assert "secret" not in repr(step.effects)
    assert step.state.tasks_completed_in_phase == 0


def test_with_a_backlog_one_step_completes_celebrates_learns_and_starts_the_next():
    waiting = make_task()
    step = complete(dealt=[waiting])
    assert [type(effect) for effect in step.effects] == [
        fx.CompleteTask,
        fx.Celebrate,
        fx.RecordInsight,
        fx.StartTask,
        fx.ReportStatus,
    ]
    assert only(step, fx.ReportStatus).path == (
        "task_execution",
        "progress_update",
        "completion_routine",
        "work_discovery",
        "task_execution",
    )
    assert step.state.completion_stage == CompletionStage.NONE


def test_while_another_task_is_held_the_nova_goes_back_to_waiting_for_it():
    config = make_config(max_concurrent_tasks=2)
    step = complete(config, held=[make_held(status="succeeded"), make_held()])
    assert step.state.current_state == S.TASK_EXECUTION
    assert step.state.completion_stage == CompletionStage.NONE


@pytest.mark.parametrize("style", STYLES)
def test_without_other_work_the_routine_goes_through_its_stages_by_deadlines(style):
    config = make_config(celebration_style=style, base_cycle_time=HOUR)
    step = complete(config, dealt=[make_task(work_type=WorkType.MOMENTUM)])
    level = only(step, fx.Celebrate).celebration_level
    instant, stages, ends = NOW, [], []
    while step.state.current_state == S.COMPLETION_ROUTINE:
        stages.append(step.state.completion_stage)
        ends.append((step.due_at - instant).total_seconds())
        instant = step.due_at
        step = execute_cycle(step.state, make_inputs(config, dealt=[make_task(work_type=WorkType.MOMENTUM)]), instant)
    assert stages == [CompletionStage.CELEBRATION, CompletionStage.REFLECTION, CompletionStage.TRANSITION_PLANNING]
    assert tuple(ends) == celebration_stages(style, level)
    assert instant - NOW <= 3 * MINUTE
    assert step.state.completion_stage == CompletionStage.NONE
    assert step.state.completion_until is None
    assert of_kind(step, fx.StartTask)
    assert not of_kind(step, fx.Celebrate)


def test_styles_have_different_lengths_and_none_is_longer_than_three_minutes():
    lengths = {style: celebration_stages(style, "steady") for style in STYLES}
    assert len(set(lengths.values())) == len(STYLES)
    for style in (*STYLES, "unknown"):
        for level in LEVELS:
            assert 0 < sum(celebration_stages(style, level)) <= 180
    assert celebration_stages("adaptive_energy", "quiet") < celebration_stages("adaptive_energy", "outstanding")


def test_the_routine_yields_at_once_to_work_that_was_asked_for():
    celebrating = complete().state
    assert celebrating.completion_stage == CompletionStage.CELEBRATION
    step = execute_cycle(celebrating, make_inputs(dealt=[make_task()]), NOW + SECOND)
    assert only(step, fx.ReportStatus).path == ("completion_routine", "work_discovery", "task_execution")
    assert step.state.completion_stage == CompletionStage.NONE


def test_the_routine_does_not_yield_to_momentum_work():
    step = execute_cycle(complete().state, make_inputs(dealt=[make_task(work_type=WorkType.MOMENTUM)]), NOW + SECOND)
    assert step.effects == []
    assert step.state.completion_stage == CompletionStage.CELEBRATION


def test_the_routine_handles_a_signal_and_goes_on():
    celebrating = complete().state
    step = execute_cycle(celebrating, make_inputs(signals=[make_signal(message="fyi, all is well")]), NOW + SECOND)
    assert only(step, fx.HandleSignal).outcome == "noted"
    assert step.state.current_state == S.COMPLETION_ROUTINE
    assert step.state.completion_stage_until == celebrating.completion_stage_until


def test_a_signal_that_is_work_ends_the_routine_in_the_following_cycle():
    step = execute_cycle(complete().state, make_inputs(signals=[make_signal(message="please help")]), NOW + SECOND)
    assert step.due_at == NOW + SECOND
    step = execute_cycle(step.state, make_inputs(assigned=[make_task(assignee="torch")]), step.due_at)
    assert of_kind(step, fx.StartTask)


def test_transition_planning_sees_to_it_that_there_is_work_when_the_routine_ends():
    config = make_config(celebration_style="burst_energy")
    inputs = make_inputs(config, available=0, momentum=MomentumBudget(("analyze_streams",)))
    step = execute_cycle(make_state(S.TASK_EXECUTION), replace(inputs, held=[make_held(status="succeeded")]), NOW)
    assert not of_kind(step, fx.CreateTask)
    while step.state.completion_stage != CompletionStage.TRANSITION_PLANNING:
        step = execute_cycle(step.state, inputs, step.due_at)
    assert only(step, fx.CreateTask).momentum_template == "analyze_streams"
    assert step.state.current_state == S.COMPLETION_ROUTINE
    assert step.due_at == step.state.completion_stage_until


def test_a_routine_that_was_slept_through_is_simply_over():
    step = execute_cycle(complete().state, make_inputs(), NOW + HOUR)
    assert step.state.completion_stage == CompletionStage.NONE
    assert step.state.context == {}


def test_two_tasks_completed_in_one_cycle_are_both_celebrated():
    held = [make_held(status="succeeded"), make_held(status="succeeded", execution=make_execution("succeeded", id=-1))]
    step = complete(make_config(max_concurrent_tasks=2), held=held)
    assert [effect.task_id for effect in of_kind(step, fx.Celebrate)] == [task.id for task in held]
    assert step.state.tasks_completed_in_phase == 2
