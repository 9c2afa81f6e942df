"""What people say of an incident: acknowledged, mitigated, resolved, false positive, or a note; each needs words.

Each is one transaction with its journal entry. Judges open and end incidents (safety/incidents.py) and never take back what is
said here. Who says it, and at which door, is not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import models, transaction

from safety import audit
from safety.audit import Entry
from safety.core.mechanisms import STREAM_MONITOR
from safety.models import AuditEntry, SafetyIncident, SafetyState

INCIDENT_ACKNOWLEDGED = "safety.incident.acknowledged"
INCIDENT_MITIGATED = "safety.incident.mitigated"
INCIDENT_RESOLVED = "safety.incident.resolved"
INCIDENT_FALSE_POSITIVE = "safety.incident.false_positive"
INCIDENT_NOTED = "safety.incident.noted"

Status = SafetyIncident.Status


class IncidentError(Exception):
    """What was said of an incident can't be taken. Its text says why, for a person to read; nothing was changed."""


class IncidentNotFound(IncidentError):
    """There is no incident of that id."""


class IllegalIncidentMove(IncidentError):
    """The incident's status does not allow that verb."""


class WordsMissing(IncidentError):
    """The verb needs words, for the journal."""


@dataclass(frozen=True, slots=True)
class Move:
    """A verb's law: the status it leads to and those it starts from. One that ends the incident has words that conclude it."""

    action: str
    target: str
    starts: frozenset[str]
    already: frozenset[str]
    ends: bool
    words: str  # what the words must tell


_LASTING = frozenset({Status.OPEN, Status.ACKNOWLEDGED, Status.MITIGATED})
MOVES: Mapping[str, Move] = {
    "acknowledge": Move(
        INCIDENT_ACKNOWLEDGED,
        Status.ACKNOWLEDGED,
        frozenset({Status.OPEN}),
        frozenset({Status.ACKNOWLEDGED, Status.MITIGATED}),
        ends=False,
        words="who looks at it, or why",
    ),
    "mitigate": Move(
        INCIDENT_MITIGATED,
        Status.MITIGATED,
        frozenset({Status.OPEN, Status.ACKNOWLEDGED}),
        frozenset({Status.MITIGATED}),
        ends=False,
        words="what was done",
    ),
    # one that ended by itself has no conclusion yet
    "resolve": Move(
        INCIDENT_RESOLVED, Status.RESOLVED, _LASTING | {Status.RESOLVED}, frozenset(), ends=True, words="the conclusion"
    ),
    "false-positive": Move(
        INCIDENT_FALSE_POSITIVE,
        Status.FALSE_POSITIVE,
        _LASTING | {Status.RESOLVED},
        frozenset({Status.FALSE_POSITIVE}),
        ends=True,
        words="the conclusion",
    ),
}
VERBS = (*MOVES, "note")


def apply_verb(verb: str, incident_id: int, *, reason: str, now: datetime) -> bool:
    """Do one of VERBS; False if it needed no change.

    :raises IncidentError: as the verb's own function.
    """
    if verb == "note":
        return add_note(incident_id, reason=reason, now=now)
    return _move(MOVES[verb], verb, incident_id, reason, now)


def acknowledge_incident(incident_id: int, *, reason: str, now: datetime) -> bool:
    """Say that somebody looks at it; False if somebody does already.

    :raises IncidentNotFound: there is none. :raises IllegalIncidentMove: it is over. :raises WordsMissing: no reason.
    """
    return apply_verb("acknowledge", incident_id, reason=reason, now=now)


def mitigate_incident(incident_id: int, *, reason: str, now: datetime) -> bool:
    """Say what was done against it, while its cause may last; False if that was said already: what else is done is a note.

    :raises IncidentNotFound: there is none. :raises IllegalIncidentMove: it is over. :raises WordsMissing: no words.
    """
    return apply_verb("mitigate", incident_id, reason=reason, now=now)


def resolve_incident(incident_id: int, *, reason: str, now: datetime) -> bool:
    """End it with a conclusion; False if it has one. While its cause is in force, the judges open a new one at their next look.

    :raises IncidentNotFound: there is none. :raises IllegalIncidentMove: it was a false positive. :raises WordsMissing: none.
    """
    return apply_verb("resolve", incident_id, reason=reason, now=now)


def mark_false_positive(incident_id: int, *, reason: str, now: datetime) -> bool:
    """End it as no violation at all, with a conclusion; False if that was said already.

    The judges say nothing more of the same cause until their verdict changes: another level, another end.

    :raises IncidentNotFound: there is none. :raises WordsMissing: no conclusion.
    """
    return apply_verb("false-positive", incident_id, reason=reason, now=now)


def add_note(incident_id: int, *, reason: str, now: datetime) -> bool:
    """Add words to its story, whatever its status; False if they are its last words already, by the same person.

    :raises IncidentNotFound: there is none. :raises WordsMissing: no words.
    """
    text = _demand_words(reason, "something")
    with transaction.atomic():
        incident = _locked(incident_id)
        told = AuditEntry.objects.filter(object_type="incident", object_id=str(incident.pk)).order_by("-id")
        last = told.values_list("action", "actor", "reason").first()
        if last == (INCIDENT_NOTED, audit.current_actor(), text):
            return False
        audit.record([_entry(INCIDENT_NOTED, incident, None, {"status": incident.status}, text)], now=now)
    return True


# -- details


def _move(move: Move, verb: str, incident_id: int, reason: str, now: datetime) -> bool:
    words = _demand_words(reason, move.words)
    with transaction.atomic():
        verdicts = _lock_verdicts(incident_id) if move.target == Status.RESOLVED else None
        incident = _locked(incident_id)
        if incident.status in move.already or (incident.status == move.target and incident.conclusion):
            return False
        if incident.status not in move.starts:
            raise IllegalIncidentMove(
                f"Incident {incident_id} is {_in_words(incident.status)}, so {verb} is not possible; nothing was changed. "
                "A note can still be added."
            )
        changes: dict[str, Any] = {"status": str(move.target)}
        if incident.acknowledged_at is None:  # whoever does something about it has seen it
            changes |= {"acknowledged_at": now, "acknowledged_by": audit.current_actor()}
        if move.ends:
            changes |= {"conclusion": words, "ended_at": incident.ended_at or now}
        before = {name: getattr(incident, name) for name in changes}
        if verdicts is not None and incident.ended_at is None:
            # the verdict in force ends now, still unsafe, so that the judges' next one is a change: what lasts has an incident
            verdicts.update(until=now)
        for name, value in changes.items():
            setattr(incident, name, value)
        incident.save(update_fields=list(changes))
        audit.record([_entry(move.action, incident, before, changes, words)], now=now)
    return True


def _lock_verdicts(incident_id: int) -> "models.QuerySet[SafetyState]":
    """Lock the verdicts in force of an incident's mechanism, in the judges' order: verdicts before incidents."""
    found = SafetyIncident.objects.filter(pk=incident_id).values_list("nova_id", "mechanism").first()
    nova_id, mechanism = found or ("", "")
    states = SafetyState.objects.filter(is_safe=False, mechanism=mechanism)
    if nova_id:
        states = states.filter(nova_id=nova_id)
    elif mechanism != STREAM_MONITOR:  # an event, or nothing at all: it does not last
        states = states.none()
    list(states.select_for_update().order_by("nova_id").values_list("pk"))
    return states


def _demand_words(text: str, what: str) -> str:
    text = text.strip()
    if not text:
        raise WordsMissing(f"Say {what}: words are required, and are kept in the journal. Nothing was changed.")
    return text


def _locked(incident_id: int) -> SafetyIncident:
    incident = SafetyIncident.objects.select_for_update().filter(pk=incident_id).first()
    if incident is None:
        raise IncidentNotFound(f"There is no incident {incident_id}; nothing was changed.")
    return incident


def _in_words(status: str) -> str:
    return status.replace("_", " ")


def _entry(action: str, incident: SafetyIncident, before: dict[str, Any] | None, after: dict[str, Any], reason: str) -> Entry:
    return Entry(action, incident.nova_id, "incident", str(incident.pk), before=before, after=after, reason=reason)
