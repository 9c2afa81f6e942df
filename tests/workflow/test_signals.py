"""Signals, from the stream into the Nova's hands: each becomes work or a note, at once or when the Nova can; none is lost."""

from datetime import timedelta
from typing import Any

import pytest

from safety.models import AuditEntry
from tests.factories import NOW, make_inbox_message, make_installation, make_nova, make_policy, make_safety_state, make_task
from tests.workflow.driving import Driver, silence_momentum, state_of, story
from workflow import services, waking
from workflow.models import Execution, InboxMessage, NovaState, Task
from workflow.streams.intake import Intake
from workflow.streams.reader import Reader

pytestmark = pytest.mark.django_db

ECHO = {"executor": "builtin", "action": "echo"}


@pytest.fixture
def driver():
    silence_momentum("", "builders")
    return Driver()


def signal(nova_id: str = "torch", **fields: str) -> InboxMessage:
    return make_inbox_message(nova_id=nova_id, fields=fields or {"title": "Please review the plan", "sender": "echo"})


def outcome(message: InboxMessage) -> tuple[str, str]:
    """Give status and the first word of what became of a message."""
    row = InboxMessage.objects.get(pk=message.pk)
    return row.status, row.outcome.split(":")[0]


# -- what becomes of them


def test_a_signal_that_asks_for_something_becomes_a_task_with_its_cause(driver):
    make_nova(team="builders")
    message = signal(title="Please review the plan", sender="echo", description="all of it", page="7")
    driver.step()
    task = Task.objects.get()
    assert (task.title, task.description, task.priority) == ("Please review the plan", "all of it", "medium")
    assert (task.assignee_id, task.team, task.work_type) == ("torch", "builders", "signal")
    assert task.cause == f"nova.coordination.torch/{message.entry_id}"
    assert task.metadata == {"page": "7", "sender": "echo", "signal_id": message.pk}
    row = InboxMessage.objects.get()
    assert (row.status, row.task_id, row.handled_at) == ("handled", task.id, NOW)
    entry = AuditEntry.objects.get(action="workflow.signal.handled")
    assert (entry.object_id, entry.after["outcome"], entry.actor) == (str(message.pk), "work", "nova:torch")
    assert story(task.id) == ["workflow.task.created"]


def test_its_task_begins_at_once_and_carries_the_cause_into_its_messages(driver):
    make_nova()
    message = signal()
    driver.step()
    assert driver.step().dispatched == 1
    cause = f"nova.coordination.torch/{message.entry_id}"
    entries = AuditEntry.objects.exclude(stream="").filter(object_id=Task.objects.get().id)
    assert {entry.cause for entry in entries} == {cause}
    assert {entry.stream for entry in entries} == {"nova.tasks.torch.todo", "nova.tasks.torch.progress"}


@pytest.mark.parametrize(
    ("fields", "became", "priority"),
    [
        ({"message": "Emergency: the database is corrupted"}, "work", "critical"),
        ({"message": "This is urgent"}, "work", "high"),
        ({"message": "what now", "priority": "medium"}, "work", "medium"),
        ({"something": "else"}, "work", "medium"),
        ({"message": "fyi, the report is out"}, "noted", None),
        ({"type": "heartbeat"}, "noted", None),
        ({"message": "please look", "priority": "low"}, "noted", None),
        ({"message": "please look", "priority": "background"}, "noted", None),
    ],
)
def test_a_signal_becomes_work_or_a_note_by_its_tier(driver, fields, became, priority):
    make_nova()
    message = signal(**fields)
    driver.step()
    assert outcome(message) == ("handled", became)
    assert [task.priority for task in Task.objects.all()] == ([priority] if priority else [])


def test_many_signals_are_all_handled_none_is_dropped_and_the_most_urgent_is_begun_first(driver):
    make_nova()
    messages = [signal(message="please look", sender=f"echo-{number}") for number in range(5)]
    urgent = signal(message="Emergency: the disk is on fire")
    notes = [signal(type="heartbeat") for _ in range(5)]
    driver.step()
    assert [outcome(message) for message in (*messages, urgent)] == [("handled", "work")] * 6
    assert [outcome(message) for message in notes] == [("handled", "noted")] * 5
    assert Task.objects.count() == 6
    assert AuditEntry.objects.filter(action="workflow.signal.handled").count() == 11
    driver.step()
    assert Execution.objects.get().task.priority == "critical"


def test_an_executor_is_taken_over_from_a_signal_only_where_the_nova_may_use_it(driver):
    make_nova()
    signal(title="Please count", executor="builtin", action="analyze_streams")
    signal(title="Please rm", executor="command", action="rm")
    driver.step()
    assert set(Task.objects.values_list("title", "executor", "action")) == {
        ("Please count", "builtin", "analyze_streams"),
        ("Please rm", "", ""),
    }


def test_a_nova_that_never_was_asked_handles_nothing(driver):
    make_nova("echo")
    message = signal("torch")
    driver.run()
    assert outcome(message) == ("waiting", "")


# -- when


def test_a_busy_nova_handles_a_signal_at_once_and_begins_it_when_it_is_free(driver):
    make_nova()
    make_task(**ECHO)
    driver.begin()
    message = signal()
    waking.mark_due(["torch"], now=driver.now)
    assert driver.step().dispatched == 0
    assert outcome(message) == ("handled", "work")
    asked = Task.objects.get(work_type="signal")
    assert asked.status == "pending"
    driver.end(seconds=1)
    assert driver.step().dispatched == 1
    asked.refresh_from_db()
    assert asked.status == "in_progress"


def test_a_nova_with_a_free_slot_begins_it_beside_what_it_does(driver):
    make_policy("wide", max_concurrent_tasks=3)
    make_nova(policy="wide")
    make_task(**ECHO)
    driver.begin()
    signal()
    waking.mark_due(["torch"], now=driver.now)
    driver.run()
    assert state_of().tasks_in_flight == 2


def test_a_celebrating_nova_turns_to_a_signal(driver):
    make_nova()
    make_task(**ECHO)
    driver.begin()
    driver.end()
    driver.step()
    assert state_of().current_state == "completion_routine"
    signal()
    waking.mark_due(["torch"], now=driver.now)
    driver.run()
    assert state_of().current_state == "task_execution"
    assert Task.objects.get(work_type="signal").status == "in_progress"


def test_signals_wait_while_the_nova_is_unsafe_and_are_handled_when_it_is_safe_again(driver):
    make_nova()
    driver.run()
    until = driver.now + timedelta(seconds=30)
    make_safety_state(cooldown_since=driver.now, cooldown_until=until, cooldown_reason="61 tool uses in a minute.")
    message = signal()
    waking.mark_due(["torch"], now=driver.now)
    driver.run()
    assert (state_of().current_state, outcome(message)) == ("safety_pause", ("waiting", ""))
    driver.now = until
    driver.run()
    assert outcome(message) == ("handled", "work")
    assert Task.objects.get().status == "in_progress"


def test_signals_wait_while_the_nova_drains_and_while_it_is_paused(driver):
    make_nova()
    driver.run()
    message = signal()
    services.drain_nova("torch", reason="maintenance", now=driver.now)
    driver.run()
    assert (state_of().mode, outcome(message)) == ("paused", ("waiting", ""))
    services.resume_nova("torch", reason="done", now=driver.now)
    driver.run()
    assert outcome(message) == ("handled", "work")


def test_a_flooded_nova_handles_its_signals_batch_by_batch_and_hides_nobody_elses(driver):
    make_nova("echo")
    make_nova("helix")
    for _ in range(600):
        signal("echo", type="heartbeat")
    mine = signal("helix", message="please look")
    driver.step()
    assert outcome(mine) == ("handled", "work")
    waiting = InboxMessage.objects.filter(nova_id="echo", status="waiting")
    for _ in range(20):
        driver.run()
        driver.now += timedelta(seconds=30)
    assert not waiting.exists()


def test_a_nova_with_more_signals_than_one_step_takes_goes_on_at_once(driver):
    make_nova()
    for _ in range(100):
        signal(type="heartbeat")
    driver.run()
    assert not InboxMessage.objects.filter(status="waiting").exists()


# -- all the way from the stream


class Door:
    """What an outside program does: XADD; and what the intake then does with it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._reader = Reader(client)
        self._reader.refresh()

    def add(self, stream: str, **fields: str) -> str:
        pairs = [part for pair in fields.items() for part in pair]
        entry_id: bytes = self._client.call("XADD", stream, "*", *pairs)
        replies = self._reader.wait(0)
        Intake(self._reader.streams, "testhouse").accept(replies, None, now=NOW, seconds=6)
        self._reader.taken(replies)
        return f"{stream}/{entry_id.decode()}"


def asked_for():
    """Give the tasks that somebody asked for: a signal wakes momentum work too."""
    return Task.objects.exclude(work_type="momentum")


@pytest.fixture
def door(stream, fleet, driver):
    make_installation()
    driver.run()  # everybody rests in mid-cycle
    return Door(stream)


def test_an_alert_to_all_is_one_task_that_one_nova_takes_at_once(door, driver):
    cause = door.add("nova.priority.alerts", title="Disk is full", priority="critical", **ECHO)
    assert NovaState.objects.filter(due_at__lte=NOW).count() == 5
    driver.run()
    task = asked_for().get()
    assert (task.status, task.work_type, task.cause) == ("in_progress", "alert", cause)
    progress = AuditEntry.objects.get(action="workflow.task.started", object_id=task.id)
    assert (progress.cause, progress.message["status"]) == (cause, "in_progress")
    assert Execution.objects.filter(task=task).count() == 1


def test_an_alert_to_one_nova_is_that_novas_task(door, driver):
    door.add("nova.priority.alerts", title="Disk is full", nova_id="helix", **ECHO)
    driver.run()
    assert asked_for().get().assignee_id == "helix"
    assert Execution.objects.get(task=asked_for().get()).nova_id == "helix"


def test_a_signal_to_a_nova_is_its_task_a_moment_later(door, driver):
    cause = door.add("nova.coordination.helix", message="please look at the plan", sender="echo")
    driver.run()
    task = asked_for().get()
    assert (task.assignee_id, task.status, task.cause) == ("helix", "in_progress", cause)
    assert InboxMessage.objects.get().status == "handled"


def test_a_signal_to_all_wakes_everybody_and_makes_no_task(door, driver):
    door.add("nova.priority.alerts", type="signal", message="wake up")
    assert NovaState.objects.filter(due_at__lte=NOW).count() == 5
    driver.run()
    assert not asked_for().exists()
    assert InboxMessage.objects.get().status == "handled"
