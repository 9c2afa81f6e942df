"""The admin's pages of what operators configure beside Novas: personalities, safety policies, objectives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from safety.admin import table
from safety.limits import limits_in_force
from safety.models import SafetyPolicy
from workflow.admin.verbs import AdminVerb, VerbAdmin, one_by_one
from workflow.configuration import archive, restore, save_configured
from workflow.core.personality import (
    CELEBRATION_STYLES,
    COMMUNICATION_PATTERNS,
    WORK_STYLES,
    celebration_stages,
    phrase,
    work_style,
)
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


def _styles(name: str, known: Sequence[str]) -> forms.ChoiceField:
    """Offer the styles that are known: any other is read as the first."""
    return forms.ChoiceField(
        choices=[(style, style.replace("_", " ")) for style in known], label=name, widget=UnfoldAdminSelectWidget
    )


class PersonalityForm(ConfiguredForm):
    """A personality's fields, with the styles that there are; one that is none of them stays as it is until it is changed."""

    celebration_style = _styles("Celebration style", CELEBRATION_STYLES)
    work_style = _styles("Work style", WORK_STYLES)
    communication_pattern = _styles("Communication pattern", COMMUNICATION_PATTERNS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("celebration_style", "work_style", "communication_pattern"):
            stands = getattr(self.instance, name)
            field: Any = self.fields.get(name)  # a page without a form has none
            if field is not None and stands and stands not in dict(field.choices):
                field.choices = [*field.choices, (stands, f"{stands} (unknown)")]


@admin.register(Personality)
class PersonalityAdmin(ConfiguredAdmin):
    journal_type = "personality"
    form = PersonalityForm
    verbs = archiving(Personality)
    list_display = ["slug", "base_cycle_time", "reflection_frequency", "work_style", "show_novas", "show_use"]
    list_filter = [InUse]
    search_fields = ["slug"]
    ordering = ["slug"]
    readonly_fields = ["show_novas", "show_effect"]
    fieldsets = [
        ("Where it holds", {"fields": ["show_novas", "show_effect"]}),
        (None, {"fields": ["slug", ("base_cycle_time", "reflection_frequency")]}),
        ("Styles", {"fields": ["celebration_style", "work_style", "communication_pattern"]}),
        ("Why", {"fields": ["reason"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Personality]:
        rows: QuerySet[Personality] = super().get_queryset(request)
        return rows.annotate(novas=_in_service("personality"))

    def get_fieldsets(self, request: HttpRequest, obj: Personality | None = None) -> Any:
        return self.fieldsets if obj else self.fieldsets[1:]

    @display(description="Novas")
    def show_novas(self, personality: Any) -> SafeString:
        return _novas("personality", personality.pk, personality.novas)

    @display(description="what that comes to")
    def show_effect(self, personality: Personality) -> SafeString:
        rows = [(what, value, origin) for what, value, origin in _in_force(personality)]
        return table(["what", "in force", "origin"], rows)


def _in_force(row: Personality) -> Iterator[tuple[str, str, str]]:
    """Tell what a personality comes to when it is worked by, and which column says so."""
    yield "a cycle takes, where nothing urgent comes", f"{row.base_cycle_time:g} s", "base cycle time"
    seldom = f"1 in {1 / row.reflection_frequency:.3g}" if row.reflection_frequency else "never"
    yield "cycles that look back", seldom, "reflection frequency"
    for level in ("quiet", "steady", "strong", "outstanding"):
        stages = celebration_stages(row.celebration_style, level)
        told = f"{sum(stages)} s: {stages[0]} s joy, {stages[1]} s reflection, {stages[2]} s planning"
        yield f"after a {level} achievement", told, _origin("celebration style", row.celebration_style, CELEBRATION_STYLES)
    first = ", ".join(work_style(row.work_style).momentum_first).replace("_", " ")
    yield "work it finds itself, first of all", first, _origin("work style", row.work_style, WORK_STYLES)
    voice = phrase(row.communication_pattern, "begun")
    yield "its voice", f"“{voice}”", _origin("communication pattern", row.communication_pattern, COMMUNICATION_PATTERNS)


def _origin(column: str, value: str, known: Sequence[str]) -> str:
    words = value.replace("_", " ")
    return f"{column} {words}" if value in known else f"{column} {words} is unknown and read as {known[0].replace('_', ' ')}"


@admin.register(SafetyPolicy)
class SafetyPolicyAdmin(ConfiguredAdmin):
    journal_type = "policy"
    verbs = archiving(SafetyPolicy)
    list_display = [
        "slug", "description", "requests_per_minute", "requests_per_day", "max_concurrent_tasks", "show_enforced", "show_use",
    ]  # fmt: skip
    list_filter = [InUse]
    search_fields = ["slug"]
    ordering = ["slug"]
    readonly_fields = ["show_enforced", "show_observed", "show_differences", "show_limits"]
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
        ("Limits in force", {"fields": ["show_limits"]}),
    ]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[SafetyPolicy]:
        """Give the policies with how many Novas in service are under each; this floor alone knows Novas."""
        rows: QuerySet[SafetyPolicy] = super().get_queryset(request)
        return rows.annotate(enforced=_in_service("policy"), observed=_in_service("candidate_policy"))

    def get_fieldsets(self, request: HttpRequest, obj: SafetyPolicy | None = None) -> Any:
        return self.fieldsets if obj else self.fieldsets[1:-1]

    @display(description="in force for")
    def show_enforced(self, policy: Any) -> SafeString:
        return _novas("policy", policy.pk, policy.enforced)

    @display(description="observed as a candidate by")
    def show_observed(self, policy: Any) -> SafeString:
        return _novas("candidate_policy", policy.pk, policy.observed)

    @display(description="every limit")
    def show_limits(self, policy: SafetyPolicy) -> SafeString:
        rows = [(one.name, one.in_words(one.value), one.meaning, one.origin) for one in limits_in_force(policy)]
        return table(["limit", "in force", "meaning", "origin"], rows)

    @display(description="differs from the preset standard in")
    def show_differences(self, policy: SafetyPolicy) -> SafeString | str:
        found = [limit for limit in limits_in_force(policy) if limit.differs]
        rows = [(one.name, one.in_words(one.value), one.in_words(one.standard), one.meaning) for one in found]
        return table(["limit", "here", "standard", "meaning"], rows) if rows else "nothing"


def _in_service(field: str) -> Subquery:
    """Count the Novas in service that name a row in this field."""
    rows = Nova.objects.filter(archived_at=None, **{field: OuterRef("pk")}).order_by().values(field)
    return Subquery(rows.annotate(number=Count("pk")).values("number"))


def _novas(field: str, slug: str, number: int | None) -> SafeString:
    """Lead to the Novas in service that name this row."""
    count = number or 0
    url = f"{reverse('admin:workflow_nova_changelist')}?{urlencode({f'{field}__slug__exact': slug})}"
    return format_html('<a href="{}">{}</a>', url, f"{count} Nova{'' if count == 1 else 's'}")


@admin.register(Objective)
class ObjectiveAdmin(ConfiguredAdmin):
    journal_type = "objective"
    key_fields = ()
    verbs = archiving(Objective)
    list_display = ["title", "nova", "team", "priority", "cadence", "due_at", "until", "open_task_id", "show_use"]
    list_filter = [InUse, "priority", "team"]
    texts = frozenset({"description"})  # it becomes its tasks'
    search_fields = ["title"]
    ordering = ["-id"]
    autocomplete_fields = ["nova"]
    readonly_fields = ["open_task_id"]
    fieldsets = [
        (None, {"fields": ["title", "description", ("nova", "team"), "priority"]}),
        ("When", {"fields": ["cadence", "due_at", "until", "open_task_id"]}),
        ("Why", {"fields": ["reason"]}),
    ]
