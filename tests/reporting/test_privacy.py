"""Text planted where people and agents write is in no figure, report, file, page, metric row, nor on the metrics stream."""

import io
import json
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core import serializers
from django.db import transaction
from django.test import Client

from reporting import exports, metrics_collector, reports, series
from reporting.core.metrics import Period
from reporting.models import EnterpriseMetric, Membership, Report, Rework, RollUp, RollUpCursor
from reporting.reporting_system import EnterpriseReportingSystem
from reporting.scope import Scope
from safety import audit
from safety.audit import Entry
from safety.models import SafetyIncident
from safety.stream_client import StreamClient
from tests import factories
from tests.reporting.summing import create, do_task, start, sum_up
from workflow import messages
from workflow.streams.relay import Relay
from workflow.task_tracker import TaskTracker

PLANTED = ("PLANTED-PRIVATE", "PLANTED-PAYLOAD")


@pytest.fixture
def planted(db: None, now: datetime) -> None:
    """A Nova with a private reflection, a personal task, and tasks, messages and incidents full of words."""
    factories.make_installation()
    factories.make_nova("torch", team="day")
    with transaction.atomic():
        private = Entry("workflow.nova.reflected", "torch", after={"text": PLANTED[0]}, reason=PLANTED[0], personal=True)
        moved = Entry("workflow.nova.moved", "torch", after={"path": [PLANTED[0]]}, personal=True)
        audit.record([private, moved], now=now)
    create("torch", at=now, title=PLANTED[0], description=PLANTED[0], personal=True)
    for _ in range(25):
        do_task("torch", at=now, title=PLANTED[1], description=PLANTED[1], metadata={"note": PLANTED[1]})
    with TaskTracker.open(now=now) as tracker:
        task_id = tracker.create_task(PLANTED[1], assignee="torch")
    start(task_id, "torch", at=now)
    with TaskTracker.open(now=now) as tracker:
        tracker.block_task(task_id, owner="operator", action=PLANTED[1], reason=PLANTED[1], results=PLANTED[1])
    messages.post_message("user:eve", "torch", {"title": PLANTED[1], "message": PLANTED[1]}, now=now)
    SafetyIncident.objects.create(
        nova_id="torch", mechanism="frosty", reason=PLANTED[1], evidence={"x": PLANTED[1]}, opened_at=now, last_seen_at=now
    )
    sum_up(now=now)


def found_in(text: str | bytes) -> list[str]:
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return [word for word in PLANTED if word in text]


@pytest.mark.usefixtures("planted")
def test_planted_text_is_in_no_figure_report_file_or_page(now: datetime, settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    given: dict[str, str | bytes] = {}
    for scope in (Scope(), Scope("torch"), Scope("", "day")):
        system = EnterpriseReportingSystem(scope.nova_id, team=scope.team)
        given[f"dashboard of {scope.key}"] = json.dumps(system.generate_real_time_dashboard(now, include_momentum=True))
        for make in (series.throughput, series.cycle_times, series.cumulative_flow, series.incidents_per_day):
            given[f"{make.__name__} of {scope.key}"] = json.dumps(make(scope, now=now))
        given[f"margins of {scope.key}"] = json.dumps(series.safety_margins(scope, now=now))
        report = reports.make_report(scope, Period(now - timedelta(days=7), now), now=now)
        for kind in exports.FORMATS:
            given[f"{kind} of {scope.key}"] = exports.export(report, kind).content
        book = zipfile.ZipFile(io.BytesIO(exports.export(report, "xlsx").content))
        given |= {f"{name} of {scope.key}": book.read(name) for name in book.namelist()}
    given["timeline"] = json.dumps(series.state_timeline("torch", now=now))
    metrics_collector.collect_due(now=now)
    for model in (RollUp, RollUpCursor, Membership, Rework, EnterpriseMetric, Report):
        assert model in (Rework, Membership) or model.objects.exists()
        given[model.__name__] = serializers.serialize("json", model.objects.all())
    viewer, user = Client(), User.objects.create(username="viewer")
    user.groups.add(Group.objects.get(name="viewer"))
    viewer.force_login(user)
    for path in (f"/reports/{report.id}/print", "/api/v1/dashboard", "/api/v1/novas/torch/series", "/api/v1/reports"):
        answer = viewer.get(path)
        assert answer.status_code == 200, path
        given[path] = answer.content
    given["shared"] = Client().get(reports.address_of(reports.make_link(report, days=9, now=datetime.now(now.tzinfo)))).content
    assert {name: words for name, text in given.items() if (words := found_in(text))} == {}
    assert EnterpriseMetric.objects.filter(metric_name="tasks_completed_24h", context__team="").get().metric_value == 25


@pytest.mark.usefixtures("planted")
def test_planted_text_is_in_no_metric_on_the_stream(now: datetime, stream: StreamClient) -> None:
    relay = Relay(stream)
    while relay.relay_batch(now=now):
        pass
    entries = stream.call("XRANGE", "nova.enterprise.metrics", "-", "+")
    assert entries
    assert found_in(repr(entries)) == []
    assert metrics_collector.collect_due(now=now) > 0
    assert metrics_collector.collect_due(now=now) == 0  # once an hour
