"""The admin's page of incidents: what was measured, what was done about it and when, and what people say of it."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.formats import date_format
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from safety.admin import ExactTextFilter, KnownWordsFilter, table
from safety.core.mechanisms import MECHANISMS
from safety.facts import STREAM_GAP
from safety.incident_services import MOVES, apply_verb
from safety.models import SafetyIncident
from workflow.admin.verbs import AdminVerb, VerbAdmin, one_by_one
from workflow.incident_story import story

LABELS = {"open": "danger", "acknowledged": "warning", "mitigated": "info", "resolved": "success", "false positive": "default"}
DEPTH_SHOWN = 3  # of evidence within evidence; deeper is shown as it is


def _say(verb: str) -> Callable[..., Any]:
    def act(key: str, answers: Mapping[str, Any], now: datetime) -> bool:
        return apply_verb(verb, int(key), reason=answers["reason"], now=now)

    return one_by_one(act)


def _offered(verb: str) -> Callable[[SafetyIncident], bool]:
    move = MOVES[verb]
    return lambda row: row.status in move.starts and not (row.status == move.target and row.conclusion)


class Lasting(admin.SimpleListFilter):
    title = "lasting"
    parameter_name = "lasting"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Lasting"), ("no", "Over")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(ended_at__isnull=self.value() == "yes") if self.value() else queryset


class ByMechanism(KnownWordsFilter):
    title = parameter_name = "mechanism"
    words = (*(judge.name for judge in MECHANISMS), STREAM_GAP)


@admin.register(SafetyIncident)
class SafetyIncidentAdmin(VerbAdmin):
    """Violations, the newest first."""

    journal_type = "incident"
    dashboard = "incident"
    verbs = (
        AdminVerb(
            "acknowledge", "Acknowledge", "acknowledged", "Says that somebody looks at it.", _say("acknowledge"),
            icon="visibility", offered=_offered("acknowledge"),
        ),
        AdminVerb(
            "mitigate", "Mitigate", "mitigated", "Says what was done against it; its cause may last.", _say("mitigate"),
            icon="healing", offered=_offered("mitigate"),
        ),
        AdminVerb(
            "resolve", "Resolve", "resolved",
            "Ends it; the reason is its conclusion. While its cause lasts, the judges open a new one at their next look.",
            _say("resolve"), icon="check_circle", offered=_offered("resolve"),
        ),
        AdminVerb(
            "false_positive", "False positive", "marked as false positives",
            "Ends it as no violation at all; the reason is its conclusion.", _say("false-positive"), icon="cancel",
            offered=_offered("false-positive"),
        ),
        AdminVerb("note", "Add a note", "annotated", "Adds words to its story.", _say("note"), icon="edit_note"),
    )  # fmt: skip
    paginator = InfinitePaginator
    sortable_by: Any = ()
    served = frozenset({"nova_id__exact", "status__exact", "lasting"})
    texts = frozenset({"acknowledged_by", "show_story"})  # they name persons
    list_display = ["id", "show_status", "mechanism", "show_scope", "reason", "opened_at", "ended_at"]
    list_filter = [Lasting, "status", ByMechanism, ("nova_id", ExactTextFilter), "opened_at"]
    ordering = ["-id"]
    fieldsets = [
        (None, {"fields": [("show_status", "mechanism", "show_scope"), "reason", "conclusion"]}),
        ("When", {"fields": [("opened_at", "last_seen_at"), ("ended_at", "joined"), ("acknowledged_by", "acknowledged_at")]}),
        ("Evidence", {"fields": ["show_evidence"]}),
        ("Story", {"fields": ["show_story"]}),
    ]
    readonly_fields = ["show_status", "show_scope", "show_evidence", "show_story"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # only by the verbs

    @display(description="status", ordering="status", label=LABELS)
    def show_status(self, incident: SafetyIncident) -> str:
        return incident.status.replace("_", " ")

    @display(description="nova", ordering="nova_id")
    def show_scope(self, incident: SafetyIncident) -> str:
        return incident.nova_id or "the whole fleet"

    @display(description="what was measured")
    def show_evidence(self, incident: SafetyIncident) -> SafeString | str:
        rows = list(_flat(incident.evidence, DEPTH_SHOWN))
        return table(["what", "value"], rows) if rows else "-"

    @display(description="what was done, and when")
    def show_story(self, incident: SafetyIncident) -> SafeString | str:
        told = story(incident)
        rows = [
            (date_format(localtime(entry.created_at), "DATETIME_FORMAT"), entry.action, entry.actor, entry.reason or "-")
            for entry in told.entries
        ]
        if not told.complete:
            rows.insert(1, ("…", "some are left out: see the journal", "", ""))
        return table(["when", "what", "who", "why"], rows) if rows else "-"


def _flat(value: Mapping[str, Any], depth: int, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give evidence as rows, what lies within as `outer, inner`."""
    for name, inner in value.items():
        what = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(inner, dict) and inner and depth > 1:
            yield from _flat(inner, depth - 1, f"{what}, ")
        else:
            text = inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
            yield what, "-" if inner in (None, "") else text
