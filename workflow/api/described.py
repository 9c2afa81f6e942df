"""What each address takes and gives, for the OpenAPI document: by the name of its view, its method and its verb, if it has one.

Only the document reads this; a test holds the addresses to it. An answer that is made of several rows has its shape here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rest_framework import serializers

from workflow.api import (
    agent_tasks,
    approvals,
    configuration_views,
    executors,
    halts,
    incidents,
    keys,
    messages,
    own_nova,
    permits,
    record_views,
    seals,
)
from workflow.api import serializers as shown
from workflow.api.task_edits import DependenciesAccepted
from workflow.models import NovaState

Serializer = serializers.Serializer[Any]


def _object(**options: Any) -> Any:
    return serializers.DictField(**options)


class NovaShown(Serializer):
    nova_id = serializers.CharField()
    name = serializers.CharField()
    status = serializers.CharField()
    status_reason = serializers.CharField()
    status_since = shown.Instant(allow_null=True)
    mode = serializers.ChoiceField(NovaState.Mode.choices)
    mode_reason = serializers.CharField()
    mode_since = shown.Instant(allow_null=True)
    mode_actor = serializers.CharField()
    paused_remaining = serializers.FloatField(allow_null=True)
    archived_at = shown.Instant(allow_null=True)
    compliance = serializers.FloatField(allow_null=True)
    config = shown.NovaConfigShown()
    state = shown.NovaStateShown()
    safety = shown.VerdictShown()


class NovaDetailShown(NovaShown):
    candidate = _object(allow_null=True)


class HaltDetailShown(halts.HaltShown):
    counts = serializers.DictField(child=serializers.IntegerField())
    novas = halts.ConfirmationShown(many=True)

    class Meta(halts.HaltShown.Meta):
        fields = [*halts.HaltShown.Meta.fields, "counts", "novas"]


class HaltAcknowledgedShown(Serializer):
    nova_id = serializers.CharField()
    halt_id = serializers.IntegerField(allow_null=True)


class PermitShown(Serializer):
    permit_id = serializers.CharField()
    nova_id = serializers.CharField()
    provider = serializers.CharField(allow_null=True)
    expires_at = shown.Instant()
    timeout = serializers.FloatField()
    probe = serializers.BooleanField()
    left_in_minute = serializers.IntegerField(allow_null=True)
    left_in_hour = serializers.IntegerField(allow_null=True)


class IncidentStoryShown(incidents.IncidentDetailShown):
    story = incidents.ToldShown(many=True)
    story_complete = serializers.BooleanField()

    class Meta(incidents.IncidentDetailShown.Meta):
        fields = [*incidents.IncidentDetailShown.Meta.fields, "story", "story_complete"]


class ViolationShown(Serializer):
    incident = incidents.IncidentShown()
    recommended_action = serializers.CharField()
    safety_level = serializers.CharField()
    is_safe = serializers.BooleanField()


class OrderShown(Serializer):
    id = serializers.IntegerField()
    type = serializers.CharField()
    by = serializers.CharField()
    reason = serializers.CharField()


class WhoAmIShown(Serializer):
    nova_id = serializers.CharField()
    name = serializers.CharField()
    personality = serializers.CharField()
    policy = serializers.CharField()
    team = serializers.CharField()
    mode = serializers.ChoiceField(NovaState.Mode.choices)
    order = OrderShown(allow_null=True)
    time = shown.Instant()


class SafetyCheckShown(Serializer):
    may_act = serializers.BooleanField()
    mode = serializers.ChoiceField(NovaState.Mode.choices)
    safety = shown.VerdictShown()
    order = OrderShown(allow_null=True)


class UsageReportedShown(own_nova.UsageAccepted):
    nova_id = serializers.CharField()
    journal_id = serializers.IntegerField()


class KeyShown(Serializer):
    """A key, without what would open a door."""

    id = serializers.IntegerField()
    prefix = serializers.CharField()
    holder = serializers.CharField()
    nova_id = serializers.CharField(allow_null=True)
    user = serializers.CharField(allow_null=True)
    operator = serializers.CharField(allow_null=True)
    role = serializers.CharField(allow_null=True)
    name = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())
    status = serializers.ChoiceField(keys.STATUSES)
    suspended_reason = serializers.CharField()
    created_by = serializers.CharField()
    successor_id = serializers.IntegerField(allow_null=True)
    created_at = shown.Instant()
    expires_at = shown.Instant(allow_null=True)
    last_used_at = shown.Instant(allow_null=True)
    suspended_at = shown.Instant(allow_null=True)
    revoked_at = shown.Instant(allow_null=True)


class KeyMadeShown(KeyShown):
    key = serializers.CharField(allow_null=True)  # its text, this once: null when the answer is repeated


class LeaseShown(Serializer):
    task_id = serializers.CharField()
    fence = serializers.IntegerField()
    lease_until = shown.Instant()


class HeartbeatShown(Serializer):
    mode = serializers.ChoiceField(NovaState.Mode.choices)
    may_claim = serializers.BooleanField()
    directives = OrderShown(many=True)
    safety = shown.VerdictShown(allow_null=True)
    leases = LeaseShown(many=True)
    unread_messages = serializers.IntegerField()


class ClaimedShown(LeaseShown):
    title = serializers.CharField()
    description = serializers.CharField()
    priority = serializers.CharField()
    work_type = serializers.CharField()
    executor = serializers.CharField()
    action = serializers.CharField()
    team = serializers.CharField()
    estimated_duration = serializers.FloatField()
    metadata = _object()
    attempt = serializers.IntegerField()
    max_attempts = serializers.IntegerField()
    created_at = shown.Instant()
    cause = serializers.CharField()


class ClaimShown(Serializer):
    tasks = ClaimedShown(many=True)


class EndedShown(Serializer):
    task_id = serializers.CharField()
    status = serializers.CharField(allow_null=True)
    outcome = serializers.CharField(required=False)
    late = serializers.BooleanField(required=False)
    repeated = serializers.BooleanField(required=False)
    celebration_level = serializers.CharField(required=False)
    insights = serializers.DictField(child=serializers.CharField(), required=False)
    problem = _object(allow_null=True)


class EndedManyShown(Serializer):
    results = EndedShown(many=True)


class MovedShown(Serializer):
    task_id = serializers.CharField()
    status = serializers.CharField()


class ManyAccepted(Serializer):
    """Each is judged by itself, as at POST /tasks: one that is refused doesn't hold up the others."""

    tasks = serializers.ListField(child=serializers.JSONField(), min_length=1, max_length=1_000)


class RequestedShown(Serializer):
    task_id = serializers.CharField(allow_null=True)
    problem = _object(allow_null=True)


class RequestedManyShown(Serializer):
    accepted = serializers.IntegerField()
    refused = serializers.IntegerField()
    results = RequestedShown(many=True)


class AcknowledgedShown(Serializer):
    acknowledged = serializers.ListField(child=serializers.IntegerField())


class RootShown(Serializer):
    """The addresses of all lists, by name."""


@cache
def page_of(row: type[Serializer]) -> type[Serializer]:
    """Give the shape of a page of such rows."""
    name = f"{row.__name__.removesuffix('Shown').removesuffix('Written')}Page"
    link = serializers.CharField(allow_null=True)
    return type(name, (serializers.Serializer,), {"results": row(many=True), "next": link, "previous": link})


@dataclass(frozen=True, slots=True)
class Described:
    """What an operation takes (None: no body) and gives, by status (None: nothing); and an example of each."""

    takes: type[Serializer] | None = None
    gives: Mapping[int, type[Serializer] | None] = field(default_factory=dict)
    example: Mapping[str, Any] | None = None


_WHY = {"reason": "the host is being upgraded"}
_TASK = {"title": "Analyse stream lag", "priority": "high", "executor": "builtin", "action": "analyze_streams"}
_HELD = {"fence": 7}


def _reason(gives: type[Serializer]) -> Described:
    return Described(shown.ReasonAccepted, {200: gives}, _WHY)


def _listed(row: type[Serializer]) -> Described:
    return Described(None, {200: page_of(row)})


def _one(row: type[Serializer]) -> Described:
    return Described(None, {200: row})


_nova, _task, _halt, _incident = NovaDetailShown, shown.TaskDetailShown, HaltDetailShown, IncidentStoryShown
OPERATIONS: Mapping[str, Described] = {
    "Root.GET": _one(RootShown),
    "Novas.GET": _listed(NovaShown),
    "Novas.POST": Described(
        configuration_views.NovaWritten, {201: _nova}, {"nova_id": "nova-7", "personality": "torch", "policy": "standard"}
    ),
    "NovaOne.GET": _one(_nova),
    "NovaOne.PATCH": Described(configuration_views.NovaWritten, {200: _nova}, {"policy": "strict", "reason": "calmer nights"}),
    "NovaVerb.POST": _reason(_nova),
    "NovaStop.POST": _reason(_nova),
    "NovaResume.POST": _reason(_nova),
    "NovaLiftSafety.POST": _reason(_nova),
    "HaltAcknowledged.POST": Described(None, {200: HaltAcknowledgedShown}),
    "Permits.POST": Described(permits.PermitAccepted, {201: PermitShown}, {"provider": "main"}),
    "PermitReturn.DELETE": Described(None, {204: None}),
    "ViolationReport.POST": Described(
        incidents.ViolationAccepted, {201: ViolationShown}, {"type": "session_storm", "details": {"starts": 12}}
    ),
    "IncidentList.GET": _listed(incidents.IncidentShown),
    "IncidentDetail.GET": _one(_incident),
    "IncidentVerb.POST": _reason(_incident),
    "HaltList.GET": _listed(halts.HaltShown),
    "HaltList.POST": Described(
        halts.HaltAccepted, {200: _halt, 201: _halt}, {"kind": "halt", "scope": "team", "target": "night", "reason": "an alarm"}
    ),
    "HaltDetail.GET": _one(_halt),
    "HaltLift.POST": _reason(_halt),
    "NovaHeartbeat.POST": Described(agent_tasks._Leased, {200: HeartbeatShown}, {"lease_seconds": 60}),
    "SafetyCheck.POST": Described(None, {200: SafetyCheckShown}),
    "Usage.GET": _listed(executors.UsageShown),
    "Usage.POST": Described(
        own_nova.UsageAccepted, {201: UsageReportedShown}, {"model": "small", "input_tokens": 1200, "output_tokens": 300}
    ),
    "WhoAmI.GET": _one(WhoAmIShown),
    "NovaMessages.GET": _listed(messages.MessageShown),
    "NovaMessages.POST": Described(
        messages.MessageAccepted, {201: messages.MessageShown}, {"title": "Beans", "message": "There are 12."}
    ),
    "MessagesAcknowledged.POST": Described(messages.AckAccepted, {200: AcknowledgedShown}, {"ids": [17]}),
    "ApprovalList.GET": _listed(approvals.ApprovalShown),
    "ApprovalList.POST": Described(
        approvals.ApprovalAccepted,
        {200: approvals.ApprovalShown, 201: approvals.ApprovalShown},
        {"action": "deploy", "arguments": {"to": "production"}, "reason": "the release is ready"},
    ),
    "ApprovalDetail.GET": _one(approvals.ApprovalShown),
    "ApprovalVerb.POST": _reason(approvals.ApprovalShown),
    "ClaimTasks.POST": Described(agent_tasks.ClaimAccepted, {200: ClaimShown, 204: None}, {"limit": 1, "wait": 30}),
    "CompleteTasks.POST": Described(
        agent_tasks.BatchAccepted, {200: EndedManyShown}, {"tasks": [{"task_id": "TORCH-1795176000-0a1b2c", **_HELD}]}
    ),
    "BulkTasks.POST": Described(ManyAccepted, {200: RequestedManyShown}, {"tasks": [_TASK]}),
    "TaskList.GET": _listed(shown.TaskShown),
    "TaskList.POST": Described(shown.TaskAccepted, {200: _task, 201: _task}, _TASK),
    "TaskDetail.GET": _one(_task),
    "TaskDetail.PATCH": Described(shown.EditAccepted, {200: _task}, {"title": "Analyse it", "reason": "it was unclear"}),
    "TaskReport.POST.renew": Described(agent_tasks.RenewAccepted, {200: LeaseShown}, _HELD),
    "TaskReport.POST.progress": Described(
        agent_tasks.ProgressAccepted, {200: LeaseShown}, {**_HELD, "progress_percentage": 50, "update": "half of it"}
    ),
    "TaskReport.POST.complete": Described(
        agent_tasks.CompleteAccepted, {200: EndedShown}, {**_HELD, "results": "There are 12.", "evidence": ["sha256:0a1b"]}
    ),
    "TaskReport.POST.fail": Described(agent_tasks.FailAccepted, {200: MovedShown}, {**_HELD, "error": "the disk is full"}),
    "TaskReport.POST.block": Described(
        agent_tasks.BlockAccepted, {200: MovedShown}, {**_HELD, "owner": "operator", "action": "give me access"}
    ),
    "TaskReport.POST.release": Described(agent_tasks.ReleaseAccepted, {200: MovedShown}, {**_HELD, "reason": "not now"}),
    "TaskRetry.POST": _reason(_task),
    "TaskDependencies.POST": Described(
        DependenciesAccepted, {200: _task}, {"add": ["FLEET-1795176000-0a1b2c"], "reason": "that comes first"}
    ),
    "TaskVerb.POST.cancel": _reason(_task),
    "TaskVerb.POST.unblock": _reason(_task),
    "TaskVerb.POST.priority": Described(
        shown.PriorityAccepted, {200: _task}, {"priority": "critical", "reason": "a customer waits"}
    ),
    "BreakerClosed.POST": _reason(configuration_views.ProviderWritten),
    "ProviderTried.POST": _one(executors.TrialShown),
    "KeyList.GET": _listed(KeyShown),
    "KeyList.POST": Described(
        keys.KeyAccepted, {201: KeyMadeShown}, {"nova_id": "torch", "scopes": ["read", "tasks"], "reason": "a new agent"}
    ),
    "KeyDetail.GET": _one(KeyShown),
    "KeyRotation.POST": Described(
        keys.RotationAccepted, {201: KeyMadeShown}, {"reason": "the yearly change", "overlap_hours": 24}
    ),
    "KeyVerb.POST": _reason(KeyShown),
    "ExecutionList.GET": _listed(record_views.ExecutionListed),
    "JournalList.GET": _listed(record_views.EntryShown),
    "JournalEntry.GET": _one(record_views.EntryShown),
    "SealList.GET": _listed(seals.SealShown),
    "JournalVerification.GET": _one(seals.ChainStatusShown),
    "JournalVerification.POST": Described(
        seals.VerifyAccepted, {201: seals.VerificationShown}, {"scope": "full", "reason": "before the audit"}
    ),
    "VerificationList.GET": _listed(seals.VerificationShown),
    "InsightList.GET": _listed(record_views.InsightShown),
    "CelebrationList.GET": _listed(record_views.CelebrationShown),
}
_CONFIGURED_EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "personality": {
        "slug": "night", "base_cycle_time": 60.0, "reflection_frequency": 0.4, "celebration_style": "measured_energy",
        "work_style": "guardian_focused", "communication_pattern": "protective_supportive",
    },
    "policy": {"slug": "calm", "requests_per_minute": 25},
    "objective": {"title": "Keep the docs true", "nova": "torch", "priority": "low"},
    "provider-account": {"slug": "main", "kind": "openai", "base_url": "https://models.example.com/v1"},
    "command": {"slug": "words", "program": "/usr/bin/wc", "arguments": ["-w"]},
    "http-endpoint": {
        "slug": "builds", "url": "https://builds.example.com/tasks", "secret": "whsec_dGhpcyBpcyBhbiBleGFtcGxlIG9ubHkh",
    },
    "model-price": {"account": "main", "model": "small", "input_price": 0.2, "output_price": 0.8},
}  # fmt: skip


def described(view: Any, method: str, verb: str) -> Described | None:
    """Give what is known of an operation; None if nobody has described it."""
    name = f"{type(view).__name__}.{method}"
    if own := getattr(view, "described", {}).get(method):  # a view of an upper floor says it itself
        return own  # type: ignore[no-any-return]
    if found := OPERATIONS.get(f"{name}.{verb}") or OPERATIONS.get(name):
        return found
    kind = getattr(view, "kind", None)
    if kind is None:
        return None
    row, example = kind.written, kind.example or _CONFIGURED_EXAMPLES[kind.name]
    if isinstance(view, configuration_views.ConfiguredVerb):
        return _reason(row)
    if isinstance(view, configuration_views.ConfiguredList):
        return _listed(row) if method == "GET" else Described(row, {201: row}, example)
    changed = dict(list(example.items())[1:2]) | {"reason": "calmer nights"}
    return _one(row) if method == "GET" else Described(row, {200: row}, changed)
