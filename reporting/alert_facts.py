"""Reads the facts that alert rules are judged by: of each a bounded list of subjects, in one or two queries.

A new fact is a function and a line in FACTS. This room decides nothing; what could not be read is given as None.
"""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Max, Q, QuerySet

from reporting.core.alerting import Facts, Reading
from reporting.models import AlertChannel
from safety.core.status import SafetyLevel
from safety.facts import STREAM_GAP, STREAM_REACHABLE, note_fleet
from safety.models import (
    AuditEntry,
    AuditSeal,
    FleetFact,
    Installation,
    ProviderAccount,
    SafetyIncident,
    SafetyState,
    VerificationRun,
)
from workflow.derived_status import SILENT_AFTER
from workflow.models import Approval, Halt, Lease, Nova, NovaState, NovaUsage, Task

MOST = 1_000  # subjects of a fact: the worst; an alert about more of them says no more
FLEET = "the fleet"
CRITICAL_LEVELS = (SafetyLevel.QUARANTINE.value, SafetyLevel.EMERGENCY_STOP.value)
_FRESH = timedelta(seconds=30)
_DISK_FRESH = timedelta(minutes=5)
_GAP_SHOWN = timedelta(minutes=10)
DISK = "disk:"  # FleetFact names: a host each


@dataclass(frozen=True, slots=True)
class Look:
    """What all facts of one look share."""

    now: datetime
    fleet: Mapping[str, FleetFact]

    def since(self, instant: datetime | None) -> float:
        """Give the seconds since an instant; 0 where there is none."""
        return max((self.now - instant).total_seconds(), 0.0) if instant else 0.0

    def fresh(self, name: str) -> float | None:
        """Give a reading of the fleet; None: nobody has taken it lately."""
        row = self.fleet.get(name)
        if row is None or row.value is None or self.now - row.observed_at > _FRESH:
            return None
        return float(row.value)


Loader = Callable[[Look], Sequence[Reading] | None]


def load_facts(names: Collection[str], *, now: datetime) -> Facts:
    """Read the facts of these names. One that is not known here counts as not readable."""
    look = Look(now, {fact.name: fact for fact in FleetFact.objects.all()})
    return {name: FACTS[name](look) if name in FACTS else None for name in sorted(names)}


def note_disk(*, now: datetime) -> None:
    """Note how much of this host's disk is free, for whoever evaluates."""
    usage = shutil.disk_usage(settings.VAR_DIR)
    note_fleet(f"{DISK}{settings.HOST}"[:32], usage.free / usage.total if usage.total else 0.0, now)


def _silence(look: Look) -> list[Reading]:
    """Novas that no worker steps; a stream server that is away has an alert of its own."""
    reachable = look.fleet.get(STREAM_REACHABLE)
    if reachable is not None and reachable.value is False:
        return []
    due = NovaState.objects.runnable().filter(due_at__lt=look.now - SILENT_AFTER).order_by("due_at")
    rows = due.values_list("nova_id", "nova__team", "due_at", "nova__personality__base_cycle_time")[:MOST]
    return [
        Reading(nova_id, look.since(due_at), nova_id, team)
        for nova_id, team, due_at, cycle in rows
        if look.now - due_at > max(SILENT_AFTER, timedelta(seconds=3 * cycle))
    ]


def _stalls(look: Look) -> list[Reading]:
    unsafe = SafetyState.objects.filter(is_safe=False).values("nova_id")
    working = NovaState.objects.runnable().filter(tasks_in_flight__gt=0).exclude(nova_id__in=unsafe)
    rows = working.filter(last_task_change__lt=look.now - SILENT_AFTER).order_by("last_task_change")
    found = rows.values_list("nova_id", "nova__team", "last_task_change")[:MOST]
    return [Reading(nova_id, look.since(at), nova_id, team) for nova_id, team, at in found]


def _critical_incidents(look: Look) -> list[Reading]:
    return _incidents(look, SafetyIncident.objects.filter(Q(safety_level__in=CRITICAL_LEVELS) | Q(nova_id="")))


def _unattended_incidents(look: Look) -> list[Reading]:
    return _incidents(look, SafetyIncident.objects.filter(status=SafetyIncident.Status.OPEN))


def _incidents(look: Look, rows: "QuerySet[SafetyIncident]") -> list[Reading]:
    lasting = rows.filter(ended_at=None).order_by("id")
    found = list(lasting.values_list("id", "nova_id", "mechanism", "opened_at")[:MOST])
    teams = _teams({nova_id for _, nova_id, _, _ in found if nova_id})
    return [
        Reading(f"incident {pk} of {nova_id or FLEET} ({mechanism})", look.since(at), nova_id, teams.get(nova_id, ""))
        for pk, nova_id, mechanism, at in found
    ]


def _teams(nova_ids: Iterable[str]) -> dict[str, str]:
    wanted = sorted(nova_ids)
    return dict(Nova.objects.filter(nova_id__in=wanted).values_list("nova_id", "team")) if wanted else {}


def _breakers(look: Look) -> list[Reading]:
    rows = ProviderAccount.objects.filter(archived_at=None).exclude(breaker=ProviderAccount.Breaker.CLOSED)
    return [Reading(f"account {row.slug}", look.since(row.breaker_since)) for row in rows.order_by("breaker_since")[:MOST]]


def _queue(look: Look) -> list[Reading]:
    head = Task.objects.claimable(now=look.now).values_list("created_at", "not_before").first()
    return [Reading(FLEET, look.since(max(filter(None, head))))] if head else []


def _of_the_fleet(name: str) -> Loader:
    def load(look: Look) -> list[Reading] | None:
        value = look.fresh(name)
        return None if value is None else [Reading(FLEET, value)]

    return load


def _stream_away(look: Look) -> list[Reading]:
    row = look.fleet.get(STREAM_REACHABLE)
    return [Reading("the stream server", look.since(row.since))] if row is not None and row.value is False else []


def _gaps(look: Look) -> list[Reading]:
    row = look.fleet.get(STREAM_GAP)
    if row is None or look.now - row.observed_at > _GAP_SHOWN:
        return []
    return [Reading(f"stream {row.value}", look.since(row.observed_at))]


def _workers(look: Look) -> list[Reading]:
    begun = Installation.objects.values_list("created_at", flat=True).first()
    beats = dict.fromkeys(settings.SLICE_JOBS, begun)
    slots = Lease.objects.filter(name__startswith="slot:").values_list("name").annotate(at=Max("heartbeat_at"))
    for name, at in slots:
        cluster = name.split(":")[1]
        if cluster in beats and at is not None:
            beats[cluster] = max(filter(None, (beats[cluster], at)))
    return [Reading(f"workers {cluster}", look.since(at)) for cluster, at in beats.items()]


def _budgets(look: Look) -> list[Reading]:
    limited = Q(nova__budget_requests__gt=0) | Q(nova__budget_tokens__gt=0) | Q(nova__budget_cost__gt=0)
    used = NovaUsage.objects.filter(limited, day=look.now.astimezone(UTC).date(), nova__archived_at=None)
    found = []
    for row in used.select_related("nova").only(
        "requests", "input_tokens", "output_tokens", "cost_micros", "nova__team", "nova__budget_requests",
        "nova__budget_tokens", "nova__budget_cost",
    ):  # fmt: skip
        nova = row.nova
        budgets = ((nova.budget_requests, row.requests), (nova.budget_tokens, row.tokens), (nova.budget_cost, row.cost))
        share = max((spent / budget for budget, spent in budgets if budget), default=0.0)
        found.append(Reading(nova.pk, share, nova.pk, nova.team))
    found.sort(key=lambda reading: -reading.value)
    return found[:MOST]


def _approvals(look: Look) -> list[Reading]:
    rows: Any = Approval.objects.filter(status=Approval.Status.PENDING).order_by("requested_at")
    found = rows.values_list("id", "nova_id", "nova__team", "requested_at")[:MOST]
    return [Reading(f"approval {pk} of {nova_id}", look.since(at), nova_id, team) for pk, nova_id, team, at in found]


def _halts(look: Look) -> list[Reading]:
    rows = Halt.objects.filter(settled_at=None, lifted_at=None, drill=False).exclude(kind=Halt.Kind.DRAIN)
    return [Reading(str(halt), look.since(halt.requested_at)) for halt in rows.order_by("id")[:MOST]]


def _seals(look: Look) -> list[Reading]:
    """How long the oldest journal entry has waited for a seal."""
    sealed_to = AuditSeal.objects.order_by("-number").values_list("last_id", flat=True).first() or 0
    oldest = AuditEntry.objects.filter(id__gt=sealed_to).order_by("id").values_list("created_at", flat=True).first()
    return [Reading("the journal", look.since(oldest))] if oldest else []


def _damages(look: Look) -> list[Reading]:
    last = VerificationRun.objects.exclude(finished_at=None).order_by("-id").values_list("damages", "finished_at").first()
    return [Reading("the journal", look.since(last[1]))] if last and last[0] else []


def _disks(look: Look) -> list[Reading]:
    return [
        Reading(f"host {name.removeprefix(DISK)}", float(row.value))
        for name, row in sorted(look.fleet.items())
        if name.startswith(DISK) and row.value is not None and look.now - row.observed_at <= _DISK_FRESH
    ]


def _failing_channels(look: Look) -> list[Reading]:
    rows = AlertChannel.objects.filter(archived_at=None, enabled=True, failing_since__isnull=False)
    return [Reading(f"channel {row.slug}", look.since(row.failing_since)) for row in rows.order_by("failing_since")[:MOST]]


FACTS: Mapping[str, Loader] = {
    "nova_silence": _silence,
    "nova_stall": _stalls,
    "critical_incident_age": _critical_incidents,
    "unattended_incident_age": _unattended_incidents,
    "breaker_open_age": _breakers,
    "queue_age": _queue,
    "outbox_age": _of_the_fleet("outbox_age"),
    "intake_lag": _of_the_fleet("intake_lag"),
    "stream_away": _stream_away,
    "stream_gap_age": _gaps,
    "worker_silence": _workers,
    "budget_used": _budgets,
    "approval_wait": _approvals,
    "halt_wait": _halts,
    "seal_age": _seals,
    "journal_damage_age": _damages,
    "disk_free": _disks,
    "channel_failing_age": _failing_channels,
}
