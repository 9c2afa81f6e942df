"""The hook door: every call answered 200 with JSON in the contract's form, counted once, kept, judged at once."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from safety import api_keys, audit
from safety.api_keys import create_key
from safety.hook_intake import forget_old_calls
from safety.models import AuditEntry, HookEvent, HookSession, Observation, ProviderAccount, SafetyIncident, SafetyState
from safety.observations import Kind, observe
from tests import factories
from workflow import halts, hooks
from workflow.models import Halt, HaltConfirmation
from workflow.safety_checks import check_safety

pytestmark = pytest.mark.django_db

URL = "/api/v1/hooks/claude-code"


class Agent:
    """An agent whose hooks call at instants the test chooses."""

    def __init__(self, nova_id: str, key: str, now: datetime) -> None:
        self.nova_id, self.key, self.now = nova_id, key, now
        self._uses = 0

    def call(self, event: str, session: str = "s1", **fields: Any) -> dict[str, Any]:
        payload = {"hook_event_name": event, "session_id": session, "cwd": "/work", **fields}
        return self.send(json.dumps(payload).encode())

    def send(self, body: bytes) -> dict[str, Any]:
        return hooks.answer(self.key, body, origin="10.0.0.5", now=self.now)

    def use(self, command: str = "ls", session: str = "s1", **fields: Any) -> dict[str, Any]:
        """Announce a tool use, each with an id of its own."""
        self._uses += 1
        use = {"tool_name": "Bash", "tool_input": {"command": command}, "tool_use_id": f"toolu_{self._uses}", **fields}
        return self.call("PreToolUse", session, **use)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        factories.make_healthy_fleet(now=self.now)


@pytest.fixture
def recruit(now: datetime) -> Callable[..., Agent]:
    """Make a Nova whose agent has a key."""
    factories.make_healthy_fleet(now=now)

    def make(nova_id: str = "torch", **fields: Any) -> Agent:
        resting = {"due_at": now + timedelta(days=1)}  # no engine runs here: one that is due would count as late
        factories.make_nova(nova_id, state=resting | fields.pop("state", {}), **fields)
        return Agent(nova_id, create_key(nova_id, now=now)[0], now)

    return make


def seen(nova_id: str = "torch") -> Counter[str]:
    found: Counter[str] = Counter()
    for kind, count in Observation.objects.filter(nova_id=nova_id).values_list("kind", "count"):
        found[kind] += count
    return found


# -- over HTTP


def post(body: bytes | dict[str, Any], key: str = "", **headers: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Authorization": f"Bearer {key}", **headers} if key else headers
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    return client.post(URL, data, content_type="application/json", headers=given)


def test_a_safe_call_is_answered_with_nothing(recruit):
    agent = recruit()
    factories.make_healthy_fleet(now=timezone.now())
    call = {"hook_event_name": "PreToolUse", "session_id": "s1", "tool_name": "Bash", "tool_input": {"command": "ls"}}
    response = post(call, agent.key)
    assert (response.status_code, response["Content-Type"], response.json()) == (200, "application/json", {})
    event = HookEvent.objects.get()
    assert (event.nova_id, event.session_id, event.event, event.tool_name) == ("torch", "s1", "PreToolUse", "Bash")
    assert event.payload == call
    assert event.reply == {}


@pytest.mark.parametrize("key", ["", "wrong", "nova_000000_" + "x" * 43, "n\u00f6"])
def test_a_stranger_is_told_to_stop_with_200(key, now):
    response = post({"hook_event_name": "PreToolUse", "session_id": "s1"}, key)
    assert response.status_code == 200
    output = response.json()["hookSpecificOutput"]
    assert output["permissionDecision"] == "deny"
    assert "not known here" in output["permissionDecisionReason"]
    assert response.json()["continue"] is False
    event = HookEvent.objects.get()
    assert (event.nova_id, event.event) == ("", "PreToolUse")
    assert "127.0.0.1" in event.problem


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b"x" * (hooks.BODY_LIMIT + 1)])
def test_a_broken_body_is_answered_with_a_stop_and_kept(body, recruit):
    agent = recruit()
    response = post(body, agent.key)
    assert response.status_code == 200
    reply = response.json()
    assert reply["continue"] is False
    assert "could not read" in reply["stopReason"]
    assert "decision" not in reply
    event = HookEvent.objects.get()
    assert event.problem
    assert event.reply == reply
    assert seen() == {"hook_failure": 1}


def test_hooks_that_keep_sending_what_cannot_be_read_pause_their_nova(recruit):
    agent = recruit()
    for number in range(5):
        agent.send(b"{" + str(number).encode())
    reason = agent.use()["hookSpecificOutput"]["permissionDecisionReason"]
    assert reason.startswith("NOVAWF: hook_health: 5 hooks failed")


def test_our_own_failure_denies_and_is_kept(recruit, monkeypatch):
    agent = recruit()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(hooks, "check_safety", fail)
    response = post({"hook_event_name": "PreToolUse", "session_id": "s1", "tool_name": "Bash"}, agent.key)
    assert response.status_code == 200
    assert response.json()["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert "failure of its own" in response.json()["hookSpecificOutput"]["permissionDecisionReason"]
    assert "disk" not in response.content.decode()
    assert "failed" in HookEvent.objects.get().problem


def test_it_denies_even_when_nothing_can_be_read_or_kept(recruit, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise DatabaseError("gone")

    monkeypatch.setattr(hooks, "find_key", fail)
    response = post({"hook_event_name": "UserPromptSubmit", "session_id": "s1"}, "nova_x")
    assert (response.status_code, response.json()["decision"]) == (200, "block")


def test_only_posts_are_calls():
    assert Client().get(URL).status_code == 405


# -- what is kept


def test_unknown_events_and_fields_are_kept_and_let_through(recruit):
    agent = recruit()
    assert agent.call("SomethingNew", whatever={"a": [1, None, 2.5]}, effort={"level": "high"}) == {}
    assert agent.call("Notification", message="waiting", notification_type="idle") == {}
    assert HookEvent.objects.get(event="SomethingNew").payload["whatever"] == {"a": [1, None, 2.5]}


def test_a_payload_of_any_shape_is_taken(recruit):
    agent = recruit()
    assert agent.send(b"{}") == {}
    assert agent.send(b'{"hook_event_name": 5, "session_id": ["x"], "tool_input": "\\u0000 \\ud83d", "n": 1e999}') == {}
    assert agent.call("PreToolUse", "s" * 500, tool_name="T" * 500, tool_input=None) == {}
    assert HookEvent.objects.count() == 3


def test_a_large_payload_is_taken_and_kept_small(recruit):
    agent = recruit()
    body = {"content": "x" * 900_000, "password": "hunter22"}
    assert agent.call("PreToolUse", tool_name="Write", tool_input=body, tool_use_id="t1") == {}
    kept = json.dumps(HookEvent.objects.get().payload)
    assert len(kept) < 40_000
    assert "hunter22" not in kept


def test_a_call_told_twice_counts_once(recruit):
    agent = recruit()
    for _ in range(3):
        assert agent.call("PreToolUse", tool_name="Bash", tool_input={}, tool_use_id="t1") == {}
        agent.wait(2)
    agent.call("PostToolUse", tool_name="Bash", tool_input={}, tool_use_id="t1")
    assert seen() == {"tool_use": 1}
    assert HookEvent.objects.count() == 2
    assert HookSession.objects.get().events == 2


def test_a_session_is_followed_from_start_to_end(recruit, now):
    agent = recruit()
    agent.call("SessionStart", source="startup")
    agent.wait(5)
    agent.use()
    agent.call("SessionStart", source="compact")
    agent.call("Stop")
    agent.wait(5)
    agent.call("SessionEnd", reason="other")
    session = HookSession.objects.get()
    assert (session.source, session.started_at, session.ended_at) == ("startup", now, agent.now)
    assert (session.events, session.turns, session.stopped_at) == (5, 1, None)
    assert seen() == {"session_event": 2, "tool_use": 1}
    assert list(AuditEntry.objects.filter(object_type="session").values_list("action", "actor")) == [
        ("safety.session.started", "nova:torch"),
        ("safety.session.started", "nova:torch"),
        ("safety.session.ended", "nova:torch"),
    ]


def test_hooks_are_expected_until_the_last_session_ends(recruit):
    agent = recruit()
    agent.call("SessionStart", "s1", source="startup")
    agent.call("SessionStart", "s2", source="startup")
    agent.call("SessionEnd", "s1", reason="other")
    assert SafetyState.objects.get().hooks_expected
    agent.call("SessionEnd", "s2", reason="other")
    assert not SafetyState.objects.get().hooks_expected
    agent.call("SessionStart", "s2", source="resume")
    assert SafetyState.objects.get().hooks_expected
    assert HookSession.objects.get(session_id="s2").ended_at is None


def test_strangers_cannot_fill_the_table(recruit, now):
    agent = recruit()
    for number in range(50):
        hooks.answer(f"nova_{number}", b'{"hook_event_name": "PreToolUse"}', origin=f"10.0.0.{number}", now=now)
    assert HookEvent.objects.filter(nova_id="").count() <= 4
    hooks.answer("nova_1", b"{}", origin="10.0.0.1", now=now + timedelta(minutes=1))
    assert HookEvent.objects.filter(nova_id="").count() <= 5
    assert agent.use() == {}


# -- keys


def test_the_agent_of_a_killed_nova_is_heard_and_told_to_stop(recruit, now):
    agent = recruit()
    agent.use()
    api_keys.suspend_keys(["torch"], reason="killed", now=now)
    reply = agent.use()
    assert reply["continue"] is False
    assert "suspended" in reply["stopReason"]
    assert HookSession.objects.get().events == 2
    assert HookSession.objects.get().stopped_at == now
    assert HookEvent.objects.latest("id").reply == reply


def test_a_revoked_key_says_nothing_of_its_nova_but_is_noted(recruit, now):
    agent = recruit()
    key = api_keys.find_key(agent.key, now=now)
    api_keys.revoke_key(key.pk, reason="leaked", now=now)
    for _ in range(20):
        reply = agent.use()
    assert reply["continue"] is False
    assert not HookSession.objects.exists()
    event = HookEvent.objects.get()
    assert (event.nova_id, "revoked" in event.problem) == ("torch", True)


@pytest.mark.parametrize("mode", ["quarantined", "archived", "halted", "killed"])
def test_a_nova_out_of_service_may_not_go_on(mode, recruit):
    agent = recruit(state={"mode": mode, "mode_reason": "because."})
    reply = agent.use()
    assert reply["continue"] is False
    assert f"is {mode}: because. What to do" in reply["stopReason"]


@pytest.mark.parametrize("mode", ["paused", "draining"])
def test_what_a_paused_or_draining_nova_has_in_hand_goes_on(mode, recruit):
    assert recruit(state={"mode": mode}).use() == {}


# -- verdicts


def test_the_call_that_is_one_too_many_is_refused_at_once(recruit):
    agent = recruit()
    for number in range(60):
        assert agent.use(f"step {number}") == {}, number
    output = agent.use("step 60")["hookSpecificOutput"]
    assert output["permissionDecision"] == "deny"
    assert output["permissionDecisionReason"].startswith(
        "NOVAWF: frosty: 61 tool uses in the last minute, more than the 60 allowed. Measured 61, limit 60. Until 2026-11-20"
    )
    assert HookSession.objects.get().stopped_at == agent.now
    agent.wait(40)
    assert agent.use("rested") == {}
    assert HookSession.objects.get().stopped_at is None


def test_a_loop_of_one_call_is_refused(recruit):
    agent = recruit()
    replies = [agent.use("curl localhost") for _ in range(51)]
    assert not any(replies[:50])
    assert "The same call was made 51 times" in replies[50]["hookSpecificOutput"]["permissionDecisionReason"]
    story = SafetyIncident.objects.get(mechanism="hook_health").evidence["hooks"]
    assert story["top_repeated_call"]["times"] == 51
    assert story["top_repeated_call"]["input"] == {"command": "curl localhost"}


def test_failures_cool_the_nova_down(recruit):
    agent = recruit()
    for number in range(5):
        agent.use(f"step {number}")
        agent.call("PostToolUseFailure", tool_name="Bash", tool_use_id=f"f{number}", error="exit 1")
    assert "5 of 5 calls failed" in agent.use()["hookSpecificOutput"]["permissionDecisionReason"]


def test_a_stop_is_never_blocked_whatever_the_verdict(recruit):
    agent = recruit()
    for number in range(61):
        agent.use(f"step {number}")
    reply = agent.call("Stop", stop_hook_active=False)
    assert reply.keys() == {"continue", "stopReason"}
    assert reply["continue"] is False
    assert agent.call("SubagentStop") == {}


def test_tampering_with_the_hooks_puts_the_nova_into_quarantine(recruit):
    agent = recruit()
    reply = agent.call("ConfigChange", source="project_settings", file_path="/work/.claude/settings.json")
    assert reply["decision"] == "block"
    assert "/work/.claude/settings.json guards this agent" in reply["reason"]
    incident = SafetyIncident.objects.get()
    assert (incident.mechanism, incident.violation) == ("hook_health", "hook_tampering")
    assert agent.use()["continue"] is False


def test_a_change_by_who_manages_the_machine_cannot_be_refused_but_is_told(recruit):
    agent = recruit()
    assert agent.call("ConfigChange", source="policy_settings") == {}
    assert SafetyIncident.objects.get().violation == "hook_tampering"


def test_other_changes_are_nobodys_business(recruit):
    agent = recruit()
    assert agent.call("ConfigChange", source="skills", file_path="/work/.claude/skills/x/SKILL.md") == {}
    assert not SafetyIncident.objects.exists()


def test_work_without_hooks_is_unguarded_until_they_are_heard(recruit):
    agent = recruit()
    agent.use()
    agent.wait(301)
    observe("torch", Kind.WORK_EVIDENCE, now=agent.now)
    status = check_safety(["torch"], now=agent.now)["torch"].status
    assert (status.is_safe, status.mechanism) == (False, "hook_health")
    assert status.reason.startswith("UNGUARDED")
    agent.wait(1)
    assert agent.use() == {}
    assert check_safety(["torch"], now=agent.now)["torch"].status.is_safe


def test_one_novas_trouble_is_not_anothers(recruit):
    torch, echo = recruit("torch"), recruit("echo")
    for number in range(61):
        torch.use(f"step {number}")
    assert torch.use() != {}
    assert echo.use() == {}


# -- orders


def confirmation(now: datetime) -> HaltConfirmation:
    halts.settle(now=now)
    return HaltConfirmation.objects.get()


def test_a_halt_reaches_the_agent_with_its_next_call_and_is_confirmed_when_it_is_quiet(recruit, now):
    agent = recruit()
    agent.use()
    with audit.acting("user:alice"):
        halt = halts.order("halt", "nova", "torch", reason="too many deletions", now=now)
    assert (confirmation(now).status, confirmation(now).detail) == ("requested", "its agent is at work")
    agent.wait(3)
    reply = agent.use()
    assert reply["continue"] is False
    assert reply["stopReason"].startswith(f"NOVAWF halt #{halt.pk} by alice: too many deletions. What to do: end this session")
    assert confirmation(agent.now).status == "delivered"
    agent.wait(1)
    assert agent.use() == reply
    agent.wait(1.9)
    assert confirmation(agent.now).status == "delivered"
    agent.wait(0.2)
    assert confirmation(agent.now).status == "confirmed"


def test_an_agent_that_stops_or_ends_its_session_acknowledges(recruit, now):
    agent = recruit()
    agent.use(session="s1")
    agent.use(session="s2")
    halts.order("halt", "nova", "torch", reason="r", now=now)
    assert agent.call("Stop", "s1")["continue"] is False
    assert confirmation(now).status == "delivered"
    assert agent.call("SessionEnd", "s2", reason="other") == {}
    assert confirmation(now).status == "acknowledged"
    agent.wait(2)
    assert confirmation(agent.now).status == "confirmed"


def test_an_agent_that_waits_for_a_prompt_has_nothing_to_stop(recruit):
    agent = recruit()
    agent.call("SessionStart", source="startup")
    agent.use()
    agent.call("Stop")
    agent.wait(60)
    halts.order("halt", "nova", "torch", reason="r", now=agent.now)
    assert confirmation(agent.now).status == "confirmed"
    reply = agent.call("UserPromptSubmit", prompt="go on")
    assert (reply["decision"], reply["continue"]) == ("block", False)


def test_an_agent_that_does_not_obey_is_killed_and_still_told_to_stop(recruit, now):
    agent = recruit()
    halts.order("halt", "nova", "torch", reason="r", now=now)
    HaltConfirmation.objects.update(status="requested", confirmed_at=None)
    Halt.objects.update(settled_at=None)
    for _ in range(31):
        agent.use()
        agent.wait(1)
    agent.use()
    assert confirmation(agent.now).status == "unreachable"
    reply = agent.use()
    assert reply["continue"] is False
    assert agent.use() != {}
    assert HookSession.objects.get().stopped_at == now


@pytest.mark.parametrize("kind", ["pause", "drain"])
def test_under_a_pause_or_drain_nothing_new_begins_and_what_is_in_hand_goes_on(kind, recruit, now):
    agent = recruit()
    halt = halts.order(kind, "nova", "torch", reason="upgrade", now=now)
    assert agent.use() == {}
    assert agent.call("PostToolUse", tool_name="Bash", tool_use_id="toolu_1") == {}
    assert f"{kind} #{halt.pk}" in agent.call("UserPromptSubmit", prompt="more")["reason"]
    assert agent.call("Stop") == {}


def test_a_lifted_order_lets_the_agent_go_on(recruit, now):
    agent = recruit()
    halt = halts.order("halt", "nova", "torch", reason="r", now=now)
    assert agent.use() != {}
    halts.lift(halt.pk, reason="looked at", now=now)
    assert agent.use() == {}


# -- the provider


def test_a_provider_that_refuses_has_its_breaker_opened_for_all_its_novas(recruit, stream, now):
    account = ProviderAccount.objects.create(slug="shared")
    agent, other = recruit("torch", provider_account=account), recruit("echo", provider_account=account)
    factories.make_installation()
    assert agent.call("StopFailure", error="rate_limit", last_assistant_message="429") == {}
    account.refresh_from_db()
    assert account.breaker == "open"
    assert "rate_limit" in account.breaker_reason
    assert other.call("StopFailure", error="server_error") == {}


def test_without_the_stream_server_the_breaker_stays_and_the_call_is_answered(recruit):
    account = ProviderAccount.objects.create(slug="shared")
    assert recruit(provider_account=account).call("StopFailure", error="overloaded") == {}


# -- the founding incident, at the door


def restart_again_and_again(agent: Agent, sessions: int = 12, every: float = 4.0) -> list[dict[str, Any]]:
    """A Stop hook that runs the agent again, which stops, and so on; gives the reply to each session's prompt."""
    replies = []
    for number in range(sessions):
        session = f"session-{number}"
        agent.call("SessionStart", session, source="startup", model="opus")
        replies.append(agent.call("UserPromptSubmit", session, prompt="Continue with the next task"))
        agent.use("git status", session)
        agent.wait(every / 2)
        agent.call("Stop", session, stop_hook_active=False, last_assistant_message="Done. Starting again.")
        agent.wait(every / 2)
    return replies


def test_sessions_that_start_each_other_are_stopped_within_a_minute(recruit, now):
    agent, other = recruit("torch"), recruit("echo")
    replies = restart_again_and_again(agent)
    assert agent.now - now < timedelta(seconds=60)
    stopped = [number for number, reply in enumerate(replies) if reply]
    assert 4 <= stopped[0] <= 10
    reply = replies[-1]
    assert reply["continue"] is False
    assert reply["decision"] == "block"
    assert "session starts and stops in the last minute, more than the 10 allowed: the agent restarts itself" in reply["reason"]
    for number in range(200):
        assert agent.use("claude -p 'go on'", "session-11")["continue"] is False, number
        if number % 20 == 0:
            agent.wait(6.0)
    other.now = agent.now
    assert other.use() == {}
    incident = SafetyIncident.objects.get()
    assert (incident.nova_id, incident.mechanism, incident.status) == ("torch", "hook_health", "open")
    story = incident.evidence["hooks"]
    assert story["session_starts"] == 12
    assert story["begun_after_a_stop"] == 11
    assert story["sessions"][1]["source"] == "startup"
    assert story["sessions"][1]["seconds_after_last_start"] == 4.0
    assert story["tool_calls_last_minute"] > 150
    assert story["top_repeated_call"]["tool"] == "Bash"
    assert story["answered"]["refused"] > 150
    assert "12 sessions began within 44 s, 11 of them right after another one's stop" in story["summary"]


def test_slower_restarts_of_eleven_sessions_in_two_minutes_are_stopped_too(recruit):
    replies = restart_again_and_again(recruit(), sessions=11, every=10.0)
    assert replies[-1] != {}


# -- the busy healthy agent


def test_a_busy_healthy_agent_trips_nothing(recruit):
    agent = recruit()
    agent.call("SessionStart", source="startup")
    uses = 0
    for minute in range(7):  # longer than any window
        polls = 0
        for number in range(55):
            wanted = (number + 1) * 40 // 55
            use = {"command": "poll status"} if minute % 3 == 0 and polls < wanted else {"command": f"step {uses}"}
            polls += use["command"].startswith("poll")
            uses += 1
            assert agent.use(use["command"]) == {}, (minute, number)
            if uses % 10 == 0:
                agent.call("PostToolUseFailure", tool_name="Bash", tool_use_id=f"toolu_{uses}", error="exit 1")
            else:
                agent.call("PostToolUse", tool_name="Bash", tool_use_id=f"toolu_{uses}")
            agent.now += timedelta(seconds=60 / 55)
            if number % 5 == 0:
                factories.make_healthy_fleet(now=agent.now)
        agent.call("SessionStart", source="compact")
        agent.call("Stop")
        agent.call("UserPromptSubmit", prompt=f"task {minute}")
    assert not HookEvent.objects.exclude(reply={}).exists()
    assert not SafetyIncident.objects.exists()


# -- cost


def test_a_call_costs_the_same_few_queries_however_much_was_kept(recruit):
    agent = recruit()
    agent.use("first")

    def cost() -> int:
        agent.wait(1)
        with CaptureQueriesContext(
            connection,
        ) as found:
            agent.use(f"at {agent.now}")
        return len([query for query in found if "SAVEPOINT" not in query["sql"]])

    first = cost()
    for number in range(40):
        agent.wait(2)
        agent.use(f"step {number}", session=f"s{number % 7}")
        agent.call("PostToolUse", tool_name="Bash", tool_use_id=f"toolu_{number}")
    assert cost() == first <= 16


def test_what_is_old_is_forgotten(recruit, now):
    agent = recruit()
    agent.use()
    assert forget_old_calls(now=now + timedelta(days=7)) == 0
    assert forget_old_calls(now=now + timedelta(days=8)) == 1
    assert forget_old_calls(now=now + timedelta(days=31)) == 1
