"""An incident's story, from the journal: what was said of it, and what judges and people did to its Nova while it was open.

Bounded, and by a few queries however long the incident lasted. Nothing is written here.
"""

from dataclasses import dataclass

from django.db.models import Min, Q

from safety import verdicts, violations
from safety.facts import STREAM_LOST, STREAM_RETURNED
from safety.models import AuditEntry, SafetyIncident
from workflow import halts, services
from workflow.configuration import NOVA_CHANGED
from workflow.engine import NOVA_QUARANTINED
from workflow.models import Halt

LIMIT = 100  # entries of the incident itself, and as many beside it: the newest, and always the first
_BATCH = 5_000  # the entries of one transaction lie together: its opening stands not far behind what led to it

# what is done to a Nova, and what the judges said of it
_OF_NOVA = frozenset(
    {
        verdicts.NOVA_UNSAFE, verdicts.NOVA_SAFE, violations.VIOLATION_REPORTED, halts.SAFETY_LIFTED, halts.HALT_CONFIRMED,
        halts.HALT_UNREACHABLE, services.NOVA_PAUSED, services.NOVA_HALTED, services.NOVA_KILLED, services.NOVA_RESUMED,
        services.NOVA_DRAIN_REQUESTED, services.NOVA_WOKEN, services.NOVA_ARCHIVED, NOVA_QUARANTINED, NOVA_CHANGED,
    }
)  # fmt: skip
_OF_FLEET = frozenset({verdicts.FLEET_UNSAFE, verdicts.FLEET_SAFE, STREAM_LOST, STREAM_RETURNED})
_OF_ORDER = frozenset({halts.HALT_ORDERED, halts.HALT_LIFTED})


@dataclass(frozen=True, slots=True)
class Story:
    """Entries of the journal, the oldest first. Not `complete`: some between the first and the newest are left out."""

    entries: list[AuditEntry]
    complete: bool


def story(incident: SafetyIncident) -> Story:
    """Tell what happened to an incident and what was done about it, by whom and when; four queries."""
    said = AuditEntry.objects.filter(object_type="incident", object_id=str(incident.pk), personal=False)
    first = said.aggregate(first=Min("id"))["first"] or 0
    while_open = AuditEntry.objects.filter(id__gt=first - _BATCH, created_at__gte=incident.opened_at, personal=False)
    if incident.ended_at is not None:
        while_open = while_open.filter(created_at__lte=incident.ended_at)
    if incident.nova_id:
        beside = while_open.filter(nova_id=incident.nova_id, action__in=_OF_NOVA)
    else:
        beside = while_open.filter(nova_id="", action__in=_OF_FLEET)
    orders = while_open.filter(object_type="halt", object_id__in=_orders(incident), action__in=_OF_ORDER)
    entries, complete = dict[int, AuditEntry](), True
    for part in (said.filter(id__gte=first), beside, orders):
        newest = list(part.order_by("-id")[: LIMIT + 1])
        complete = complete and len(newest) <= LIMIT
        entries |= {entry.pk: entry for entry in newest[:LIMIT]}
    if first and first not in entries:
        entries |= {entry.pk: entry for entry in said.filter(pk=first)}
    return Story([entries[pk] for pk in sorted(entries)], complete)


def _orders(incident: SafetyIncident) -> list[str]:
    """Give the orders to stop that concerned its Nova, or the fleet, while it was open."""
    standing = Q(lifted_at=None) | Q(lifted_at__gte=incident.opened_at)
    orders = Halt.objects.filter(standing, drill=False)
    if incident.ended_at is not None:
        orders = orders.filter(requested_at__lte=incident.ended_at)
    concerned = Q(confirmations__nova=incident.nova_id) if incident.nova_id else Q(scope=Halt.Scope.FLEET)
    return [str(pk) for pk in orders.filter(concerned).order_by("-pk").values_list("pk", flat=True)[:LIMIT]]
