"""review_workflow: where Novas spend their time, who is stuck, which actions fail. Reads journal and executions only."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise

from django.db.models import Max

from safety.models import AuditEntry
from workflow.core.state import WorkflowState
from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works.report import Report, Scope, age, duration_text, percentile, share_text
from workflow.models import Execution, NovaState

MOVED = "workflow.nova.moved"  # the journal's word for a step that changed state; `after.path` names the states
JOURNAL_WINDOW = 10_000  # entries looked at, newest first
EXECUTION_WINDOW = 5_000
STUCK_SECONDS = 600.0
NOT_STEPPED_SECONDS = 120.0
FAILED = frozenset({"failed", "timed_out", "abandoned"})
_RESTING = (WorkflowState.STREAM_CHECK, WorkflowState.WORK_DISCOVERY, WorkflowState.SAFETY_PAUSE)  # here a Nova may wait long


def review_workflow(context: ExecutionContext) -> Result:
    """Measure the cycle and name what does not move."""
    scope, now = Scope.of(context), context.now
    report = Report(f"Workflow review of {scope.label}")
    usual = _time_in_states(scope, report)
    _stuck(scope, usual, now, report)
    _recovering(scope, now, report)
    _actions(scope, report)
    return report.result()


def _time_in_states(scope: Scope, report: Report) -> Mapping[str, float]:
    """Tell how long Novas stay in each state; give the 90th percentile of each, in seconds."""
    newest = AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0
    moves = AuditEntry.objects.filter(id__gt=newest - JOURNAL_WINDOW, action=MOVED, personal=False)
    if scope.team:
        moves = moves.filter(nova_id__in=scope.novas().values("pk"))
    by_nova: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for nova_id, created_at, after in moves.order_by("id").values_list("nova_id", "created_at", "after"):
        path = (after or {}).get("path") or []
        if path:
            by_nova[nova_id].append((created_at, str(path[-1])))
    spent: dict[str, list[float]] = defaultdict(list)
    for steps in by_nova.values():
        for (entered, state), (left, _) in pairwise(steps):
            spent[state].append(age(left, entered))
    report.section("Time in each state (from the journal; cycles that found nothing leave no entry there)")
    usual = {state: percentile(seconds, 0.9) for state, seconds in spent.items()}
    for state in sorted(usual, key=lambda name: -usual[name]):
        seconds = spent[state]
        report.line(
            f"{state}: {len(seconds):,} times, half within {duration_text(percentile(seconds, 0.5))}, nine in ten within "
            f"{duration_text(usual[state])}, longest {duration_text(max(seconds))}"
        )
    if not spent:
        report.line("the journal holds no two moves of one Nova yet")
    report.metrics["moves"] = sum(len(steps) for steps in by_nova.values())
    report.metrics["seconds_in_state_p90"] = {state: round(value, 3) for state, value in usual.items()}
    report.metrics["slowest_state"] = max(usual, key=lambda name: usual[name], default="")
    return usual


def _stuck(scope: Scope, usual: Mapping[str, float], now: datetime, report: Report) -> None:
    running = scope.states().filter(mode__in=NovaState.RUNNING_MODES)
    long_there = running.filter(state_entered_at__lt=now - timedelta(seconds=STUCK_SECONDS)).exclude(current_state__in=_RESTING)
    columns = ("pk", "current_state", "state_entered_at", "nova__personality__base_cycle_time", "nova__execution_timeout")
    stuck = 0
    for nova_id, state, entered, cycle_time, timeout in long_there.order_by("state_entered_at").values_list(*columns)[:1_000]:
        limit = max(STUCK_SECONDS, 5 * usual.get(state, 0.0), 5 * cycle_time)
        if state == WorkflowState.TASK_EXECUTION:
            limit = max(limit, 2 * timeout)
        if age(now, entered) > limit:
            stuck += 1
            report.find(
                f"stuck: {nova_id} in {state}",
                f"{nova_id} has stood in {state} for {duration_text(age(now, entered))}; usual there: "
                f"{duration_text(usual.get(state, 0.0))}, its cycle: {duration_text(cycle_time)}",
            )
    overdue = running.filter(due_at__lt=now - timedelta(seconds=NOT_STEPPED_SECONDS))
    for nova_id, due_at in overdue.order_by("due_at").values_list("pk", "due_at")[:1_000]:
        report.find(
            f"not stepped: {nova_id}", f"{nova_id} has been due for {duration_text(age(now, due_at))} and was not stepped"
        )
    report.metrics["stuck"] = stuck


def _recovering(scope: Scope, now: datetime, report: Report) -> None:
    failing = scope.states().filter(current_state=WorkflowState.ERROR_RECOVERY) | scope.states().filter(
        consecutive_errors__gte=3
    )
    columns = ("pk", "consecutive_errors", "last_error", "state_entered_at")
    rows = list(failing.order_by("-consecutive_errors", "pk").values_list(*columns)[:1_000])
    for nova_id, errors, last_error, since in rows:
        report.find(
            f"recovering: {nova_id}",
            f"{nova_id} recovers from errors since {duration_text(age(now, since))}: {errors} in a row, the last "
            f"{last_error[:120]!r}",
        )
    report.metrics["recovering"] = len(rows)


def _actions(scope: Scope, report: Report) -> None:
    columns = ("executor", "action", "status", "started_at", "finished_at", "needs")
    seconds: dict[str, list[float]] = defaultdict(list)
    ended: dict[str, int] = defaultdict(int)
    failed: dict[str, int] = defaultdict(int)
    finished = scope.recent_executions(EXECUTION_WINDOW).exclude(
        status__in=(Execution.Status.DISPATCHED, Execution.Status.RUNNING)
    )
    for executor, action, status, started_at, finished_at, needs in finished.values_list(*columns):
        name = f"{executor}/{action or 'brief'}"
        ended[name] += 1
        failed[name] += status in FAILED
        if started_at and finished_at and not needs:
            seconds[name].append(age(finished_at, started_at))
    report.section("Actions, slowest first (newest executions)")
    names = sorted(ended, key=lambda name: -percentile(seconds[name], 0.9))
    report.lines(
        [
            f"{name}: {ended[name]:,} ended, {share_text(failed[name], ended[name])} failed, half within "
            f"{duration_text(percentile(seconds[name], 0.5))}, nine in ten within "
            f"{duration_text(percentile(seconds[name], 0.9))}"
            for name in names
        ]
    )
    for name in names:
        if failed[name] >= 3 and failed[name] * 2 >= ended[name]:
            report.find(f"failing action: {name}", f"{name} failed in {failed[name]:,} of its last {ended[name]:,} executions")
    report.metrics["executions"] = sum(ended.values())
    report.metrics["executions_failed"] = sum(failed.values())
