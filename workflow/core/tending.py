"""What becomes of the tasks in hand: completed, tried again, blocked for somebody, or reported on.

Called in PROGRESS_UPDATE, and in SAFETY_PAUSE too: an end is always accepted, since refusing it would only lose what was done.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

from workflow.core.completion import LEVELS, CompletionRoutineManager, completion_facts
from workflow.core.cycle import Cycle, spoken_title
from workflow.core.effects import BlockTask, Celebrate, CompleteTask, Effect, RecordInsight, RetryTask, UpdateProgress
from workflow.core.personality import phrase
from workflow.core.reflection import remember_completed, remember_failure
from workflow.core.work import ExecutionFacts, SimilarTasks, TaskFacts, similarity_key

RETRY_BASE = timedelta(seconds=2)
RETRY_LIMIT = timedelta(minutes=10)
PUT_OFF_LIMIT = 50  # attempts, those put off included, after which nobody waits any longer
OPERATOR = "operator"

_RUNNING = frozenset(("dispatched", "running"))
_SUCCEEDED = "succeeded"
_NEWEST_WEIGHT = 0.2
_FAILURES = {
    "failed": "The execution failed",
    "timed_out": "The execution ran out of time",
    "abandoned": "The host of the execution died",
    "cancelled": "The execution was cancelled",
}
_manager = CompletionRoutineManager()


def has_news(cycle: Cycle) -> bool:
    """Say whether a task in hand has ended or come further."""
    for task in cycle.held:
        execution = task.execution
        if execution is not None and (execution.status not in _RUNNING or execution.progress != task.progress):
            return True
    return False


def tend(cycle: Cycle) -> None:
    """Look at every task in hand once, and say what becomes of it."""
    cycle.tended = True
    left: list[TaskFacts] = []
    for task in cycle.held:
        execution = task.execution
        if execution is None:
            left.append(task)  # an agent works on it, and reports by itself
        elif execution.status in _RUNNING:
            left.append(task)
            if execution.progress != task.progress:
                _update(cycle, task, execution)
        else:
            _end(cycle, task, execution)
    cycle.held = left


def _update(cycle: Cycle, task: TaskFacts, execution: ExecutionFacts) -> None:
    percent = min(max(execution.progress, 0), 100)
    update = phrase(cycle.config.communication_pattern, "progress", title=spoken_title(task), percent=percent)
    cycle.check_protocol(task.title, task.status, "in_progress")
    cycle.effects.append(UpdateProgress(task.id, update, percent))


def _end(cycle: Cycle, task: TaskFacts, execution: ExecutionFacts) -> None:
    cycle.looked = False  # a slot is free: discovery may look again
    uses = execution.metrics.get("tool_uses")
    if isinstance(uses, int) and uses > 0:
        cycle.state.tool_use_count += uses
    if not cycle.cause:
        cycle.cause = task.cause
    attempts = max(task.attempts, execution.attempt)
    if execution.needs:  # only somebody else can go on, however the execution ended
        _block(cycle, task, execution, execution.needs.get("owner") or OPERATOR, execution.needs.get("action") or _look(task))
    elif execution.status == _SUCCEEDED:
        _complete(cycle, task, execution)
    elif not execution.retryable:
        _block(cycle, task, execution, OPERATOR, f"correct what the error names, then unblock or cancel {task.id}")
    elif attempts < task.max_attempts or (execution.not_before and task.max_attempts < PUT_OFF_LIMIT):
        _retry(cycle, task, execution, attempts)
    else:
        _block(cycle, task, execution, OPERATOR, f"remove the cause of the last error, then unblock or cancel {task.id}")


def _look(task: TaskFacts) -> str:
    return f"look at the brief, then unblock or cancel {task.id}"


def _complete(cycle: Cycle, task: TaskFacts, execution: ExecutionFacts) -> None:
    """Complete a task; celebrate it and keep its insights in the same cycle, once, unless it is personal."""
    similar = cycle.inputs.similar.get(similarity_key(task.work_type, task.executor, task.action))
    cycle.check_protocol(task.title, task.status, "completed")
    said = cycle.say("complete", title=spoken_title(task))
    _weigh(cycle, failed=False)
    pattern = cycle.config.communication_pattern
    effects, level = recognise(task, similar, pattern, cycle.now, execution.results or said, execution.metrics)
    cycle.effects += effects
    if task.personal:
        return
    count_completed(cycle, 1, level)
    if cycle.config.personal_phase_after:
        remember_completed(cycle.state, task.title)


def recognise(
    task: TaskFacts,
    similar: SimilarTasks | None,
    pattern: str,
    now: datetime,
    results: str,
    metrics: Mapping[str, Any],
    note: str = "",
) -> tuple[list[Effect], str]:
    """Give what the success of a task is: its end and, unless it is personal, its celebration and insights; and their level.

    Nothing of a cycle is known here, so that an agent's success is recognised just as that of an execution is.
    """
    facts = completion_facts(task, similar, now)
    measured = {"duration_seconds": facts.duration.total_seconds(), "attempts": facts.attempts}
    effects: list[Effect] = [CompleteTask(task.id, results, {**measured, **metrics}, note)]
    level = _manager.celebration_level(facts)
    if not task.personal:
        impact = _manager.achievement_impact(facts)
        message = phrase(pattern, "celebrate", title=spoken_title(task), impact=impact)
        effects.append(Celebrate(task.id, task.title, level, impact, message))
        effects.append(RecordInsight(task.id, _manager.insights(facts)))
    return effects, level


def count_completed(cycle: Cycle, count: int, level: str) -> None:
    """Let completed tasks count in the phase and in the completion routine."""
    cycle.completed.append(level)
    cycle.state.tasks_completed_in_phase += count
    cycle.state.last_completion_celebration = cycle.now


def highest_level(levels: list[str]) -> str:
    """Give the highest of several celebration levels."""
    return max(levels, key=LEVELS.index)


def _retry(cycle: Cycle, task: TaskFacts, execution: ExecutionFacts, attempts: int) -> None:
    uncounted = execution.not_before is not None and task.max_attempts < PUT_OFF_LIMIT
    not_before = cycle.now + (RETRY_BASE if uncounted else retry_delay(task.id, attempts))
    if execution.not_before is not None:
        not_before = max(not_before, execution.not_before)
    most = task.max_attempts + uncounted
    reason = f"{_failure(execution)} Attempt {attempts + 1} of {most} begins at {not_before:%H:%M:%S} UTC."
    cycle.check_protocol(task.title, task.status, "pending")
    cycle.effects.append(RetryTask(task.id, not_before, reason, uncounted))
    if execution.status != "cancelled" and not uncounted:  # stopped by somebody, or put off: no failure of its own
        _weigh(cycle, failed=True)
    cycle.say("retry", title=spoken_title(task))
    cycle.remember_look(not_before)
    _remember(cycle)


def _block(cycle: Cycle, task: TaskFacts, execution: ExecutionFacts, owner: str, action: str) -> None:
    reason = execution.error if execution.needs and execution.error else _failure(execution)
    if execution.needs and execution.status == _SUCCEEDED:
        reason = f"What can be done here is done; {owner} must go on: {action}"
    cycle.check_protocol(task.title, task.status, "blocked")
    cycle.effects.append(BlockTask(task.id, owner[:64], action[:200], reason, execution.results, dict(execution.metrics)))
    cycle.say("block", title=spoken_title(task), owner=owner[:64])
    _weigh(cycle, failed=not execution.needs)
    _remember(cycle)


def _weigh(cycle: Cycle, *, failed: bool) -> None:
    """Let the end of an execution count in the share of those that failed, which the stress score looks at."""
    cycle.state.error_ratio += (failed - cycle.state.error_ratio) * _NEWEST_WEIGHT


def _remember(cycle: Cycle) -> None:
    if cycle.config.personal_phase_after:
        remember_failure(cycle.state)


def _failure(execution: ExecutionFacts) -> str:
    """Say how an execution ended that did not succeed, with its error."""
    how = _FAILURES.get(execution.status, f"The execution ended as {execution.status}")
    error = execution.error.strip()
    if not error:
        return f"{how}."
    return f"{how}: {error}" if error.endswith((".", "!", "?")) else f"{how}: {error}."


def retry_delay(task_id: str, attempts: int) -> timedelta:
    """Give the wait before the next attempt: doubling up to RETRY_LIMIT, a quarter more or less by the task's id."""
    share = crc32(f"{task_id}#{attempts}".encode()) / 0xFFFFFFFF
    return min(RETRY_BASE * (1 << min(max(attempts - 1, 0), 20)) * (0.75 + share / 2), RETRY_LIMIT)
