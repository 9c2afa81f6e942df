"""One incident: what happened, what the system did, evidence, tasks, story; and what people say of it, with a reason each."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from reporting.core import charts
from reporting.core.safety_looks import INCIDENTS, mechanism_title
from reporting.core.words import plain
from reporting.fragments import demand, fragment, page
from reporting.incident_rows import is_offered, known
from reporting.pages.confirm import Outcome, Question, confirm
from safety.admin import may_read_texts
from safety.incident_services import apply_verb
from safety.models import SafetyIncident

RIGHT = "safety.change_safetyincident"
# verb -> what the button says, and what will happen
SAID: Mapping[str, tuple[str, str]] = {
    "acknowledge": ("Acknowledge", "Says that somebody looks at it. It stays open until its cause is over."),
    "mitigate": ("Mitigate", "Says what was done against it; its cause may last."),
    "resolve": (
        "Resolve", "Ends it; the reason is its conclusion. If its cause lasts, the judges open a new one at their next look.",
    ),
    "false-positive": ("False positive", "Ends it as no violation at all; the reason is its conclusion."),
    "note": ("Add a note", "Adds words to its story; nothing else changes."),
}  # fmt: skip


def found(incident_id: int) -> SafetyIncident:
    """Give an incident.

    :raises Http404: there is none.
    """
    incident = SafetyIncident.objects.filter(pk=incident_id).first()
    if incident is None:
        raise Http404
    return incident


@fragment("safety", "reporting/incident/body.html")
def incident_body(request: HttpRequest, now: datetime, incident_id: int) -> Mapping[str, Any]:
    """Give all that is known of an incident, and the verbs that would change it."""
    incident, texts = found(incident_id), may_read_texts(request)
    what = known(incident, texts=texts)
    measured, limit = incident.evidence.get("measured"), incident.evidence.get("limit")
    numbers = isinstance(measured, int | float) and isinstance(limit, int | float)
    return {
        "what": what,
        "incident": incident,
        "texts": texts,
        "measured": measured if numbers else None,
        "limit": limit,
        "gauge": _gauge(float(measured), float(limit)) if numbers else "",
        "verbs": [(verb, SAID[verb][0]) for verb in what.verbs] if request.user.has_perm(RIGHT) else [],
    }


def _gauge(measured: float, limit: float) -> str:
    """Draw what was measured as a bar, what is beyond the limit in another tone."""
    parts = [
        ("within the limit", min(measured, limit), "info"),
        ("beyond the limit", max(0.0, measured - limit), "bad"),
        ("left to the limit", max(0.0, limit - measured), "none"),
    ]
    title = f"{measured:g} measured, the limit is {limit:g}"
    return charts.stacked_bar(parts, title=title, chart_id="gauge", width=640, height=10)


@page("reporting/incident/page.html", "safety.view_safetyincident")
def incident(request: HttpRequest, now: datetime, incident_id: int) -> Mapping[str, Any]:
    """Show one incident."""
    one = found(incident_id)
    return {
        "incident": one,
        "mechanism": mechanism_title(one.mechanism),
        "body": incident_body.show(request, now, incident_id=incident_id),
    }


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def control_incident(request: HttpRequest, incident_id: int, verb: str) -> HttpResponse:
    """Ask for words, then say something of an incident."""
    demand(request, "safety.view_safetyincident")
    demand(request, RIGHT)
    if verb not in SAID:
        raise Http404
    one, (title, effect), back = found(incident_id), SAID[verb], reverse("incident", args=[incident_id])

    def act(reason: str, now: datetime) -> Outcome:
        if apply_verb(verb, incident_id, reason=reason, now=now):
            told = "Noted." if verb == "note" else f"Incident {incident_id} is {_status(incident_id)}."
            return Outcome(told, back)
        return Outcome(f"Incident {incident_id} needed no change: it is {_status(incident_id)}.", back, messages.INFO)

    facts = [
        ("Now", INCIDENTS[one.status].word),
        ("Nova", one.nova_id or "the whole fleet"),
        ("Mechanism", mechanism_title(one.mechanism)),
    ]
    if not is_offered(verb, one):
        effect = f"It is {plain(one.status)} already: this would change nothing, or is not possible."
    return confirm(request, Question(f"{title}: incident {incident_id}", title, effect, back, facts), act)


def _status(incident_id: int) -> str:
    return plain(found(incident_id).status)
