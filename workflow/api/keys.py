"""Keys at the API: made, listed, rotated, suspended, reinstated, revoked. A key's text is in one answer only."""

from datetime import timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.urls import reverse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from safety import api_keys
from safety.api_keys import OVERLAP, OVERLAP_MOST
from safety.core.scopes import Scope
from safety.models import ApiKey
from workflow import key_services
from workflow.api.pages import Pages
from workflow.api.serializers import Accepted, Instant, ReasonAccepted, show_instant
from workflow.api.views import Door, choices_of
from workflow.key_services import KeyRequest

STATUSES = ("good", "suspended", "expired", "revoked")


class KeyAccepted(Accepted):
    nova_id = serializers.CharField(required=False, allow_blank=True, default="", max_length=63)
    user = serializers.CharField(required=False, allow_blank=True, default="", max_length=150)
    operator = serializers.SlugField(required=False, allow_blank=True, default="", max_length=64)
    role = serializers.CharField(required=False, allow_blank=True, default="", max_length=150)
    name = serializers.CharField(required=False, allow_blank=True, default="", max_length=64)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=[scope.value for scope in Scope]), required=False, default=None, max_length=20
    )
    expires_at = Instant(required=False, allow_null=True, default=None)
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=2000)


class RotationAccepted(ReasonAccepted):
    overlap_hours = serializers.FloatField(
        required=False,
        default=OVERLAP.total_seconds() / 3600,
        min_value=0,
        max_value=OVERLAP_MOST.total_seconds() / 3600,
    )


def show_key(key: ApiKey, *, now: Any) -> dict[str, Any]:
    """Show a key, without what would open a door."""
    return {
        "id": key.pk,
        "prefix": key.prefix,
        "holder": key.holder,
        "nova_id": key.nova_id or None,
        "user": key.user.get_username() if key.user else None,
        "operator": key.operator or None,
        "role": key.role or None,
        "name": key.name,
        "scopes": key.scopes,
        "status": api_keys.status_of(key, now=now),
        "suspended_reason": key.suspended_reason,
        "created_by": key.created_by,
        "successor_id": key.successor_id,
        **{
            name: show_instant(getattr(key, name))
            for name in ("created_at", "expires_at", "last_used_at", "suspended_at", "revoked_at")
        },
    }


class KeyList(Door):
    """Keys, newest first, and the door for new ones: 201 with the `key`, this once."""

    permissions_needed = {"GET": "safety.view_apikey", "POST": "safety.add_apikey"}
    parameters = frozenset({"nova_id", "user", "operator", "status"})
    shown_once = frozenset({"key"})
    _pages: Pages[ApiKey] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows, query = ApiKey.objects.select_related("user"), request.query_params
        for parameter, column in (("nova_id", "nova_id"), ("user", "user__username"), ("operator", "operator")):
            if value := query.get(parameter):
                rows = rows.filter(**{column: value})
        if statuses := choices_of(request, "status", list(STATUSES)):
            rows = self._standing(rows, statuses)
        return Response(self._pages.answer(request, [rows], lambda found: [show_key(key, now=self.now) for key in found]))

    def post(self, request: Request) -> Response:
        data = dict(self.accept(KeyAccepted).validated_data)
        reason = data.pop("reason")
        text, key = key_services.request_key(KeyRequest(**data), maker=request.user, now=self.now, reason=reason)
        headers = {"Location": reverse("api:key", args=[key.pk]), "Cache-Control": "no-store"}
        return Response({**show_key(key, now=self.now), "key": text}, status=201, headers=headers)

    def _standing(self, rows: QuerySet[ApiKey], statuses: list[str]) -> QuerySet[ApiKey]:
        over, gone = Q(expires_at__lte=self.now), Q(revoked_at__isnull=False)
        paused = Q(suspended_at__isnull=False)
        conditions = {
            "revoked": gone,
            "expired": ~gone & over,
            "suspended": ~gone & ~over & paused,
            "good": ~gone & ~over & ~paused,
        }
        wanted = Q()
        for status in statuses:
            wanted |= conditions[status]
        return rows.filter(wanted)


class KeyDetail(Door):
    """One key, without its text."""

    permissions_needed = {"GET": "safety.view_apikey"}

    def get(self, request: Request, key_id: str) -> Response:
        return Response(show_key(key_services.get_key(int(key_id)), now=self.now))


class KeyRotation(Door):
    """POST {reason, overlap_hours}: 201 with the `key` that takes this one's place, which ends after the overlap."""

    permissions_needed = {"POST": "safety.change_apikey"}
    shown_once = frozenset({"key"})

    def post(self, request: Request, key_id: str) -> Response:
        data = self.accept(RotationAccepted).validated_data
        overlap = timedelta(hours=data["overlap_hours"])
        text, key = key_services.rotate_key(
            int(key_id), maker=request.user, reason=data["reason"], now=self.now, overlap=overlap
        )
        headers = {"Location": reverse("api:key", args=[key.pk]), "Cache-Control": "no-store"}
        return Response({**show_key(key, now=self.now), "key": text}, status=201, headers=headers)


class KeyVerb(Door):
    """POST with a reason: suspend, reinstate or revoke a key. Answers the key as it stands then."""

    permissions_needed = {"POST": "safety.change_apikey"}

    def post(self, request: Request, key_id: str, verb: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        if verb == "reinstate":
            key_services.reinstate_key(int(key_id), maker=request.user, reason=reason, now=self.now)
        else:
            key_services.ENDINGS[verb](int(key_id), reason=reason, now=self.now)
        return Response(show_key(key_services.get_key(int(key_id)), now=self.now))
