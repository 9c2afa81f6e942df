"""Tasks at the API for operators: many at once, edits while nobody works on them, another try, what waits for what."""

from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from workflow import task_services
from workflow.api.problem import escape_pointer, field_errors
from workflow.api.serializers import ReasonAccepted, TaskAccepted, request_of
from workflow.api.strict_json import MANY_LIMIT
from workflow.api.views import Door, demand_visible, show_task
from workflow.core.inbound import DEPENDENCIES_LIMIT
from workflow.core.protocol import TASK_ID_LIMIT
from workflow.task_services import BULK_LIMIT, Requested, TaskRequest


class BulkTasks(Door):
    """POST: up to 1,000 tasks in one transaction. 200 with an answer for each, in order: its task_id, or its problem."""

    permissions_needed = {"POST": "workflow.add_task"}
    body_limit = MANY_LIMIT

    def post(self, request: Request) -> Response:
        items = self._items(request.data)
        answers: list[dict[str, Any]] = [{} for _ in items]
        wanted: list[tuple[int, TaskRequest]] = []
        body = TaskAccepted()  # one for all: making it costs more than what it does
        for place, item in enumerate(items):
            try:
                wanted.append((place, request_of(body.run_validation(item))))
            except ValidationError as refusal:
                errors = list(field_errors(refusal.detail))
                answers[place] = {"task_id": None, "problem": {"code": "invalid", "errors": errors}}
        cause = f"request:{getattr(request, 'request_id', '')}"
        made = task_services.request_tasks([one for _, one in wanted], sender=self.actor, now=self.now, cause=cause)
        for (place, _), requested in zip(wanted, made, strict=True):
            answers[place] = _answer(requested)
        accepted = sum(1 for answer in answers if answer["task_id"])
        return Response({"accepted": accepted, "refused": len(answers) - accepted, "results": answers})

    @staticmethod
    def _items(data: Any) -> list[Any]:
        if unknown := sorted(set(data) - {"tasks"}):
            raise ValidationError({name: ["Unknown field; known are tasks."] for name in unknown}, code="unknown_field")
        items = data.get("tasks")
        if not isinstance(items, list) or not 1 <= len(items) <= BULK_LIMIT:
            raise ValidationError({"tasks": [f"Give a list of 1 to {BULK_LIMIT} tasks."]}, code="invalid")
        return items


def _answer(requested: Requested) -> dict[str, Any]:
    refusal = requested.problem
    if refusal is None:
        return {"task_id": requested.task_id, "problem": None}
    error = {"pointer": f"/{escape_pointer(refusal.field)}", "code": refusal.code, "detail": str(refusal)}
    return {"task_id": None, "problem": {"code": "invalid", "errors": [error]}}


class DependenciesAccepted(ReasonAccepted):
    add = serializers.ListField(
        child=serializers.RegexField(rf"\A[^\s,]{{1,{TASK_ID_LIMIT}}}\Z"),
        required=False,
        default=list,
        max_length=DEPENDENCIES_LIMIT,
    )
    remove = serializers.ListField(
        child=serializers.CharField(max_length=TASK_ID_LIMIT), required=False, default=list, max_length=DEPENDENCIES_LIMIT
    )


class TaskRetry(Door):
    """POST with a reason: let a blocked or failed task be tried again now."""

    permissions_needed = {"POST": "workflow.change_task"}

    def post(self, request: Request, task_id: str) -> Response:
        demand_visible(task_id)
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        task_services.retry_task(task_id, reason=reason, now=self.now)
        return Response(show_task(task_id))


class TaskDependencies(Door):
    """POST with a reason: let a pending task wait for others (`add`), or not any more (`remove`)."""

    permissions_needed = {"POST": "workflow.change_task"}

    def post(self, request: Request, task_id: str) -> Response:
        demand_visible(task_id)
        data = self.accept(DependenciesAccepted).validated_data
        task_services.change_dependencies(task_id, add=data["add"], remove=data["remove"], reason=data["reason"], now=self.now)
        return Response(show_task(task_id))
