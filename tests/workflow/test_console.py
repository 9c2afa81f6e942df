"""The admin as the operators' console: its home, its history of rows, approvals, and what each role may open and read there."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from safety import audit
from safety.admin import dashboard_url
from safety.audit import Entry
from safety.models import AuditEntry, OutboxEntry, SafetyIncident
from tests import factories
from workflow import approvals, halts, services
from workflow.admin import tasks
from workflow.models import Approval, Halt, HaltConfirmation, Lease, NovaState, Task
from workflow.roles import ROLES

pytestmark = pytest.mark.django_db

TEXT = "plantedpayload"
ACTOR = "user:plantedperson"


@pytest.fixture(autouse=True)
def _quick_settings(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


def person(role: str, name: str = "someone") -> Client:
    """A browser in which somebody of this role is logged in."""
    user = User.objects.create_user(name, password="x", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def fill(number: int, now: datetime, prefix: str) -> None:
    """Make so many rows of all that grows."""
    for nova_id in factories.make_novas(number, prefix=prefix):
        factories.make_safety_state(nova_id, is_safe=False, mechanism="frosty", reason="hot", since=now)
        task = factories.make_task(TEXT, assignee=nova_id, status="blocked", now=now)
        factories.make_execution(task, status="failed", error="x", now=now)
        SafetyIncident.objects.create(nova_id=nova_id, mechanism="frosty", reason="hot", opened_at=now, last_seen_at=now)
        Approval.objects.create(
            nova_id=nova_id, action="deploy", digest=nova_id, requested_by="x", requested_at=now, expires_at=now
        )
        factories.make_inbox_message(nova_id=nova_id, now=now)
        order = Halt.objects.create(kind="halt", scope="nova", target=nova_id, reason="x", requested_by="x", requested_at=now)
        HaltConfirmation.objects.create(halt=order, nova_id=nova_id, requested_at=now)
        Lease.objects.create(name=f"slot:loops:here:{nova_id}", holder="h", heartbeat_at=now)
        OutboxEntry.objects.create(created_at=now, entry_ids=[1])
        User.objects.create_user(nova_id).groups.add(Group.objects.get(name="viewer"))


def lists() -> list[str]:
    return [reverse(f"admin:{m._meta.app_label}_{m._meta.model_name}_changelist") for m in admin.site._registry]


def test_home_and_lists_cost_the_same_for_one_row_and_for_fifty(admin_client: Client, now: datetime) -> None:
    urls = [reverse("admin:index"), *lists()]

    def costs() -> dict[str, int]:
        found = {}
        for url in urls:
            with CaptureQueriesContext(connection) as queries:
                assert admin_client.get(url).status_code == 200, url
            found[url] = len(queries)
        return found

    fill(1, now, "one")
    admin_client.get(urls[0])  # content types and the like are cached by now
    one = costs()
    fill(49, now, "more")
    assert {url: (one[url], cost) for url, cost in costs().items() if cost > one[url]} == {}
    assert one[urls[0]] <= 20


# pages that not everybody may open, and who may; all others are everybody's
ONLY = {
    "auth_user": {"auditor", "admin"},
    "auth_group": {"auditor", "admin"},
    "safety_auditentry": {"auditor", "admin"},
    **dict.fromkeys(("safety_auditseal", "safety_verificationrun"), {"auditor", "admin"}),
    **dict.fromkeys(("reporting_alertchannel", "reporting_alertdelivery"), {"safety officer", "auditor", "admin"}),
    "safety_apikey": {"safety officer", "auditor", "admin"},
    "safety_hookevent": {"safety officer", "auditor", "admin"},
    "safety_hooksession": {"safety officer", "auditor", "admin"},
    **{
        f"django_q_{name}": {"operator", "safety officer", "auditor", "admin"}
        for name in ("ormq", "schedule", "success", "failure")
    },
}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_opens_its_pages_is_refused_the_others_and_finds_no_link_to_them(role: str, now: datetime) -> None:
    fill(1, now, "one")
    client = person(role)
    home_page = client.get(reverse("admin:index")).content.decode()
    for url in lists():
        name = "_".join(url.strip("/").split("/")[1:])
        may = role in ONLY.get(name, set(ROLES))
        assert client.get(url).status_code == (200 if may else 403), url
        assert (f'href="{url}"' in home_page) == may, url


def planted(now: datetime) -> list[str]:
    """Make rows that hold texts and name a person, and give their pages."""
    factories.make_nova()
    task = factories.make_task("A task", description=TEXT, assignee="torch", results=TEXT, metadata={"a": TEXT}, sender=ACTOR)
    execution = factories.make_execution(task, results=TEXT, error=TEXT)
    message = factories.make_inbox_message(nova_id="torch", fields={"a": TEXT}, reason=TEXT, sender=ACTOR)
    with audit.acting(ACTOR):
        approval = approvals.request_approval("torch", "deploy", {"a": TEXT}, reason=TEXT, now=now)
        approvals.approve(approval.pk, reason=TEXT, now=now)
        order = halts.order("pause", "nova", "torch", reason="look", now=now, drill=True)
    incident = SafetyIncident.objects.create(
        nova_id="torch", mechanism="frosty", reason="hot", opened_at=now, last_seen_at=now, acknowledged_by=ACTOR
    )
    objective = factories.make_objective("An objective", description=TEXT, nova="torch")
    rows = [task, execution, message, approval, order, incident, objective]
    names = [f"{row._meta.app_label}_{row._meta.model_name}" for row in rows]
    return [
        reverse("admin:index"),
        *(reverse(f"admin:{name}_changelist") for name in names),
        *(
            reverse(f"admin:{name}_{kind}", args=[row.pk])
            for name, row in zip(names, rows, strict=True)
            for kind in ("change", "history")
        ),
    ]


def test_a_viewer_reads_no_payload_and_no_persons_and_an_operator_does(now: datetime) -> None:
    pages = planted(now)
    viewer, operator = person("viewer", "vera"), person("operator", "olga")
    for url in pages:
        content = viewer.get(url).content.decode()
        assert TEXT not in content, url
        assert ACTOR not in content, url
    read = "".join(operator.get(url).content.decode() for url in pages)
    assert TEXT in read
    assert ACTOR in read


def test_what_a_viewer_may_not_read_can_not_be_found_by_a_filter_or_a_search(now: datetime) -> None:
    planted(now)
    viewer = person("viewer")
    url = reverse("admin:workflow_task_changelist")
    assert viewer.get(f"{url}?description__icontains=planted").status_code in (302, 400)
    assert not viewer.get(f"{url}?q={TEXT}").context["cl"].result_list
    assert viewer.get(f"{url}?q=task").context["cl"].result_list


def test_nothing_changes_when_pages_are_looked_at(admin_client: Client) -> None:
    pages = planted(timezone.now())
    offers = [
        reverse(f"admin:workflow_approval_offer_{verb}", args=[Approval.objects.get().pk]) for verb in ("approve", "deny")
    ]

    def all_of_it() -> list[Any]:
        return [list(model.objects.order_by("pk").values()) for model in (AuditEntry, Approval, Task, Halt, NovaState)]

    before = all_of_it()
    for url in [*pages, *lists(), *offers]:
        assert admin_client.get(url, follow=True).status_code == 200, url
    assert all_of_it() == before


class TestHistory:
    def test_tells_what_the_journal_keeps_of_the_row_newest_first_a_page_at_a_time(
        self, admin_client: Client, now: datetime
    ) -> None:
        factories.make_nova()
        with transaction.atomic():
            told = [Entry("nova.told", "torch", "nova", "torch", {"team": f"t{n}"}, {"team": f"t{n + 1}"}) for n in range(51)]
            audit.record([*told, Entry("other.story", "torch", "task", "T-1")], now=now)
        url = reverse("admin:workflow_nova_history", args=["torch"])
        first, second = (admin_client.get(url, {"p": number}).content.decode() for number in (1, 2))
        assert "team: t50 → t51" in first
        assert "team: t0 → t1" in second
        assert "team: t1 → t2" not in second
        assert "other.story" not in first + second
        assert admin_client.get(url, {"p": "x"}).status_code == 404

    def test_shows_an_operator_the_story_but_no_private_text_and_no_way_into_the_journal(self, now: datetime) -> None:
        factories.make_nova()
        services.pause_nova("torch", reason="because of the noise", now=now)
        with transaction.atomic():
            audit.record([Entry("x.y", "torch", "nova", "torch", {"a": TEXT}, None, TEXT, personal=True)], now=now)
        content = person("operator").get(reverse("admin:workflow_nova_history", args=["torch"])).content.decode()
        assert "because of the noise" in content
        assert TEXT not in content
        assert reverse("admin:safety_auditentry_changelist") not in content

    def test_is_not_told_of_a_row_that_the_page_does_not_show(self, admin_client: Client) -> None:
        factories.make_nova()
        task = factories.make_task(TEXT, assignee="torch", personal=True)
        assert admin_client.get(reverse("admin:workflow_task_history", args=[task.pk])).status_code == 404


class TestApprovals:
    def test_are_decided_with_a_reason_by_those_who_may(self, now: datetime) -> None:
        factories.make_nova()
        now = timezone.now()
        asked = approvals.request_approval("torch", "deploy", {"branch": "main"}, now=now)
        url = reverse("admin:workflow_approval_verb", args=["approve"])
        assert person("viewer", "vera").post(url, {"rows": asked.pk, "reason": "x"}).status_code == 403
        operator = person("operator", "olga")
        assert "branch&quot;: &quot;main" in operator.get(url, {"rows": asked.pk}).content.decode()
        assert "required" in operator.post(url, {"rows": asked.pk, "reason": " "}).content.decode()
        asked.refresh_from_db()
        assert asked.status == "pending"
        assert "1 approval approved" in operator.post(url, {"rows": asked.pk, "reason": "go"}, follow=True).content.decode()
        asked.refresh_from_db()
        assert (asked.status, asked.decided_by, asked.decision_reason) == ("approved", "user:olga", "go")
        assert "needed no change" in operator.post(url, {"rows": asked.pk, "reason": "go"}, follow=True).content.decode()
        operator.post(reverse("admin:workflow_approval_verb", args=["deny"]), {"rows": asked.pk, "reason": "no"})
        asked.refresh_from_db()
        assert asked.status == "denied"
        assert (
            "already; nothing was changed"
            in operator.post(url, {"rows": asked.pk, "reason": "go"}, follow=True).content.decode()
        )

    def test_are_decided_at_the_command_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        factories.make_nova()
        now = timezone.now()
        asked = [
            approvals.request_approval("torch", action, {"a": 1}, reason="why", now=now).pk for action in ("deploy", "mail")
        ]
        call_command("approval", "list", "--json")
        assert [row["id"] for row in json.loads(capsys.readouterr().out)] == asked[::-1]
        call_command("approval", "show", str(asked[0]))
        assert 'arguments: {"a": 1}' in capsys.readouterr().out
        call_command("approval", "approve", str(asked[0]), "--reason", "go")
        call_command("approval", "refuse", str(asked[1]), "--reason", "no")
        assert list(Approval.objects.order_by("id").values_list("status", flat=True)) == ["approved", "denied"]
        with pytest.raises(SystemExit):
            call_command("approval", "approve", str(asked[1]), "9", "--reason", "go", "--json")
        lines = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert [bool(line["problem"]) for line in lines] == [True, True]
        with pytest.raises(CommandError, match="Say why"):
            call_command("approval", "approve", str(asked[0]))
        call_command("approval", "list")
        assert "deploy" not in capsys.readouterr().out.splitlines()[-1:]


class TestHome:
    def test_names_what_needs_a_person_the_worst_first(self, admin_client: Client) -> None:
        now = timezone.now()
        factories.make_nova("well", now=now)
        for nova_id, mode in (("resting", "paused"), ("ended", "killed")):
            factories.make_nova(nova_id, now=now, state={"mode": mode, "mode_since": now, "mode_reason": "so it is"})
        factories.make_nova("gone", now=now - timedelta(hours=1))
        parts = admin_client.get(reverse("admin:index")).context["parts"]
        assert [str(row[0]).split(">")[1].split("<")[0] for row in parts[0]["table"]["rows"]] == ["ended", "resting", "gone"]

    def test_tells_silent_workers_and_a_waiting_outbox(self, admin_client: Client) -> None:
        now = timezone.now()
        Lease.objects.create(name="slot:loops:here:0", holder="h", heartbeat_at=now - timedelta(minutes=5))
        OutboxEntry.objects.create(created_at=now - timedelta(seconds=30), entry_ids=[1])
        content = admin_client.get(reverse("admin:index")).content.decode()
        assert "silent" in content
        assert "the oldest entry waits for 3" in content


def test_a_row_leads_to_its_dashboard_where_there_is_one(admin_client: Client) -> None:
    factories.make_nova()
    content = admin_client.get(reverse("admin:workflow_nova_change", args=["torch"])).content.decode()
    url = dashboard_url("nova", "torch")
    assert (f'href="{url}"' in content) == bool(url)
    assert dashboard_url("no-such-page") == ""


class TestTaskPages:
    def test_go_through_all_statuses_newest_first(self, admin_client: Client, now: datetime) -> None:
        factories.make_nova()
        statuses = ["pending", "completed", "blocked", "in_progress"]
        made = [
            factories.make_task(f"task {n}", assignee="torch", status=statuses[n % 4], created_at=now + timedelta(seconds=n)).pk
            for n in range(60)
        ]
        url = reverse("admin:workflow_task_changelist")
        pages = [admin_client.get(url, {"p": number}).context["cl"].result_list for number in (1, 2)]
        assert [task.pk for page in pages for task in page] == made[::-1]
        found = admin_client.get(url, {"status__exact": "blocked", "q": "task 6"}).context["cl"].result_list
        assert [task.title for task in found] == ["task 6"]

    def test_look_for_words_and_rare_values_among_the_newest_and_find_an_id_wherever_it_is(
        self, admin_client: Client, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks, "SEARCHED", 2)
        monkeypatch.setattr(tasks, "FILTERED", 1)
        made = [factories.make_task(f"task {n}", created_at=now + timedelta(seconds=n), priority="low").pk for n in range(4)]

        def found(**query: str) -> list[str]:
            response = admin_client.get(reverse("admin:workflow_task_changelist"), query)
            return [task.pk for task in response.context["cl"].result_list]

        assert found(q="task") == made[:1:-1]
        assert found(q=made[0]) == made[:1]
        assert found(priority__exact="low") == made[3:]
        assert found() == made[::-1]


class TestPeople:
    def test_who_is_no_superuser_can_neither_make_one_nor_change_one(self, admin_user: User) -> None:
        client = person("admin", "alma")
        own = User.objects.get(username="alma")
        client.post(
            reverse("admin:auth_user_change", args=[own.pk]),
            {"username": "alma", "is_staff": "on", "is_active": "on", "is_superuser": "on", "groups": [own.groups.get().pk]},
        )
        own.refresh_from_db()
        assert not own.is_superuser
        url = reverse("admin:auth_user_password_change", args=[admin_user.pk])
        assert client.post(url, {"password1": "Tz8-long-enough", "password2": "Tz8-long-enough"}).status_code == 403
