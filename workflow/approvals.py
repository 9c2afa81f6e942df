"""Approvals: a person's word before an agent or an executor does one exact thing.

A request is bound to the digest of action and arguments; approved, it is good for one use, until it expires. Its clock stands
while its Nova is stopped or unsafe. Who may approve is the doors' business; a Nova's key never may.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from safety import audit
from safety.audit import Entry
from safety.models import SafetyState
from workflow import halts
from workflow.configuration import demand_reason
from workflow.errors import WorkflowError
from workflow.models import Approval, NovaState, Task
from workflow.services import STOPPED
from workflow.task_tracker import TaskNotFound

APPROVAL_REQUESTED = "workflow.approval.requested"
APPROVAL_APPROVED = "workflow.approval.approved"
APPROVAL_DENIED = "workflow.approval.denied"
APPROVAL_EXPIRED = "workflow.approval.expired"
APPROVAL_USED = "workflow.approval.used"

GOOD_FOR = timedelta(hours=1)  # unless the request says otherwise
LEAST, MOST = timedelta(seconds=10), timedelta(days=7)

Status = Approval.Status


class ApprovalNotFound(WorkflowError):
    """There is no such approval of this Nova's."""


class ApprovalRequired(WorkflowError):
    """The action needs a person's word that it has not got. `approval_id`: the request, where there is one."""

    def __init__(self, text: str, *, approval_id: int | None, status: str) -> None:
        super().__init__(text)
        self.approval_id = approval_id
        self.status = status


class ArgumentsMismatch(WorkflowError):
    """What is to be done is not what was asked for."""

    def __init__(self, text: str, *, approval_id: int) -> None:
        super().__init__(text)
        self.approval_id = approval_id


class IllegalApprovalMove(WorkflowError):
    """The approval was decided, used or has expired already."""


def digest_of(action: str, arguments: Mapping[str, Any]) -> str:
    """Give the digest of an exact action: SHA-256 over it as canonical JSON (sorted keys, no spaces, UTF-8)."""
    text = json.dumps([action, arguments], sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def request_approval(
    nova_id: str,
    action: str,
    arguments: Mapping[str, Any],
    *,
    now: datetime,
    reason: str = "",
    task_id: str = "",
    good_for: timedelta = GOOD_FOR,
) -> Approval:
    """Ask a person to approve an action; the same request that is open already is given back, not repeated.

    :raises NovaStopped: the Nova may not begin anything. :raises TaskNotFound: the task is not this Nova's.
    """
    halts.demand_may_act(nova_id)
    digest = digest_of(action, arguments)
    settle(now=now, nova_id=nova_id)
    if task_id and not Task.objects.filter(id=task_id, assignee=nova_id, personal=False).exists():
        raise TaskNotFound(f"There is no task {task_id} of Nova {nova_id}; nothing was asked for.")
    open_ones = Approval.objects.filter(nova=nova_id, digest=digest, status__in=Approval.OPEN)
    if standing := open_ones.first():
        return standing
    try:
        with transaction.atomic():
            approval = Approval.objects.create(
                nova_id=nova_id,
                task_id=task_id,
                action=action,
                arguments=dict(arguments),
                digest=digest,
                reason=reason,
                requested_by=audit.current_actor(),
                requested_at=now,
                expires_at=now + min(max(good_for, LEAST), MOST),
            )
            after = {"action": action, "digest": digest, "task_id": task_id, "expires_at": approval.expires_at}
            audit.record([_entry(APPROVAL_REQUESTED, approval, after, reason)], now=now)
    except IntegrityError:  # the same request came twice at once
        return open_ones.get()
    return approval


def approve(approval_id: int, *, reason: str, now: datetime) -> Approval:
    """Let the action be done, once.

    :raises ApprovalNotFound: there is none. :raises IllegalApprovalMove: it is decided otherwise, or expired.
    """
    return _decide(approval_id, Status.APPROVED, APPROVAL_APPROVED, reason, now)


def deny(approval_id: int, *, reason: str, now: datetime) -> Approval:
    """Refuse the action; what was approved and not used yet is taken back.

    :raises ApprovalNotFound: there is none. :raises IllegalApprovalMove: it is used or expired.
    """
    return _decide(approval_id, Status.DENIED, APPROVAL_DENIED, reason, now)


def get_approval(approval_id: int, *, now: datetime, nova_id: str = "") -> Approval:
    """Give an approval as it stands; with `nova_id` only that Nova's.

    :raises ApprovalNotFound: there is none.
    """
    approval = _find(approval_id, nova_id)
    settle(now=now, nova_id=approval.nova_id)
    approval.refresh_from_db()
    return approval


def demand_approval(
    nova_id: str, action: str, arguments: Mapping[str, Any], approval_id: int | None, *, now: datetime
) -> Approval:
    """Use up the approval of exactly this action, or refuse. Call it just before the action, in its transaction if it has one.

    :raises ApprovalRequired: there is none, it is not decided yet, denied, expired or used. :raises ArgumentsMismatch: it is
    for something else. :raises NovaStopped: the Nova is stopped or unsafe.
    """
    halts.demand_may_act(nova_id)
    if approval_id is None:
        raise ApprovalRequired(f"{action} needs an approval; ask for one.", approval_id=None, status="")
    settle(now=now, nova_id=nova_id)
    with transaction.atomic():
        approval = Approval.objects.select_for_update().filter(pk=approval_id, nova=nova_id).first()
        if approval is None:
            raise ApprovalRequired(f"There is no approval {approval_id} of Nova {nova_id}.", approval_id=None, status="")
        if approval.digest != digest_of(action, arguments):
            text = f"Approval {approval_id} is for another action or other arguments; nothing was done. Ask for a new one."
            raise ArgumentsMismatch(text, approval_id=approval_id)
        if approval.status != Status.APPROVED:
            text = f"Approval {approval_id} is {approval.status}; {action} was not done."
            raise ApprovalRequired(text, approval_id=approval_id, status=approval.status)
        approval.status, approval.used_at = Status.USED, now
        approval.save(update_fields=["status", "used_at"])
        audit.record([_entry(APPROVAL_USED, approval, {"status": "used"})], now=now)
    return approval


def settle(*, now: datetime, nova_id: str = "") -> int:
    """Stop and start the clocks of open approvals with their Novas', and let those expire whose time is over; give how many.

    May be called by anybody, any number of times; the loops do so every second.
    """
    open_ones = Approval.objects.filter(status__in=Approval.OPEN)
    if nova_id:
        open_ones = open_ones.filter(nova=nova_id)
    if not open_ones.exists():
        return 0
    with transaction.atomic():
        rows = list(open_ones.select_for_update().order_by("id"))
        standing = _standing({row.nova_id for row in rows})
        entries: list[Entry] = []
        for row in rows:
            since = standing.get(row.nova_id)
            if since is not None:
                if row.frozen_at is None and row.expires_at > since:
                    row.frozen_at = max(since, row.requested_at)
                    row.save(update_fields=["frozen_at"])
            elif row.frozen_at is not None:
                row.expires_at += max(now - row.frozen_at, timedelta(0))
                row.frozen_at = None
                row.save(update_fields=["expires_at", "frozen_at"])
            if row.frozen_at is None and row.expires_at <= now:
                before, row.status = {"status": row.status}, Status.EXPIRED
                row.save(update_fields=["status"])
                reason = "It was not used in time." if before["status"] == Status.APPROVED else "Nobody decided in time."
                entries.append(_entry(APPROVAL_EXPIRED, row, {"status": "expired"}, reason, before))
        audit.record(entries, now=now)
    return len(entries)


def _standing(nova_ids: set[str]) -> dict[str, datetime]:
    """Give the Novas among these whose clock stands, each with since when."""
    stopped = NovaState.objects.filter(nova__in=nova_ids, mode__in=STOPPED, mode_since__isnull=False)
    unsafe = SafetyState.objects.filter(nova_id__in=nova_ids, is_safe=False, since__isnull=False)
    found: dict[str, datetime] = {}
    for nova_id, since in [*stopped.values_list("nova_id", "mode_since"), *unsafe.values_list("nova_id", "since")]:
        if since is not None:
            found[nova_id] = min(since, found.get(nova_id, since))
    return found


def _decide(approval_id: int, status: Status, action: str, reason: str, now: datetime) -> Approval:
    reason = demand_reason(reason)
    settle(now=now, nova_id=_find(approval_id).nova_id)
    with transaction.atomic():
        approval = Approval.objects.select_for_update().get(pk=approval_id)
        if approval.status == status:
            return approval
        takes_back = status == Status.DENIED and approval.status == Status.APPROVED
        if approval.status != Status.PENDING and not takes_back:
            raise IllegalApprovalMove(f"Approval {approval_id} is {approval.status} already; nothing was changed.")
        before = {"status": approval.status}
        approval.status, approval.decided_by, approval.decided_at = status, audit.current_actor(), now
        approval.decision_reason = reason
        approval.save(update_fields=["status", "decided_by", "decided_at", "decision_reason"])
        audit.record([_entry(action, approval, {"status": str(status)}, reason, before)], now=now)
    return approval


def _find(approval_id: int, nova_id: str = "") -> Approval:
    found = Approval.objects.filter(pk=approval_id)
    approval = (found.filter(nova=nova_id) if nova_id else found).first()
    if approval is None:
        raise ApprovalNotFound(f"There is no approval {approval_id}; nothing was changed.")
    return approval


def _entry(
    action: str, approval: Approval, after: dict[str, Any], reason: str = "", before: dict[str, Any] | None = None
) -> Entry:
    return Entry(action, approval.nova_id, "approval", str(approval.pk), before=before, after=after, reason=reason)
