"""The phases: two work phases in turn, and a personal phase now and then, where an operator allows it (spec section 1)."""

from workflow.core.cycle import Cycle
from workflow.core.effects import ReflectPrivately
from workflow.core.reflection import forget_phase, private_text
from workflow.core.state import WorkflowPhase
from workflow.core.work import Priority

_NEXT = {
    WorkflowPhase.WORK_PHASE_1: WorkflowPhase.WORK_PHASE_2,
    WorkflowPhase.WORK_PHASE_2: WorkflowPhase.WORK_PHASE_1,
}
_SPOKEN = {
    WorkflowPhase.WORK_PHASE_1: "work phase 1",
    WorkflowPhase.WORK_PHASE_2: "work phase 2",
    WorkflowPhase.PERSONAL_PHASE: "a personal phase",
}
_DUE = "work_phase_due"  # key in the state's context: the work phase that follows the personal one
_URGENT = (Priority.CRITICAL, Priority.HIGH)


def is_personal(cycle: Cycle) -> bool:
    return cycle.state.current_phase == WorkflowPhase.PERSONAL_PHASE


def is_full(cycle: Cycle) -> bool:
    """Say whether this work phase has had its tasks."""
    return not is_personal(cycle) and cycle.state.tasks_completed_in_phase >= cycle.config.tasks_per_phase


def personal_is_over(cycle: Cycle) -> bool:
    """Say whether the personal phase must end: its time is over, it was switched off, or urgent work is ready."""
    if not cycle.config.personal_phase_after or cycle.now >= cycle.state.phase_started_at + cycle.config.personal_phase_length:
        return True
    return any(task.priority in _URGENT for task in cycle.ready_tasks())


def change_phase(cycle: Cycle) -> None:
    """Go to the phase that is due; entering a personal one, reflect, once."""
    state, config = cycle.state, cycle.config
    if is_personal(cycle):
        following = WorkflowPhase(state.context.get(_DUE, WorkflowPhase.WORK_PHASE_1))
        state.context = {key: value for key, value in state.context.items() if key != _DUE}
    elif is_full(cycle):
        following = _NEXT[state.current_phase]
        state.work_phases_completed += 1
        if config.personal_phase_after and state.work_phases_completed % config.personal_phase_after == 0:
            text = private_text(state, cycle.inputs.recent_insights, config.communication_pattern, cycle.now)
            cycle.effects.append(ReflectPrivately(text))
            state.personal_reflections += 1
            state.context = {**state.context, _DUE: following.value}
            following = WorkflowPhase.PERSONAL_PHASE
        forget_phase(state)
    else:
        return  # resumed here after the configuration changed: this phase has room again
    state.current_phase = following
    state.phase_started_at = cycle.now
    state.tasks_completed_in_phase = 0
    cycle.say("phase", phase=_SPOKEN[following])
