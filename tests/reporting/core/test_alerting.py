"""What alert rules may and may not do, whatever the facts do: driven by random histories of readings."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reporting.core.alerting import (
    CONDITIONS,
    LONGEST_RETRY,
    Change,
    Memory,
    Reading,
    Rule,
    Scope,
    Tier,
    Verdict,
    judge,
    reaches,
    retry_after,
    story,
    summary,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
STEP = timedelta(seconds=15)
SUBJECTS = ("a", "b", "c", "d")

# a look: the subjects that are silent then; None: the fact could not be read
HISTORIES = st.lists(st.none() | st.frozensets(st.sampled_from(SUBJECTS)), min_size=1, max_size=40)
RULES = st.builds(
    Rule,
    name=st.just("r"),
    condition=st.just("nova_silent"),
    threshold=st.just(60.0),
    duration=st.sampled_from([timedelta(0), timedelta(seconds=30), timedelta(seconds=75)]),
    tier=st.sampled_from(Tier),
    cooldown=st.sampled_from([timedelta(0), timedelta(seconds=60), timedelta(seconds=200)]),
)


def rule(**fields: object) -> Rule:
    known = {"duration": timedelta(0), "cooldown": timedelta(0), "threshold": 60.0, "tier": Tier.WARNING}
    return Rule("r", **({"condition": "nova_silent"} | known | fields))


def silent(*subjects: str, value: float = 90.0, team: str = "") -> dict[str, list[Reading]]:
    return {"nova_silence": [Reading(name, value, name, team) for name in subjects]}


def played(rule: Rule, history: list[frozenset[str] | None]) -> list[tuple[datetime, Verdict]]:
    memory, verdicts = Memory(), []
    for number, subjects in enumerate(history):
        now = NOW + number * STEP
        facts = {"nova_silence": None} if subjects is None else silent(*sorted(subjects))
        verdict = judge(rule, memory, facts, now)
        memory = verdict.memory
        verdicts.append((now, verdict))
    return verdicts


@settings(max_examples=150, deadline=None)
@given(RULES, HISTORIES)
def test_messages_alternate_and_never_come_faster_than_the_cooldown(rule: Rule, history: list[frozenset[str] | None]) -> None:
    open_, loud_at = False, None
    for now, verdict in played(rule, history):
        if verdict.change is Change.FIRED:
            assert not open_
            open_ = True
        elif verdict.change in (Change.GREW, Change.RESOLVED):
            assert open_, "nothing grows or ends that has not begun"
            open_ = verdict.change is Change.GREW
        assert verdict.memory.firing == open_
        if verdict.change in (Change.FIRED, Change.GREW):
            assert loud_at is None or now >= loud_at + rule.cooldown, "one message a cooldown"
            loud_at = now


@settings(max_examples=150, deadline=None)
@given(RULES, HISTORIES)
def test_nothing_fires_for_a_subject_that_has_not_held_for_the_duration(
    rule: Rule, history: list[frozenset[str] | None]
) -> None:
    held: Counter[str] = Counter()  # looks in a row, read ones, at which a subject held; the first of them counts as 0
    first: dict[str, datetime] = {}
    for (now, verdict), subjects in zip(played(rule, history), history, strict=True):
        if subjects is None:
            assert verdict.change is None, "what could not be read concludes nothing"
            continue
        first = {name: first.get(name, now) for name in subjects}
        for reading in verdict.holds:
            assert first[reading.subject] <= now - rule.duration
        held.update(subjects)


@settings(max_examples=100, deadline=None)
@given(RULES, HISTORIES)
def test_an_alert_ends_when_nothing_holds_any_more(rule: Rule, history: list[frozenset[str] | None]) -> None:
    _, last = played(rule, [*history, frozenset()])[-1]
    assert not last.memory.firing
    assert not last.memory.since


@settings(max_examples=100, deadline=None)
@given(RULES, HISTORIES)
def test_a_second_look_at_the_same_instant_changes_nothing(rule: Rule, history: list[frozenset[str] | None]) -> None:
    now, verdict = played(rule, history)[-1]
    facts = {"nova_silence": None} if history[-1] is None else silent(*sorted(history[-1]))
    again = judge(rule, verdict.memory, facts, now)
    assert again.change is None or (rule.cooldown == timedelta(0) and again.change is Change.FIRED)
    assert again.memory.since == verdict.memory.since


def test_five_hundred_silent_novas_are_one_message() -> None:
    names = [f"nova-{number:03d}" for number in range(500)]
    verdict = judge(rule(), Memory(), silent(*names), NOW)
    assert (verdict.change, len(verdict.holds)) == (Change.FIRED, 500)
    text = story(CONDITIONS["nova_silent"], verdict.holds)
    assert len(text.splitlines()) == 11
    assert text.endswith("and 490 more")
    assert summary("Nova silent", Tier.CRITICAL, Change.FIRED, 500) == "[CRITICAL] Nova silent (500)"


def test_more_subjects_are_told_once_the_cooldown_is_over() -> None:
    slow = rule(cooldown=timedelta(minutes=15))
    fired = judge(slow, Memory(), silent("a"), NOW)
    assert judge(slow, fired.memory, silent("a", "b"), NOW + STEP).change is None
    later = judge(slow, fired.memory, silent("a", "b"), NOW + timedelta(minutes=15))
    assert later.change is Change.GREW
    assert judge(slow, later.memory, silent("a", "b"), NOW + timedelta(hours=2)).change is None


def test_a_rule_that_is_switched_off_takes_back_what_it_said() -> None:
    fired = judge(rule(), Memory(), silent("a"), NOW)
    off = judge(rule(in_force=False), fired.memory, silent("a"), NOW + STEP)
    assert (off.change, off.reason) == (Change.RESOLVED, "the rule was switched off")
    assert judge(rule(in_force=False), Memory(), silent("a"), NOW).change is None


@pytest.mark.parametrize(
    ("scope", "target", "expected"), [("nova", "a", {"a"}), ("team", "red", {"a", "b"}), ("team", "x", set())]
)
def test_a_rule_looks_at_its_scope_only(scope: str, target: str, expected: set[str]) -> None:
    narrow = rule(scope=Scope(scope), target=target)
    verdict = judge(narrow, Memory(), silent("a", "b", team="red"), NOW)
    assert {reading.subject for reading in verdict.holds} == expected


def test_a_threshold_from_above_holds_below_it() -> None:
    low = rule(condition="disk_low", threshold=0.1)
    readings = [Reading("host a", 0.09), Reading("host b", 0.1), Reading("host c", 0.02)]
    verdict = judge(low, Memory(), {"disk_free": readings}, NOW)
    assert [reading.subject for reading in verdict.holds] == ["host c", "host a"]
    assert "host c: 2% of the disk is free" in story(CONDITIONS["disk_low"], verdict.holds)


@given(st.integers(1, 400), st.floats(0, 1))
def test_retries_wait_from_five_seconds_to_a_day(attempts: int, jitter: float) -> None:
    wait = retry_after(attempts, jitter)
    assert timedelta(seconds=4) <= wait <= LONGEST_RETRY
    assert attempts == 1 or wait > retry_after(1, 1.0)


def test_a_channel_gets_what_matters_enough() -> None:
    assert reaches(Tier.CRITICAL, Tier.WARNING)
    assert not reaches(Tier.INFO, Tier.WARNING)
