"""The form for a new task. It is checked and accepted exactly as at REST; sent twice, it makes one task."""

import json
import secrets
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from reporting.fragments import demand
from reporting.task_filters import known_executors
from safety import audit
from workflow import task_services
from workflow.api.problem import field_errors
from workflow.api.serializers import TaskAccepted
from workflow.core.protocol import TITLE_LIMIT
from workflow.core.work import Priority
from workflow.errors import WorkflowError
from workflow.execution import registry
from workflow.models import Nova
from workflow.task_services import RequestRefused

SUGGESTED = 200  # Novas and teams that the browser offers while one types


class NewTaskForm(forms.Form):
    """What may be asked for; what REST refuses is refused here."""

    title = forms.CharField(max_length=TITLE_LIMIT, widget=forms.TextInput(attrs={"autofocus": True}))
    description = forms.CharField(
        required=False, strip=False, widget=forms.Textarea(attrs={"rows": 6}), help_text="All that whoever does it must know."
    )
    priority = forms.ChoiceField(choices=[(p.value, p.value.capitalize()) for p in Priority], initial=Priority.MEDIUM.value)
    assignee = forms.CharField(
        max_length=63, required=False, label="Nova", help_text="Empty: whichever is free first.",
        widget=forms.TextInput(attrs={"list": "novas", "autocomplete": "off"}),
    )  # fmt: skip
    team = forms.CharField(
        max_length=64, required=False, help_text="Only a Nova of this team may take it.",
        widget=forms.TextInput(attrs={"list": "teams", "autocomplete": "off"}),
    )  # fmt: skip
    executor = forms.ChoiceField(
        choices=lambda: [("", "The Nova's default"), *known_executors()], required=False, help_text="What runs it."
    )
    action = forms.CharField(
        max_length=64, required=False, help_text="For builtin and command: which one.",
        widget=forms.TextInput(attrs={"list": "actions", "autocomplete": "off"}),
    )  # fmt: skip
    metadata = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text='A JSON object, such as {"repository": "docs"}; it goes with the task.',
    )  # fmt: skip
    token = forms.CharField(max_length=64, widget=forms.HiddenInput)

    def clean_metadata(self) -> dict[str, Any]:
        text = self.cleaned_data["metadata"].strip()
        try:
            value = json.loads(text) if text else {}
        except (ValueError, RecursionError) as problem:
            raise forms.ValidationError(f"This is no JSON: {problem}. Nothing was made.") from None
        if not isinstance(value, dict):
            raise forms.ValidationError('Give a JSON object: {"name": "value"}. Nothing was made.')
        return value

    def clean(self) -> dict[str, Any]:
        """Ask the door of REST what it makes of this."""
        said = dict(super().clean() or {})
        if not self.errors:
            said["description"] = said["description"].replace("\r\n", "\n")
            self.accepted = TaskAccepted(data={name: value for name, value in said.items() if name != "token"})
            if not self.accepted.is_valid():
                for error in field_errors(self.accepted.errors):
                    name = error["pointer"].lstrip("/").partition("/")[0]
                    self.add_error(name if name in self.fields else None, error["detail"])
        return said


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_task(request: HttpRequest) -> HttpResponse:
    """Ask what is to be done; then make the task and show it."""
    demand(request, "workflow.add_task")
    form = NewTaskForm(request.POST or None, initial={"token": secrets.token_urlsafe(16), "assignee": _named(request)})
    if request.method == "POST" and form.is_valid():
        try:
            task_id, replayed = task_services.request_task(
                form.accepted.request(),
                sender=audit.current_actor(),
                now=timezone.now(),
                cause=f"request:{getattr(request, 'request_id', '')}",
                idempotency_key=f"page:{form.cleaned_data['token']}",
            )
        except RequestRefused as refusal:
            form.add_error(refusal.field if refusal.field in form.fields else None, f"{refusal} Nothing was made.")
        except WorkflowError as refusal:
            form.add_error(None, f"{refusal} Open the form anew.")
        else:
            text = f"Task {task_id} was made already; it was not made twice." if replayed else f"Task {task_id} is made."
            messages.add_message(request, messages.INFO if replayed else messages.SUCCESS, text)
            return HttpResponseRedirect(reverse("task", args=[task_id]))
    status = 200 if request.method == "GET" else 400
    return render(request, "reporting/task/new.html", {"form": form, **_suggestions()}, status=status)


def _named(request: HttpRequest) -> str:
    return request.GET.get("nova", "").replace("\0", "")[:63]


def _suggestions() -> dict[str, list[str]]:
    serving = Nova.objects.filter(archived_at=None)
    teams = serving.exclude(team="").order_by("team").values_list("team", flat=True).distinct()
    actions = {action for executor in registry.executors().values() for action in executor.actions}
    return {
        "novas": list(serving.order_by("nova_id").values_list("nova_id", flat=True)[:SUGGESTED]),
        "teams": list(teams[:SUGGESTED]),
        "actions": sorted(actions),
    }
