"""The handover: what changed since a given time, what is broken now, what waits for a person.

Counts, and the first rows of each list; every query is bounded. No text of tasks, messages or reflections enters, so everybody
may read it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import models, transaction
from django.db.models import Count, QuerySet

from reporting import standing
from reporting.core.alerting import TIERS
from reporting.core.buckets import aligned
from reporting.core.metrics import Period
from reporting.models import AlertChannel, AlertEvent, AlertRule, HandoverMark
from reporting.roll_ups import data_until, sums_of
from reporting.scope import Scope
from safety import audit
from safety.audit import Entry
from safety.models import AuditEntry, ProviderAccount, SafetyIncident, SafetyPolicy
from workflow.derived_status import load_fleet
from workflow.models import Approval, CommandTemplate, Halt, HttpEndpoint, ModelPrice, Nova, NovaState, Personality, Task

HANDOVER_TAKEN = "reporting.handover.taken"
UNSEEN = timedelta(hours=12)  # how far back somebody looks who never took over
LONGEST = timedelta(days=31)
SHOWN = 10  # rows of each list
_KNOWS_PEOPLE = ("workflow.change_task", "safety.view_auditentry")
_PEOPLE = frozenset({"by", "owner", "owners"})
_ENTRIES = 20  # of one object are looked at for who changed it last
_COUNTED = (
    "created", "succeeded", "succeeded_momentum", "cancelled", "blocked", "retried", "lapsed", "incidents", "incidents_ended",
    "safety_pauses", "quarantines", "breakers_opened", "api_refusals", "operator_stops",
)  # fmt: skip
# What people configure: rows that say when they were changed, and the journal's name of their kind.
_CONFIGURED: tuple[tuple[type[models.Model], str], ...] = (
    (Nova, "nova"), (Personality, "personality"), (SafetyPolicy, "policy"), (ProviderAccount, "provider"),
    (CommandTemplate, "command"), (HttpEndpoint, "endpoint"), (ModelPrice, "price"), (AlertRule, "alert_rule"),
    (AlertChannel, "alert_channel"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """A list: how many there are, and the first of them."""

    count: int = 0
    rows: Sequence[dict[str, Any]] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        return {"count": self.count, "rows": list(self.rows), "more": max(self.count - len(self.rows), 0)}


def since_for(person: str, *, now: datetime) -> datetime:
    """Give from when a person's handover tells: their last, or twelve hours ago; a month at most."""
    mark = HandoverMark.objects.filter(person=person).values_list("read_until", flat=True).first()
    return max(mark or now - UNSEEN, now - LONGEST)


def take_over(person: str, *, until: datetime, now: datetime) -> bool:
    """Note that a person has read the handover until an instant; False if they had done so already."""
    until = min(until, now)
    with transaction.atomic():
        mark, made = HandoverMark.objects.select_for_update().get_or_create(person=person, defaults={"read_until": until})
        if not made:
            if mark.read_until >= until:
                return False
            mark.read_until = until
            mark.save(update_fields=["read_until"])
        entry = Entry(HANDOVER_TAKEN, object_type="handover", object_id=person, after={"read_until": until})
        audit.record([entry], now=now)
    return True


def make_handover(*, since: datetime, now: datetime, in_full: bool) -> dict[str, Any]:
    """Give the handover as plain values: {since, until, data_until, changed, broken, waiting}.

    `in_full`: with who did what, and whom blocked tasks wait for.
    """
    since = max(min(since, now), now - LONGEST)
    found = {
        "since": since,
        "until": now,
        "data_until": data_until(now=now),
        "changed": _changed(since, now),
        "broken": _broken(now),
        "waiting": _waiting(),
    }
    return found if in_full else _without_people(found)


def knows_people(user: Any) -> bool:
    """Tell whether somebody may see who did what."""
    return any(user.has_perm(name) for name in _KNOWS_PEOPLE)


def _without_people(value: Any) -> Any:
    """Leave out who did something and whom something waits for: names of people, and words of agents."""
    if isinstance(value, dict):
        return {name: _without_people(inner) for name, inner in value.items() if name not in _PEOPLE}
    return [_without_people(inner) for inner in value] if isinstance(value, list) else value


def _changed(since: datetime, now: datetime) -> dict[str, Any]:
    period = aligned(Period(since, now), now)
    sums = sums_of("fleet", [period], now=now)[period]
    alerts = AlertEvent.objects.filter(fired_at__gte=since)
    incidents = SafetyIncident.objects.filter(opened_at__gte=since)
    halts = Halt.objects.filter(requested_at__gte=since, drill=False)
    return {
        "counted_from": period.since,
        "counts": {name: sums.get(name, 0) for name in _COUNTED},
        "alerts": Rows(
            alerts.count(), [_alert(event) for event in alerts.select_related("rule").order_by("-id")[:SHOWN]]
        ).shown(),
        "incidents": Rows(incidents.count(), [_incident(row) for row in incidents.order_by("-id")[:SHOWN]]).shown(),
        "orders": Rows(halts.count(), [_halt(row) for row in halts.order_by("-id")[:SHOWN]]).shown(),
        "configuration": _configuration(since).shown(),
    }


def _broken(now: datetime) -> dict[str, Any]:
    novas = standing.novas(Scope(), now, load_fleet())
    firing = AlertEvent.objects.filter(status=AlertEvent.Status.FIRING).select_related("rule")
    worst = sorted(firing[:100], key=lambda event: (-TIERS.index(event.tier), event.fired_at))
    incidents = SafetyIncident.objects.filter(ended_at=None)
    breakers = ProviderAccount.objects.filter(archived_at=None).exclude(breaker=ProviderAccount.Breaker.CLOSED)
    channels = AlertChannel.objects.filter(archived_at=None, failing_since__isnull=False)
    return {
        "novas": {status: number for status, number in sorted(novas.by_status.items()) if status in standing.TROUBLED},
        "alerts": Rows(firing.count(), [_alert(event) for event in worst[:SHOWN]]).shown(),
        "incidents": Rows(incidents.count(), [_incident(row) for row in incidents.order_by("id")[:SHOWN]]).shown(),
        "breakers": Rows(
            breakers.count(),
            [
                {"account": row.slug, "breaker": row.breaker, "since": row.breaker_since}
                for row in breakers.order_by("slug")[:SHOWN]
            ],
        ).shown(),
        "channels": Rows(
            channels.count(), [{"channel": row.slug, "since": row.failing_since} for row in channels.order_by("slug")[:SHOWN]]
        ).shown(),
    }


def _waiting() -> dict[str, Any]:
    approvals = Approval.objects.filter(status=Approval.Status.PENDING).order_by("expires_at")
    blocked = Task.objects.filter(status="blocked", personal=False)
    owners = dict(blocked.order_by().values_list("block_owner").annotate(number=Count("pk")).order_by("-number")[:SHOWN])
    halts = Halt.objects.filter(lifted_at=None, drill=False).order_by("-id")
    incidents = SafetyIncident.objects.filter(status=SafetyIncident.Status.OPEN, ended_at=None).order_by("id")
    stopped = NovaState.objects.filter(mode__in=(NovaState.Mode.QUARANTINED, NovaState.Mode.KILLED)).order_by("mode_since")
    return {
        "approvals": Rows(
            approvals.count(),
            [
                {"id": row.pk, "nova_id": row.nova_id, "since": row.requested_at, "until": row.expires_at}
                for row in approvals[:SHOWN]
            ],
        ).shown(),
        "blocked": Rows(
            blocked.count(),
            [
                {"task_id": row.pk, "owner": row.block_owner, "nova_id": row.assignee_id, "since": row.blocked_at}
                for row in blocked.only("id", "block_owner", "assignee_id", "blocked_at").order_by("-created_at")[:SHOWN]
            ],
        ).shown()
        | {"owners": owners},
        "orders": Rows(halts.count(), [_halt(row) for row in halts[:SHOWN]]).shown(),
        "incidents": Rows(incidents.count(), [_incident(row) for row in incidents[:SHOWN]]).shown(),
        "stopped": Rows(
            stopped.count(), [{"nova_id": row.pk, "mode": row.mode, "since": row.mode_since} for row in stopped[:SHOWN]]
        ).shown(),
    }


def _configuration(since: datetime) -> Rows:
    """Give what is configured and was changed since, the newest first, with who changed it last."""
    found: list[tuple[datetime, str, str]] = []
    count = 0
    for model, kind in _CONFIGURED:
        rows: QuerySet[Any] = model._default_manager.filter(updated_at__gte=since)
        count += rows.count()
        found += [(row.updated_at, kind, str(row.pk)) for row in rows.order_by("-updated_at").only("pk", "updated_at")[:SHOWN]]
    found.sort(reverse=True)
    return Rows(count, [{"type": kind, "id": pk, "at": at, **_last_change(kind, pk)} for at, kind, pk in found[:SHOWN]])


def _last_change(kind: str, pk: str) -> dict[str, Any]:
    """Say who changed an object last, and which of its fields: of its newest entries, those by a person's hand."""
    newest = AuditEntry.objects.filter(object_id=pk, object_type=kind).order_by("-id")
    for entry in newest.only("action", "actor", "after", "object_type", "personal")[:_ENTRIES]:
        if entry.action.rpartition(".")[2] in ("created", "changed", "archived", "restored") and not entry.personal:
            return {"by": entry.actor, "action": entry.action, "fields": sorted(entry.after or {})}
    return {"by": "", "action": "", "fields": []}


def _alert(event: AlertEvent) -> dict[str, Any]:
    return {
        "id": event.pk, "rule": event.rule_id, "title": event.title, "tier": event.tier, "status": event.status,
        "count": event.count, "since": event.fired_at, "until": event.resolved_at,
    }  # fmt: skip


def _incident(row: SafetyIncident) -> dict[str, Any]:
    return {
        "id": row.pk, "nova_id": row.nova_id, "mechanism": row.mechanism, "status": row.status, "level": row.safety_level,
        "since": row.opened_at, "until": row.ended_at,
    }  # fmt: skip


def _halt(row: Halt) -> dict[str, Any]:
    return {
        "id": row.pk, "kind": row.kind, "scope": row.scope, "target": row.target, "by": row.requested_by,
        "since": row.requested_at, "confirmed": row.settled_at is not None, "lifted": row.lifted_at is not None,
    }  # fmt: skip
