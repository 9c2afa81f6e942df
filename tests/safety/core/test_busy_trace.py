"""A busy but healthy Nova, two simulated hours long, trips no judge; a little more of anything does."""

from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from safety.core.orchestrator import SafetyOrchestrator
from safety.core.status import SafetyFacts, SafetyRules
from tests.factories import NOW


@dataclass
class Window:
    """A sliding sum of one number a second."""

    seconds: int
    _values: deque[int] = field(default_factory=deque)
    total: int = 0

    def add(self, value: int) -> None:
        self._values.append(value)
        self.total += value
        if len(self._values) > self.seconds:
            self.total -= self._values.popleft()


def due(number_per_minute: int, second: int) -> int:
    """Spread a number of events evenly over each minute: how many fall on this second?"""
    at = second % 60
    return number_per_minute * (at + 1) // 60 - number_per_minute * at // 60


def judge_trace(
    rules: SafetyRules, *, calls: int = 28, calling_minutes: int = 60, tools: int = 55, polls: int = 40, guarded: bool = False
) -> list[str]:
    """Live two hours, one second at a time, and give every objection; each tenth tool use fails.

    `guarded`: calls past the hour's limit are asked for and refused, as the API guardian does; they were never made.
    """
    api = {name: Window(length) for name, length in (("burst", 10), ("minute", 60), ("hour", 3600), ("day", 86_400))}
    used, identical, window_used, window_failed = Window(60), Window(60), Window(300), Window(300)
    objections, uses = [], 0
    orchestrator = SafetyOrchestrator()
    for second in range(7200):
        now = NOW + timedelta(seconds=second)
        called = due(calls, second) if second // 60 % 60 < calling_minutes else 0
        if guarded and api["hour"].total + called > rules.requests_per_hour:
            called = 0
        for window in api.values():
            window.add(called)
        tool_uses = due(tools, second)
        used.add(tool_uses)
        window_used.add(tool_uses)
        window_failed.add((uses + tool_uses) // 10 - uses // 10)
        uses += tool_uses
        identical.add(due(polls, second))
        requests: dict[str, Any] = {f"api_requests_{name}": window.total for name, window in api.items()}
        facts = SafetyFacts(
            "torch",
            **requests,
            tool_uses_minute=used.total,
            identical_calls_minute=identical.total,
            calls_in_failure_window=window_used.total,
            failures_in_failure_window=window_failed.total,
            has_claimable_work=True,
            last_task_change=now - timedelta(minutes=second % 20),
            active_since=NOW,
            hooks_expected=True,
            last_hook_heartbeat=now - timedelta(seconds=second % 60),
            own_wakes_hour=6,
            error_ratio=0.1,
        )
        status = orchestrator.judge(facts, rules, now).status
        if not status.is_safe:
            objections.append(f"{status.mechanism}: {status.reason}")
    return objections


# 28 calls a minute are within the minute's limit but not within the hour's of 500: the guardian refuses the rest, or few
# minutes are that busy, or the operator's policy allows them all
@pytest.mark.parametrize(
    ("rules", "calling_minutes", "guarded"),
    [(SafetyRules(), 60, True), (SafetyRules(), 17, False), (SafetyRules(requests_per_hour=2000), 60, False)],
    ids=["refused", "standard", "own"],
)
def test_a_busy_healthy_nova_trips_nothing(rules, calling_minutes, guarded):
    assert judge_trace(rules, calling_minutes=calling_minutes, guarded=guarded) == []


@pytest.mark.parametrize(
    ("more", "mechanism"),
    [({"calls": 31}, "api_guardian"), ({"tools": 61}, "frosty"), ({"polls": 51}, "hook_health"), ({}, "api_guardian")],
    ids=["calls", "tools", "polls", "every minute"],
)
def test_a_little_more_is_noticed(more, mechanism):
    calling_minutes = 17 if more else 60
    objections = judge_trace(SafetyRules(), **{"calling_minutes": calling_minutes, **more})
    assert {objection.split(":")[0] for objection in objections} == {mechanism}
