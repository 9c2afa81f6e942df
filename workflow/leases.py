"""Named leases: who reads the streams, who relays, which slot is taken. A lease expires; its fence never falls.

Every verb is one conditional statement, so two that try at once can't both win.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, Q

from workflow.models import Lease


class LeaseLost(Exception):
    """Somebody else holds the lease now. What was to be written under it was not written."""


@dataclass(frozen=True, slots=True)
class Held:
    """A lease in hand."""

    name: str
    holder: str
    fence: int


def acquire(name: str, holder: str, *, now: datetime, seconds: float) -> Held | None:
    """Take the lease if it is free, expired, or already this holder's; None if somebody else has it."""
    Lease.objects.get_or_create(name=name)
    free = Q(holder="") | Q(holder=holder) | Q(expires_at=None) | Q(expires_at__lt=now)
    taken = Lease.objects.filter(free, name=name).update(
        holder=holder, fence=F("fence") + 1, expires_at=now + timedelta(seconds=seconds), heartbeat_at=now
    )
    if not taken:
        return None
    lease = Lease.objects.get(name=name)
    return Held(name, holder, lease.fence) if lease.holder == holder else None


def renew(held: Held, *, now: datetime, seconds: float, note: dict[str, Any] | None = None) -> None:
    """Hold on for `seconds` more.

    :raises LeaseLost: it expired and somebody took it.
    """
    changes: dict[str, Any] = {"expires_at": now + timedelta(seconds=seconds), "heartbeat_at": now}
    if note is not None:
        changes["note"] = note
    if not Lease.objects.filter(name=held.name, holder=held.holder, fence=held.fence).update(**changes):
        raise LeaseLost(f"The lease {held.name} is no longer held by {held.holder}; nothing was written under it.")


def release(held: Held) -> bool:
    """Give the lease back, if it is still ours; tell whether it was."""
    mine = Lease.objects.filter(name=held.name, holder=held.holder, fence=held.fence)
    return bool(mine.update(holder="", expires_at=None))
