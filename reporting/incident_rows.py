"""Incidents as pages show them: the list, trouble first, and one with all that is known of it. Each is bounded."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Case, Count, IntegerField, Q, QuerySet, Value, When
from django.utils.formats import date_format
from django.utils.timezone import localtime

from reporting.core.safety_looks import (
    GRAVEST,
    INCIDENTS,
    LASTING,
    LEVELS,
    Sign,
    action_in_words,
    done_in_words,
    mechanism_title,
)
from reporting.core.words import plain
from safety.core.orchestrator import without_details
from safety.incident_services import MOVES, VERBS
from safety.models import AuditEntry, SafetyIncident
from workflow.incident_story import story
from workflow.models import Task

PAGE = 25
TASKS_SHOWN = 20
_ENTRIES_READ = 1_000  # of the Nova's journal since the incident opened, to find the tasks that it touched
_MEASURED = frozenset({"safety_level", "measured", "limit", "since", "expires_at", "recommended_action"})
_PERSONS = ("user:", "cli:", "key:", "oidc")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT.*\d[+-]\d\d:\d\d$")
_DEPTH = 3  # of evidence within evidence


@dataclass(frozen=True, slots=True)
class Listed:
    """An incident in a list; `reason` as its reader may read it."""

    incident: SafetyIncident
    reason: str

    @property
    def sign(self) -> Sign:
        return INCIDENTS[self.incident.status]

    @property
    def level(self) -> Sign | None:
        return LEVELS.get(self.incident.safety_level)

    @property
    def mechanism(self) -> str:
        return mechanism_title(self.incident.mechanism)

    @property
    def lasts(self) -> bool:
        return self.incident.ended_at is None


@dataclass(frozen=True, slots=True)
class IncidentPage:
    """One page of the list; `counts` are of those that last, by status."""

    rows: list[Listed]
    counts: Mapping[str, int]
    number: int
    more: bool


@dataclass(frozen=True, slots=True)
class Told:
    """A line of a story: how long after the opening, what was done, by whom and why."""

    at: datetime
    after: str
    what: str
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of an incident."""

    listed: Listed
    response: str  # what the mechanism does about it
    evidence: list[tuple[str, str]]
    by_system: list[Told]
    by_people: list[Told]
    complete: bool
    tasks: list[Task]
    verbs: list[str]


def incident_page(*, status: str, mechanism: str, nova_id: str, number: int, texts: bool) -> IncidentPage:
    """Give one page of incidents: those that last by what is still to be done, then those that are over, newest first.

    `texts`: the reader may read what strangers reported.
    """
    rows: QuerySet[SafetyIncident] = SafetyIncident.objects.defer("evidence")
    if mechanism:
        rows = rows.filter(mechanism=mechanism)
    if nova_id:
        rows = rows.filter(nova_id=nova_id)
    lasting, over = rows.filter(ended_at=None), rows.exclude(ended_at=None)
    counts = dict(lasting.order_by().values_list("status").annotate(Count("id")))
    if status == "lasting":
        over = over.none()
    elif status in INCIDENTS:
        lasting, over = lasting.filter(status=status), over.filter(status=status)
    standing = sum(number for name, number in counts.items() if status in ("", "lasting", name))
    number = max(1, number)
    first, last = (number - 1) * PAGE, number * PAGE + 1  # one more, to know whether there is a next page
    rank = Case(
        *(When(status=name, then=Value(place)) for place, name in enumerate(LASTING)), default=Value(9),
        output_field=IntegerField(),
    )  # fmt: skip
    grave = Case(When(safety_level__in=GRAVEST, then=Value(0)), default=Value(1), output_field=IntegerField())
    found = list(lasting.order_by(rank, grave, "-id")[first:last]) if first < standing else []
    if len(found) < last - first and status != "lasting":
        found += over.order_by("-id")[max(0, first - standing) : last - standing]
    return IncidentPage([listed(one, texts=texts) for one in found[:PAGE]], counts, number, len(found) > PAGE)


def listed(incident: SafetyIncident, *, texts: bool) -> Listed:
    """Give an incident for a list; without `texts` what somebody told of it is left out."""
    return Listed(incident, incident.reason if texts else without_details(incident.reason))


def known(incident: SafetyIncident, *, texts: bool) -> Known:
    """Give an incident's evidence, story and tasks. Without `texts`: what was measured and what the system did."""
    told = story(incident)
    evidence = incident.evidence if texts else {k: v for k, v in incident.evidence.items() if k in _MEASURED}
    lines = [(entry, _told(entry, incident)) for entry in told.entries]
    people = [line for entry, line in lines if entry.actor.startswith(_PERSONS)]
    system = [line for entry, line in lines if not entry.actor.startswith(_PERSONS)]
    if not texts:
        people, system = [], [Told(line.at, line.after, line.what, line.who, "") for line in system]
    first = min((entry.pk for entry in told.entries if entry.action == "safety.incident.opened"), default=0)
    return Known(
        listed(incident, texts=texts),
        action_in_words(str(incident.evidence.get("recommended_action") or "")),
        [(name, value) for name, value in _flat(evidence, _DEPTH) if name not in _ABOVE],
        system,
        people,
        told.complete,
        _tasks(incident, first),
        [verb for verb in VERBS if is_offered(verb, incident)],
    )


def is_offered(verb: str, incident: SafetyIncident) -> bool:
    """Tell whether a verb would change an incident."""
    if verb == "note":
        return True
    move = MOVES[verb]
    return incident.status in move.starts and not (incident.status == move.target and incident.conclusion)


_ABOVE = frozenset({"safety level", "measured", "limit", "recommended action"})  # told in words already


def _told(entry: AuditEntry, incident: SafetyIncident) -> Told:
    milliseconds = (entry.created_at - incident.opened_at).total_seconds() * 1000
    if milliseconds < 10_000:
        after = f"{milliseconds:+,.0f} ms"
    else:
        after = f"{milliseconds / 1000:+,.0f} s" if milliseconds < 600_000 else f"{milliseconds / 60_000:+,.0f} min"
    return Told(entry.created_at, after, done_in_words(entry.action), entry.actor, entry.reason)


def _tasks(incident: SafetyIncident, first: int) -> list[Task]:
    """Give the tasks of its Nova that something happened to while it lasted, and those that it holds now if it lasts."""
    if not incident.nova_id:
        return []
    held = Q(assignee=incident.nova_id, status__in=("in_progress", "blocked")) if incident.ended_at is None else Q(pk__in=())
    touched: dict[str, None] = {}
    if first:
        entries = AuditEntry.objects.filter(nova_id=incident.nova_id, id__gte=first).order_by("id")
        for kind, its_id, at in entries.values_list("object_type", "object_id", "created_at")[:_ENTRIES_READ]:
            if incident.ended_at is not None and at > incident.ended_at:
                break
            if kind == "task" and len(touched) < TASKS_SHOWN:
                touched[its_id] = None
    found = Task.objects.filter(held | Q(pk__in=touched), personal=False).only("id", "title", "status", "outcome", "updated_at")
    return list(found.order_by("-updated_at")[:TASKS_SHOWN])


def _flat(value: Mapping[str, Any], depth: int, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give evidence as rows, what lies within as `outer, inner`."""
    for name, inner in value.items():
        what = f"{prefix}{plain(str(name))}"
        if isinstance(inner, dict) and inner and depth > 1:
            yield from _flat(inner, depth - 1, f"{what}, ")
        elif inner not in (None, ""):
            yield what, _written(inner)


def _written(value: object) -> str:
    if isinstance(value, str):
        try:
            return date_format(localtime(datetime.fromisoformat(value)), "Y-m-d H:i:s") if _INSTANT.match(value) else value
        except ValueError:
            return value
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
