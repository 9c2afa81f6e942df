"""Reads what strangers wrote: an inbound stream entry becomes a request or a rejection, never an exception (design section 4).

Form is checked here. Whether the Nova exists and whether its configuration allows the executor is for intake to ask.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from json import loads
from math import isfinite
from typing import Any

from workflow.core.protocol import TASK_ID_LIMIT, TITLE_LIMIT
from workflow.core.work import Priority, WorkType

FIELD_LIMIT = 64 * 1024
ENTRY_LIMIT = 256 * 1024
FIELDS_LIMIT = 64
DEPENDENCIES_LIMIT = 100
ATTEMPTS_LIMIT = 20
DURATION_LIMIT = timedelta(days=366)
DEFAULT_ATTEMPTS = 3
_DEPTH_LIMIT = 32


@dataclass(slots=True)
class WorkRequest:
    """Somebody asks for work. Empty `nova_id`: open to every Nova of `team` (empty: of the fleet)."""

    title: str
    description: str
    priority: Priority
    work_type: WorkType
    estimated_duration: timedelta  # zero: unknown
    dependencies: tuple[str, ...]
    metadata: dict[str, Any]  # given as JSON, and every field that has no meaning here
    nova_id: str
    team: str
    executor: str
    action: str
    message_id: str
    sender: str  # a claim, never proof
    max_attempts: int
    event_id: str
    fields: dict[str, str]


@dataclass(slots=True)
class AlertRequest(WorkRequest):
    """An alert: work that also wakes whom it concerns, everybody if it names no Nova."""


@dataclass(slots=True)
class SignalRequest:
    """A signal: wakes a Nova (every active one if it names none); its WakeSignalProcessor decides what becomes of it."""

    nova_id: str
    team: str
    priority: Priority | None
    message_id: str
    sender: str
    event_id: str
    fields: dict[str, str]


@dataclass(slots=True)
class Rejection:
    """An entry that is refused: why, in sentences for people, and whom to answer (empty: nobody can be told)."""

    reason: str
    sender: str = ""
    nova_id: str = ""
    kind: str = ""
    event_id: str = ""
    fields: dict[str, str] = field(default_factory=dict)  # empty where they could not be read


class _Refused(Exception):
    """Carries a rejection's reason out of the parsing functions below; never leaves this file."""


_PRIORITIES = {priority.value: priority for priority in Priority}
_WORK_TYPES = {work_type.value: work_type for work_type in WorkType}
_KINDS = frozenset(("work_item", "alert", "signal"))
_DEFAULT_KIND = {"work_queue": "work_item", "priority_alerts": "alert", "coordination": "", "task_todo": "work_item"}
_SIGNAL_PRIORITIES = frozenset((*_PRIORITIES, "background"))
_KNOWN = frozenset(
    (
        "type", "title", "description", "priority", "work_type", "estimated_duration", "dependencies", "metadata", "nova_id",
        "assignee", "assigned_to", "executor", "action", "team", "message_id", "sender", "max_attempts", "event_id",
    )
)  # fmt: skip
_NOVA_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}").fullmatch
_SLUG = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_EXECUTOR = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}").fullmatch
_ACTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}").fullmatch
_TASK_ID = re.compile(rf"[^\s,]{{1,{TASK_ID_LIMIT}}}").fullmatch
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,6})?", re.ASCII).fullmatch
_NUMBER = r"(\d{1,9}(?:\.\d{1,6})?)"
_SHORT = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?:in)?)?(?:{_NUMBER}s)?", re.ASCII).fullmatch
_ISO = re.compile(
    rf"p(?:{_NUMBER}w)?(?:{_NUMBER}d)?(?:t(?=.)(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?)?", re.ASCII
).fullmatch


def parse_entry(
    stream_kind: str, raw: Mapping[bytes, bytes], nova_id: str = ""
) -> WorkRequest | AlertRequest | SignalRequest | Rejection:
    """Read an entry of an inbound stream; `nova_id` is whose coordination or todo stream it was (empty: a shared one).

    1. Size, NUL and encoding. 2. Kind: the field `type` (work_item, alert, signal), else the stream's. 3. The fields.
    """
    fields: dict[str, str] = {}
    try:
        fields = _decoded(raw)
        kind = _kind(stream_kind, fields)
        if kind == "signal":
            return _signal(fields, nova_id)
        return _work(fields, nova_id, kind)
    except _Refused as refusal:
        sender = fields.get("sender") or _readable(raw.get(b"sender", b""))
        whose = nova_id or fields.get("nova_id", "")
        event_id = fields.get("event_id") or _readable(raw.get(b"event_id", b""))
        return Rejection(str(refusal), sender[:128], whose[:63], fields.get("type", "")[:12], event_id[:64], fields)


def _decoded(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    if len(raw) > FIELDS_LIMIT:
        raise _Refused(f"The entry has {len(raw)} fields; {FIELDS_LIMIT} are allowed.")
    if not raw:
        raise _Refused("The entry has no fields.")
    values = b"".join(raw.values())
    names = b"".join(raw)
    if len(names) + len(values) > FIELD_LIMIT:  # only then can a field, or all together, be too long
        _check_sizes(raw, len(names) + len(values))
    if b"\0" in names or b"\0" in values:
        name = next(name for name, value in raw.items() if b"\0" in name or b"\0" in value)
        raise _Refused(f"The field {_shown(name)} contains a NUL character, which can't be stored; send the text without it.")
    try:
        return {name.decode(): value.decode() for name, value in raw.items()}
    except UnicodeDecodeError:
        name = next(name for name, value in raw.items() if not _is_text(name) or not _is_text(value))
        raise _Refused(f"The field {_shown(name)} is not UTF-8 text.") from None


def _check_sizes(raw: Mapping[bytes, bytes], total: int) -> None:
    if total > ENTRY_LIMIT:
        raise _Refused(f"The entry has {total:,} bytes; {ENTRY_LIMIT:,} are allowed.")
    for name, value in raw.items():
        if max(len(name), len(value)) > FIELD_LIMIT:
            size = max(len(name), len(value))
            raise _Refused(f"The field {_shown(name)} has {size:,} bytes; {FIELD_LIMIT:,} are allowed.")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _readable(value: bytes) -> str:
    return value[:256].decode(errors="ignore").replace("\0", "")


def _shown(name: bytes | str) -> str:
    text = name.decode(errors="replace") if isinstance(name, bytes) else name
    return f"'{text[:60]}'".replace("\0", "?")


def _kind(stream_kind: str, fields: Mapping[str, str]) -> str:
    named = fields.get("type", "").strip().lower()
    if named in _KINDS:
        return named
    return _DEFAULT_KIND.get(stream_kind) or ("work_item" if fields.get("title", "").strip() else "signal")


def _signal(fields: dict[str, str], nova_id: str) -> SignalRequest:
    priority = fields.get("priority", "").strip().lower()
    if priority and priority not in _SIGNAL_PRIORITIES:
        raise _Refused(_unknown_priority(fields["priority"]))
    return SignalRequest(
        nova_id or _addressee(fields),
        _matching(fields, "team", _SLUG, "letters, digits, - and _, at most 64"),
        _PRIORITIES.get(priority),
        _bounded(fields, "message_id", 200),
        _bounded(fields, "sender", 128),
        _bounded(fields, "event_id", 64),
        fields,
    )


def _work(fields: dict[str, str], nova_id: str, kind: str) -> WorkRequest:
    get = fields.get
    is_alert = kind == "alert"
    title = (get("title") or "").strip()
    if not title and is_alert:
        title = (get("message") or "").strip().partition("\n")[0][:TITLE_LIMIT]
    if not title:
        raise _Refused(f"The title is missing or empty; give the work a title of 1 to {TITLE_LIMIT} characters.")
    if len(title) > TITLE_LIMIT:
        raise _Refused(
            f"The title has {len(title):,} characters; {TITLE_LIMIT} are allowed. Put the rest into the description."
        )
    priority = _PRIORITIES.get((get("priority") or "medium").strip().lower())
    if priority is None:
        raise _Refused(_unknown_priority(fields["priority"]))
    addressee = _addressee(fields)
    if nova_id and addressee and addressee != nova_id:
        raise _Refused(f"The entry is on the stream of {nova_id}, but names {addressee}; send it where it belongs.")
    metadata = _metadata(get("metadata"))
    if not fields.keys() <= _KNOWN:
        for name in fields.keys() - _KNOWN:
            metadata[name if name not in metadata else f"field_{name}"] = fields[name]
    request = AlertRequest if is_alert else WorkRequest
    return request(
        title if title.isprintable() else " ".join(title.split()),
        get("description") or (get("message") or "" if is_alert else ""),
        priority,
        WorkType.ALERT if is_alert else _work_type(get("work_type")),
        _duration(get("estimated_duration")),
        _dependencies(get("dependencies")),
        metadata,
        nova_id or addressee,
        _matching(fields, "team", _SLUG, "letters, digits, - and _, at most 64"),
        _matching(fields, "executor", _EXECUTOR, "lower-case letters, digits, - and _, at most 32"),
        _matching(fields, "action", _ACTION, "letters, digits and . : _ -, at most 64"),
        _bounded(fields, "message_id", 200),
        _bounded(fields, "sender", 128),
        _attempts(get("max_attempts")),
        _bounded(fields, "event_id", 64),
        fields,
    )


def _unknown_priority(text: str) -> str:
    return f"The priority {_shown(text)} is not known; give critical, high, medium or low, or none for medium."


def _addressee(fields: Mapping[str, str]) -> str:
    """Read who is meant: `nova_id`, or `assignee` or `assigned_to`, which say the same."""
    found = {fields[name].strip().lower() for name in ("nova_id", "assignee", "assigned_to") if fields.get(name)} - {""}
    if not found:
        return ""
    if len(found) > 1:
        raise _Refused(f"The entry names several Novas ({', '.join(sorted(found))[:200]}); name one.")
    nova_id = found.pop()
    if not _NOVA_ID(nova_id):
        raise _Refused(f"{_shown(nova_id)} can't be a nova_id: lower-case letters, digits, - and _, at most 63.")
    return nova_id


def _matching(fields: Mapping[str, str], name: str, matches: Any, allowed: str) -> str:
    text = fields.get(name)
    if not text:
        return ""
    text = text.strip()
    if text and not matches(text):
        raise _Refused(f"The field {name} is {_shown(text)}; allowed are {allowed}.")
    return text


def _bounded(fields: Mapping[str, str], name: str, limit: int) -> str:
    text = fields.get(name)
    if not text:
        return ""
    text = text.strip()
    if len(text) > limit:
        raise _Refused(f"The field {name} has {len(text):,} characters; {limit} are allowed.")
    return text


def _work_type(text: str | None) -> WorkType:
    if not text:
        return WorkType.REQUESTED
    found = _WORK_TYPES.get(text.strip().lower())
    if found is None:
        raise _Refused(f"The work_type {_shown(text)} is not known; give one of {', '.join(_WORK_TYPES)}, or none.")
    return found


def _attempts(text: str | None) -> int:
    if not text:
        return DEFAULT_ATTEMPTS
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 3 and 1 <= int(digits) <= ATTEMPTS_LIMIT):
        raise _Refused(f"The field max_attempts is {_shown(text)}; give a whole number from 1 to {ATTEMPTS_LIMIT}.")
    return int(digits)


def _duration(text: str | None) -> timedelta:
    """Read a duration: seconds (`900`), short (`15m`, `1h30m`, `2d`) or ISO 8601 (`PT15M`). None or 0: unknown."""
    if not text:
        return timedelta(0)
    compact = text.strip().lower().replace(" ", "")[:40]
    weeks = days = hours = minutes = 0.0
    if _SECONDS(compact):
        seconds = float(compact)
    elif compact and (found := _SHORT(compact)):
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    elif len(compact) > 1 and (found := _ISO(compact)):
        weeks, days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    else:
        raise _Refused(f"The estimated_duration {_shown(text)} is not understood; give seconds, 15m, 1h30m, 2d or PT15M.")
    total = seconds + 60 * (minutes + 60 * (hours + 24 * (days + 7 * weeks)))
    if total > DURATION_LIMIT.total_seconds():
        raise _Refused(f"The estimated_duration {_shown(text)} is longer than {DURATION_LIMIT.days} days.")
    return timedelta(seconds=total)


def _dependencies(text: str | None) -> tuple[str, ...]:
    """Read task ids: a JSON list of texts, or texts between commas; each once."""
    if not text:
        return ()
    text = text.strip()
    names = _json(text, "dependencies") if text.startswith("[") else text.split(",")
    if not all(isinstance(name, str) for name in names):
        raise _Refused(
            "The field dependencies is not a list of task ids; give them with commas between, or as a JSON list of texts."
        )
    wanted = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    if len(wanted) > DEPENDENCIES_LIMIT:
        raise _Refused(f"The entry has {len(wanted)} dependencies; {DEPENDENCIES_LIMIT} are allowed.")
    for name in wanted:
        if not _TASK_ID(name):
            raise _Refused(f"The dependency {_shown(name)} can't be a task id.")
    return wanted


def _metadata(text: str | None) -> dict[str, Any]:
    if not text or not text.strip():
        return {}
    value = _json(text, "metadata")
    if not isinstance(value, dict):
        raise _Refused("The field metadata is not a JSON object.")
    return value


def _json(text: str, name: str) -> Any:
    """Read JSON that both databases and every reader can store."""
    try:
        value = loads(text)
    except (ValueError, RecursionError):
        raise _Refused(f"The field {name} is not valid JSON.") from None
    if problem := _unstorable(value, _DEPTH_LIMIT):
        raise _Refused(f"The field {name} contains {problem}, which can't be stored.")
    return value


def _unstorable(value: Any, depth: int) -> str:
    """Name what in a JSON value can't be stored; empty: nothing."""
    if isinstance(value, str):
        if "\0" in value:
            return "a NUL character"
        broken = not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)
        return "half of a surrogate pair" if broken else ""
    if isinstance(value, dict | list):
        if not depth:
            return f"more than {_DEPTH_LIMIT} levels"
        parts = (*value, *value.values()) if isinstance(value, dict) else value
        return next(filter(None, (_unstorable(part, depth - 1) for part in parts)), "")
    if isinstance(value, float) and not isfinite(value):
        return "a number that is not finite"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a whole number of more than 64 bits"
    return ""
