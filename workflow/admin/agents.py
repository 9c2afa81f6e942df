"""The admin's pages of agents: the sessions their hooks told of, each hook call, and the keys that say who they are."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.timesince import timesince
from unfold.decorators import display

from safety import api_keys
from safety.admin import ExactTextFilter, ReadOnlyAdmin
from safety.models import ApiKey, HookEvent, HookSession
from workflow.admin.verbs import AdminVerb, VerbAdmin, one_by_one


@admin.register(HookEvent)
class HookEventAdmin(ReadOnlyAdmin):
    """Hook calls, newest first, with what was answered; refused ones stand out."""

    journal_type = "hook"
    list_display = ["id", "received_at", "nova_id", "event", "tool_name", "show_answer", "session_id", "problem"]
    list_filter = [("nova_id", ExactTextFilter), ("session_id", ExactTextFilter), "received_at"]
    ordering = ["-id"]
    fieldsets = [
        (None, {"fields": ["received_at", ("nova_id", "session_id"), ("event", "tool_name"), "show_answer", "problem"]}),
        ("As it came", {"fields": ["payload", ("digest", "delivery")]}),
        ("What was answered", {"fields": ["reply"]}),
    ]
    readonly_fields = ["show_answer"]

    @display(description="answer", label={"let through": "success", "refused": "danger"})
    def show_answer(self, event: HookEvent) -> str:
        return "refused" if event.reply else "let through"


@admin.register(HookSession)
class HookSessionAdmin(ReadOnlyAdmin):
    """Sessions of agents, the latest first."""

    journal_type = "session"
    list_display = ["session_id", "nova_id", "show_status", "source", "started_at", "show_seen", "events", "turns"]
    list_filter = [("nova_id", ExactTextFilter), "source", "started_at"]
    search_fields = ["=session_id"]
    search_help_text = "a session's whole id"
    ordering = ["-id"]
    fields = [
        "session_id", "nova_id", "source", "started_at", "last_seen_at", "ended_at", "stopped_at", "events", "turns",
    ]  # fmt: skip

    def journal_key(self, object_id: str) -> tuple[str, str]:
        session = HookSession.objects.filter(pk=object_id).first() if object_id.isdigit() else None
        return "session", session.session_id if session else object_id

    @display(
        description="status", label={"at work": "success", "at rest": "info", "told to stop": "warning", "ended": "default"}
    )
    def show_status(self, session: HookSession) -> str:
        if session.ended_at is not None:
            return "ended"
        if session.stopped_at is not None:
            return "told to stop"
        return "at rest" if session.at_rest else "at work"

    @display(description="last seen", ordering="last_seen_at")
    def show_seen(self, session: HookSession) -> str:
        return f"{timesince(session.last_seen_at)} ago"


def _each(change: Callable[..., bool]) -> Callable[..., Any]:
    def act(key: str, answers: Mapping[str, Any], now: datetime) -> bool:
        return change(int(key), reason=answers["reason"], now=now)

    return one_by_one(act)


@admin.register(ApiKey)
class ApiKeyAdmin(VerbAdmin):
    """Keys of Novas. Their text is nowhere: it was shown once, by `manage.py apikey_create`."""

    journal_type = "key"
    verbs = (
        AdminVerb(
            "suspend", "Suspend", "suspended", "Refuses the key until it is reinstated.", _each(api_keys.suspend_key),
            icon="block", offered=lambda key: key.suspended_at is None and key.revoked_at is None,
        ),
        AdminVerb(
            "reinstate", "Reinstate", "reinstated", "Lets a suspended key be used again.", _each(api_keys.reinstate_key),
            icon="lock_open", offered=lambda key: key.suspended_at is not None and key.revoked_at is None,
        ),
        AdminVerb(
            "revoke", "Revoke", "revoked", "Makes the key useless for good.", _each(api_keys.revoke_key), icon="key_off",
            danger=True, offered=lambda key: key.revoked_at is None,
        ),
    )  # fmt: skip
    list_display = ["show_prefix", "nova_id", "name", "show_status", "created_at", "created_by", "last_used_at", "expires_at"]
    list_filter = [("nova_id", ExactTextFilter), "created_at"]
    ordering = ["-id"]
    fields = [
        "show_prefix", "nova_id", "name", "show_status", "suspended_reason", "created_at", "created_by", "last_used_at",
        "expires_at", "suspended_at", "revoked_at",
    ]  # fmt: skip
    readonly_fields = ["show_prefix", "show_status"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # only by the verbs

    @display(description="key")
    def show_prefix(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @display(description="status", label={"good": "success", "suspended": "warning", "revoked": "danger"})
    def show_status(self, key: ApiKey) -> str:
        if key.revoked_at is not None:
            return "revoked"
        return "suspended" if key.suspended_at is not None else "good"
