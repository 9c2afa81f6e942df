"""What hook calls mean, what is answered in which form, what is kept of them, and the story they tell."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety.core.hook_story import Told, tell_story
from safety.core.hooks import (
    Event,
    HookCall,
    Objection,
    delivery_of,
    is_at_rest,
    meaning_of,
    objection_of_order,
    objection_of_verdict,
    read_call,
    reply_to,
    session_events,
)
from safety.core.redaction import CUT, REDACTED, TOTAL_LIMIT, fit, fit_text
from safety.core.status import SafetyLevel, SafetyStatus
from tests.factories import NOW

DENIED = Objection("NOVAWF: no.")
ENDED = Objection("NOVAWF: no more.", ends_session=True)
# every event the contract names, and some that it does not
EVENTS = [
    *(event.value for event in Event), "SubagentStart", "SubagentStop", "PermissionDenied", "PreCompact", "PostCompact",
    "Notification", "Setup", "InstructionsLoaded", "MessageDisplay", "PreModelSwitch", "SomethingNew", "",
]  # fmt: skip


def call(event: str, **fields: Any) -> HookCall:
    return read_call({"hook_event_name": event, "session_id": "s1", **fields})


# -- reading


def test_identical_calls_have_one_digest_whatever_the_order_of_their_input():
    one = call("PreToolUse", tool_name="Bash", tool_input={"command": "ls", "timeout": 5})
    same = call("PreToolUse", tool_name="Bash", tool_input={"timeout": 5, "command": "ls"})
    other = call("PreToolUse", tool_name="Bash", tool_input={"command": "ls -l"})
    assert one.digest == same.digest != other.digest
    assert len(one.digest) == 64
    assert call("Stop").digest == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(
    payload=st.dictionaries(
        st.sampled_from(["hook_event_name", "session_id", "tool_name", "tool_input", "source"]), json_values
    )
)
def test_any_payload_can_be_read_and_kept(payload):
    read = read_call(payload)
    meaning_of(read)
    assert len(read.session_id) <= 128
    kept = json.dumps(fit(payload), ensure_ascii=False, allow_nan=False)
    assert "\x00" not in kept
    kept.encode()


def test_a_delivery_is_known_by_its_tool_use_or_by_what_it_says_within_a_second():
    one = call("PreToolUse", tool_name="Bash", tool_use_id="t1")
    assert delivery_of(one, b"a", NOW) == delivery_of(one, b"b", NOW + timedelta(minutes=1))
    assert delivery_of(one, b"a", NOW) != delivery_of(call("PostToolUse", tool_name="Bash", tool_use_id="t1"), b"a", NOW)
    prompt = call("UserPromptSubmit")
    assert delivery_of(prompt, b"a", NOW) == delivery_of(prompt, b"a", NOW + timedelta(milliseconds=900))
    assert delivery_of(prompt, b"a", NOW) != delivery_of(prompt, b"a", NOW + timedelta(seconds=1))
    assert delivery_of(prompt, b"a", NOW) != delivery_of(prompt, b"b", NOW)


# -- meaning


def test_a_tool_use_counts_when_it_is_announced_and_not_again_when_it_is_done():
    assert meaning_of(call("PreToolUse", tool_name="Bash")).tool_use
    assert not meaning_of(call("PostToolUse", tool_name="Bash")).tool_use
    assert not meaning_of(call("PermissionRequest", tool_name="Bash")).tool_use


def test_a_failure_counts_unless_a_person_interrupted_it():
    assert meaning_of(call("PostToolUseFailure", error="exit 1")).tool_failure
    assert not meaning_of(call("PostToolUseFailure", error="", is_interrupt=True)).tool_failure


@pytest.mark.parametrize(("error", "trouble"), [("rate_limit", True), ("overloaded", True), ("server_error", False)])
def test_a_provider_that_refuses_for_now_is_noticed(error, trouble):
    assert bool(meaning_of(call("StopFailure", error=error)).provider_trouble) is trouble


@pytest.mark.parametrize(
    ("source", "path", "tampering"),
    [
        ("project_settings", "/p/.claude/settings.json", True),
        ("local_settings", "", True),
        ("policy_settings", "/etc/claude-code/managed-settings.json", True),
        ("", "/home/nova/.claude/hooks/nova-hook.py", True),
        ("skills", "/home/nova/.claude/skills/write/SKILL.md", False),
        ("skills", "/home/nova/.claude/hooks/start.sh", True),
    ],
)
def test_a_change_of_settings_or_hooks_is_tampering(source, path, tampering):
    assert bool(meaning_of(call("ConfigChange", source=source, file_path=path)).tampering) is tampering


@pytest.mark.parametrize(
    ("event", "fields", "turns", "count"),
    [
        ("SessionStart", {"source": "startup"}, 0, 1),
        ("SessionStart", {"source": "resume"}, 3, 1),
        ("SessionStart", {"source": "clear"}, 0, 1),
        ("SessionStart", {}, 0, 1),
        ("SessionStart", {"source": "compact"}, 3, 0),
        ("Stop", {}, 0, 1),
        ("Stop", {}, 1, 0),
        ("Stop", {"stop_hook_active": True}, 1, 1),
        ("SessionEnd", {"reason": "other"}, 0, 1),
        ("SessionEnd", {"reason": "other"}, 1, 0),
        ("SessionEnd", {"reason": "clear"}, 0, 0),
        ("SubagentStop", {}, 0, 0),
        ("PreToolUse", {}, 0, 0),
    ],
)
def test_a_session_counts_when_it_starts_and_when_it_first_stops(event, fields, turns, count):
    assert session_events(call(event, **fields), turns) == count


# -- replies


@pytest.mark.parametrize("event", EVENTS)
def test_nothing_is_said_where_nothing_is_objected_to(event):
    assert reply_to(event, None) == {}


@pytest.mark.parametrize("objection", [DENIED, ENDED])
@pytest.mark.parametrize("event", EVENTS)
def test_no_reply_ever_allows_or_keeps_an_agent_going(event, objection):
    reply = reply_to(event, objection)
    text = json.dumps(reply)
    for word in ("allow", "approve", "ask", "defer", "updatedInput", "retry"):
        assert f'"{word}"' not in text
    assert reply.get("continue") in (None, False)
    if event in ("Stop", "SubagentStop", "TaskCompleted", "TeammateIdle"):
        assert "decision" not in reply
        assert "hookSpecificOutput" not in reply


@pytest.mark.parametrize(
    "event",
    ["Notification", "SessionEnd", "PostCompact", "StopFailure", "SubagentStart", "SubagentStop", "PreCompact", "SomethingNew"],
)
def test_what_an_event_ignores_is_not_said(event):
    assert reply_to(event, DENIED) == reply_to(event, ENDED) == {}


def test_a_denial_has_the_form_its_event_heeds():
    reason = DENIED.reason
    assert reply_to("PreToolUse", DENIED) == {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse", "permissionDecision": "deny", "permissionDecisionReason": reason,
        }
    }  # fmt: skip
    assert reply_to("PermissionRequest", DENIED) == {
        "hookSpecificOutput": {
            "hookEventName": "PermissionRequest",
            "decision": {"behavior": "deny", "message": reason, "interrupt": False},
        }
    }
    assert reply_to("UserPromptSubmit", DENIED) == {"decision": "block", "reason": reason}
    assert reply_to("TaskCreated", DENIED) == {"decision": "block", "reason": reason}
    assert reply_to("SessionStart", DENIED)["hookSpecificOutput"] == {
        "hookEventName": "SessionStart", "additionalContext": reason,
    }  # fmt: skip
    assert reply_to("PostToolUse", DENIED) == {}


@pytest.mark.parametrize(
    "event", ["PreToolUse", "UserPromptSubmit", "PostToolUse", "PostToolBatch", "TaskCompleted", "TeammateIdle", "Stop", ""]
)
def test_an_end_stops_the_session_where_that_is_heeded(event):
    reply = reply_to(event, ENDED)
    assert reply["continue"] is False
    assert reply["stopReason"] == ENDED.reason


def test_an_end_still_denies_the_call_for_clients_that_do_not_know_continue():
    assert reply_to("PreToolUse", ENDED)["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert reply_to("UserPromptSubmit", ENDED)["decision"] == "block"
    assert reply_to("PermissionRequest", ENDED)["hookSpecificOutput"]["decision"]["interrupt"] is True


def test_an_objection_says_mechanism_measure_limit_until_when_and_what_to_do():
    status = SafetyStatus(
        False, "61 tool uses in the last minute.", "activate_cooldown", SafetyLevel.COOLDOWN, NOW + timedelta(seconds=33),
        "frosty", 61, 60, NOW,
    )  # fmt: skip
    assert objection_of_verdict(status) == Objection(
        "NOVAWF: frosty: 61 tool uses in the last minute. Measured 61, limit 60. Until 2026-11-20 12:00:33 UTC. "
        "What to do: wait until then; calls made meanwhile are refused, and count."
    )
    assert objection_of_verdict(SafetyStatus(True, "well")) is None


@pytest.mark.parametrize("level", [level for level in SafetyLevel if level not in ("normal", "elevated")])
def test_a_cooldown_is_waited_for_and_anything_worse_ends_the_session(level):
    objection = objection_of_verdict(SafetyStatus(False, "bad", safety_level=level))
    assert objection is not None
    assert objection.ends_session is (level != SafetyLevel.COOLDOWN)


def test_a_halt_names_who_gave_it_and_ends_the_session():
    objection = objection_of_order("PreToolUse", 42, "halt", "user:alice", "too many deletions.")
    assert objection is not None
    assert objection.reason.startswith("NOVAWF halt #42 by alice: too many deletions. What to do: end this session")
    assert objection.ends_session


@pytest.mark.parametrize("kind", ["pause", "drain"])
def test_a_pause_or_drain_lets_what_is_in_hand_be_finished(kind):
    for event in ("UserPromptSubmit", "TaskCreated", "SessionStart"):
        objection = objection_of_order(event, 42, kind, "operator", "upgrade")
        assert objection is not None
        assert not objection.ends_session
    assert objection_of_order("PreToolUse", 42, kind, "operator", "upgrade") is None


@pytest.mark.parametrize(
    ("event", "fields", "rests"),
    [
        ("SessionStart", {"source": "startup"}, True),
        ("SessionStart", {"source": "compact"}, None),
        ("UserPromptSubmit", {}, False),
        ("PostToolUse", {}, False),
        ("Stop", {}, True),
        ("StopFailure", {"error": "rate_limit"}, True),
        ("Notification", {}, None),
        ("SomethingNew", {}, None),
    ],
)
def test_a_session_rests_from_its_stop_to_its_next_prompt(event, fields, rests):
    assert is_at_rest(call(event, **fields)) is rests


def test_a_reason_is_never_long_enough_to_be_cut_by_the_agent():
    reply = reply_to("PreToolUse", Objection("x" * 20_000))
    assert len(reply["hookSpecificOutput"]["permissionDecisionReason"]) < 10_000


# -- what is kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("curl -H 'Authorization: Bearer abcdef1234567890'", f"curl -H 'Authorization: Bearer {REDACTED}'"),
        ("git clone https://ann:hunter22@example.com/x", f"git clone https://ann:{REDACTED}@example.com/x"),
        ("export API_KEY=abcdef123 && run", f"export API_KEY={REDACTED} && run"),
        ('{"password": "hunter22"}', f'{{"password": "{REDACTED}"}}'),
        ("use sk-" + "ant-" + "a1B2" * 8 + " now", f"use {REDACTED} now"),
        ("ghp_" + "a" * 36, REDACTED),
        ("AKIAABCDEFGHIJKLMNOP", REDACTED),
        ("nova_0a1b2c_" + "Z" * 43, REDACTED),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", REDACTED),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- end", f"{REDACTED} end"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE and no end", REDACTED),
        ("pytest tests/ -q", "pytest tests/ -q"),
        ("max_tokens: 5", "max_tokens: 5"),
    ],
)
def test_what_looks_like_a_secret_is_not_kept(text, kept):
    assert fit_text(text) == kept


def test_a_field_called_like_a_secret_is_not_kept():
    assert fit({"session_id": "s1", "env": {"DB_PASSWORD": "x1", "token": "abc", "tokens": 5}}) == {
        "session_id": "s1",
        "env": {"DB_PASSWORD": REDACTED, "token": REDACTED, "tokens": 5},
    }


def test_what_is_kept_is_cut_to_size_and_says_so():
    kept = fit({"prompt": "x" * 1_000_000, "tool_calls": ["y" * 5_000] * 500, "deep": [[[[[[[[[["z"]]]]]]]]]]})
    text = json.dumps(kept, ensure_ascii=False)
    assert len(text) < 2 * TOTAL_LIMIT
    assert kept["prompt"].endswith(CUT)
    assert CUT in json.dumps(kept["deep"], ensure_ascii=False)


def test_what_no_database_can_hold_is_replaced():
    assert fit({"a": "x\x00\ud83d", "b": 2**70, "c": float("nan")}) == {"a": "x\ufffd?", "b": str(2**70), "c": "nan"}


# -- the story


def told(seconds: float, event: str, session: str = "s1", **fields: Any) -> Told:
    return Told(
        NOW + timedelta(seconds=seconds), event, session, fields.get("tool", ""), fields.get("digest", ""),
        fields.get("source", ""), fields.get("refused", False),
    )  # fmt: skip


def test_the_story_says_which_session_began_after_whose_stop():
    calls = []
    for number in range(12):
        calls.append(told(4 * number, "SessionStart", f"s{number}", source="startup"))
        calls.append(told(4 * number + 3, "Stop", f"s{number}"))
    calls += [told(50 + i / 10, "PreToolUse", "s11", tool="Bash", digest="d1", refused=i > 2) for i in range(30)]
    story = tell_story(calls, NOW + timedelta(seconds=55))
    assert story["summary"] == (
        "12 sessions began within 44 s, 11 of them right after another one's stop; 30 tool calls in the last minute; "
        "the same Bash call 30 times; 27 calls were refused."
    )
    assert story["sessions"][1] == {
        "session": "s1",
        "source": "startup",
        "at": (NOW + timedelta(seconds=4)).isoformat(),
        "seconds_after_last_start": 4.0,
        "after_stop_of": "s0",
        "seconds_after_stop": 1.0,
    }
    assert story["top_repeated_call"] == {"tool": "Bash", "digest": "d1", "times": 30}
    assert story["answered"] == {"let through": 27, "refused": 27}


def test_there_is_a_story_of_nothing():
    assert tell_story([], NOW)["summary"] == "0 tool calls in the last minute; 0 calls were refused."
