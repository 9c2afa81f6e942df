"""The words on the wire: stream names, the task message schema, legal moves."""

import pytest

from tests.workflow.core.facts import NOW
from workflow.core.protocol import (
    INBOUND,
    LEGAL_MOVES,
    STREAM_PATTERNS,
    TASK_MESSAGE_SCHEMA,
    NOVAProtocolValidator,
    ProtocolViolation,
    cause_of,
    compliance,
    stream_kind,
    stream_name,
)
from workflow.core.work import TaskStatus

VALIDATOR = NOVAProtocolValidator()
GOOD = {
    "task_id": "TORCH-1763640000-0a1b2c",
    "title": "Write the report",
    "description": "",
    "status": "pending",
    "priority": "high",
    "assignee": "torch",
    "created_at": NOW.isoformat(),
    "updated_at": NOW.isoformat(),
}
DONE = GOOD | {"status": "completed", "completed_at": NOW.isoformat(), "results": "found it", "metrics": '{"found": 3}'}


def test_all_eleven_streams_have_their_names():
    names = {kind: stream_name(kind, "torch") for kind in STREAM_PATTERNS}
    assert names == {
        "coordination": "nova.coordination.torch",
        "task_todo": "nova.tasks.torch.todo",
        "task_progress": "nova.tasks.torch.progress",
        "task_completed": "nova.tasks.torch.completed",
        "status_updates": "nova.status.torch",
        "enterprise_metrics": "nova.enterprise.metrics",
        "safety_alerts": "nova.safety.torch",
        "work_queue": "nova.work.queue",
        "priority_alerts": "nova.priority.alerts",
        "celebrations": "nova.celebrations.torch",
        "insights": "nova.insights.torch",
    }
    assert {stream_kind(name) for name in names.values()} == {
        (kind, "torch" if "{" in pattern else "") for kind, pattern in STREAM_PATTERNS.items()
    }


@pytest.mark.parametrize("name", ["", "nova.tasks.torch", "nova.coordination.", "nova.tasks.a.b.todo", "other.work.queue"])
def test_a_name_that_is_not_ours_has_no_kind(name):
    assert stream_kind(name) == ("", "")


def test_a_nova_s_own_stream_needs_a_nova_and_a_kind_must_exist():
    with pytest.raises(ValueError, match="say whose"):
        stream_name("coordination")
    with pytest.raises(KeyError):
        stream_name("gossip")


def test_three_streams_are_inbound():
    assert INBOUND == ("coordination", "work_queue", "priority_alerts")


def test_a_cause_names_stream_and_entry():
    assert cause_of("nova.work.queue", "1-0") == "nova.work.queue/1-0"


@pytest.mark.parametrize(
    "message",
    [
        GOOD,
        DONE,
        GOOD | {"assignee": ""},
        GOOD | {"status": "in_progress", "update": "half way", "progress_percentage": "50"},
        GOOD | {"status": "blocked", "results": "the brief"},
        GOOD | {"created_at": "2026-11-20T12:00:00Z"},
    ],
)
def test_a_good_message_is_accepted(message):
    VALIDATOR.validate_task_data(message)


@pytest.mark.parametrize("name", [name for name, form in TASK_MESSAGE_SCHEMA.items() if not form.startswith("optional")])
def test_a_message_without_a_required_field_is_refused(name):
    with pytest.raises(ProtocolViolation, match=f"The field {name} is missing."):
        VALIDATOR.validate_task_data({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"status": "done"}, "The field status is 'done'; it must be one of blocked, completed, in_progress, pending."),
        ({"priority": "High"}, "The field priority is 'High'; it must be one of critical, high, low, medium."),
        ({"task_id": ""}, "The field task_id has 0 characters; 1 to 96 are allowed."),
        ({"title": "x" * 501}, "The field title has 501 characters; 1 to 500 are allowed."),
        ({"created_at": "2026-11-20T12:00:00"}, "The field created_at is not an ISO 8601 instant with its zone."),
        ({"updated_at": "now"}, "The field updated_at is not an ISO 8601 instant with its zone."),
        ({"status": "completed"}, "The task is completed, but the field completed_at is missing."),
        ({"completed_at": NOW.isoformat()}, "The task is pending, but the field completed_at is there."),
        ({"status": "completed", "completed_at": "x"}, "The field completed_at is not an ISO 8601 instant with its zone."),
        ({"metrics": "[]"}, "The field metrics is not a JSON object."),
        ({"metrics": "{"}, "The field metrics is not a JSON object."),
        ({"progress_percentage": "101"}, "The field progress_percentage is not a whole number from 0 to 100."),
        ({"progress_percentage": "half"}, "The field progress_percentage is not a whole number from 0 to 100."),
        ({"title": 7}, "The field title is not text."),
    ],
)
def test_a_broken_message_is_refused_with_the_reason(changes, problem):
    with pytest.raises(ProtocolViolation) as caught:
        VALIDATOR.validate_task_data(GOOD | changes)
    assert caught.value.problems == (problem,)


def test_all_problems_of_a_message_are_named_at_once():
    with pytest.raises(ProtocolViolation) as caught:
        VALIDATOR.validate_task_data(GOOD | {"status": "done", "priority": "low!", "title": ""})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("before", ["", *TaskStatus])
@pytest.mark.parametrize("after", list(TaskStatus))
def test_a_move_is_legal_if_and_only_if_the_table_has_it(before, after):
    problem = VALIDATOR.check_move(before, after)
    assert (problem == "") == (after in LEGAL_MOVES[before])
    if problem:
        assert problem == f"A task can't go from {before or 'nothing'} to {after}."


def test_a_completed_task_stays_completed():
    assert LEGAL_MOVES["completed"] == frozenset()


def test_a_step_s_message_is_checked_by_the_cheap_rules():
    assert VALIDATOR.check_task("Write the report", "pending", "in_progress") == ""
    assert VALIDATOR.check_task("Write the report", "completed", "pending") == "A task can't go from completed to pending."
    assert VALIDATOR.check_task("", "pending", "in_progress") == "The title has 0 characters; 1 to 500 are allowed."


def test_compliance_is_the_share_of_checks_passed():
    assert compliance(0, 0) is None
    assert compliance(3, 4) == 0.75
