"""What a journal entry adds to the roll-ups: names and whole numbers, for the fleet and for the Nova it is about.

Durations are milliseconds and everything is a whole number, so that sums are exact in whatever order they are made. What is
personal adds nothing. Pure; the actions' names are those of the code that writes them (workflow.task_tracker and others).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reporting.core import histogram

Sums = dict[str, int]

MOMENTUM = "momentum"
# A change of how many tasks are pending, in progress, blocked or completed.
PENDING, IN_PROGRESS, BLOCKED, COMPLETED = "d_pending", "d_in_progress", "d_blocked", "d_completed"
LEVELS = {"pending": PENDING, "in_progress": IN_PROGRESS, "blocked": BLOCKED, "completed": COMPLETED}
OPEN = (PENDING, IN_PROGRESS, BLOCKED)
WORK, LEAD = "work", "lead"  # begin to end; creation to end: prefixes of histogram buckets


@dataclass(frozen=True, slots=True)
class JournalLine:
    """The columns of a journal entry that count."""

    id: int
    at: datetime
    nova_id: str
    action: str
    object_id: str = ""
    actor: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """What one entry adds: to the fleet, and to Novas (and so to their teams)."""

    fleet: Sums
    novas: Mapping[str, Sums]


def _both(line: JournalLine, sums: Sums) -> Tally:
    return Tally(sums, {line.nova_id: sums} if line.nova_id else {})


def _facts(line: JournalLine) -> Mapping[str, Any]:
    return line.after or {}


def _kind(line: JournalLine, name: str) -> str:
    """Name a count; what a Nova made up for itself is counted apart."""
    return f"{name}_momentum" if _facts(line).get("work_type") == MOMENTUM else name


def _moved(was: str, becomes: str) -> Sums:
    return {} if was == becomes or was not in LEVELS else {LEVELS[was]: -1, LEVELS[becomes]: 1}


def _created(line: JournalLine) -> Tally:
    return _both(line, {_kind(line, "created"): 1, PENDING: 1})


def _claimed(line: JournalLine) -> Tally:
    return Tally({"claimed": 1}, {line.nova_id: {"claimed": 1, PENDING: 1}})  # to the fleet it was pending already


def _assigned(line: JournalLine) -> Tally:
    was = LEVELS.get(str(_facts(line).get("was", "pending")), PENDING)
    before, after = (line.before or {}).get("assignee"), _facts(line).get("assignee")
    novas: dict[str, Sums] = {}
    if before and before != after:
        novas[str(before)] = {was: -1}
    if after and before != after:
        novas[str(after)] = {was: 1}
    return Tally({"assigned": 1}, novas)


def _completed(line: JournalLine) -> Tally:
    facts = _facts(line)
    sums = {_kind(line, "succeeded"): 1, **_moved(str(facts.get("was", "in_progress")), "completed")}
    if facts.get("work_type") != MOMENTUM:
        sums["with_evidence"] = 1 if facts.get("evidence") else 0
        for name in (WORK, LEAD):
            if isinstance(spent := facts.get(f"{name}_ms"), int):
                sums[f"{name}_ms"] = spent
                sums[f"{name}_{histogram.bucket(spent)}"] = 1
    return _both(line, sums)


def _cancelled(line: JournalLine) -> Tally:
    return _both(line, {_kind(line, "cancelled"): 1, **_moved(str(_facts(line).get("was", "")), "completed")})


def _blocked(line: JournalLine) -> Tally:
    return _both(line, {_kind(line, "blocked"): 1, **_moved(str(_facts(line).get("was", "")), "blocked")})


def _retried(line: JournalLine) -> Tally:
    if "attempts" not in _facts(line):  # only its wait was ended
        return _both(line, {"hastened": 1})
    return _both(line, {"retried": 1, **_moved("in_progress", "pending")})


def _given_back(name: str) -> Callable[[JournalLine], Tally]:
    def tally(line: JournalLine) -> Tally:
        sums = {name: 1, IN_PROGRESS: -1}
        own = sums if _facts(line).get("open") else {**sums, PENDING: 1}  # who gave it back to all has it no more
        return Tally({**sums, PENDING: 1}, {line.nova_id: own} if line.nova_id else {})

    return tally


def _posted(line: JournalLine) -> Tally:
    novas = {line.nova_id: {"messages_received": 1}} if line.nova_id else {}
    if line.actor.startswith("nova:"):
        sender = line.actor.removeprefix("nova:")
        novas[sender] = {**novas.get(sender, {}), "messages_sent": 1}
    fleet = {"messages_received": 1} | ({"messages_sent": 1} if line.actor.startswith("nova:") else {})
    return Tally(fleet, novas)


def _stepped(line: JournalLine) -> Tally:
    path = _facts(line).get("path") or ()
    return _both(line, {"steps": 1} | ({"errors": 1} if "error_recovery" in path else {}))


def _counted(name: str, **also: int) -> Callable[[JournalLine], Tally]:
    return lambda line: _both(line, {name: 1, **also})


RULES: Mapping[str, Callable[[JournalLine], Tally]] = {
    "workflow.task.created": _created,
    "workflow.task.claimed": _claimed,
    "workflow.task.assigned": _assigned,
    "workflow.task.started": _counted("started", **_moved("pending", "in_progress")),
    "workflow.task.completed": _completed,
    "workflow.task.cancelled": _cancelled,
    "workflow.task.blocked": _blocked,
    "workflow.task.unblocked": _counted("unblocked", **_moved("blocked", "pending")),
    "workflow.task.retried": _retried,
    "workflow.task.lapsed": _given_back("lapsed"),
    "workflow.task.released": _given_back("released"),
    "workflow.task.celebrated": _counted("celebrations"),
    "workflow.task.completion_refused": _counted("completions_refused"),
    "workflow.insight.recorded": _counted("insights"),
    "workflow.signal.handled": _counted("signals"),
    "workflow.message.posted": _posted,
    "workflow.message.rejected": _counted("messages_rejected"),
    "workflow.nova.moved": _stepped,
    "workflow.nova.paused": _counted("operator_stops"),
    "workflow.nova.halted": _counted("operator_stops"),
    "workflow.nova.killed": _counted("operator_stops"),
    "workflow.nova.quarantined": _counted("quarantines"),
    "safety.nova.unsafe": _counted("safety_pauses"),
    "safety.incident.opened": _counted("incidents"),
    "safety.incident.ended": _counted("incidents_ended"),
    "safety.api.refused": _counted("api_refusals"),
    "safety.breaker.opened": _counted("breakers_opened"),
    "safety.violation.reported": _counted("violations_reported"),
}
TASK_CREATED, TASK_COMPLETED = "workflow.task.created", "workflow.task.completed"
NOVA_CREATED, NOVA_CHANGED = "workflow.nova.created", "workflow.nova.changed"
REWORKED = "reworked"
# What the roll-ups read of the journal: what counts, and what says to which team a Nova belongs.
READ = (*RULES, NOVA_CREATED, NOVA_CHANGED)


def tally(line: JournalLine) -> Tally | None:
    """Give what an entry adds; None if it adds nothing."""
    rule = RULES.get(line.action)
    return rule(line) if rule else None


def add(total: Sums, more: Mapping[str, int]) -> None:
    """Add sums to sums, in place."""
    for name, number in more.items():
        if number:
            total[name] = total.get(name, 0) + number


def histogram_of(sums: Mapping[str, int], name: str) -> dict[int, int]:
    """Give the histogram among the sums: of WORK or of LEAD."""
    prefix = f"{name}_"
    return {
        int(key[len(prefix) :]): number
        for key, number in sums.items()
        if key.startswith(prefix) and key[len(prefix) :].isdigit()
    }
