"""Tasks at the API for agents: claim, renew, report, end; and the sign of life. A key opens its own Nova's work only.

A claim that finds nothing and may wait says so in a header; who waits then, and how, is the long poll's business.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.http import HttpResponse, HttpResponseBase
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from workflow import agent_work
from workflow.agent_work import CLAIM_LIMIT, LEASE_LEAST, LEASE_MOST, ClaimedTask, Completion, Ended, Heartbeat, Lease
from workflow.api.authentication import ACT_AS_NOVA, NovaAgent
from workflow.api.problem import code_of
from workflow.api.serializers import Accepted, VerdictShown, short_text, show_instant, small_json
from workflow.api.strict_json import MANY_LIMIT
from workflow.api.views import Door
from workflow.core.protocol import TASK_ID_LIMIT

WAIT_LIMIT = 45.0  # seconds; clients give up on the first byte after a minute
WAITS = "NOVAWF-Wait"  # "nova_id;seconds": the answer may be put off for so long
RETRY_AFTER = "2"


class _Leased(Accepted):
    lease_seconds = serializers.FloatField(required=False, allow_null=True, min_value=LEASE_LEAST, max_value=LEASE_MOST)


class ClaimAccepted(_Leased):
    limit = serializers.IntegerField(required=False, default=1, min_value=1, max_value=CLAIM_LIMIT)
    wait = serializers.FloatField(required=False, default=0.0, min_value=0.0, max_value=WAIT_LIMIT)


class _Fenced(Accepted):
    fence = serializers.IntegerField(min_value=0)


class RenewAccepted(_Fenced, _Leased):
    pass


class ProgressAccepted(RenewAccepted):
    progress_percentage = serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=100)
    update = serializers.CharField(  # type: ignore[assignment]  # a field, which REST framework takes out of the class
        required=False, allow_blank=True, default="", validators=[short_text]
    )


class CompleteAccepted(_Fenced):
    results = serializers.CharField(
        required=False, allow_blank=True, default="", trim_whitespace=False, validators=[short_text]
    )
    metrics = serializers.DictField(required=False, default=dict, validators=[small_json])
    evidence = serializers.ListField(required=False, default=list, max_length=100, validators=[small_json])


class OneCompleted(CompleteAccepted):
    task_id = serializers.CharField(max_length=TASK_ID_LIMIT)


class BatchAccepted(Accepted):
    tasks = serializers.ListField(child=OneCompleted(), allow_empty=False, max_length=CLAIM_LIMIT)


class FailAccepted(_Fenced):
    error = serializers.CharField(max_length=4_000)
    retryable = serializers.BooleanField(required=False, default=True)


class BlockAccepted(_Fenced):
    owner = serializers.CharField(max_length=64)
    action = serializers.CharField(max_length=200)
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=2_000)
    results = serializers.CharField(
        required=False, allow_blank=True, default="", trim_whitespace=False, validators=[short_text]
    )


class ReleaseAccepted(_Fenced):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=2_000)


class ClaimTasks(Door):
    """POST: take tasks. 200 with them; 204 when there is nothing; 423 while the Nova may not act."""

    permissions_needed = {"POST": ACT_AS_NOVA}

    def post(self, request: Request) -> HttpResponseBase:
        nova_id = agent_of(request)
        data = self.accept(ClaimAccepted).validated_data
        lease = data.get("lease_seconds")
        claimed = agent_work.claim_tasks(nova_id, limit=data["limit"], now=self.now, lease_seconds=lease)
        if claimed:
            return Response({"tasks": [show_claimed(task) for task in claimed]})
        headers = {"Retry-After": RETRY_AFTER}
        if data["wait"]:
            headers[WAITS] = f"{nova_id};{data['wait']}"
        return HttpResponse(status=204, headers=headers)


class TaskReport(Door):
    """POST by the agent that holds the task under `fence`. A fence that is no good any more: 409 lease_lost."""

    permissions_needed = {"POST": ACT_AS_NOVA}

    def post(self, request: Request, task_id: str, verb: str) -> Response:
        body = self.accept(_REPORTS[verb])
        return Response(getattr(self, f"_{verb}")(agent_of(request), task_id, body.validated_data))

    def _renew(self, nova_id: str, task_id: str, data: Mapping[str, Any]) -> dict[str, Any]:
        lease = data.get("lease_seconds")
        return show_lease(agent_work.renew_lease(nova_id, task_id, data["fence"], now=self.now, lease_seconds=lease))

    def _progress(self, nova_id: str, task_id: str, data: Mapping[str, Any]) -> dict[str, Any]:
        lease = agent_work.update_progress(
            nova_id,
            task_id,
            data["fence"],
            now=self.now,
            percent=data.get("progress_percentage"),
            update=data["update"],
            lease_seconds=data.get("lease_seconds"),
        )
        return show_lease(lease)

    def _complete(self, nova_id: str, task_id: str, data: Mapping[str, Any]) -> dict[str, Any]:
        ended = agent_work.complete_task(
            nova_id,
            task_id,
            data["fence"],
            results=data["results"],
            metrics=data["metrics"],
            evidence=data["evidence"],
            now=self.now,
        )
        return show_ended(ended)

    def _fail(self, nova_id: str, task_id: str, data: Mapping[str, Any]) -> dict[str, Any]:
        error, again = data["error"], data["retryable"]
        status = agent_work.fail_task(nova_id, task_id, data["fence"], error=error, retryable=again, now=self.now)
        return {"task_id": task_id, "status": status}

    def _block(self, nova_id: str, task_id: str, data: Mapping[str, Any]) -> dict[str, Any]:
        said = {name: data[name] for name in ("owner", "action", "reason", "results")}
        return {
            "task_id": task_id,
            "status": agent_work.block_task(nova_id, task_id, data["fence"], now=self.now, **said),
        }

    def _release(self, nova_id: str, task_id: str, data: Mapping[str, Any]) -> dict[str, Any]:
        status = agent_work.release_task(nova_id, task_id, data["fence"], reason=data["reason"], now=self.now)
        return {"task_id": task_id, "status": status}


_REPORTS: Mapping[str, type[Accepted]] = {
    "renew": RenewAccepted,
    "progress": ProgressAccepted,
    "complete": CompleteAccepted,
    "fail": FailAccepted,
    "block": BlockAccepted,
    "release": ReleaseAccepted,
}


class CompleteTasks(Door):
    """POST: up to 100 completions at once. 200 with an answer for each, in order, whatever became of it."""

    body_limit = MANY_LIMIT
    permissions_needed = {"POST": ACT_AS_NOVA}

    def post(self, request: Request) -> Response:
        nova_id = agent_of(request)
        given = [Completion(**one) for one in self.accept(BatchAccepted).validated_data["tasks"]]
        ended = agent_work.complete_tasks(nova_id, given, now=self.now)
        return Response({"results": [show_ended(one) for one in ended]})


class NovaHeartbeat(Door):
    """POST: a sign of life. It renews all leases, and is answered with what stands. Always accepted."""

    permissions_needed = {"POST": ACT_AS_NOVA}

    def post(self, request: Request, nova_id: str) -> Response:
        own_only(request, nova_id)
        lease = self.accept(_Leased).validated_data.get("lease_seconds")
        return Response(show_heartbeat(agent_work.heartbeat(nova_id, now=self.now, lease_seconds=lease)))


def agent_of(request: Request) -> str:
    """Give the Nova whose agent calls.

    :raises PermissionDenied: it is no agent that calls.
    """
    if not isinstance(request.user, NovaAgent):
        raise PermissionDenied("Only a Nova's agent does that, with the Nova's key. Nothing was changed.")
    return request.user.nova_id


def own_only(request: Request, nova_id: str) -> None:
    """Treat other Novas as if they weren't there.

    :raises NotFound: the key is another Nova's.
    """
    if agent_of(request) != nova_id:
        raise NotFound


def show_claimed(task: ClaimedTask) -> dict[str, Any]:
    """Show a task to the agent that took it."""
    return asdict(task) | {"created_at": show_instant(task.created_at), "lease_until": show_instant(task.lease_until)}


def show_lease(lease: Lease) -> dict[str, Any]:
    return {"task_id": lease.task_id, "fence": lease.fence, "lease_until": show_instant(lease.lease_until)}


def show_ended(ended: Ended) -> dict[str, Any]:
    """Show what became of a completion; `problem` is null where it was accepted."""
    if ended.problem is not None:
        problem = {"code": code_of(ended.problem), "detail": str(ended.problem)}
        return {"task_id": ended.task_id, "status": None, "problem": problem}
    return {
        "task_id": ended.task_id,
        "status": ended.status,
        "outcome": ended.outcome,
        "late": ended.late,
        "repeated": ended.repeated,
        "celebration_level": ended.celebration_level,
        "insights": dict(ended.insights),
        "problem": None,
    }


def show_heartbeat(beat: Heartbeat) -> dict[str, Any]:
    """Show an agent what stands. `directives`: what it must do now, e.g. stop for a halt and acknowledge it."""
    order = beat.order
    directives = [] if order is None else [{"type": order.kind, "id": order.halt_id, "by": order.actor, "reason": order.reason}]
    return {
        "mode": beat.mode,
        "may_claim": beat.mode == "running" and (beat.verdict is None or beat.verdict.is_safe),
        "directives": directives,
        "safety": None if beat.verdict is None else dict(VerdictShown(beat.verdict).data),
        "leases": [show_lease(lease) for lease in beat.leases],
        "unread_messages": beat.unread,
    }
