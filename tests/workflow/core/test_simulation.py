"""A day of fifty Novas, in seconds: all states are entered, all laws are evaluated, none is broken. Broken tables are found."""

from collections import Counter
from datetime import timedelta

import pytest

from tests.workflow.core.laws import LAWS
from tests.workflow.core.simulation import Simulation
from workflow.core import cycle as cycle_module
from workflow.core import effects as fx
from workflow.core.state import TRANSITIONS, CompletionStage, WorkflowState, transition

S = WorkflowState
# A step rests in none of these, so nothing interrupts them; test_law tries these moves one by one.
PASSING = {S.WORK_DISCOVERY, S.PROGRESS_UPDATE, S.PHASE_TRANSITION}
EVERY_MOVE = {(source, target) for source in S for target in TRANSITIONS[source]}
INTERRUPTIONS = {(source, target) for source in PASSING for target in (S.SAFETY_PAUSE, S.ERROR_RECOVERY)}
INTERRUPTIONS |= {(S.SAFETY_PAUSE, target) for target in PASSING}
RARE = {(S.INITIALIZING, S.SAFETY_PAUSE), (S.SAFETY_PAUSE, S.INITIALIZING)}  # a pause in a Nova's very first cycle
LEAST = 100


@pytest.fixture
def walked(monkeypatch):
    """Count every move that is made, also those of cycles that report nothing."""
    moves = {}

    def counting(state, target, now, table):
        move = state.current_state, target
        moves[move] = moves.get(move, 0) + 1
        transition(state, target, now, table)

    monkeypatch.setattr(cycle_module, "transition", counting)
    return moves


def test_a_day_of_fifty_novas_breaks_no_law_and_leaves_no_state_out(walked):
    fleet = Simulation(50).run(timedelta(hours=24))
    assert fleet.faults == []
    entered = Counter(fleet.states)
    for (_, target), count in walked.items():
        entered[target] += count
    assert [state for state in S if entered[state] < LEAST] == []
    assert {law: fleet.book.evaluated[law] for law in LAWS if fleet.book.evaluated[law] < LEAST} == {}
    kinds = [kind.__name__ for kind in fx.Effect.__args__]
    assert [kind for kind in kinds if not fleet.effects[kind]] == []
    assert all(fleet.stages[stage] >= LEAST for stage in CompletionStage if stage != CompletionStage.BRIDGE)
    lost = [name for name, status in fleet.tasks.items() if status not in ("pending", "in_progress", "completed", "blocked")]
    assert lost == []
    assert sum(status == "completed" for status in fleet.tasks.values()) > 2000
    assert set(walked) <= EVERY_MOVE
    errors = {(source, S.ERROR_RECOVERY) for source in S}  # the shell's part, by recover()
    assert EVERY_MOVE - INTERRUPTIONS - errors - set(walked) <= RARE


ORDINARY = sorted(
    (source, target)
    for source, target in EVERY_MOVE - INTERRUPTIONS
    if target != S.ERROR_RECOVERY and S.SAFETY_PAUSE not in (source, target)
)


@pytest.mark.parametrize(("source", "target"), ORDINARY)
def test_a_fleet_fails_under_a_table_that_lacks_a_move(source, target):
    broken = {**TRANSITIONS, source: TRANSITIONS[source] - {target}}
    fleet = Simulation(10, table=broken).run(timedelta(hours=24))
    assert fleet.faults[0] == f"illegal: {fleet.faults[0].split()[1]} can't go from {source} to {target}."


@pytest.mark.parametrize("source", [S.STREAM_CHECK, S.TASK_EXECUTION, S.COMPLETION_ROUTINE])
def test_a_fleet_fails_under_a_table_that_can_not_pause(source):
    broken = {**TRANSITIONS, source: TRANSITIONS[source] - {S.SAFETY_PAUSE}}
    fleet = Simulation(10, table=broken).run(timedelta(hours=24))
    assert f"can't go from {source} to {S.SAFETY_PAUSE}" in fleet.faults[0]


def test_two_simulations_with_one_seed_are_the_same():
    first, second = (Simulation(5, seed=7).run(timedelta(hours=1)) for _ in range(2))
    assert first.effects == second.effects
    assert first.tasks == second.tasks
