"""The operator's verbs on Novas: pause, halt, kill, resume, drain, wake, archive, unarchive.

Each takes one Nova or a selection, in one transaction, with a reason; a second time changes nothing and answers the same. What
a verb changes is journalled with before and after and told on the Nova's status stream. Which verb a Nova's mode allows stands
in one table below; how the engine drains or wakes is not known here.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Count, F

from safety import api_keys, audit, bulk
from safety.audit import Entry
from safety.models import SafetyState
from workflow import waking
from workflow.configuration import create_nova, demand_reason, update_nova
from workflow.core.protocol import stream_name
from workflow.core.state import WorkflowPhase, WorkflowState
from workflow.core.work import TaskStatus, WorkType
from workflow.errors import WorkflowError
from workflow.models import Execution, Nova, NovaState, Task
from workflow.task_tracker import TaskTracker

__all__ = [
    "VERBS",
    "IllegalModeChange",
    "NovaNotFound",
    "VerbResult",
    "archive_nova",
    "create_nova",
    "drain_nova",
    "halt_nova",
    "kill_nova",
    "pause_nova",
    "resume_nova",
    "unarchive_nova",
    "update_nova",
    "wake_nova",
]

NOVA_PAUSED = "workflow.nova.paused"
NOVA_HALTED = "workflow.nova.halted"
NOVA_KILLED = "workflow.nova.killed"
NOVA_RESUMED = "workflow.nova.resumed"
NOVA_DRAIN_REQUESTED = "workflow.nova.drain_requested"
NOVA_WOKEN = "workflow.nova.woken"
NOVA_ARCHIVED = "workflow.nova.archived"
NOVA_UNARCHIVED = "workflow.nova.unarchived"

Mode = NovaState.Mode
STOPPED = frozenset({Mode.PAUSED, Mode.HALTED, Mode.KILLED})  # the clock stands
RESUMED_A_SECOND = 50  # of many that are resumed at once: a fleet that comes back does not come in one instant


class NovaNotFound(WorkflowError):
    """There is no Nova of that id."""


class IllegalModeChange(WorkflowError):
    """The Nova's mode does not allow that verb."""


@dataclass(frozen=True, slots=True)
class VerbResult:
    """What became of one Nova: its mode now, whether the verb changed it, and why not where it could not."""

    nova_id: str
    mode: str
    changed: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb's law: the mode it leads to, the modes it starts from; in any other mode of `already` there is nothing to do."""

    name: str
    action: str
    target: str  # empty: the mode stays
    starts: frozenset[str]
    already: frozenset[str]
    refusal: str
    carry_out: Callable[[NovaState, datetime], None]
    status: str  # what the status stream says


def _pause(state: NovaState, now: datetime) -> None:
    """Stop the Nova's clock: keep what it still had to rest."""
    state.paused_remaining = max(0.0, (state.due_at - now).total_seconds())


def _resume(state: NovaState, now: datetime) -> None:
    """Start the clock again: rest and deadlines get what they had left when they were stopped."""
    if state.mode == Mode.DRAINING:  # its clock never stopped
        return
    stopped = _stopped_for(state, now)
    state.due_at = now + timedelta(seconds=state.paused_remaining)
    state.paused_remaining = 0.0
    for name in ("completion_stage_until", "completion_until"):
        if deadline := getattr(state, name):
            setattr(state, name, deadline + stopped)
    if state.current_phase == WorkflowPhase.PERSONAL_PHASE:
        state.phase_started_at += stopped
    if state.current_state == WorkflowState.SAFETY_PAUSE:
        state.state_entered_at += stopped  # a safety pause under way freezes deadlines too: each instant counts once


def _halt(state: NovaState, now: datetime) -> None:
    """Stop the clock; one that stands already keeps what it had left."""
    if state.mode in STOPPED:
        _resume(state, now)
    _pause(state, now)


def _make_due(state: NovaState, now: datetime) -> None:
    state.due_at = min(state.due_at, now)
    state.wakes += 1


def _forget_rest(state: NovaState, now: datetime) -> None:
    state.paused_remaining = 0.0


def _stopped_for(state: NovaState, now: datetime) -> timedelta:
    return now - (state.mode_since or now)


_PAUSE = Verb(
    "pause", NOVA_PAUSED, Mode.PAUSED, frozenset({Mode.RUNNING, Mode.DRAINING}), STOPPED,
    "it is {mode}; only a running or draining Nova can be paused", _pause, "paused",
)  # fmt: skip
_HALT = Verb(
    "halt", NOVA_HALTED, Mode.HALTED, frozenset({Mode.RUNNING, Mode.DRAINING, Mode.PAUSED, Mode.QUARANTINED}),
    frozenset({Mode.HALTED, Mode.KILLED}), "it is {mode}", _halt, "halted",
)  # fmt: skip
_KILL = Verb(
    "kill", NOVA_KILLED, Mode.KILLED, _HALT.starts | {Mode.HALTED}, frozenset({Mode.KILLED}),
    "it is {mode}", _halt, "killed",
)  # fmt: skip
_RESUME = Verb(
    "resume", NOVA_RESUMED, Mode.RUNNING, STOPPED | {Mode.DRAINING, Mode.QUARANTINED}, frozenset({Mode.RUNNING}),
    "it is {mode}; unarchive it first", _resume, "resumed",
)  # fmt: skip
_DRAIN = Verb(
    "drain", NOVA_DRAIN_REQUESTED, Mode.DRAINING, frozenset({Mode.RUNNING}), STOPPED | {Mode.DRAINING},
    "it is {mode}; only a running Nova can be drained", _make_due, "draining",
)  # fmt: skip
_WAKE = Verb(
    "wake", NOVA_WOKEN, "", frozenset({Mode.RUNNING, Mode.DRAINING}), frozenset(),
    "it is {mode}; resume it first", _make_due, "woken",
)  # fmt: skip
_ARCHIVE = Verb(
    "archive", NOVA_ARCHIVED, Mode.ARCHIVED, frozenset(Mode) - {Mode.ARCHIVED},
    frozenset({Mode.ARCHIVED}), "it is {mode}", _forget_rest, "archived",
)  # fmt: skip
_UNARCHIVE = Verb(
    "unarchive", NOVA_UNARCHIVED, Mode.PAUSED, frozenset({Mode.ARCHIVED}), frozenset(Mode) - {Mode.ARCHIVED},
    "it is {mode}", _forget_rest, "paused",
)  # fmt: skip
VERBS: Mapping[str, Verb] = {verb.name: verb for verb in (_PAUSE, _HALT, _KILL, _RESUME, _DRAIN, _WAKE, _ARCHIVE, _UNARCHIVE)}


def pause_nova(nova_id: str, *, reason: str, now: datetime) -> VerbResult:
    """Stop a Nova's clock at once; tasks in flight finish, no new work begins."""
    return _one(_PAUSE, nova_id, reason, now)


def halt_nova(nova_id: str, *, reason: str, now: datetime) -> VerbResult:
    """Stop a Nova and what runs for it; a safety officer lets it go on."""
    return _one(_HALT, nova_id, reason, now)


def kill_nova(nova_id: str, *, reason: str, now: datetime) -> VerbResult:
    """Halt a Nova and suspend its keys."""
    return _one(_KILL, nova_id, reason, now)


def resume_nova(nova_id: str, *, reason: str, now: datetime) -> VerbResult:
    """Let a paused, draining or quarantined Nova go on with the rest it had left."""
    return _one(_RESUME, nova_id, reason, now)


def drain_nova(nova_id: str, *, reason: str, now: datetime) -> VerbResult:
    """Let a Nova finish the tasks it holds and take no new one; then it is paused."""
    return _one(_DRAIN, nova_id, reason, now)


def wake_nova(nova_id: str, *, reason: str, now: datetime) -> VerbResult:
    """Make a Nova look for work now instead of at the end of its cycle."""
    return _one(_WAKE, nova_id, reason, now)


def archive_nova(nova_id: str, *, reason: str, now: datetime) -> VerbResult:
    """Take a Nova out of service for good, without deleting anything. It must hold no work that was asked for."""
    return _one(_ARCHIVE, nova_id, reason, now)


def unarchive_nova(nova_id: str, *, reason: str, now: datetime) -> VerbResult:
    """Bring an archived Nova back, paused."""
    return _one(_UNARCHIVE, nova_id, reason, now)


def apply_verb(name: str, nova_ids: Collection[str], *, reason: str, now: datetime) -> list[VerbResult]:
    """Carry a verb out for a selection in one transaction; a Nova that can't says why and doesn't hold up the others.

    :raises ReasonMissing: the reason is blank.
    :raises NovaNotFound: an id is unknown; nothing was changed.
    """
    verb, reason = VERBS[name], demand_reason(reason)
    with transaction.atomic():
        # ordered, so that two selections can't wait for each other in a circle
        rows = NovaState.objects.select_for_update().filter(nova_id__in=set(nova_ids)).order_by("nova_id")
        states = {state.nova_id: state for state in rows}
        if missing := sorted(set(nova_ids) - states.keys()):
            raise NovaNotFound(f"There is no Nova {', '.join(missing[:5])}; nothing was changed.")
        refusals = _open_work(list(states), reason, now) if verb is _ARCHIVE else {}
        refusals |= {nova_id: text for nova_id, state in states.items() if (text := _refusal(verb, state))}
        changing = [s for s in states.values() if s.nova_id not in refusals and _has_effect(verb, s, now)]
        if verb is _RESUME:
            _resume_clocks(changing, now)
        elif verb in (_HALT, _KILL):
            _stop_executions(changing, now)
        if verb is _KILL:
            api_keys.suspend_keys([state.nova_id for state in changing], reason=reason, now=now)
        entries = [_change(verb, state, reason, now) for state in changing]
        if verb is _RESUME:
            _stagger(changing)
        _write(verb, changing, now)
        audit.record(entries, now=now)
        if changing:
            transaction.on_commit(partial(waking.knock, "loops"))
    changed = {state.nova_id for state in changing}
    return [VerbResult(n, s.mode, n in changed, refusals.get(n, "")) for n, s in states.items()]


def _one(verb: Verb, nova_id: str, reason: str, now: datetime) -> VerbResult:
    result = apply_verb(verb.name, [nova_id], reason=reason, now=now)[0]
    if result.problem:
        raise IllegalModeChange(f"Nova {nova_id} can't {verb.name}: {result.problem}. Nothing was changed.")
    return result


def _refusal(verb: Verb, state: NovaState) -> str:
    return "" if state.mode in verb.starts | verb.already else verb.refusal.format(mode=state.mode)


def _has_effect(verb: Verb, state: NovaState, now: datetime) -> bool:
    if verb is _WAKE and state.due_at <= now:  # due already; a step under way may have looked before, so that one counts
        return state.lease_until is not None and state.lease_until > now
    return state.mode in verb.starts


def _open_work(nova_ids: list[str], reason: str, now: datetime) -> dict[str, str]:
    """Say which Novas hold work that somebody asked for; what the others planned for themselves is cancelled."""
    own = (WorkType.MOMENTUM, WorkType.REFLECTION)
    tasks = Task.objects.filter(assignee__in=nova_ids).exclude(status=TaskStatus.COMPLETED)
    asked = tasks.exclude(status=TaskStatus.PENDING, work_type__in=own)
    counts = asked.order_by().values_list("assignee").annotate(Count("id"))
    refusals = {nova_id: f"it holds {count} unfinished tasks; finish or cancel them first" for nova_id, count in counts}
    with TaskTracker.open(now=now) as tracker:
        planned = tasks.filter(status=TaskStatus.PENDING, work_type__in=own).exclude(assignee__in=refusals)
        for task_id in planned.values_list("id", flat=True):
            tracker.cancel_task(task_id, f"its Nova was archived: {reason}")
    return refusals


def _stop_executions(states: list[NovaState], now: datetime) -> None:
    """Cancel what runs; the attempt is given back to its task, since it was nobody's failure. Hosts stop within seconds.

    A Nova that had something running has nothing left to rest: it is due as soon as it may go on, and takes it up again.
    """
    running = Execution.objects.filter(nova__in=[s.nova_id for s in states], finished_at=None)
    tasks = dict(running.values_list("task_id", "nova_id"))
    running.update(status=Execution.Status.CANCELLED, finished_at=now, error="Its Nova was halted.")
    Task.objects.filter(id__in=tasks).update(max_attempts=F("max_attempts") + 1)
    interrupted = set(tasks.values())
    for state in states:
        if state.nova_id in interrupted:
            state.due_at, state.paused_remaining = min(state.due_at, now), 0.0


def _stagger(states: list[NovaState]) -> None:
    """Spread many that come back over time, in the order in which they are due."""
    for place, state in enumerate(sorted(states, key=lambda state: (state.due_at, state.nova_id))):
        state.due_at += timedelta(seconds=place / RESUMED_A_SECOND)


def _resume_clocks(states: list[NovaState], now: datetime) -> None:
    """Let what stood with a Nova's clock go on with what it had left: cooldowns, leases of agents, waits for a next attempt."""
    since = {s.nova_id: s.mode_since for s in states if s.mode in STOPPED and s.mode_since}
    columns = ("reserved_until", "not_before")
    unfinished = Task.objects.filter(assignee__in=since, status__in=(TaskStatus.PENDING, TaskStatus.IN_PROGRESS))
    rows = []
    for task_id, nova_id, *instants in unfinished.values_list("id", "assignee_id", *columns):
        moved = [at + (now - since[nova_id]) if at and at > since[nova_id] else at for at in instants]
        if moved != instants:
            rows.append((task_id, *moved))
    bulk.update(Task, ("id",), columns, rows)
    _resume_cooldowns(states, now)
    api_keys.reinstate_keys([s.nova_id for s in states if s.mode == Mode.KILLED], now=now)


_FROZEN = ("cooldown_until", "meditation_until", "quarantine_until")


def _resume_cooldowns(states: list[NovaState], now: datetime) -> None:
    """Give cooldowns, meditations and quarantines that ran when the clock was stopped what they had left.

    What a provider is owed, its cooldown and windows, runs on wall time.
    """
    stopped = {s.nova_id: _stopped_for(s, now) for s in states if s.mode in STOPPED}
    since = {s.nova_id: s.mode_since for s in states}
    rows = []
    for verdict in SafetyState.objects.filter(nova_id__in=stopped):
        began = since[verdict.nova_id]
        ends = [getattr(verdict, name) for name in _FROZEN]
        moved = [end + stopped[verdict.nova_id] if end and began and end > began else end for end in ends]
        if moved != ends:
            rows.append((verdict.nova_id, *moved))
    bulk.update(SafetyState, ("nova_id",), _FROZEN, rows)


def _change(verb: Verb, state: NovaState, reason: str, now: datetime) -> Entry:
    """Change the state in memory and give its journal entry."""
    before = _facts(state)
    verb.carry_out(state, now)
    if verb.target:
        state.mode, state.mode_since = verb.target, now
        state.mode_reason, state.mode_actor = reason, audit.current_actor()
        # a step under way began under the old mode: its commit is fenced off, so nothing new begins after our answer
        state.fence += 1
        state.lease_holder, state.lease_until, state.crashes = "", None, 0
    return Entry(
        action=verb.action,
        nova_id=state.nova_id,
        object_type="nova",
        object_id=state.nova_id,
        before=before,
        after=_facts(state),
        reason=reason,
        stream=stream_name("status_updates", state.nova_id),
        message={
            "nova_id": state.nova_id,
            "state": state.current_state,
            "phase": state.current_phase,
            "status": verb.status,
            "message": reason,
            "timestamp": now.isoformat(),
        },
    )


def _facts(state: NovaState) -> dict[str, Any]:
    return {"mode": state.mode, "due_at": state.due_at, "remaining_seconds": state.paused_remaining}


_WRITTEN = (
    "mode", "mode_reason", "mode_since", "mode_actor", "paused_remaining", "due_at", "wakes", "crashes",
    "completion_stage_until", "completion_until", "phase_started_at", "state_entered_at", "fence", "lease_holder",
    "lease_until",
)  # fmt: skip


def _write(verb: Verb, states: list[NovaState], now: datetime) -> None:
    if not states:
        return
    rows = [(state.nova_id, *(getattr(state, name) for name in _WRITTEN)) for state in states]
    bulk.update(NovaState, ("nova",), _WRITTEN, rows)
    nova_ids = [state.nova_id for state in states]
    if verb is _ARCHIVE:
        Nova.objects.filter(nova_id__in=nova_ids).update(archived_at=now)
    elif verb is _UNARCHIVE:
        Nova.objects.filter(nova_id__in=nova_ids).update(archived_at=None)
