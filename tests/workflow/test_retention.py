"""Old rows are forgotten in batches, each journalled; what is still needed stays, however old."""

from datetime import datetime, timedelta

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session
from django_q.models import Task as QueueTask

from safety.models import AuditEntry, VerificationRun
from tests import factories
from workflow import retention
from workflow.models import Execution, InboxMessage

pytestmark = pytest.mark.django_db

LATER = timedelta(days=400)


@pytest.fixture
def old_rows(now: datetime) -> None:
    factories.make_nova("torch")
    factories.make_inbox_message(nova_id="torch")
    for _ in range(3):
        factories.make_inbox_message(nova_id="torch", status="handled")
    done = factories.make_task("Done", assignee="torch", status="completed")
    factories.make_execution(done, status="succeeded")
    factories.make_execution(factories.make_task("Open", assignee="torch"), status="failed")
    Session.objects.create(session_key="x", session_data="x", expire_date=now)
    QueueTask.objects.create(id="x", name="x", func="x", started=now, stopped=now, success=False)
    for damages in (0, 1):
        VerificationRun.objects.create(
            scope="full", requested_at=now, requested_by="x", started_at=now, finished_at=now, damages=damages
        )


def test_what_is_old_goes_and_what_is_needed_stays(old_rows, now, monkeypatch):
    monkeypatch.setattr(retention, "_AT_ONCE", 2)
    expected = {"inbox": 3, "executions": 1, "verifications": 0, "queue": 1, "sessions": 1}
    assert retention.keep(now=now + LATER, dry_run=True).rows == expected
    assert InboxMessage.objects.count() == 4
    assert retention.keep(now=now + LATER).rows == expected
    assert InboxMessage.objects.get().status == "waiting"
    assert Execution.objects.get().task.title == "Open"
    told = AuditEntry.objects.filter(action="workflow.retention.rows_forgotten").values_list("after", flat=True)
    assert {name: sum(a["rows"] for a in told if a["table"] == name) for name in expected if expected[name]} == {
        name: rows for name, rows in expected.items() if rows
    }
    assert sum(retention.keep(now=now + LATER).rows.values()) == 0


def test_what_is_young_or_kept_for_ever_stays(old_rows, now, monkeypatch):
    assert sum(retention.keep(now=now + timedelta(seconds=1)).rows.values()) == 1  # the session that has expired
    monkeypatch.setattr(settings, "RETENTION_DAYS", dict.fromkeys(settings.RETENTION_DAYS, 0))
    assert retention.keep(now=now + LATER).rows == {"sessions": 0}
