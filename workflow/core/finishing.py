"""The end of a cycle: it is counted, looks back if it is a reflecting one, reports, and settles when to look again."""

from datetime import datetime

from workflow.core.cycle import Cycle, NovaConfig, Step
from workflow.core.effects import ReviewInsights
from workflow.core.personality import phrase
from workflow.core.reflection import gist, is_reflecting_cycle, newest_digest
from workflow.core.state import WorkflowState, WorkflowStateData

_ERROR_RECOVERY = WorkflowState.ERROR_RECOVERY
_SAFETY_PAUSE = WorkflowState.SAFETY_PAUSE
_REVIEWED = "reviewed_insight"  # keys in the state's context
_LOOK_AGAIN = "look_again_at"


def finish(cycle: Cycle) -> Step:
    """Count the cycle, look back if it is a reflecting one, report if something happened, and settle when to look again."""
    state, now = cycle.state, cycle.now
    if cycle.inputs.recent_insights:
        _review(cycle)
    state.total_cycles_completed += 1
    state.tasks_in_flight = cycle.busy
    if cycle.recovered:
        state.consecutive_errors = 0
    due_at = now if cycle.due_at is None else cycle.due_at  # None: the moves of one cycle were used up
    if cycle.soon is not None and cycle.free > 0 and state.current_state != _SAFETY_PAUSE:
        due_at = min(due_at, cycle.soon)
    if cycle.look_again or _LOOK_AGAIN in state.context:
        due_at = _look_again(cycle, due_at)
    cycle.report()
    return Step(state, cycle.effects, max(due_at, now))


def _look_again(cycle: Cycle, due_at: datetime) -> datetime:
    """Be due when the next backoff of a task ends, and remember all of them over cycles that come between."""
    state = cycle.state
    known = {datetime.fromisoformat(text) for text in state.context.get(_LOOK_AGAIN, "").split()}
    coming = sorted(instant for instant in known.union(cycle.look_again) if instant > cycle.now)
    kept = {key: value for key, value in state.context.items() if key != _LOOK_AGAIN}
    if not coming:
        state.context = kept
        return due_at
    state.context = {**kept, _LOOK_AGAIN: " ".join(instant.isoformat() for instant in coming)}
    return min(due_at, coming[0]) if state.current_state not in (_SAFETY_PAUSE, _ERROR_RECOVERY) else due_at


def _review(cycle: Cycle) -> None:
    """Note what recent insights add up to, in a reflecting cycle that completed nothing, if something new was learned."""
    state, config, insights = cycle.state, cycle.config, cycle.inputs.recent_insights
    if cycle.completed or cycle.draining or state.current_state in (_SAFETY_PAUSE, _ERROR_RECOVERY):
        return
    if not is_reflecting_cycle(state.nova_id, state.total_cycles_completed, config.reflection_frequency):
        return
    digest = newest_digest(insights)
    if state.context.get(_REVIEWED) != digest:
        state.context = {**state.context, _REVIEWED: digest}
        summary = phrase(config.communication_pattern, "review", count=len(insights), gist=gist(insights))
        cycle.effects.append(ReviewInsights(summary, len(insights)))


def wants_insights(state: WorkflowStateData, config: NovaConfig) -> bool:
    """Say whether a Nova's next cycle may use `recent_insights`: it reflects, or a personal phase may begin."""
    if config.personal_phase_after and state.tasks_completed_in_phase + config.max_concurrent_tasks >= config.tasks_per_phase:
        return True
    return is_reflecting_cycle(state.nova_id, state.total_cycles_completed, config.reflection_frequency)
