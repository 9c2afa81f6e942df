"""research_patterns: what keeps happening: blocks, retries, bad hours, repeated titles, mere busywork. Reads only."""

from collections import Counter
from datetime import datetime, timedelta

from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works.report import Report, Scope, counted, share_text
from workflow.models import Execution

TASK_WINDOW = 2_000
EXECUTION_WINDOW = 5_000
OFTEN = 3
BUSYWORK_SHARE = 0.8
BUSYWORK_LEAST = 10
_FAILED = (Execution.Status.FAILED, Execution.Status.TIMED_OUT, Execution.Status.ABANDONED)


def research_patterns(context: ExecutionContext) -> Result:
    """Count what recurs in tasks and executions, and name what recurs too often."""
    scope = Scope.of(context)
    report = Report(f"Patterns in the behaviour of {scope.label}")
    _blocks(scope, report)
    _retries(scope, report)
    _hours(scope, report)
    _titles(scope, context.now, report)
    _kinds(scope, report)
    return report.result()


def _blocks(scope: Scope, report: Report) -> None:
    rows = scope.recent_tasks(["blocked"], TASK_WINDOW).values_list("block_owner", "block_action", "assignee")
    causes: Counter[tuple[str, str]] = Counter()
    novas: dict[tuple[str, str], set[str]] = {}
    for owner, action, assignee in rows:
        # the Nova's name in the action tells cases apart that are one
        cause = (owner, action.replace(assignee, "…") if assignee else action)
        causes[cause] += 1
        novas.setdefault(cause, set()).add(assignee or "nobody")
    report.section(f"Blocked tasks: {causes.total():,}")
    for (owner, action), count in causes.most_common(20):
        report.line(f"{count:,} wait for {owner} to {action} ({', '.join(sorted(novas[owner, action])[:5])})")
        if count >= OFTEN:
            report.find(f"blocked often: {owner} to {action}", f"{count:,} tasks wait for {owner} to {action}")
    report.metrics["blocked"] = causes.total()


def _retries(scope: Scope, report: Report) -> None:
    rows = scope.recent_executions(EXECUTION_WINDOW).values_list("executor", "action", "attempt", "runs")
    tried: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    died: Counter[str] = Counter()
    for executor, action, attempt, runs in rows:
        name = f"{executor}/{action or 'brief'}"
        tried[name] += 1
        repeated[name] += attempt > 1
        died[name] += runs > 1
    report.section("Retries by action")
    names = [name for name, count in repeated.most_common(20) if count]
    report.lines([f"{name}: {repeated[name]:,} of {tried[name]:,} executions were retries" for name in names] or ["none"])
    for name, count in repeated.items():
        if count >= OFTEN and count * 4 >= tried[name]:
            report.find(f"retried often: {name}", f"{count:,} of {tried[name]:,} executions of {name} were retries")
    for name, count in died.items():
        if count:
            report.find(f"hosts died in: {name}", f"{count:,} executions of {name} were begun more than once: their host died")
    report.metrics |= {"executions": tried.total(), "retries": repeated.total(), "begun_twice": died.total()}


def _hours(scope: Scope, report: Report) -> None:
    failed = scope.recent_executions(EXECUTION_WINDOW).filter(status__in=_FAILED, finished_at__isnull=False)
    moments = failed.values_list("finished_at", flat=True)
    hours: Counter[str] = Counter(f"{moment:%H}:00" for moment in moments)
    report.section("Failures by hour of the day (UTC)")
    report.lines(counted(hours) or ["none"], most=6)
    mean = hours.total() / 24
    for hour, count in hours.items():
        if count >= 10 and count > 6 * mean:
            report.find(f"failures cluster at {hour}", f"{count:,} of {hours.total():,} failures fell into the hour of {hour}")
    report.metrics["failures"] = hours.total()


def _titles(scope: Scope, now: datetime, report: Report) -> None:
    day = now - timedelta(days=1)
    statuses = ["pending", "in_progress", "blocked", "completed"]
    recent = scope.recent_tasks(statuses, TASK_WINDOW).filter(created_at__gte=day).exclude(work_type="momentum")
    titles: Counter[str] = Counter(" ".join(title.lower().split()) for title in recent.values_list("title", flat=True))
    again = [(title, count) for title, count in titles.most_common(20) if count >= OFTEN]
    report.section("Titles that came again within 24 hours")
    report.lines([f"{title[:100]}: {count:,} times" for title, count in again] or ["none"])
    for title, count in again:
        report.find(f"repeated title: {title[:100]}", f"{count:,} tasks within 24 hours are called {title[:100]!r}")
    report.metrics["repeated_titles"] = len(again)


def _kinds(scope: Scope, report: Report) -> None:
    done = scope.recent_tasks(["completed"], TASK_WINDOW).filter(outcome="succeeded")
    kinds: Counter[str] = Counter(done.values_list("work_type", flat=True))
    by_nova: dict[str, Counter[str]] = {}
    for nova_id, work_type in done.values_list("assignee", "work_type"):
        by_nova.setdefault(nova_id or "", Counter())[work_type] += 1
    report.section("What was done, by kind of work")
    report.lines([f"{name} ({share_text(kinds[name], kinds.total())})" for name in sorted(kinds, key=lambda k: -kinds[k])])
    for nova_id, counts in by_nova.items():
        if counts.total() >= BUSYWORK_LEAST and counts["momentum"] > BUSYWORK_SHARE * counts.total():
            share = share_text(counts["momentum"], counts.total())
            report.find(f"mostly momentum work: {nova_id}", f"{share} of what {nova_id} did lately was momentum work")
    report.metrics["momentum_share"] = round(kinds["momentum"] / kinds.total(), 3) if kinds else 0.0
