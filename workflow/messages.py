"""Messages between Novas: posted here, kept in the recipient's inbox, told on its coordination stream, read and acknowledged.

A message is what a signal on that stream is: it wakes the Nova, which decides what becomes of it; its agent reads it besides.
The stream entry is ours, so intake, which knows our own entries, does not take it in a second time.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

from django.db import transaction

from safety import audit, bulk
from safety.audit import Entry
from safety.observations import Kind, Seen, observe_many
from workflow import momentum, waking
from workflow.core.inbound import FIELD_LIMIT
from workflow.core.protocol import stream_name
from workflow.core.wake_signals import WakeSignalPriorityClassifier
from workflow.errors import WorkflowError
from workflow.models import InboxMessage, Nova

MESSAGE_POSTED = "workflow.message.posted"
MESSAGE_ACKNOWLEDGED = "workflow.message.acknowledged"

FIELDS = ("title", "message", "priority", "message_id", "task_id", "reply_to")  # what a sender may say
_classifier = WakeSignalPriorityClassifier()


class RecipientNotFound(WorkflowError):
    """There is no Nova of that id in service."""


class MessageRefused(WorkflowError):
    """The message can't be sent as it is; nothing was sent."""


def post_message(sender: str, to: str, fields: Mapping[str, str], *, now: datetime) -> InboxMessage:
    """Post a message to a Nova; give its row in that Nova's inbox. `sender`: a nova_id, or who else it is.

    The row, the journal entry and the pointer that puts it on the stream stand or fall together.

    :raises RecipientNotFound: there is no such Nova. :raises MessageRefused: it says nothing, or too much.
    """
    said = {name: text for name in FIELDS if (text := fields.get(name, ""))}
    if not said.get("title") and not said.get("message"):
        raise MessageRefused("A message needs a title or a text; nothing was sent.")
    if unknown := sorted(fields.keys() - set(FIELDS)):
        raise MessageRefused(f"Unknown in a message: {', '.join(unknown)}; nothing was sent.")
    if long := [name for name, text in said.items() if len(text.encode()) > FIELD_LIMIT]:
        raise MessageRefused(f"Longer than {FIELD_LIMIT} bytes: {', '.join(long)}; nothing was sent.")
    nova = Nova.objects.filter(nova_id=to, archived_at=None).only("nova_id", "team").first()
    if nova is None:
        raise RecipientNotFound(f"There is no Nova {to} in service; nothing was sent.")
    stream = stream_name("coordination", to)
    message = {"type": "signal", "sender": sender[:128], **said, "timestamp": now.isoformat()}
    with transaction.atomic():
        entry = Entry(MESSAGE_POSTED, to, "message", "", after={"sender": sender}, stream=stream, message=message)
        entry_id = audit.record([entry], now=now)[0]
        row = InboxMessage.objects.create(
            stream=stream,
            entry_id=f"event-{entry_id}",
            kind="signal",
            status=InboxMessage.Status.WAITING,
            tier=_classifier.classify_signal(message, stream).value,
            nova_id=to,
            sender=sender[:128],
            fields=message,
            received_at=now,
        )
        waking.mark_due([to], now=now)
        momentum.wake_templates({nova.team})
        if sender == to:
            observe_many([Seen(to, Kind.OWN_WAKE)], now=now)
        transaction.on_commit(partial(waking.knock, "loops"))
    return row


def read_messages(nova_id: str, *, limit: int = 50, after: int = 0) -> list[InboxMessage]:
    """Give what a Nova's agent has not acknowledged, oldest first; `after`: beyond this message."""
    unread = InboxMessage.objects.filter(nova_id=nova_id, kind="signal", acked_at=None, id__gt=after)
    return list(unread.exclude(status=InboxMessage.Status.REJECTED).order_by("id")[:limit])


def ack_messages(nova_id: str, message_ids: Collection[int], *, now: datetime) -> list[int]:
    """Note that a Nova's agent has read messages; give those that it had not acknowledged before. Others' are left alone."""
    with transaction.atomic():
        mine = InboxMessage.objects.filter(nova_id=nova_id, kind="signal", acked_at=None, id__in=list(message_ids))
        acked = list(mine.select_for_update().order_by("id").values_list("id", flat=True))
        if acked:
            bulk.update(InboxMessage, ("id",), ("acked_at",), [(message_id, now) for message_id in acked])
            audit.record(_entries(nova_id, acked), now=now)
    return acked


def _entries(nova_id: str, message_ids: Sequence[int]) -> list[Entry]:
    return [Entry(MESSAGE_ACKNOWLEDGED, nova_id, "message", str(message_id)) for message_id in message_ids]
