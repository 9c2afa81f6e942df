"""Periods are covered once, durations are found again within a fifth, shares of few say so, a course has no gaps."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting.core import histogram
from reporting.core.buckets import aligned, cover
from reporting.core.comparison import compare
from reporting.core.metrics import Period, per_hour, share, trend
from reporting.core.timeline import Moment, course

NOW = datetime(2026, 11, 20, 12, 7, 31, tzinfo=UTC)
ago = st.timedeltas(timedelta(0), timedelta(days=90))


@given(ago, ago)
def test_the_buckets_of_a_period_cover_each_instant_once(first: timedelta, second: timedelta) -> None:
    period = aligned(Period(NOW - max(first, second), NOW - min(first, second)), NOW)
    at = period.since
    for grain, start in cover(period, NOW):
        assert start == at
        at += timedelta(minutes=grain)
    assert at == period.until or at > period.until >= NOW


@given(ago)
def test_a_period_and_the_one_before_share_one_edge(length: timedelta) -> None:
    period = aligned(Period(NOW - length, NOW), NOW)
    assert aligned(period.previous, NOW).until == period.since
    assert period.since >= NOW - length


@given(st.lists(st.integers(10, 30 * 86_400_000), min_size=1), st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_found_again_within_its_bucket(durations: list[int], wanted: float) -> None:
    counts: dict[int, int] = {}
    for spent in durations:
        counts[histogram.bucket(spent)] = counts.get(histogram.bucket(spent), 0) + 1
    ranked = sorted(durations)
    exact = next(value for place, value in enumerate(ranked, 1) if place >= wanted * len(ranked)) / 1000
    found = histogram.quantile(counts, wanted)
    assert found is not None
    assert exact <= 0.02 or exact / 1.42 <= found <= exact * 1.42


def test_nothing_is_said_of_too_few() -> None:
    period = Period(NOW - timedelta(days=1), NOW)
    assert share(3, 3, "x", period).text == "not enough data (3 of 20)"
    assert share(19, 20, "x", period).text == "95 %"
    assert share(0, 0, "x", period, least=0).value is None
    assert per_hour(5, Period(NOW - timedelta(minutes=5), NOW), "x").value is None
    assert per_hour(48, period, "x").text == "2 tasks/h"
    assert (trend(5, 9, "x", period).value, trend(15, 10, "x", period).value) == (None, 50.0)


@given(
    st.lists(
        st.tuples(
            st.timedeltas(timedelta(hours=-3), timedelta(hours=30)),
            st.sampled_from(["workflow.nova.moved", "workflow.nova.paused", "workflow.nova.resumed", "other"]),
            st.sampled_from(["work_discovery", "task_execution"]),
        )
    )
)
def test_a_course_has_no_gap_and_ends_now(steps: list[tuple[timedelta, str, str]]) -> None:
    since = NOW - timedelta(hours=24)
    moments = [Moment(since + offset, action, (state,)) for offset, action, state in sorted(steps)]
    stretches = course(moments, since, NOW)
    assert (stretches[0].since, stretches[-1].until) == (since, NOW)
    for one, other in zip(stretches, stretches[1:], strict=False):
        assert one.until == other.since
        assert one.state != other.state
        assert one.since < one.until


def test_a_paused_nova_is_paused_until_it_is_resumed() -> None:
    hour = timedelta(hours=1)
    moments = [
        Moment(NOW - 4 * hour, "workflow.nova.moved", ("stream_check", "task_execution")),
        Moment(NOW - 3 * hour, "workflow.nova.paused"),
        Moment(NOW - 2 * hour, "workflow.nova.moved", ("work_discovery",)),
        Moment(NOW - hour, "workflow.nova.resumed"),
    ]
    found = [(stretch.state, stretch.until - stretch.since) for stretch in course(moments, NOW - 5 * hour, NOW)]
    assert found == [("unknown", hour), ("task_execution", hour), ("paused", 2 * hour), ("work_discovery", hour)]


@pytest.mark.parametrize("milliseconds", [0, 10, 11, 60_000, 10**12])
def test_every_duration_has_a_bucket(milliseconds: int) -> None:
    assert 0 <= histogram.bucket(milliseconds) <= histogram.HIGHEST


def test_a_share_changes_by_points_and_a_number_by_percent() -> None:
    def figure(value: float | None, unit: str, since: str | None = "x") -> dict[str, object]:
        return {"value": value, "unit": unit, "since": since, "text": "x"}

    now = {"s": {"share": figure(90.0, "percent"), "tasks": figure(30, "tasks"), "novas": figure(5, "Novas", None)}}
    before = {"s": {"share": figure(80.0, "percent"), "tasks": figure(20, "tasks"), "novas": figure(9, "Novas", None)}}
    found = compare(now, before)["s"]
    assert [(row["previous"], row["change_percentage"], row["change_points"]) for row in found.values()] == [
        (80.0, None, 10.0), (20, 50.0, None), (None, None, None),
    ]  # fmt: skip


@given(ago, ago)
def test_no_period_ends_in_the_future(first: timedelta, second: timedelta) -> None:
    period = aligned(Period(NOW - max(first, second), NOW - min(first, second)), NOW)
    assert period.since <= period.until <= NOW
    assert aligned(period, NOW) == period
