"""The admin's pages of what operators configure beside Novas: personalities, safety policies, objectives."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from safety.admin import table
from safety.limits import limits_in_force
from safety.models import SafetyPolicy
from workflow.admin.verbs import AdminVerb, VerbAdmin, one_by_one
from workflow.configuration import archive, restore, save_configured
from workflow.models import Nova, Objective, Personality


class ConfiguredForm(forms.ModelForm):  # type: ignore[type-arg]
    """A row's fields, and why they are changed."""

    reason = forms.CharField(
        required=False, max_length=2000, help_text="Kept in the journal with the change.", widget=UnfoldAdminTextInputWidget
    )


def _each(model: type[Any], change: Callable[..., bool]) -> Callable[..., Any]:
    def act(key: str, answers: Mapping[str, Any], now: datetime) -> bool:
        return change(model._default_manager.get(pk=key), now=now, reason=answers["reason"])

    return one_by_one(act)


def archiving(model: type[Any]) -> tuple[AdminVerb, AdminVerb]:
    """Give the two verbs by which a row leaves and re-enters use."""
    return (
        AdminVerb(
            "archive",
            "Archive",
            "archived",
            "Takes out of use; nothing is deleted.",
            _each(model, archive),
            icon="archive",
            offered=lambda row: row.archived_at is None,
        ),
        AdminVerb(
            "restore",
            "Restore",
            "restored",
            "Takes back into use.",
            _each(model, restore),
            icon="unarchive",
            offered=lambda row: row.archived_at is not None,
        ),
    )


class InUse(admin.SimpleListFilter):
    title = "use"
    parameter_name = "use"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "In use"), ("no", "Archived")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(archived_at__isnull=self.value() == "yes") if self.value() else queryset


class ConfiguredAdmin(VerbAdmin):
    """A page whose rows are saved through the one journalled way."""

    form = ConfiguredForm
    show_full_result_count = True
    key_fields: tuple[str, ...] = ("slug",)  # for ever, once saved

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*self.readonly_fields, *(self.key_fields if obj else ())]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        save_configured(
            obj,
            now=timezone.now(),  # noqa: TID251 - a door
            reason=form.cleaned_data.get("reason", ""),
            fields=form.changed_data,
            creating=not change,
        )

    @display(description="use", label={"in use": "success", "archived": "default"})
    def show_use(self, row: Any) -> str:
        return "archived" if row.archived_at else "in use"


@admin.register(Personality)
class PersonalityAdmin(ConfiguredAdmin):
    journal_type = "personality"
    verbs = archiving(Personality)
    list_display = [
        "slug", "base_cycle_time", "reflection_frequency", "celebration_style", "work_style", "communication_pattern",
        "show_use",
    ]  # fmt: skip
    list_filter = [InUse]
    search_fields = ["slug"]
    ordering = ["slug"]
    fieldsets = [
        (None, {"fields": ["slug", ("base_cycle_time", "reflection_frequency")]}),
        ("Styles", {"fields": ["celebration_style", "work_style", "communication_pattern"]}),
        ("Why", {"fields": ["reason"]}),
    ]


@admin.register(SafetyPolicy)
class SafetyPolicyAdmin(ConfiguredAdmin):
    journal_type = "policy"
    verbs = archiving(SafetyPolicy)
    list_display = [
        "slug", "description", "requests_per_minute", "requests_per_hour", "requests_per_day", "concurrent_requests",
        "max_concurrent_tasks", "show_use",
    ]  # fmt: skip
    list_filter = [InUse]
    search_fields = ["slug"]
    ordering = ["slug"]
    readonly_fields = ["show_enforced", "show_observed", "show_differences"]
    fieldsets = [
        ("Where it holds", {"fields": [("show_enforced", "show_observed"), "show_differences"]}),
        (None, {"fields": ["slug", "description", "max_concurrent_tasks"]}),
        ("Calls to model providers", {"fields": [
            ("requests_per_minute", "requests_per_hour"), ("requests_per_day", "concurrent_requests"),
            ("burst_requests", "burst_window"), "request_timeout",
        ]}),
        ("Frosty: bursts, failures, drift", {"fields": [
            ("tool_uses_per_minute", "failures_in_window"), ("failure_ratio", "failure_window"), ("cooldown", "cooldown_limit"),
            ("drift_without_task_change", "own_wakes_per_hour"), ("celebration_limit", "empty_cycles_per_minute"),
        ]}),
        ("Really Chill Willy: stress", {"fields": [
            ("meditation_stress", "emergency_stress"), ("stress_sustained", "meditation"),
            ("process_memory_limit", "process_cpu_limit"),
        ]}),
        ("Hooks", {"fields": [
            ("hook_silence", "hook_failures_in_window"), ("session_events_per_minute", "identical_calls_per_minute"),
            "quarantine",
        ]}),
        ("Streams", {"fields": [
            ("stream_silence", "round_trip_limit"), ("intake_lag_limit", "outbox_age_limit"), "stream_memory_ratio",
        ]}),
        ("Why", {"fields": ["reason"]}),
    ]  # fmt: skip

    def get_fieldsets(self, request: HttpRequest, obj: SafetyPolicy | None = None) -> Any:
        return self.fieldsets if obj else self.fieldsets[1:]

    @display(description="in force for")
    def show_enforced(self, policy: SafetyPolicy) -> SafeString:
        return _novas("policy", policy)

    @display(description="observed as a candidate by")
    def show_observed(self, policy: SafetyPolicy) -> SafeString:
        return _novas("candidate_policy", policy)

    @display(description="differs from the preset standard in")
    def show_differences(self, policy: SafetyPolicy) -> SafeString | str:
        found = [limit for limit in limits_in_force(policy) if limit.differs]
        rows = [(one.name, one.in_words(one.value), one.in_words(one.standard), one.meaning) for one in found]
        return table(["limit", "here", "standard", "meaning"], rows) if rows else "nothing"


def _novas(field: str, policy: SafetyPolicy) -> SafeString:
    """Lead to the Novas in service that name this policy."""
    count = Nova.objects.filter(archived_at=None, **{field: policy}).count()
    url = f"{reverse('admin:workflow_nova_changelist')}?{urlencode({f'{field}__slug__exact': policy.pk})}"
    return format_html('<a href="{}">{}</a>', url, f"{count} Nova{'' if count == 1 else 's'}")


@admin.register(Objective)
class ObjectiveAdmin(ConfiguredAdmin):
    journal_type = "objective"
    key_fields = ()
    verbs = archiving(Objective)
    list_display = ["title", "nova", "team", "priority", "cadence", "due_at", "until", "open_task_id", "show_use"]
    list_filter = [InUse, "priority", "team"]
    search_fields = ["title", "description"]
    ordering = ["-id"]
    autocomplete_fields = ["nova"]
    readonly_fields = ["open_task_id"]
    fieldsets = [
        (None, {"fields": ["title", "description", ("nova", "team"), "priority"]}),
        ("When", {"fields": ["cadence", "due_at", "until", "open_task_id"]}),
        ("Why", {"fields": ["reason"]}),
    ]
