"""Reports as pages: made, read, shared, planned; the wall screen; alerts listed and on the fleet page."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from reporting import report_pictures, reports
from reporting.core.metrics import Period
from reporting.models import AlertEvent, AlertRule, Report, ReportLink, ReportSchedule
from reporting.pages.reports import period_named
from reporting.scope import Scope
from safety.models import AuditEntry
from tests import factories
from tests.reporting.summing import do_task, sum_up
from tests.reporting.test_pages import person, text

pytestmark = pytest.mark.django_db


@pytest.fixture
def report(db: None) -> Report:
    """A report of a week in which 25 tasks were done."""
    now = timezone.now()
    factories.make_nova("torch", team="day")
    for number in range(25):
        do_task("torch", at=now - timedelta(days=1, minutes=number))
    sum_up(now=now)
    return reports.make_report(Scope(), Period(now - timedelta(days=7), now), now=now)


def test_an_operator_makes_a_report_and_is_led_to_it(report: Report) -> None:
    operator = person("operator")
    assert report.id in text(operator, "/reports/")
    made = operator.post("/reports/new/", {"scope": "team:day", "period": "24h"}, follow=True)
    page = made.content.decode()
    assert "Team day" in page
    assert AuditEntry.objects.filter(action=reports.REPORT_MADE, actor="user:operator").count() == 1
    for wrong, words in (
        ({"scope": "team:none", "period": "24h"}, "There is no team none. Nothing was made."),
        ({"scope": "fleet", "period": "own"}, "Give both ends of the period."),
        (
            {"scope": "fleet", "period": "own", "since": "2026-01-02T00:00", "until": "2026-01-01T00:00"},
            "begins before it ends",
        ),
        ({"scope": "fleet", "period": "own", "since": "soon", "until": "2026-01-01T00:00"}, "valid date"),
    ):
        refused = operator.post("/reports/new/", wrong)
        assert refused.status_code == 400
        assert words in refused.content.decode()
    assert Report.objects.count() == 2
    viewer = person("viewer")
    assert viewer.post("/reports/new/", {"scope": "fleet", "period": "24h"}).status_code == 403
    assert 'id="make-report"' not in text(viewer, "/reports/")


def test_a_report_shows_six_sections_with_their_cases_and_says_what_is_too_little(report: Report) -> None:
    page = text(person("viewer"), f"/reports/{report.id}/")
    assert [title in page for title in report_pictures.TITLES.values()] == [True] * 6
    assert "25 tasks" in page
    assert "not enough data" in page
    assert "n = 25" in page
    assert "succeeded / (succeeded + cancelled + times a task became blocked)" in page
    assert page.count('<svg class="chart-') >= 3
    assert report.digest in page
    assert "which they still have" in page
    assert "generated_by" not in page
    assert 'id="share"' not in page
    for name, address in re.findall(r'id="(csv|xlsx|json|print)" href="([^"]+)"', page):
        assert person_again("viewer").get(address).status_code == 200, name


def person_again(role: str) -> Client:
    from django.contrib.auth.models import User

    client = Client()
    client.force_login(User.objects.get(username=role))
    return client


def test_every_section_is_drawn_even_if_it_could_not_be_read(report: Report) -> None:
    dashboard = report.payload["dashboard"] | {"missing": {"safety_compliance": "could not be read"}}
    found = report_pictures.sections(dashboard, {}, {})
    assert [section.missing for section in found if section.key == "safety_compliance"] == ["could not be read"]
    assert len(found) == 6
    assert all(section.figure for section in found if not section.missing)


def test_a_link_is_made_with_a_reason_and_revoked_at_once(report: Report) -> None:
    operator, stranger = person("operator"), Client()
    share = f"/reports/{report.id}/share/"
    assert operator.post(share, {"days": "900", "reason": "board"}).status_code == 400
    assert operator.post(share, {"days": "7", "reason": ""}).status_code == 400
    assert not ReportLink.objects.exists()
    page = operator.post(share, {"days": "7", "reason": "the board asked"}, follow=True).content.decode()
    path = re.search(r"http://testserver(/reports/shared/[^<]+)<", page)
    assert path is not None
    assert stranger.get(path[1]).status_code == 200
    link = ReportLink.objects.get()
    operator.post(f"/reports/{report.id}/links/{link.id}/revoke/", {"reason": "sent to the wrong people"})
    assert stranger.get(path[1]).status_code == 404
    told = AuditEntry.objects.filter(action__in=(reports.LINK_MADE, reports.LINK_REVOKED)).order_by("id")
    assert [entry.reason for entry in told] == ["the board asked", "sent to the wrong people"]
    assert person("auditor").get(share).status_code == 403
    assert operator.get(f"/reports/{report.id}/links/{'0' * 24}/revoke/").status_code == 404
    assert operator.get("/reports/REPORT-20260101-00000000/").status_code == 404


def test_a_schedule_is_planned_and_switched_off_with_a_reason(report: Report) -> None:
    operator = person("operator")
    plan = {"name": "Monday", "scope": "fleet", "days": "7", "due_at": "2026-12-07T06:00"}
    assert operator.post("/reports/schedules/new/", plan).status_code == 302
    again = operator.post("/reports/schedules/new/", plan)
    assert "There is a schedule named Monday already." in again.content.decode()
    schedule = ReportSchedule.objects.get()
    operator.post(f"/reports/schedules/{schedule.pk}/disable/", {"reason": "nobody reads it"})
    assert not ReportSchedule.objects.get().enabled
    assert "switched off" in text(operator, "/reports/")
    assert person("viewer").get(f"/reports/schedules/{schedule.pk}/enable/").status_code == 403


def test_the_list_goes_on_page_by_page_in_few_queries(report: Report) -> None:
    now = timezone.now()
    kept = {"scope": "fleet", "since": now, "until": now, "generated_by": "x", "journal_head": 1, "payload": {}, "digest": ""}
    Report.objects.bulk_create(
        Report(id=f"REPORT-20260101-{number:08d}", generated_at=now - timedelta(hours=1 + number // 3), **kept)
        for number in range(60)
    )
    client, seen, path = person("viewer"), [], "/reports/"
    for _ in range(5):
        with CaptureQueriesContext(connection) as queries:
            page = text(client, path)
        seen += re.findall(r'id="report-(REPORT-[^"]+)"', page)
        assert len(queries) < 25
        older = re.search(r'rel="next" href="\?before=([^"]+)"', page)
        if older is None:
            break
        path = f"/reports/?before={older[1]}"
    assert len(seen) == len(set(seen)) == 61


def test_the_wall_screen_goes_on_by_itself_without_script_until_it_is_held(report: Report) -> None:
    viewer = person("viewer")
    answer = viewer.get("/reports/?kiosk=1&section=5")
    assert answer["Refresh"] == "15; url=?kiosk=1&section=0"
    assert "Task tracking" in answer.content.decode()
    assert "Refresh" not in viewer.get("/reports/?kiosk=1&section=5&hold=1")
    assert "Operational status" in text(viewer, "/reports/?kiosk=1&section=x")
    assert Client().get("/reports/?kiosk=1")["Location"].startswith("/accounts/login/")


def test_months_are_those_of_the_calendar() -> None:
    now = datetime.fromisoformat("2026-03-15T10:00:00+00:00")
    last = period_named("last-month", now)
    assert (last.since.isoformat(), last.until.isoformat()) == ("2026-02-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00")
    assert period_named("month", now).since == last.until


def test_alerts_are_listed_worst_first_and_the_fleet_page_shows_them(admin_client: Client) -> None:
    now = timezone.now()
    for slug, tier, status in (("mild", "info", "firing"), ("dire", "critical", "firing"), ("gone", "warning", "resolved")):
        rule = AlertRule.objects.create(slug=slug, title=f"A {slug} thing", condition="nova_silent", threshold=1, tier=tier)
        over: dict[str, Any] = {"resolved_at": now, "resolution": "none is left"} if status == "resolved" else {}
        AlertEvent.objects.create(
            rule=rule, title=rule.title, tier=tier, status=status, count=1, most=2, fired_at=now, seen_at=now,
            subjects=[{"subject": "torch", "value": 1.0, "says": "is silent", "nova_id": "torch"}], **over,
        )  # fmt: skip
    page = text(admin_client, "/alerts/")
    assert page.index("A dire thing") < page.index("A mild thing") < page.index("A gone thing")
    assert "torch</a>: is silent" in page
    assert "Channels, send a test" in page
    assert "Nothing that fits" in text(admin_client, "/alerts/?rule=none")
    assert "A mild thing" not in text(admin_client, "/alerts/?tier=critical")
    fleet = text(admin_client, "/")
    assert fleet.index("A dire thing") < fleet.index("A mild thing")
    assert "A gone thing" not in fleet
    assert "send a test" not in text(person("viewer"), "/alerts/")
