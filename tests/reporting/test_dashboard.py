"""The dashboard's payload, through work done by the services and summed up from the journal."""

from datetime import datetime, timedelta

import pytest

from reporting.reporting_system import SECTIONS, EnterpriseReportingSystem
from tests import factories
from tests.reporting.summing import create, do_task, sum_up
from workflow.core.demonstration import TEAM
from workflow.core.work import WorkType
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def test_the_payload_has_the_six_sections_with_the_specifications_keys(now: datetime) -> None:
    factories.make_nova("torch", team="day")
    for number in range(30):
        do_task("torch", at=now - HOUR - timedelta(minutes=number), evidence=number > 2)
    create("torch", at=now)
    sum_up()
    for system in (EnterpriseReportingSystem(), EnterpriseReportingSystem("torch"), EnterpriseReportingSystem(team="day")):
        payload = system.generate_real_time_dashboard(now)
        assert set(SECTIONS) <= set(payload)
        assert payload["productivity_metrics"] == {
            "tasks_completed_24h": 30,
            "average_tasks_per_hour": pytest.approx(20, abs=2),  # of the time since the journal began
            "completion_rate_percentage": 100.0,
            "quality_score": 90.0,
            "productivity_trend": None,
        }
        assert payload["task_tracking_status"]["tasks_pending"] == 1
        assert payload["operational_status"]["novas_total"] == 1
        assert payload["quality_indicators"]["cycle_time_p50_seconds"] == pytest.approx(60, rel=0.2)
        assert payload["figures"]["productivity_metrics"]["quality_score"] == {
            "value": 90.0,
            "text": "90 %",
            "unit": "percent",
            "formula": "succeeded with evidence and no rework within 7 days so far / succeeded, over 7 days, without momentum "
            "tasks",
            "since": "2026-11-13T12:00:00+00:00",
            "until": "2026-11-20T12:00:00+00:00",
            "cases": 30,
            "least_cases": 20,
            "link": payload["figures"]["productivity_metrics"]["quality_score"]["link"],
        }
        assert payload["missing"] == {}
        assert payload["data_until"] == payload["generated_at"] == now.isoformat()


def test_too_few_cases_give_no_share(now: datetime) -> None:
    factories.make_nova("torch")
    do_task("torch", at=now - HOUR)
    sum_up()
    payload = EnterpriseReportingSystem().generate_real_time_dashboard(now)
    assert payload["productivity_metrics"]["completion_rate_percentage"] is None
    assert payload["figures"]["productivity_metrics"]["completion_rate_percentage"]["text"] == "not enough data (1 of 20)"
    assert payload["productivity_metrics"]["tasks_completed_24h"] == 1


def test_what_novas_made_up_counts_only_when_asked_for(now: datetime) -> None:
    factories.make_nova("torch")
    do_task("torch", at=now - HOUR, work_type=WorkType.MOMENTUM)
    sum_up()
    system = EnterpriseReportingSystem("torch")
    assert system.generate_real_time_dashboard(now)["productivity_metrics"]["tasks_completed_24h"] == 0
    payload = system.generate_real_time_dashboard(now, include_momentum=True)
    assert payload["productivity_metrics"]["tasks_completed_24h"] == 1


def test_rework_within_seven_days_lowers_the_quality(now: datetime) -> None:
    factories.make_nova("torch")
    done = [do_task("torch", at=now - timedelta(days=3)) for _ in range(20)]
    for again in (done[0], done[0], "TORCH-1-none"):
        create("torch", at=now - HOUR, metadata={"rework_of": again})
        sum_up()
    quality = EnterpriseReportingSystem().generate_real_time_dashboard(now)["quality_indicators"]
    assert (quality["quality_score"], quality["rework_percentage"]) == (95.0, 5.0)


def test_a_section_that_fails_is_missing_and_the_others_are_there(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    factories.make_nova("torch")
    monkeypatch.setattr("reporting.standing.open_incidents", lambda scope: 1 / 0)
    payload = EnterpriseReportingSystem().generate_real_time_dashboard(now)
    assert list(payload["missing"]) == ["safety_compliance"]
    assert payload["safety_compliance"] == {}
    assert payload["operational_status"]["novas_total"] == 1


def test_a_team_has_its_own_novas_figures(now: datetime) -> None:
    factories.make_nova("torch", team="day")
    factories.make_nova("echo", team="night", personality="echo")
    do_task("torch", at=now - HOUR)
    with TaskTracker.open(now=now) as tracker:
        tracker.create_task("For all of the night", team="night")
    sum_up()
    night = EnterpriseReportingSystem(team="night").generate_real_time_dashboard(now)
    assert night["productivity_metrics"]["tasks_completed_24h"] == 0
    assert night["task_tracking_status"]["tasks_pending"] == 1
    assert night["operational_status"]["novas_total"] == 1


def test_a_demonstration_is_no_part_of_the_fleets_figures(now: datetime) -> None:
    for nova_id, team in (("torch", "forge"), ("demo-torch", TEAM)):
        factories.make_nova(nova_id, team=team)
        do_task(nova_id, at=now - HOUR)
    sum_up()

    def figures(system: EnterpriseReportingSystem) -> tuple[int, int]:
        payload = system.generate_real_time_dashboard(now)
        return payload["productivity_metrics"]["tasks_completed_24h"], payload["operational_status"]["novas_total"]

    assert figures(EnterpriseReportingSystem()) == figures(EnterpriseReportingSystem(team=TEAM)) == (1, 1)
