"""docs/streams.schema.json against reality: entries of real writers on a real server, and what the door takes or refuses."""

import json
import re
import shlex
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from safety.core.mechanisms import MECHANISMS
from safety.core.orchestrator import SafetyOrchestrator
from safety.core.status import FleetFacts, SafetyFacts, SafetyLevel, SafetyRules
from safety.models import Installation
from safety.stream_client import StreamClient
from safety.verdicts import store_verdicts
from tests import factories
from workflow import agent_work, messages, services
from workflow.core.completion import LEVELS
from workflow.core.inbound import AlertRequest, Rejection, SignalRequest, WorkRequest, parse_entry
from workflow.core.protocol import STREAM_PATTERNS, stream_kind
from workflow.core.state import WorkflowPhase, WorkflowState
from workflow.core.work import Priority, WorkType
from workflow.engine import WorkflowEngine
from workflow.models import Execution, InboxMessage, Nova, NovaState
from workflow.streams.intake import Intake
from workflow.streams.reader import Reader
from workflow.streams.relay import Relay
from workflow.task_tracker import TaskTracker

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
SCHEMA: dict[str, Any] = json.loads((DOCS / "streams.schema.json").read_text())


def problems(kind: str, entry: dict[str, str]) -> list[str]:
    """Give what an entry of this kind of stream breaks."""
    validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]})
    return [f"{kind} {entry}: {error.message}" for error in validator.iter_errors(entry)]


class Wire:
    """A fleet of five, its engine, intake and relay, step by step; and what stands on the streams then."""

    def __init__(self, client: StreamClient) -> None:
        factories.make_installation()
        self.client = client
        self.now = factories.NOW
        self.engine = WorkflowEngine("formats")
        self.reader = Reader(client)
        self.reader.refresh()
        self.intake = Intake(self.reader.streams, Installation.objects.get().name)
        self.relay = Relay(client)

    def add(self, stream: str, **fields: str) -> str:
        pairs = [part for pair in fields.items() for part in pair]
        entry_id: bytes = self.client.call("XADD", stream, "*", *pairs)
        replies = self.reader.wait(0)
        self.intake.accept(replies, None, now=self.now, seconds=6)
        self.reader.taken(replies)
        return f"{stream}/{entry_id.decode()}"

    def run(self, seconds: float = 60.0) -> None:
        """Let everybody who is due have a cycle, then let time pass."""
        for _ in range(20):
            if self.engine.run_once(now=self.now, fleet=FleetFacts()) is None:
                break
            self.now += timedelta(milliseconds=1)
        self.now += timedelta(seconds=seconds)
        NovaState.objects.filter(mode__in=NovaState.RUNNING_MODES).update(due_at=self.now)

    def end_executions(self, **columns: Any) -> None:
        Execution.objects.filter(finished_at=None).update(started_at=self.now, finished_at=self.now, **columns)

    def entries(self) -> dict[str, list[dict[str, str]]]:
        """Publish what waits; give all entries by the kind of their stream."""
        while self.relay.relay_batch(now=self.now):
            pass
        found: dict[str, list[dict[str, str]]] = {kind: [] for kind in STREAM_PATTERNS}
        names = [name.decode() for name in self.client.call("KEYS", "nova.*")]
        for name in names:
            kind, _ = stream_kind(name)
            if kind:
                for _, fields in self.client.call("XRANGE", name, "-", "+"):
                    found[kind].append({key.decode(): value.decode() for key, value in fields.items()})
        return found


@pytest.fixture
def wire(stream: StreamClient, fleet: list[str]) -> Wire:
    return Wire(stream)


def check(entries: dict[str, list[dict[str, str]]]) -> None:
    wrong = [problem for kind, found in entries.items() for entry in found for problem in problems(kind, entry)]
    assert not wrong, "\n".join(wrong)


pytestmark = pytest.mark.django_db


def test_the_whole_life_of_a_task_is_told_in_valid_entries(wire):
    cause = wire.add("nova.work.queue", title="Count", description="all", priority="high", executor="builtin", action="echo")
    for _ in range(3):
        wire.run()
        wire.end_executions(status="succeeded", results="3 streams", metrics={"streams": 3, "findings": ["one lags"]})
    wire.run()
    entries = wire.entries()
    check(entries)
    for kind in ("task_todo", "task_progress", "task_completed", "celebrations", "insights"):
        assert any(entry["cause"] == cause for entry in entries[kind]), kind
    assert entries["status_updates"]
    assert entries["enterprise_metrics"]


def test_failures_retries_and_blocks_are_told_in_valid_entries(wire):
    wire.add("nova.tasks.echo.todo", title="Will fail", description="", executor="builtin", action="echo", max_attempts="2")
    wire.add("nova.tasks.helix.todo", title="Nobody can", description="")
    for _ in range(4):
        wire.run(seconds=600)
        Execution.objects.filter(finished_at=None, nova="helix").update(
            status="succeeded",
            finished_at=wire.now,
            results="the brief",
            needs={"owner": "operator", "action": "connect a model"},
        )
        wire.end_executions(status="failed", error="no such file", retryable=True)
    entries = wire.entries()
    check(entries)
    assert {"pending", "in_progress", "blocked"} == {entry["status"] for entry in entries["task_progress"]}
    assert any(entry.get("results") == "the brief" for entry in entries["task_progress"])


def test_what_people_do_to_tasks_is_told_in_valid_entries(wire):
    with TaskTracker.open(now=wire.now) as tracker:
        task_id = tracker.create_task("By hand", assignee="torch")
        other = tracker.create_task("By hand too", assignee="torch", estimated_duration=timedelta(minutes=5))
    changes: list[Callable[[TaskTracker], None]] = [
        lambda tracker: tracker.set_priority(task_id, Priority.CRITICAL, "now"),
        lambda tracker: tracker.block_task(task_id, owner="operator", action="look", reason="unclear"),
        lambda tracker: tracker.set_priority(task_id, Priority.LOW, "later"),
        lambda tracker: tracker.unblock_task(task_id, "clear now"),
        lambda tracker: tracker.cancel_task(other, "not needed"),
    ]
    for change in changes:
        with TaskTracker.open(now=wire.now) as tracker:
            change(tracker)
    entries = wire.entries()
    check(entries)
    assert {entry["status"] for entry in entries["task_todo"]} == {"pending", "blocked"}
    assert [entry["outcome"] for entry in entries["task_completed"]] == ["cancelled"]


def test_messages_and_the_work_of_agents_are_told_in_valid_entries(wire):
    Nova.objects.filter(nova_id="torch").update(default_executor="agent")
    messages.post_message("echo", "torch", {"message": "Hello.", "priority": "low", "task_id": "x"}, now=wire.now)
    for _ in range(3):
        factories.make_task(assignee="torch", executor="agent", now=wire.now)
    acts = [
        lambda task: agent_work.release_task("torch", task.task_id, task.fence, reason="no", now=wire.now),
        lambda task: agent_work.fail_task("torch", task.task_id, task.fence, error="no", now=wire.now),
        lambda task: agent_work.complete_task("torch", task.task_id, task.fence, results="Done.", evidence=["x"], now=wire.now),
    ]
    for act in acts:
        act(agent_work.claim_tasks("torch", limit=1, now=wire.now)[0])
    wire.run()
    entries = wire.entries()
    check(entries)
    assert len(entries["coordination"]) == 1
    assert len(entries["task_completed"]) >= 1


def test_operators_verbs_are_told_in_valid_status_entries(wire):
    for verb in (
        services.pause_nova,
        services.resume_nova,
        services.drain_nova,
        services.archive_nova,
        services.unarchive_nova,
    ):
        verb("echo", reason="a test", now=wire.now)
    NovaState.objects.filter(nova="torch").update(due_at=wire.now + timedelta(minutes=1))
    services.wake_nova("torch", reason="a test", now=wire.now)
    entries = wire.entries()
    check(entries)
    told = {entry["status"] for entry in entries["status_updates"]}
    assert {"paused", "resumed", "draining", "archived", "woken"} <= told


def test_a_verdict_and_its_end_are_told_in_valid_safety_entries(wire):
    judge, rules = SafetyOrchestrator().judge, SafetyRules()
    stormy = SafetyFacts(nova_id="vaeris", session_events_minute=11)
    verdict = judge(stormy, rules, wire.now)
    store_verdicts({"vaeris": verdict}, {"vaeris": stormy}, wire.now)
    unsafe = SafetyFacts(
        nova_id="vaeris",
        verdict_is_safe=False,
        verdict_level=verdict.status.safety_level,
        verdict_mechanism=verdict.status.mechanism,
        verdict_since=wire.now,
        verdict_until=verdict.status.expires_at,
    )
    store_verdicts({"vaeris": judge(unsafe, rules, wire.now)}, {"vaeris": unsafe}, wire.now)
    unreadable = SafetyFacts(nova_id="helix", tool_uses_minute=None)
    store_verdicts({"helix": judge(unreadable, rules, wire.now)}, {"helix": unreadable}, wire.now)
    entries = wire.entries()
    check(entries)
    assert sorted(entry["is_safe"] for entry in entries["safety_alerts"]) == ["false", "false", "true"]


def test_a_refusal_is_answered_in_a_valid_entry(wire):
    wire.add("nova.work.queue", title="For nobody", nova_id="nobody", sender="echo")
    (answer,) = wire.entries()["coordination"]
    assert not problems("coordination", answer)
    assert "nobody" in answer["reason"]


KINDS = {"work_item": WorkRequest, "alert": AlertRequest, "signal": SignalRequest}
INBOUND: list[tuple[str, dict[str, str], str]] = [
    ("work_queue", {"title": "Only a title"}, "work_item"),
    ("work_queue", {"title": "T", "priority": " HIGH "}, "work_item"),
    ("work_queue", {"title": "T", "priority": "", "executor": "", "metadata": "", "max_attempts": ""}, "work_item"),
    ("work_queue", {"title": "T", "estimated_duration": "900"}, "work_item"),
    ("work_queue", {"title": "T", "estimated_duration": "1h 30min"}, "work_item"),
    ("work_queue", {"title": "T", "estimated_duration": "2d"}, "work_item"),
    ("work_queue", {"title": "T", "estimated_duration": "PT1H30M"}, "work_item"),
    ("work_queue", {"title": "T", "nova_id": "Helix", "assignee": "helix", "custom": "kept"}, "work_item"),
    (
        "work_queue",
        {"title": "T", "dependencies": '["A-1-000001"]', "metadata": '{"a": [1]}', "max_attempts": "20"},
        "work_item",
    ),
    ("work_queue", {"type": "signal", "message": "wake"}, "signal"),
    ("priority_alerts", {"message": "Disk full\non build-3"}, "alert"),
    ("priority_alerts", {"title": "Disk full", "work_type": "nonsense is not looked at"}, ""),
    ("coordination", {"message": "hello"}, "signal"),
    ("coordination", {"message": "hello", "priority": "background"}, "signal"),
    ("coordination", {"title": "Work for one"}, "work_item"),
    ("coordination", {"type": "ALERT", "message": "now"}, "alert"),
    ("task_todo", {"title": "Straight to a Nova"}, "work_item"),
    ("work_queue", {"description": "no title"}, ""),
    ("work_queue", {"title": "   "}, ""),
    ("work_queue", {"title": "x" * 501}, ""),
    ("work_queue", {"title": "T", "priority": "urgent"}, ""),
    ("work_queue", {"title": "T", "priority": "background"}, ""),
    ("work_queue", {"title": "T", "work_type": "fun"}, ""),
    ("work_queue", {"title": "T", "estimated_duration": "soon"}, ""),
    ("work_queue", {"title": "T", "estimated_duration": "-5"}, ""),
    ("work_queue", {"title": "T", "nova_id": "no.dots"}, ""),
    ("work_queue", {"title": "T", "team": "no spaces"}, ""),
    ("work_queue", {"title": "T", "executor": "Builtin!"}, ""),
    ("work_queue", {"title": "T", "action": "rm -rf"}, ""),
    ("work_queue", {"title": "T", "metadata": "[1]"}, ""),
    ("work_queue", {"title": "T", "max_attempts": "0"}, ""),
    ("work_queue", {"title": "T", "max_attempts": "21"}, ""),
    ("work_queue", {"title": "T", "message_id": "x" * 201}, ""),
    ("work_queue", {"title": "T", "sender": "x" * 129}, ""),
    ("work_queue", {f"field_{i}": "x" for i in range(64)} | {"title": "T"}, ""),
    ("priority_alerts", {"priority": "high"}, ""),
    ("coordination", {"message": "hello", "priority": "loud"}, ""),
]


@pytest.mark.parametrize(("stream", "fields", "kind"), INBOUND)
def test_the_schema_and_the_door_agree_on_inbound_entries(stream, fields, kind):
    raw = {name.encode(): value.encode() for name, value in fields.items()}
    request = parse_entry(stream, raw, "helix" if stream in ("coordination", "task_todo") else "")
    schema = problems(stream, fields)
    if fields.get("work_type", "").startswith("nonsense"):  # the door is kinder to alerts than the schema
        assert schema
        assert isinstance(request, AlertRequest)
    elif kind:
        assert not schema
        assert type(request) is KINDS[kind]
    else:
        assert schema
        assert isinstance(request, Rejection)


def examples() -> list[tuple[str, dict[str, str]]]:
    """Give stream and fields of every XADD in docs/streams.md."""
    found = []
    for line in re.findall(r"^redis-cli .*\bXADD .*$", (DOCS / "streams.md").read_text(), re.MULTILINE):
        words = shlex.split(line)
        stream, marker, *rest = words[words.index("XADD") + 1 :]
        assert marker == "*", line
        found.append((stream, dict(zip(rest[::2], rest[1::2], strict=True))))
    return found


@pytest.mark.parametrize(("name", "fields"), examples())
def test_the_examples_of_the_documentation_are_taken(wire, name, fields):
    kind, _ = stream_kind(name)
    assert not problems(kind, fields)
    wire.add(name, **fields)

    assert InboxMessage.objects.get().status in ("handled", "waiting"), InboxMessage.objects.get().reason


def test_every_stream_has_a_schema_and_a_line_in_the_documentation():
    assert set(SCHEMA["streams"]) == set(STREAM_PATTERNS.values())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    text = (DOCS / "streams.md").read_text()
    for kind, pattern in STREAM_PATTERNS.items():
        assert SCHEMA["streams"][pattern] == {"$ref": f"#/$defs/{kind}"}
        assert f"| `{pattern}` |" in text


def test_the_schema_knows_every_word_of_the_core():
    defs = SCHEMA["$defs"]
    assert defs["status_updates"]["properties"]["state"]["enum"] == list(WorkflowState)
    assert defs["status_updates"]["properties"]["phase"]["enum"] == list(WorkflowPhase)
    assert defs["safety_alerts"]["properties"]["safety_level"]["enum"] == list(SafetyLevel)
    assert set(defs["safety_alerts"]["properties"]["mechanism"]["enum"]) == {"", *(judge.name for judge in MECHANISMS)}
    assert set(defs["celebrations"]["properties"]["celebration_level"]["enum"]) == set(LEVELS)
    for kind in WorkType:
        assert not problems("work_queue", {"title": "T", "work_type": kind})
