"""Observe: a candidate is judged by what the Nova did, under its own limits and memory; blocks are recorded, no more."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from safety import observe, verdicts
from safety.core.orchestrator import SafetyOrchestrator
from safety.core.status import FleetFacts, SafetyRules
from safety.facts import WorkflowSideFacts, load_facts
from safety.models import AuditEntry, CandidateVerdict, OutboxEntry, SafetyIncident, SafetyState
from safety.observations import Kind, Seen, observe_many
from safety.observations import observe as see
from safety.observe import Candidate, Opinion
from safety.verdicts import store_verdicts
from safety.violations import report_violation

pytestmark = pytest.mark.django_db

STANDARD = SafetyRules()
CALM = replace(STANDARD, tool_uses_per_minute=30)
FLEET = FleetFacts()
_ORCHESTRATOR = SafetyOrchestrator()


def opinions_of(
    now: datetime,
    candidates: Mapping[str, Candidate],
    nova_ids: Sequence[str] = ("torch",),
    *,
    rules: SafetyRules = STANDARD,
    fleet: FleetFacts = FLEET,
    work: WorkflowSideFacts | None = None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Opinion]]:
    facts = load_facts(
        nova_ids, dict.fromkeys(nova_ids, rules), dict.fromkeys(nova_ids, work or WorkflowSideFacts()), now, fleet=fleet
    )
    said = {nova_id: _ORCHESTRATOR.judge(facts[nova_id], rules, now) for nova_id in nova_ids}
    return facts, said, observe.judge_candidates(candidates, facts, said, now)


def cycle(
    now: datetime, rules: SafetyRules = CALM, *, policy: str = "calm", nova_ids: Sequence[str] = ("torch",), **more: Any
) -> set[str]:
    """Do what the engine does in a cycle, as far as safety goes; give the Novas of which the candidate thinks anew."""
    facts, said, opinions = opinions_of(now, dict.fromkeys(nova_ids, Candidate(policy, rules)), nova_ids, **more)
    with transaction.atomic():
        store_verdicts(said, facts, now, announce=False)
        return observe.record_opinions(opinions, now)


def seen(nova_id: str = "torch") -> CandidateVerdict:
    return CandidateVerdict.objects.get(nova_id=nova_id)


def journal(nova_id: str = "torch") -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(nova_id=nova_id, action__startswith="safety.candidate").order_by("id"))


def actions(nova_id: str = "torch") -> list[str]:
    return [entry.action.rpartition(".")[2] for entry in journal(nova_id)]


def test_what_it_would_have_blocked_is_recorded_and_nothing_follows(now):
    see("torch", Kind.TOOL_USE, now=now, count=31)
    assert cycle(now) == {"torch"}
    row = seen()
    assert (row.policy, row.is_safe, row.mechanism, row.measured, row.limit) == ("calm", False, "frosty", 31, 30)
    assert (row.blocks, row.last_block_at, row.since, row.observed_since) == (1, now, now, now)
    assert row.reason == "31 tool uses in the last minute, more than the 30 allowed."
    assert not SafetyIncident.objects.exists()
    assert not SafetyState.objects.exists()
    assert not OutboxEntry.objects.exists()
    (entry,) = journal()
    assert entry == AuditEntry.objects.get()
    assert (entry.action, entry.object_type, entry.object_id, entry.stream) == (observe.WOULD_BLOCK, "nova", "torch", "")
    assert entry.reason == row.reason
    said = entry.after["enforced"]
    assert (said["is_safe"], said["safety_level"], said["mechanism"]) == (True, "normal", "")
    assert {name: entry.after[name] for name in ("policy", "blocks", "mechanism", "measured", "limit", "safety_level")} == {
        "policy": "calm", "blocks": 1, "mechanism": "frosty", "measured": 31, "limit": 30, "safety_level": "cooldown",
    }  # fmt: skip
    assert row.memory["enforced"] == said


def test_one_block_is_journalled_once_and_so_is_its_end(now):
    see("torch", Kind.TOOL_USE, now=now, count=31)
    assert [len(cycle(now + timedelta(seconds=second))) for second in range(120)].count(1) == 2
    assert actions() == ["would_block", "would_allow"]
    row = seen()
    assert (row.is_safe, row.blocks, row.last_block_at) == (True, 1, now)
    assert row.since > now + timedelta(seconds=30)
    assert (row.mechanism, row.measured) == ("frosty", 31)  # the newest block is still told
    ended = journal()[1]
    assert ended.before["mechanism"] == "frosty"
    assert ended.after["enforced"]["is_safe"]
    assert not ended.stream


def test_nothing_is_written_while_the_candidate_thinks_as_before(now, django_assert_num_queries):
    cycle(now)
    see("torch", Kind.TOOL_USE, now=now + timedelta(seconds=1), count=31)
    cycle(now + timedelta(seconds=1))
    *_, opinions = opinions_of(now + timedelta(seconds=2), {"torch": Candidate("calm", CALM)})
    assert not opinions["torch"].verdict.status.is_safe
    with django_assert_num_queries(0):
        assert observe.record_opinions(opinions, now + timedelta(seconds=2)) == set()


def test_a_nova_that_goes_on_through_a_block_is_blocked_anew_after_it_not_twice_as_long(now):
    for second in range(0, 200):  # 40 a minute, all the time: nobody stops it
        if second % 3 != 2:
            see("torch", Kind.TOOL_USE, now=now + timedelta(seconds=second))
        cycle(now + timedelta(seconds=second))
    assert actions()[:3] == ["would_block", "would_allow", "would_block"]
    first, second_block = [entry.created_at for entry in journal() if entry.action == observe.WOULD_BLOCK][:2]
    # the candidate needs as many tool uses again, made after its cooldown: it would have prevented the others
    end = journal()[1].created_at
    assert second_block - end > timedelta(seconds=40)
    assert first < end < second_block
    assert seen().memory["cooldowns_in_a_row"] == 2


def test_the_hour_counts_what_was_done_whatever_the_candidate_would_have_stopped(now):
    strict = replace(STANDARD, requests_per_minute=5, requests_per_hour=12)
    for minute in (0, 5, 10):
        see("torch", Kind.API_REQUEST, now=now + timedelta(minutes=minute), count=6)
        cycle(now + timedelta(minutes=minute), strict)
        cycle(now + timedelta(minutes=minute + 4), strict)
    row = seen()
    assert (row.is_safe, row.blocks) == (False, 3)
    assert "cooldown_until" not in row.memory  # that is over, the hour is not
    assert cycle(now + timedelta(minutes=66), strict) == {"torch"}


def test_windows_have_the_candidates_lengths(now):
    shorter = replace(STANDARD, failure_window=timedelta(minutes=1))
    longer = replace(STANDARD, failure_window=timedelta(minutes=10))
    observe_many([Seen("torch", Kind.TOOL_USE, 6), Seen("torch", Kind.TOOL_FAILURE, 6)], now=now)
    at = now + timedelta(minutes=3)
    facts, said, opinions = opinions_of(at, {"torch": Candidate("shorter", shorter)})
    assert facts["torch"].failures_in_failure_window == 6
    assert not said["torch"].status.is_safe
    assert opinions["torch"].verdict.status.is_safe
    later = now + timedelta(minutes=8)
    facts, said, opinions = opinions_of(later, {"torch": Candidate("longer", longer)})
    assert said["torch"].status.is_safe
    assert opinions["torch"].verdict.status.measured == 6
    burst = replace(STANDARD, burst_requests=10, burst_window=timedelta(seconds=30))
    see("echo", Kind.API_REQUEST, now=now, count=6)
    see("echo", Kind.API_REQUEST, now=now + timedelta(seconds=20), count=6)
    _, said, opinions = opinions_of(now + timedelta(seconds=21), {"echo": Candidate("burst", burst)}, ["echo"])
    assert said["echo"].status.is_safe
    assert "12 requests in last 30 s" in opinions["echo"].verdict.status.reason


def test_a_cooldown_of_the_enforced_policy_is_not_the_candidates(now):
    lax = replace(STANDARD, tool_uses_per_minute=100)
    see("torch", Kind.TOOL_USE, now=now, count=61)
    cycle(now, lax, policy="lax")
    assert not SafetyState.objects.get().is_safe
    row = seen()
    assert (row.is_safe, row.blocks, row.memory) == (True, 0, {})
    cycle(now + timedelta(seconds=5), lax, policy="lax")
    assert actions() == []


def test_what_others_imposed_on_the_nova_is_not_the_candidates(now):
    report_violation("torch", "hook_tampering", {"changed": "settings"}, now=now)
    report_violation("torch", "api_hammering", {"refusals": 11}, now=now)
    report_violation("torch", "system_overload", {}, now=now)
    report_violation("torch", "tool_burst", {}, now=now)
    cycle(now, STANDARD)
    assert SafetyState.objects.get().safety_level == "quarantine"
    assert (seen().is_safe, seen().memory) == (True, {})


def test_what_the_enforced_policy_said_at_the_block_is_kept(now):
    see("torch", Kind.TOOL_USE, now=now, count=61)
    cycle(now)
    said = journal()[0].after["enforced"]
    assert (said["is_safe"], said["mechanism"], said["safety_level"]) == (False, "frosty", "cooldown")
    assert "more than the 60 allowed" in said["reason"]
    assert "more than the 30 allowed" in seen().reason


def test_idleness_that_the_enforced_policy_caused_is_no_drift(now):
    hasty = replace(STANDARD, drift_without_task_change=timedelta(minutes=5))
    work = WorkflowSideFacts(has_claimable_work=True, last_task_change=now - timedelta(minutes=4))
    see("torch", Kind.SESSION_EVENT, now=now, count=11)
    storm = replace(hasty, session_events_per_minute=100)
    cycle(now, storm, work=work)
    assert cycle(now + timedelta(minutes=10), storm, work=work) == set()
    assert not SafetyState.objects.get().is_safe
    assert actions() == []
    free = WorkflowSideFacts(has_claimable_work=True, last_task_change=now + timedelta(minutes=31))
    assert cycle(now + timedelta(minutes=37), storm, work=free) == {"torch"}
    assert "no task changed for" in seen().reason


def test_a_quarantine_and_a_meditation_of_the_candidate_last_as_long_as_it_says(now):
    short = replace(STANDARD, session_events_per_minute=5, quarantine=timedelta(minutes=2))
    see("torch", Kind.SESSION_EVENT, now=now, count=6)
    cycle(now, short)
    assert cycle(now + timedelta(seconds=119), short) == set()
    assert cycle(now + timedelta(seconds=120), short) == {"torch"}
    calm = replace(STANDARD, meditation_stress=30.0, stress_sustained=timedelta(seconds=10), meditation=timedelta(minutes=3))
    stressed = FleetFacts(cpu_load=4.0)
    begin = now + timedelta(minutes=10)
    cycle(begin, calm, nova_ids=["echo"], fleet=stressed)
    assert seen("echo").memory.keys() == {"stressed_since"}  # what judges time is kept without a word
    cycle(begin + timedelta(seconds=10), calm, nova_ids=["echo"], fleet=stressed)
    assert (seen("echo").mechanism, seen("echo").is_safe) == ("really_chill_willy", False)
    assert cycle(begin + timedelta(seconds=180), calm, nova_ids=["echo"]) == set()
    assert cycle(begin + timedelta(seconds=190), calm, nova_ids=["echo"]) == {"echo"}
    assert actions("echo") == ["would_block", "would_allow"]


def test_other_limits_of_the_wire_are_recorded_nova_by_nova(now):
    impatient = replace(STANDARD, intake_lag_limit=timedelta(seconds=5))
    lagging = FleetFacts(intake_lag=timedelta(seconds=20))
    novas = ["echo", "torch"]
    assert cycle(now, impatient, nova_ids=novas, fleet=lagging) == {"echo", "torch"}
    assert cycle(now + timedelta(seconds=1), impatient, nova_ids=novas, fleet=lagging) == set()
    assert {seen(nova_id).mechanism for nova_id in novas} == {"stream_monitor"}
    assert not SafetyIncident.objects.exists()
    assert cycle(now + timedelta(seconds=2), impatient, nova_ids=novas) == {"echo", "torch"}


def test_another_candidate_begins_a_new_observation(now):
    see("torch", Kind.TOOL_USE, now=now, count=31)
    cycle(now)
    later = now + timedelta(seconds=5)
    assert cycle(later, STANDARD, policy="other") == set()
    row = seen()
    assert (row.policy, row.is_safe, row.blocks, row.observed_since, row.memory) == ("other", True, 0, later, {})
    assert (row.mechanism, row.last_block_at) == ("", None)
    assert actions() == ["would_block"]
    observe.begin_anew("torch")
    assert observe.observation_of("torch", "other") is None
    cycle(later + timedelta(seconds=5), STANDARD, policy="other")
    found = observe.observation_of("torch", "other")
    assert found is not None
    assert found.observed_since == later + timedelta(seconds=5)
    assert observe.observation_of("torch", "calm") is observe.observation_of("torch", None) is None


def test_two_that_judge_at_once_record_one_block(now):
    cycle(now)
    see("torch", Kind.TOOL_USE, now=now + timedelta(seconds=1), count=31)
    at = now + timedelta(seconds=1)
    candidate = {"torch": Candidate("calm", CALM)}
    one, other = opinions_of(at, candidate)[2], opinions_of(at, candidate)[2]
    with transaction.atomic():
        assert observe.record_opinions(one, at) == {"torch"}
        assert observe.record_opinions(other, at) == set()
    assert seen().blocks == 1
    assert actions() == ["would_block"]


def test_a_candidate_begins_to_remember_what_the_enforced_policy_may_remember():
    assert set(observe.NOTHING_REMEMBERED) == set(verdicts._MEMORY)


@pytest.mark.parametrize("count", [1, 50, 128])
def test_the_number_of_queries_does_not_grow_with_the_batch(
    now, count, django_assert_max_num_queries, django_assert_num_queries
):
    nova_ids = [f"nova-{number:03d}" for number in range(count)]
    candidates = dict.fromkeys(nova_ids, Candidate("calm", CALM))
    observe_many([Seen(nova_id, Kind.TOOL_USE, 31) for nova_id in nova_ids], now=now)
    facts, said, _ = opinions_of(now, {}, nova_ids)
    with django_assert_num_queries(2):
        opinions = observe.judge_candidates(candidates, facts, said, now)
    with transaction.atomic(), django_assert_max_num_queries(4):
        assert len(observe.record_opinions(opinions, now)) == count
    assert CandidateVerdict.objects.filter(blocks=1).count() == count


def test_without_candidates_it_costs_no_query(now, django_assert_num_queries):
    facts, said, _ = opinions_of(now, {})
    with django_assert_num_queries(0):
        assert observe.record_opinions(observe.judge_candidates({}, facts, said, now), now) == set()
