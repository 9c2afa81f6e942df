"""What happened, at the API: executions, the journal, insights and celebrations. Nothing is changed here.

What is personal is not there: private reflections and personal tasks are left out of every list.
"""

from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from safety.models import AuditEntry
from workflow.api.pages import Pages
from workflow.api.serializers import ExecutionShown, Instant, Shown
from workflow.api.views import Door, choices_of
from workflow.carrying import TASK_CELEBRATED
from workflow.models import Execution, Task


class EntryShown(Shown):
    class Meta:
        model = AuditEntry
        fields = [
            "id", "created_at", "nova_id", "seq", "actor", "action", "object_type", "object_id", "before", "after", "reason",
            "request_id", "cause", "stream", "message",
        ]  # fmt: skip


class ExecutionListed(ExecutionShown):
    task_id = serializers.CharField()

    class Meta(ExecutionShown.Meta):
        fields = [*ExecutionShown.Meta.fields, "task_id", "retryable"]


class InsightShown(serializers.Serializer[Any]):
    task_id = serializers.CharField(source="id")
    title = serializers.CharField()
    nova_id = serializers.CharField(source="assignee_id")
    completed_at = Instant()
    insights = serializers.DictField(child=serializers.CharField())


class CelebrationShown(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    nova_id = serializers.CharField()
    task_id = serializers.CharField(source="object_id")
    created_at = Instant()
    celebration_level = serializers.CharField(source="after.level")
    achievement_impact = serializers.CharField(source="after.impact")
    message = serializers.SerializerMethodField()

    def get_message(self, entry: AuditEntry) -> str:
        return str((entry.message or {}).get("message", ""))


class ExecutionList(Door):
    """Executions, newest first."""

    permissions_needed = {"GET": "workflow.view_task"}
    parameters = frozenset({"nova_id", "task_id", "status", "executor"})
    _pages: Pages[Execution] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows, query = Execution.objects.filter(task__personal=False), request.query_params
        if statuses := choices_of(request, "status", list(Execution.Status.values)):
            rows = rows.filter(status__in=statuses)
        for parameter, column in (("nova_id", "nova_id"), ("task_id", "task_id"), ("executor", "executor")):
            if value := query.get(parameter):
                rows = rows.filter(**{column: value})
        return Response(self._pages.answer(request, [rows], lambda found: list(ExecutionListed(found, many=True).data)))


class JournalList(Door):
    """The journal, newest first; `action` may end in `*`."""

    permissions_needed = {"GET": "safety.view_auditentry"}
    parameters = frozenset({"nova_id", "action", "actor", "object_type", "object_id", "request_id", "cause"})
    _pages: Pages[AuditEntry] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows = AuditEntry.objects.filter(personal=False)
        for name in sorted(self.parameters - {"action"}):
            if value := request.query_params.get(name):
                rows = rows.filter(**{name: value})
        if action := request.query_params.get("action"):
            begins = action.endswith("*")
            rows = rows.filter(action__startswith=action[:-1]) if begins else rows.filter(action=action)
        return Response(self._pages.answer(request, [rows], lambda found: list(EntryShown(found, many=True).data)))


class JournalEntry(Door):
    """One entry of the journal."""

    permissions_needed = {"GET": "safety.view_auditentry"}

    def get(self, request: Request, entry_id: str) -> Response:
        entry = AuditEntry.objects.filter(pk=int(entry_id), personal=False).first()
        if entry is None:
            raise NotFound
        return Response(EntryShown(entry).data)


class InsightList(Door):
    """What was learned from completed tasks, the newest task first."""

    permissions_needed = {"GET": "workflow.view_task"}
    parameters = frozenset({"nova_id"})
    _pages: Pages[Task] = Pages("created_at", "id", descending=True)

    def get(self, request: Request) -> Response:
        rows = Task.objects.filter(status="completed", personal=False, insights__isnull=False)
        if nova_id := request.query_params.get("nova_id"):
            rows = rows.filter(assignee=nova_id)
        rows = rows.only("id", "title", "assignee_id", "completed_at", "created_at", "insights")
        return Response(self._pages.answer(request, [rows], lambda found: list(InsightShown(found, many=True).data)))


class CelebrationList(Door):
    """How completed tasks were celebrated, newest first."""

    permissions_needed = {"GET": "workflow.view_task"}
    parameters = frozenset({"nova_id"})
    _pages: Pages[AuditEntry] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows = AuditEntry.objects.filter(action=TASK_CELEBRATED, personal=False)
        if nova_id := request.query_params.get("nova_id"):
            rows = rows.filter(nova_id=nova_id)
        return Response(self._pages.answer(request, [rows], lambda found: list(CelebrationShown(found, many=True).data)))
