"""Intake through the real server and database: what an entry causes, what is refused, and that nothing takes effect twice."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from safety.models import AuditEntry, OutboxEntry
from safety.stream_client import StreamClient
from tests import factories
from workflow import leases, task_tracker
from workflow.models import InboxMessage, NovaState, StreamCursor, Task
from workflow.streams.intake import Intake
from workflow.streams.reader import Reader
from workflow.task_numbers import TaskNumbers

pytestmark = pytest.mark.django_db


@pytest.fixture
def door(stream, fleet):
    """Read what was XADDed and take it in; gives the outcome."""
    return Door(stream)


class Door:
    def __init__(self, client: StreamClient) -> None:
        factories.make_installation()
        self.client = client
        self.reader = Reader(client)
        self.reader.refresh()

    def add(self, stream: str, **fields) -> str:
        pairs = [part for name, value in fields.items() for part in (name, value)]
        return self.client.call("XADD", stream, "*", *pairs).decode()

    def take(self, *, keep: bool = True):
        replies = self.reader.wait(0) + self.reader.read_todo() + self.reader.sweep()
        intake = Intake(self.reader.streams, "testhouse")
        outcome = intake.accept(replies, None, now=factories.NOW, seconds=6)
        if keep:
            self.reader.taken(replies)
        return outcome


def test_a_work_item_becomes_one_task_with_its_cause(door):
    entry_id = door.add(
        "nova.work.queue", title="Count the streams", description="all of them", priority="HIGH", executor="builtin",
        action="analyze_streams", sender="echo",
    )  # fmt: skip
    assert door.take().tasks == 1
    task = Task.objects.get()
    assert (task.title, task.priority, task.assignee_id, task.action) == ("Count the streams", "high", None, "analyze_streams")
    assert task.id.startswith("FLEET-")
    assert task.cause == f"nova.work.queue/{entry_id}"
    message = InboxMessage.objects.get()
    assert (message.status, message.task_id, message.sender) == ("handled", task.id, "echo")
    assert AuditEntry.objects.filter(action="workflow.task.created", object_id=task.id).count() == 1


def test_an_entry_takes_effect_once_although_its_cursor_is_rewound(door):
    door.add("nova.work.queue", title="Once")
    door.take(keep=False)
    assert door.take().tasks == 0
    assert Task.objects.count() == 1


def test_a_message_id_of_one_sender_makes_one_task(door):
    for _ in range(2):
        door.add("nova.work.queue", title="Same", sender="echo", message_id="42")
    door.add("nova.work.queue", title="Same", sender="helix", message_id="42")
    assert door.take().tasks == 2
    assert InboxMessage.objects.filter(outcome__startswith="repeat of").count() == 1


def test_an_assigned_item_gets_its_todo_entry_at_once_and_wakes_its_nova(door):
    NovaState.objects.update(due_at=factories.NOW.replace(year=2030))
    door.add("nova.work.queue", title="For echo", assignee="echo")
    door.take()
    task = Task.objects.get()
    assert task.assignee_id == "echo"
    entry = AuditEntry.objects.get(object_id=task.id)
    assert entry.stream == "nova.tasks.echo.todo"
    assert entry.seq == 1
    assert OutboxEntry.objects.get().entry_ids == [entry.pk]
    assert NovaState.objects.get(nova_id="echo").due_at == factories.NOW
    assert NovaState.objects.get(nova_id="torch").due_at > factories.NOW


def test_an_open_item_wakes_one_idle_nova(door):
    NovaState.objects.update(due_at=factories.NOW.replace(year=2030))
    door.add("nova.work.queue", title="Anybody")
    door.take()
    assert NovaState.objects.filter(due_at=factories.NOW).count() == 1


def test_an_alert_without_a_nova_makes_one_task_and_wakes_all(door):
    NovaState.objects.update(due_at=factories.NOW.replace(year=2030))
    door.add("nova.priority.alerts", title="Disk is full", priority="critical")
    door.take()
    assert Task.objects.get().work_type == "alert"
    assert NovaState.objects.filter(due_at=factories.NOW).count() == 5


def test_a_signal_to_a_nova_waits_for_its_stream_check(door):
    NovaState.objects.update(due_at=factories.NOW.replace(year=2030))
    door.add("nova.coordination.helix", type="signal", message="please look at the plan", priority="high")
    assert door.take().signals == 1
    message = InboxMessage.objects.get()
    assert (message.status, message.nova_id) == ("waiting", "helix")
    assert NovaState.objects.get(nova_id="helix").due_at == factories.NOW


def test_a_signal_to_the_fleet_wakes_all_and_makes_no_task(door):
    NovaState.objects.update(due_at=factories.NOW.replace(year=2030))
    door.add("nova.priority.alerts", type="signal", message="wake up")
    door.take()
    assert not Task.objects.exists()
    assert NovaState.objects.filter(due_at=factories.NOW).count() == 5


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"description": "no title"}, "title"),
        ({"title": "x", "priority": "urgent"}, "priority"),
        ({"title": "x", "description": "y" * 2_000_000}, "bytes"),
        ({"title": b"\xff\xfe broken"}, "UTF-8"),
        ({"title": "a\x00b"}, "NUL"),
        ({"title": "x", "assignee": "nobody"}, "nobody"),
        ({"title": "x", "executor": "command"}, "command"),
    ],
)
def test_a_broken_entry_is_refused_kept_and_journalled_and_the_next_one_works(door, fields, word):
    door.add("nova.work.queue", **fields)
    door.add("nova.work.queue", title="Fine")
    outcome = door.take()
    assert (outcome.rejected, outcome.tasks) == (1, 1)
    kept = InboxMessage.objects.get(status="rejected")
    assert word.lower() in kept.reason.lower()
    assert all(len(raw["value"]) <= 5464 and raw["sha256"] for raw in kept.fields["raw"])
    assert AuditEntry.objects.get(action="workflow.message.rejected").reason == kept.reason


def test_a_refusal_is_answered_where_the_sender_is_a_nova(door):
    door.add("nova.work.queue", description="no title", sender="echo")
    door.take()
    entry = AuditEntry.objects.get(action="workflow.message.rejected")
    assert entry.stream == "nova.coordination.echo"
    assert "title" in entry.message["reason"].lower()


def test_a_foreign_todo_entry_becomes_a_task_and_other_foreign_entries_are_kept_as_rejected(door):
    door.add("nova.tasks.torch.todo", title="Sneaked in", description="by hand")
    door.add("nova.tasks.torch.completed", title="Never done")
    outcome = door.take()
    assert (outcome.tasks, outcome.rejected) == (1, 1)
    assert Task.objects.get().assignee_id == "torch"
    assert InboxMessage.objects.get(status="rejected").stream == "nova.tasks.torch.completed"


def test_a_false_event_id_does_not_hide_a_foreign_entry(door):
    door.add("nova.work.queue", title="Mine", event_id="testhouse-999")
    assert door.take().tasks == 1


def test_a_reader_that_lost_its_lease_changes_nothing(door):
    door.add("nova.work.queue", title="Late")
    replies = door.reader.wait(0)
    held = leases.acquire("intake", "first", now=factories.NOW, seconds=0.0)
    leases.acquire("intake", "second", now=factories.NOW.replace(minute=59), seconds=60.0)
    with pytest.raises(leases.LeaseLost):
        Intake(door.reader.streams, "testhouse").accept(replies, held, now=factories.NOW, seconds=6)
    assert not Task.objects.exists()
    assert not StreamCursor.objects.exists()


def test_a_batch_is_taken_in_with_a_constant_number_of_queries(door, monkeypatch):
    counts = []
    for size in (1, 50, 128):
        monkeypatch.setattr(task_tracker, "NUMBERS", TaskNumbers())  # each batch takes one new block of task numbers
        for number in range(size):
            door.add("nova.work.queue", title=f"Task {number}", executor="builtin", action="echo")
        with CaptureQueriesContext(connection) as captured:
            assert door.take().tasks == size
        counts.append(len(captured))
    assert len(set(counts)) == 1
