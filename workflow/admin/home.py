"""The console's home: who needs a person now, and whether the machinery is well; each part at a query or three."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil

from safety.admin import dashboard_url, unbroken
from safety.models import FleetFact, OutboxEntry, SafetyIncident, SafetyState
from workflow.admin.incidents import LABELS as INCIDENT_LABELS
from workflow.admin.novas import LABELS
from workflow.core.state import WorkflowState
from workflow.derived_status import SILENT_AFTER, STATUSES, STREAM_REACHABLE, derived_status, load_fleet, load_verdicts
from workflow.models import Approval, Halt, Lease, NovaState, Task

LISTED = 8  # rows of each part; the rest is one click away
COUNTED = 1_000  # beyond this a number says "more than"
FACT_FRESH = timedelta(seconds=30)
BEATS = {"beats": "success", "held": "success", "free": "default", "silent": "danger"}
WELL = frozenset({"idle", "working", "completing", "new", "archived"})


def console(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the parts of the home page that the caller may see to the index's context."""
    now = timezone.now()  # noqa: TID251 - a door
    fleet = load_fleet()
    parts: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("workflow.view_nova", lambda: novas_in_trouble(fleet, now)),
        ("safety.view_safetyincident", lambda: open_incidents(now)),
        ("workflow.view_approval", lambda: waiting_approvals(now)),
        ("workflow.view_task", lambda: blocked_tasks(now)),
        ("workflow.view_halt", lambda: standing_orders(now)),
    ]
    shown = [part() for right, part in parts if request.user.has_perm(right)]
    machinery = workers(fleet, now) if request.user.has_perm("workflow.view_lease") else None
    return {**context, "parts": shown, "machinery": machinery, "fleet_page": dashboard_url("fleet")}


def novas_in_trouble(fleet: dict[str, FleetFact], now: datetime) -> dict[str, Any]:
    """Give the Novas that do not work as they should, the worst first, told by the one derived status."""
    unsafe = SafetyState.objects.filter(is_safe=False).values("nova_id")
    suspects = NovaState.objects.filter(nova__archived_at=None).filter(
        ~Q(mode=NovaState.Mode.RUNNING)
        | Q(current_state=WorkflowState.ERROR_RECOVERY)
        | Q(due_at__lt=now - SILENT_AFTER)
        | Q(nova_id__in=unsafe)
    )
    states = list(suspects.select_related("nova__personality").order_by("mode_since", "nova_id")[: COUNTED + 1])
    verdicts = load_verdicts([state.nova_id for state in states])
    found = [
        (doing, state.nova)
        for state in states
        if (doing := derived_status(state.nova, state, verdicts.get(state.nova_id), fleet, now)).status not in WELL
    ]
    found.sort(key=lambda pair: (STATUSES.index(pair[0].status), pair[1].nova_id))
    rows = [
        [
            _row_link("workflow_nova", nova.nova_id, nova.nova_id),
            _chip(doing.status.replace("_", " "), LABELS),
            doing.reason or "-",
            unbroken(timesince(doing.since, now, depth=1)) if doing.since else "-",
        ]
        for doing, nova in found[:LISTED]
    ]
    heads = ["Nova", "status", "why", "for"]
    stream = fleet.get(STREAM_REACHABLE)
    count = _many(len(found)) if stream is None or stream.value else "all, since the stream server does not answer"
    return _part("Novas that need a look", "smart_toy", count, heads, rows, "Every Nova works or rests.", "workflow_nova")


def open_incidents(now: datetime) -> dict[str, Any]:
    """Give the incidents whose cause lasts or that nobody has closed."""
    incidents = SafetyIncident.objects.filter(ended_at=None).defer("evidence").order_by("-id")
    rows = [
        [
            _row_link("safety_safetyincident", incident.pk, f"#{incident.pk}"),
            incident.nova_id or "the whole fleet",
            _chip(incident.status.replace("_", " "), INCIDENT_LABELS),
            incident.reason,
            unbroken(timesince(incident.opened_at, now, depth=1)),
        ]
        for incident in incidents[:LISTED]
    ]
    heads = ["incident", "Nova", "status", "what happened", "for"]
    return _part(
        "Open incidents", "emergency_home", _counted(incidents), heads, rows, "No incident is open.", "safety_safetyincident",
        {"lasting": "yes"},
    )  # fmt: skip


def waiting_approvals(now: datetime) -> dict[str, Any]:
    """Give the requests that wait for a person's word, the first to expire first."""
    waiting = Approval.objects.filter(status=Approval.Status.PENDING).defer("arguments").order_by("expires_at", "id")
    rows = [
        [
            _row_link("workflow_approval", approval.pk, f"#{approval.pk}"),
            approval.nova_id,
            approval.action,
            "its Nova is stopped" if approval.frozen_at else unbroken(timeuntil(approval.expires_at, now, depth=1)),
        ]
        for approval in waiting[:LISTED]
    ]
    return _part(
        "Waiting for your word", "approval", _counted(waiting), ["approval", "Nova", "wants to", "expires in"], rows,
        "Nobody waits for an approval.", "workflow_approval", {"status__exact": "pending"},
    )  # fmt: skip


def blocked_tasks(now: datetime) -> dict[str, Any]:
    """Give the tasks that cannot go on before somebody acts, the newest first."""
    blocked = Task.objects.filter(status="blocked", personal=False)
    newest = blocked.only("id", "title", "assignee", "block_owner", "block_action", "blocked_at").order_by("-created_at")
    rows = [
        [
            _row_link("workflow_task", task.pk, task.title[:80]),
            task.assignee_id or "open to all",
            f"{task.block_owner}: {task.block_action}",
            unbroken(timesince(task.blocked_at, now, depth=1)) if task.blocked_at else "-",
        ]
        for task in newest[:LISTED]
    ]
    return _part(
        "Blocked tasks", "lock", _counted(blocked), ["task", "assignee", "who can unblock it", "for"], rows,
        "No task is blocked.", "workflow_task", {"status__exact": "blocked"},
    )  # fmt: skip


def standing_orders(now: datetime) -> dict[str, Any]:
    """Give the orders to stop that nobody has lifted."""
    orders = Halt.objects.filter(lifted_at=None, drill=False).order_by("-id")
    rows = [
        [
            _row_link("workflow_halt", order.pk, f"#{order.pk}"),
            f"{order.kind} {order.target or 'the fleet'}",
            "confirmed" if order.settled_at else "not everybody has confirmed",
            order.reason,
            unbroken(timesince(order.requested_at, now, depth=1)),
        ]
        for order in orders[:LISTED]
    ]
    heads = ["order", "what", "how far", "why", "for"]
    return _part("Orders to stop", "front_hand", _counted(orders), heads, rows, "No order to stop stands.", "workflow_halt")


def workers(fleet: dict[str, FleetFact], now: datetime) -> dict[str, Any]:
    """Tell how machinery stands: outbox, intake, stream server, and the beat of every slot, reader and relay."""
    oldest = OutboxEntry.objects.order_by("id").values_list("created_at", flat=True).first()
    facts = [
        ("Outbox", "nothing waits to be published" if oldest is None else f"the oldest entry waits for {_age(oldest, now)}"),
        ("Intake", _fact(fleet.get("intake_lag"), now, lambda value: f"streams are read {float(value or 0):.1f} s late")),
        ("Stream server", _fact(fleet.get(STREAM_REACHABLE), now, lambda value: "answers" if value else "does not answer")),
    ]
    leases = Lease.objects.filter(Q(name__startswith="slot:") | Q(name__in=["intake", "relay"])).order_by("name")[:50]
    rows = [
        [_row_link("workflow_lease", lease.pk, lease.name), lease.holder or "nobody", *_beat(lease, now)] for lease in leases
    ]
    return {"facts": facts, "table": {"headers": ["lease", "holder", "last beat", ""], "rows": rows}}


def _beat(lease: Lease, now: datetime) -> tuple[str, SafeString]:
    """Tell a lease's last sign of life, and whether it is fresh; readers and relay show theirs by renewing."""
    if lease.heartbeat_at is not None:
        fresh = now - lease.heartbeat_at < timedelta(seconds=2 * settings.SLOT_SILENT_SECONDS)
        return f"{_age(lease.heartbeat_at, now)} ago", _chip("beats" if fresh else "silent", BEATS)
    if lease.expires_at is None:
        return "-", _chip("free", BEATS)
    return "-", _chip("held" if lease.expires_at > now else "silent", BEATS)


def _chip(word: str, labels: Mapping[str, str]) -> SafeString:
    """Show a word as the lists' labels do."""
    return render_to_string("unfold/helpers/label.html", {"text": word, "type": labels.get(word, "default")})


def _fact(fact: FleetFact | None, now: datetime, words: Any) -> str:
    if fact is None:
        return "nobody has looked yet"
    stale = "" if now - fact.observed_at < FACT_FRESH else f" (seen {_age(fact.observed_at, now)} ago)"
    return f"{words(fact.value)}{stale}"


def _age(since: datetime, now: datetime) -> str:
    seconds = max(0.0, (now - since).total_seconds())
    return f"{seconds:.0f} s" if seconds < 120 else timesince(since, now, depth=1)


def _row_link(page: str, key: Any, text: str) -> SafeString:
    return format_html(
        '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', reverse(f"admin:{page}_change", args=[key]), text
    )


def _counted(rows: QuerySet[Any]) -> str:
    """Count at most COUNTED rows: what is asked at every look must not read a table."""
    return _many(len(rows.order_by().values_list("pk")[: COUNTED + 1]))


def _many(number: int) -> str:
    return f"more than {COUNTED:,}" if number > COUNTED else f"{number:,}"


def _part(
    title: str, icon: str, count: str, heads: Sequence[str], rows: Sequence[Any], nothing: str, page: str,
    query: dict[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    url = reverse(f"admin:{page}_changelist")
    return {
        "title": title,
        "icon": icon,
        "count": count,
        "table": {"headers": heads, "rows": rows},
        "nothing": nothing,
        "url": f"{url}?{urlencode(query)}" if query else url,
    }
