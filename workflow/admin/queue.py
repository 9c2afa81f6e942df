"""The admin's windows on django-q2: its queue, schedules and finished jobs. Nothing is changed here, or unpickled but names."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django_q.models import Failure, OrmQ, Schedule, Success
from unfold.contrib.filters.admin import FieldTextFilter
from unfold.decorators import display

from safety.admin import ReadOnlyAdmin, may_read_texts

# django-q2's own pages would change and delete rows past the journal
for model in (Schedule, Success, Failure, OrmQ):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


class QueueAdmin(ReadOnlyAdmin):
    """A window on the queue, for those who act or audit: a job's error may quote what it worked on."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_read_texts(request)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may_read_texts(request)


@admin.register(OrmQ)
class OrmQAdmin(QueueAdmin):
    """What waits for a worker, or is with one until its lock ends."""

    list_display = ["id", "key", "show_what", "show_group", "lock"]
    list_filter = [("key", FieldTextFilter)]
    ordering = ["-id"]
    fields = ["key", "show_what", "show_group", "lock"]
    readonly_fields = ["show_what", "show_group"]

    @display(description="job")
    def show_what(self, row: OrmQ) -> str:
        return str(row.task.get("func") or "-")

    @display(description="group")
    def show_group(self, row: OrmQ) -> str:
        return str(row.task.get("group") or "-")


@admin.register(Schedule)
class ScheduleAdmin(QueueAdmin):
    list_display = ["id", "name", "func", "schedule_type", "next_run", "repeats", "cluster"]
    list_filter = ["schedule_type", "next_run"]
    search_fields = ["name", "func"]
    ordering = ["next_run", "id"]
    fields = ["name", "func", "schedule_type", "minutes", "cron", "next_run", "repeats", "cluster", "task"]


class FinishedAdmin(QueueAdmin):
    """Finished jobs, the newest first; arguments and results stay pickled."""

    list_display = ["id", "func", "group", "cluster", "started", "show_seconds", "attempt_count"]
    list_filter = [("func", FieldTextFilter), ("group", FieldTextFilter), "started"]
    search_fields = ["=id"]
    search_help_text = "a job's whole id"
    ordering = ["-stopped"]
    fields: Any = ["func", "group", "cluster", "started", "stopped", "attempt_count"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        jobs: QuerySet[Any] = super().get_queryset(request)
        return jobs.defer("args", "kwargs", "result")

    @display(description="seconds")
    def show_seconds(self, job: Any) -> str:
        return f"{(job.stopped - job.started).total_seconds():.2f}"


@admin.register(Success)
class SuccessAdmin(FinishedAdmin):
    pass


@admin.register(Failure)
class FailureAdmin(FinishedAdmin):
    fields = [*FinishedAdmin.fields, "show_error"]
    readonly_fields = ["show_error"]

    @display(description="error")
    def show_error(self, job: Failure) -> str:
        return str(job.result or "-")
