"""brief: what somebody needs to know to do a piece of work that nothing here can do. Reads only; the work is never called done.

The answer carries `needs`, so the task is blocked for an operator with the brief as its results.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workflow.core.work import WorkType, similarity_key
from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works.report import age, duration_text
from workflow.models import Task, TaskDependency, TaskStatistics

TASK_WINDOW = 500  # newest tasks of each status that are looked through
RELATED = 5
_COLUMNS = ("pk", "title", "status", "outcome", "started_at", "completed_at", "insights", "block_reason")
_FILLER = frozenset(
    re.findall(
        r"\w+",
        "about after again also been before from have into make more must need next over please should some task that their "
        "them then there these they this those till until what when where which while will with work would your",
    )
)
_ACCEPTANCE = re.compile(
    r"\b(accept\w*|done when|definition of done|criteri\w+|expected|should result|must show)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Related:
    task_id: str
    title: str
    shared: int
    status: str
    seconds: float  # 0: not completed
    insights: tuple[str, ...]
    block_reason: str


def work_brief(context: ExecutionContext, *, missing_action: str = "") -> Result:
    """Collect related work, insights, an estimate, missing facts and steps for a task. `missing_action`: asked for, unknown."""
    task = Task.objects.filter(pk=context.task_id).first()
    related = _related(context)
    seconds, basis = _estimate(task, related)
    missing = _missing(context, task, missing_action)
    lines = [f"Work brief for {context.task_id}: {context.title}", ""]
    lines += [f"Nothing {context.nova_id} has can do this work; it was not done."]
    lines += ["", "Estimate", f"- {duration_text(seconds)} ({basis})" if seconds else f"- none ({basis})"]
    lines += ["", "Missing facts", *(f"- {fact}" for fact in missing or ["none"])]
    lines += ["", "Related tasks", *(_related_lines(related) or ["- none among the newest tasks"])]
    insights = list(dict.fromkeys(sentence for other in related for sentence in other.insights))[:8]
    lines += ["", "What was learned from them", *(f"- {sentence}" for sentence in insights or ["nothing yet"])]
    lines += ["", "Proposed steps", *_steps(context, missing, related)]
    metrics: dict[str, Any] = {
        "estimate_seconds": round(seconds, 3),
        "related": [other.task_id for other in related],
        "missing": missing,
        "insights": len(insights),
    }
    needs = {"owner": "operator", "action": f"connect a model or an agent to {context.nova_id}"}
    return Result("\n".join(lines), metrics, needs=needs)


def _words(title: str) -> frozenset[str]:
    return frozenset(word for word in re.findall(r"[^\W_]{4,}", title.lower()) if word not in _FILLER)


def _related(context: ExecutionContext) -> list[_Related]:
    """Find the tasks that share most words of the title, among the newest; rare words count more than frequent ones."""
    wanted = _words(context.title)
    if not wanted:
        return []
    rows: list[tuple[Any, ...]] = []
    for status in ("completed", "blocked", "in_progress", "pending"):
        newest = Task.objects.filter(status=status, personal=False).exclude(pk=context.task_id).order_by("-created_at")
        rows += newest.values_list(*_COLUMNS)[:TASK_WINDOW]
    shared = {row[0]: wanted & _words(row[1]) for row in rows}
    frequency = Counter(word for words in shared.values() for word in words)

    def weight(row: tuple[Any, ...]) -> tuple[float, bool]:
        return sum(1.0 / frequency[word] for word in shared[row[0]]), row[2] == "completed"

    least = 1 if len(wanted) < 3 else 2
    found = sorted((row for row in rows if len(shared[row[0]]) >= least), key=weight, reverse=True)
    return [_as_related(row, len(shared[row[0]])) for row in found[:RELATED]]


def _as_related(row: tuple[Any, ...], shared: int) -> _Related:
    task_id, title, status, outcome, started_at, completed_at, insights, block_reason = row
    done = outcome == "succeeded" and started_at and completed_at
    sentences = tuple(str(text) for text in insights.values() if text) if isinstance(insights, dict) else ()
    seconds = age(completed_at, started_at) if done else 0.0
    return _Related(task_id, title, shared, outcome or status, seconds, sentences, block_reason)


def _related_lines(related: Sequence[_Related]) -> list[str]:
    lines = []
    for other in related:
        took = f", took {duration_text(other.seconds)}" if other.seconds else ""
        stuck = f": {other.block_reason[:160]}" if other.status == "blocked" and other.block_reason else ""
        lines.append(f"- {other.task_id} {other.title[:120]} ({other.status}{took}{stuck})")
    return lines


def _estimate(task: Task | None, related: Sequence[_Related]) -> tuple[float, str]:
    """Give seconds and what they rest on: related tasks, else tasks of the kind, else what the task itself says."""
    took = [other.seconds for other in related if other.seconds]
    if took:
        return sum(took) / len(took), f"mean of {len(took)} related tasks that succeeded"
    if task is not None:
        key = similarity_key(WorkType(task.work_type), task.executor, task.action)
        known = TaskStatistics.objects.filter(pk=key, count__gt=0).first()
        if known is not None:
            return known.seconds / known.count, f"mean of {known.count:,} earlier tasks of its kind"
        if task.estimated_duration:
            return task.estimated_duration, "as the task was given, no history"
    return 0.0, "no related task has succeeded yet"


def _missing(context: ExecutionContext, task: Task | None, missing_action: str) -> list[str]:
    missing = []
    if missing_action:
        missing.append(f"the executor {context.executor} has no action {missing_action!r}")
    text = context.description.strip()
    if len(text) < 20:
        missing.append("a description of what is wanted" if not text else "more than a few words of description")
    if not context.metadata.get("acceptance") and not _ACCEPTANCE.search(text):
        missing.append("how to tell that it is done (acceptance)")
    if task is not None and not task.estimated_duration:
        missing.append("an estimate of the time it may take")
    wanted = list(TaskDependency.objects.filter(task_id=context.task_id).values_list("depends_on", flat=True)[:50])
    known = set(Task.objects.filter(pk__in=wanted).values_list("pk", flat=True))
    return missing + [f"the task {other}, which it depends on, does not exist" for other in wanted if other not in known]


def _steps(context: ExecutionContext, missing: Sequence[str], related: Sequence[_Related]) -> list[str]:
    steps = []
    if missing:
        steps.append(f"add what is missing: {'; '.join(missing)}")
    finished = [other for other in related if other.seconds]
    if finished:
        steps.append(f"read {finished[0].task_id}, the closest task that succeeded, and reuse what fits")
    stuck = [other for other in related if other.status == "blocked"]
    if stuck:
        steps.append(f"see why {stuck[0].task_id} is blocked: this one may be blocked by the same")
    still_open = [other for other in related if other.status in ("pending", "in_progress")]
    if still_open:
        steps.append(f"make sure that {still_open[0].task_id} is not the same work")
    steps.append(f"connect a model or an agent to {context.nova_id}, or give the task an executor and action that can do it")
    steps.append("unblock the task; it will be tried again with fresh attempts")
    return [f"{number}. {step}" for number, step in enumerate(steps, 1)]
