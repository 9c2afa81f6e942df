"""enhance_reporting: throughput, durations against estimates, completion and compliance; who completed nothing. Reads only."""

from collections import Counter, defaultdict
from datetime import datetime, timedelta

from django.db.models import Q

from workflow.core.work import TaskStatus
from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works.report import Report, Scope, age, duration_text, percentile, share_text
from workflow.models import NovaState, Task

TASK_WINDOW = 5_000
ESTIMATE_FACTOR = 2.0
ESTIMATE_LEAST = 3
COMPLIANCE_LEAST = 0.95
_DAY = timedelta(days=1)
_LISTED = 100


def enhance_reporting(context: ExecutionContext) -> Result:
    """Work out the figures a report needs, and name where they don't look right."""
    scope, now = Scope.of(context), context.now
    report = Report(f"Figures of {scope.label}")
    active = _durations(scope, now, report)
    _completion(scope, now, report)
    _idle(scope, active, now, report)
    _compliance(scope, report)
    return report.result()


def _durations(scope: Scope, now: datetime, report: Report) -> set[str]:
    """Measure the last day's throughput and durations; give the Novas that completed something in it."""
    columns = ("executor", "action", "work_type", "started_at", "completed_at", "estimated_duration", "assignee")
    done = scope.recent_tasks(["completed"], TASK_WINDOW).filter(outcome="succeeded")
    seconds: dict[str, list[float]] = defaultdict(list)
    estimates: dict[str, list[tuple[float, float]]] = defaultdict(list)
    hours: Counter[int] = Counter()
    active: set[str] = set()
    for executor, action, work_type, started_at, completed_at, estimate, assignee in done.values_list(*columns):
        name = "/".join(part for part in (executor, action) if part) or f"{work_type} work"
        if completed_at and completed_at > now - _DAY:
            hours[int(age(now, completed_at) // 3600)] += 1
            active.add(assignee or "")
        if started_at and completed_at:
            seconds[name].append(age(completed_at, started_at))
            if estimate:
                estimates[name].append((age(completed_at, started_at), estimate))
    everything = [value for values in seconds.values() for value in values]
    report.section(f"Throughput (newest {TASK_WINDOW:,} completed tasks)")
    report.line(
        f"{hours.total():,} tasks completed in 24 hours, {hours[0]:,} in the last hour, {max(hours.values(), default=0):,} in "
        "the busiest"
    )
    report.section("Durations, slowest first")
    names = sorted(seconds, key=lambda name: -percentile(seconds[name], 0.9))
    report.lines(
        [
            f"{name}: {len(seconds[name]):,} tasks, half within {duration_text(percentile(seconds[name], 0.5))}, nine in ten "
            f"within {duration_text(percentile(seconds[name], 0.9))}"
            for name in names
        ]
    )
    _estimates(estimates, report)
    report.metrics |= {
        "completed_24h": hours.total(),
        "completed_1h": hours[0],
        "duration_p50": round(percentile(everything, 0.5), 3),
        "duration_p90": round(percentile(everything, 0.9), 3),
    }
    return active


def _estimates(estimates: dict[str, list[tuple[float, float]]], report: Report) -> None:
    report.section("Durations against estimates")
    for name, pairs in sorted(estimates.items()):
        took, estimated = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
        report.line(f"{name}: took {duration_text(took)}, estimated {duration_text(estimated)} (mean of {len(pairs):,})")
        if len(pairs) < ESTIMATE_LEAST:
            continue
        if took > ESTIMATE_FACTOR * estimated or took * ESTIMATE_FACTOR < estimated:
            way = "low" if took > estimated else "high"
            report.find(
                f"estimate too {way}: {name}",
                f"{name} takes {duration_text(took)}, but is estimated at {duration_text(estimated)}",
            )


def _completion(scope: Scope, now: datetime, report: Report) -> None:
    since = now - _DAY
    for status in TaskStatus:
        # where a status has more than the window holds, look back no further than its window: else its share would be too small
        newest = Task.objects.filter(status=status).order_by("-created_at").values_list("created_at", flat=True)
        for oldest in newest[TASK_WINDOW - 1 : TASK_WINDOW]:
            since = max(since, oldest)
    created = scope.recent_tasks(list(TaskStatus), TASK_WINDOW).filter(created_at__gt=since)
    found: Counter[str] = Counter(created.values_list("status", flat=True))
    total = found.total()
    report.section(f"What became of the tasks created within {duration_text(age(now, since))}")
    report.line(
        f"{total:,} created: {share_text(found['completed'], total)} completed, {share_text(found['in_progress'], total)} in "
        f"progress, {share_text(found['pending'], total)} pending, {share_text(found['blocked'], total)} blocked"
    )
    report.metrics["completion_rate"] = round(found["completed"] / total, 3) if total else 0.0


def _idle(scope: Scope, active: set[str], now: datetime, report: Report) -> None:
    """Name running Novas, older than a day, that completed nothing within it."""
    # every completion that counts is celebrated, so the celebration's time tells of completions beyond the window, too
    idle = scope.states().filter(Q(last_completion_celebration=None) | Q(last_completion_celebration__lt=now - _DAY))
    idle = idle.filter(mode__in=NovaState.RUNNING_MODES, session_start_time__lt=now - _DAY)
    columns = ("pk", "last_completion_celebration")
    rows = [row for row in idle.order_by("pk").values_list(*columns)[: _LISTED + len(active)] if row[0] not in active]
    for nova_id, last in rows:
        since = f"the last {duration_text(age(now, last))} ago" if last else "none so far"
        report.find(f"nothing completed: {nova_id}", f"{nova_id} completed no task in 24 hours ({since})")
    report.metrics["idle_novas"] = len(rows)


def _compliance(scope: Scope, report: Report) -> None:
    rows = scope.states().filter(protocol_checks__gt=0).values_list("pk", "protocol_checks", "protocol_passes")
    figures = sorted((passes / checks, nova_id, checks) for nova_id, checks, passes in rows[:20_000])
    report.section("Protocol compliance, lowest first")
    report.lines([f"{nova_id}: {100 * share:.1f} % of {checks:,} checks" for share, nova_id, checks in figures], most=10)
    for share, nova_id, checks in figures[:_LISTED]:
        if share < COMPLIANCE_LEAST:
            report.find(f"low compliance: {nova_id}", f"{nova_id} passed {100 * share:.1f} % of {checks:,} protocol checks")
    report.metrics["compliance_mean"] = round(sum(row[0] for row in figures) / len(figures), 4) if figures else 0.0
