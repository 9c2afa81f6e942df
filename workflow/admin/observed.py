"""The admin's page of what candidate policies would have blocked, a row a Nova. Nothing is changed here, or follows from it."""

from django.contrib import admin
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from safety.admin import ExactTextFilter, ReadOnlyAdmin
from safety.models import CandidateVerdict
from safety.observe import ENFORCED
from workflow.models import Nova


@admin.register(CandidateVerdict)
class CandidateVerdictAdmin(ReadOnlyAdmin):
    """Novas that are observed; the button History leads to the Nova's story, with every block."""

    journal_type = "nova"
    list_display = [
        "nova_id", "policy", "show_verdict", "since", "observed_since", "blocks", "last_block_at", "mechanism", "reason",
    ]  # fmt: skip
    list_filter = [("nova_id", ExactTextFilter), ("policy", ExactTextFilter), "is_safe", "last_block_at"]
    search_fields = ["=nova_id"]
    search_help_text = "a nova_id"
    ordering = ["nova_id"]
    fieldsets = [
        (None, {"fields": [("nova_id", "policy"), ("show_verdict", "since"), ("observed_since", "blocks")]}),
        ("The newest block", {"fields": [
            "last_block_at", ("mechanism", "reason"), ("measured", "limit"), "show_enforced",
        ]}),
    ]  # fmt: skip
    readonly_fields = ["show_verdict", "show_enforced"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[CandidateVerdict]:
        """Leave out what an engine recorded in the moment after the candidate was taken away."""
        observed = Nova.objects.filter(pk=OuterRef("nova_id"), candidate_policy=OuterRef("policy"))
        rows: QuerySet[CandidateVerdict] = super().get_queryset(request)
        return rows.filter(Exists(observed))

    @display(description="now", ordering="is_safe", label={"would let act": "success", "would stop": "warning"})
    def show_verdict(self, seen: CandidateVerdict) -> str:
        return "would let act" if seen.is_safe else "would stop"

    @display(description="the enforced policy said")
    def show_enforced(self, seen: CandidateVerdict) -> str:
        return words_of(seen.memory.get(ENFORCED))


def words_of(said: dict[str, object] | None) -> str:
    """Tell what the enforced policy said at a block."""
    if not said:
        return "-"
    return str(said["reason"]) if said["is_safe"] else f"{said['mechanism']}: {said['reason']}"
