"""Alerts at the API: what fires, the rules, the channels with their test, the log of deliveries.

Everybody may see alerts and rules; channels and deliveries are for those who keep them. Secrets come in here, and out nowhere.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from reporting import alert_services
from reporting.core.alerting import CONDITIONS, Tier
from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule
from reporting.models.alert import problem_of_address
from workflow.api.configuration_views import Kind, _Written, encrypted
from workflow.api.described import Described, page_of
from workflow.api.pages import Pages
from workflow.api.serializers import AnyCase, ReasonAccepted, Shown
from workflow.api.views import Door, choices_of
from workflow.models.endpoint import problem_of_secret

_VIEW, _CHANGE = "reporting.view_alertchannel", "reporting.change_alertchannel"


class RuleWritten(_Written, Shown):
    condition = AnyCase(choices=list(CONDITIONS))
    channels = serializers.ListField(child=serializers.SlugField(), required=False)

    class Meta:
        model = AlertRule
        fields = [
            "slug", "title", "condition", "threshold", "duration", "tier", "cooldown", "scope", "target", "channels", "enabled",
            "updated_at", "archived_at", "reason",
        ]  # fmt: skip
        read_only_fields = ["updated_at", "archived_at"]


class ChannelWritten(_Written, Shown):
    """A channel. `secret` and `address` come in here, and out nowhere; a new secret signs beside the old one for a day."""

    secret = serializers.CharField(max_length=200, required=False, write_only=True)
    address = serializers.CharField(max_length=2_000, required=False, write_only=True)

    class Meta:
        model = AlertChannel
        fields = [
            "slug", "description", "kind", "url", "secret", "address", "service", "former_until", "least_tier", "timeout",
            "enabled", "failing_since", "delivered_at", "closed_at", "closed_reason", "updated_at", "archived_at", "reason",
        ]  # fmt: skip
        read_only_fields = [
            "service", "former_until", "failing_since", "delivered_at", "closed_at", "closed_reason", "updated_at",
            "archived_at",
        ]  # fmt: skip

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        secret, address = attrs.pop("secret", None), attrs.pop("address", None)
        if secret is not None:
            if problem := problem_of_secret(secret):
                raise serializers.ValidationError({"secret": [problem]}, "invalid")
            now = timezone.now()  # noqa: TID251 - a door
            attrs |= alert_services.with_secret(self.instance, encrypted("secret", secret), now=now)
        if address is not None:
            if problem := problem_of_address(address):
                raise serializers.ValidationError({"address": [problem]}, "invalid")
            attrs |= {"encrypted_address": encrypted("address", address), "service": alert_services.service_of(address)}
        return attrs


RULES = Kind(
    AlertRule,
    RuleWritten,
    "alert-rule",
    "slug",
    own=frozenset({"updated_at"}),
    example={
        "slug": "night-silent", "title": "A Nova of the night is silent", "condition": "nova_silent", "threshold": 300.0,
        "tier": "critical", "scope": "team", "target": "night",
    },
)  # fmt: skip
CHANNELS = Kind(
    AlertChannel,
    ChannelWritten,
    "alert-channel",
    "slug",
    own=frozenset({"failing_since", "delivered_at", "closed_at", "closed_reason"}),
    example={
        "slug": "on-call", "kind": "webhook", "url": "https://alerts.example.com/novawf",
        "secret": "whsec_dGhpcyBpcyBhbiBleGFtcGxlIG9ubHkh",
    },
)  # fmt: skip


class AlertShown(Shown):
    """An alert: what it is about, since when, until when."""

    rule = serializers.CharField(source="rule_id")
    subjects = serializers.ListField(child=serializers.DictField())

    class Meta:
        model = AlertEvent
        fields = [
            "id", "rule", "title", "tier", "status", "count", "most", "subjects", "fired_at", "seen_at", "resolved_at",
            "resolution",
        ]  # fmt: skip


class DeliveryShown(Shown):
    """A message to a channel, with each attempt."""

    channel = serializers.CharField(source="channel_id")
    alert = serializers.IntegerField(source="event_id", allow_null=True)
    log = serializers.ListField(child=serializers.DictField())

    class Meta:
        model = AlertDelivery
        fields = [
            "id", "channel", "alert", "kind", "message_id", "title", "status", "attempts", "log", "created_at", "due_at",
            "ended_at",
        ]  # fmt: skip


class AlertList(Door):
    """Alerts, newest first; `status=firing`: those that are not over."""

    permissions_needed: ClassVar[dict[str, str]] = {"GET": "reporting.view_alertevent"}
    parameters = frozenset({"status", "tier", "rule"})
    described: ClassVar[Mapping[str, Described]] = {"GET": Described(None, {200: page_of(AlertShown)})}
    _pages: Pages[AlertEvent] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows = AlertEvent.objects.all()
        if tiers := choices_of(request, "tier", [tier.value for tier in Tier]):
            rows = rows.filter(tier__in=tiers)
        if rule := request.query_params.get("rule"):
            rows = rows.filter(rule=rule)
        statuses = choices_of(request, "status", list(AlertEvent.Status.values))
        parts = [rows.filter(status=status) for status in statuses] or [rows]
        return Response(self._pages.answer(request, parts, lambda found: list(AlertShown(found, many=True).data)))


class AlertDetail(Door):
    """One alert."""

    permissions_needed: ClassVar[dict[str, str]] = {"GET": "reporting.view_alertevent"}
    described: ClassVar[Mapping[str, Described]] = {"GET": Described(None, {200: AlertShown})}

    def get(self, request: Request, alert_id: str) -> Response:
        event = AlertEvent.objects.filter(pk=int(alert_id)).first()
        if event is None:
            raise NotFound
        return Response(AlertShown(event).data)


class ChannelTried(Door):
    """POST with a reason: send a test message. It is sent within seconds; the delivery that is answered tells how it went."""

    permissions_needed: ClassVar[dict[str, str]] = {"POST": _CHANGE}
    described: ClassVar[Mapping[str, Described]] = {
        "POST": Described(ReasonAccepted, {202: DeliveryShown}, {"reason": "is it heard?"})
    }

    def post(self, request: Request, pk: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        CHANNELS.get(pk)
        delivery = alert_services.try_channel(pk, reason=reason, now=self.now)
        return Response(DeliveryShown(delivery).data, status=202)


class ChannelReopened(Door):
    """POST with a reason: send to a channel again that was given up."""

    permissions_needed: ClassVar[dict[str, str]] = {"POST": _CHANGE}
    described: ClassVar[Mapping[str, Described]] = {
        "POST": Described(ReasonAccepted, {200: ChannelWritten}, {"reason": "it is mended"})
    }

    def post(self, request: Request, pk: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        CHANNELS.get(pk)
        alert_services.reopen_channel(pk, reason=reason, now=self.now)
        return Response(CHANNELS.show(CHANNELS.get(pk)))


class DeliveryList(Door):
    """What was sent where, newest first."""

    permissions_needed: ClassVar[dict[str, str]] = {"GET": "reporting.view_alertdelivery"}
    parameters = frozenset({"status", "channel"})
    described: ClassVar[Mapping[str, Described]] = {"GET": Described(None, {200: page_of(DeliveryShown)})}
    _pages: Pages[AlertDelivery] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows = AlertDelivery.objects.all()
        if channel := request.query_params.get("channel"):
            rows = rows.filter(channel=channel)
        statuses = choices_of(request, "status", list(AlertDelivery.Status.values))
        parts = [rows.filter(status=status) for status in statuses] or [rows]
        return Response(self._pages.answer(request, parts, lambda found: list(DeliveryShown(found, many=True).data)))


class DeliveryDetail(Door):
    """One message to one channel, with each attempt."""

    permissions_needed: ClassVar[dict[str, str]] = {"GET": "reporting.view_alertdelivery"}
    described: ClassVar[Mapping[str, Described]] = {"GET": Described(None, {200: DeliveryShown})}

    def get(self, request: Request, delivery_id: str) -> Response:
        return Response(DeliveryShown(_delivery(delivery_id)).data)


class Redelivered(Door):
    """POST with a reason: send a message again, under the id by which its receiver knows it."""

    permissions_needed: ClassVar[dict[str, str]] = {"POST": "reporting.change_alertdelivery"}
    described: ClassVar[Mapping[str, Described]] = {
        "POST": Described(ReasonAccepted, {202: DeliveryShown}, {"reason": "it got lost there"})
    }

    def post(self, request: Request, delivery_id: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        _delivery(delivery_id)
        delivery = alert_services.redeliver(int(delivery_id), reason=reason, now=self.now)
        return Response(DeliveryShown(delivery).data, status=202)


def _delivery(delivery_id: str) -> AlertDelivery:
    delivery = AlertDelivery.objects.filter(pk=int(delivery_id)).first()
    if delivery is None:
        raise NotFound
    return delivery
