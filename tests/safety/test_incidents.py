"""Incidents: opened and alerted once, joined while they last, ended by their cause or by people, whose words stand."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from safety import audit, incident_services
from safety import facts as safety_facts
from safety.core.orchestrator import SafetyOrchestrator
from safety.core.status import FleetFacts, SafetyRules
from safety.facts import WorkflowSideFacts, load_facts
from safety.incident_services import MOVES, VERBS, IllegalIncidentMove, IncidentNotFound, WordsMissing, apply_verb
from safety.models import AuditEntry, SafetyIncident, SafetyState
from safety.observations import Kind, observe
from safety.verdicts import store_verdicts
from safety.violations import report_violation
from tests import factories
from workflow.streams.relay import Relay

pytestmark = pytest.mark.django_db

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
RULES = SafetyRules()
STATUSES = tuple(SafetyIncident.Status.values)


def look(now: datetime, nova_ids: Sequence[str] = ("torch",), *, fleet: FleetFacts | None = None) -> set[str]:
    """Let the judges look at Novas, as the engine does in each cycle."""
    work = dict.fromkeys(nova_ids, WorkflowSideFacts())
    facts = load_facts(nova_ids, dict.fromkeys(nova_ids, RULES), work, now, fleet=fleet or FleetFacts())
    verdicts = {nova_id: SafetyOrchestrator().judge(facts[nova_id], RULES, now) for nova_id in nova_ids}
    with transaction.atomic():
        return store_verdicts(verdicts, facts, now, announce=False)


def make_incident(now: datetime, status: str = "open", **fields: Any) -> SafetyIncident:
    defaults = {"nova_id": "torch", "mechanism": "frosty", "reason": "61 tool uses", "opened_at": now, "last_seen_at": now}
    if status in ("resolved", "false_positive"):
        defaults |= {"ended_at": now, "conclusion": "it is over"}
    return SafetyIncident.objects.create(status=status, **(defaults | fields))


def told() -> list[str]:
    entries = AuditEntry.objects.filter(object_type="incident").order_by("id").values_list("action", flat=True)
    return [action.removeprefix("safety.incident.") for action in entries]


def published(stream: Any, name: str) -> list[dict[bytes, bytes]]:
    found = stream.read({name: "0"}, count=100)
    return [dict(fields) for _, fields in found[0][1]] if found else []


class TestWords:
    @pytest.mark.parametrize("verb", MOVES)
    @pytest.mark.parametrize("status", STATUSES)
    def test_each_verb_is_for_its_statuses(self, now: datetime, verb: str, status: str) -> None:
        move, incident = MOVES[verb], make_incident(now, status)
        already = status in move.already or (status == move.target and move.ends)
        if status in move.starts and not already:
            assert apply_verb(verb, incident.pk, reason=" because ", now=now + MINUTE)
            incident.refresh_from_db()
            assert incident.status == move.target
            entry = AuditEntry.objects.get()
            assert (entry.action, entry.object_id, entry.reason) == (move.action, str(incident.pk), "because")
            assert (entry.before or {})["status"] == status
            assert (entry.after or {})["status"] == move.target
            return
        if already:
            assert not apply_verb(verb, incident.pk, reason="because", now=now + MINUTE)
        else:
            with pytest.raises(IllegalIncidentMove, match="nothing was changed"):
                apply_verb(verb, incident.pk, reason="because", now=now + MINUTE)
        before = SafetyIncident.objects.values().get()
        assert (before["status"], before["acknowledged_at"]) == (status, None)
        assert not told()

    @pytest.mark.parametrize("verb", VERBS)
    def test_each_needs_words_and_an_incident(self, now: datetime, verb: str) -> None:
        incident = make_incident(now)
        with pytest.raises(WordsMissing, match="Nothing was changed"):
            apply_verb(verb, incident.pk, reason=" \n", now=now)
        with pytest.raises(IncidentNotFound, match="nothing was changed"):
            apply_verb(verb, incident.pk + 1, reason="x", now=now)
        assert SafetyIncident.objects.get().status == "open"
        assert not told()

    @pytest.mark.parametrize("verb", VERBS)
    def test_saying_it_twice_is_saying_it_once(self, now: datetime, verb: str) -> None:
        incident = make_incident(now)
        assert apply_verb(verb, incident.pk, reason="x", now=now)
        after = SafetyIncident.objects.values().get()
        assert not apply_verb(verb, incident.pk, reason="x", now=now + MINUTE)
        assert SafetyIncident.objects.values().get() == after
        assert len(told()) == 1

    @pytest.mark.parametrize("verb", VERBS)
    def test_each_costs_the_same_however_long_the_story_is(
        self, now: datetime, verb: str, django_assert_max_num_queries: Any
    ) -> None:
        incident = make_incident(now)
        for number in range(30):
            incident_services.add_note(incident.pk, reason=f"note {number}", now=now)
        with django_assert_max_num_queries(11):
            apply_verb(verb, incident.pk, reason="x", now=now)

    def test_who_saw_it_first_is_kept(self, now: datetime) -> None:
        incident = make_incident(now)
        with audit.acting("user:ada"):
            incident_services.mitigate_incident(incident.pk, reason="the key was taken away", now=now + MINUTE)
        with audit.acting("user:bob"):
            incident_services.acknowledge_incident(incident.pk, reason="late", now=now + 2 * MINUTE)
            incident_services.resolve_incident(incident.pk, reason="a loop in its prompt", now=now + 3 * MINUTE)
        incident.refresh_from_db()
        assert (incident.acknowledged_by, incident.acknowledged_at) == ("user:ada", now + MINUTE)
        assert (incident.conclusion, incident.ended_at) == ("a loop in its prompt", now + 3 * MINUTE)
        assert told() == ["mitigated", "resolved"]

    def test_one_that_ended_by_itself_is_given_its_conclusion(self, now: datetime) -> None:
        incident = make_incident(now, "resolved", conclusion="")
        assert incident_services.resolve_incident(incident.pk, reason="the provider was slow", now=now + MINUTE)
        incident.refresh_from_db()
        assert (incident.conclusion, incident.ended_at) == ("the provider was slow", now)
        assert incident_services.mark_false_positive(incident.pk, reason="a test of ours", now=now + 2 * MINUTE)
        incident.refresh_from_db()
        assert (incident.status, incident.conclusion, incident.ended_at) == ("false_positive", "a test of ours", now)
        assert (AuditEntry.objects.latest("id").before or {})["conclusion"] == "the provider was slow"

    def test_notes_of_two_people_are_two_notes(self, now: datetime) -> None:
        incident = make_incident(now, "false_positive")
        for actor in ("user:ada", "user:bob"):
            with audit.acting(actor):
                assert incident_services.add_note(incident.pk, reason="seen", now=now)
        assert told() == ["noted", "noted"]


class TestWhatTheJudgesDo:
    def test_a_cause_that_ends_ends_what_was_acknowledged_and_keeps_who_did(self, now: datetime) -> None:
        observe("torch", Kind.TOOL_USE, now=now, count=61)
        look(now)
        incident_services.acknowledge_incident(SafetyIncident.objects.get().pk, reason="I look", now=now + SECOND)
        end = SafetyState.objects.get().until
        assert end is not None
        look(end)
        incident = SafetyIncident.objects.get()
        assert (incident.status, incident.ended_at, incident.acknowledged_at) == ("resolved", end, now + SECOND)
        assert told() == ["opened", "acknowledged", "ended"]

    def test_a_false_positive_stays_one_when_its_cause_ends(self, now: datetime) -> None:
        observe("torch", Kind.TOOL_USE, now=now, count=61)
        look(now)
        incident_services.mark_false_positive(SafetyIncident.objects.get().pk, reason="a load test", now=now + SECOND)
        for second in range(2, 6):
            look(now + timedelta(seconds=second))
        end = SafetyState.objects.get().until
        assert end is not None
        look(end)
        incident = SafetyIncident.objects.get()
        assert (incident.status, incident.conclusion, incident.ended_at) == ("false_positive", "a load test", now + SECOND)
        assert told() == ["opened", "false_positive"]

    def test_a_resolved_one_whose_cause_lasts_is_followed_by_one_more(self, now: datetime) -> None:
        observe("torch", Kind.TOOL_USE, now=now, count=61)
        look(now)
        until, since = SafetyState.objects.values_list("until", "since").get()
        incident_services.resolve_incident(SafetyIncident.objects.get().pk, reason="done", now=now + SECOND)
        assert not SafetyState.objects.get().is_safe  # nobody may act in between
        for second in range(2, 8):
            look(now + timedelta(seconds=second))
        first, second_one = SafetyIncident.objects.order_by("id")
        assert (first.status, first.conclusion) == ("resolved", "done")
        assert (second_one.status, second_one.opened_at, second_one.joined) == ("open", now + 2 * SECOND, 0)
        assert SafetyState.objects.values_list("until", "since").get() == (until, since)

    def test_the_verdict_of_another_mechanism_is_not_told_again(self, now: datetime) -> None:
        observe("torch", Kind.SESSION_EVENT, now=now, count=11)
        observe("torch", Kind.TOOL_USE, now=now, count=61)
        look(now)
        frosty = SafetyIncident.objects.get(mechanism="frosty")
        incident_services.resolve_incident(frosty.pk, reason="done", now=now + SECOND)
        assert look(now + 2 * SECOND) == set()

    def test_a_resolved_one_whose_cause_is_over_is_followed_by_none(self, now: datetime) -> None:
        incident = make_incident(now)
        incident_services.resolve_incident(incident.pk, reason="done", now=now)
        look(now + SECOND)
        assert SafetyIncident.objects.count() == 1

    def test_a_lasting_outage_that_was_resolved_is_one_incident_more_for_the_whole_fleet(self, now: datetime) -> None:
        away = FleetFacts(stream_reachable=False, stream_unreachable_since=now - MINUTE)
        novas = [f"nova-{number}" for number in range(5)]
        look(now, novas, fleet=away)
        incident = SafetyIncident.objects.get()
        assert (incident.nova_id, incident.mechanism) == ("", "stream_monitor")
        incident_services.resolve_incident(incident.pk, reason="done", now=now + SECOND)
        for second in range(2, 5):
            look(now + timedelta(seconds=second), novas, fleet=away)
        assert SafetyIncident.objects.count() == 2
        look(now + MINUTE, novas)
        assert SafetyIncident.objects.filter(ended_at=None).count() == 0


class TestAlerts:
    def test_an_incident_is_alerted_once_however_many_cycles_it_lasts(self, now: datetime, stream: Any) -> None:
        factories.make_installation()
        observe("torch", Kind.SESSION_EVENT, now=now, count=11)
        for second in range(10):
            look(now + timedelta(seconds=second))
        Relay(stream).relay_batch(now=now)
        assert [alert[b"mechanism"] for alert in published(stream, "nova.safety.torch")] == [b"hook_health"]
        (metric,) = published(stream, "nova.enterprise.metrics")
        assert (metric[b"metric_name"], metric[b"metric_value"], metric[b"nova_id"]) == (b"safety_violation", b"1", b"torch")

    def test_each_of_two_incidents_at_once_is_alerted(self, now: datetime, stream: Any) -> None:
        factories.make_installation()
        observe("torch", Kind.SESSION_EVENT, now=now, count=11)
        observe("torch", Kind.TOOL_USE, now=now, count=61)
        for second in range(5):
            look(now + timedelta(seconds=second))
        Relay(stream).relay_batch(now=now)
        alerts = published(stream, "nova.safety.torch")
        assert sorted(alert[b"mechanism"] for alert in alerts) == [b"frosty", b"hook_health"]
        assert {alert[b"is_safe"] for alert in alerts} == {b"false"}
        assert [metric[b"metric_value"] for metric in published(stream, "nova.enterprise.metrics")] == [b"2"]

    @pytest.mark.parametrize("unsafe_before", [False, True])
    def test_a_reported_violation_is_alerted_once(self, now: datetime, stream: Any, unsafe_before: bool) -> None:
        factories.make_installation()
        if unsafe_before:
            observe("torch", Kind.SESSION_EVENT, now=now, count=11)
            look(now)
        report_violation("torch", "tool_burst", {"count": 61}, now=now + SECOND)
        for second in range(1, 5):
            look(now + timedelta(seconds=second))
        Relay(stream).relay_batch(now=now)
        alerts = [alert[b"mechanism"] for alert in published(stream, "nova.safety.torch")]
        assert alerts.count(b"frosty") == 1
        assert len(alerts) == 1 + unsafe_before

    def test_an_outage_is_one_incident_and_one_metric_whoever_notices(self, now: datetime, stream: Any) -> None:
        factories.make_installation()
        novas = [f"nova-{number}" for number in range(20)]
        away = FleetFacts(stream_reachable=False, stream_unreachable_since=now - MINUTE)
        safety_facts.note_stream_lost(now)
        for second in range(1, 5):
            look(now + timedelta(seconds=second), novas, fleet=away)
        assert SafetyState.objects.filter(is_safe=False).count() == 20
        assert SafetyIncident.objects.get().nova_id == ""
        Relay(stream).relay_batch(now=now)
        assert [metric[b"metric_value"] for metric in published(stream, "nova.enterprise.metrics")] == [b"1"]
        assert all(not published(stream, f"nova.safety.{nova_id}") for nova_id in novas)
