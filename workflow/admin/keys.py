"""The admin's pages of keys: made and rotated here, where they are shown once; suspended, reinstated, revoked with a reason."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from safety import api_keys
from safety.admin import ExactTextFilter
from safety.api_keys import OVERLAP, OVERLAP_MOST, CredentialError, KeyUnsound
from safety.core.scopes import Scope
from safety.models import ApiKey
from workflow import key_services
from workflow.admin.verbs import AdminVerb, Done, ReasonForm, VerbAdmin, one_by_one
from workflow.errors import WorkflowError
from workflow.key_services import BeyondYourRights, KeyRequest


def _each(change: Callable[..., bool]) -> Callable[..., Any]:
    def act(key: str, answers: Mapping[str, Any], now: datetime) -> bool:
        return change(int(key), reason=answers["reason"], now=now)

    return one_by_one(act)


def _not_here(keys: Sequence[str], answers: Mapping[str, Any], now: datetime) -> Done:
    raise NotImplementedError  # the page does it, since it knows who asks


class RotationForm(ReasonForm):
    """How long the old key lives on, and why it is replaced."""

    overlap_hours = forms.FloatField(
        min_value=0,
        max_value=OVERLAP_MOST.total_seconds() / 3600,
        initial=OVERLAP.total_seconds() / 3600,
        help_text="The old key goes on for so long, so that the new one can be brought to its place.",
        widget=UnfoldAdminTextInputWidget,
    )
    field_order = ["overlap_hours", "reason"]


class KeyForm(forms.Form):
    """A key that is asked for: of a Nova, of a person, or of a program with a name and a role."""

    nova_id = forms.CharField(
        required=False, label="Nova", help_text="Whose agent it is. Or else:", widget=UnfoldAdminTextInputWidget
    )
    user = forms.CharField(
        required=False, label="Person", help_text="Whose rights the key has. Or else:", widget=UnfoldAdminTextInputWidget
    )
    operator = forms.SlugField(
        required=False, label="Program", help_text="Its name, with a role.", widget=UnfoldAdminTextInputWidget
    )
    role = forms.ChoiceField(
        choices=lambda: [("", "none"), *((name, name) for name in Group.objects.values_list("name", flat=True))],
        required=False,
        widget=UnfoldAdminSelectWidget,
    )
    name = forms.CharField(required=False, max_length=64, help_text="What the key is for.", widget=UnfoldAdminTextInputWidget)
    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, scope.value) for scope in Scope],
        required=False,
        help_text="What it may be used for; none chosen: everything that its holder may do, but making keys.",
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    days = forms.FloatField(
        required=False,
        min_value=0.01,
        max_value=36_500,
        help_text="It expires after so many.",
        widget=UnfoldAdminTextInputWidget,
    )
    reason = forms.CharField(
        required=False, max_length=2000, help_text="Kept in the journal.", widget=UnfoldAdminTextInputWidget
    )

    def request(self, now: datetime) -> KeyRequest:
        """Give what was asked for as the services take it."""
        data = self.cleaned_data
        return KeyRequest(
            nova_id=data["nova_id"],
            user=data["user"],
            operator=data["operator"],
            role=data["role"],
            name=data["name"],
            scopes=data["scopes"] or None,
            expires_at=now + timedelta(days=data["days"]) if data["days"] else None,
        )


@admin.register(ApiKey)
class ApiKeyAdmin(VerbAdmin):
    """Keys of Novas, persons and programs. Their text is nowhere: it is shown once, where a key is made or rotated."""

    journal_type = "key"
    verbs = (
        AdminVerb(
            "rotate", "Rotate", "rotated", "Makes a new key, shown once, that takes this one's place.", _not_here,
            form=RotationForm, icon="autorenew",
            offered=lambda key: key.suspended_at is None and key.revoked_at is None and key.successor_id is None,
        ),
        AdminVerb(
            "suspend", "Suspend", "suspended", "Refuses the key until it is reinstated.", _each(key_services.suspend_key),
            icon="block", offered=lambda key: key.suspended_at is None and key.revoked_at is None,
        ),
        AdminVerb(
            "reinstate", "Reinstate", "reinstated", "Lets a suspended key be used again.", _not_here,
            icon="lock_open", offered=lambda key: key.suspended_at is not None and key.revoked_at is None,
        ),
        AdminVerb(
            "revoke", "Revoke", "revoked", "Makes the key useless for good.", _each(key_services.revoke_key), icon="key_off",
            danger=True, offered=lambda key: key.revoked_at is None,
        ),
    )  # fmt: skip
    list_display = [
        "show_prefix",
        "show_holder",
        "name",
        "show_status",
        "created_at",
        "created_by",
        "last_used_at",
        "expires_at",
    ]
    list_filter = [("nova_id", ExactTextFilter), ("operator", ExactTextFilter), "created_at"]
    list_select_related = ["user"]
    ordering = ["-id"]
    fields = [
        "show_prefix", "show_holder", "role", "name", "scopes", "show_status", "suspended_reason", "created_at", "created_by",
        "last_used_at", "expires_at", "suspended_at", "revoked_at", "successor_id",
    ]  # fmt: skip
    readonly_fields = ["show_prefix", "show_holder", "show_status"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # only by the verbs

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Ask what for; then make the key and show it, this once."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = KeyForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            now = timezone.now()  # noqa: TID251 - a door
            try:
                made = key_services.request_key(
                    form.request(now), maker=request.user, now=now, reason=form.cleaned_data["reason"]
                )
                return self._show_once(request, [made])
            except KeyUnsound as refusal:
                form.add_error(refusal.field if refusal.field in form.fields else None, str(refusal))
            except BeyondYourRights as refusal:
                form.add_error("scopes", str(refusal))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Make a key",
            "verb": {"effect": "The key is shown once, on the next page.", "title": "Make it"},
            "form": form,
            "keys": "",
            "shown": [],
            "action_url": reverse("admin:safety_apikey_add"),
            "back_url": reverse("admin:safety_apikey_changelist"),
        }
        return TemplateResponse(request, "admin/workflow/verb.html", context)

    def carry_out(
        self, request: HttpRequest, verb: AdminVerb, keys: Sequence[str], answers: Mapping[str, Any], now: datetime
    ) -> Done | HttpResponse:
        """Rotate and reinstate as far as the rights of who asks go; show new keys, this once."""
        if verb.name not in ("rotate", "reinstate"):
            return super().carry_out(request, verb, keys, answers, now)
        done, made = Done(), []
        for key_id in map(int, keys):
            try:
                if verb.name == "rotate":
                    overlap = timedelta(hours=answers["overlap_hours"])
                    made.append(
                        key_services.rotate_key(key_id, maker=request.user, reason=answers["reason"], now=now, overlap=overlap)
                    )
                    continue
                changed = key_services.reinstate_key(key_id, maker=request.user, reason=answers["reason"], now=now)
            except (CredentialError, WorkflowError) as refusal:
                done.problems.append(str(refusal))
                continue
            done.changed += changed
            done.unchanged += not changed
        if not made:
            return done
        for problem in done.problems[:10]:
            self.message_user(request, problem, messages.ERROR)
        return self._show_once(request, made)

    def _show_once(self, request: HttpRequest, made: Sequence[tuple[str, ApiKey]]) -> HttpResponse:
        """Show keys in this one answer, which nobody stores."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "The new key" if len(made) == 1 else "The new keys",
            "made": [(key, text) for text, key in made],
            "back_url": reverse("admin:safety_apikey_changelist"),
        }
        headers = {"Cache-Control": "no-store"}
        return TemplateResponse(request, "admin/safety/apikey/made.html", context, headers=headers)

    @display(description="key")
    def show_prefix(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @display(description="holder")
    def show_holder(self, key: ApiKey) -> str:
        return key.holder

    @display(description="status", label={"good": "success", "suspended": "warning", "expired": "default", "revoked": "danger"})
    def show_status(self, key: ApiKey) -> str:
        return api_keys.status_of(key, now=timezone.now())  # noqa: TID251 - a door
