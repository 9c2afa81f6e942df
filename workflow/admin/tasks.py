"""The admin's pages of tasks and their executions. Tasks change by verbs only; a new one is asked for like at the API."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import FieldTextFilter
from unfold.decorators import display
from unfold.paginator import InfinitePaginator
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from safety import audit
from safety.admin import RECENT, ExactTextFilter, KnownWordsFilter, ReadOnlyAdmin, may_read_texts, table, unbroken
from workflow import task_services
from workflow.admin.novas import known_executors
from workflow.admin.verbs import AdminVerb, ReasonForm, VerbAdmin, one_by_one
from workflow.core.work import Priority, TaskStatus
from workflow.models import Execution, Nova, Task
from workflow.task_services import RequestRefused, TaskRequest

PAGED_ROWS = 10_000
SEARCHED = 20_000  # of each status, for words
FILTERED = 50_000  # of each status, for filters that no index serves
UNSERVED = frozenset({"priority__exact", "work_type__exact", "outcome__exact"})
STATUS_LABELS = {"pending": "info", "in progress": "primary", "completed": "success", "blocked": "danger"}
PRIORITY_LABELS = {"critical": "danger", "high": "warning", "medium": "info", "low": "default"}
EXECUTION_LABELS = {
    "dispatched": "info",
    "running": "primary",
    "succeeded": "success",
    "failed": "danger",
    "timed_out": "danger",
    "abandoned": "warning",
    "cancelled": "default",
}


class PriorityForm(ReasonForm):
    """A new priority, and why."""

    priority = forms.ChoiceField(choices=[(p.value, p.value) for p in Priority], widget=UnfoldAdminSelectWidget)
    field_order = ["priority", "reason"]


class TaskForm(forms.ModelForm):  # type: ignore[type-arg]
    """What may be asked for."""

    executor = forms.ChoiceField(
        choices=lambda: [("", "the Nova's default"), *known_executors()], required=False, widget=UnfoldAdminSelectWidget
    )
    estimated_duration = forms.FloatField(
        required=False, min_value=0, max_value=30 * 86_400, help_text="seconds", widget=UnfoldAdminTextInputWidget
    )

    class Meta:
        model = Task
        fields = ["title", "description", "priority", "assignee", "team", "executor", "action", "estimated_duration"]

    def request(self) -> TaskRequest:
        """Give what was asked for as the services take it."""
        data = self.cleaned_data
        assignee: Nova | None = data["assignee"]
        return TaskRequest(
            title=data["title"],
            description=data["description"],
            priority=Priority(data["priority"]),
            assignee=assignee.nova_id if assignee else "",
            team=data["team"],
            executor=data["executor"],
            action=data["action"],
            estimated_duration=timedelta(seconds=data["estimated_duration"] or 0),
        )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            try:
                task_services.check_request(self.request())
            except RequestRefused as refusal:
                self.add_error(refusal.field, str(refusal))
        return cleaned


class Assigned(admin.SimpleListFilter):
    title = "assignment"
    parameter_name = "assigned"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Assigned"), ("no", "Open to all")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        return queryset.filter(assignee__isnull=self.value() == "no") if self.value() else queryset


def _cancel(key: str, answers: Mapping[str, Any], now: datetime) -> bool:
    return task_services.cancel_task(key, reason=answers["reason"], now=now)


def _unblock(key: str, answers: Mapping[str, Any], now: datetime) -> bool:
    return task_services.unblock_task(key, reason=answers["reason"], now=now)


def _rank(key: str, answers: Mapping[str, Any], now: datetime) -> bool:
    return task_services.set_priority(key, Priority(answers["priority"]), reason=answers["reason"], now=now)


def _term(text: str) -> str:
    return text.replace("\0", "").strip()


class ByStatus(InfinitePaginator):
    """Pages of tasks, each status read along its own index and merged: the cost does not grow with the table."""

    count = PAGED_ROWS  # what lies behind is found by filters
    statuses: Sequence[str] = tuple(TaskStatus)  # those that the filters leave
    newest = 0  # look only at so many newest tasks of each status; 0: at all

    def page(self, number: Any) -> Any:
        number = self.validate_number(number)
        end = number * self.per_page
        keys: list[tuple[datetime, str]] = []
        for status in self.statuses:
            part = self.object_list.filter(status=status, **self._bound(status))
            keys += part.values_list("created_at", "pk")[:end]
        keys.sort(reverse=True)
        wanted = [pk for _, pk in keys[end - self.per_page : end]]
        # in a list of their own: the filters that found them need not be asked again
        rows = Task.objects.filter(pk__in=wanted).select_related("assignee").order_by("-created_at", "-pk")
        rows = rows.defer("description", "results", "metrics", "insights", "metadata")
        return self._get_page(rows, number, self)

    def _bound(self, status: str) -> dict[str, datetime]:
        if not self.newest:
            return {}
        instants = Task.objects.filter(status=status).order_by("-created_at").values_list("created_at", flat=True)
        last = instants[self.newest : self.newest + 1]
        return {"created_at__gt": last[0]} if last else {}


class BlockOwner(ExactTextFilter):
    """Who can unblock it: blocked tasks only, which an index serves."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        rows: QuerySet[Task] = super().queryset(request, queryset)
        return rows.filter(status=TaskStatus.BLOCKED) if self.used_parameters else rows


@admin.register(Task)
class TaskAdmin(VerbAdmin):
    """Tasks, newest first; a Nova's personal ones are not shown."""

    journal_type = "task"
    dashboard = "task"
    form = TaskForm
    sortable_by: Any = ()
    texts = frozenset({
        "description", "results", "metrics", "insights", "show_executions", "block_reason", "sender", "cause",
        "idempotency_key", "metadata",
    })  # fmt: skip
    verbs = (
        AdminVerb(
            "unblock", "Unblock", "unblocked", "Puts blocked tasks back to pending, with fresh attempts.", one_by_one(_unblock),
            icon="lock_open", offered=lambda task: task.status == "blocked",
        ),
        AdminVerb(
            "priority", "Change priority", "ranked anew", "Gives pending or blocked tasks another place in the order.",
            one_by_one(_rank), form=PriorityForm, icon="swap_vert", offered=lambda task: task.status in ("pending", "blocked"),
        ),
        AdminVerb(
            "cancel", "Cancel task", "cancelled", "Ends tasks nobody wants any more. Tasks that wait for them become blocked.",
            one_by_one(_cancel), icon="cancel", danger=True, offered=lambda task: task.status != "completed",
        ),
    )  # fmt: skip
    list_display = [
        "show_id", "title", "show_status", "show_priority", "show_assignee", "show_block", "created_at",
    ]  # fmt: skip
    list_filter = [
        "status", "priority", "work_type", "outcome", Assigned, ("assignee__nova_id", ExactTextFilter),
        ("block_owner", BlockOwner), "created_at",
    ]  # fmt: skip
    search_fields = ["title"]
    search_help_text = (
        f"A task's whole id, or words among the newest {SEARCHED:,} of each status. Priority, work type and outcome are "
        f"looked for among the newest {FILTERED:,} of each."
    )
    ordering = ["-created_at"]
    autocomplete_fields = ["assignee"]
    shown = [
        "id", "title", "description", "status", "outcome", "priority", "work_type", "assignee", "team", "executor", "action",
        "estimated_duration", "show_progress", "attempts", "max_attempts", "waiting_on", "show_dependencies", "created_at",
        "started_at", "completed_at", "not_before", "results", "metrics", "insights", "show_executions", "block_owner",
        "block_action",
        "block_reason", "blocked_at", "sender", "cause", "metadata", "idempotency_key",
    ]  # fmt: skip
    fieldsets = [
        (None, {"fields": [
            "id", "title", "description", ("status", "outcome", "priority"), ("assignee", "team", "work_type"),
            ("executor", "action", "estimated_duration"),
        ]}),
        ("How far", {"fields": [
            ("show_progress", "attempts", "max_attempts"), ("created_at", "started_at"), ("completed_at", "not_before"),
            ("waiting_on", "show_dependencies"),
        ]}),
        ("What came of it", {"fields": ["results", "metrics", "insights", "show_executions"]}),
        ("Who can unblock it, and how", {"fields": [("block_owner", "blocked_at"), "block_action", "block_reason"]}),
        ("Where it came from", {"fields": [("sender", "cause", "idempotency_key"), "metadata"]}),
    ]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Task]:
        tasks: QuerySet[Task] = super().get_queryset(request)
        return tasks.filter(personal=False)

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Give the list without a number of results: nobody counts them."""
        changelist: ChangeList = super().get_changelist_instance(request)
        changelist.full_result_count = changelist.result_count
        return changelist

    def get_paginator(self, request: HttpRequest, queryset: QuerySet[Task], per_page: int, **options: Any) -> ByStatus:
        """Page through the statuses that the filters leave, as far back as what no index serves may look."""
        pages, given = ByStatus(queryset, per_page, **options), request.GET
        if given.get("status__exact") in tuple(TaskStatus):  # a database may read all of one to find that it is not another
            pages.statuses = (given["status__exact"],)
        elif given.get("block_owner__exact"):
            pages.statuses = (TaskStatus.BLOCKED,)
        if term := _term(given.get("q", "")):
            pages.newest = 0 if Task.objects.filter(pk=term).exists() else SEARCHED
        elif given.keys() & UNSERVED and not given.get("assignee__nova_id__exact"):
            pages.newest = FILTERED
        return pages

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Task], search_term: str
    ) -> tuple[QuerySet[Task], bool]:
        """Find a task by its id, or by words; how far back is the paginator's business."""
        term = _term(search_term)
        if not term:
            return queryset, False
        if Task.objects.filter(pk=term).exists():
            return queryset.filter(pk=term), False
        words = Q(title__icontains=term)
        if may_read_texts(request):
            words |= Q(description__icontains=term)
        return queryset.filter(words), False

    def has_change_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        return False

    def get_fieldsets(self, request: HttpRequest, obj: Task | None = None) -> Any:
        return self.readable(request, self.fieldsets) if obj else [(None, {"fields": TaskForm.Meta.fields})]

    def get_readonly_fields(self, request: HttpRequest, obj: Task | None = None) -> Any:
        return self.shown if obj else ()

    def save_model(self, request: HttpRequest, obj: Task, form: Any, change: bool) -> None:
        obj.pk, _ = task_services.request_task(
            form.request(),
            sender=audit.current_actor(),
            cause=f"request:{getattr(request, 'request_id', '')}",
            now=timezone.now(),  # noqa: TID251 - a door
        )

    @display(description="id", ordering="created_at")
    def show_id(self, task: Task) -> SafeString:
        return unbroken(task.id)

    @display(description="assignee", ordering="assignee")
    def show_assignee(self, task: Task) -> str:
        return task.assignee_id or "open to all"

    @display(description="status", ordering="status", label=STATUS_LABELS)
    def show_status(self, task: Task) -> str:
        return "cancelled" if task.outcome == "cancelled" else task.status.replace("_", " ")

    @display(description="priority", ordering="order_at", label=PRIORITY_LABELS)
    def show_priority(self, task: Task) -> str:
        return task.priority

    @display(description="progress")
    def show_progress(self, task: Task) -> str:
        return f"{task.progress} %"

    @display(description="who can unblock it")
    def show_block(self, task: Task) -> str:
        return f"{task.block_owner}: {task.block_action}" if task.block_owner else "-"

    @display(description="depends on")
    def show_dependencies(self, task: Task) -> str:
        return ", ".join(task.dependencies.values_list("depends_on", flat=True)) or "-"

    @display(description="attempts")
    def show_executions(self, task: Task) -> SafeString | str:
        rows = [
            (str(e.attempt), e.executor, e.action or "-", e.status, _seconds(e), e.error or "-")
            for e in task.executions.order_by("attempt")
        ]
        return table(["attempt", "executor", "action", "status", "seconds", "error"], rows) if rows else "-"


def _seconds(execution: Execution) -> str:
    if not execution.started_at or not execution.finished_at:
        return "-"
    return f"{(execution.finished_at - execution.started_at).total_seconds():.2f}"


class ByExecutor(KnownWordsFilter):
    title = parameter_name = "executor"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return known_executors()


@admin.register(Execution)
class ExecutionAdmin(ReadOnlyAdmin):
    """Attempts at tasks, newest first."""

    journal_type = "execution"
    list_display = [
        "id", "show_task", "nova_id", "executor", "action", "attempt", "show_status", "show_seconds", "runs", "error",
        "created_at",
    ]  # fmt: skip
    list_filter = [
        "status",
        ByExecutor,
        ("task__assignee__nova_id", ExactTextFilter),
        ("action", FieldTextFilter),
        "created_at",
    ]
    served = frozenset({"task__assignee__nova_id__exact"})
    texts = frozenset({"results", "metrics", "error", "needs"})
    search_fields = ["task__id__exact"]
    search_help_text = f"A task's whole id. Filters look at the newest {RECENT:,} executions."
    ordering = ["-id"]

    fieldsets = [
        (None, {"fields": ["task", ("nova", "attempt", "runs"), ("executor", "action", "status")]}),
        ("When", {"fields": [("created_at", "started_at"), "finished_at", ("timeout", "progress")]}),
        ("What came of it", {"fields": ["results", "metrics", "error", ("needs", "retryable")]}),
        ("Who runs it", {"fields": [("host", "lease_until", "fence")]}),
    ]

    def journal_key(self, object_id: str) -> tuple[str, str]:
        """Lead to the story of the task."""
        execution = Execution.objects.filter(pk=object_id).first() if object_id.isdigit() else None
        return "task", execution.task_id if execution else ""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        executions: QuerySet[Execution] = super().get_queryset(request)
        return executions.filter(task__personal=False)

    @display(description="status", ordering="status", label=EXECUTION_LABELS)
    def show_status(self, execution: Execution) -> str:
        return execution.status

    @display(description="task", ordering="task")
    def show_task(self, execution: Execution) -> SafeString:
        return unbroken(execution.task_id)

    @display(description="seconds")
    def show_seconds(self, execution: Execution) -> str:
        return _seconds(execution)
