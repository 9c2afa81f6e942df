"""update_documentation: a handbook from what Novas learned, and what nobody has described. Reads only."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from django.db.models import F, Q, QuerySet

from safety.models import SafetyPolicy
from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works.report import Report, Scope, age, duration_text, percentile
from workflow.models import Objective

TASK_WINDOW = 2_000
MANY_TASKS = 5
_LISTED = 50


def update_documentation(context: ExecutionContext) -> Result:
    """Write down what recent reflections add up to, action by action, and name what lacks a description."""
    scope = Scope.of(context)
    report = Report(f"Handbook of {scope.label}")
    _handbook(scope, report)
    _undescribed(scope, report)
    return report.result()


def _handbook(scope: Scope, report: Report) -> None:
    columns = ("executor", "action", "work_type", "insights", "started_at", "completed_at", "outcome")
    done: Counter[str] = Counter()
    reflected: Counter[str] = Counter()
    sentences: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = defaultdict(list)
    rows = scope.recent_tasks(["completed"], TASK_WINDOW).filter(outcome="succeeded").order_by("-created_at")
    for executor, action, work_type, insights, started_at, completed_at, _ in rows.values_list(*columns):
        name = "/".join(part for part in (executor, action) if part) or f"{work_type} work"
        done[name] += 1
        if started_at and completed_at:
            seconds[name].append(age(completed_at, started_at))
        if insights:
            reflected[name] += 1
            _collect(insights, sentences[name])
    report.section(f"What was learned, from {done.total():,} tasks")
    for name, count in done.most_common(_LISTED):
        half = duration_text(percentile(seconds[name], 0.5))
        report.section(f"{name}: {count:,} done, half within {half}, {reflected[name]:,} with insights")
        for kind, found in sorted(sentences[name].items()):
            for sentence, times in found.most_common(2):
                report.line(f"{kind.replace('_', ' ')}: {sentence[:300]}" + (f" ({times} times)" if times > 1 else ""))
        if count >= MANY_TASKS and not reflected[name]:
            report.find(f"no insights: {name}", f"{count:,} tasks of {name} are done, and nothing was learned from any of them")
    report.metrics |= {"tasks": done.total(), "tasks_with_insights": reflected.total(), "actions": len(done)}


def _collect(insights: Any, into: dict[str, Counter[str]]) -> None:
    if isinstance(insights, Mapping):
        for kind, sentence in insights.items():
            if sentence:
                into[str(kind)][str(sentence)] += 1


def _undescribed(scope: Scope, report: Report) -> None:
    policies = SafetyPolicy.objects.filter(archived_at=None, description="")
    objectives = Objective.objects.filter(archived_at=None, description="")
    if scope.team:
        policies = policies.filter(nova__team=scope.team).distinct()
        objectives = objectives.filter(Q(team=scope.team) | Q(nova__team=scope.team))
    novas = scope.novas().filter(Q(name="") | Q(name=F("nova_id")))
    total = _name_all(policies, "policy", report) + _name_all(objectives, "objective", report)
    total += _name_all(novas, "Nova", report, lacks="a name of its own")
    report.metrics["undescribed"] = total


def _name_all(rows: QuerySet[Any], kind: str, report: Report, *, lacks: str = "a description") -> int:
    names = [str(row) for row in rows.order_by("pk")[:_LISTED]]
    for name in names:
        report.find(f"undescribed {kind}: {name}", f"the {kind} {name} lacks {lacks}")
    return len(names)
