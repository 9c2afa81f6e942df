"""The admin's windows on what the machinery keeps: inbox, stream cursors, leases. Nothing is changed here."""

import json
from typing import Any

from django.contrib import admin
from django.utils.timesince import timesince
from unfold.contrib.filters.admin import FieldTextFilter
from unfold.decorators import display

from safety.admin import RECENT, ExactTextFilter, KnownWordsFilter, ReadOnlyAdmin
from workflow.core.wake_signals import SignalTier
from workflow.models import InboxMessage, Lease, StreamCursor


class ByKind(KnownWordsFilter):
    title = parameter_name = "kind"
    words = ("work_item", "alert", "signal", "foreign")


class ByTier(KnownWordsFilter):
    title = parameter_name = "tier"
    words = tuple(SignalTier)


@admin.register(InboxMessage)
class InboxMessageAdmin(ReadOnlyAdmin):
    """Stream entries and what became of them; refused ones with the reason and their raw fields."""

    journal_type = "inbox"
    list_display = ["id", "received_at", "stream", "kind", "show_status", "show_fate", "nova_id", "task_id", "sender"]
    list_filter = [
        "status", ByKind, ByTier, ("stream", FieldTextFilter), ("entry_id", ExactTextFilter), ("nova_id", ExactTextFilter),
        ("task_id", ExactTextFilter), ("sender", ExactTextFilter), "received_at",
    ]  # fmt: skip
    served = frozenset()
    texts = frozenset({"show_fate", "reason", "sender", "fields"})
    search_help_text = f"Filters look at the newest {RECENT:,} entries."
    ordering = ["-id"]
    fieldsets = [
        (None, {"fields": ["stream", ("entry_id", "kind", "tier"), ("status", "outcome"), "reason"]}),
        ("Whose", {"fields": [("nova_id", "sender", "task_id")]}),
        ("When", {"fields": [("received_at", "handled_at")]}),
        ("As it came", {"fields": ["fields"]}),
    ]

    @display(description="status", ordering="status", label={"waiting": "info", "handled": "success", "rejected": "danger"})
    def show_status(self, message: InboxMessage) -> str:
        return message.status

    @display(description="what became of it")
    def show_fate(self, message: InboxMessage) -> str:
        return message.reason or message.outcome or "-"


@admin.register(StreamCursor)
class StreamCursorAdmin(ReadOnlyAdmin):
    journal_type = "cursor"
    list_display = ["stream", "last_id", "updated_at"]
    search_fields = ["stream"]
    ordering = ["stream"]
    fields = ["stream", "last_id", "updated_at"]


@admin.register(Lease)
class LeaseAdmin(ReadOnlyAdmin):
    """Who reads, who relays, which slot is driven by whom."""

    journal_type = "lease"
    list_display = ["name", "show_holder", "fence", "expires_at", "show_heartbeat", "show_note"]
    search_fields = ["name", "holder"]
    ordering = ["name"]
    fields = ["name", "holder", "fence", "expires_at", "heartbeat_at", "note"]

    @display(description="holder")
    def show_holder(self, lease: Lease) -> str:
        return lease.holder or "nobody"

    @display(description="last heartbeat", ordering="heartbeat_at")
    def show_heartbeat(self, lease: Lease) -> str:
        return f"{timesince(lease.heartbeat_at)} ago" if lease.heartbeat_at else "-"

    @display(description="note")
    def show_note(self, lease: Lease) -> Any:
        return json.dumps(lease.note) if lease.note else "-"
