"""What people do with alerts beside editing rows: try a channel, send a message again, open a closed channel."""

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from reporting.alerting import new_message_id
from reporting.core import alerting
from reporting.core.alerting import Tier
from reporting.models import AlertChannel, AlertDelivery
from safety import audit
from safety.audit import Entry
from workflow.configuration import demand_reason
from workflow.errors import WorkflowError

CHANNEL_TRIED = "reporting.alert_channel.tried"
CHANNEL_REOPENED = "reporting.alert_channel.reopened"
REDELIVERED = "reporting.alert.redelivered"
FORMER_GOOD_FOR = timedelta(hours=24)


class ChannelNotFound(WorkflowError):
    """There is no channel of that name."""


class DeliveryNotFound(WorkflowError):
    """There is no delivery of that number."""


class ChannelClosed(WorkflowError):
    """Nothing is sent to a channel that is switched off, closed or archived."""


def try_channel(slug: str, *, reason: str, now: datetime) -> AlertDelivery:
    """Queue a test message to a channel, also to one that is closed or switched off; its delivery tells how it went.

    :raises ChannelNotFound: there is none. :raises ReasonMissing: the reason is blank.
    """
    reason = demand_reason(reason)
    with transaction.atomic():
        channel = _channel(slug)
        if channel.archived_at is not None:
            raise ChannelClosed(f"Channel {slug} is archived; nothing was sent. Restore it first.")
        delivery = AlertDelivery.objects.create(
            channel=channel,
            kind="test",
            message_id=new_message_id(),
            title=alerting.summary("This is a test", Tier.INFO, "test", 1),
            body=f"Sent to channel {slug} because {audit.current_actor()} asked for it. Nothing is wrong.",
            data={"channel": slug, "tier": Tier.INFO.value, "status": "test"},
            created_at=now,
            due_at=now,
        )
        _record(CHANNEL_TRIED, "alert_channel", slug, {"delivery": delivery.pk}, reason, now)
    return delivery


def reopen_channel(slug: str, *, reason: str, now: datetime) -> bool:
    """Send to a channel again that was given up; False if it was not.

    :raises ChannelNotFound: there is none. :raises ReasonMissing: the reason is blank.
    """
    reason = demand_reason(reason)
    with transaction.atomic():
        channel = _channel(slug)
        if channel.closed_at is None:
            return False
        channel.closed_at, channel.closed_reason, channel.failing_since = None, "", None
        channel.save(update_fields=["closed_at", "closed_reason", "failing_since"])
        _record(CHANNEL_REOPENED, "alert_channel", slug, {"closed_at": None}, reason, now)
    return True


def redeliver(delivery_id: int, *, reason: str, now: datetime) -> AlertDelivery:
    """Queue a message anew, under the id by which its receiver knows it; the old delivery stays as it is.

    :raises DeliveryNotFound: there is none. :raises ChannelClosed: its channel takes nothing. :raises ReasonMissing: no reason.
    """
    reason = demand_reason(reason)
    with transaction.atomic():
        old = AlertDelivery.objects.select_related("channel").filter(pk=delivery_id).first()
        if old is None:
            raise DeliveryNotFound(f"There is no delivery {delivery_id}; nothing was sent.")
        if not old.channel.is_open:
            raise ChannelClosed(f"Channel {old.channel_id} is closed; nothing was sent. Open it first.")
        new = AlertDelivery.objects.create(
            channel=old.channel, event_id=old.event_id, kind=old.kind, message_id=old.message_id, title=old.title,
            body=old.body, data=old.data, created_at=now, due_at=now,
        )  # fmt: skip
        after = {"delivery": new.pk, "channel": old.channel_id}
        _record(REDELIVERED, "alert_delivery", str(delivery_id), after, reason, now)
    return new


def with_secret(channel: AlertChannel | None, secret: str, *, now: datetime) -> dict[str, Any]:
    """Give the fields of a channel that gets an encrypted secret; the one that it had signs beside it for a day."""
    if channel is None or not channel.encrypted_secret:
        return {"encrypted_secret": secret}
    former = {"encrypted_former": channel.encrypted_secret, "former_until": now + FORMER_GOOD_FOR}
    return {"encrypted_secret": secret} | former


def service_of(address: str) -> str:
    """Give the scheme of an address, which tells the service and no more."""
    return address.partition("://")[0].lower()[:16]


def _channel(slug: str) -> AlertChannel:
    channel = AlertChannel.objects.select_for_update().filter(pk=slug).first()
    if channel is None:
        raise ChannelNotFound(f"There is no channel {slug}; nothing was changed.")
    return channel


def _record(action: str, kind: str, name: str, after: dict[str, Any], reason: str, now: datetime) -> None:
    audit.record([Entry(action, object_type=kind, object_id=name, after=after, reason=reason)], now=now)
