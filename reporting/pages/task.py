"""The page of one task: what it is, how it went, what came of it, its story. Its texts are for those who act or audit."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from django.http import Http404, HttpRequest
from django.urls import reverse

from reporting import task_story
from reporting.board_rows import card_of
from reporting.fragments import fragment, page
from safety.admin import may_read_texts
from workflow.models import Task

PIECE = 20_000  # characters of a text that are shown; the API gives all


@fragment("task:{task_id}", "reporting/task/body.html")
def task_body(request: HttpRequest, now: datetime, task_id: str) -> Mapping[str, Any]:
    """Give all that is known of a task, as far as the reader may know it."""
    task = task_or_404(task_id)
    texts = may_read_texts(request)
    return {
        "task": task,
        "card": card_of(task),
        "texts": texts,
        "verbs": verbs_of(task, now) if request.user.has_perm("workflow.change_task") else [],  # type: ignore[union-attr]
        "reflection": _pairs(task.insights) if texts else [],
        "metrics": _pairs(task.metrics) if texts else [],
        "metadata": _pairs(task.metadata) if texts else [],
        "results": task.results[:PIECE],
        "is_cut": len(task.results) > PIECE,
        "attempts": task_story.attempts(task),
        "waits_for": task_story.waits_for(task),
        "waiting_for": task_story.waiting_for(task),
        "approvals": task_story.approvals_of(task),
        "message": task_story.message_of(task),
        "timeline": task_story.timeline(task, whole=texts),
        "shown": task_story.SHOWN,
    }


@page("reporting/task/page.html", "workflow.view_task")
def task(request: HttpRequest, now: datetime, task_id: str) -> Mapping[str, Any]:
    """Show one task."""
    return {"task": task_or_404(task_id), "body": task_body.show(request, now, task_id=task_id)}


def task_or_404(task_id: str) -> Task:
    """Give a task; a Nova's personal one is not there.

    :raises Http404: there is none.
    """
    found = Task.objects.filter(pk=task_id, personal=False).first() if "\0" not in task_id else None
    if found is None:
        raise Http404
    return found


def verbs_of(task: Task, now: datetime) -> list[tuple[str, str, str, bool]]:
    """Give (name, title, address, whether it is dangerous) of what would change a task as it stands."""
    offered = []
    if task.status == "blocked":
        offered.append(("retry", "Unblock", False))
    elif task.status == "pending" and task.not_before and task.not_before > now:
        offered.append(("retry", "Try now", False))
    if task.status in ("pending", "blocked"):
        offered += [("priority", "Priority", False), ("edit", "Edit", False)]
    if task.status != "completed":
        offered.append(("cancel", "Cancel", True))
    return [(name, title, reverse("control-task", args=[task.pk, name]), danger) for name, title, danger in offered]


def _pairs(value: Any) -> list[tuple[str, str]]:
    """Write the members of a JSON object, each as a name and a text."""
    if not isinstance(value, dict):
        return []
    return [
        (str(name).replace("_", " "), text if isinstance(text, str) else orjson.dumps(text).decode()[:PIECE])
        for name, text in value.items()
    ]
