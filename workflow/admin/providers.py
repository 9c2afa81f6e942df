"""The admin's page of provider accounts. Where an account's key is kept can be said here, and is shown nowhere."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminSelectWidget, UnfoldAdminURLInputWidget

from safety.encryption import SecretUnreadable, encrypt
from safety.models import ProviderAccount
from workflow.admin.configured import ConfiguredAdmin, ConfiguredForm, InUse, archiving
from workflow.admin.verbs import AdminVerb, Done, one_by_one
from workflow.breakers import close_breaker
from workflow.provider_trial import try_account

UNCHANGED = "Empty: stays as it is."


def _close(key: str, answers: Mapping[str, Any], now: datetime) -> bool:
    return close_breaker(key, reason=answers["reason"], now=now)


def _try(keys: Sequence[str], answers: Mapping[str, Any], now: datetime) -> Done:
    done = Done()
    for key in keys:
        trial = try_account(key, now=now)
        done.changed += trial.answers
        if not trial.answers:
            done.problems.append(f"{key}: {trial.said}")
    return done


class ProviderForm(ConfiguredForm):
    """An account's fields; those that tell where its key is begin empty, and change something only when filled in."""

    base_url = forms.URLField(
        max_length=255, required=False, assume_scheme="https", widget=UnfoldAdminURLInputWidget(attrs={"autocomplete": "off"})
    )
    key_source = forms.ChoiceField(
        choices=[("", "(unchanged)"), *ProviderAccount.KeySource.choices],
        required=False,
        help_text=f"{UNCHANGED} None: the agent has its own key.",
        widget=UnfoldAdminSelectWidget,
    )
    key_location = forms.CharField(
        max_length=255,
        required=False,
        help_text=f"{UNCHANGED} The name of the variable, or the path of the file; never the key itself.",
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
    )
    key = forms.CharField(
        max_length=4096,
        required=False,
        help_text=f"{UNCHANGED} The key itself, if there is no better place for it: kept encrypted, shown nowhere.",
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ProviderAccount.HIDDEN:
            self.initial[name] = ""

    def clean_key(self) -> str:
        key = str(self.cleaned_data["key"])
        if key:
            try:
                self.instance.encrypted_key = encrypt(key)
            except SecretUnreadable as error:
                raise ValidationError(str(error)) from None
        return key

    @property
    def changed_data(self) -> list[str]:
        """Name what was filled in; with the source `none` the place that was there is forgotten."""
        changed = list(super().changed_data)
        source = self.data.get(self.add_prefix("key_source"))
        if source == ProviderAccount.KeySource.NONE or "key" in changed:
            changed = [*changed, *({"key_source", "key_location"} - set(changed))]
        return [*changed, "encrypted_key"] if source or "key" in changed else changed

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("key"):
            return {**cleaned, "key_source": ProviderAccount.KeySource.ENCRYPTED, "key_location": ""}
        if cleaned.get("key_source") not in ("", None, ProviderAccount.KeySource.ENCRYPTED):
            self.instance.encrypted_key = ""
        if cleaned.get("key_source") == ProviderAccount.KeySource.NONE:
            return cleaned  # with the place as given; empty, the one that was there is forgotten
        return {name: value for name, value in cleaned.items() if name not in ProviderAccount.HIDDEN or value}


@admin.register(ProviderAccount)
class ProviderAccountAdmin(ConfiguredAdmin):
    journal_type = "provider"
    form = ProviderForm
    verbs = (
        AdminVerb(
            "close_breaker", "Close the breaker", "closed", "Lets calls pass again before the breaker would.",
            one_by_one(_close), icon="power", offered=lambda row: row.breaker != ProviderAccount.Breaker.CLOSED,
        ),
        AdminVerb(
            "try", "Test connection", "answered", "Makes one call that costs nothing, under the limits of every call.", _try,
            icon="network_check",
        ),
        *archiving(ProviderAccount),
    )  # fmt: skip
    list_display = ["slug", "kind", "base_url", "show_breaker", "breaker_since", "requests_per_minute", "show_use"]
    list_filter = [InUse, "kind", "breaker"]
    search_fields = ["slug", "base_url"]
    ordering = ["slug"]
    readonly_fields = ["show_breaker", "breaker_since", "breaker_open_until", "breaker_reason", "show_key"]
    fieldsets = [
        (None, {"fields": ["slug", ("kind", "base_url"), "streaming"]}),
        ("Its key", {"fields": ["show_key", ("key_source", "key_location"), "key"]}),
        ("Calls of all its Novas together", {"fields": [
            ("requests_per_minute", "requests_per_hour"), ("requests_per_day", "concurrent_requests"),
            ("burst_requests", "burst_window"),
        ]}),
        ("Breaker", {"fields": [
            ("show_breaker", "breaker_since", "breaker_open_until"), "breaker_reason",
            ("breaker_failures", "breaker_rest", "breaker_rest_limit"),
        ]}),
        ("Why", {"fields": ["reason"]}),
    ]  # fmt: skip

    def get_fieldsets(self, request: HttpRequest, obj: ProviderAccount | None = None) -> Any:
        """Leave out, for those who may only look, the fields that a page without a form would show as they are."""
        if self.has_change_permission(request, obj) if obj else self.has_add_permission(request):
            return self.fieldsets
        return [(title, {"fields": ["show_key"]} if title == "Its key" else fields) for title, fields in self.fieldsets]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Refuse to filter by what is hidden: it could be guessed letter by letter."""
        if lookup.split("__", 1)[0] in ProviderAccount.HIDDEN:
            return False
        return bool(super().lookup_allowed(lookup, value, request))

    @display(description="breaker", ordering="breaker", label={"closed": "success", "half open": "warning", "open": "danger"})
    def show_breaker(self, account: ProviderAccount) -> str:
        return account.breaker.replace("_", " ")

    @display(description="key")
    def show_key(self, account: ProviderAccount) -> str:
        return "the agent has its own" if account.key_source == ProviderAccount.KeySource.NONE else "kept where it was said"
