"""The worst verdict wins, what can't judge is unsafe, and what must be remembered is remembered."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety.core.mechanisms import MECHANISMS
from safety.core.orchestrator import HEALTHY, SafetyOrchestrator, Verdict
from safety.core.status import FleetFacts, SafetyFacts, SafetyLevel, SafetyRules, SafetyStatus
from tests.factories import NOW

RULES = SafetyRules()
WELL = SafetyFacts("torch")
ORCHESTRATOR = SafetyOrchestrator()
_LEVELS = list(SafetyLevel)


class Saying:
    """A judge that always says the same."""

    def __init__(self, name: str, level: SafetyLevel) -> None:
        self.name = name
        self.safe = SafetyStatus(True, "", mechanism=name)
        self._answer = SafetyStatus(level in _LEVELS[:2], "", safety_level=level, mechanism=name)

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: Any) -> SafetyStatus:
        return self._answer


class Raising(Saying):
    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: Any) -> SafetyStatus:
        raise KeyError("window")


def follow(facts: SafetyFacts, verdict: Verdict) -> SafetyFacts:
    """Give the facts of the next check, as the shell would load them."""
    status = verdict.status
    return replace(
        facts,
        **dict(verdict.memory),
        verdict_is_safe=status.is_safe,
        verdict_level=status.safety_level,
        verdict_mechanism=status.mechanism,
        verdict_since=status.since,
        verdict_until=status.expires_at,
    )


def test_a_healthy_nova_gets_the_one_healthy_verdict():
    assert ORCHESTRATOR.judge(WELL, RULES, NOW) is HEALTHY
    assert ORCHESTRATOR.is_safe_to_proceed(WELL, RULES, NOW)
    assert list(HEALTHY.by_mechanism) == ["frosty", "really_chill_willy", "hook_health", "api_guardian", "stream_monitor"]


@given(st.lists(st.sampled_from(_LEVELS), min_size=1, max_size=5))
def test_the_worst_verdict_wins(levels):
    judges = [Saying(str(place), level) for place, level in enumerate(levels)]
    status = SafetyOrchestrator(judges).judge(WELL, RULES, NOW).status
    assert status.safety_level is max(levels, key=_LEVELS.index)
    assert status.is_safe is all(level in _LEVELS[:2] for level in levels)


@given(st.lists(st.sampled_from(_LEVELS[:4]), max_size=4), st.integers(0, 4))
def test_a_judge_that_raises_is_unsafe_whatever_the_others_say(levels, place):
    judges: list[Saying] = [Saying(str(number), level) for number, level in enumerate(levels)]
    judges.insert(place, Raising("broken", SafetyLevel.NORMAL))
    verdict = SafetyOrchestrator(judges).judge(WELL, RULES, NOW)
    assert not verdict.status.is_safe
    assert verdict.by_mechanism["broken"].reason == "The judge failed (KeyError: 'window'), so nothing may run."


_COUNTERS = [name for name, entry in SafetyFacts.__dataclass_fields__.items() if entry.type == (int | None)]


@given(
    st.fixed_dictionaries({}, optional={name: st.none() | st.integers(0, 1000) for name in _COUNTERS}),
    st.fixed_dictionaries(
        {},
        optional={
            "stream_reachable": st.none() | st.booleans(),
            "round_trip": st.none() | st.timedeltas(timedelta(0), timedelta(minutes=5)),
            "cpu_load": st.none() | st.floats(0, 100),
            "memory_ratio": st.none() | st.floats(0, 1),
        },
    ),
)
def test_whatever_the_facts_the_verdict_is_whole_and_stands_still(counters, fleet):
    facts = replace(WELL, fleet=FleetFacts(**fleet), **counters)
    verdict = ORCHESTRATOR.judge(facts, RULES, NOW)
    if None in counters.values() or None in (fleet.get("cpu_load", 0), fleet.get("memory_ratio", 0)):
        assert not verdict.status.is_safe
    assert verdict.status.is_safe == (verdict.status.safety_level in _LEVELS[:2])
    if not verdict.status.is_safe:
        assert verdict.status.mechanism in verdict.by_mechanism
        assert verdict.status.reason
        assert verdict.status.since == NOW
        again = ORCHESTRATOR.judge(follow(facts, verdict), RULES, NOW + timedelta(milliseconds=10))
        assert not again.memory
        assert (again.status.safety_level, again.status.mechanism) == (
            verdict.status.safety_level,
            verdict.status.mechanism,
        )
        assert (again.status.expires_at, again.status.since) == (verdict.status.expires_at, NOW)


@pytest.mark.parametrize("broken", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_each_judge_that_raises_stops_the_nova_and_is_named(broken, monkeypatch):
    def fail(*_: Any) -> SafetyStatus:
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr(type(broken), "check_safety_status", fail)
    verdict = ORCHESTRATOR.judge(WELL, RULES, NOW)
    assert (verdict.status.is_safe, verdict.status.mechanism) == (False, broken.name)
    assert verdict.status.reason == "The judge failed (ZeroDivisionError: of its own), so nothing may run."
    assert verdict.status.since == NOW
    assert [name for name, status in verdict.by_mechanism.items() if not status.is_safe] == [broken.name]


def test_without_limits_nobody_is_asked_and_nothing_may_run():
    verdict = ORCHESTRATOR.judge(replace(WELL, configuration_problem="Its policy can't be found."), RULES, NOW)
    assert (verdict.status.is_safe, verdict.status.mechanism) == (False, "configuration")
    assert verdict.status.reason == "Its policy can't be found."
    assert not verdict.memory


def test_there_are_counters_to_try():
    assert len(_COUNTERS) == 12


def test_of_equal_verdicts_the_one_in_force_stays():
    judges = [Saying("a", SafetyLevel.COOLDOWN), Saying("b", SafetyLevel.COOLDOWN)]
    for name in ("a", "b"):
        facts = replace(WELL, verdict_is_safe=False, verdict_mechanism=name)
        assert SafetyOrchestrator(judges).judge(facts, RULES, NOW).status.mechanism == name


def test_a_cooldown_is_remembered_kept_and_forgotten():
    facts = replace(WELL, tool_uses_minute=61)
    first = ORCHESTRATOR.judge(facts, RULES, NOW)
    assert first.memory["cooldown_until"] == first.status.expires_at
    assert first.memory["cooldowns_in_a_row"] == 1
    assert first.memory["cooldown_since"] == NOW

    cooling = follow(facts, first)
    second = ORCHESTRATOR.judge(cooling, RULES, NOW + timedelta(seconds=10))
    assert not second.memory
    assert second.status.expires_at == first.status.expires_at
    assert second.status.since == NOW

    end = first.status.expires_at
    assert end is not None
    over = ORCHESTRATOR.judge(replace(cooling, tool_uses_minute=0), RULES, end)
    assert over.status.is_safe
    assert over.memory == {"cooldown_until": None, "cooldown_reason": "", "last_cooldown_end": end}

    again = ORCHESTRATOR.judge(cooling, RULES, end)  # it went on hammering all the time
    assert again.memory["cooldowns_in_a_row"] == 2
    assert again.status.expires_at is not None
    assert again.status.expires_at - end >= timedelta(seconds=60)


def test_two_judges_that_ask_for_a_cooldown_get_the_longer_one():
    verdict = ORCHESTRATOR.judge(replace(WELL, tool_uses_minute=61, api_requests_minute=31), RULES, NOW)
    assert verdict.status.mechanism == "api_guardian"
    assert verdict.memory["cooldown_until"] == verdict.status.expires_at
    assert verdict.memory["cooldown_until"] >= NOW + timedelta(seconds=60)
    assert verdict.memory["cooldowns_in_a_row"] == 1


def test_stress_is_timed_and_leads_to_one_meditation():
    facts = replace(WELL, fleet=FleetFacts(cpu_load=4.0, memory_ratio=0.95))
    first = ORCHESTRATOR.judge(facts, RULES, NOW)
    assert first.status.is_safe
    assert first.memory == {"stressed_since": NOW}
    stressed = follow(facts, first)
    assert not ORCHESTRATOR.judge(stressed, RULES, NOW + timedelta(seconds=30)).memory
    minute = NOW + timedelta(seconds=60)
    second = ORCHESTRATOR.judge(stressed, RULES, minute)
    assert second.memory == {"meditation_until": minute + timedelta(minutes=30)}
    calm = replace(follow(stressed, second), fleet=FleetFacts())
    third = ORCHESTRATOR.judge(calm, RULES, minute + timedelta(minutes=1))
    assert third.status.safety_level is SafetyLevel.MEDITATION
    assert third.memory == {"stressed_since": None}
    done = ORCHESTRATOR.judge(follow(calm, third), RULES, minute + timedelta(minutes=30))
    assert done.status.is_safe
    assert done.memory == {"meditation_until": None}


def test_an_emergency_stop_ends_in_a_meditation():
    facts = replace(WELL, fleet=FleetFacts(cpu_load=4.0, memory_ratio=0.98), error_ratio=1.0)
    stopped = ORCHESTRATOR.judge(facts, RULES, NOW)
    assert stopped.status.safety_level is SafetyLevel.EMERGENCY_STOP
    after = ORCHESTRATOR.judge(replace(WELL, **dict(stopped.memory)), RULES, NOW + timedelta(minutes=2))
    assert after.status.safety_level is SafetyLevel.MEDITATION


def test_a_restarting_agent_stays_in_quarantine_for_its_time():
    facts = replace(WELL, session_events_minute=11)
    verdict = ORCHESTRATOR.judge(facts, RULES, NOW)
    assert verdict.memory["quarantine_until"] == NOW + timedelta(minutes=30)
    quiet = replace(follow(facts, verdict), session_events_minute=0)
    assert ORCHESTRATOR.judge(quiet, RULES, NOW + timedelta(minutes=29)).status.safety_level is SafetyLevel.QUARANTINE
    assert ORCHESTRATOR.judge(quiet, RULES, NOW + timedelta(minutes=30)).status.is_safe


@pytest.mark.parametrize(
    ("violation", "mechanism", "action"),
    [
        ("api_hammering", "api_guardian", "activate_emergency_stop"),
        ("system_overload", "really_chill_willy", "activate_meditation"),
        ("hook_failure", "hook_health", "activate_recovery"),
        ("session_storm", "hook_health", "activate_quarantine"),
        ("completion_drift", "frosty", "activate_cooldown"),
        ("stream_lost", "stream_monitor", "wait_for_stream"),
        ("something new", "hook_health", "activate_quarantine"),
    ],
)
def test_a_reported_violation_is_answered(violation, mechanism, action):
    response = ORCHESTRATOR.handle_safety_violation(violation, {"count": 31})
    assert (response.mechanism, response.recommended_action) == (mechanism, action)
    assert "count 31" in response.reason
    assert mechanism in HEALTHY.by_mechanism


def test_every_mechanism_is_known_once():
    assert len({mechanism.name for mechanism in MECHANISMS}) == 5
