"""The words on the wire: stream names, the task message schema and who checks it (spec sections 2 and 3, "Integration").

Knows texts only: no stream, no task row. What comes in from outside is read by inbound.py.
"""

from collections.abc import Mapping
from datetime import datetime
from json import JSONDecodeError, loads

# Stream naming conventions: the spec's nine and the two of its completion routine.
STREAM_PATTERNS: Mapping[str, str] = {
    "coordination": "nova.coordination.{nova_id}",
    "task_todo": "nova.tasks.{nova_id}.todo",
    "task_progress": "nova.tasks.{nova_id}.progress",
    "task_completed": "nova.tasks.{nova_id}.completed",
    "status_updates": "nova.status.{nova_id}",
    "enterprise_metrics": "nova.enterprise.metrics",
    "safety_alerts": "nova.safety.{nova_id}",
    "work_queue": "nova.work.queue",
    "priority_alerts": "nova.priority.alerts",
    "celebrations": "nova.celebrations.{nova_id}",
    "insights": "nova.insights.{nova_id}",
}
INBOUND = ("coordination", "work_queue", "priority_alerts")  # what we act on; foreign entries elsewhere are looked at by intake

_PARTS = {kind: pattern.partition("{nova_id}") for kind, pattern in STREAM_PATTERNS.items()}
_SHARED = {pattern: kind for kind, pattern in STREAM_PATTERNS.items() if "{" not in pattern}

# Spec "Message format standards". The metrics of a completed task are a JSON object as text.
TASK_MESSAGE_SCHEMA: Mapping[str, str] = {
    "task_id": "string",
    "title": "string",
    "description": "string",
    "status": "enum[pending,in_progress,completed,blocked]",
    "priority": "enum[critical,high,medium,low]",
    "assignee": "string",
    "created_at": "iso8601_datetime",
    "updated_at": "iso8601_datetime",
    "completed_at": "optional_iso8601_datetime",
    "results": "optional_string",
    "metrics": "optional_json_string",
}
_REQUIRED = tuple(name for name, form in TASK_MESSAGE_SCHEMA.items() if not form.startswith("optional"))
_STATUSES = frozenset(("pending", "in_progress", "completed", "blocked"))
_PRIORITIES = frozenset(("critical", "high", "medium", "low"))
_TEXT_ONLY = {str}
TITLE_LIMIT = 500
TASK_ID_LIMIT = 96

# Status of a task -> what it may become; the empty one is a task that does not exist yet. A task that stays what it is has made
# progress, or got another place in the order. Pending or blocked tasks are completed by being cancelled.
LEGAL_MOVES: Mapping[str, frozenset[str]] = {
    "": frozenset(("pending",)),
    "pending": frozenset(("pending", "in_progress", "blocked", "completed")),
    "in_progress": frozenset(("in_progress", "pending", "blocked", "completed")),
    "blocked": frozenset(("blocked", "pending", "completed")),
    "completed": frozenset(),
}


def stream_name(kind: str, nova_id: str = "") -> str:
    """Give the name of a stream.

    :raises KeyError: there is no such kind. :raises ValueError: this kind is a Nova's own, and no Nova is named.
    """
    head, own, tail = _PARTS[kind]
    if not own:
        return head
    if not nova_id:
        raise ValueError(f"Each Nova has its own stream {STREAM_PATTERNS[kind]}; say whose.")
    return f"{head}{nova_id}{tail}"


def stream_kind(name: str) -> tuple[str, str]:
    """Give the kind of a stream and the Nova whose it is (empty for shared ones); ("", "") for a name that is not ours."""
    if name in _SHARED:
        return _SHARED[name], ""
    for kind, (head, own, tail) in _PARTS.items():
        if own and name.startswith(head) and name.endswith(tail) and len(name) > len(head) + len(tail):
            nova_id = name[len(head) : len(name) - len(tail)]
            if "." not in nova_id:
                return kind, nova_id
    return "", ""


def cause_of(stream: str, entry_id: str) -> str:
    """Name an inbound entry as the cause of what follows from it."""
    return f"{stream}/{entry_id}"


class ProtocolViolation(Exception):
    """A message breaks TASK_MESSAGE_SCHEMA; it was not sent. `problems` are sentences, all of them."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


class NOVAProtocolValidator:
    """Checks task messages and status moves against the NOVA task tracking protocol."""

    def validate_task_data(self, message: Mapping[str, str]) -> None:
        """Accept a message that obeys TASK_MESSAGE_SCHEMA.

        :raises ProtocolViolation: it does not; all its problems are named.
        """
        try:
            if (
                set(map(type, message.values())) == _TEXT_ONLY
                and message["status"] in _STATUSES
                and message["priority"] in _PRIORITIES
                and 0 < len(message["task_id"]) <= TASK_ID_LIMIT
                and 0 < len(message["title"]) <= TITLE_LIMIT
                and "description" in message
                and ("assignee" in message)
                and datetime.fromisoformat(message["created_at"]).tzinfo
                and datetime.fromisoformat(message["updated_at"]).tzinfo
                and ("completed_at" in message) == (message["status"] == "completed")
                and ("completed_at" not in message or datetime.fromisoformat(message["completed_at"]).tzinfo)
                and ("metrics" not in message or type(loads(message["metrics"])) is dict)
                and ("progress_percentage" not in message or 0 <= int(message["progress_percentage"]) <= 100)
            ):
                return
        except (KeyError, ValueError, TypeError, RecursionError):
            pass  # the slow way names the reasons
        raise ProtocolViolation(tuple(_problems(message)) or ("The message breaks the task message schema.",))

    def check_task(self, title: str, before: str, after: str) -> str:
        """Say what is wrong with the message of a task's move, by the rules that need no message; empty: nothing."""
        if after in LEGAL_MOVES.get(before, ()) and 0 < len(title) <= TITLE_LIMIT:
            return ""
        return self.check_move(before, after) or f"The title has {len(title)} characters; 1 to {TITLE_LIMIT} are allowed."

    def check_move(self, before: str, after: str) -> str:
        """Say what is wrong with a task going from one status to another; empty: nothing."""
        if after in LEGAL_MOVES.get(before, ()):
            return ""
        return f"A task can't go from {before or 'nothing'} to {after}."


def compliance(passes: int, checks: int) -> float | None:
    """Give the share of protocol checks passed, 0 to 1; None before the first."""
    return passes / checks if checks else None


def _problems(message: Mapping[str, str]) -> list[str]:
    """Name everything wrong with a message."""
    problems = [f"The field {name} is missing." for name in _REQUIRED if name not in message]
    problems += [f"The field {name} is not text." for name, value in message.items() if type(value) is not str]
    if problems:
        return problems
    for name, limit in (("task_id", TASK_ID_LIMIT), ("title", TITLE_LIMIT)):
        if not 0 < len(message[name]) <= limit:
            problems.append(f"The field {name} has {len(message[name])} characters; 1 to {limit} are allowed.")
    for name, known in (("status", _STATUSES), ("priority", _PRIORITIES)):
        if message[name] not in known:
            problems.append(f"The field {name} is {message[name]!r}; it must be one of {', '.join(sorted(known))}.")
    for name in ("created_at", "updated_at", "completed_at"):
        if name in message and not _is_instant(message[name]):
            problems.append(f"The field {name} is not an ISO 8601 instant with its zone.")
    if message["status"] == "completed" and "completed_at" not in message:
        problems.append("The task is completed, but the field completed_at is missing.")
    if message["status"] != "completed" and "completed_at" in message:
        problems.append(f"The task is {message['status']}, but the field completed_at is there.")
    if "metrics" in message and not _is_json_object(message["metrics"]):
        problems.append("The field metrics is not a JSON object.")
    if "progress_percentage" in message and not _is_percentage(message["progress_percentage"]):
        problems.append("The field progress_percentage is not a whole number from 0 to 100.")
    return problems


def _is_instant(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(loads(text), dict)
    except (JSONDecodeError, RecursionError):
        return False


def _is_percentage(text: str) -> bool:
    try:
        return 0 <= int(text) <= 100
    except ValueError:
        return False
