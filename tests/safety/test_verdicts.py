"""Verdicts are stored when they change: one row, one incident, one journal entry a change; the fleet's once for all."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from safety.core.orchestrator import HEALTHY, SafetyOrchestrator
from safety.core.status import FleetFacts, SafetyRules
from safety.facts import WorkflowSideFacts, load_facts, note_stream_lost
from safety.models import AuditEntry, OutboxEntry, SafetyIncident, SafetyState
from safety.observations import Kind, Seen, observe, observe_many
from safety.verdicts import store_verdicts

pytestmark = pytest.mark.django_db

RULES = SafetyRules()
FLEET = FleetFacts()
_ORCHESTRATOR = SafetyOrchestrator()


def cycle(
    now: datetime,
    nova_ids: Sequence[str] = ("torch",),
    *,
    fleet: FleetFacts = FLEET,
    work: WorkflowSideFacts | None = None,
    rules: SafetyRules = RULES,
) -> set[str]:
    """Do what the engine does in a cycle, as far as safety goes; give whose verdict changed."""
    work_of = dict.fromkeys(nova_ids, work or WorkflowSideFacts())
    facts = load_facts(nova_ids, dict.fromkeys(nova_ids, rules), work_of, now, fleet=fleet)
    verdicts = {nova_id: _ORCHESTRATOR.judge(facts[nova_id], rules, now) for nova_id in nova_ids}
    with transaction.atomic():
        return store_verdicts(verdicts, facts, now, announce=False)


def state_of(nova_id: str = "torch") -> Any:
    return SafetyState.objects.get(nova_id=nova_id)


def actions(nova_id: str = "") -> list[str]:
    return list(
        AuditEntry.objects.filter(nova_id=nova_id)
        .exclude(object_type="incident")
        .order_by("id")
        .values_list("action", flat=True)
    )


def test_a_healthy_nova_leaves_no_trace(now, django_assert_num_queries):
    facts = load_facts(["torch"], {}, {"torch": WorkflowSideFacts()}, now, fleet=FLEET)
    with django_assert_num_queries(0):
        assert store_verdicts({"torch": HEALTHY}, facts, now) == set()
    assert not SafetyState.objects.exists()


def test_a_burst_cools_a_nova_down_and_it_comes_back(now):
    observe("torch", Kind.TOOL_USE, now=now, count=61)
    assert cycle(now) == {"torch"}
    state = state_of()
    assert (state.is_safe, state.safety_level, state.mechanism) == (False, "cooldown", "frosty")
    assert (state.measured, state.limit, state.since) == (61, 60, now)
    assert state.cooldown_until == state.until
    assert state.cooldowns_in_a_row == 1
    assert actions("torch") == ["safety.nova.unsafe"]

    for second in range(1, 30):  # every cycle of the pause finds the same
        assert cycle(now + timedelta(seconds=second)) == set()
    assert actions("torch") == ["safety.nova.unsafe"]
    assert SafetyIncident.objects.count() == 1

    end = state.until
    assert cycle(end) == {"torch"}
    assert actions("torch") == ["safety.nova.unsafe", "safety.nova.safe"]
    state.refresh_from_db()
    assert (state.is_safe, state.mechanism, state.cooldown_until, state.last_cooldown_end) == (True, "", None, end)
    incident = SafetyIncident.objects.get()
    assert (incident.status, incident.opened_at, incident.ended_at) == ("resolved", now, end)
    for second in range(0, 120, 5):
        assert cycle(end + timedelta(seconds=second)) == set()


def test_hammering_on_through_a_cooldown_doubles_it(now):
    for second in range(0, 90):
        observe("torch", Kind.TOOL_USE, now=now + timedelta(seconds=second), count=5)
    cycle(now + timedelta(seconds=20))
    first = state_of().until
    assert cycle(first) == {"torch"}
    state = state_of()
    assert state.cooldowns_in_a_row == 2
    assert state.until - first >= timedelta(seconds=60)
    assert actions("torch") == ["safety.nova.unsafe"] * 2
    assert SafetyIncident.objects.filter(ended_at=None).count() == SafetyIncident.objects.count() == 1


def test_the_message_on_the_stream_says_all_in_text(now):
    observe("torch", Kind.TOOL_USE, now=now, count=61)
    cycle(now)
    entry = AuditEntry.objects.get(action="safety.nova.unsafe")
    assert entry.stream == "nova.safety.torch"
    opened = AuditEntry.objects.get(action="safety.incident.opened")  # enterprise monitoring hears of it by the relay
    assert OutboxEntry.objects.get().entry_ids == [entry.id, opened.id]
    until = state_of().until
    assert entry.message == {
        "nova_id": "torch",
        "is_safe": "false",
        "safety_level": "cooldown",
        "mechanism": "frosty",
        "reason": "61 tool uses in the last minute, more than the 60 allowed.",
        "measured": "61",
        "limit": "60",
        "since": "2026-11-20T12:00:00+00:00",
        "expires_at": until.isoformat(),
        "recommended_action": "activate_cooldown",
        "timestamp": "2026-11-20T12:00:00+00:00",
    }
    cycle(until)
    last = AuditEntry.objects.exclude(object_type="incident").latest("id").message or {}
    assert (last["is_safe"], last["safety_level"], last["mechanism"], last["expires_at"]) == ("true", "normal", "", "")


def test_a_worse_verdict_takes_over_and_each_has_its_incident(now):
    observe("torch", Kind.TOOL_USE, now=now, count=61)
    cycle(now)
    observe("torch", Kind.SESSION_EVENT, now=now + timedelta(seconds=1), count=11)
    cycle(now + timedelta(seconds=2))
    assert set(SafetyIncident.objects.filter(ended_at=None).values_list("mechanism", flat=True)) == {"frosty", "hook_health"}
    assert state_of().safety_level == "quarantine"
    cycle(now + timedelta(minutes=31))
    assert not SafetyIncident.objects.filter(ended_at=None).exists()
    assert actions("torch") == ["safety.nova.unsafe", "safety.nova.unsafe", "safety.nova.safe"]


def test_what_an_operator_said_of_an_incident_is_kept(now):
    observe("torch", Kind.TOOL_USE, now=now, count=61)
    cycle(now)
    SafetyIncident.objects.update(status="false_positive")
    cycle(now + timedelta(minutes=2))
    incident = SafetyIncident.objects.get()
    assert (incident.status, incident.ended_at) == ("false_positive", now + timedelta(minutes=2))


def test_work_without_hooks_pauses_a_nova_until_they_are_heard_again(now):
    observe("torch", Kind.HOOK_HEARTBEAT, now=now)
    assert cycle(now + timedelta(minutes=6)) == set()
    observe("torch", Kind.WORK_EVIDENCE, now=now + timedelta(minutes=6))
    assert cycle(now + timedelta(minutes=6)) == {"torch"}
    assert cycle(now + timedelta(minutes=7)) == set()
    observe("torch", Kind.HOOK_HEARTBEAT, now=now + timedelta(minutes=8))
    assert cycle(now + timedelta(minutes=8)) == {"torch"}
    state = state_of()
    assert state.is_safe
    assert state.hooks_expected
    assert state.last_hook_heartbeat == now + timedelta(minutes=8)


def test_a_flood_of_requests_cools_down_once_until_its_minute_is_over(now):
    observe("torch", Kind.API_REQUEST, now=now, count=31)
    changes = [cycle(now + timedelta(seconds=second)) for second in range(0, 100, 2)]
    assert [len(change) for change in changes].count(1) == 2
    assert actions("torch") == ["safety.nova.unsafe", "safety.nova.safe"]
    assert set(SafetyIncident.objects.values_list("mechanism", flat=True)) == {"api_guardian"}


def test_stress_is_timed_meditated_away_and_told(now):
    stressed = FleetFacts(cpu_load=4.0, memory_ratio=0.95)
    cycle(now, fleet=stressed)
    assert actions("torch") == []  # watched, no more
    assert state_of().safety_level == "elevated"
    assert cycle(now + timedelta(seconds=30), fleet=stressed) == set()
    cycle(now + timedelta(seconds=60), fleet=stressed)
    assert state_of().until == now + timedelta(minutes=31)
    assert cycle(now + timedelta(minutes=20)) == set()
    assert cycle(now + timedelta(minutes=31)) == {"torch"}
    assert actions("torch") == ["safety.nova.unsafe", "safety.nova.safe"]


def test_what_a_nova_could_not_do_while_it_was_stopped_is_no_drift(now):
    waiting = WorkflowSideFacts(has_claimable_work=True, last_task_change=now, active_since=now)
    away = FleetFacts(stream_reachable=False, stream_unreachable_since=now + timedelta(minutes=20))
    cycle(now)
    assert cycle(now + timedelta(minutes=22), fleet=away, work=waiting) == {"torch"}
    assert cycle(now + timedelta(minutes=40), work=waiting) == {"torch"}
    assert state_of().is_safe
    assert state_of().since == now + timedelta(minutes=40)
    assert cycle(now + timedelta(minutes=69), work=waiting) == set()
    assert cycle(now + timedelta(minutes=71), work=waiting) == {"torch"}
    assert state_of().mechanism == "frosty"


def test_the_whole_fleet_waits_for_the_stream_server_on_one_incident(now):
    nova_ids = [f"nova-{number}" for number in range(20)]
    note_stream_lost(now)
    lost = FleetFacts(stream_reachable=False, stream_unreachable_since=now, round_trip=None)
    for second in range(3, 8):
        cycle(now + timedelta(seconds=second), nova_ids, fleet=lost)
    assert SafetyState.objects.filter(is_safe=False, mechanism="stream_monitor").count() == 20
    assert SafetyIncident.objects.count() == 1
    assert list(AuditEntry.objects.exclude(object_type="incident").values_list("action", flat=True)) == ["safety.stream.lost"]
    assert cycle(now + timedelta(seconds=9), nova_ids) == set(nova_ids)
    assert SafetyState.objects.filter(is_safe=True).count() == 20


def test_a_lagging_wire_is_told_once_for_the_fleet_and_its_end_once(now):
    lagging = FleetFacts(intake_lag=timedelta(minutes=2))
    for second in range(5):
        for batch in (["torch", "echo"], ["helix"]):
            cycle(now + timedelta(seconds=second), batch, fleet=lagging)
    assert actions() == ["safety.fleet.unsafe"]
    incident = SafetyIncident.objects.get()
    assert (incident.nova_id, incident.mechanism) == ("", "stream_monitor")
    for batch in (["torch", "echo"], ["helix"]):
        cycle(now + timedelta(seconds=9), batch)
    assert actions() == ["safety.fleet.unsafe", "safety.fleet.safe"]
    assert SafetyIncident.objects.get().ended_at == now + timedelta(seconds=9)


def test_a_verdict_and_its_entry_stand_or_fall_together(now):
    observe("torch", Kind.TOOL_USE, now=now, count=61)

    class Crash(Exception):
        pass

    def commit() -> None:
        with transaction.atomic():
            cycle(now)
            raise Crash

    with pytest.raises(Crash):
        commit()
    assert not SafetyState.objects.exists()
    assert not AuditEntry.objects.exists()
    assert not SafetyIncident.objects.exists()
    assert cycle(now) == {"torch"}


@pytest.mark.parametrize("count", [1, 50, 128])
def test_the_number_of_queries_does_not_grow_with_the_batch(
    now, count, django_assert_max_num_queries, django_assert_num_queries
):
    nova_ids = [f"nova-{number:03d}" for number in range(count)]
    observe_many([Seen(nova_id, Kind.TOOL_USE, 61) for nova_id in nova_ids], now=now)
    with django_assert_max_num_queries(10):  # two to load, two of the transaction, six to write
        assert len(cycle(now, nova_ids)) == count
    with django_assert_num_queries(4):
        assert cycle(now + timedelta(seconds=1), nova_ids) == set()
    with django_assert_max_num_queries(10):
        assert len(cycle(now + timedelta(minutes=5), nova_ids)) == count
    assert AuditEntry.objects.exclude(object_type="incident").count() == 2 * count
