"""A Nova that looks busy but changes nothing, two simulated hours long, is found out; one that works as gently is not."""

from datetime import timedelta
from typing import Any

import pytest

from safety.core.orchestrator import SafetyOrchestrator
from safety.core.status import SafetyFacts, SafetyRules
from tests.factories import NOW
from tests.safety.core.test_busy_trace import Window

HOURS = 2
MINUTE = timedelta(minutes=1)


def first_objection(
    *, work: bool = True, changes: int | None = None, wakes: int | None = None, celebration: int | None = None
) -> tuple[timedelta, str] | None:
    """Live two hours, a second at a time, and give the first objection and when it came.

    `changes`, `wakes`: minutes between two task changes, two wakes of its own; `celebration`: seconds that each celebration
    takes, one after the other without end. None: there are none.
    """
    orchestrator, rules, woken = SafetyOrchestrator(), SafetyRules(), Window(3600)
    for second in range(HOURS * 3600):
        now = NOW + timedelta(seconds=second)
        woken.add(int(wakes is not None and second % (wakes * 60) == 0))
        more: dict[str, Any] = {}
        if changes is not None:
            more["last_task_change"] = now - timedelta(seconds=second % (changes * 60))
        if celebration is not None:
            more["celebrating_since"] = now - timedelta(seconds=second % celebration)
        facts = SafetyFacts(
            "torch", has_claimable_work=work, active_since=NOW, own_wakes_hour=woken.total, tool_uses_minute=3, **more
        )
        status = orchestrator.judge(facts, rules, now).status
        if not status.is_safe:
            assert status.mechanism == "frosty"
            return timedelta(seconds=second), status.reason
    return None


def test_it_is_found_out_within_half_an_hour_whatever_it_does_instead_of_working():
    found = first_objection(celebration=170, wakes=7)
    assert found is not None
    at, reason = found
    assert at == 30 * MINUTE + timedelta(seconds=1)
    assert reason == "There is work to claim, but no task changed for 30 min, longer than the 30 min allowed."


@pytest.mark.parametrize(
    ("trace", "words", "soonest", "latest"),
    [
        ({}, "no task changed", 30, 31),
        ({"changes": 40}, "no task changed", 30, 31),
        ({"changes": 20, "wakes": 5}, "woke itself 11 times", 50, 51),
        ({"changes": 20, "celebration": 200}, "has celebrated for", 3, 4),
        ({"work": False, "wakes": 5}, "woke itself 11 times", 50, 51),
    ],
    ids=["idling", "working too seldom", "waking itself", "celebrating", "waking itself for nothing"],
)
def test_each_way_of_drifting_is_enough(trace, words, soonest, latest):
    found = first_objection(**trace)
    assert found is not None
    at, reason = found
    assert words in reason
    assert soonest * MINUTE <= at <= latest * MINUTE


@pytest.mark.parametrize(
    "trace",
    [{"changes": 20, "wakes": 7, "celebration": 170}, {"work": False}, {"work": False, "celebration": 180, "wakes": 6}],
    ids=["slow but at work", "nothing to do", "nothing to do but celebrate"],
)
def test_who_works_or_has_nothing_to_do_does_not_drift(trace):
    assert first_objection(**trace) is None
