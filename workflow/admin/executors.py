"""The admin's pages of what executors reach and cost: commands, HTTP endpoints, prices and usage of models."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminURLInputWidget

from safety.admin import ExactTextFilter, ReadOnlyAdmin
from safety.encryption import SecretUnreadable, encrypt
from workflow.admin.configured import ConfiguredAdmin, ConfiguredForm, InUse, archiving
from workflow.models import CommandTemplate, HttpEndpoint, ModelPrice, NovaUsage
from workflow.models.endpoint import problem_of_secret


@admin.register(CommandTemplate)
class CommandTemplateAdmin(ConfiguredAdmin):
    journal_type = "command"
    verbs = archiving(CommandTemplate)
    list_display = ["slug", "program", "description", "timeout", "show_use"]
    list_filter = [InUse]
    search_fields = ["slug", "program"]
    ordering = ["slug"]
    fieldsets = [
        (None, {"fields": ["slug", "description", "program", "arguments", "placeholders", "environment"]}),
        ("Limits", {"fields": [
            ("timeout", "cpu_limit"), ("memory_limit", "process_limit"), ("file_limit", "output_limit"),
        ]}),
        ("Why", {"fields": ["reason"]}),
    ]  # fmt: skip


class EndpointForm(ConfiguredForm):
    """An endpoint's fields; the secret begins empty, and changes only when it is filled in."""

    url = forms.URLField(max_length=500, assume_scheme="https", widget=UnfoldAdminURLInputWidget(attrs={"autocomplete": "off"}))
    secret = forms.CharField(
        max_length=200,
        required=False,
        help_text="whsec_ and 24 to 64 random bytes in base64. Kept encrypted, shown nowhere. Empty: stays as it is.",
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
    )

    @property
    def changed_data(self) -> list[str]:
        changed = list(super().changed_data)
        return [*changed, "encrypted_secret"] if "secret" in changed else changed

    def clean_secret(self) -> str:
        secret = str(self.cleaned_data["secret"])
        if not secret:
            if not self.instance.encrypted_secret:
                raise ValidationError("A secret is needed: what is sent is signed with it.")
            return ""
        if problem := problem_of_secret(secret):
            raise ValidationError(problem)
        try:
            self.instance.encrypted_secret = encrypt(secret)
        except SecretUnreadable as error:
            raise ValidationError(str(error)) from None
        return secret


@admin.register(HttpEndpoint)
class HttpEndpointAdmin(ConfiguredAdmin):
    journal_type = "endpoint"
    form = EndpointForm
    verbs = archiving(HttpEndpoint)
    list_display = ["slug", "url", "description", "allow_private", "show_use"]
    list_filter = [InUse, "allow_private"]
    search_fields = ["slug", "url"]
    ordering = ["slug"]
    fieldsets = [
        (None, {"fields": ["slug", "description", "url", "allow_private", "secret"]}),
        ("Limits", {"fields": [("timeout", "response_limit")]}),
        ("Why", {"fields": ["reason"]}),
    ]

    def get_fieldsets(self, request: Any, obj: HttpEndpoint | None = None) -> Any:
        """Leave out, for those who may only look, the field that is no column."""
        if self.has_change_permission(request, obj) if obj else self.has_add_permission(request):
            return self.fieldsets
        return [(None, {"fields": ["slug", "description", "url", "allow_private"]}), self.fieldsets[1]]

    def lookup_allowed(self, lookup: str, value: str, request: Any) -> bool:
        """Refuse to filter by what is hidden."""
        if lookup.split("__", 1)[0] in HttpEndpoint.HIDDEN:
            return False
        return bool(super().lookup_allowed(lookup, value, request))


@admin.register(ModelPrice)
class ModelPriceAdmin(ConfiguredAdmin):
    journal_type = "price"
    key_fields = ("account", "model")
    verbs = archiving(ModelPrice)
    list_display = ["model", "account", "input_price", "output_price", "show_use"]
    list_filter = [InUse, "account"]
    search_fields = ["model"]
    ordering = ["account", "model"]
    fieldsets = [
        (None, {"fields": [("account", "model"), ("input_price", "output_price")]}),
        ("Why", {"fields": ["reason"]}),
    ]


@admin.register(NovaUsage)
class NovaUsageAdmin(ReadOnlyAdmin):
    """What calls to models came to; the button History leads to the Nova's story."""

    journal_type = "nova"
    list_display = ["day", "nova", "requests", "input_tokens", "output_tokens", "tool_uses", "show_cost"]
    list_filter = [("nova_id", ExactTextFilter), "day"]
    ordering = ["-day", "nova"]
    fields = ["day", "nova", "requests", "input_tokens", "output_tokens", "tool_uses", "show_cost"]
    readonly_fields = ["show_cost"]

    def journal_key(self, object_id: str) -> tuple[str, str]:
        usage = NovaUsage.objects.filter(pk=object_id).first() if object_id.isdigit() else None
        return "nova", usage.nova_id if usage else ""

    @display(description="cost", ordering="cost_micros")
    def show_cost(self, usage: NovaUsage) -> str:
        return f"{usage.cost:,.4f}"
