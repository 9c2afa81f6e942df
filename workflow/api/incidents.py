"""Incidents at the API: read, with their story; what people say of them; and a violation that somebody reports.

A Nova's key reads its own Nova's incidents and reports its own violations; it changes no incident.
"""

from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from safety import incident_services
from safety import texts as readers
from safety.bulk import json_text
from safety.core.mechanisms import MECHANISMS, STREAM_MONITOR
from safety.core.orchestrator import VIOLATION_TYPES, SafetyOrchestrator, without_details
from safety.core.redaction import fit
from safety.facts import STREAM_GAP
from safety.incident_services import IncidentNotFound
from safety.models import AuditEntry, SafetyIncident
from safety.violations import report_violation
from workflow.api.authentication import ACT_AS_NOVA, NovaAgent
from workflow.api.pages import Pages
from workflow.api.permits import own_nova
from workflow.api.serializers import Accepted, AnyCase, ReasonAccepted, Shown
from workflow.api.views import Door, choices_of
from workflow.incident_story import story
from workflow.safety_checks import check_safety

KNOWN_MECHANISMS = (*(judge.name for judge in MECHANISMS), STREAM_GAP)
DETAILS_LIMIT = 8 * 1024  # bytes of what a report tells
_LISTED = [
    "id", "nova_id", "mechanism", "status", "violation", "safety_level", "reason", "opened_at", "last_seen_at", "ended_at",
    "joined", "acknowledged_at", "acknowledged_by", "conclusion",
]  # fmt: skip


_MEASURED = ("measured", "limit", "safety_level", "recommended_action")  # of the evidence: what no stranger wrote


class IncidentShown(Shown):
    class Meta:
        model = SafetyIncident
        fields = _LISTED

    def to_representation(self, instance: SafetyIncident) -> Any:
        """Leave out for a viewer what somebody told of a violation, and who has looked at it."""
        shown = super().to_representation(instance)
        if not self.context.get("texts", True):
            shown |= {"reason": without_details(instance.reason), "acknowledged_by": "", "conclusion": ""}
            if "evidence" in shown:
                shown["evidence"] = {name: shown["evidence"][name] for name in _MEASURED if name in shown["evidence"]}
        return shown


class IncidentDetailShown(IncidentShown):
    class Meta:
        model = SafetyIncident
        fields = [*_LISTED, "evidence"]


class ToldShown(Shown):
    """A line of the story: the journal's entry, without what only auditors read there."""

    class Meta:
        model = AuditEntry
        fields = ["id", "created_at", "action", "actor", "object_type", "object_id", "reason"]


class ViolationAccepted(Accepted):
    type = AnyCase(
        choices=VIOLATION_TYPES,
        error_messages={"invalid_choice": f"No such type of violation; known are {', '.join(VIOLATION_TYPES)}."},
    )
    details = serializers.DictField(required=False, default=dict)

    def validate_details(self, details: dict[str, Any]) -> Any:
        if len(json_text(details).encode()) > DETAILS_LIMIT:
            raise serializers.ValidationError(f"Longer than {DETAILS_LIMIT} bytes.", "too_long")
        return fit(details)


class IncidentDoor(Door):
    """A door that a Nova's key may look through, at its own incidents only."""

    permissions_needed = {"GET": "safety.view_safetyincident"}

    def check_permissions(self, request: Request) -> None:
        if isinstance(request.user, NovaAgent) and request.method in ("GET", "HEAD"):
            return
        super().check_permissions(request)

    @staticmethod
    def visible(request: Request) -> Any:
        """Give the incidents that the caller may know of."""
        rows = SafetyIncident.objects.all()
        return rows.filter(nova_id=request.user.nova_id) if isinstance(request.user, NovaAgent) else rows


class IncidentList(IncidentDoor):
    """Incidents, newest first; `open=true`: those whose cause lasts and that nobody ended."""

    parameters = frozenset({"status", "mechanism", "nova_id", "open"})
    _pages: Pages[SafetyIncident] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows, query = self.visible(request).defer("evidence"), request.query_params
        if mechanisms := choices_of(request, "mechanism", list(KNOWN_MECHANISMS)):
            rows = rows.filter(mechanism__in=mechanisms)
        if "nova_id" in query:  # empty: the fleet's
            rows = rows.filter(nova_id=query["nova_id"])
        if query.get("open") == "true":
            rows = rows.filter(ended_at=None)
        context = {"texts": may_read_texts(request)}

        def show(found: list[SafetyIncident]) -> list[Any]:
            return list(IncidentShown(found, many=True, context=context).data)

        # one part for each status, along its own index
        statuses = choices_of(request, "status", list(SafetyIncident.Status.values))
        parts = [rows.filter(status=status) for status in statuses] or [rows]
        return Response(self._pages.answer(request, parts, show))


class IncidentDetail(IncidentDoor):
    """One incident, with its evidence and its story."""

    def get(self, request: Request, incident_id: str) -> Response:
        incident = self.visible(request).filter(pk=int(incident_id)).first()
        if incident is None:
            raise IncidentNotFound(f"There is no incident {incident_id}.")
        return Response(show_incident(incident, texts=may_read_texts(request)))


class IncidentVerb(Door):
    """POST with a reason: what was found or done. Answers the incident as it stands then; a second time changes nothing."""

    permissions_needed = {"POST": "safety.change_safetyincident"}

    def post(self, request: Request, incident_id: str, verb: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        incident_services.apply_verb(verb, int(incident_id), reason=reason, now=self.now)
        return Response(show_incident(SafetyIncident.objects.get(pk=int(incident_id))))


class ViolationReport(Door):
    """POST {type, details}: report that a Nova broke a limit. Answers what is done about it; the judges look at once."""

    permissions_needed = {"POST": "safety.change_safetyincident"}

    def check_permissions(self, request: Request) -> None:
        if not (isinstance(request.user, NovaAgent) and request.user.has_perm(ACT_AS_NOVA)):
            super().check_permissions(request)

    def post(self, request: Request, nova_id: str) -> Response:
        data = self.accept(ViolationAccepted).validated_data
        nova = own_nova(request, nova_id)
        fleets = SafetyOrchestrator().handle_safety_violation(data["type"], {}).mechanism == STREAM_MONITOR
        if fleets and isinstance(request.user, NovaAgent):
            raise PermissionDenied("That is the whole fleet's matter, and this key speaks for one Nova. Nothing was changed.")
        report = report_violation(nova_id, data["type"], data["details"], now=self.now, rules=nova.policy.rules)
        verdict = check_safety([nova_id], now=self.now)[nova_id].status
        incidents = SafetyIncident.objects.filter(nova_id="" if fleets else nova_id, mechanism=report.mechanism)
        return Response(
            {
                "incident": IncidentShown(incidents.latest("id")).data,
                "recommended_action": report.recommended_action,
                "safety_level": report.safety_level.value,
                "is_safe": verdict.is_safe,
            },
            status=201,
        )


def may_read_texts(request: Request) -> bool:
    """Tell whether the caller may read what was told of an incident: an agent what concerns its own Nova, a viewer nothing."""
    return isinstance(request.user, NovaAgent) or readers.may_read(request.user)


def show_incident(incident: SafetyIncident, *, texts: bool = True) -> dict[str, Any]:
    """Show an incident with its evidence and its story; without `texts` nobody's words and names."""
    told = story(incident)
    lines = list(ToldShown(told.entries, many=True).data)
    if not texts:
        lines = [{**line, "actor": "", "reason": ""} for line in lines]
    return {**IncidentDetailShown(incident, context={"texts": texts}).data, "story": lines, "story_complete": told.complete}
