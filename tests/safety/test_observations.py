"""Observations become rows of buckets; heartbeats and evidence become instants; old rows are forgotten."""

from datetime import timedelta

import pytest

from safety.models import Observation, SafetyState
from safety.observations import Kind, Seen, forget_before, forget_old, hooks_ended, observe, observe_many
from tests import factories

pytestmark = pytest.mark.django_db


def test_the_same_second_is_one_row_with_a_count(now):
    observe("torch", Kind.TOOL_USE, now=now, detail="a")
    observe("torch", Kind.TOOL_USE, now=now + timedelta(milliseconds=900), count=2, detail="a")
    observe("torch", Kind.TOOL_USE, now=now, detail="b")
    observe("echo", Kind.TOOL_USE, now=now, detail="a")
    rows = Observation.objects.filter(nova_id="torch").order_by("detail").values_list("at", "detail", "count")
    assert list(rows) == [(now, "a", 3), (now, "b", 1)]


def test_a_request_counts_into_three_buckets(now):
    at = now + timedelta(minutes=17, seconds=42)
    observe("torch", Kind.API_REQUEST, now=at)
    assert dict(Observation.objects.values_list("kind", "at")) == {
        "api_request": at,
        "api_request_by_minute": now + timedelta(minutes=17),
        "api_request_by_quarter": now + timedelta(minutes=15),
    }


def test_a_batch_costs_two_statements(now, django_assert_num_queries):
    seen = [Seen(f"n{number}", kind) for number in range(50) for kind in list(Kind)[:8]]
    with django_assert_num_queries(2):
        observe_many(seen, now=now)
    assert Observation.objects.filter(nova_id="n7").count() == 8
    with django_assert_num_queries(0):
        observe_many([], now=now)


def test_a_heartbeat_makes_silence_meaningful_until_the_session_ends(now):
    observe("torch", Kind.HOOK_HEARTBEAT, now=now)
    observe("torch", Kind.WORK_EVIDENCE, now=now + timedelta(seconds=1))
    state = SafetyState.objects.get(nova_id="torch")
    assert state.hooks_expected
    assert (state.last_hook_heartbeat, state.last_work_evidence) == (now, now + timedelta(seconds=1))
    assert state.is_safe
    hooks_ended("torch")
    state.refresh_from_db()
    assert not state.hooks_expected


def test_a_heartbeat_leaves_the_verdict_alone(now):
    factories.make_safety_state("torch", is_safe=False, mechanism="frosty", reason="because", cooldown_until=now)
    observe("torch", Kind.HOOK_HEARTBEAT, now=now)
    state = SafetyState.objects.get(nova_id="torch")
    assert (state.is_safe, state.mechanism, state.cooldown_until, state.hooks_expected) == (False, "frosty", now, True)


def test_what_no_window_reaches_is_forgotten(now):
    factories.make_policy("slow", failure_window=7200.0)
    for kind, ago in (("tool_use", 3 * 3600 + 1), ("tool_use", 3600), ("own_wake", 86_000), ("own_wake", 91_000)):
        factories.make_observation("torch", kind, ago=ago)
    assert forget_old(now=now) == 2
    assert forget_before(now - timedelta(hours=23)) == 1
    assert Observation.objects.get().kind == "tool_use"
