"""What each judge calls unsafe, what it lets pass, and what its reason says."""

from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, get_args, get_type_hints

import pytest

from safety.core import objections
from safety.core.mechanisms import (
    MECHANISMS,
    APIHammeringPrevention,
    FrostyCooldownManager,
    HookHealthMonitor,
    ReallyChillWillyEmergency,
    StreamHealthMonitor,
)
from safety.core.status import FleetFacts, SafetyFacts, SafetyLevel, SafetyRules
from safety.core.stress import stress_score
from tests.factories import NOW

RULES = SafetyRules()
WELL = SafetyFacts("torch")


def ago(**length: float) -> datetime:
    return NOW - timedelta(**length)


def frosty(**facts: Any) -> Any:
    return FrostyCooldownManager().check_safety_status(replace(WELL, **facts), RULES, NOW)


def willy(**facts: Any) -> Any:
    return ReallyChillWillyEmergency().check_safety_status(replace(WELL, **facts), RULES, NOW)


def hooks(**facts: Any) -> Any:
    return HookHealthMonitor().check_safety_status(replace(WELL, **facts), RULES, NOW)


def guardian(**facts: Any) -> Any:
    return APIHammeringPrevention().check_safety_status(replace(WELL, **facts), RULES, NOW)


def streams(**fleet: Any) -> Any:
    return StreamHealthMonitor().check_safety_status(replace(WELL, fleet=FleetFacts(**fleet)), RULES, NOW)


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_a_judge_with_nothing_to_say_says_it_with_one_object(mechanism):
    assert mechanism.check_safety_status(WELL, RULES, NOW) is mechanism.safe
    assert mechanism.safe.mechanism == mechanism.name


def test_sixty_tool_uses_a_minute_pass_and_sixty_one_cool_down():
    assert frosty(tool_uses_minute=60).is_safe
    status = frosty(tool_uses_minute=61)
    assert not status.is_safe
    assert status.reason == "61 tool uses in the last minute, more than the 60 allowed."
    assert (status.measured, status.limit, status.recommended_action) == (61, 60, "activate_cooldown")
    assert status.since == NOW
    assert timedelta(seconds=30) <= status.expires_at - NOW <= timedelta(seconds=36)


@pytest.mark.parametrize(
    ("failures", "calls", "safe"), [(4, 4, True), (5, 11, True), (5, 10, False), (5, 0, False), (50, 500, True)]
)
def test_failures_cool_down_when_they_are_five_and_half_of_all_calls(failures, calls, safe):
    assert frosty(failures_in_failure_window=failures, calls_in_failure_window=calls).is_safe is safe


def test_a_cooldown_in_force_holds_with_its_first_reason():
    status = frosty(cooldown_until=NOW + timedelta(seconds=5), cooldown_reason="61 tool uses.")
    assert not status.is_safe
    assert (status.reason, status.expires_at) == ("61 tool uses.", NOW + timedelta(seconds=5))
    assert frosty(cooldown_until=NOW).is_safe


def test_cooldowns_in_a_row_double_to_the_limit_and_are_forgotten_after_calm():
    lengths = []
    for row in range(8):
        facts = replace(WELL, cooldowns_in_a_row=row, last_cooldown_end=ago(seconds=1) if row else None)
        lengths.append((objections.next_cooldown_until(facts, RULES, NOW) - NOW).total_seconds())
    for row, length in enumerate(lengths):
        assert min(30 * 2**row, 600) <= length <= min(30 * 2**row * 1.2, 600)
    calm = replace(WELL, cooldowns_in_a_row=7, last_cooldown_end=NOW - RULES.cooldown_limit)
    assert objections.next_cooldown_until(calm, RULES, NOW) - NOW <= timedelta(seconds=36)


def test_novas_cooled_at_once_come_back_apart():
    ends = {objections.next_cooldown_until(replace(WELL, nova_id=f"n{i}"), RULES, NOW) for i in range(50)}
    assert len(ends) == 50


def test_claimable_work_without_a_change_for_half_an_hour_is_drift():
    assert frosty(has_claimable_work=True, last_task_change=ago(minutes=30)).is_safe
    status = frosty(has_claimable_work=True, last_task_change=ago(minutes=31))
    assert status.reason == "There is work to claim, but no task changed for 31 min, longer than the 30 min allowed."
    assert frosty(has_claimable_work=False, last_task_change=ago(days=3)).is_safe


@pytest.mark.parametrize("fresh", ["active_since", "last_cooldown_end"])
def test_after_a_pause_or_a_cooldown_drift_is_measured_afresh(fresh):
    facts = {"has_claimable_work": True, "last_task_change": ago(hours=5), "celebrating_since": ago(hours=5)}
    assert not frosty(**facts).is_safe
    assert frosty(**facts, **{fresh: ago(minutes=2)}).is_safe


def test_more_than_ten_own_wakes_an_hour_are_drift():
    assert frosty(own_wakes_hour=10).is_safe
    assert "woke itself 11 times" in frosty(own_wakes_hour=11).reason


def test_cycles_that_find_nothing_to_do_again_and_again_are_running_in_circles():
    assert frosty(empty_cycles_minute=1200).is_safe
    status = frosty(empty_cycles_minute=1201)
    assert "1201 cycles in the last minute" in status.reason
    assert (status.measured, status.limit, status.recommended_action) == (1201, 1200, "activate_cooldown")


def test_a_celebration_past_three_minutes_is_drift():
    assert frosty(celebrating_since=ago(seconds=180)).is_safe
    assert "celebrated for 181" not in frosty(celebrating_since=ago(seconds=180)).reason
    assert frosty(celebrating_since=ago(seconds=181)).reason.startswith("The Nova has celebrated for 3.02 min")


def test_load_alone_never_gives_more_than_forty_points():
    assert stress_score(1000.0, 0.0, 0.0, timedelta(0), 0) == 40.0
    assert stress_score(1.0, 0.8, 0.2, timedelta(seconds=60), 1) == 0.0
    assert stress_score(9.0, 1.0, 1.0, timedelta(hours=1), 9) == 100.0
    assert stress_score(0.0, 0.0, 0.0, timedelta(0), 0, process_cpu=1.0) == 20.0
    assert stress_score(1000.0, 0.0, 0.0, timedelta(0), 0, process_cpu=1.0) == 40.0


def test_a_worker_process_that_outgrows_its_limit_stresses_as_a_full_machine_does():
    assert willy(fleet=FleetFacts(process_memory=500.0, process_cpu=1.0)).safety_level is SafetyLevel.NORMAL  # 45 + 20
    grown = willy(fleet=FleetFacts(process_memory=500.0, process_cpu=1.0), error_ratio=0.4)
    assert "Stress is 74 of 100" in grown.reason
    assert willy(fleet=FleetFacts(process_memory=400.0, process_cpu=0.9), error_ratio=0.4).safety_level is SafetyLevel.NORMAL
    status = willy(fleet=FleetFacts(process_memory=None))
    assert not status.is_safe
    assert "memory of the worker processes" in status.reason


def test_stress_is_watched_for_a_minute_before_the_nova_meditates():
    fleet = FleetFacts(cpu_load=4.0, memory_ratio=0.95)  # 40 + 37.5
    watched = willy(fleet=fleet)
    assert watched.is_safe
    assert watched.safety_level is SafetyLevel.ELEVATED
    assert willy(fleet=fleet, stressed_since=ago(seconds=59)).is_safe
    status = willy(fleet=fleet, stressed_since=ago(seconds=60))
    assert status.safety_level is SafetyLevel.MEDITATION
    assert status.expires_at == NOW + timedelta(minutes=30)
    assert "Stress is 78 of 100" in status.reason


def test_ninety_points_stop_everything_at_once():
    status = willy(fleet=FleetFacts(cpu_load=4.0, memory_ratio=0.98), error_ratio=0.4)
    assert status.safety_level is SafetyLevel.EMERGENCY_STOP
    assert status.recommended_action == "activate_emergency_stop"
    assert status.expires_at is None


def test_a_meditation_lasts_although_the_stress_is_over():
    status = willy(meditation_until=NOW + timedelta(minutes=1))
    assert status.safety_level is SafetyLevel.MEDITATION
    assert willy(meditation_until=NOW).is_safe


def test_work_that_no_hook_saw_for_five_minutes_is_unguarded():
    heard = {"hooks_expected": True, "last_hook_heartbeat": ago(minutes=6)}
    assert hooks(**heard, last_work_evidence=ago(minutes=1)).is_safe
    status = hooks(**heard, last_work_evidence=ago(seconds=59))
    assert status.reason == (
        "UNGUARDED: the agent worked at 11:59:01, 5.02 min after its hooks were last heard; 5 min are allowed. "
        "It may go on once its hooks are heard again."
    )
    assert (status.measured, status.limit, status.recommended_action) == (301, 300, "activate_recovery")
    assert hooks(hooks_expected=True, last_hook_heartbeat=NOW, last_work_evidence=ago(seconds=59)).is_safe


def test_an_agent_without_hooks_may_work_and_one_that_should_have_them_may_not():
    assert hooks(last_work_evidence=NOW).is_safe
    assert hooks(hooks_expected=True, last_work_evidence=NOW).reason.startswith("UNGUARDED: ")
    assert hooks(hooks_expected=True).is_safe


def test_an_agent_that_is_merely_quiet_is_left_alone():
    assert hooks(hooks_expected=True, last_hook_heartbeat=ago(days=1)).is_safe
    assert hooks(hooks_expected=True, last_hook_heartbeat=ago(days=1), last_work_evidence=ago(days=1)).is_safe


def test_a_session_that_ended_does_not_excuse_work_without_hooks():
    assert not hooks(hooks_expected=False, last_hook_heartbeat=ago(hours=1), last_work_evidence=NOW).is_safe


def test_an_agent_that_restarts_itself_is_quarantined():
    assert hooks(session_events_minute=10).is_safe
    status = hooks(session_events_minute=11)
    assert (status.safety_level, status.recommended_action) == (SafetyLevel.QUARANTINE, "activate_quarantine")
    assert status.expires_at == NOW + timedelta(minutes=30)
    held = hooks(quarantine_until=NOW + timedelta(minutes=3), quarantine_reason="because")
    assert (held.reason, held.expires_at) == ("because", NOW + timedelta(minutes=3))


def test_a_loop_of_identical_calls_cools_down():
    assert hooks(identical_calls_minute=50).is_safe
    assert "51 times" in hooks(identical_calls_minute=51).reason


def test_failing_hooks_call_for_recovery():
    assert hooks(hook_failures_in_window=4).is_safe
    assert hooks(hook_failures_in_window=5).recommended_action == "activate_recovery"


@pytest.mark.parametrize(
    ("counter", "limit", "action"),
    [
        ("api_requests_minute", 30, "activate_cooldown"),
        ("api_requests_burst", 12, "activate_cooldown"),
        ("api_requests_hour", 500, "wait_for_window"),
        ("api_requests_day", 10_000, "wait_for_window"),
    ],
)
def test_the_guardian_lets_the_limit_pass_and_stops_one_more(counter, limit, action):
    assert guardian(**{counter: limit}).is_safe
    status = guardian(**{counter: limit + 1})
    assert not status.is_safe
    assert (status.measured, status.limit, status.recommended_action) == (limit + 1, limit, action)
    assert f"{limit + 1} requests" in status.reason


def test_the_guardian_waits_until_the_overrun_minute_is_empty():
    until = guardian(api_requests_minute=31).expires_at
    assert timedelta(seconds=60) <= until - NOW <= timedelta(seconds=72)


def test_the_guardian_goes_on_reporting_the_cooldown_it_asked_for():
    facts = {
        "cooldown_until": NOW + timedelta(seconds=9),
        "cooldown_reason": "31 requests",
        "verdict_is_safe": False,
        "verdict_mechanism": "api_guardian",
        "verdict_since": ago(seconds=51),
    }
    status = guardian(**facts)
    assert (status.reason, status.since) == ("31 requests", ago(seconds=51))
    assert guardian(**facts | {"verdict_mechanism": "frosty"}).is_safe


def test_an_open_breaker_is_waited_for():
    assert guardian(api_breaker_open_until=NOW + timedelta(seconds=1)).recommended_action == "wait_for_breaker"
    assert guardian(api_breaker_open_until=NOW).is_safe


def test_a_stream_server_away_for_two_seconds_stops_the_fleet():
    lost = {"stream_reachable": False, "round_trip": None}
    assert streams(**lost, stream_unreachable_since=ago(seconds=1)).safety_level is SafetyLevel.ELEVATED
    status = streams(**lost, stream_unreachable_since=ago(seconds=2))
    assert not status.is_safe
    assert status.measured == 2.0
    assert "11:59:58" in status.reason
    assert not streams(**lost).is_safe


@pytest.mark.parametrize(
    ("name", "limit", "more"),
    [
        ("round_trip", timedelta(seconds=1), timedelta(seconds=1.1)),
        ("intake_lag", timedelta(seconds=60), timedelta(seconds=61)),
        ("outbox_age", timedelta(seconds=60), timedelta(seconds=61)),
        ("stream_memory_ratio", 0.95, 0.96),
    ],
)
def test_a_slow_or_full_wire_stops_the_fleet(name, limit, more):
    assert streams(**{name: limit}).is_safe
    status = streams(**{name: more})
    assert not status.is_safe
    assert status.recommended_action == "wait_for_stream"
    assert status.measured > status.limit


def test_a_gap_is_shown_and_stops_nobody():
    status = streams(stream_gap="nova.work.queue")
    assert status.is_safe
    assert status.safety_level is SafetyLevel.ELEVATED
    assert "nova.work.queue" in status.reason


def readings_of(kind: Any) -> list[str]:
    """Name what is None only if it could not be read: what is something by default. Other instants are merely unset."""
    return [
        one.name for one in fields(kind) if type(None) in get_args(get_type_hints(kind)[one.name]) and one.default is not None
    ]


_COUNTERS, _READINGS = readings_of(SafetyFacts), readings_of(FleetFacts)


def test_every_counter_is_tried():
    """A counter of a new name is tried by itself; these are the ones there are."""
    assert {"own_wakes_hour", "empty_cycles_minute", "error_ratio", "queue_lag", "api_requests_burst"} < set(_COUNTERS)
    assert (len(_COUNTERS), len(_READINGS)) == (14, 9)
    counts = [name for name, hint in get_type_hints(SafetyFacts).items() if hint == int | None]
    assert set(counts) <= set(_COUNTERS)


@pytest.mark.parametrize(("where", "name"), [("nova", n) for n in _COUNTERS] + [("fleet", n) for n in _READINGS])
def test_a_counter_that_could_not_be_read_is_unsafe(where, name):
    unread: dict[str, Any] = {name: None}
    facts = replace(WELL, **unread) if where == "nova" else replace(WELL, fleet=FleetFacts(**unread))
    objecting = [s for s in (m.check_safety_status(facts, RULES, NOW) for m in MECHANISMS) if not s.is_safe]
    assert len(objecting) == 1
    assert "could not be read" in objecting[0].reason
    assert objecting[0].recommended_action == "check_readings"
