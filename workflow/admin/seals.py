"""The admin's windows on seals and verifications. Nothing is changed here."""

import json
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from safety.admin import ReadOnlyAdmin, table
from safety.models import AuditSeal, VerificationRun


@admin.register(AuditSeal)
class AuditSealAdmin(ReadOnlyAdmin):
    """The chain over closed ranges of the journal, newest first."""

    journal_type = "seal"
    list_display = ["number", "sealed_at", "first_id", "last_id", "count", "show_head", "key_id", "show_kept"]
    list_filter = ["sealed_at"]
    ordering = ["-number"]
    fieldsets = [
        (None, {"fields": ["number", "sealed_at", ("first_id", "last_id", "count"), "show_kept"]}),
        ("What was signed", {"fields": ["show_whole_head", "digest", "previous", "key_id", "public_key", "signature"]}),
    ]
    readonly_fields = ["show_kept", "show_whole_head"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditSeal]:
        rows: QuerySet[AuditSeal] = super().get_queryset(request)
        return rows.select_related("archive").defer("leaves")

    @display(description="head")
    def show_head(self, seal: AuditSeal) -> SafeString:
        return format_html("<code>{}…</code>", seal.head[:16])

    @display(description="head")
    def show_whole_head(self, seal: AuditSeal) -> str:
        return seal.head

    @display(description="entries")
    def show_kept(self, seal: AuditSeal) -> str:
        archive = getattr(seal, "archive", None)
        if archive is None:
            return "in the journal"
        return f"in {archive.file} only" if archive.pruned_at else f"in the journal and in {archive.file}"


@admin.register(VerificationRun)
class VerificationRunAdmin(ReadOnlyAdmin):
    """What verifications of the chain found, newest first."""

    journal_type = "verification"
    list_display = [
        "id",
        "finished_at",
        "scope",
        "show_result",
        "entries",
        "first_seal",
        "last_seal",
        "anchored",
        "requested_by",
    ]
    list_filter = ["scope", "finished_at"]
    ordering = ["-id"]
    fieldsets = [
        (None, {"fields": [("scope", "show_result"), ("first_seal", "last_seal"), ("last_id", "entries"), "anchored"]}),
        ("Who and when", {"fields": ["requested_by", "reason", ("requested_at", "started_at", "finished_at")]}),
        ("What was found", {"fields": ["show_findings"]}),
    ]
    readonly_fields = ["show_result", "show_findings"]

    @display(description="result", label={"whole": "success", "damaged": "danger", "not finished": "info"})
    def show_result(self, run: VerificationRun) -> str:
        if run.finished_at is None:
            return "not finished"
        return "damaged" if run.damages else "whole"

    @display(description="findings")
    def show_findings(self, run: VerificationRun) -> SafeString | str:
        rows = [tuple(_text(finding.get(name)) for name in ("damage", "seal", "words")) for finding in run.findings]
        return table(["damage", "seal", "what"], rows) if rows else "-"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
