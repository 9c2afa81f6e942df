"""The shell behind the hook door: takes a call in, asks for verdict and standing order, and gives the reply.

Whatever comes, it is answered: also a bad key or a body that can't be read. What a call means and how a reply is worded stands
in safety/core/hooks.py; HTTP is not known here.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from django.db import DatabaseError, transaction

from safety import audit, hook_intake
from safety.api_guardian import ApiGuardian
from safety.api_keys import KeyRefused, Refusal, find_key
from safety.core.hooks import (
    POLICY_SETTINGS,
    Event,
    HookCall,
    Meaning,
    Objection,
    delivery_of,
    meaning_of,
    objection_of_order,
    objection_of_verdict,
    read_call,
    reply_to,
)
from safety.core.scopes import Scope
from safety.core.status import SafetyStatus
from safety.stream_client import StreamClient, StreamError
from safety.violations import report_violation
from workflow import halts
from workflow.models import Nova, NovaState
from workflow.safety_checks import check_safety

BODY_LIMIT = 1024 * 1024  # bytes
TAMPERING = "hook_tampering"

_log = structlog.get_logger(__name__)
_OUT = frozenset({NovaState.Mode.HALTED, NovaState.Mode.KILLED, NovaState.Mode.QUARANTINED, NovaState.Mode.ARCHIVED})
_END = "What to do: end this session; an operator can say more."
_UNREADABLE = "NOVAWF could not read this hook call, so it may not go on"
_FAILED = Objection(
    "NOVAWF could not check this call because of a failure of its own, so it may not go on. What to do: wait a moment and try "
    "again; if that does not help, an operator should look at the log of NOVAWF."
)


class Unreadable(Exception):
    """The body is not what a hook sends."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is known of the Nova whose key it is."""

    account: str | None  # its provider account's slug
    objection: Objection | None  # it is out of service, whatever verdict and orders say


def answer(key: str, body: bytes, *, origin: str, now: datetime) -> dict[str, Any]:
    """Take in one hook call and give the reply; `origin` is the caller's address, kept where nobody knows the key.

    1. The key says whose call it is; one that is no good is turned away, a suspended one still heard. 2. The call, its session
    and what it counts for are kept, the Nova is judged, its standing order looked up, the reply kept: one transaction.
    3. After it, a provider that refuses gets its breaker opened.
    """
    problem = ""
    try:
        payload = _read(body)
    except Unreadable as unreadable:
        payload, problem = {}, str(unreadable)
    call = read_call(payload)
    barred: Objection | None = None
    try:
        found = find_key(key, now=now, scope=Scope.HOOKS)
    except KeyRefused as refusal:
        if refusal.key is None or refusal.reason is not Refusal.SUSPENDED:
            return _turn_away(refusal, call, origin, now)
        found, barred = refusal.key, Objection(f"NOVAWF: {refusal} {_END}", ends_session=True)
    with audit.acting(f"nova:{found.nova_id}"):
        if problem:
            return _answer_unreadable(found.nova_id, body, problem, now)
        meaning = meaning_of(call)
        reply, account = _take_in(found.nova_id, call, meaning, payload, delivery_of(call, body, now), barred, now)
        if meaning.provider_trouble and account:
            _open_breaker(account, meaning.provider_trouble, now)
    return reply


def answer_failure(key: str, body: bytes, *, now: datetime) -> dict[str, Any]:
    """Answer a call that `answer` failed on, and keep a note of it where that is possible."""
    try:
        call = read_call(_read(body))
    except Unreadable:
        call = HookCall()
    reply = reply_to(call.event, _FAILED)
    try:
        nova_id = find_key(key, now=now, scope=Scope.HOOKS).nova_id
        with transaction.atomic():
            delivery = f"failed {delivery_of(call, body, now)}"[:64]
            hook_intake.keep_problem(nova_id, call, delivery, "NOVAWF failed on this call; its log says how.", reply, now=now)
    except (KeyRefused, DatabaseError):  # the log has it, the reply stands
        _log.warning("hook call that failed was not kept")
    return reply


def _read(body: bytes) -> dict[str, Any]:
    """Read the body.

    :raises Unreadable: it is too large, or no JSON object.
    """
    if len(body) > BODY_LIMIT:
        raise Unreadable(f"the body is larger than {BODY_LIMIT} bytes")
    try:
        payload = json.loads(body)  # the standard library's: agents cut texts within a surrogate pair, which orjson refuses
    except (ValueError, RecursionError):
        raise Unreadable("the body is no JSON") from None
    if not isinstance(payload, dict):
        raise Unreadable("the body is JSON, but no object")
    return payload


def _turn_away(refusal: KeyRefused, call: HookCall, origin: str, now: datetime) -> dict[str, Any]:
    """Refuse a call whose key is no good; a few a minute are kept."""
    nova_id = refusal.key.nova_id if refusal.key else ""
    reply = reply_to(call.event, Objection(f"NOVAWF: {refusal} {_END}", ends_session=True))
    with transaction.atomic():
        delivery = hook_intake.bounded_delivery(origin, now)
        hook_intake.keep_problem(nova_id, call, delivery, f"{refusal} (from {origin or 'nowhere'})", reply, now=now)
    return reply


def _answer_unreadable(nova_id: str, body: bytes, problem: str, now: datetime) -> dict[str, Any]:
    reply = reply_to("", Objection(f"{_UNREADABLE}: {problem}. What to do: an operator should look at the agent's hooks."))
    with transaction.atomic():
        delivery = delivery_of(HookCall(), body, now)
        hook_intake.keep_problem(nova_id, HookCall(), delivery, problem, reply, now=now, failed=True)
    return reply


def _take_in(
    nova_id: str,
    call: HookCall,
    meaning: Meaning,
    payload: dict[str, Any],
    delivery: str,
    barred: Objection | None,
    now: datetime,
) -> tuple[dict[str, Any], str | None]:
    """Keep, judge, answer, in one transaction; give the reply and the Nova's provider account."""
    with transaction.atomic():
        standing = _look_up(nova_id)
        kept = hook_intake.keep_call(nova_id, call, meaning, payload, delivery, now=now)
        if meaning.tampering and kept.event_id is not None:
            details = {"changed": meaning.tampering, "source": call.detail, "session": call.session_id}
            report_violation(nova_id, TAMPERING, details, now=now)
        verdict = check_safety([nova_id], now=now).get(nova_id)
        order = halts.standing_order(nova_id)
        objection = barred or standing.objection
        if order is not None:
            said = objection_of_order(call.event, order.halt_id, order.kind, order.actor, order.reason)
            objection = said or objection
        if objection is None and verdict is not None:
            objection = objection_of_verdict(verdict.status)
        if call.event == Event.CONFIG_CHANGE:
            objection = _objection_to_change(call, meaning)
        reply = reply_to(call.event, objection)
        ends = objection is not None and objection.ends_session
        hook_intake.keep_reply(nova_id, call, kept, reply, ends=ends, now=now)
        if order is not None:
            _tell_halts(nova_id, call, reply, now)
        if verdict is not None:
            _tell_incident(nova_id, verdict.status, now)
    return reply, standing.account


def _look_up(nova_id: str) -> _Standing:
    row = Nova.objects.filter(pk=nova_id).values_list("provider_account_id", "state__mode", "state__mode_reason").first()
    if row is None:
        return _Standing(None, Objection(f"NOVAWF: there is no Nova {nova_id}. {_END}", ends_session=True))
    account, mode, reason = row
    if mode in _OUT:
        why = f": {reason.strip().rstrip('.')}" if reason else ""
        return _Standing(account, Objection(f"NOVAWF: Nova {nova_id} is {mode}{why}. {_END}", ends_session=True))
    return _Standing(account, None)


def _objection_to_change(call: HookCall, meaning: Meaning) -> Objection | None:
    """Object to a change of what guards the agent, unless the event can't refuse it; other changes are nobody's business."""
    if not meaning.tampering or call.detail == POLICY_SETTINGS:
        return None
    return Objection(
        f"NOVAWF: {meaning.tampering} guards this agent, so it must not change while the agent runs; the change was refused "
        "and an incident was opened. What to do: an operator ends the session, makes the change, and starts the agent again."
    )


def _tell_halts(nova_id: str, call: HookCall, reply: dict[str, Any], now: datetime) -> None:
    """Say how far the agent has come in obeying: the order reached it; the last of its sessions has stopped."""
    if reply:
        halts.note_delivered(nova_id, now=now)
    if call.event in (Event.STOP, Event.SESSION_END) and not hook_intake.has_session_at_work(nova_id, now=now):
        halts.note_acknowledged(nova_id, now=now)


def _tell_incident(nova_id: str, status: SafetyStatus, now: datetime) -> None:
    """Let the incident of a mechanism that judges by hook calls tell what they were."""
    if not status.is_safe and status.mechanism in ("hook_health", "frosty"):
        hook_intake.tell_incident(nova_id, status.mechanism, now=now)


def _open_breaker(account: str, trouble: str, now: datetime) -> None:
    client = StreamClient(name="novawf-hooks", timeout=1.0)
    try:
        ApiGuardian(client).open_breaker(account, reason=trouble, now=now)
    except StreamError:  # the guardian's counters can't be reached, so it lets nothing pass anyway
        _log.warning("breaker not opened: the stream server is away", account=account)
    finally:
        client.close()
