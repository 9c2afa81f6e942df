"""Keeps what hooks tell: each call, the session it belongs to, and what the judges count, in the caller's transaction.

What a call means is decided in core; whether the Nova may go on, others say. Repeated deliveries are kept and counted once.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import DateTimeField, QuerySet, Value
from django.db.models.functions import Coalesce

from safety import audit, bulk
from safety.audit import Entry
from safety.core.hook_story import Told, tell_story
from safety.core.hooks import Event, HookCall, Meaning, is_at_rest, session_events
from safety.core.redaction import fit
from safety.models import HookEvent, HookSession, SafetyIncident, SafetyState
from safety.observations import Kind, Seen, hooks_ended, observe_many

SESSION_STARTED = "safety.session.started"
SESSION_ENDED = "safety.session.ended"
HOOKS_RETIRED = "safety.hooks.retired"

_SESSION_FORGOTTEN = timedelta(minutes=15)  # one that was not heard for so long has ended without a word
_QUIET = timedelta(seconds=2)  # so long after its last call a session that rests is believed to rest
_KEEP_CALLS = timedelta(days=7)
_KEEP_SESSIONS = timedelta(days=30)
_STORY_SPAN = timedelta(minutes=10)
_STORY_CALLS = 1_000
_TELL_AGAIN = timedelta(seconds=2)
_STRANGERS_A_MINUTE = 4  # calls without a good key that are kept: strangers must not fill the table


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a call: its row, whether it is new, and what is known of its session."""

    event_id: int | None  # None: a repeated delivery
    told_to_stop: bool = False


def keep_call(nova_id: str, call: HookCall, meaning: Meaning, payload: dict[str, Any], delivery: str, *, now: datetime) -> Kept:
    """Keep one call with all it counts for: five statements, whatever it says; a session's start and end take a few more."""
    rows = bulk.insert(
        HookEvent,
        ("nova_id", "session_id", "event", "tool_name", "digest", "delivery", "received_at", "payload", "reply", "problem"),
        [
            (
                nova_id, call.session_id, call.event, call.tool_name, call.digest, delivery, now,
                bulk.json_text(fit(payload)), "{}", "",
            )
        ],
        on_conflict="(nova_id, delivery) DO NOTHING",
        returning="id",
    )  # fmt: skip
    if not rows:
        return Kept(None)
    turns, stopped_at = _note_session(nova_id, call, now)
    seen = [Seen(nova_id, Kind.HOOK_HEARTBEAT)]
    if meaning.tool_use:
        seen.append(Seen(nova_id, Kind.TOOL_USE, detail=call.digest))
    if meaning.tool_failure:
        seen.append(Seen(nova_id, Kind.TOOL_FAILURE))
    if count := session_events(call, turns):
        seen.append(Seen(nova_id, Kind.SESSION_EVENT, count))
    observe_many(seen, now=now)
    _note_start_or_end(nova_id, call, now)
    return Kept(rows[0][0], stopped_at is not None)


def _note_session(nova_id: str, call: HookCall, now: datetime) -> tuple[int, Any]:
    """Write the session's row; give how many turns it had before this call, and when it was told to stop, if it was."""
    if not call.session_id:
        return 0, None
    ends, turn = call.event == Event.SESSION_END, int(call.event == Event.STOP)
    source = call.detail if call.event == Event.SESSION_START and call.detail != "compact" else ""
    rests = is_at_rest(call)
    # whatever is heard after its end opens a session again: it was resumed
    (row,) = bulk.insert(
        HookSession,
        ("nova_id", "session_id", "source", "started_at", "last_seen_at", "ended_at", "at_rest", "events", "turns"),
        [(nova_id, call.session_id, source, now, now, now if ends else None, bool(rests), 1, turn)],
        on_conflict=(
            "(nova_id, session_id) DO UPDATE SET last_seen_at = excluded.last_seen_at, ended_at = excluded.ended_at, "
            "events = safety_hooksession.events + 1, turns = safety_hooksession.turns + excluded.turns, "
            "source = CASE WHEN excluded.source = '' THEN safety_hooksession.source ELSE excluded.source END"
            + ("" if rests is None else ", at_rest = excluded.at_rest")
        ),
        returning="turns, stopped_at",
    )
    return row[0] - turn, row[1]


def _note_start_or_end(nova_id: str, call: HookCall, now: datetime) -> None:
    action = {Event.SESSION_START: SESSION_STARTED, Event.SESSION_END: SESSION_ENDED}.get(call.event)  # type: ignore[call-overload]
    if action is None:
        return
    if action == SESSION_ENDED and not has_open_session(nova_id, now=now):
        hooks_ended(nova_id)
    what = "source" if action == SESSION_STARTED else "why"
    after = {what: call.detail}
    audit.record([Entry(action, nova_id, "session", call.session_id, after=after, actor=f"nova:{nova_id}")], now=now)


def has_open_session(nova_id: str, *, now: datetime) -> bool:
    """Say whether a session of this Nova is open."""
    return _open_sessions([nova_id], now).exists()


def has_session_at_work(nova_id: str, *, now: datetime) -> bool:
    """Say whether a session of this Nova is open in which something runs."""
    return _open_sessions([nova_id], now).filter(at_rest=False).exists()


def agents_at_work(nova_ids: Collection[str], *, now: datetime) -> dict[str, datetime | None]:
    """Say of each Nova that has open sessions when one was last heard that is at work, or was until a moment ago.

    None: all its sessions rest, that is, they wait for a prompt or were told to stop, and are quiet.
    """
    heard: dict[str, datetime | None] = {}
    for nova_id, at_rest, seen_at in _open_sessions(nova_ids, now).values_list("nova_id", "at_rest", "last_seen_at"):
        before = heard.setdefault(nova_id, None)
        if (not at_rest or now - seen_at < _QUIET) and (before is None or before < seen_at):
            heard[nova_id] = seen_at
    return heard


def _open_sessions(nova_ids: Collection[str], now: datetime) -> QuerySet[HookSession]:
    return HookSession.objects.filter(nova_id__in=nova_ids, ended_at=None, last_seen_at__gt=now - _SESSION_FORGOTTEN)


def keep_reply(nova_id: str, call: HookCall, kept: Kept, reply: dict[str, Any], *, ends: bool, now: datetime) -> None:
    """Keep what was answered, and whether the session has been told to stop; `ends`: for good, not only this call."""
    if reply and kept.event_id is not None:
        HookEvent.objects.filter(pk=kept.event_id).update(reply=reply)
    session = HookSession.objects.filter(nova_id=nova_id, session_id=call.session_id)
    if reply and ends:
        session.update(stopped_at=Coalesce("stopped_at", Value(now, DateTimeField())), at_rest=True)
    elif reply and not kept.told_to_stop:
        session.update(stopped_at=now)
    elif kept.told_to_stop and call.event == Event.PRE_TOOL_USE and not reply:  # it may go on again
        session.update(stopped_at=None)


def keep_problem(
    nova_id: str, call: HookCall, delivery: str, problem: str, reply: dict[str, Any], *, now: datetime, failed: bool = False
) -> None:
    """Keep a call that could not be taken as it came, and why; `failed`: the hooks are at fault, which counts."""
    row = (
        nova_id, call.session_id, call.event, call.tool_name, call.digest, delivery, now, "{}", bulk.json_text(reply), problem,
    )  # fmt: skip
    columns = (
        "nova_id", "session_id", "event", "tool_name", "digest", "delivery", "received_at", "payload", "reply", "problem",
    )  # fmt: skip
    bulk.insert(HookEvent, columns, [row], on_conflict="(nova_id, delivery) DO NOTHING")
    if failed:
        observe_many([Seen(nova_id, Kind.HOOK_FAILURE)], now=now)


def bounded_delivery(mark: str, now: datetime) -> str:
    """Name a delivery so that at most a few a minute can be kept, however many come: the others have the same names."""
    slot = sum(mark.encode()) % _STRANGERS_A_MINUTE
    return f"refused {int(now.timestamp()) // 60} {slot}"


def tell_incident(nova_id: str, mechanism: str, *, now: datetime) -> None:
    """Put what the hooks saw into the Nova's open incident of a mechanism, unless that was done just now."""
    incident = SafetyIncident.objects.select_for_update().filter(nova_id=nova_id, mechanism=mechanism, ended_at=None).first()
    if incident is None:
        return
    told = incident.evidence.get("hooks", {}).get("told_at")
    if told and now - datetime.fromisoformat(told) < _TELL_AGAIN:
        return
    incident.evidence["hooks"] = story_of(nova_id, now=now)
    incident.save(update_fields=["evidence"])


def story_of(nova_id: str, *, now: datetime) -> dict[str, Any]:
    """Tell what the hooks saw of a Nova in the last ten minutes; two queries."""
    calls = HookEvent.objects.filter(nova_id=nova_id, received_at__gt=now - _STORY_SPAN, problem="")
    names = ("received_at", "event", "session_id", "tool_name", "digest", "payload__source", "reply")
    rows = list(calls.order_by("-id").values_list(*names)[:_STORY_CALLS])
    told = [
        Told(at, event, session_id, tool_name, digest, source or "", bool(reply))
        for at, event, session_id, tool_name, digest, source, reply in reversed(rows)
    ]
    story = tell_story(told, now)
    if top := story["top_repeated_call"]:
        kept = calls.filter(digest=top["digest"]).values_list("payload__tool_input", flat=True).order_by("-id").first()
        top["input"] = kept
    return story


def retire_hooks(nova_id: str, *, reason: str, now: datetime) -> None:
    """Note that a Nova's agent has no hooks any more: what it does without them is no longer held against it."""
    with transaction.atomic():
        SafetyState.objects.filter(nova_id=nova_id).update(hooks_expected=False, last_hook_heartbeat=None)
        audit.record([Entry(HOOKS_RETIRED, nova_id, "nova", nova_id, reason=reason)], now=now)


def forget_old_calls(*, now: datetime) -> int:
    """Delete calls after a week and sessions a month after they were last heard; give how many rows went."""
    gone = HookEvent.objects.filter(received_at__lt=now - _KEEP_CALLS).delete()[0]
    return gone + HookSession.objects.filter(last_seen_at__lt=now - _KEEP_SESSIONS).delete()[0]
