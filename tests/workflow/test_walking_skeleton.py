"""The whole way of one entry, in the foreground: XADD, inbox, task, engine, host, relay, streams. This test stays for ever."""

import threading
import time

import pytest
from django.db import connections

from safety.models import AuditEntry, SafetyState
from tests import factories
from workflow.jobs import drive
from workflow.models import NovaState, Task

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def running(stream):
    """A loop and a host at work in the foreground, for a fleet of five."""
    factories.make_installation()
    for nova_id in factories.PERSONALITIES:
        factories.make_nova(nova_id, personality=nova_id)
    stop = threading.Event()

    def work():
        try:
            drive(stop, "slot:foreground:test:1")
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    yield stream
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def read(stream, name):
    return [
        {key.decode(): value.decode() for key, value in fields.items()} for _, fields in stream.call("XRANGE", name, "-", "+")
    ]


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    stands = list(NovaState.objects.values_list("nova_id", "current_state", "due_at", "last_error"))
    judged = list(SafetyState.objects.values_list("nova_id", "is_safe", "reason"))
    raise AssertionError(f"It did not happen in time: {stands}, {judged}, {list(Task.objects.values())}")


def finished(stream, cause):
    return [
        (nova_id, entry)
        for nova_id in factories.PERSONALITIES
        for entry in read(stream, f"nova.tasks.{nova_id}.completed")
        if entry["cause"] == cause
    ]


def test_an_entry_is_taken_executed_completed_and_told(running):
    stream = running
    entry_id = stream.call(
        "XADD", "nova.work.queue", "*", "title", "Count the streams", "description", "all of them", "priority", "high",
        "executor", "builtin", "action", "analyze_streams",
    ).decode()  # fmt: skip
    cause = f"nova.work.queue/{entry_id}"
    ((nova_id, completed),) = wait_for(lambda: finished(stream, cause))
    task_id = completed["task_id"]
    assert completed["status"] == "completed"
    assert completed["results"]
    (todo,) = [entry for entry in read(stream, f"nova.tasks.{nova_id}.todo") if entry["task_id"] == task_id]
    progress = [entry for entry in read(stream, f"nova.tasks.{nova_id}.progress") if entry["task_id"] == task_id]
    assert int(todo["seq"]) < int(progress[0]["seq"]) < int(completed["seq"])
    celebrations = wait_for(lambda: [e for e in read(stream, f"nova.celebrations.{nova_id}") if e["task_id"] == task_id])
    insights = wait_for(lambda: [e for e in read(stream, f"nova.insights.{nova_id}") if e["task_id"] == task_id])
    assert len(celebrations) == len(insights) == 1
    assert read(stream, f"nova.status.{nova_id}")
    assert {"task_started", "task_completed"} <= {entry["metric_name"] for entry in read(stream, "nova.enterprise.metrics")}
    assert stream.call("EXISTS", f"workflow:state:{nova_id}") == 1
    story = list(AuditEntry.objects.filter(object_id=task_id).order_by("id").values_list("action", flat=True))
    assert story == [
        "workflow.task.created",
        "workflow.task.claimed",
        "workflow.task.started",
        "workflow.task.completed",
        "workflow.task.celebrated",
        "workflow.insight.recorded",
    ]


def test_what_nobody_here_can_do_ends_blocked_with_its_brief(running):
    running.call(
        "XADD", "nova.work.queue", "*", "title", "Write the quarterly report", "description", "ten pages", "priority", "high"
    )
    task = wait_for(lambda: Task.objects.filter(status="blocked").first())
    assert task.block_owner == "operator"
    assert "connect a model" in task.block_action
    assert task.results
