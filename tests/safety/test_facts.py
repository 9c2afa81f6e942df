"""The facts of a batch: what was observed, what is remembered, what upper floors pass in, in a constant number of queries."""

import random
from datetime import timedelta
from typing import Any

import pytest

from safety.core.status import FleetFacts, SafetyFacts, SafetyLevel, SafetyRules
from safety.facts import WorkflowSideFacts, load_facts
from safety.observations import Kind, Seen, hooks_ended, observe, observe_many
from tests import factories

pytestmark = pytest.mark.django_db

RULES = SafetyRules()
FLEET = FleetFacts()


def load(now, *nova_ids: str, rules: SafetyRules = RULES) -> dict[str, SafetyFacts]:
    work = dict.fromkeys(nova_ids, WorkflowSideFacts())
    return load_facts(nova_ids, dict.fromkeys(nova_ids, rules), work, now, fleet=FLEET)


def test_a_nova_of_which_nothing_is_known_is_well(now):
    assert load(now, "torch") == {"torch": SafetyFacts("torch", fleet=FLEET)}


def test_a_nova_whose_work_nobody_knows_is_not_readable(now):
    facts = load_facts(["torch"], {}, {}, now, fleet=FLEET)["torch"]
    assert facts.error_ratio is None
    assert facts.queue_lag is None


def test_what_upper_floors_know_is_passed_on(now):
    work = WorkflowSideFacts(
        has_claimable_work=True,
        last_task_change=now - timedelta(minutes=1),
        active_since=now - timedelta(minutes=2),
        celebrating_since=now - timedelta(minutes=3),
        error_ratio=0.25,
        queue_lag=timedelta(seconds=4),
        last_work_evidence=now - timedelta(minutes=5),
    )
    for _ in range(2):
        facts = load_facts(["torch"], {"torch": RULES}, {"torch": work}, now, fleet=FLEET)["torch"]
        assert {name: getattr(facts, name) for name in WorkflowSideFacts.__dataclass_fields__} == {
            name: getattr(work, name) for name in WorkflowSideFacts.__dataclass_fields__
        }
        observe("torch", Kind.HOOK_HEARTBEAT, now=now)  # the second time with a row of its own
        hooks_ended("torch")


def test_the_verdict_in_force_and_the_memory_come_back_as_they_were_stored(now):
    stored: dict[str, Any] = {
        "cooldown_since": now - timedelta(seconds=30),
        "cooldown_until": now + timedelta(seconds=1, microseconds=5),
        "cooldown_reason": "61 tool uses",
        "cooldowns_in_a_row": 3,
        "last_cooldown_end": now - timedelta(minutes=2),
        "meditation_until": now + timedelta(minutes=3),
        "quarantine_until": now + timedelta(minutes=4),
        "quarantine_reason": "restarts",
        "stressed_since": now - timedelta(minutes=5),
        "hooks_expected": True,
        "last_hook_heartbeat": now - timedelta(minutes=6),
        "last_work_evidence": now - timedelta(minutes=7),
        "api_cooldown_until": now + timedelta(minutes=8),
        "api_cooldown_reason": "it asked on and on",
    }
    factories.make_safety_state(
        "torch", is_safe=False, safety_level="meditation", mechanism="really_chill_willy", since=now, until=now, **stored
    )
    facts = load(now, "torch")["torch"]
    assert {name: getattr(facts, name) for name in stored} == stored
    assert (facts.verdict_is_safe, facts.verdict_level) == (False, SafetyLevel.MEDITATION)
    assert (facts.verdict_mechanism, facts.verdict_since, facts.verdict_until) == ("really_chill_willy", now, now)


def test_every_counter_sums_its_window_and_no_more(now):
    for kind, inside, outside in [
        ("tool_failure", 299, 300),
        ("hook_failure", 299, 300),
        ("session_event", 59, 60),
        ("own_wake", 3599, 3600),
        ("api_request_by_minute", 3599, 3600),
        ("api_request_by_quarter", 86_399, 86_400),
    ]:
        factories.make_observation("torch", kind, ago=inside, count=3)
        factories.make_observation("torch", kind, ago=outside, count=100)
    for ago, count in ((9, 1), (11, 2), (59, 4), (60, 100)):
        factories.make_observation("torch", "api_request", ago=ago, count=count)
    for ago, detail, count in ((5, "a", 7), (50, "a", 8), (5, "b", 9), (5, "", 50), (299, "a", 20), (300, "a", 100)):
        factories.make_observation("torch", "tool_use", ago=ago, detail=detail, count=count)
    facts = load(now, "torch", "echo")
    assert facts["echo"] == SafetyFacts("echo", fleet=FLEET)
    torch = facts["torch"]
    assert (torch.api_requests_burst, torch.api_requests_minute) == (1, 7)
    assert (torch.api_requests_hour, torch.api_requests_day) == (3, 3)
    assert (torch.tool_uses_minute, torch.calls_in_failure_window) == (74, 94)
    assert torch.identical_calls_minute == 15
    assert (torch.failures_in_failure_window, torch.hook_failures_in_window) == (3, 3)
    assert (torch.session_events_minute, torch.own_wakes_hour) == (3, 3)


def test_what_led_to_a_cooldown_is_paid_for_but_not_what_came_since(now):
    factories.make_safety_state("torch", cooldown_since=now - timedelta(seconds=40))
    for kind in ("tool_use", "tool_failure", "own_wake", "api_request"):
        factories.make_observation("torch", kind, ago=50, detail="x", count=100)
        factories.make_observation("torch", kind, ago=30, detail="x", count=2)
    facts = load(now, "torch")["torch"]
    assert (facts.tool_uses_minute, facts.calls_in_failure_window, facts.identical_calls_minute) == (2, 2, 2)
    assert (facts.failures_in_failure_window, facts.own_wakes_hour) == (2, 2)
    assert facts.api_requests_minute == 102  # a limit of calls is no fault to be forgiven


def test_windows_follow_each_novas_own_rules(now):
    for nova_id in ("torch", "echo"):
        factories.make_observation(nova_id, "tool_failure", ago=400, count=6)
        factories.make_observation(nova_id, "api_request", ago=20, count=6)
    own = SafetyRules(failure_window=timedelta(minutes=10), burst_window=timedelta(seconds=30))
    work = dict.fromkeys(("torch", "echo"), WorkflowSideFacts())
    facts = load_facts(["torch", "echo"], {"torch": own, "echo": RULES}, work, now, fleet=FLEET)
    assert (facts["torch"].failures_in_failure_window, facts["torch"].api_requests_burst) == (6, 6)
    assert (facts["echo"].failures_in_failure_window, facts["echo"].api_requests_burst) == (0, 0)


def test_a_trace_is_counted_as_it_happened(now):
    dice = random.Random(7)
    happened = []
    for _ in range(400):
        at = now - timedelta(seconds=dice.randrange(0, 4000))
        nova_id = dice.choice(["torch", "echo"])
        observe(nova_id, Kind.API_REQUEST, now=at)
        happened.append((nova_id, at))
    facts = load(now, "torch", "echo")
    for nova_id in ("torch", "echo"):
        ages = [now - at for who, at in happened if who == nova_id]
        assert facts[nova_id].api_requests_minute == sum(age < timedelta(minutes=1) for age in ages)
        assert facts[nova_id].api_requests_burst == sum(age < timedelta(seconds=10) for age in ages)
        assert facts[nova_id].api_requests_day == len(ages)
        # by whole minutes: never more than the hour, and less than it by a minute at most
        hour = facts[nova_id].api_requests_hour
        assert hour is not None
        assert sum(age < timedelta(minutes=59) for age in ages) <= hour <= sum(age <= timedelta(hours=1) for age in ages)


@pytest.mark.parametrize("count", [1, 50, 128])
def test_the_number_of_queries_does_not_grow_with_the_batch(now, count, django_assert_num_queries):
    nova_ids = [f"nova-{number}" for number in range(count)]
    with django_assert_num_queries(1):  # nothing was observed: only verdicts and memory
        load(now, *nova_ids)
    observe_many([Seen(nova_id, Kind.TOOL_USE, 3, "x") for nova_id in nova_ids], now=now)
    observe_many([Seen(nova_id, Kind.HOOK_HEARTBEAT) for nova_id in nova_ids], now=now)
    with django_assert_num_queries(2):
        facts = load(now, *nova_ids)
    assert [one.identical_calls_minute for one in facts.values()] == [3] * count
    with django_assert_num_queries(3):
        load_facts(nova_ids, {}, {}, now)
