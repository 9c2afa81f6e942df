"""How Novas and tasks look at the API, and what a request may hold. No rule of the workflow stands here.

Instants are RFC 3339 in UTC with Z; durations are seconds; unknown fields are refused on write.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils.dateparse import parse_duration
from rest_framework import serializers

from safety.bulk import json_text
from safety.models import CandidateVerdict, FleetFact, SafetyState
from safety.observe import ENFORCED
from workflow.core.inbound import ATTEMPTS_LIMIT, DEFAULT_ATTEMPTS, DEPENDENCIES_LIMIT, DURATION_LIMIT, FIELD_LIMIT
from workflow.core.protocol import TASK_ID_LIMIT, TITLE_LIMIT
from workflow.core.work import Priority, WorkType
from workflow.derived_status import derived_status
from workflow.models import Execution, Nova, NovaState, Task
from workflow.task_services import TaskEdit, TaskRequest


class Instant(serializers.DateTimeField):
    """An instant in UTC, whatever the site's time zone."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(default_timezone=UTC, **kwargs)


class Shown(serializers.ModelSerializer[Any]):
    """A row as it is shown."""

    serializer_field_mapping = {
        **serializers.ModelSerializer.serializer_field_mapping,
        **{kind: Instant for kind in serializers.ModelSerializer.serializer_field_mapping if kind.__name__ == "DateTimeField"},
    }


# Novas


class NovaConfigShown(Shown):
    class Meta:
        model = Nova
        fields = [
            "personality", "policy", "candidate_policy", "team", "default_executor", "allowed_executors", "stream_executors",
            "tasks_per_phase", "personal_phase_after", "personal_phase_minutes", "execution_timeout", "created_at",
            "updated_at",
        ]  # fmt: skip


class NovaStateShown(Shown):
    class Meta:
        model = NovaState
        fields = [
            "current_state", "current_phase", "state_entered_at", "cycle_started_at", "phase_started_at", "due_at",
            "tasks_in_flight", "tasks_completed_in_phase", "total_cycles_completed", "tool_use_count", "work_phases_completed",
            "completion_stage", "last_stream_check", "last_completion_celebration", "session_start_time", "consecutive_errors",
            "last_error", "crashes",
        ]  # fmt: skip


class VerdictShown(Shown):
    class Meta:
        model = SafetyState
        fields = ["is_safe", "safety_level", "mechanism", "reason", "measured", "limit", "since", "until"]


class CandidateShown(Shown):
    """What a candidate policy would have blocked; `last_block` stays after its end."""

    last_block = serializers.SerializerMethodField()

    class Meta:
        model = CandidateVerdict
        fields = ["policy", "observed_since", "is_safe", "since", "blocks", "last_block"]

    def get_last_block(self, seen: CandidateVerdict) -> dict[str, Any] | None:
        """Say when and why it would last have blocked, and what the enforced policy said then; None: never yet."""
        if seen.last_block_at is None:
            return None
        return {
            "at": show_instant(seen.last_block_at),
            "mechanism": seen.mechanism,
            "reason": seen.reason,
            "measured": seen.measured,
            "limit": seen.limit,
            "enforced": seen.memory.get(ENFORCED),
        }


_SAFE = SafetyState()  # what is shown before the first verdict
_instant = Instant()


def show_nova(
    nova: Nova, verdicts: Mapping[str, SafetyState], fleet: Mapping[str, FleetFact], *, now: datetime
) -> dict[str, Any]:
    """Show a Nova: what is configured, where it stands, what it is doing, whether it may."""
    state = nova.state
    verdict = verdicts.get(nova.nova_id)
    doing = derived_status(nova, state, verdict, fleet, now)
    return {
        "nova_id": nova.nova_id,
        "name": nova.name,
        "status": doing.status,
        "status_reason": doing.reason,
        "status_since": show_instant(doing.since),
        "mode": state.mode,
        "mode_reason": state.mode_reason,
        "mode_since": show_instant(state.mode_since),
        "mode_actor": state.mode_actor,
        "paused_remaining": state.paused_remaining,
        "archived_at": show_instant(nova.archived_at),
        "compliance": state.compliance,
        "config": NovaConfigShown(nova).data,
        "state": NovaStateShown(state).data,
        "safety": VerdictShown(verdict or _SAFE).data,
    }


def show_candidate(policy: str | None, seen: CandidateVerdict | None) -> dict[str, Any] | None:
    """Show what was observed under a candidate policy; None without one. Before it was first judged most is null."""
    if policy is None:
        return None
    if seen is not None:
        return dict(CandidateShown(seen).data)
    return {**dict.fromkeys(CandidateShown.Meta.fields), "policy": policy, "blocks": 0}


def show_instant(value: datetime | None) -> str | None:
    return _instant.to_representation(value) if value else None


# tasks


class TaskShown(Shown):
    """A task in a list: without what may be long."""

    task_id = serializers.CharField(source="id")
    assignee = serializers.CharField(source="assignee_id", allow_null=True)
    block = serializers.SerializerMethodField()

    class Meta:
        model = Task
        fields = [
            "task_id", "title", "description", "status", "outcome", "priority", "work_type", "assignee", "team", "executor",
            "action", "estimated_duration", "progress", "attempts", "max_attempts", "waiting_on", "not_before", "created_at",
            "updated_at", "started_at", "completed_at", "block", "sender", "cause",
        ]  # fmt: skip

    def get_block(self, task: Task) -> dict[str, Any] | None:
        """Say who can unblock it, and how; None for a task that isn't blocked."""
        if not task.block_owner:
            return None
        return {
            "owner": task.block_owner,
            "action": task.block_action,
            "reason": task.block_reason,
            "since": show_instant(task.blocked_at),
        }


class ExecutionShown(Shown):
    class Meta:
        model = Execution
        fields = [
            "id", "attempt", "nova", "executor", "action", "status", "created_at", "started_at", "finished_at", "timeout",
            "progress", "runs", "results", "metrics", "error", "needs",
        ]  # fmt: skip


class TaskDetailShown(TaskShown):
    """One task, with everything."""

    dependencies = serializers.SlugRelatedField(many=True, read_only=True, slug_field="depends_on")  # type: ignore[var-annotated]
    executions = ExecutionShown(many=True, read_only=True)

    class Meta(TaskShown.Meta):
        fields = [
            *TaskShown.Meta.fields, "blocked_seconds", "results", "metrics", "insights", "metadata", "dependencies",
            "executions",
        ]  # fmt: skip


# requests


class Accepted(serializers.Serializer[Any]):
    """A request's body: what it does not name is refused."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, dict) else []
        if unknown:
            known = ", ".join(self.fields)
            raise serializers.ValidationError(
                {name: [f"Unknown field; known are {known}."] for name in unknown}, "unknown_field"
            )
        if isinstance(data, dict):
            wrong = {name: problem for name, value in data.items() if (problem := _wrong_kind(self.fields[name], value))}
            if wrong:
                raise serializers.ValidationError({name: [problem] for name, problem in wrong.items()}, "invalid")
        return super().to_internal_value(data)


def _wrong_kind(kind: Any, value: Any) -> str:
    """Say why a JSON value is not of the kind that a field is for; empty if it is. REST framework itself takes "1" for 1."""
    if value is None or kind.read_only:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(kind, serializers.BooleanField):
        return "" if isinstance(value, bool) else "Give true or false."
    if isinstance(kind, serializers.IntegerField):
        return "" if number and value == value // 1 else "Give a whole number."
    if isinstance(kind, serializers.FloatField):
        return "" if number or isinstance(kind, Seconds) else "Give a number."
    if isinstance(kind, serializers.CharField | serializers.PrimaryKeyRelatedField):
        return "" if isinstance(value, str) else "Give a text."
    if isinstance(kind, serializers.ListField) and isinstance(value, list):
        return next((problem for one in value if (problem := _wrong_kind(kind.child, one))), "")
    return ""


class AnyCase(serializers.ChoiceField):
    """A choice, in upper or lower case."""

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(data.lower() if isinstance(data, str) else data)


def short_text(value: str) -> None:
    """Refuse a text that does not fit into a stream field."""
    if len(value.encode()) > FIELD_LIMIT:
        raise serializers.ValidationError(f"Longer than {FIELD_LIMIT} bytes.", "too_long")


def small_json(value: Any) -> None:
    """Refuse a value that as JSON does not fit into a stream field."""
    if len(json_text(value).encode()) > FIELD_LIMIT:
        raise serializers.ValidationError(f"Longer than {FIELD_LIMIT} bytes.", "too_long")


class Seconds(serializers.FloatField):
    """A duration: seconds, or ISO 8601 (`PT15M`)."""

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, str) and data[:1].upper() == "P":
            duration = parse_duration(data.upper())
            if duration is None:
                self.fail("invalid")
            data = duration.total_seconds()
        if isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


class TaskAccepted(Accepted):
    """A work item, as on the stream `nova.work.queue`."""

    title = serializers.CharField(max_length=TITLE_LIMIT)
    description = serializers.CharField(
        required=False, allow_blank=True, default="", trim_whitespace=False, validators=[short_text]
    )
    priority = AnyCase(choices=[p.value for p in Priority], required=False, default=Priority.MEDIUM.value)
    work_type = AnyCase(choices=[WorkType.REQUESTED.value], required=False)
    executor = serializers.RegexField(r"\A[a-z0-9][a-z0-9_-]{0,31}\Z", required=False, allow_blank=True, default="")
    action = serializers.RegexField(r"\A[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}\Z", required=False, allow_blank=True, default="")
    assignee = serializers.CharField(required=False, allow_blank=True, allow_null=True, default="", max_length=63)
    team = serializers.SlugField(required=False, allow_blank=True, default="", max_length=64)
    estimated_duration = Seconds(required=False, default=0.0, min_value=0.0, max_value=DURATION_LIMIT.total_seconds())
    dependencies = serializers.ListField(
        child=serializers.RegexField(rf"\A[^\s,]{{1,{TASK_ID_LIMIT}}}\Z"),
        required=False,
        default=list,
        max_length=DEPENDENCIES_LIMIT,
    )
    metadata = serializers.DictField(required=False, default=dict, validators=[small_json])
    max_attempts = serializers.IntegerField(required=False, default=DEFAULT_ATTEMPTS, min_value=1, max_value=ATTEMPTS_LIMIT)

    def request(self) -> TaskRequest:
        """Give what was asked for as the services take it (after is_valid)."""
        return request_of(self.validated_data)


def request_of(data: Mapping[str, Any]) -> TaskRequest:
    """Give a checked body as the services take it."""
    return TaskRequest(
        title=" ".join(data["title"].split()),
        description=data["description"],
        priority=Priority(data["priority"]),
        assignee=(data["assignee"] or "").lower(),
        team=data["team"],
        executor=data["executor"],
        action=data["action"],
        estimated_duration=timedelta(seconds=data["estimated_duration"]),
        dependencies=tuple(data["dependencies"]),
        metadata=data["metadata"],
        max_attempts=data["max_attempts"],
    )


class ReasonAccepted(Accepted):
    """Why a verb is used: kept in the journal."""

    reason = serializers.CharField(max_length=2000)


class PriorityAccepted(ReasonAccepted):
    priority = AnyCase(choices=[p.value for p in Priority])


class EditAccepted(ReasonAccepted):
    title = serializers.CharField(max_length=TITLE_LIMIT, required=False)
    description = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False, validators=[short_text])
    priority = AnyCase(choices=[p.value for p in Priority], required=False)
    estimated_duration = Seconds(required=False, min_value=0.0, max_value=DURATION_LIMIT.total_seconds())
    assignee = serializers.CharField(required=False, allow_blank=True, allow_null=True, max_length=63)

    def edit(self) -> TaskEdit:
        """Give what is to be changed (after is_valid)."""
        data = self.validated_data
        duration, assignee = data.get("estimated_duration"), data.get("assignee")
        return TaskEdit(
            title=" ".join(data["title"].split()) if "title" in data else None,
            description=data.get("description"),
            priority=Priority(data["priority"]) if "priority" in data else None,
            estimated_duration=None if duration is None else timedelta(seconds=duration),
            assignee=(assignee or "").lower() if "assignee" in data else None,
        )
