"""The table of moves: its laws, every row of it, and tables that were broken on purpose."""

from copy import copy

import pytest

from tests.workflow.core.facts import NOW, SAFE, SECOND, UNSAFE, make_inputs, make_state
from tests.workflow.core.laws import table_faults
from workflow.core import cycle as cycle_module
from workflow.core.machine import execute_cycle, recover
from workflow.core.state import TRANSITIONS, IllegalTransition, Table, WorkflowState, state_diagram, transition

S = WorkflowState
EVERY_PAIR = [(source, target) for source in S for target in S]


def without(source: S, target: S) -> Table:
    return {**TRANSITIONS, source: TRANSITIONS[source] - {target}}


def test_the_table_obeys_all_its_laws():
    assert table_faults(TRANSITIONS) == []


@pytest.mark.parametrize(
    "broken",
    [
        {state: row for state, row in TRANSITIONS.items() if state != S.PHASE_TRANSITION},
        without(S.INITIALIZING, S.STREAM_CHECK),
        {**TRANSITIONS, S.ERROR_RECOVERY: frozenset()},
        {**TRANSITIONS, S.ERROR_RECOVERY: frozenset({S.ERROR_RECOVERY})},
        {**TRANSITIONS, S.STREAM_CHECK: TRANSITIONS[S.STREAM_CHECK] | {S.TASK_EXECUTION}},
        *(without(state, S.SAFETY_PAUSE) for state in S if state != S.SAFETY_PAUSE),
        *(without(state, S.ERROR_RECOVERY) for state in S if state != S.ERROR_RECOVERY),
        *(without(S.SAFETY_PAUSE, state) for state in S if state != S.SAFETY_PAUSE),
    ],
)
def test_a_broken_table_is_found_out(broken):
    assert table_faults(broken)


@pytest.mark.parametrize(("source", "target"), EVERY_PAIR)
def test_a_move_is_made_if_and_only_if_the_table_knows_it(source, target):
    state = make_state(source)
    before = copy(state)
    if target in TRANSITIONS[source]:
        transition(state, target, NOW)
        assert state.current_state == target
        assert state.state_entered_at == NOW
    else:
        with pytest.raises(IllegalTransition, match=f"from {source} to {target}"):
            transition(state, target, NOW)
        assert state == before


@pytest.mark.parametrize("source", list(S))
def test_an_unsafe_nova_pauses_from_every_state_before_any_handler_runs(source):
    state = make_state(source, resume_state=S.TASK_EXECUTION if source == S.SAFETY_PAUSE else None)
    step = execute_cycle(state, make_inputs(safety=UNSAFE), NOW)
    assert step.state.current_state == S.SAFETY_PAUSE
    assert step.state.resume_state == (S.TASK_EXECUTION if source == S.SAFETY_PAUSE else source)


@pytest.mark.parametrize("interrupted", [state for state in S if state != S.SAFETY_PAUSE])
def test_a_nova_that_is_safe_again_returns_to_exactly_the_state_that_was_interrupted(interrupted, monkeypatch):
    moves = []
    monkeypatch.setattr(
        cycle_module, "transition", lambda state, target, *rest: (moves.append(target), transition(state, target, *rest))
    )
    paused = execute_cycle(make_state(interrupted), make_inputs(safety=UNSAFE), NOW).state
    execute_cycle(paused, make_inputs(safety=SAFE), NOW + SECOND)
    assert moves[:2] == [S.SAFETY_PAUSE, interrupted]


@pytest.mark.parametrize("source", list(S))
def test_an_error_leads_to_recovery_from_every_state(source):
    state = make_state(source)
    before = copy(state)
    step = recover(state, "it broke", NOW)
    assert step.state.current_state == S.ERROR_RECOVERY
    assert state == before


def test_the_diagram_shows_every_move_of_the_table():
    drawn = state_diagram()
    assert drawn.startswith("stateDiagram-v2\n    [*] --> initializing\n")
    for source in S:
        for target in S:
            if source == S.SAFETY_PAUSE or target in (S.SAFETY_PAUSE, S.ERROR_RECOVERY):
                continue
            assert (f"    {source} --> {target}\n" in drawn) == (target in TRANSITIONS[source])
    assert "An error leads here from every other state." in drawn
    assert "Unsafe leads here from every other state;" in drawn


def test_the_diagram_tells_when_a_pause_can_not_be_reached_from_everywhere():
    drawn = state_diagram(without(S.STREAM_CHECK, S.SAFETY_PAUSE))
    assert "Unsafe leads here from every other state;" not in drawn
    assert "initializing, work_discovery" in drawn
