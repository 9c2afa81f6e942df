"""TaskTracker against the real database: legal moves, dependencies, fences, the journal beside every change."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from safety.models import AuditEntry, OutboxEntry
from tests import factories
from tests.factories import NOW
from workflow.core.work import Priority
from workflow.models import NovaState, Task
from workflow.task_rows import ROW_COLUMNS, task_row
from workflow.task_tracker import IllegalTaskMove, TaskNotFound, TaskTracker

pytestmark = pytest.mark.django_db


def create(**fields) -> str:
    with TaskTracker.open(now=NOW) as tracker:
        return tracker.create_task(fields.pop("title", "Write the report"), **fields)


def start(task_id: str, nova_id: str = "echo") -> None:
    with TaskTracker.open(now=NOW) as tracker:
        tracker.start_task(tracker._row(task_id), nova_id=nova_id, update="I begin.", attempt=1)


def finish(task_id: str) -> None:
    with TaskTracker.open(now=NOW + timedelta(minutes=5)) as tracker:
        tracker.complete_task(task_id, "All done.", {"pages": 3})


def actions(task_id: str) -> list[str]:
    return list(AuditEntry.objects.filter(object_id=task_id).order_by("id").values_list("action", flat=True))


def test_the_life_of_an_open_task_is_journalled_in_order(fleet):
    task_id = create()
    start(task_id)
    finish(task_id)
    task = Task.objects.get(pk=task_id)
    assert (task.status, task.outcome, task.assignee_id, task.progress) == ("completed", "succeeded", "echo", 100)
    assert task.metrics == {"pages": 3}
    assert actions(task_id) == [
        "workflow.task.created",
        "workflow.task.claimed",
        "workflow.task.started",
        "workflow.task.completed",
    ]
    published = AuditEntry.objects.filter(object_id=task_id).exclude(stream="").order_by("seq")
    assert [(entry.stream.rsplit(".")[-1], entry.message["status"]) for entry in published] == [
        ("todo", "pending"),
        ("progress", "in_progress"),
        ("completed", "completed"),
    ]
    assert [entry.seq for entry in published] == [1, 2, 3]


def test_each_commit_points_once_at_its_entries(fleet):
    with TaskTracker.open(now=NOW) as tracker:
        for _ in range(3):
            tracker.create_task("Three", assignee="echo")
    (pointer,) = OutboxEntry.objects.all()
    assert pointer.entry_ids == list(AuditEntry.objects.order_by("id").values_list("id", flat=True))


@pytest.mark.parametrize("verb", ["complete_task", "update_progress", "unblock_task"])
def test_an_illegal_move_is_refused_and_changes_nothing(fleet, verb):
    task_id = create()
    with pytest.raises(IllegalTaskMove, match="is pending"), TaskTracker.open(now=NOW) as tracker:
        getattr(tracker, verb)(task_id, "now")
    assert Task.objects.get(pk=task_id).status == "pending"
    assert actions(task_id) == ["workflow.task.created"]


def test_an_unknown_task_is_named(fleet):
    with pytest.raises(TaskNotFound, match="NO-1"), TaskTracker.open(now=NOW) as tracker:
        tracker.complete_task("NO-1", "done")


def test_a_change_under_a_stale_fence_is_refused(fleet):
    task_id = create()
    values = Task.objects.filter(pk=task_id).values_list(*ROW_COLUMNS).get()
    Task.objects.filter(pk=task_id).update(fence=7)
    with pytest.raises(IllegalTaskMove, match="somebody else"), TaskTracker.open(now=NOW) as tracker:
        tracker.start_task(task_row(values), nova_id="echo", update="Mine.", attempt=1)
    assert Task.objects.get(pk=task_id).status == "pending"


def test_a_task_waits_for_its_dependencies_and_then_wakes_its_nova(fleet):
    first, second = create(title="First"), create(title="Second")
    third = create(title="Third", dependencies=[first, second], assignee="helix")
    NovaState.objects.update(due_at=NOW + timedelta(days=1))
    for task_id, waiting in ((first, 1), (second, 0)):
        start(task_id)
        finish(task_id)
        assert Task.objects.get(pk=third).waiting_on == waiting
    assert NovaState.objects.get(nova_id="helix").due_at < NOW + timedelta(days=1)


def test_a_dependency_that_has_succeeded_is_not_waited_for(fleet):
    first = create(title="First")
    start(first)
    finish(first)
    assert Task.objects.get(pk=create(title="Then", dependencies=[first])).waiting_on == 0


def test_what_depends_on_a_cancelled_task_is_blocked_and_says_who_can_help(fleet):
    first = create(title="First")
    second = create(title="Second", dependencies=[first])
    third = create(title="Third", dependencies=[second])
    with TaskTracker.open(now=NOW) as tracker:
        tracker.cancel_task(first, "not wanted")
    blocked = Task.objects.get(pk=second)
    assert (blocked.status, blocked.block_owner) == ("blocked", "operator")
    assert "cancel" in blocked.block_action
    assert Task.objects.get(pk=third).status == "pending"


def test_a_blocked_task_goes_back_to_pending_with_fresh_attempts(fleet):
    task_id = create(assignee="echo")
    start(task_id)
    with TaskTracker.open(now=NOW) as tracker:
        tracker.block_task(task_id, owner="operator", action="connect a model", reason="Nobody here can write.")
    with TaskTracker.open(now=NOW + timedelta(hours=1)) as tracker:
        tracker.unblock_task(task_id, "A model is connected.")
    task = Task.objects.get(pk=task_id)
    assert (task.status, task.blocked_seconds, task.block_owner) == ("pending", 3600.0, "")
    assert task.max_attempts > task.attempts


def test_a_new_priority_gives_a_new_place_in_the_order(fleet):
    low, high = create(priority=Priority.LOW), create(priority=Priority.HIGH)
    assert list(Task.objects.claimable(now=NOW).values_list("id", flat=True)) == [high, low]
    with TaskTracker.open(now=NOW) as tracker:
        tracker.set_priority(low, Priority.CRITICAL, "it burns")
    assert list(Task.objects.claimable(now=NOW).values_list("id", flat=True)) == [low, high]


def test_a_personal_task_is_journalled_but_reaches_no_stream(fleet):
    task_id = create(title="planted secret", assignee="echo", personal=True)
    entry = AuditEntry.objects.get(object_id=task_id)
    assert (entry.personal, entry.stream, entry.message) == (True, "", None)
    assert "planted secret" not in str(entry.after)


def test_ids_have_the_form_of_the_specification_and_never_repeat(fleet):
    with TaskTracker.open(now=NOW) as tracker:
        ids = [tracker.create_task("Many", assignee="echo") for _ in range(2500)]
    assert len(set(ids)) == 2500
    assert all(task_id.startswith(f"ECHO-{int(NOW.timestamp())}-") and len(task_id.split("-")[2]) == 6 for task_id in ids)


def test_the_database_refuses_a_completed_task_that_does_not_say_how(fleet):
    task_id = create()
    with pytest.raises(IntegrityError), transaction.atomic():
        Task.objects.filter(pk=task_id).update(status="completed")


def test_an_idempotency_key_is_taken_once(fleet):
    create(idempotency_key="k1")
    with pytest.raises(IntegrityError):
        create(idempotency_key="k1")


def test_cancelling_a_running_task_stops_its_execution(fleet):
    task_id = create()
    start(task_id)
    execution = factories.make_execution(Task.objects.get(pk=task_id), status="running")
    with TaskTracker.open(now=NOW) as tracker:
        tracker.cancel_task(task_id, "not wanted")
    execution.refresh_from_db()
    assert execution.status == "cancelled"
