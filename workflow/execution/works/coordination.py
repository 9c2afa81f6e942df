"""optimize_coordination: who has too much, what waits for what, and what nobody may run. Reads only: people move work."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from django.db.models import Count, Min

from workflow.execution.registry import EXTERNAL, ExecutionContext, Result, is_known
from workflow.execution.works.report import Report, Scope, age, duration_text, percentile
from workflow.models import NovaState, Task, TaskDependency

DEPENDENCY_WINDOW = 5_000
OPEN_WINDOW = 2_000
LOADED_LEAST = 5
LOADED_FACTOR = 3
WAITED_SECONDS = 3_600.0
LONG_SECONDS = 86_400.0
_LISTED = 100


def optimize_coordination(context: ExecutionContext) -> Result:
    """Compare the Novas' loads, follow the dependencies, and look for a taker of every open task."""
    scope, now = Scope.of(context), context.now
    report = Report(f"Coordination in {scope.label}")
    _loads(scope, now, report)
    _dependencies(scope, report)
    _open(scope, now, report)
    return report.result()


def _loads(scope: Scope, now: datetime, report: Report) -> None:
    modes = dict(scope.states().values_list("pk", "mode"))
    pending = Task.objects.filter(status="pending", assignee__isnull=False).order_by()
    if scope.team:
        pending = pending.filter(assignee__team=scope.team)
    rows = pending.values("assignee").annotate(count=Count("pk"), oldest=Min("created_at"))
    waiting = {row["assignee"]: (row["count"], row["oldest"]) for row in rows if row["assignee"] in modes}
    counts = {nova_id: waiting.get(nova_id, (0, None))[0] for nova_id, mode in modes.items() if mode in NovaState.RUNNING_MODES}
    median = percentile(list(counts.values()), 0.5)
    report.section(
        f"Pending tasks: {sum(count for count, _ in waiting.values()):,} with {len(waiting):,} of {len(modes):,} Novas"
    )
    ranked = sorted(waiting, key=lambda nova_id: (-waiting[nova_id][0], nova_id))
    report.lines([f"{name}: {waiting[name][0]:,}, the oldest waits for {_waited(now, waiting[name][1])}" for name in ranked])
    for nova_id in ranked[:_LISTED]:
        count = waiting[nova_id][0]
        if modes[nova_id] not in NovaState.RUNNING_MODES:
            report.find(
                f"waits for a stopped Nova: {nova_id}", f"{count:,} tasks wait for {nova_id}, which is {modes[nova_id]}"
            )
        elif count > LOADED_LEAST and count > LOADED_FACTOR * max(1.0, median) and len(counts) > 1:
            report.find(
                f"overloaded: {nova_id}", f"{count:,} tasks wait for {nova_id}; half the Novas have {median:.0f} or fewer"
            )
        elif age(now, waiting[nova_id][1]) > LONG_SECONDS:
            waited = _waited(now, waiting[nova_id][1])
            report.find(f"waits over a day: {nova_id}", f"the oldest of {count:,} tasks with {nova_id} waits for {waited}")
    report.metrics |= {
        "pending": sum(count for count, _ in waiting.values()),
        "pending_most": max(counts.values(), default=0),
        "pending_median": median,
    }


def _waited(now: datetime, moment: datetime | None) -> str:
    return duration_text(age(now, moment))


def _dependencies(scope: Scope, report: Report) -> None:
    newest = TaskDependency.objects.order_by("-id").values("pk")[:DEPENDENCY_WINDOW]
    edges = TaskDependency.objects.filter(pk__in=newest, task__personal=False).exclude(task__status="completed")
    if scope.team:
        edges = edges.filter(task__team=scope.team) | edges.filter(task__assignee__team=scope.team)
    waits_for: dict[str, set[str]] = defaultdict(set)
    for task_id, other in edges.values_list("task_id", "depends_on"):
        waits_for[task_id].add(other)
    wanted = sorted(set().union(*waits_for.values()))
    known: dict[str, tuple[str, str, str]] = {}
    for start in range(0, len(wanted), 1_000):
        rows = Task.objects.filter(pk__in=wanted[start : start + 1_000])
        known |= {row[0]: row[1:] for row in rows.values_list("pk", "status", "outcome", "block_owner")}
    for task_id, others in waits_for.items():
        for other in sorted(others):
            if other not in known:
                report.find(f"waits for a missing task: {task_id}", f"{task_id} waits for {other}, which does not exist")
                continue
            status, outcome, owner = known[other]
            if status == "blocked":
                report.find(f"waits for a blocked task: {task_id}", f"{task_id} waits for {other}, which waits for {owner}")
            elif outcome == "cancelled":
                report.find(f"waits for a cancelled task: {task_id}", f"{task_id} waits for {other}, which was cancelled")
    circles = list(_circles(waits_for))
    for circle in circles:
        report.find(f"circle: {' > '.join(circle)}", f"these tasks wait for each other: {', '.join(circle)}")
    report.section("Dependencies")
    report.line(f"{len(waits_for):,} open tasks wait for {len(wanted):,} others; {len(circles):,} circles")
    report.metrics |= {"waiting_tasks": len(waits_for), "circles": len(circles)}


def _circles(edges: Mapping[str, set[str]]) -> Iterable[tuple[str, ...]]:
    """Give each circle once, beginning with its smallest id; without recursion, since a chain may be long."""
    finished: set[str] = set()
    for start in sorted(edges):
        path: list[str] = []
        places: dict[str, int] = {}
        stack = [(start, False)]
        while stack:
            task_id, leaving = stack.pop()
            if leaving:
                finished.add(task_id)
                del places[path.pop()]
            elif task_id in places:
                circle = path[places[task_id] :]
                least = circle.index(min(circle))
                yield (*circle[least:], *circle[:least])
            elif task_id in edges and task_id not in finished:
                places[task_id] = len(path)
                path.append(task_id)
                stack.append((task_id, True))
                stack += [(other, False) for other in sorted(edges[task_id], reverse=True)]


def _open(scope: Scope, now: datetime, report: Report) -> None:
    """Look for open tasks that no Nova of their team may run, or that wait long for an agent."""
    active = scope.states().filter(mode__in=NovaState.RUNNING_MODES)
    allowed: dict[str, set[str]] = defaultdict(set)  # team -> executors its Novas may run; "" = any team
    for team, executors in active.values_list("nova__team", "nova__allowed_executors"):
        allowed[team] |= set(executors)
        allowed[""] |= set(executors)
    tasks = Task.objects.filter(status="pending", assignee=None, waiting_on=0, personal=False).order_by("order_at", "id")
    rows = tasks.values_list("pk", "executor", "team", "created_at")[:OPEN_WINDOW]
    stranded: Counter[tuple[str, str]] = Counter()
    oldest: dict[tuple[str, str], datetime] = {}
    total = 0
    for _, executor, team, created_at in rows:
        if scope.team and team != scope.team:
            continue
        total += 1
        taken = team in allowed and (not executor or executor in allowed[team])
        if not taken or (executor in EXTERNAL and age(now, created_at) > WAITED_SECONDS):
            stranded[executor, team] += 1
            oldest[executor, team] = min(created_at, oldest.get((executor, team), created_at))
    report.section(f"Open tasks: {total:,}")
    for (executor, team), count in stranded.most_common(_LISTED):
        whom = f"team {team}" if team else "the fleet"
        since = duration_text(age(now, oldest[executor, team]))
        if executor in EXTERNAL and executor in allowed[team]:
            report.find(
                f"waits for an agent: {whom}", f"{count:,} open tasks of {whom} wait for an agent, the oldest for {since}"
            )
        else:
            known = "" if not executor or is_known(executor) else ", which is not configured here"
            report.find(
                f"nobody may run: executor {executor or 'default'}, {whom}",
                f"{count:,} open tasks of {whom} need executor {executor or '(default)'}{known}; no running Nova there may "
                f"take them; the oldest waits for {since}",
            )
    report.metrics |= {"open": total, "stranded": stranded.total()}
