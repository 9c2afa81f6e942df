"""The admin's pages of agents: the sessions their hooks told of, and each hook call."""

from django.contrib import admin
from django.utils.timesince import timesince
from unfold.decorators import display

from safety.admin import ExactTextFilter, ReadOnlyAdmin
from safety.models import HookEvent, HookSession


@admin.register(HookEvent)
class HookEventAdmin(ReadOnlyAdmin):
    """Hook calls, newest first, with what was answered; refused ones stand out."""

    journal_type = "hook"
    list_display = ["id", "received_at", "nova_id", "event", "tool_name", "show_answer", "session_id", "problem"]
    list_filter = [("nova_id", ExactTextFilter), ("session_id", ExactTextFilter), "received_at"]
    served = frozenset({"nova_id__exact"})
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
    list_filter = [("nova_id", ExactTextFilter), ("source", ExactTextFilter), "started_at"]
    served = frozenset()
    search_fields = ["session_id__exact"]
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
