"""The founding incident on the running stack: a Stop hook that runs the agent again, then an agent that hammers one call.

Everything comes over HTTP as Claude Code's hooks send it. That Nova, and no other, must be paused within a minute, by one
incident that tells the story.
"""

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.processes.stack import ROOT, wait_until
from tests.stack.outside import Outside

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

NOVA, OTHER = "founding", "bystander"
SESSIONS, CALLS = 12, 200
PREPARE = (
    "from workflow.configuration import create_nova\n"
    f"for name in ('{NOVA}', '{OTHER}'):\n    create_nova(name, now=now, reason='tests')"
)
ARCHIVE = (
    "from workflow.services import archive_nova\n"
    f"for name in ('{NOVA}', '{OTHER}'):\n    archive_nova(name, reason='tests', now=now)"
)


class Agent:
    """A Claude Code whose hooks ask the stack with a key of its own."""

    def __init__(self, outside: Outside, nova_id: str) -> None:
        stack = outside.stack
        made = subprocess.run(
            stack.command("apikey_create", nova_id, "--json"), env=stack.environment, cwd=ROOT, check=True, capture_output=True
        )
        self._outside, self.key = outside, json.loads(made.stdout)["key"]
        self._uses = 0

    def call(self, event: str, session: str, **fields: Any) -> dict[str, Any]:
        payload = {
            "hook_event_name": event, "session_id": session, "cwd": "/work", "permission_mode": "bypassPermissions",
            "transcript_path": f"/home/nova/.claude/projects/{session}.jsonl", **fields,
        }  # fmt: skip
        status, reply, _ = self._outside.rest("POST", "hooks/claude-code", payload, key=self.key)
        assert status == 200, reply
        return dict(reply)

    def use(self, session: str, command: str) -> dict[str, Any]:
        self._uses += 1
        use = {"tool_name": "Bash", "tool_input": {"command": command}, "tool_use_id": f"toolu_{self._uses}"}
        return self.call("PreToolUse", session, **use)


@pytest.fixture(scope="module", autouse=True)
def novas(outside: Outside) -> Iterator[None]:
    outside.run_inside(PREPARE)
    wait_until(lambda: outside.hash(f"workflow:state:{NOVA}"), seconds=20, what="the Nova runs")
    yield
    outside.run_inside(ARCHIVE)


def test_it_is_stopped_within_a_minute_and_explained(outside: Outside) -> None:
    agent, other = Agent(outside, NOVA), Agent(outside, OTHER)
    assert other.call("SessionStart", "calm", source="startup") == {}
    replies = [restart(agent, number) for number in range(SESSIONS)]
    assert replies[0] == {}
    assert replies[-1]["continue"] is False
    for _ in range(CALLS):
        reply = agent.use(f"session-{SESSIONS - 1}", "claude -p 'Continue with the next task'")
        assert reply["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert "the agent restarts itself" in reply["stopReason"]
    assert other.use("calm", "make test") == {}

    wait_until(lambda: outside.statuses()[NOVA][0] == "safety_pause", seconds=20, what="that Nova is paused")
    assert {nova_id for nova_id, status in outside.statuses().items() if status[0] == "safety_pause"} == {NOVA}

    def told() -> bool:  # the story is told anew every two seconds, by the calls that still come
        agent.use("session-0", "git status")
        return bool(story_of(incidents(outside)[0])["top_repeated_call"]["times"] == CALLS)

    wait_until(told, seconds=20, what="the incident tells of every call")
    (incident,) = incidents(outside)
    begun = outside.ledger.rows(f"SELECT min(started_at) FROM safety_hooksession WHERE nova_id = '{NOVA}'")[0][0]
    opened_after = datetime.fromisoformat(incident["opened_at"]) - datetime.fromisoformat(begun)
    assert opened_after < timedelta(seconds=60)
    assert (incident["mechanism"], incident["status"]) == ("hook_health", "open")
    assert incidents(outside, OTHER) == []

    story = story_of(incident)
    assert story["begun_after_a_stop"] == SESSIONS - 1
    assert [one["source"] for one in story["sessions"]] == ["startup"] * SESSIONS
    assert all("seconds_after_last_start" in one for one in story["sessions"][1:])
    assert story["tool_calls_last_minute"] > CALLS
    assert f"{SESSIONS} sessions began within" in story["summary"]
    assert story["answered"]["refused"] > CALLS
    alert = wait_until(lambda: outside.entries(f"nova.safety.{NOVA}"), seconds=10, what="its safety stream says so")[0]
    assert (alert["is_safe"], alert["mechanism"], alert["safety_level"]) == ("false", "hook_health", "quarantine")


def restart(agent: Agent, number: int) -> dict[str, Any]:
    """Go through one session whose Stop hook starts the next; give what its prompt was answered."""
    session = f"session-{number}"
    agent.call("SessionStart", session, source="startup", model="opus")
    reply = agent.call("UserPromptSubmit", session, prompt="Continue with the next task")
    agent.use(session, "git status")
    stopped = agent.call("Stop", session, stop_hook_active=False, last_assistant_message="Done. Starting again.")
    assert "decision" not in stopped
    return reply


def story_of(incident: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(incident["evidence"])["hooks"])


def incidents(outside: Outside, nova_id: str = NOVA) -> list[dict[str, Any]]:
    columns = ("mechanism", "status", "reason", "evidence", "opened_at")
    rows = outside.ledger.rows(f"SELECT {', '.join(columns)} FROM safety_safetyincident WHERE nova_id = '{nova_id}'")
    return [dict(zip(columns, row, strict=True)) for row in rows]
