"""The admin's pages of alerts: rules, channels with their test, what fired, the log of deliveries. No secret is shown."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminSelectWidget, UnfoldAdminURLInputWidget

from reporting import alert_services
from reporting.core.alerting import CONDITIONS
from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule
from reporting.models.alert import problem_of_address
from safety.admin import ExactTextFilter, ReadOnlyAdmin, table
from safety.encryption import SecretUnreadable, encrypt
from workflow.admin.configured import ConfiguredAdmin, ConfiguredForm, InUse, archiving
from workflow.admin.verbs import AdminVerb, VerbAdmin, one_by_one
from workflow.models.endpoint import problem_of_secret

_UNCHANGED = "Kept encrypted, shown nowhere. Empty: stays as it is."
_TIERS = {"info": "info", "warning": "warning", "critical": "danger"}


def _try(slug: str, answers: Mapping[str, Any], now: datetime) -> bool:
    alert_services.try_channel(slug, reason=answers["reason"], now=now)
    return True


def _reopen(slug: str, answers: Mapping[str, Any], now: datetime) -> bool:
    return alert_services.reopen_channel(slug, reason=answers["reason"], now=now)


def _redeliver(delivery_id: str, answers: Mapping[str, Any], now: datetime) -> bool:
    alert_services.redeliver(int(delivery_id), reason=answers["reason"], now=now)
    return True


class RuleForm(ConfiguredForm):
    """A rule's fields; its channels are chosen among those there are."""

    condition = forms.ChoiceField(
        choices=[(name, name.replace("_", " ")) for name in CONDITIONS], widget=UnfoldAdminSelectWidget
    )


@admin.register(AlertRule)
class AlertRuleAdmin(ConfiguredAdmin):
    journal_type = "alert_rule"
    form = RuleForm
    verbs = archiving(AlertRule)
    list_display = [
        "title",
        "show_condition",
        "threshold",
        "duration",
        "show_tier",
        "cooldown",
        "scope",
        "target",
        "enabled",
        "show_use",
    ]
    list_filter = [InUse, "tier", "enabled", "scope"]
    search_fields = ["slug", "title"]
    ordering = ["slug"]
    fieldsets = [
        (None, {"fields": ["slug", "title", ("condition", "threshold"), ("duration", "cooldown")]}),
        ("How much it matters, and to whom", {"fields": [("tier", "enabled"), ("scope", "target"), "channels"]}),
        ("Why", {"fields": ["reason"]}),
    ]

    @display(description="condition", ordering="condition")
    def show_condition(self, rule: AlertRule) -> str:
        return rule.condition.replace("_", " ")

    @display(description="tier", ordering="tier", label=_TIERS)
    def show_tier(self, rule: AlertRule) -> str:
        return rule.tier


class ChannelForm(ConfiguredForm):
    """A channel's fields; what holds a secret begins empty, and changes only when it is filled in."""

    url = forms.URLField(
        max_length=500, required=False, assume_scheme="https", help_text="Of a webhook.",
        widget=UnfoldAdminURLInputWidget(attrs={"autocomplete": "off"}),
    )  # fmt: skip
    secret = forms.CharField(
        max_length=200, required=False,
        help_text=f"Of a webhook: whsec_ and 24 to 64 random bytes in base64. The one before signs a day longer. {_UNCHANGED}",
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
    )  # fmt: skip
    address = forms.CharField(
        max_length=2_000, required=False,
        help_text=f"Of a service, in the form of apprise: slack://…, mailto://… {_UNCHANGED}",
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
    )  # fmt: skip

    @property
    def changed_data(self) -> list[str]:
        """Name the columns that a filled-in secret or address changes."""
        changed = list(super().changed_data)
        if "secret" in changed:
            changed += ["encrypted_secret", "encrypted_former", "former_until"]
        return [*changed, "encrypted_address", "service"] if "address" in changed else changed

    def clean_secret(self) -> str:
        secret = str(self.cleaned_data["secret"])
        if secret:
            if problem := problem_of_secret(secret):
                raise ValidationError(problem)
            now = timezone.now()  # noqa: TID251 - a door
            for name, value in alert_services.with_secret(self.instance, _encrypted(secret), now=now).items():
                setattr(self.instance, name, value)
        return secret

    def clean_address(self) -> str:
        address = str(self.cleaned_data["address"])
        if address:
            if problem := problem_of_address(address):
                raise ValidationError(problem)
            self.instance.encrypted_address, self.instance.service = _encrypted(address), alert_services.service_of(address)
        return address


def _encrypted(text: str) -> str:
    try:
        return encrypt(text)
    except SecretUnreadable as error:
        raise ValidationError(str(error)) from None


@admin.register(AlertChannel)
class AlertChannelAdmin(ConfiguredAdmin):
    journal_type = "alert_channel"
    form = ChannelForm
    verbs = (
        AdminVerb(
            "test", "Send a test", "tested; the deliveries tell how it went", "Sends a message that says that it is a test.",
            one_by_one(_try), icon="send", offered=lambda row: row.archived_at is None,
        ),
        AdminVerb(
            "reopen", "Open again", "opened", "Sends there again, although it was given up.", one_by_one(_reopen),
            icon="lock_open", offered=lambda row: row.closed_at is not None,
        ),
        *archiving(AlertChannel),
    )  # fmt: skip
    list_display = ["slug", "kind", "show_where", "least_tier", "show_state", "delivered_at", "show_use"]
    list_filter = [InUse, "kind", "enabled"]
    search_fields = ["slug", "description"]
    ordering = ["slug"]
    readonly_fields = ["service", "failing_since", "delivered_at", "closed_at", "closed_reason", "former_until"]
    fieldsets = [
        (None, {"fields": ["slug", "description", ("kind", "enabled"), ("least_tier", "timeout")]}),
        ("A webhook", {"fields": ["url", "secret", "former_until"]}),
        ("A service", {"fields": ["address", "service"]}),
        ("How it went", {"fields": [("delivered_at", "failing_since"), ("closed_at", "closed_reason")]}),
        ("Why", {"fields": ["reason"]}),
    ]

    def get_fieldsets(self, request: HttpRequest, obj: AlertChannel | None = None) -> Any:
        """Leave out, for those who may only look, the fields that are no columns."""
        if self.has_change_permission(request, obj) if obj else self.has_add_permission(request):
            return self.fieldsets
        return [
            self.fieldsets[0], ("A webhook", {"fields": ["url", "former_until"]}), ("A service", {"fields": ["service"]}),
            self.fieldsets[3],
        ]  # fmt: skip

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Refuse to filter by what is hidden."""
        if lookup.split("__", 1)[0] in AlertChannel.HIDDEN:
            return False
        return bool(super().lookup_allowed(lookup, value, request))

    @display(description="where")
    def show_where(self, channel: AlertChannel) -> str:
        return channel.url or f"{channel.service}://…"

    @display(description="state", label={"open": "success", "failing": "warning", "closed": "danger", "off": "default"})
    def show_state(self, channel: AlertChannel) -> str:
        if channel.closed_at is not None:
            return "closed"
        if not channel.enabled:
            return "off"
        return "failing" if channel.failing_since is not None else "open"


@admin.register(AlertEvent)
class AlertEventAdmin(ReadOnlyAdmin):
    """What fired, and what still does."""

    journal_type = "alert"
    list_display = ["title", "show_tier", "show_status", "count", "fired_at", "resolved_at"]
    list_filter = ["status", "tier", ("rule_id", ExactTextFilter)]
    ordering = ["-id"]
    fieldsets = [
        (None, {"fields": ["title", "rule", ("show_tier", "show_status"), ("count", "most"), "show_subjects"]}),
        ("When", {"fields": [("fired_at", "seen_at"), ("resolved_at", "resolution")]}),
    ]
    readonly_fields = ["show_tier", "show_status", "show_subjects"]

    @display(description="tier", ordering="tier", label=_TIERS)
    def show_tier(self, event: AlertEvent) -> str:
        return event.tier

    @display(description="status", ordering="status", label={"firing": "danger", "resolved": "success"})
    def show_status(self, event: AlertEvent) -> str:
        return event.status

    @display(description="subjects, the worst first")
    def show_subjects(self, event: AlertEvent) -> SafeString:
        return table(["subject", "what holds"], [(one["subject"], one["says"]) for one in event.subjects])


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(VerbAdmin, ReadOnlyAdmin):
    """What was sent where, and how each attempt went."""

    journal_type = "alert_delivery"
    verbs = (
        AdminVerb(
            "redeliver", "Send again", "queued again", "Sends the same message once more, under the same id.",
            one_by_one(_redeliver), icon="replay", offered=lambda row: row.status != AlertDelivery.Status.WAITING,
        ),
    )  # fmt: skip
    list_display = ["id", "channel", "title", "show_status", "attempts", "created_at", "show_last"]
    list_filter = ["status", ("channel_id", ExactTextFilter), "kind"]
    ordering = ["-id"]
    list_select_related = ["channel"]
    fieldsets = [
        (None, {"fields": ["channel", "event", ("kind", "message_id"), "title", "body"]}),
        ("How it went", {"fields": [("show_status", "attempts"), "show_attempts", ("created_at", "due_at", "ended_at")]}),
    ]
    readonly_fields = ["show_status", "show_attempts"]

    @display(description="status", ordering="status", label={"waiting": "info", "sent": "success", "failed": "danger"})
    def show_status(self, delivery: AlertDelivery) -> str:
        return delivery.status

    @display(description="last attempt")
    def show_last(self, delivery: AlertDelivery) -> str:
        return str(delivery.log[-1]["detail"]) if delivery.log else "-"

    @display(description="attempts")
    def show_attempts(self, delivery: AlertDelivery) -> SafeString | str:
        rows = [(one["at"], one["detail"], f"{one['seconds']:g} s") for one in delivery.log]
        return table(["when", "what came of it", "took"], rows) if rows else "-"
