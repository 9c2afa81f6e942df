"""One cycle of a Nova, decided purely: `execute_cycle(state, inputs, now)` (spec section 1).

One handler for each state. A handler does its state's work and names the next state, or sets `due_at` and rests. A cycle runs
through as many states as need no waiting. No clock, no database, no stream; whatever is wanted leaves as an effect.
"""

from collections.abc import Callable, Mapping
from copy import copy
from datetime import datetime, timedelta
from zlib import crc32

from safety.core.status import SafetyStatus
from workflow.core.completion import advance_routine, begin_routine, end_routine
from workflow.core.cycle import Cycle, on_grid, spoken_title
from workflow.core.cycle import CycleInputs as CycleInputs
from workflow.core.cycle import NovaConfig as NovaConfig
from workflow.core.cycle import Step as Step
from workflow.core.discovery import DiscoveredWork, WorkQueueProcessor
from workflow.core.effects import (
    AdvanceObjective,
    BlockTask,
    CreateTask,
    FinishDrain,
    HandleSignal,
    ReportStatus,
    ReportViolation,
    StartTask,
)
from workflow.core.finishing import finish
from workflow.core.finishing import wants_insights as wants_insights
from workflow.core.phases import change_phase, is_full, is_personal, personal_is_over
from workflow.core.reflection import remember_failure
from workflow.core.state import RESUMED_AT, TRANSITIONS, CompletionStage, Table, WorkflowState, WorkflowStateData, transition
from workflow.core.tending import OPERATOR, count_completed, has_news, highest_level, tend
from workflow.core.wake_signals import WakeSignalProcessor
from workflow.core.work import AGENT, TaskFacts
from workflow.core.work import MomentumBudget as MomentumBudget

MOVES_LIMIT = 16  # states one cycle may pass; more is due again at once
ERROR_BACKOFF = timedelta(seconds=1)
ERROR_BACKOFF_LIMIT = timedelta(minutes=5)
LAST_ERROR_LIMIT = 2000
PAUSE_LOOK = timedelta(seconds=1)  # how soon a pause without an end is looked at again, at first
PAUSE_LOOK_LIMIT = timedelta(seconds=5)
PAUSE_END_LIMIT = timedelta(seconds=30)  # a pause with an end is looked at this often, in case its end comes nearer

_STREAM_CHECK = WorkflowState.STREAM_CHECK
_WORK_DISCOVERY = WorkflowState.WORK_DISCOVERY
_TASK_EXECUTION = WorkflowState.TASK_EXECUTION
_PROGRESS_UPDATE = WorkflowState.PROGRESS_UPDATE
_COMPLETION_ROUTINE = WorkflowState.COMPLETION_ROUTINE
_PHASE_TRANSITION = WorkflowState.PHASE_TRANSITION
_ERROR_RECOVERY = WorkflowState.ERROR_RECOVERY
_SAFETY_PAUSE = WorkflowState.SAFETY_PAUSE
_NO_STAGE = CompletionStage.NONE
_INSTANT = timedelta(microseconds=1)
_NO_TIME = timedelta(0)

_signals = WakeSignalProcessor()
_queue = WorkQueueProcessor()


class WorkflowStateMachine:
    """Runs cycles under a table of moves: TRANSITIONS, but for tests of the law itself."""

    def __init__(self, table: Table = TRANSITIONS) -> None:
        self.table = table

    def execute_cycle(self, state: WorkflowStateData, inputs: CycleInputs, now: datetime) -> Step:
        """Run one cycle and give the new state, what must be done with it, and when to look again.

        1. Take the verdict: unsafe means SAFETY_PAUSE before anything else. 2. Run states until one waits. 3. Count and report.
        `state` is not changed.

        :raises IllegalTransition: a handler named a move that the table does not know.
        """
        cycle = Cycle(state, inputs, now, self.table)
        _take_verdict(cycle, inputs.safety)
        if inputs.completed_by_agent:
            count_completed(cycle, inputs.completed_by_agent, inputs.agent_level)
        for _ in range(MOVES_LIMIT):
            target = _HANDLERS[cycle.state.current_state](cycle)
            if target is None:
                break
            cycle.move(target)
        return finish(cycle)


execute_cycle = WorkflowStateMachine().execute_cycle


def _take_verdict(cycle: Cycle, verdict: SafetyStatus) -> None:
    """Pause if it is not safe, remembering what is interrupted; report a violation when it begins or changes its mechanism."""
    state, before = cycle.state, cycle.state.safety_status
    if verdict.is_safe:
        # two mild verdicts of one level are the same: an idle cycle must not write because a measured value moved
        if not before.is_safe or before.safety_level != verdict.safety_level:
            state.safety_status = verdict
        return
    state.safety_status = verdict
    first = state.current_state != _SAFETY_PAUSE
    if first:
        state.resume_state = state.current_state
        cycle.move(_SAFETY_PAUSE)
        cycle.say("pause", reason=verdict.reason)
    if first or before.mechanism != verdict.mechanism:
        cycle.effects.append(ReportViolation(verdict.mechanism or "safety", verdict.reason))


# -- handlers: one for each state ---------------------------------------------------------------------------------------------


def _pause(cycle: Cycle) -> WorkflowState | None:
    """Start nothing; let what runs end. Safe again, go back to exactly the state that was interrupted."""
    state, verdict, now = cycle.state, cycle.inputs.safety, cycle.now
    if verdict.is_safe:
        target = state.resume_state or _STREAM_CHECK
        state.resume_state = None
        _thaw(cycle)
        cycle.say("resume")
        return target if target != _SAFETY_PAUSE else _STREAM_CHECK
    tend(cycle)
    if cycle.draining and not cycle.busy:
        cycle.effects.append(FinishDrain())
    if verdict.expires_at is not None and verdict.expires_at > now:
        cycle.due_at = min(verdict.expires_at, now + PAUSE_END_LIMIT)
    else:
        lasted = now - state.state_entered_at
        cycle.due_at = on_grid(now + min(max(lasted / 2, PAUSE_LOOK), PAUSE_LOOK_LIMIT))
    return None


def _thaw(cycle: Cycle) -> None:
    """Give the deadlines of a completion routine and of a personal phase what they had left when the pause began."""
    state, now = cycle.state, cycle.now
    lasted = max(now - state.state_entered_at, _NO_TIME)
    if state.completion_stage_until is not None:
        state.completion_stage_until += lasted
    if state.completion_until is not None:
        state.completion_until += lasted
    if is_personal(cycle):
        state.phase_started_at += lasted
    state.context = {**state.context, RESUMED_AT: now.isoformat()}


def _initialize(cycle: Cycle) -> WorkflowState | None:
    cycle.say("begun")
    return _STREAM_CHECK


def _check_streams(cycle: Cycle) -> WorkflowState | None:
    """Say what becomes of every waiting signal; rest here when there was nothing to do."""
    if cycle.draining:
        if cycle.busy:
            return _WORK_DISCOVERY
        cycle.effects.append(FinishDrain())
    if cycle.draining or (cycle.looked and not cycle.must_check()):
        _rest(cycle)
        return None
    cycle.checked = True
    cycle.state.last_stream_check = cycle.now
    if cycle.inputs.signals:
        _handle_signals(cycle)
    return _WORK_DISCOVERY


def _handle_signals(cycle: Cycle) -> None:
    for handled in _signals.process_wake_signals(cycle.inputs.signals, cycle.config, cycle.now):
        if handled.item is not None:
            cycle.check_protocol(handled.item.title, "", "pending")
            cycle.effects.append(CreateTask(handled.item, signal_id=handled.signal.id))
            cycle.created += 1
            cycle.soon = cycle.now
        cycle.effects.append(HandleSignal(handled.signal.id, handled.outcome, handled.note))


def _discover(cycle: Cycle) -> WorkflowState | None:
    """Pick tasks up to the free slots, and see to it that there is work."""
    cycle.looked = True
    state = cycle.state
    waiting = _TASK_EXECUTION if cycle.busy else _STREAM_CHECK
    if cycle.draining:
        return waiting
    if is_personal(cycle):
        return _PHASE_TRANSITION if personal_is_over(cycle) else waiting
    dwelling = state.completion_stage != _NO_STAGE
    if dwelling and (cycle.busy or cycle.real_work_ready()):
        end_routine(state)
        dwelling = False
    if cycle.completed and not cycle.dwelt and not dwelling:
        return _COMPLETION_ROUTINE
    if not dwelling and is_full(cycle):
        return _PHASE_TRANSITION
    _refuse(cycle)
    ready = cycle.ready_tasks()
    create = (
        not cycle.planned and cycle.free > 0 and (not dwelling or state.completion_stage == CompletionStage.TRANSITION_PLANNING)
    )
    found = _queue.discover_work(ready, cycle.inputs, cycle.now, created=cycle.created, create=create)
    if create:
        cycle.planned = True
        _create(cycle, found, soon=not dwelling)
    if dwelling:
        return _COMPLETION_ROUTINE
    if cycle.free > 0 and found.tasks:
        cycle.picked = list(found.tasks[: cycle.free])
        return _TASK_EXECUTION
    return waiting


def _create(cycle: Cycle, found: DiscoveredWork, *, soon: bool) -> None:
    """Put down the work that discovery wants created; it is started in a following cycle, when it has its id."""
    for plan in found.planned:
        if plan.item is not None:
            cycle.check_protocol(plan.item.title, "", "pending")
            cycle.effects.append(CreateTask(plan.item, objective_id=plan.objective.id))
        cycle.effects.append(AdvanceObjective(plan.objective.id, plan.next_due_at))
    for item in found.momentum:
        cycle.check_protocol(item.title, "", "pending")
        cycle.effects.append(CreateTask(item, momentum_template=item.action))
    if soon and cycle.soon is None and (found.momentum or any(plan.item for plan in found.planned)):
        cycle.soon = on_grid(cycle.now + _INSTANT)


def _refuse(cycle: Cycle) -> None:
    """Block tasks given to this Nova that it may not run, instead of leaving them to wait for ever."""
    if len(cycle.ready_tasks()) >= len(cycle.inputs.assigned) + len(cycle.inputs.dealt):
        return
    config = cycle.config
    for task in cycle.inputs.assigned:
        executor = task.executor or config.default_executor
        if executor == AGENT or executor in config.allowed_executors or task.id in cycle.refused:
            continue
        cycle.refused.add(task.id)
        reason = f"{config.nova_id} may not use the executor {executor}, which this task needs."
        action = f"allow the executor {executor} to {config.nova_id}, or give the task to another Nova"
        cycle.check_protocol(task.title, task.status, "blocked")
        cycle.effects.append(BlockTask(task.id, OPERATOR, action, reason))
        cycle.say("block", title=spoken_title(task), owner=OPERATOR)


def _execute(cycle: Cycle) -> WorkflowState | None:
    """Start what was picked; then wait for executions, unless there is news or something else to do."""
    for task in cycle.picked:
        _start(cycle, task)
    cycle.picked = []
    if not cycle.tended and (cycle.completed or has_news(cycle)):
        return _PROGRESS_UPDATE
    if not cycle.busy:
        return _onward(cycle)
    if cycle.must_check():
        return _STREAM_CHECK
    if cycle.free > 0 and not cycle.looked:
        return _WORK_DISCOVERY
    due_at = cycle.next_cycle_at
    for task in cycle.held:
        if task.execution is not None and task.execution.started_at is not None:
            deadline = task.execution.started_at + cycle.config.execution_timeout
            if cycle.now < deadline < due_at:
                due_at = deadline
    cycle.due_at = due_at
    return None


def _start(cycle: Cycle, task: TaskFacts) -> None:
    config, attempt = cycle.config, task.attempts + 1
    title = spoken_title(task)
    said = cycle.say("take", title=title) if attempt == 1 else cycle.say("retake", title=title, attempt=attempt)
    cycle.check_protocol(task.title, task.status, "in_progress")
    executor = task.executor or config.default_executor
    cycle.effects.append(StartTask(task.id, executor, task.action, attempt, config.execution_timeout, said))
    cycle.started += 1
    cycle.state.tool_use_count += 1
    if cycle.ready is not None:
        cycle.ready = [other for other in cycle.ready if other.id != task.id]
    cycle.cause = cycle.cause or task.cause


def _update_progress(cycle: Cycle) -> WorkflowState | None:
    """See what became of the tasks in hand."""
    tend(cycle)
    if cycle.completed:
        return _COMPLETION_ROUTINE
    return _TASK_EXECUTION if cycle.busy else _onward(cycle)


def _complete(cycle: Cycle) -> WorkflowState | None:
    """Dwell on what was completed, stage by stage, but never while other work is ready or in hand."""
    state, style = cycle.state, cycle.config.celebration_style
    cycle.dwelt = True
    if cycle.draining or cycle.busy or cycle.real_work_ready():
        end_routine(state)
    elif state.completion_stage != _NO_STAGE:
        advance_routine(state, style, cycle.now)
    elif cycle.completed:
        begin_routine(state, style, highest_level(cycle.completed), cycle.now)
    if state.completion_stage == _NO_STAGE:
        return _PHASE_TRANSITION if is_full(cycle) else _onward(cycle)
    if cycle.must_check() and cycle.inputs.signals:
        return _STREAM_CHECK
    if state.completion_stage == CompletionStage.TRANSITION_PLANNING and not cycle.looked:
        return _WORK_DISCOVERY  # see to it that there is work when the routine ends
    until, end = state.completion_stage_until, state.completion_until
    cycle.due_at = min(until, end) if until is not None and end is not None else None
    return None


def _change_phase(cycle: Cycle) -> WorkflowState | None:
    change_phase(cycle)
    return _onward(cycle)


def _recover(cycle: Cycle) -> WorkflowState | None:
    """Wait until the backoff is over, even when woken earlier; then begin with the streams."""
    state = cycle.state
    # min: were the clock set back, the wait would not grow
    until = min(state.state_entered_at, cycle.now) + error_backoff(state.nova_id, state.consecutive_errors)
    if cycle.now < until:
        cycle.due_at = until
        return None
    cycle.recovered = True
    state.resume_state = None
    cycle.say("recover")
    return _STREAM_CHECK


_HANDLERS: Mapping[WorkflowState, Callable[[Cycle], WorkflowState | None]] = {
    WorkflowState.INITIALIZING: _initialize,
    WorkflowState.STREAM_CHECK: _check_streams,
    WorkflowState.WORK_DISCOVERY: _discover,
    WorkflowState.TASK_EXECUTION: _execute,
    WorkflowState.PROGRESS_UPDATE: _update_progress,
    WorkflowState.COMPLETION_ROUTINE: _complete,
    WorkflowState.PHASE_TRANSITION: _change_phase,
    WorkflowState.ERROR_RECOVERY: _recover,
    WorkflowState.SAFETY_PAUSE: _pause,
}


def _onward(cycle: Cycle) -> WorkflowState:
    """Look for work, past the streams if they want looking at."""
    return _STREAM_CHECK if cycle.must_check() else _WORK_DISCOVERY


def _rest(cycle: Cycle) -> None:
    """Rest until the next cycle, or until the personal phase ends."""
    cycle.due_at = cycle.next_cycle_at
    if is_personal(cycle):
        end = cycle.state.phase_started_at + cycle.config.personal_phase_length
        if cycle.now < end < cycle.due_at:
            cycle.due_at = end


# -- errors -------------------------------------------------------------------------------------------------------------------


def error_backoff(nova_id: str, errors: int) -> timedelta:
    """Give how long a Nova waits after so many errors in a row: doubling from a second to five minutes, with seeded jitter."""
    share = crc32(f"{nova_id}!{errors}".encode()) / 0xFFFFFFFF
    return min(ERROR_BACKOFF * (1 << min(max(errors - 1, 0), 20)) * (1 + share / 4), ERROR_BACKOFF_LIMIT)


def recover(state: WorkflowStateData, error: str, now: datetime) -> Step:
    """Put a Nova whose step raised into ERROR_RECOVERY, from wherever it was; `state` is not changed.

    What it had in hand stays in hand. The next cycle after the backoff begins with the streams.
    """
    state = copy(state)
    before = state.current_state
    if before == _ERROR_RECOVERY:
        state.state_entered_at = now  # failed again: the longer backoff counts from here
    else:
        if before != _SAFETY_PAUSE:
            state.resume_state = before
        transition(state, _ERROR_RECOVERY, now)
    state.consecutive_errors += 1
    state.last_error = error[:LAST_ERROR_LIMIT]
    remember_failure(state)
    wait = error_backoff(state.nova_id, state.consecutive_errors)
    message = f"A cycle failed ({state.consecutive_errors} in a row); trying again in {wait.total_seconds():.1f} s."
    path = (before.value,) if before == _ERROR_RECOVERY else (before.value, _ERROR_RECOVERY.value)
    return Step(state, [ReportStatus(path, message)], now + wait)
