"""A reported violation: what its mechanism remembers, its one incident and its story, and that the judges then object."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from safety.core.orchestrator import SafetyOrchestrator
from safety.core.status import FleetFacts, SafetyFacts, SafetyLevel, SafetyRules
from safety.facts import WorkflowSideFacts, load_facts
from safety.models import AuditEntry, SafetyIncident, SafetyState
from safety.violations import report_violation

pytestmark = pytest.mark.django_db

RULES = SafetyRules()


def facts_of(now: datetime) -> SafetyFacts:
    return load_facts(["torch"], {"torch": RULES}, {"torch": WorkflowSideFacts()}, now, fleet=FleetFacts())["torch"]


def story() -> list[str]:
    return list(AuditEntry.objects.filter(object_type="incident").order_by("id").values_list("action", flat=True))


@pytest.mark.parametrize(
    ("kind", "mechanism", "level"),
    [
        ("api_hammering", "api_guardian", SafetyLevel.COOLDOWN),
        ("system_overload", "really_chill_willy", SafetyLevel.MEDITATION),
        ("hook_failure", "hook_health", SafetyLevel.COOLDOWN),
        ("session_storm", "hook_health", SafetyLevel.QUARANTINE),
        ("hook_tampering", "hook_health", SafetyLevel.QUARANTINE),
        ("tool_burst", "frosty", SafetyLevel.COOLDOWN),
        ("completion_drift", "frosty", SafetyLevel.COOLDOWN),
        ("never_heard_of", "hook_health", SafetyLevel.QUARANTINE),
    ],
)
def test_each_kind_makes_its_mechanism_object(now: datetime, kind: str, mechanism: str, level: SafetyLevel) -> None:
    report_violation("torch", kind, {"count": 7}, now=now)
    status = SafetyOrchestrator().judge(facts_of(now), RULES, now).status
    assert (status.is_safe, status.mechanism, status.safety_level) == (False, mechanism, level)
    incident = SafetyIncident.objects.get()
    assert (incident.nova_id, incident.mechanism, incident.violation) == ("torch", mechanism, kind)
    assert incident.evidence["count"] == 7
    assert story() == ["safety.incident.opened"]


def test_a_second_report_joins_the_incident_and_adds_its_evidence(now: datetime) -> None:
    for number, name in enumerate(("first", "second")):
        report_violation("torch", "session_storm", {name: number}, now=now + timedelta(seconds=number))
    incident = SafetyIncident.objects.get()
    assert incident.joined == 1
    assert {"first": 0, "second": 1}.items() <= incident.evidence.items()
    assert story() == ["safety.incident.opened", "safety.incident.joined"]


def test_what_is_in_force_is_never_shortened(now: datetime) -> None:
    longer = now + timedelta(days=1)
    SafetyState.objects.create(nova_id="torch", quarantine_until=longer, quarantine_reason="before")
    report_violation("torch", "session_storm", {}, now=now)
    state = SafetyState.objects.get()
    assert (state.quarantine_until, state.quarantine_reason) == (longer, "before")


def test_a_lost_stream_server_is_the_fleets(now: datetime) -> None:
    report_violation("torch", "stream_lost", {}, now=now)
    assert SafetyIncident.objects.get().nova_id == ""
    assert not SafetyState.objects.exists()


def test_enterprise_monitoring_hears_of_an_incident_once(now: datetime, stream: Any) -> None:
    from tests import factories
    from workflow.streams.relay import Relay

    factories.make_installation()
    for seconds in range(3):
        report_violation("torch", "session_storm", {}, now=now + timedelta(seconds=seconds))
    Relay(stream).relay_batch(now=now)
    metrics = [dict(fields) for _, fields in stream.read({"nova.enterprise.metrics": "0"}, count=10)[0][1]]
    assert [metric[b"metric_name"] for metric in metrics] == [b"safety_violation"]
    assert metrics[0][b"nova_id"] == b"torch"
