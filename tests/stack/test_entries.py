"""Entries and requests from outside against the whole running stack: what becomes of them, and what everybody is told."""

import base64
import json
import secrets

import pytest

from tests.processes.stack import wait_until
from tests.stack.outside import QUEUE, Outside, Sent, problems
from workflow.core.protocol import stream_kind

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

MEGABYTES = "y" * 2_000_000
BROKEN: dict[str, tuple[Sent, str]] = {
    "no title": ({"description": "Nobody knows what this is about"}, "The title is missing or empty"),
    "a field of 2 MB": ({"title": "Too much", "description": MEGABYTES}, "2,000,0"),
    "a bad priority": ({"title": "Hurry", "priority": "at once"}, "The priority 'at once' is not known"),
    "bytes that are not UTF-8": ({"title": b"\xff\xfe\xfa"}, "not UTF-8"),
    "a field name that is not UTF-8": ({"title": "Odd", b"\xff": "x"}, "not UTF-8"),
    "a NUL": ({"title": "a\0b"}, "NUL"),
    "an unknown Nova": ({"title": "For nobody", "nova_id": "nobody"}, "There is no Nova 'nobody'"),
    "an executor that streams may not choose": ({"title": "Run it", "executor": "command"}, "command"),
    "a hundred fields": ({f"field{number}": "x" for number in range(99)}, "100 fields"),
}


@pytest.fixture(scope="module", autouse=True)
def foreign_entry(outside: Outside) -> str:
    """An entry on a stream of ours, written before all else: within a minute it is noticed, however much happens meanwhile."""
    return outside.add("nova.tasks.torch.completed", {"task_id": "TORCH-1-000000", "status": "completed"})


@pytest.fixture(scope="module")
def analysed(outside: Outside) -> str:
    """The cause of a work item that was completed; everything about it has been told."""
    fields: Sent = {
        **{"title": "Look at the streams", "description": "Which of them lag?", "priority": "high"},
        **{"executor": "builtin", "action": "analyze_streams"},
    }
    cause = outside.add(QUEUE, fields)
    outside.wait_for("task_completed", cause)
    return cause


def test_a_work_item_is_taken_executed_completed_and_told_on_every_stream(outside: Outside, analysed: str) -> None:
    told = outside.told(analysed)
    (todo,) = told["task_todo"]
    (completed,) = told["task_completed"]
    nova_id, task_id = todo["assignee"], todo["task_id"]
    assert {kind: len(entries) for kind, entries in told.items()} == {
        **{"task_todo": 1, "task_progress": 1, "task_completed": 1, "celebrations": 1, "insights": 1, "status_updates": 2},
    }
    assert {entry["task_id"] for kind in told if kind != "status_updates" for entry in told[kind]} == {task_id}
    assert {entry["nova_id"] for entry in told["status_updates"]} == {nova_id}
    assert [todo["status"], told["task_progress"][0]["status"], completed["status"]] == ["pending", "in_progress", "completed"]
    assert completed["outcome"] == "succeeded"
    assert "Streams of the fleet" in completed["results"]
    assert json.loads(completed["metrics"])["streams"] > 0
    numbers = [int(entry["seq"]) for kind in told for entry in told[kind]]
    assert len(set(numbers)) == len(numbers)
    assert len({entry["event_id"] for kind in told for entry in told[kind]}) == len(numbers)


def test_what_happened_is_counted_on_the_metrics_stream(outside: Outside, analysed: str) -> None:
    nova_id = outside.told(analysed)["task_todo"][0]["assignee"]
    counted: dict[str, int] = {}
    for entry in outside.entries("nova.enterprise.metrics"):
        novas = json.loads(entry["context"]).get("novas", {entry["nova_id"]: int(entry["metric_value"])})
        counted[entry["metric_name"]] = counted.get(entry["metric_name"], 0) + novas.get(nova_id, 0)
    assert counted["task_started"] >= counted["task_completed"] >= 1


def test_the_state_hash_is_there_for_an_hour(outside: Outside, analysed: str) -> None:
    nova_id = outside.told(analysed)["task_todo"][0]["assignee"]
    wait_until(  # the copy is at most a moment behind the entries
        lambda: json.loads(outside.hash(f"workflow:state:{nova_id}")["safety_status"])["is_safe"],
        seconds=5,
        what="the hash tells of the Nova that works",
    )
    state = outside.hash(f"workflow:state:{nova_id}")
    assert state["nova_id"] == nova_id
    assert state["mode"] == "running"
    assert {"current_state", "current_phase", "last_stream_check", "total_cycles_completed"} <= state.keys()
    assert 3_000 < outside.redis.ttl(f"workflow:state:{nova_id}") <= 3_600


def test_the_journal_tells_the_whole_story_in_order(outside: Outside, analysed: str) -> None:
    task_id = outside.told(analysed)["task_todo"][0]["task_id"]
    assert outside.inbox(analysed) | {"fields": ""} == {
        **{"status": "handled", "reason": "", "kind": "work_item", "task_id": task_id, "fields": ""},
    }
    story = [action.removeprefix("workflow.task.") for action in outside.journal(task_id)]
    assert [word for word in story if word in ("created", "claimed", "started", "completed", "celebrated")] == [
        *("created", "claimed", "started", "completed", "celebrated"),
    ]


def test_the_same_item_without_an_executor_ends_blocked_with_its_brief(outside: Outside) -> None:
    cause = outside.add(QUEUE, {"title": "Look at the streams", "description": "Which of them lag?", "priority": "high"})
    blocked = outside.wait_for("task_progress", cause, status="blocked")
    task = outside.task(blocked["task_id"])
    assert task["status"] == "blocked"
    assert task["block"]["owner"] == blocked["block_owner"] == "operator"
    assert task["block"]["action"] == blocked["block_action"] == f"connect a model or an agent to {task['assignee']}"
    assert blocked["results"].startswith(f"Work brief for {task['task_id']}")
    assert task["results"] == blocked["results"]
    assert not outside.told(cause).keys() & {"task_completed", "celebrations"}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_entry_is_refused_kept_and_reported_and_the_next_one_works(what: str, outside: Outside) -> None:
    fields, reason = BROKEN[what]
    cause = outside.add(QUEUE, {"sender": "helix", **fields})
    outside.assert_echo_works()
    kept = outside.inbox(cause)
    assert kept["status"] == "rejected"
    assert reason in kept["reason"]
    assert kept["task_id"] == ""
    raw = json.loads(kept["fields"])
    assert raw["field_count"] == len(fields) + 1
    first = {base64.b64decode(field["name"]): field for field in raw["raw"]}[b"sender"]
    assert base64.b64decode(first["value"]) == b"helix"
    rows = outside.ledger.rows(
        f"SELECT reason FROM safety_auditentry WHERE action = 'workflow.message.rejected' AND cause = '{cause}'"
    )
    assert [row[0] for row in rows] == [kept["reason"]]


def test_a_refusal_is_answered_on_the_senders_coordination_stream(outside: Outside) -> None:
    cause = outside.add(QUEUE, {"priority": "high", "sender": "vaeris", "message_id": "note-7"})
    answer = outside.wait_for("coordination", cause)
    assert answer["type"] == "message_rejected"
    assert "title" in answer["reason"]
    assert answer in outside.entries("nova.coordination.vaeris")


def test_a_repeated_message_id_makes_no_second_task(outside: Outside) -> None:
    fields: Sent = {
        **{"title": "Only once", "executor": "builtin", "action": "echo", "sender": "planning"},
        "message_id": secrets.token_hex(6),
    }
    first, second = outside.add(QUEUE, fields), outside.add(QUEUE, fields)
    outside.wait_for("task_completed", first)
    outside.assert_echo_works()
    assert outside.inbox(second)["status"] != "waiting"
    assert outside.told(second) == {}


class TestRest:
    """The same through the API, with the operator key."""

    def test_without_the_key_nothing_is_told(self, outside: Outside) -> None:
        for key in ("", "wrong"):
            status, problem, headers = outside.rest("GET", "tasks", key=key)
            assert status == 401
            assert headers["Content-Type"] == "application/problem+json"
            assert "results" not in problem

    def test_a_task_is_created_once_for_its_key_runs_and_is_found(self, outside: Outside) -> None:
        word, key = f"word{secrets.token_hex(6)}", {"Idempotency-Key": secrets.token_hex(8)}
        body = {"title": f"Echo the {word}", "description": word, "executor": "builtin", "action": "echo", "priority": "high"}
        status, task, headers = outside.rest("POST", "tasks", body, headers=key)
        assert status == 201, task
        assert headers["Location"].endswith(task["task_id"])
        again, replayed, headers = outside.rest("POST", "tasks", body, headers=key)
        assert (again, headers["Idempotency-Replayed"], replayed["task_id"]) == (201, "true", task["task_id"])
        other, problem, _ = outside.rest("POST", "tasks", {**body, "title": "Another"}, headers=key)
        assert (other, problem["code"]) == (422, "idempotency_key_reused")

        done = wait_until(
            lambda: outside.task(task["task_id"]) if outside.task(task["task_id"])["status"] == "completed" else None,
            seconds=20,
            what="the task is completed",
        )
        assert (done["outcome"], done["results"], done["progress"]) == ("succeeded", word, 100)
        assert [execution["status"] for execution in done["executions"]] == ["succeeded"]
        told = outside.wait_for("task_completed", done["cause"])
        assert (told["task_id"], told["assignee"]) == (task["task_id"], done["assignee"])

        for query, there in (
            (f"search={word}", True),
            (f"search={word}&status=completed", True),
            (f"search={word}&status=pending,blocked", False),
            (f"search={word}&assignee={done['assignee']}", True),
            (f"search={word}&assignee=", False),
        ):
            _, page, _ = outside.rest("GET", f"tasks?{query}")
            assert [row["task_id"] for row in page["results"]] == ([task["task_id"]] if there else []), query

    def test_pages_hold_as_many_as_were_asked_for_and_lead_on(self, outside: Outside, analysed: str) -> None:
        seen: list[str] = []
        path: str | None = "tasks?limit=2"
        while path and len(seen) < 8:
            status, page, _ = outside.rest("GET", path)
            assert status == 200
            assert len(page["results"]) <= 2
            seen += [row["task_id"] for row in page["results"]]
            path = page["next"].partition("/api/v1/")[2] if page["next"] else None
        assert len(seen) == len(set(seen)) >= 3
        for wrong in ("limit=0", "limit=201", "limit=x", "status=lost", "stauts=pending"):
            status, problem, _ = outside.rest("GET", f"tasks?{wrong}")
            assert (status, problem["status"]) == (400, 400), wrong

    def test_novas_are_listed_and_read(self, outside: Outside) -> None:
        status, nova, _ = outside.rest("GET", "novas/torch")
        assert (status, nova["nova_id"], nova["mode"]) == (200, "torch", "running")
        assert {"torch", "echo", "helix", "vaeris", "synergy"} <= outside.statuses().keys()
        status, problem, _ = outside.rest("GET", "novas/nobody")
        assert (status, problem["code"]) == (404, "nova_not_found")


def test_every_entry_that_the_stack_wrote_is_valid(outside: Outside, analysed: str) -> None:
    wrong: list[str] = []
    counted: dict[str, int] = {}
    for stream in outside.streams():
        kind = stream_kind(stream)[0]
        for fields in outside.entries(stream):
            if "event_id" not in fields:
                continue  # a stranger's
            counted[kind] = counted.get(kind, 0) + 1
            wrong += problems(stream, fields)
    assert not wrong
    assert counted.keys() >= {
        *("task_todo", "task_progress", "task_completed", "status_updates", "celebrations", "insights", "enterprise_metrics"),
        "coordination",
    }


def test_a_foreign_entry_on_a_stream_of_ours_is_kept_and_changes_nothing(outside: Outside, foreign_entry: str) -> None:
    kept = wait_until(lambda: outside.inbox(foreign_entry), seconds=90, what="the foreign entry is noticed")
    assert (kept["status"], kept["kind"]) == ("rejected", "foreign")
