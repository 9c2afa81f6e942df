"""What a hook call of Claude Code means, and what is answered: payload in, meaning out; verdict and order in, reply out.

Pure. The contract it follows: a reply never allows, never blocks a Stop (that is how an agent is kept going without end), and
carries no field that the event ignores. Unknown events and fields are normal.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from safety.core.objections import (
    ACTIVATE_COOLDOWN,
    ACTIVATE_EMERGENCY_STOP,
    ACTIVATE_MEDITATION,
    ACTIVATE_QUARANTINE,
    ACTIVATE_RECOVERY,
    CHECK_READINGS,
)
from safety.core.redaction import cut, fit_text
from safety.core.status import SafetyLevel, SafetyStatus

REASON_LIMIT = 2_000  # characters; Claude Code replaces what is longer than 10,000


class Event(StrEnum):
    """The events that mean something here, or whose reply does."""

    SESSION_START = "SessionStart"
    SESSION_END = "SessionEnd"
    USER_PROMPT_SUBMIT = "UserPromptSubmit"
    PRE_TOOL_USE = "PreToolUse"
    PERMISSION_REQUEST = "PermissionRequest"
    POST_TOOL_USE = "PostToolUse"
    POST_TOOL_USE_FAILURE = "PostToolUseFailure"
    POST_TOOL_BATCH = "PostToolBatch"
    STOP = "Stop"
    STOP_FAILURE = "StopFailure"
    TASK_CREATED = "TaskCreated"
    TASK_COMPLETED = "TaskCompleted"
    TEAMMATE_IDLE = "TeammateIdle"
    CONFIG_CHANGE = "ConfigChange"


@dataclass(frozen=True, slots=True)
class HookCall:
    """One hook call, read. What is absent is empty; texts are cut to what a row can hold."""

    event: str = ""
    session_id: str = ""
    tool_name: str = ""
    tool_use_id: str = ""
    digest: str = ""  # of tool and input: identical calls have the same
    detail: str = ""  # a start's source, an end's reason, a failure's error, a change's source
    file_path: str = ""
    stop_hook_active: bool = False
    is_interrupt: bool = False


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a call says of its Nova, beside that its hooks are alive."""

    tool_use: bool = False
    tool_failure: bool = False
    provider_trouble: str = ""  # the provider refuses for now: why
    tampering: str = ""  # somebody changed what guards the agent: what


def read_call(payload: Mapping[str, Any]) -> HookCall:
    """Read a payload, whatever it holds. A field of another kind than expected counts as absent."""
    event = cut(payload.get("hook_event_name"), 64)
    tool_name = cut(payload.get("tool_name"), 128)
    named = {
        Event.SESSION_START: "source",
        Event.SESSION_END: "reason",
        Event.STOP_FAILURE: "error",
        Event.CONFIG_CHANGE: "source",
    }.get(event)  # type: ignore[call-overload]
    return HookCall(
        event=event,
        session_id=cut(payload.get("session_id"), 128),
        tool_name=tool_name,
        tool_use_id=cut(payload.get("tool_use_id"), 128),
        digest=_digest(tool_name, payload.get("tool_input")) if tool_name else "",
        detail=cut(payload.get(named), 32) if named else "",
        file_path=cut(payload.get("file_path"), 255),
        stop_hook_active=payload.get("stop_hook_active") is True,
        is_interrupt=payload.get("is_interrupt") is True,
    )


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def delivery_of(call: HookCall, body: bytes, now: datetime) -> str:
    """Name a delivery, since hooks bring no id of their own: the same call told twice has the same name.

    Where the call has no tool_use_id, it is the same if it says the same within one second.
    """
    told = call.tool_use_id or f"{hashlib.sha256(body).hexdigest()} {int(now.timestamp())}"
    return _digest(call.session_id, call.event, told)


_TROUBLE = frozenset({"rate_limit", "overloaded"})
POLICY_SETTINGS = "policy_settings"  # changed by those who manage the machine: the change can't be refused


def meaning_of(call: HookCall) -> Meaning:
    """Say what a call means. A tool use counts when it is announced, so once, also if it is then refused."""
    match call.event:
        case Event.PRE_TOOL_USE:
            return Meaning(tool_use=True)
        case Event.POST_TOOL_USE_FAILURE if not call.is_interrupt:
            return Meaning(tool_failure=True)
        case Event.STOP_FAILURE if call.detail in _TROUBLE:
            return Meaning(provider_trouble=f"the agent's session ended with {call.detail}")
        case Event.CONFIG_CHANGE if call.detail.endswith("settings") or _is_guarded(call.file_path):
            return Meaning(tampering=call.file_path or call.detail)
    return Meaning()


def _is_guarded(path: str) -> bool:
    """Say whether a file belongs to what guards the agent: settings, hooks and what they run."""
    folder, _, name = path.lower().replace("\\", "/").rpartition("/")
    return "settings" in name or "hook" in name or "hooks" in folder.split("/")


def session_events(call: HookCall, turns: int) -> int:
    """Say how many session starts or stops a call counts as, for a session that had `turns` turns before it.

    A session counts twice in its life: when it starts, and when it first stops or else ends. Its further turns are work, not
    restarts, unless a Stop hook keeps it going. Compaction restarts nothing; a `clear` is counted when it starts anew.
    """
    match call.event:
        case Event.SESSION_START:
            return int(call.detail != "compact")
        case Event.STOP:
            return int(turns == 0 or call.stop_hook_active)
        case Event.SESSION_END:
            return int(turns == 0 and call.detail != "clear")
    return 0


_RESTING = frozenset({Event.SESSION_START, Event.STOP, Event.STOP_FAILURE, Event.SESSION_END})
_WORKING = frozenset(
    {
        Event.USER_PROMPT_SUBMIT, Event.PRE_TOOL_USE, Event.PERMISSION_REQUEST, Event.POST_TOOL_USE,
        Event.POST_TOOL_USE_FAILURE, Event.POST_TOOL_BATCH, Event.TASK_CREATED, Event.TASK_COMPLETED, "SubagentStart",
        "SubagentStop", "PreCompact",
    }
)  # fmt: skip


def is_at_rest(call: HookCall) -> bool | None:
    """Say whether nothing runs in the session after this call; None: the call does not tell."""
    if call.event in _WORKING:
        return False
    if call.event in _RESTING and call.detail != "compact":  # that one comes in the middle of a turn
        return True
    return None


# -- replies


@dataclass(frozen=True, slots=True)
class Objection:
    """Why the agent may not go on, in words for people; `ends_session`: not only this call, the session must stop."""

    reason: str
    ends_session: bool = False


_TO_DO = {
    ACTIVATE_COOLDOWN: "wait until then; calls made meanwhile are refused, and count",
    ACTIVATE_MEDITATION: "end this session; the work goes on when the Nova may act again",
    ACTIVATE_QUARANTINE: "end this session and start no other; an operator should look at the incident and the hooks",
    ACTIVATE_EMERGENCY_STOP: "end this session; an operator should look at the incident",
    ACTIVATE_RECOVERY: "an operator should look at the agent's hooks (manage.py hook_lint)",
    CHECK_READINGS: "wait; an operator must repair what can't be read",
}
_WAIT = "wait until it is over, then try again"
_SESSION_ENDING = frozenset({SafetyLevel.MEDITATION, SafetyLevel.QUARANTINE, SafetyLevel.EMERGENCY_STOP})


def objection_of_verdict(status: SafetyStatus) -> Objection | None:
    """Put an unsafe verdict into words: mechanism, reason, measured and limit, until when, what to do; None if it is safe."""
    if status.is_safe:
        return None
    words = [f"NOVAWF: {status.mechanism}: {status.reason}"]
    if status.measured is not None and status.limit is not None:
        words.append(f"Measured {status.measured:g}, limit {status.limit:g}.")
    if status.expires_at is not None:
        words.append(f"Until {status.expires_at:%Y-%m-%d %H:%M:%S} UTC.")
    words.append(f"What to do: {_TO_DO.get(status.recommended_action or '', _WAIT)}.")
    return Objection(" ".join(words), status.safety_level in _SESSION_ENDING)


_STOPS = frozenset({"halt", "kill"})  # other orders (pause, drain) let the agent finish what it has in hand
_BEGINNINGS = frozenset({Event.SESSION_START, Event.USER_PROMPT_SUBMIT, Event.TASK_CREATED})


def objection_of_order(event: str, halt_id: int, kind: str, actor: str, reason: str) -> Objection | None:
    """Put an operator's standing order into words; None where it lets this event pass."""
    who, said = actor.removeprefix("user:") or "an operator", reason.strip().rstrip(".")
    order = f"NOVAWF {kind} #{halt_id} by {who}: {said}. What to do:"
    if kind in _STOPS:
        return Objection(f"{order} end this session and start no other until an operator resumes this Nova.", ends_session=True)
    if event in _BEGINNINGS:
        return Objection(f"{order} begin nothing new until an operator resumes this Nova; what is in hand may be finished.")
    return None


def reply_to(event: str, objection: Objection | None) -> dict[str, Any]:
    """Give the reply in the form that the event heeds; `{}` where there is nothing to object to, or nothing it would heed.

    `event` empty: it could not be read, so the one form that stops a session whatever the event.
    """
    if objection is None:
        return {}
    reason = fit_text(objection.reason, REASON_LIMIT)
    stop: dict[str, Any] = {"continue": False, "stopReason": reason}
    ending = stop if objection.ends_session else {}
    match event:
        case Event.PRE_TOOL_USE:
            denial = {"hookEventName": event, "permissionDecision": "deny", "permissionDecisionReason": reason}
            return {**ending, "hookSpecificOutput": denial}
        case Event.PERMISSION_REQUEST:
            decision = {"behavior": "deny", "message": reason, "interrupt": objection.ends_session}
            return {"hookSpecificOutput": {"hookEventName": event, "decision": decision}}
        case Event.USER_PROMPT_SUBMIT:
            return {**ending, "decision": "block", "reason": reason}
        case Event.TASK_CREATED | Event.CONFIG_CHANGE:
            return {"decision": "block", "reason": reason}
        case Event.SESSION_START:  # can't be blocked: what it says, the agent reads
            return {"hookSpecificOutput": {"hookEventName": event, "additionalContext": reason}}
        case Event.STOP | "":  # to stop is what is wanted: `continue: false` also overrules hooks that would keep it going
            return stop
        case Event.POST_TOOL_USE | Event.POST_TOOL_BATCH | Event.TASK_COMPLETED | Event.TEAMMATE_IDLE:
            return ending
    return {}
