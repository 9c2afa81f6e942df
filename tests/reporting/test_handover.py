"""The handover: what changed, what is broken, what waits; to each what they may know; and taking over."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone

from reporting import alerting
from reporting.handover import make_handover
from reporting.seeding import seed_alert_rules
from safety import audit
from safety.models import AuditEntry
from tests import factories
from tests.reporting.test_alerts import _counted
from workflow import halts
from workflow.configuration import update_nova
from workflow.models import Approval

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def person(role: str) -> Client:
    user = User.objects.create(username=role.replace(" ", "-"))
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def night(db: None) -> datetime:
    """A night in which things happened; gives the morning's instant."""
    now = timezone.now()
    factories.make_installation()
    factories.make_healthy_fleet(now=now)
    seed_alert_rules(now=now - 30 * HOUR)
    factories.make_nova("torch", now=now - 3 * HOUR)
    factories.make_nova("echo", now=now)
    factories.make_incident("torch", now=now - 2 * HOUR, reason="PLANTED", evidence={"said": "PLANTED"})
    factories.make_provider("main", breaker="open", breaker_since=now - HOUR)
    factories.make_task(
        "PLANTED", assignee="echo", status="blocked", description="PLANTED", block_owner="PLANTED", block_action="PLANTED",
        block_reason="PLANTED", blocked_at=now - HOUR,
    )  # fmt: skip
    factories.make_task("PLANTED too", assignee="echo", status="blocked", personal=True)
    Approval.objects.create(
        nova_id="echo", action="PLANTED", arguments={"x": "PLANTED"}, digest="x", requested_by="x", reason="PLANTED",
        requested_at=now - HOUR, expires_at=now + HOUR,
    )  # fmt: skip
    with audit.acting("user:olivia"):
        update_nova("echo", {"team": "night"}, now=now - HOUR, reason="PLANTED")
        halts.order("halt", "nova", "torch", reason="PLANTED", now=now - HOUR)
    alerting.evaluate(now=now)
    return now


def test_it_tells_what_changed_what_is_broken_and_what_waits(night: datetime) -> None:
    found = make_handover(since=night - 12 * HOUR, now=night + timedelta(seconds=1), in_full=True)
    changed, broken, waiting = found["changed"], found["broken"], found["waiting"]
    echo = next(row for row in changed["configuration"]["rows"] if row["id"] == "echo")
    assert (echo["type"], echo["by"], echo["action"], echo["fields"]) == (
        "nova", "user:olivia", "workflow.nova.changed", ["team"],
    )  # fmt: skip
    assert [row["by"] for row in changed["orders"]["rows"]] == ["user:olivia"]
    assert {row["rule"] for row in changed["alerts"]["rows"]} == {row["rule"] for row in broken["alerts"]["rows"]} != set()
    assert [(row["nova_id"], row["status"]) for row in broken["incidents"]["rows"]] == [("torch", "open")]
    assert [row["account"] for row in broken["breakers"]["rows"]] == ["main"]
    assert (waiting["approvals"]["count"], waiting["blocked"]["count"]) == (1, 1), "what is personal is nobody's to unblock"
    assert waiting["orders"]["count"] == waiting["incidents"]["count"] == 1


def test_no_text_of_tasks_or_people_reaches_a_viewer(night: datetime) -> None:
    shown = person("viewer").get("/api/v1/handover").content
    assert b"PLANTED" not in shown
    assert b"olivia" not in shown
    to_operators = person("operator").get("/api/v1/handover").content
    assert b"olivia" in to_operators
    assert to_operators.count(b"PLANTED") == 2, "whom blocked tasks wait for, in the row and in the counts"


def test_it_begins_where_the_person_last_took_over(night: datetime) -> None:
    client, other = person("operator"), person("viewer")
    first = client.get("/api/v1/handover").json()
    assert first["changed"]["incidents"]["count"] == 1
    taken = client.post("/api/v1/handover/take", "{}", content_type="application/json")
    assert (taken.status_code, taken.json()["changed"]) == (200, True)
    assert AuditEntry.objects.filter(action="reporting.handover.taken", object_id="user:operator").count() == 1
    again = client.get("/api/v1/handover").json()
    assert again["since"] == taken.json()["read_until"]
    assert (again["changed"]["incidents"]["count"], again["broken"]["incidents"]["count"]) == (0, 1)
    assert other.get("/api/v1/handover").json()["changed"]["incidents"]["count"] == 1
    body = json.dumps({"until": "2020-01-01T00:00:00Z"})
    assert client.post("/api/v1/handover/take", body, content_type="application/json").json()["changed"] is False


def test_it_can_be_asked_for_any_time_of_the_last_month(night: datetime) -> None:
    client = person("viewer")
    long_ago = client.get("/api/v1/handover", {"since": "2001-01-01T00:00:00Z"}).json()
    assert night - timedelta(days=32) < datetime.fromisoformat(long_ago["since"]) < night - timedelta(days=30)
    answer = client.get("/api/v1/handover", {"since": "yesterday"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "/since")


def test_its_lists_are_short_and_its_queries_few(night: datetime) -> None:
    counts: list[int] = []

    def look() -> dict[str, Any]:
        with _counted(counts):
            return make_handover(since=night - 12 * HOUR, now=night, in_full=True)

    for number in range(12):
        factories.make_nova(f"nova-{number}", now=night)
        factories.make_incident(f"nova-{number}", now=night)
    look()
    for number in range(12, 40):
        factories.make_nova(f"nova-{number}", now=night)
        factories.make_incident(f"nova-{number}", now=night)
        factories.make_task(assignee="echo", status="blocked")
    found = look()
    assert counts[0] == counts[1] < 60
    lists = [part for section in ("changed", "broken", "waiting") for part in found[section].values() if "rows" in str(part)]
    assert all(len(part["rows"]) <= 10 for part in lists)
    assert found["broken"]["incidents"] == found["broken"]["incidents"] | {"count": 41, "more": 31}


def test_its_page_says_it_all_and_takes_over_on_post_alone(night: datetime, settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    client, viewer = person("operator"), person("viewer")
    shown = client.get("/handover/").content.decode()
    for words in ("Still broken", "incident", "main: open", "by user:olivia", "approval", "nova echo"):
        assert words in shown, words
    to_viewers = viewer.get("/handover/").content.decode()
    assert "PLANTED" not in to_viewers
    assert "olivia" not in to_viewers.replace(str(viewer.get("/parts/banner/").content), "")
    assert client.get("/handover/take/").status_code == 405
    assert Client().get("/handover/").status_code == 302
    taken = client.post("/handover/take/", {"until": timezone.now().isoformat()}, follow=True)
    assert "Taken over." in taken.content.decode()
    assert AuditEntry.objects.filter(action="reporting.handover.taken", object_id="user:operator").count() == 1
