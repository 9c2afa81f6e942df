"""Reports don't change, are made once, say what they stand on, come as files, and are lent out by links that end."""

import csv
import io
import json
import threading
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test import Client

from reporting import exports, reports
from reporting.core.comparison import unformulated
from reporting.core.metrics import Period
from reporting.models import Report, ReportSchedule
from reporting.models.report import ReportIsFixed
from reporting.scope import Scope
from safety.models import AuditEntry
from tests import factories
from tests.reporting.summing import do_task, sum_up

pytestmark = pytest.mark.django_db
WEEK = timedelta(days=7)


@pytest.fixture(autouse=True)
def _plain_static(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}


@pytest.fixture
def report(now: datetime) -> Report:
    """A report of a week in which 25 tasks were done, after one in which 20 were."""
    factories.make_nova("torch", team="day")
    for number in range(45):
        do_task("torch", at=now - timedelta(days=1 if number < 25 else 9, minutes=number))
    sum_up()
    return reports.make_report(Scope(), Period(now - WEEK, now), now=now)


def member(role: str) -> Client:
    user = User.objects.create(username=role)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def test_a_report_is_a_snapshot_that_says_what_it_stands_on(report: Report, now: datetime) -> None:
    do_task("torch", at=now)
    sum_up()
    stored = Report.objects.get(pk=report.pk)
    made = stored.payload["comparison"]["task_tracking_status"]["tasks_created"]
    assert (made["previous"], made["change_percentage"]) == (20, 25.0)
    assert stored.payload["dashboard"]["productivity_metrics"]["productivity_trend"] == 25.0
    assert sum(point["succeeded"] for point in stored.payload["series"]["throughput"]) == 25
    assert reports.digest_of(stored.payload) == stored.digest == report.digest
    assert stored.journal_head < AuditEntry.objects.latest("id").pk
    entry = AuditEntry.objects.get(action=reports.REPORT_MADE)
    assert (entry.object_id, entry.after["digest"]) == (report.id, report.digest)


def test_a_report_is_not_changed(report: Report) -> None:
    report.digest = "another"
    with pytest.raises(ReportIsFixed):
        report.save()
    with pytest.raises(ReportIsFixed):
        Report.objects.update(digest="another")


def test_files_hold_the_figures_and_no_formula(report: Report) -> None:
    table = list(csv.reader(io.StringIO(exports.export(report, "csv").content.decode("utf-8-sig"))))
    row = next(row for row in table if row[:2] == ["productivity_metrics", "productivity_trend"])
    assert row[2:4] == ["25.0", "percent"]
    book = zipfile.ZipFile(io.BytesIO(exports.export(report, "xlsx").content))
    assert b"productivity_trend" in book.read("xl/sharedStrings.xml")
    assert not any(b"<f>" in book.read(name) for name in book.namelist())
    assert json.loads(exports.export(report, "json").content)["report"]["digest"] == report.digest
    assert [unformulated(text) for text in ("=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "plain", 5)] == [
        "'=1+1", "'+1", "'-x", "'@SUM(A1)", "'\t=1", "plain", 5,
    ]  # fmt: skip


def test_a_report_is_made_read_and_exported_at_the_api(report: Report) -> None:
    operator, viewer = member("operator"), member("viewer")
    made = operator.post("/api/v1/reports", {"scope": "team:day", "period": "24h"}, content_type="application/json")
    assert made.status_code == 201, made.content
    assert viewer.post("/api/v1/reports", {}, content_type="application/json").status_code == 403
    wrong = operator.post("/api/v1/reports", {"scope": "team:none"}, content_type="application/json")
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (400, "/scope")
    listed = viewer.get("/api/v1/reports").json()["results"]
    assert {row["id"] for row in listed} == {report.id, made.json()["id"]}
    assert viewer.get(f"/api/v1/reports/{report.id}").json()["digest"] == report.digest
    file = viewer.get(f"/api/v1/reports/{report.id}/export/csv")
    assert file["Content-Disposition"] == f'attachment; filename="{report.id}.csv"'
    gone = viewer.get("/api/v1/reports/REPORT-20260101-00000000")
    assert (gone.status_code, gone.json()["code"]) == (404, "report_not_found")


def test_a_link_opens_one_report_until_it_ends(report: Report, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reporting.report_views._now", lambda: now)
    link, stranger = reports.make_link(report, days=2, now=now), Client()
    path = reports.address_of(link)
    page = stranger.get(path)
    assert page.status_code == 200
    assert report.digest in page.content.decode()
    assert "generated_by" not in page.content.decode()
    assert report.generated_by not in page.content.decode().replace("systems", "")
    assert stranger.get(f"{path}x").status_code == 404
    assert stranger.get(f"/reports/{report.id}/print").status_code == 302
    monkeypatch.setattr("reporting.report_views._now", lambda: now + timedelta(days=2))
    assert b"expired or was revoked" in stranger.get(path).content
    monkeypatch.setattr("reporting.report_views._now", lambda: now)
    reports.revoke_link(report, link.id, reason="a mistake", now=now)
    reports.revoke_link(report, link.id, reason="again", now=now)
    assert stranger.get(path).status_code == 404
    assert AuditEntry.objects.filter(action=reports.LINK_REVOKED).count() == 1


def test_the_page_to_print_shows_every_section(report: Report) -> None:
    page = member("viewer").get(f"/reports/{report.id}/print").content.decode()
    for words in ("Productivity metrics", "Safety compliance", "<svg", report.id, "not enough data"):
        assert words in page
    assert "style=" not in page


@pytest.mark.django_db(transaction=True)
def test_a_due_report_is_made_once_by_two_workers(now: datetime) -> None:
    factories.make_nova("torch")
    reports.make_schedule("Monday", Scope(), days=7, due_at=now - timedelta(hours=1), now=now)
    made: list[list[str]] = []

    def work() -> None:
        try:
            made.append(reports.make_due(now=now))
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(map(len, made)) == [0, 1]
    schedule = ReportSchedule.objects.get()
    assert schedule.due_at == now + WEEK - timedelta(hours=1)
    report = Report.objects.get()
    assert (report.generated_by, report.until) == ("schedule:Monday", now - timedelta(hours=1))


def test_a_schedule_that_fell_behind_makes_one_report_and_goes_on(now: datetime) -> None:
    factories.make_nova("torch")
    reports.make_schedule("daily", Scope("torch"), days=1, due_at=now - timedelta(days=9, hours=2), now=now)
    assert len(reports.make_due(now=now)) == 1
    assert reports.make_due(now=now) == []
    assert ReportSchedule.objects.get().due_at == now + timedelta(hours=22)
    ReportSchedule.objects.update(scope="nova:gone", due_at=now)
    assert reports.make_due(now=now) == []
    assert not ReportSchedule.objects.get().enabled


def test_the_command_writes_a_file_and_refuses_nonsense(report: Report, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "week.xlsx"
    call_command("report", "--period", "7d", "--format", "xlsx", "--nova", "torch", "--out", str(file))
    assert file.read_bytes()[:2] == b"PK"
    call_command("report", "--format", "json")
    assert '"scope": "fleet"' in capsys.readouterr().out
    with pytest.raises(CommandError, match="no Nova nobody"):
        call_command("report", "--nova", "nobody")
    with pytest.raises(CommandError, match="24h or 7d"):
        call_command("report", "--period", "soon")
    call_command("roll_ups", "rebuild", "--json")
    assert "behind" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_schedule_is_planned_and_switched_at_the_api(now: datetime) -> None:
    factories.make_nova("torch")
    operator = member("operator")
    body = {"name": "Monday", "due_at": "2026-11-27T06:00:00Z"}
    made = operator.post("/api/v1/report-schedules", body, content_type="application/json")
    assert made.status_code == 201, made.content
    again = operator.post("/api/v1/report-schedules", body, content_type="application/json")
    assert again.status_code == 400
    path = f"/api/v1/report-schedules/{made.json()['id']}/disable"
    off = operator.post(path, {"reason": "nobody reads it"}, content_type="application/json")
    assert off.json()["enabled"] is False
    with transaction.atomic():
        assert AuditEntry.objects.get(action=reports.SCHEDULE_CHANGED).reason == "nobody reads it"
