"""The operator's controls on tasks, one or many: each asks for a reason, then calls the services that REST calls.

What was chosen for many is kept with the session before anything is asked, so that a list that grows meanwhile can't widen what
is done.
"""

import secrets
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from reporting.board_rows import matching
from reporting.core.task_looks import PRIORITIES, look_of
from reporting.core.words import plain
from reporting.fragments import demand
from reporting.pages.board import table_words
from reporting.pages.confirm import Outcome, Question, ReasonForm, confirm_with
from reporting.pages.task import task_or_404
from reporting.task_filters import filters_of
from workflow import task_selections, task_services
from workflow.core.protocol import TITLE_LIMIT
from workflow.core.work import Priority
from workflow.models import Task
from workflow.task_services import BULK_LIMIT, TaskEdit

RIGHT = "workflow.change_task"
OFFERED = ("retry", "priority", "edit", "cancel")
SHOWN = 20  # of many that were chosen
KEPT = 5  # selections of one session
_SELECTIONS = "task_selections"
_TITLES = {"retry": "Try again", "priority": "Change priority", "edit": "Edit", "cancel": "Cancel"}
_EFFECTS = {
    "retry": "Puts blocked tasks back to pending with fresh attempts; those that failed are tried again without their wait.",
    "priority": "Gives pending or blocked tasks another place in the order.",
    "edit": "Changes what the task says and whose it is, while nobody works on it.",
    "cancel": "Ends tasks that nobody wants any more. Tasks that wait for them become blocked. It can't be taken back.",
}
_PAST = {"retry": "to be tried again", "priority": "ranked anew", "edit": "changed", "cancel": "cancelled"}


class PriorityForm(ReasonForm):
    """A new priority, and why."""

    priority = forms.ChoiceField(choices=[(p.value, p.value.capitalize()) for p in Priority])
    field_order = ["priority", "reason"]


class EditForm(ReasonForm):
    """What may be changed of a task while nobody works on it, and why."""

    title = forms.CharField(max_length=TITLE_LIMIT)
    description = forms.CharField(required=False, strip=False, widget=forms.Textarea(attrs={"rows": 5}))
    priority = forms.ChoiceField(choices=[(p.value, p.value.capitalize()) for p in Priority])
    assignee = forms.CharField(
        max_length=63, required=False, label="Nova", help_text="Empty: any Nova of its team, or of the fleet, may take it."
    )
    field_order = ["title", "description", "priority", "assignee", "reason"]


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def control_task(request: HttpRequest, task_id: str, verb: str) -> HttpResponse:
    """Ask why, then carry a verb out for one task."""
    demand(request, "workflow.view_task")
    demand(request, RIGHT)
    task = task_or_404(task_id)
    back = reverse("task", args=[task_id])

    def act(said: Mapping[str, Any], now: datetime) -> Outcome:
        changed = _carry_out(verb, task, said, now)
        if not changed:
            return Outcome("Nothing to change: it stands like that already.", back, messages.INFO)
        return Outcome(f"Task {task_id} {'is ' if verb == 'retry' else ''}{_PAST[verb]}.", back)

    look = look_of(task.status, task.outcome)
    facts = [("Task", task.title), ("Now", f"{look.word}, {PRIORITIES[task.priority].word.lower()}")]
    question = Question(f"{_TITLES[verb]}: {task_id}", _TITLES[verb] if verb != "cancel" else "Cancel task", _EFFECTS[verb],
                        back, facts, danger=verb == "cancel")  # fmt: skip
    return confirm_with(request, question, _form(request, verb, task), act)


def _form(request: HttpRequest, verb: str, task: Task | None = None) -> ReasonForm:
    given = request.POST or None
    if verb == "priority":
        return PriorityForm(given, initial={"priority": task.priority if task else Priority.HIGH.value})
    if verb == "edit" and task is not None:
        names = ("title", "description", "priority")
        return EditForm(given, initial={name: getattr(task, name) for name in names} | {"assignee": task.assignee_id or ""})
    return ReasonForm(given)


def _carry_out(verb: str, task: Task, said: Mapping[str, Any], now: datetime) -> bool:
    reason = said["reason"]
    if verb == "retry":
        return task_services.retry_task(task.pk, reason=reason, now=now)
    if verb == "cancel":
        return task_services.cancel_task(task.pk, reason=reason, now=now)
    if verb == "priority":
        return task_services.set_priority(task.pk, Priority(said["priority"]), reason=reason, now=now)
    description = said["description"].replace("\r\n", "\n")
    edit = TaskEdit(
        title=" ".join(said["title"].split()),
        description=None if description == task.description.replace("\r\n", "\n") else description,
        priority=Priority(said["priority"]),
        assignee=said["assignee"].strip().lower(),
    )
    return task_services.edit_task(task.pk, edit, reason=reason, now=now)


@login_required
@require_POST
def select_tasks(request: HttpRequest) -> HttpResponse:
    """Keep what was chosen in the table, then ask."""
    demand(request, RIGHT)
    verb = request.POST.get("verb", "")
    if verb not in task_selections.VERBS:
        raise Http404
    query = QueryDict(request.POST.get("query", "")[:2_000])
    back = f"{reverse('board')}?{query.urlencode()}"
    more = False
    if "every" in request.POST:
        words = table_words(query)
        keys, more = matching(filters_of(query), status=words.get("status", ""), oldest_first="order" in words, most=BULK_LIMIT)
    else:
        keys = [key for key in request.POST.getlist("task") if "\0" not in key][:BULK_LIMIT]
    if not keys:
        messages.error(request, "No task is ticked. Tick some, or choose all that match. Nothing was changed.")
        return HttpResponseRedirect(back)
    token = secrets.token_urlsafe(12)
    kept = dict(list(request.session.get(_SELECTIONS, {}).items())[-KEPT + 1 :])
    request.session[_SELECTIONS] = {**kept, token: {"keys": keys, "back": back, "more": more}}
    return HttpResponseRedirect(reverse("selection", args=[token, verb]))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def selection(request: HttpRequest, token: str, verb: str) -> HttpResponse:
    """Show what was chosen, ask why, then carry a verb out for all of it."""
    demand(request, RIGHT)
    chosen = request.session.get(_SELECTIONS, {}).get(token)
    if chosen is None:
        messages.info(request, "This selection was used or is too old. Choose again; nothing was changed.")
        return HttpResponseRedirect(f"{reverse('board')}?view=table")
    keys, back = chosen["keys"], chosen["back"]

    def act(said: Mapping[str, Any], now: datetime) -> Outcome:
        priority = Priority(said.get("priority", Priority.MEDIUM.value))
        answers = task_selections.act_on_many(verb, keys, reason=said["reason"], now=now, priority=priority)
        request.session[_SELECTIONS] = {key: kept for key, kept in request.session[_SELECTIONS].items() if key != token}
        return _told(verb, answers, back)

    return confirm_with(request, _question(verb, keys, back, chosen["more"]), _form(request, verb), act)


def _question(verb: str, keys: list[str], back: str, more: bool) -> Question:
    rows = Task.objects.filter(pk__in=keys, personal=False)
    counted: Counter[str] = Counter()
    for status, priority in rows.values_list("status", "priority"):
        counted[plain(status)] += 1
        counted[f"{priority} priority"] += 1
    titles = dict(rows.filter(pk__in=keys[:SHOWN]).values_list("pk", "title"))
    facts = [("Tasks", f"{len(keys)}{', the first that match; there are more' if more else ''}")]
    facts += [(name.capitalize(), str(number)) for name, number in sorted(counted.items())]
    shown = [f"{key}: {titles[key]}" if key in titles else f"{key}: gone" for key in keys[:SHOWN]]
    title = f"{_TITLES[verb]}: {_tasks(len(keys))}"
    return Question(
        title, title.replace(":", ""), _EFFECTS[verb], back, facts, danger=verb == "cancel", rows=shown,
        more=max(0, len(keys) - SHOWN),
    )  # fmt: skip


def _told(verb: str, answers: list[task_selections.Acted], back: str) -> Outcome:
    changed = sum(answer.changed for answer in answers)
    problems = [answer.problem for answer in answers if answer.problem]
    unchanged = len(answers) - changed - len(problems)
    words = [f"{_tasks(changed)} {_PAST[verb]}."]
    if unchanged:
        words.append(f"{unchanged} needed no change.")
    if problems:
        words.append(f"{len(problems)} refused: {' '.join(problems[:3])}{' …' if len(problems) > 3 else ''}")
    level = messages.SUCCESS if not problems else messages.WARNING if changed else messages.ERROR
    return Outcome(" ".join(words), back, level)


def _tasks(number: int) -> str:
    return f"{number} task{'' if number == 1 else 's'}"
