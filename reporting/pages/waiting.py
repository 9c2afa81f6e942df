"""Waiting for you: what goes on only when a person has done something, with what to do beside it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from reporting import waiting_rows
from reporting.fragments import demand, fragment, page
from reporting.pages.confirm import Outcome, Question, confirm
from safety import incident_services
from safety.admin import may_read_texts
from safety.models import SafetyIncident
from workflow import approvals, halts
from workflow.models import Approval


@fragment("waiting", "reporting/waiting/number.html")
def waiting_number(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give how much waits, for the menu."""
    return {"number": waiting_rows.number_waiting(request.user.has_perm)}  # type: ignore[union-attr]


@fragment("waiting", "reporting/waiting/lists.html")
def waiting_lists(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give all that waits, as far as the reader may see it."""
    may = request.user.has_perm  # type: ignore[union-attr]
    approvals.settle(now=now)  # whoever looks sees what is true now, whether or not a loop runs
    halts.settle(now=now)
    owners, more = waiting_rows.owners() if may("workflow.view_task") else ([], False)
    orders = waiting_rows.orders().annotate(
        total=Count("confirmations"), confirmed=Count("confirmations", filter=Q(confirmations__status="confirmed"))
    )
    return {
        "texts": may_read_texts(request),
        "approvals": waiting_rows.listed(waiting_rows.approvals()),
        "owners": owners,
        "more_blocked": more,
        "incidents": waiting_rows.listed(waiting_rows.incidents()) if may("safety.view_safetyincident") else None,
        "orders": waiting_rows.listed(orders) if may("workflow.view_halt") else None,
        "number": waiting_rows.number_waiting(may),
    }


@page("reporting/waiting/page.html", "workflow.view_approval")
def waiting(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Show what waits."""
    return {"lists": waiting_lists.show(request, now)}


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def decide(request: HttpRequest, approval_id: int, verb: str) -> HttpResponse:
    """Ask why, then approve or deny exactly what was asked for."""
    demand(request, "workflow.change_approval")
    asked = Approval.objects.filter(pk=approval_id).first()
    if asked is None:
        raise Http404
    back = reverse("waiting")
    decision, past = (approvals.approve, "approved") if verb == "approve" else (approvals.deny, "denied")

    def act(reason: str, now: datetime) -> Outcome:
        decision(approval_id, reason=reason, now=now)
        return Outcome(f"{asked.action} for {asked.nova_id} is {past}.", back)

    facts = [("Nova", asked.nova_id), ("Wants to", asked.action), ("Now", asked.status)]
    facts += [(name, value if isinstance(value, str) else repr(value)) for name, value in asked.arguments.items()]
    if asked.reason:
        facts.append(("Because", asked.reason))
    effect = (
        "Lets exactly this be done, once, until the request expires."
        if verb == "approve"
        else "Lets it not be done. What was approved and not used yet is taken back."
    )
    title = verb.capitalize()
    return confirm(request, Question(f"{title} request {approval_id}", title, effect, back, facts, verb == "deny"), act)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def look_at(request: HttpRequest, incident_id: int) -> HttpResponse:
    """Ask who looks at an incident, then acknowledge it."""
    demand(request, "safety.view_safetyincident")
    demand(request, "safety.change_safetyincident")
    incident = SafetyIncident.objects.filter(pk=incident_id).first()
    if incident is None:
        raise Http404
    back = reverse("waiting")

    def act(reason: str, now: datetime) -> Outcome:
        changed = incident_services.acknowledge_incident(incident_id, reason=reason, now=now)
        if not changed:
            return Outcome("Somebody looks at it already.", back, messages.INFO)
        return Outcome(f"Incident {incident_id} is acknowledged.", back)

    facts = [("Nova", incident.nova_id or "the fleet"), ("Found by", incident.mechanism), ("What happened", incident.reason)]
    effect = "Says that somebody looks at it. What the mechanism did stays in force."
    return confirm(request, Question(f"Acknowledge incident {incident_id}", "Acknowledge", effect, back, facts), act)
