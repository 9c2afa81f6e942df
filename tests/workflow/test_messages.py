"""Messages between Novas: in the inbox once, on the stream once, read and acknowledged by whom they are for."""

from datetime import datetime
from typing import Any

import pytest

from safety import audit
from safety.models import AuditEntry
from tests import factories
from tests.workflow.driving import Driver, published, silence_momentum, state_of
from workflow import messages
from workflow.messages import MessageRefused, RecipientNotFound
from workflow.models import InboxMessage, StreamCursor
from workflow.streams.intake import Intake
from workflow.streams.reader import Reader
from workflow.streams.relay import Relay

pytestmark = pytest.mark.django_db

STREAM = "nova.coordination.echo"


@pytest.fixture
def novas() -> None:
    factories.make_nova("torch")
    factories.make_nova("echo")


def post(now: datetime, sender: str = "torch", to: str = "echo", **fields: str) -> InboxMessage:
    return messages.post_message(sender, to, fields or {"message": "The build is green.", "priority": "low"}, now=now)


def test_a_message_is_in_the_inbox_and_journalled_for_the_stream(novas, now):
    row = post(now)
    assert (row.nova_id, row.sender, row.stream, row.status, row.tier) == ("echo", "torch", STREAM, "waiting", "low")
    entry = AuditEntry.objects.get(action="workflow.message.posted")
    assert (entry.stream, entry.message["message"], entry.message["sender"]) == (STREAM, "The build is green.", "torch")
    assert published() == [entry.pk]
    assert row.entry_id == f"event-{entry.pk}"


def test_a_message_that_went_out_is_not_taken_in_again(novas, now, stream):
    factories.make_installation()
    post(now)
    Relay(stream).relay_batch(now=now)
    assert len(stream.call("XRANGE", STREAM, "-", "+")) == 1
    reader = Reader(stream)
    reader.refresh()
    StreamCursor.objects.all().delete()
    reply = stream.call("XREAD", "STREAMS", STREAM, "0-0")
    accepted = Intake(reader.streams, "testhouse").accept(reply, None, now=now, seconds=6.0)
    assert (accepted.own, accepted.signals) == (1, 0)
    assert InboxMessage.objects.count() == 1


def test_a_message_wakes_its_nova_which_decides_what_becomes_of_it(novas, now):
    silence_momentum()
    driver = Driver()
    driver.run()
    post(driver.now)
    assert state_of("echo").due_at <= driver.now
    driver.run()
    row = InboxMessage.objects.get()
    assert (row.status, row.outcome.startswith("noted")) == ("handled", True)
    assert messages.read_messages("echo") == [row], "its agent has not read it yet"


def test_messages_are_read_until_they_are_acknowledged(novas, now):
    first, second = post(now), post(now)
    other = post(now, to="torch", sender="echo")
    assert messages.read_messages("echo") == [first, second]
    assert messages.read_messages("echo", after=first.pk) == [second]
    assert messages.ack_messages("echo", [first.pk, other.pk], now=now) == [first.pk]
    assert messages.ack_messages("echo", [first.pk], now=now) == []
    assert messages.read_messages("echo") == [second]
    assert messages.read_messages("torch") == [other]
    acked = AuditEntry.objects.get(action="workflow.message.acknowledged")
    assert (acked.nova_id, acked.object_id) == ("echo", str(first.pk))


@pytest.mark.parametrize("fields", [{"priority": "low"}, {"message": "x" * 70_000}, {"message": "x", "nova_id": "torch"}])
def test_a_message_that_says_nothing_or_too_much_is_refused(novas, now, fields: dict[str, Any]):
    with pytest.raises(MessageRefused):
        messages.post_message("torch", "echo", fields, now=now)
    assert not InboxMessage.objects.exists()


def test_a_message_to_nobody_is_refused(novas, now):
    with audit.acting("nova:torch"), pytest.raises(RecipientNotFound):
        messages.post_message("torch", "nobody", {"message": "x"}, now=now)
