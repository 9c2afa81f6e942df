"""The phases: work 1 and work 2 in turn, and the personal phase with its private reflection."""

from dataclasses import replace
from datetime import timedelta

from tests.workflow.core.facts import (
    MINUTE,
    NOW,
    SECOND,
    make_config,
    make_held,
    make_inputs,
    make_signal,
    make_state,
    make_task,
    of_kind,
    only,
)
from workflow.core import effects as fx
from workflow.core.machine import execute_cycle, recover
from workflow.core.state import WorkflowPhase, WorkflowState
from workflow.core.work import Priority

S, P = WorkflowState, WorkflowPhase
PERSONAL = make_config(tasks_per_phase=2, personal_phase_after=1)
INSIGHTS = ("Reports need estimates.", "Shorter reports help.", "Streams were silent.")


def complete(state, config, *, at=NOW, title="Mend the fence", **inputs):
    """Step a Nova in a work phase whose task has just succeeded."""
    working = replace(state, current_state=S.TASK_EXECUTION)
    return execute_cycle(working, make_inputs(config, held=[make_held(title, status="succeeded")], **inputs), at)


def enter_personal_phase(**inputs):
    state = complete(make_state(), PERSONAL, title="Count the streams", dealt=[make_task()]).state
    return complete(state, PERSONAL, at=NOW + MINUTE, dealt=[make_task()], recent_insights=INSIGHTS, **inputs)


def test_work_phases_alternate_after_their_number_of_tasks():
    config, state, phases = make_config(tasks_per_phase=2), make_state(), []
    for number in range(8):
        step = complete(state, config, at=NOW + number * MINUTE, dealt=[make_task()])
        state = step.state
        phases.append(state.current_phase)
    one, two = P.WORK_PHASE_1, P.WORK_PHASE_2
    assert phases == [one, two, two, one, one, two, two, one]
    assert state.work_phases_completed == 4
    assert state.tasks_completed_in_phase == 0


def test_a_full_phase_goes_through_phase_transition_and_says_so():
    step = complete(make_state(tasks_completed_in_phase=4), make_config(), dealt=[make_task()])
    report = only(step, fx.ReportStatus)
    assert "phase_transition" in report.path
    assert report.path[-1] == "task_execution"
    assert "work phase 2" in report.message
    assert step.state.phase_started_at == NOW


def test_without_other_work_the_phase_changes_when_the_routine_is_over():
    step = complete(make_state(tasks_completed_in_phase=4), make_config())
    assert step.state.current_state == S.COMPLETION_ROUTINE
    assert step.state.current_phase == P.WORK_PHASE_1
    later = execute_cycle(step.state, make_inputs(), NOW + 3 * MINUTE)
    assert later.state.current_phase == P.WORK_PHASE_2


def test_a_personal_phase_never_comes_unless_it_is_configured():
    state = make_state()
    for number in range(30):
        step = complete(state, make_config(tasks_per_phase=1), at=NOW + number * MINUTE, dealt=[make_task()])
        state = step.state
        assert state.current_phase != P.PERSONAL_PHASE
        assert not of_kind(step, fx.ReflectPrivately)


def test_a_personal_phase_begins_with_one_private_reflection_made_of_the_nova_s_own_facts():
    step = enter_personal_phase()
    text = only(step, fx.ReflectPrivately).text
    assert "2 tasks" in text
    assert "Count the streams; Mend the fence" in text
    assert "Nothing went wrong." in text
    assert "reports (2 times)" in text
    assert "first work phase" in text
    assert step.state.current_phase == P.PERSONAL_PHASE
    assert step.state.personal_reflections == 1
    told = [effect for effect in step.effects if not isinstance(effect, fx.ReflectPrivately)]
    assert text not in repr(told)


def test_the_reflection_tells_what_went_wrong_in_the_phase():
    state = recover(make_state(), "the database went away", NOW).state
    state = complete(state, PERSONAL, dealt=[make_task()]).state
    step = complete(state, PERSONAL, at=NOW + MINUTE)
    while not of_kind(step, fx.ReflectPrivately):
        step = execute_cycle(step.state, make_inputs(PERSONAL), step.due_at)
    text = only(step, fx.ReflectPrivately).text
    assert "Something went wrong 1 time." in text
    assert "the database went away" in text


def test_the_reflection_speaks_in_the_nova_s_voice():
    texts = set()
    for pattern in ("direct_collaborative", "analytical_thoughtful", "empathetic_adaptive"):
        config = replace(PERSONAL, communication_pattern=pattern, tasks_per_phase=1)
        texts.add(only(complete(make_state(), config, dealt=[make_task()]), fx.ReflectPrivately).text)
    assert len(texts) == 3


def test_a_nova_in_its_personal_phase_takes_no_ordinary_work_and_makes_none():
    step = enter_personal_phase()
    assert not of_kind(step, fx.StartTask)
    again = execute_cycle(step.state, make_inputs(PERSONAL, dealt=[make_task()], available=0), NOW + 2 * MINUTE)
    assert again.effects == []
    assert again.state.current_state == S.STREAM_CHECK


def test_a_personal_phase_yields_at_once_to_urgent_work():
    for priority in (Priority.HIGH, Priority.CRITICAL):
        step = execute_cycle(
            enter_personal_phase().state, make_inputs(PERSONAL, dealt=[make_task(priority=priority)]), NOW + 2 * MINUTE
        )
        assert step.state.current_phase == P.WORK_PHASE_2
        assert of_kind(step, fx.StartTask)
        assert not of_kind(step, fx.ReflectPrivately)


def test_a_personal_phase_still_handles_signals():
    step = execute_cycle(
        enter_personal_phase().state, make_inputs(PERSONAL, signals=[make_signal(message="please help")]), NOW + MINUTE
    )
    assert of_kind(step, fx.CreateTask)


def test_a_personal_phase_ends_when_its_time_is_over_with_the_work_phase_that_is_due():
    config = replace(PERSONAL, base_cycle_time=timedelta(minutes=3), personal_phase_length=5 * MINUTE)
    state = complete(make_state(), config, dealt=[make_task()]).state
    step = complete(state, config, at=NOW + MINUTE, dealt=[make_task()])
    assert step.state.current_phase == P.PERSONAL_PHASE
    began = step.state.phase_started_at
    while step.state.current_phase == P.PERSONAL_PHASE:
        assert step.due_at <= began + 5 * MINUTE
        step = execute_cycle(step.state, make_inputs(config, dealt=[make_task()]), step.due_at)
    assert step.state.phase_started_at == began + 5 * MINUTE
    assert step.state.current_phase == P.WORK_PHASE_2
    assert of_kind(step, fx.StartTask)
    assert step.state.context == {}


def test_the_personal_phase_comes_after_the_configured_number_of_work_phases():
    config, state, phases = make_config(tasks_per_phase=1, personal_phase_after=3), make_state(), []
    urgent = make_task(priority=Priority.HIGH)
    for number in range(7):
        step = complete(state, config, at=NOW + number * MINUTE, dealt=[urgent])
        state = step.state
        phases.append(bool(of_kind(step, fx.ReflectPrivately)))
    assert phases == [False, False, True, False, False, True, False]


def test_switching_personal_phases_off_ends_one():
    step = execute_cycle(enter_personal_phase().state, make_inputs(make_config()), NOW + MINUTE + SECOND)
    assert step.state.current_phase == P.WORK_PHASE_2
