"""The admin's page of the Novas: what is configured, what each one is doing, and the operator's verbs."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil
from django.utils.timezone import localtime
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from safety.admin import table
from safety.limits import limits_in_force
from safety.observe import ENFORCED, observation_of
from workflow import budgets
from workflow.admin.observed import words_of
from workflow.admin.verbs import AdminVerb, Done, VerbAdmin
from workflow.configuration import check_executors, save_configured
from workflow.derived_status import derived_status, load_fleet, load_verdicts
from workflow.execution.registry import EXTERNAL
from workflow.model_tools import TOOLS
from workflow.models import Nova, NovaState
from workflow.nova_verbs import NOVA_VERBS, NovaVerb, carry_out, right_for

# pages with more of a Nova, and by which field they are narrowed to it
ELSEWHERE = (
    ("tasks", "workflow_task", "assignee__nova_id__exact"),
    ("executions", "workflow_execution", "task__assignee__nova_id__exact"),
    ("approvals", "workflow_approval", "nova__nova_id__exact"),
    ("incidents", "safety_safetyincident", "nova_id__exact"),
    ("inbox", "workflow_inboxmessage", "nova_id__exact"),
    ("hook calls", "safety_hookevent", "nova_id__exact"),
    ("keys", "safety_apikey", "nova_id__exact"),
    ("journal", "safety_auditentry", "nova_id__exact"),
)
UNBROKEN = "\N{NO-BREAK SPACE}"
LABELS = {
    "killed": "danger",
    "halted": "danger",
    "quarantined": "danger",
    "archived": "default",
    "paused": "warning",
    "draining": "warning",
    "safety pause": "danger",
    "error recovery": "danger",
    "silent": "danger",
    "working": "success",
    "completing": "success",
    "idle": "info",
    "new": "default",
}


def known_executors() -> list[tuple[str, str]]:
    """Give what can run a task here, or claim it from outside, as choices."""
    return [(name, name) for name in sorted({*settings.EXECUTORS, *EXTERNAL})]


class NovaForm(forms.ModelForm):  # type: ignore[type-arg]
    """A Nova's configuration, and why it is changed."""

    default_executor = forms.ChoiceField(choices=known_executors, widget=UnfoldAdminSelectWidget)
    allowed_executors = forms.MultipleChoiceField(
        choices=known_executors,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        required=False,
        help_text="What this Nova's tasks may run.",
    )
    stream_executors = forms.MultipleChoiceField(
        choices=known_executors,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        required=False,
        help_text="What an entry on a stream may choose for this Nova.",
    )
    approval_tools = forms.MultipleChoiceField(
        choices=[(name, name) for name in TOOLS],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        required=False,
        help_text="Tools of the model that a person must approve each time.",
    )
    reason = forms.CharField(
        required=False, max_length=2000, help_text="Kept in the journal with the change.", widget=UnfoldAdminTextInputWidget
    )

    class Meta:
        model = Nova
        fields = [
"nova_id", "name", "personality", "policy", "candidate_policy", "team", "default_executor", "allowed_executors",
            "stream_executors", "model", "budget_requests", "budget_tokens", "budget_cost", "approval_tools",
            "execution_timeout", "tasks_per_phase", "personal_phase_after", "personal_phase_minutes",
        ]  # fmt: skip

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if {"default_executor", "allowed_executors", "stream_executors"} <= cleaned.keys():
            try:
                check_executors(cleaned["default_executor"], cleaned["allowed_executors"], cleaned["stream_executors"])
            except ValidationError as problem:
                self.add_error(None, problem)
        return cleaned


class InService(admin.SimpleListFilter):
    """Archived Novas are shown only when asked for."""

    title = "service"
    parameter_name = "service"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("archived", "Archived"), ("all", "All")]

    def choices(self, changelist: ChangeList) -> Any:
        for value, title in [(None, "In service"), *self.lookup_choices]:
            yield {
                "selected": self.value() == value,
                "query_string": changelist.get_query_string(
                    {self.parameter_name: value} if value else {}, [self.parameter_name]
                ),
                "display": title,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Nova]) -> QuerySet[Nova]:
        if self.value() == "all":
            return queryset
        return queryset.filter(archived_at__isnull=self.value() != "archived")


def _verb(law: NovaVerb) -> AdminVerb:
    def act(keys: Sequence[str], answers: Mapping[str, Any], now: datetime) -> Done:
        done = Done()
        for result in carry_out(law.name, keys, reason=answers["reason"], now=now):
            done.changed += result.changed
            done.unchanged += not result.changed and not result.problem
            if result.problem:
                done.problems.append(f"Nova {result.nova_id} can't {law.name}: {result.problem}.")
        return done

    return AdminVerb(
        law.name, law.title, law.past, law.effect, act, icon=law.icon, danger=law.danger,
        offered=lambda nova: law.offered(nova.state.mode), right=lambda keys: right_for(law.name, keys),
    )  # fmt: skip


@admin.register(Nova)
class NovaAdmin(VerbAdmin):
    """Novas: trouble is seen in the second column."""

    journal_type = "nova"
    dashboard = "nova"
    form = NovaForm
    verbs = tuple(_verb(law) for law in NOVA_VERBS.values())
    list_display = ["nova_id", "show_status", "show_reason", "show_state", "show_in_flight", "show_compliance", "show_due"]
    list_filter = [InService, "state__mode", "state__current_state", "personality", "policy", "candidate_policy", "team"]
    search_fields = ["nova_id", "name", "team"]
    ordering = ["nova_id"]
    fieldsets = [
        ("Where it stands", {"fields": [
            ("show_status", "show_reason"), ("show_state", "show_phase"), ("show_due", "show_cycles"),
            ("show_in_flight", "show_compliance"), "show_last_error", "show_elsewhere",
        ]}),
        ("Who it is", {"fields": [("nova_id", "name"), ("personality", "policy"), "team"]}),
        ("What it may run", {"fields": ["default_executor", ("allowed_executors", "stream_executors"), "execution_timeout",
                                       ("provider_account", "model")]}),
        ("What its model may use", {"fields": [("budget_requests", "budget_tokens"), "budget_cost", "show_usage",
                                               "approval_tools"]}),
        ("Phases", {"fields": ["tasks_per_phase", "personal_phase_after", "personal_phase_minutes"]}),
        ("Observe", {"fields": ["candidate_policy", ("show_observed", "show_blocks"), "show_last_block", "show_enforced"]}),
        ("Why", {"fields": ["reason"]}),
        ("Limits in force", {"fields": ["show_limits"]}),
    ]  # fmt: skip
    only_of_saved = frozenset({"Where it stands", "Observe", "Limits in force"})
    readonly_fields = [
        "show_status", "show_reason", "show_state", "show_phase", "show_due", "show_in_flight", "show_cycles",
        "show_compliance", "show_last_error", "show_observed", "show_blocks", "show_last_block", "show_enforced", "show_limits",
        "show_usage", "show_elsewhere",
    ]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Nova]:
        novas: QuerySet[Nova] = super().get_queryset(request)
        return novas.select_related("state", "personality")

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Give the list with each Nova's status worked out, at the cost of two queries for all of them."""
        changelist: ChangeList = super().get_changelist_instance(request)
        self._look(list(changelist.result_list))
        return changelist

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Nova | None:
        nova: Nova | None = super().get_object(request, object_id, from_field)
        if nova is not None:
            self._look([nova])
            nova.observation = observation_of(nova.pk, nova.candidate_policy_id)  # type: ignore[attr-defined]
        return nova

    def get_readonly_fields(self, request: HttpRequest, obj: Nova | None = None) -> Any:
        return [*self.readonly_fields, *(["nova_id"] if obj else [])]

    def get_fieldsets(self, request: HttpRequest, obj: Nova | None = None) -> Any:
        return self.fieldsets if obj else [part for part in self.fieldsets if part[0] not in self.only_of_saved]

    def save_model(self, request: HttpRequest, obj: Nova, form: Any, change: bool) -> None:
        save_configured(
            obj,
            now=timezone.now(),  # noqa: TID251 - a door
            reason=form.cleaned_data.get("reason", ""),
            fields=form.changed_data,
            creating=not change,
        )

    def breakdown(self, rows: QuerySet[Nova]) -> list[tuple[str, int]]:
        return list(NovaState.objects.filter(nova__in=rows).order_by("mode").values_list("mode").annotate(Count("nova_id")))

    @staticmethod
    def _look(novas: list[Nova]) -> None:
        now = timezone.now()  # noqa: TID251 - a door
        verdicts, fleet = load_verdicts([nova.nova_id for nova in novas]), load_fleet()
        for nova in novas:
            nova.doing = derived_status(nova, nova.state, verdicts.get(nova.nova_id), fleet, now)  # type: ignore[attr-defined]
            nova.seen_at = now  # type: ignore[attr-defined]

    @display(description="status", label=LABELS)
    def show_status(self, nova: Any) -> str:
        return str(nova.doing.status).replace("_", " ")

    @display(description="why, since")
    def show_reason(self, nova: Any) -> SafeString:
        since = f"for {timesince(nova.doing.since, nova.seen_at, depth=1)}" if nova.doing.since else ""
        text = ", ".join(part for part in (nova.doing.reason, since) if part) or "-"
        return format_html('<span style="display:inline-block;min-width:12rem">{}</span>', text)

    @display(description="state", ordering="state__current_state")
    def show_state(self, nova: Nova) -> str:
        return nova.state.current_state.replace("_", UNBROKEN)

    @display(description="phase", ordering="state__current_phase")
    def show_phase(self, nova: Nova) -> str:
        return nova.state.current_phase.replace("_", UNBROKEN)

    @display(description="in flight", ordering="state__tasks_in_flight")
    def show_in_flight(self, nova: Nova) -> int:
        return nova.state.tasks_in_flight

    @display(description="cycles", ordering="state__total_cycles_completed")
    def show_cycles(self, nova: Nova) -> int:
        return nova.state.total_cycles_completed

    @display(description="compliance")
    def show_compliance(self, nova: Nova) -> str:
        share = nova.state.compliance
        return "-" if share is None else f"{share:.1%}"

    @display(description="due", ordering="state__due_at")
    def show_due(self, nova: Any) -> str:
        state = nova.state
        if state.mode not in NovaState.RUNNING_MODES:
            return f"{state.paused_remaining:.0f}{UNBROKEN}s left" if state.mode == NovaState.Mode.PAUSED else "-"
        if state.due_at <= nova.seen_at:
            return "now"
        ahead = (state.due_at - nova.seen_at).total_seconds()
        return (
            f"in{UNBROKEN}{ahead:.0f}{UNBROKEN}s"
            if ahead < 120
            else f"in{UNBROKEN}{timeuntil(state.due_at, nova.seen_at, depth=1)}"
        )

    @display(description="more of it")
    def show_elsewhere(self, nova: Nova) -> SafeString:
        pages = [(title, reverse(f"admin:{page}_changelist"), {field: nova.pk}) for title, page, field in ELSEWHERE]
        return format_html_join(
            " · ",
            '<a class="text-link" href="{}?{}">{}</a>',
            [(url, urlencode(query), title) for title, url, query in pages],
        )

    @display(description="last error")
    def show_last_error(self, nova: Nova) -> str:
        return nova.state.last_error or "-"

    @display(description="observed")
    def show_observed(self, nova: Any) -> str:
        seen = nova.observation
        if seen is None:
            return "not judged yet" if nova.candidate_policy_id else "there is no candidate"
        return f"since {_instant(seen.observed_since)}"

    @display(description="would have blocked")
    def show_blocks(self, nova: Any) -> str:
        seen = nova.observation
        if seen is None:
            return "-"
        times = "once" if seen.blocks == 1 else f"{seen.blocks:,} times"
        now = "it would let the Nova act" if seen.is_safe else "it would have the Nova stopped"
        return f"{times if seen.blocks else 'never'}; now {now}, since {_instant(seen.since)}"

    @display(description="newest block")
    def show_last_block(self, nova: Any) -> str:
        seen = nova.observation
        if seen is None or seen.last_block_at is None:
            return "-"
        return f"{_instant(seen.last_block_at)}, {seen.mechanism}: {seen.reason}"

    @display(description="the enforced policy said")
    def show_enforced(self, nova: Any) -> str:
        return words_of(nova.observation.memory.get(ENFORCED) if nova.observation else None)

    @display(description="used today (UTC)")
    def show_usage(self, nova: Nova) -> str:
        used = budgets.used_today(nova.pk, now=timezone.now())  # noqa: TID251 - a door
        return f"{used.requests:,} calls, {used.tokens:,} tokens, {used.cost:,.4f} in money"

    @display(description="limits")
    def show_limits(self, nova: Nova) -> SafeString:
        limits = limits_in_force(nova.policy, nova.candidate_policy)
        heads = ["limit", "in force", "meaning", "origin"]
        rows = [(limit.name, limit.in_words(limit.value), limit.meaning, limit.origin) for limit in limits]
        if nova.candidate_policy is None:
            return table(heads, rows)
        told = ["same" if one.candidate in (None, one.value) else one.in_words(one.candidate) for one in limits]
        return table(
            [*heads, f"candidate {nova.candidate_policy}"], [(*row, said) for row, said in zip(rows, told, strict=True)]
        )


def _instant(value: datetime | None) -> str:
    return date_format(localtime(value), "DATETIME_FORMAT") if value else "-"
