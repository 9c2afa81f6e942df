"""What a Nova is doing, told from evidence: commits, deadlines, verdicts; never from a word that a dead process left behind.

The one function behind every page that shows a status. It reads rows already loaded and does no query itself. Beside it stands
the same law as an expression, so that a database can count and order many Novas by it; a test holds the two together.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Case, CharField, Exists, F, OuterRef, Q, Value, When

from safety.models import FleetFact, SafetyState
from workflow.core.state import WorkflowState
from workflow.models import Nova, NovaState

STREAM_REACHABLE = "stream_reachable"
SILENT_AFTER = timedelta(seconds=60)  # at least; three cycles where that is longer

# The order in which the statuses are looked for.
KILLED, HALTED, QUARANTINED, ARCHIVED, PAUSED = "killed", "halted", "quarantined", "archived", "paused"
DRAINING, SAFETY_PAUSE = "draining", "safety_pause"
ERROR_RECOVERY, SILENT, WORKING, COMPLETING, IDLE, NEW = "error_recovery", "silent", "working", "completing", "idle", "new"
STATUSES = (
    KILLED, HALTED, QUARANTINED, ARCHIVED, PAUSED, DRAINING, SAFETY_PAUSE, ERROR_RECOVERY, SILENT, WORKING,
    COMPLETING, IDLE, NEW,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DerivedStatus:
    """A status, why, and since when (None: unknown)."""

    status: str
    reason: str
    since: datetime | None


def derived_status(
    nova: Nova, state: NovaState, safety_state: SafetyState | None, fleet: Mapping[str, FleetFact], now: datetime
) -> DerivedStatus:
    """Tell what a Nova is doing; `nova.personality` must be loaded, `fleet` is what load_fleet() gave."""
    if state.mode in (KILLED, HALTED, QUARANTINED, ARCHIVED, PAUSED, DRAINING):
        return DerivedStatus(state.mode, state.mode_reason, state.mode_since)
    stream = fleet.get(STREAM_REACHABLE)
    if stream is not None and stream.value is False:
        return DerivedStatus(SAFETY_PAUSE, "stream_monitor: the stream server does not answer", stream.since)
    if safety_state is not None and not safety_state.is_safe:
        return DerivedStatus(SAFETY_PAUSE, f"{safety_state.mechanism}: {safety_state.reason}", safety_state.since)
    if state.current_state == WorkflowState.ERROR_RECOVERY:
        return DerivedStatus(ERROR_RECOVERY, state.last_error, state.state_entered_at)
    patience = max(SILENT_AFTER, timedelta(seconds=3 * nova.personality.base_cycle_time))
    if now - state.due_at > patience:
        return DerivedStatus(SILENT, "due, but no worker has stepped it", state.due_at)
    if state.tasks_in_flight:
        plural = "" if state.tasks_in_flight == 1 else "s"
        return DerivedStatus(WORKING, f"{state.tasks_in_flight} task{plural} in flight", state.state_entered_at)
    if state.current_state == WorkflowState.COMPLETION_ROUTINE:
        return DerivedStatus(COMPLETING, state.completion_stage.replace("_", " "), state.state_entered_at)
    if state.total_cycles_completed:
        return DerivedStatus(IDLE, "nothing to do", state.state_entered_at)
    return DerivedStatus(NEW, "waiting for its first cycle", state.session_start_time)


def status_expression(fleet: Mapping[str, FleetFact], cycle_times: Mapping[str, float], now: datetime) -> Case:
    """Give the derived status of rows of NovaState as an expression; `cycle_times` are the personalities', in seconds."""
    modes = (KILLED, HALTED, QUARANTINED, ARCHIVED, PAUSED, DRAINING)
    stream = fleet.get(STREAM_REACHABLE)
    unsafe = SafetyState.objects.filter(nova_id=OuterRef("nova_id"), is_safe=False)
    silent = Q(pk__in=[])
    for slug, seconds in cycle_times.items():
        silent |= Q(nova__personality=slug, due_at__lt=now - max(SILENT_AFTER, timedelta(seconds=3 * seconds)))
    return Case(
        When(mode__in=modes, then=F("mode")),
        *([When(~Q(pk__in=[]), then=Value(SAFETY_PAUSE))] if stream is not None and stream.value is False else ()),
        When(Exists(unsafe), then=Value(SAFETY_PAUSE)),
        When(current_state=WorkflowState.ERROR_RECOVERY, then=Value(ERROR_RECOVERY)),
        When(silent, then=Value(SILENT)),
        When(tasks_in_flight__gt=0, then=Value(WORKING)),
        When(current_state=WorkflowState.COMPLETION_ROUTINE, then=Value(COMPLETING)),
        When(total_cycles_completed__gt=0, then=Value(IDLE)),
        default=Value(NEW),
        output_field=CharField(),
    )


def load_fleet() -> dict[str, FleetFact]:
    """Load what was last observed of machine and stream server, by name."""
    return {fact.name: fact for fact in FleetFact.objects.all()}


def load_verdicts(nova_ids: Collection[str]) -> dict[str, SafetyState]:
    """Load the safety verdicts in force of these Novas, by nova_id."""
    return {verdict.nova_id: verdict for verdict in SafetyState.objects.filter(nova_id__in=nova_ids)}
