"""Every page for every role: opened or refused, never broken, and with no word in it that the role may not read."""

import io
import re
import zipfile
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from reporting import reports, urls
from reporting.core.metrics import Period
from reporting.core.topics import topics_of
from reporting.models import AlertEvent, AlertRule, ReportSchedule
from reporting.scope import Scope
from safety import audit
from safety.audit import Entry
from safety.models import AuditEntry
from tests import factories
from tests.reporting.summing import create, do_task, start, sum_up
from tests.reporting.test_pages import ROLES
from workflow import halts, messages
from workflow.models import Approval, Task
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db

PRIVATE, PAYLOAD, PERSON = "PLANTED-PRIVATE", "PLANTED-PAYLOAD", "olivia"
ALL = frozenset(ROLES)
OPERATORS = frozenset({"operator", "safety officer", "admin"})
OFFICERS, AUDITORS = frozenset({"safety officer", "admin"}), frozenset({"auditor", "admin"})
BY_POST_ALONE = frozenset({"take-over", "theme", "keys", "select-tasks", "selection"})
# Who may open what; a page that is not named here is everybody's.
MAY = {
    "control-nova": OPERATORS, "stop-all": OPERATORS, "lift-order": OFFICERS, "new-task": OPERATORS, "control-task": OPERATORS,
    "decide": OPERATORS, "look-at": OPERATORS, "journal-entry": AUDITORS, "verify-journal": AUDITORS,
    "export-journal": AUDITORS, "new-report": OPERATORS, "new-schedule": OPERATORS, "switch-schedule": OPERATORS,
    "share-report": OPERATORS, "revoke-link": OPERATORS, "control-incident": OPERATORS, "control-breaker": OFFICERS,
    "drill": OPERATORS,
}  # fmt: skip
# The words of an address, where a page has any; of two words the second depends on the page.
VERBS = {
    "control-nova": "pause",
    "control-task": "cancel",
    "decide": "deny",
    "switch-schedule": "disable",
    "control-incident": "acknowledge",
}


@pytest.fixture
def planted(db: None) -> dict[str, Any]:
    """A fleet in which people, agents and reflections have left words; gives the words of addresses."""
    now = timezone.now()
    factories.make_installation()
    factories.make_nova("torch", team="day", now=now)
    with audit.acting(f"user:{PERSON}"):
        create("torch", at=now, title=PRIVATE, description=PRIVATE, personal=True)
        for _ in range(3):
            do_task("torch", at=now, description=PAYLOAD, metadata={"note": PAYLOAD})
        task_id = create("torch", at=now, description=PAYLOAD)
        start(task_id, "torch", at=now)
        with TaskTracker.open(now=now) as tracker:
            tracker.block_task(task_id, owner="operator", action=PAYLOAD, reason=PAYLOAD, results=PAYLOAD)
        messages.post_message(f"user:{PERSON}", "torch", {"title": PAYLOAD, "message": PAYLOAD}, now=now)
        with transaction.atomic():
            told = Entry("workflow.nova.reflected", "torch", after={"text": PRIVATE}, reason=PRIVATE, personal=True)
            (entry_id, _) = audit.record([Entry("test.told", "torch", "task", task_id, reason=PAYLOAD), told], now=now)
        halt = halts.order("halt", "fleet", reason="fire", now=now)
        sum_up(now=now)
        report = reports.make_report(Scope(), Period(now - timedelta(days=1), now), now=now)
        link = reports.make_link(report, days=3, now=now)
        schedule = ReportSchedule.objects.create(name="Monday", due_at=now)
    approval = Approval.objects.create(
        nova_id="torch", action="send mail", arguments={"x": PAYLOAD}, digest="x", requested_by="x", reason=PAYLOAD,
        requested_at=now, expires_at=now + timedelta(hours=1),
    )  # fmt: skip
    incident = factories.make_incident("torch", now=now, evidence={"said": PAYLOAD})
    rule = AlertRule.objects.create(slug="silent", title="Silent", condition="nova_silent", threshold=1)
    AlertEvent.objects.create(rule=rule, title="Silent", tier="warning", fired_at=now, seen_at=now, count=1)
    return {
        "nova_id": "torch", "task_id": task_id, "halt_id": halt.pk, "entry_id": entry_id, "report_id": report.id,
        "link_id": link.id, "schedule_id": schedule.pk, "approval_id": approval.pk, "incident_id": incident.pk, "after": 1,
        "slug": factories.make_provider("main", breaker="open", breaker_since=now).pk,
    }  # fmt: skip


def addresses(words: dict[str, Any]) -> dict[str, str]:
    """Give the address of every page and part, by name."""
    found = {}
    for pattern in urls.urlpatterns:
        needed = pattern.pattern.regex.groupindex if hasattr(pattern.pattern, "regex") else pattern.pattern.converters
        if pattern.name not in BY_POST_ALONE:
            mine = words | {"verb": VERBS.get(pattern.name, "")}
            found[pattern.name] = reverse(pattern.name, kwargs={name: mine[name] for name in needed})
    return found


def client_of(role: str) -> Client:
    user = User.objects.create(username=f"a-{role.replace(' ', '-')}")
    user.groups.add(Group.objects.get(name=role))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


@pytest.mark.parametrize("role", ROLES)
def test_every_page_opens_for_its_roles_and_shows_none_what_is_not_theirs(role: str, planted: dict[str, Any]) -> None:
    client, wrong = client_of(role), {}
    for name, path in addresses(planted).items():
        answer = client.get(path)
        expected = 200 if role in MAY.get(name, ALL) else 403
        body = answer.content.decode()
        hidden = (PRIVATE, PAYLOAD, PERSON) if role == "viewer" else (PRIVATE,)
        leaks = [body[max(0, body.index(word) - 90) : body.index(word) + 30] for word in hidden if word in body]
        if answer.status_code != expected or leaks:
            wrong[f"{name} {path}"] = (answer.status_code, leaks)
    assert wrong == {}


def test_nobody_gets_in_without_a_login(planted: dict[str, Any]) -> None:
    stranger = Client(raise_request_exception=False)
    answers = {name: stranger.get(path) for name, path in addresses(planted).items()}
    assert {name: answer.status_code for name, answer in answers.items() if answer.status_code not in (302, 401)} == {}
    assert all(answer["Location"].startswith("/accounts/login/") for answer in answers.values() if answer.status_code == 302)


def test_what_a_viewer_takes_away_holds_no_words_of_others(planted: dict[str, Any]) -> None:
    viewer, report = client_of("viewer"), planted["report_id"]
    files = {kind: viewer.get(f"/api/v1/reports/{report}/export/{kind}") for kind in ("csv", "json", "xlsx")}
    files["print"] = viewer.get(f"/reports/{report}/print")
    assert {answer.status_code for answer in files.values()} == {200}
    book = zipfile.ZipFile(io.BytesIO(files["xlsx"].content))
    texts = [answer.content for answer in files.values()] + [book.read(name) for name in book.namelist()]
    assert not [word for text in texts for word in (PRIVATE, PAYLOAD, PERSON) if word.encode() in text]


def test_what_sockets_say_is_made_of_kinds_and_ids_alone(planted: dict[str, Any]) -> None:
    said = set[str]()
    for entry in AuditEntry.objects.values("action", "object_type", "object_id", "nova_id"):
        said |= topics_of(entry)
    ids = {"torch", *Task.objects.values_list("pk", flat=True), str(planted["halt_id"])}
    assert {topic.partition(":")[2] for topic in said} <= ids | {""}
    assert not re.search(PERSON, " ".join(said))
