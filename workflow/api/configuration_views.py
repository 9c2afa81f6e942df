"""What operators configure, at the API: Novas, personalities, safety policies, objectives, provider accounts.

workflow.configuration saves it. A row's ETag is the digest of what is configured; with If-Match a change is refused if
somebody else was quicker.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

from django.core.exceptions import ValidationError as ModelInvalid
from django.db import models, transaction
from django.urls import reverse
from rest_framework import serializers
from rest_framework.exceptions import APIException, NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from safety.bulk import json_text
from safety.encryption import SecretUnreadable, encrypt
from safety.models import ProviderAccount, SafetyPolicy
from workflow import breakers, configuration
from workflow.api.pages import Pages
from workflow.api.serializers import Accepted, ReasonAccepted, Shown
from workflow.api.views import Door, NovaDetail, NovaList, show_one_nova
from workflow.model_tools import TOOLS
from workflow.models import Nova, Objective, Personality


class PreconditionFailed(APIException):
    """The row is not what If-Match says."""

    status_code = 412
    default_code = "changed_meanwhile"
    default_detail = "It was changed since you read it; nothing was changed. Read it again and send its new ETag."


class _Written(Accepted):
    """The body of a change: what is configured, and why."""

    reason = serializers.CharField(max_length=2000, required=False, write_only=True)


class PersonalityWritten(_Written, Shown):
    class Meta:
        model = Personality
        fields = [
            "slug", "base_cycle_time", "reflection_frequency", "celebration_style", "work_style", "communication_pattern",
            "updated_at", "archived_at", "reason",
        ]  # fmt: skip
        read_only_fields = ["updated_at", "archived_at"]


class PolicyWritten(_Written, Shown):
    class Meta:
        model = SafetyPolicy
        fields = [*(field.name for field in SafetyPolicy._meta.concrete_fields), "reason"]
        read_only_fields = ["updated_at", "archived_at"]


class ObjectiveWritten(_Written, Shown):
    class Meta:
        model = Objective
        fields = [
            "id", "title", "description", "nova", "team", "priority", "cadence", "until", "due_at", "open_task_id",
            "created_at", "archived_at", "reason",
        ]  # fmt: skip
        read_only_fields = ["id", "open_task_id", "created_at", "archived_at"]


class ProviderWritten(_Written, Shown):
    """Where calls to models go. Where the key is kept comes in here, and out nowhere."""

    has_key = serializers.SerializerMethodField()
    key = serializers.CharField(max_length=4096, required=False, write_only=True)

    class Meta:
        model = ProviderAccount
        fields = [
            "slug", "kind", "base_url", "streaming", "key_source", "key_location", "key", "has_key", "requests_per_minute",
            "requests_per_hour",
            "requests_per_day", "concurrent_requests", "burst_requests", "burst_window", "breaker_failures", "breaker_rest",
            "breaker_rest_limit", "breaker", "breaker_since", "breaker_open_until", "breaker_reason", "updated_at",
            "archived_at", "reason",
        ]  # fmt: skip
        read_only_fields = [
            "breaker", "breaker_since", "breaker_open_until", "breaker_reason", "updated_at", "archived_at",
        ]  # fmt: skip
        extra_kwargs = {
            "key_source": {
                "write_only": True,
                "error_messages": {"invalid_choice": "Known are none, environment, file and encrypted."},
            },
            "key_location": {"write_only": True},
        }

    def get_has_key(self, account: ProviderAccount) -> bool:
        return account.key_source != ProviderAccount.KeySource.NONE

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if key := attrs.pop("key", ""):
            attrs |= {"key_source": ProviderAccount.KeySource.ENCRYPTED, "encrypted_key": encrypted("key", key)}
        source = attrs.get("key_source")
        if source in (ProviderAccount.KeySource.NONE, ProviderAccount.KeySource.ENCRYPTED):
            attrs.setdefault("key_location", "")  # what was there is forgotten
        if source not in (None, ProviderAccount.KeySource.ENCRYPTED):
            attrs["encrypted_key"] = ""
        return attrs


def encrypted(field: str, secret: str) -> str:
    """Give a secret as its row keeps it.

    :raises ValidationError: it can't be kept here.
    """
    try:
        return encrypt(secret)
    except SecretUnreadable as error:
        raise serializers.ValidationError({field: [str(error)]}, "unavailable") from None


class NovaWritten(_Written, Shown):
    class Meta:
        model = Nova
        fields = [
            "nova_id", "name", "personality", "policy", "candidate_policy", "provider_account", "team", "default_executor",
            "allowed_executors", "stream_executors", "model", "budget_requests", "budget_tokens", "budget_cost",
            "approval_tools", "tasks_per_phase", "personal_phase_after", "personal_phase_minutes",
            "execution_timeout", "reason",
        ]  # fmt: skip
        extra_kwargs = {"personality": {"required": False}, "policy": {"required": False}, "name": {"required": False}}

    def validate_approval_tools(self, value: Any) -> Any:
        if not isinstance(value, list) or not all(name in TOOLS for name in value):
            raise serializers.ValidationError(f"Give a list of tools: {', '.join(TOOLS)}.", "unknown_tool")
        return value


class Kind:
    """One kind of configured row: its model, its body, and how its addresses and pages are called."""

    def __init__(
        self,
        model: type[models.Model],
        written: type[Any],
        name: str,
        *key: str,
        own: frozenset[str] = frozenset({"updated_at", "open_task_id"}),
        example: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.written = written
        self.name = name
        self.own = own  # what the row keeps for itself: no part of its ETag
        self.example = example  # for the OpenAPI document, where workflow/api/described.py has none
        self.pages: Pages[Any] = Pages(*key)
        app, label = model._meta.app_label, model._meta.model_name
        self.permissions = {
            "GET": f"{app}.view_{label}",
            "POST": f"{app}.add_{label}",
            "PATCH": f"{app}.change_{label}",
        }
        self.primary = next(field.name for field in model._meta.concrete_fields if field.primary_key)

    def show(self, row: Any) -> dict[str, Any]:
        return dict(self.written(row).data)

    def etag(self, row: Any) -> str:
        """Give the digest of what is configured: a row that was saved with the same values has the same."""
        shown = {name: value for name, value in self.show(row).items() if name not in self.own}
        return f'"{hashlib.sha256(json_text(shown).encode()).hexdigest()[:32]}"'

    def get(self, pk: str, *, lock: bool = False) -> Any:
        """Give the row.

        :raises NotFound: there is none.
        """
        rows = self.model._default_manager.select_for_update() if lock else self.model._default_manager.all()
        try:
            row = rows.filter(pk=pk).first()
        except (ValueError, ModelInvalid):
            row = None
        if row is None:
            raise NotFound
        return row


PERSONALITIES = Kind(Personality, PersonalityWritten, "personality", "slug")
POLICIES = Kind(SafetyPolicy, PolicyWritten, "policy", "slug")
OBJECTIVES = Kind(Objective, ObjectiveWritten, "objective", "created_at", "id")
# what is hidden changes no digest, so `updated_at` stands for it; the guardian, which moves the breaker, leaves it alone
PROVIDERS = Kind(
    ProviderAccount,
    ProviderWritten,
    "provider-account",
    "slug",
    own=frozenset({"breaker", "breaker_since", "breaker_open_until", "breaker_reason"}),
)
NOVAS = Kind(Nova, NovaWritten, "nova", "nova_id")


class ConfiguredList(Door):
    """All rows of a kind that are in use, and the door for new ones."""

    kind: ClassVar[Kind]
    parameters = frozenset({"archived"})

    def get(self, request: Request) -> Response:
        rows = self.kind.model._default_manager.all()
        if request.query_params.get("archived") != "true":
            rows = rows.filter(archived_at=None)
        return Response(self.kind.pages.answer(request, [rows], lambda found: [self.kind.show(row) for row in found]))

    def post(self, request: Request) -> Response:
        row = create(self, self.kind, request)
        match = request.resolver_match  # kinds of upper floors have addresses of their own
        house = match.namespace if match else "api"
        address = {"Location": reverse(f"{house}:{self.kind.name}", args=[row.pk]), "ETag": self.kind.etag(row)}
        return Response(self.kind.show(row), status=201, headers=address)


class ConfiguredDetail(Door):
    """One row: read it, change some of its fields."""

    kind: ClassVar[Kind]

    def get(self, request: Request, pk: str) -> Response:
        row = self.kind.get(pk)
        return Response(self.kind.show(row), headers={"ETag": self.kind.etag(row)})

    def patch(self, request: Request, pk: str) -> Response:
        row = change(self, self.kind, request, pk)
        return Response(self.kind.show(row), headers={"ETag": self.kind.etag(row)})


class ConfiguredVerb(Door):
    """POST with a reason: archive a row, or restore it."""

    kind: ClassVar[Kind]

    def post(self, request: Request, pk: str, verb: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        act = configuration.archive if verb == "archive" else configuration.restore
        with transaction.atomic():
            row = self.kind.get(pk, lock=True)
            demand_match(self.kind, row, request)
            act(row, reason=reason, now=self.now)
        row = self.kind.get(pk)
        return Response(self.kind.show(row), headers={"ETag": self.kind.etag(row)})


class BreakerClosed(Door):
    """POST with a reason: let calls of an account pass again before its breaker would."""

    permissions_needed = {"POST": PROVIDERS.permissions["PATCH"]}

    def post(self, request: Request, pk: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        breakers.close_breaker(pk, reason=reason, now=self.now)
        row = PROVIDERS.get(pk)
        return Response(PROVIDERS.show(row), headers={"ETag": PROVIDERS.etag(row)})


def create(door: Door, kind: Kind, request: Request) -> Any:
    """Make a row of what the body says.

    :raises ValidationError: with a pointer to each field that is wrong.
    """
    given = dict(door.accept(kind.written).validated_data)
    reason = given.pop("reason", "")
    if kind is NOVAS:
        names = {field: given.pop(field).pk for field in ("personality", "policy") if given.get(field)}
        return configuration.create_nova(given.pop("nova_id"), now=door.now, reason=reason, **names, **given)
    row = kind.model(**given)
    configuration.save_configured(row, now=door.now, reason=reason, creating=True)  # type: ignore[arg-type]
    return row


def demand_match(kind: Kind, row: Any, request: Request) -> None:
    """Refuse to change a row that is not as the caller has seen it.

    :raises PreconditionFailed: its ETag is none of those that If-Match names.
    """
    wanted = request.headers.get("If-Match")
    if wanted and wanted != "*" and kind.etag(row) not in [tag.strip() for tag in wanted.split(",")]:
        raise PreconditionFailed


def change(door: Door, kind: Kind, request: Request, pk: str) -> Any:
    """Change the fields that the body names, if the row is what If-Match says.

    :raises PreconditionFailed: somebody else was quicker. :raises ReasonMissing: no reason was given.
    """
    with transaction.atomic():
        row = kind.get(pk, lock=True)
        demand_match(kind, row, request)
        body = kind.written(row, data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        given = dict(body.validated_data)
        reason = configuration.demand_reason(given.pop("reason", ""))
        if kind.primary in given and given[kind.primary] != row.pk:
            raise serializers.ValidationError({kind.primary: ["It can't be changed: a row keeps its name."]}, "fixed")
        for name, value in given.items():
            setattr(row, name, value)
        configuration.save_configured(row, now=door.now, reason=reason, fields=given)
        return row


class Novas(NovaList):
    permissions_needed = {**NovaList.permissions_needed, "POST": "workflow.add_nova"}

    def post(self, request: Request) -> Response:
        """Configure a new Nova; it is due at once."""
        nova = create(self, NOVAS, request)
        address = {"Location": reverse("api:nova", args=[nova.pk]), "ETag": NOVAS.etag(nova)}
        return Response(show_one_nova(self, nova.pk), status=201, headers=address)


class NovaOne(NovaDetail):
    permissions_needed = {**NovaDetail.permissions_needed, "PATCH": "workflow.change_nova"}

    def get(self, request: Request, nova_id: str) -> Response:
        answer = super().get(request, nova_id)
        answer["ETag"] = NOVAS.etag(NOVAS.get(nova_id))
        return answer

    def patch(self, request: Request, nova_id: str) -> Response:
        """Change some of a Nova's configuration; its next cycle works by it."""
        nova = change(self, NOVAS, request, nova_id)
        return Response(show_one_nova(self, nova_id), headers={"ETag": NOVAS.etag(nova)})


def doors(kind: Kind) -> tuple[type[Door], type[Door], type[Door]]:
    """Give the three addresses of a kind: its list, one row, the verbs on a row."""
    name, rights = kind.model.__name__, kind.permissions
    rows = {"GET": rights["GET"], "POST": rights["POST"]}
    row = {"GET": rights["GET"], "PATCH": rights["PATCH"]}
    verb = {"POST": rights["PATCH"]}
    return (
        type(f"{name}List", (ConfiguredList,), {"kind": kind, "permissions_needed": rows}),
        type(f"{name}Detail", (ConfiguredDetail,), {"kind": kind, "permissions_needed": row}),
        type(f"{name}Verb", (ConfiguredVerb,), {"kind": kind, "permissions_needed": verb}),
    )
