"""The admin at its doors: pages open, verbs ask why, saves are journalled, nothing is deleted, the journal is a window."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_q.models import Failure, OrmQ, Schedule, Success

from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule
from safety import audit
from safety.api_keys import create_key
from safety.models import (
    AuditEntry,
    AuditSeal,
    CandidateVerdict,
    HookEvent,
    HookSession,
    ProviderAccount,
    SafetyIncident,
    SafetyPolicy,
    VerificationRun,
)
from tests import factories
from workflow import approvals, halts
from workflow.admin import verbs
from workflow.models import (
    CommandTemplate,
    HttpEndpoint,
    Lease,
    ModelPrice,
    Nova,
    NovaState,
    NovaUsage,
    Objective,
    Personality,
    StreamCursor,
    Task,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _quick_settings(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


@pytest.fixture
def page(client: Client, admin_user: User) -> Client:
    """A browser in which the superuser `admin` is logged in."""
    client.force_login(admin_user)
    return client


@pytest.fixture
def everything(now: datetime) -> dict[str, Any]:
    """One row of each kind, by model label, with an awkward text in it."""
    text = "<script>alert(1)</script>"
    candidate = factories.make_policy("strict")
    nova = factories.make_nova(
        name=text, candidate_policy=candidate, state={"last_error": text, "protocol_checks": 3, "protocol_passes": 2}
    )
    approval = approvals.request_approval("torch", "deploy", {"a": text}, reason=text, now=now)
    factories.make_safety_state(is_safe=False, mechanism="frosty", reason=text, since=now)
    task = factories.make_task(text, assignee="torch", status="blocked", block_reason=text, results=text, metrics={"a": text})
    audit_ids = write_entries(now, audit.Entry("test.happened", "torch", "nova", "torch", {"a": text}, {"a": None}, text))
    incident = SafetyIncident.objects.create(nova_id="torch", mechanism="frosty", reason=text, opened_at=now, last_seen_at=now)
    rule = AlertRule.objects.create(slug="late", title=text, condition="outbox_old", threshold=60.0)
    channel = AlertChannel.objects.create(slug="desk", description=text, kind="webhook", url="https://desk.example/")
    event = AlertEvent.objects.create(rule=rule, title=text, tier="warning", fired_at=now, seen_at=now)
    return {
        "workflow.nova": nova,
        "workflow.personality": nova.personality,
        "safety.safetypolicy": nova.policy,
        "workflow.task": task,
        "workflow.execution": factories.make_execution(task, error=text, metrics={"a": text}),
        "workflow.inboxmessage": factories.make_inbox_message(
            nova_id="torch", status="rejected", reason=text, fields={"a": text}
        ),
        "workflow.objective": factories.make_objective(text, nova="torch"),
        "workflow.streamcursor": StreamCursor.objects.create(stream="nova.work.queue", updated_at=now),
        "workflow.lease": Lease.objects.create(name="intake", holder="h", heartbeat_at=now, note={"a": text}),
        "safety.safetyincident": incident,
        "safety.provideraccount": ProviderAccount.objects.create(slug="claude", breaker="open", breaker_reason=text),
        "safety.auditentry": AuditEntry.objects.get(id=audit_ids[0]),
        "safety.auditseal": AuditSeal.objects.create(
            number=1,
            first_id=1,
            last_id=1,
            count=1,
            digest="0",
            leaves=b"",
            previous="0",
            head=text,
            salt="0",
            sealed_at=now,
            key_id="0",
            public_key="0",
            signature="0",
        ),
        **alerts(text, now),
        "safety.verificationrun": VerificationRun.objects.create(
            scope="full",
            requested_at=now,
            requested_by="x",
            reason=text,
            started_at=now,
            finished_at=now,
            damages=1,
            findings=[{"damage": "edited", "seal": 1, "first_id": 1, "last_id": 1, "words": text}],
        ),
        "safety.apikey": create_key("torch", name=text, now=now)[1],
        "safety.hookevent": HookEvent.objects.create(
            nova_id="torch", event="Stop", received_at=now, payload={"a": text}, reply={"a": text}, problem=text
        ),
        "safety.hooksession": HookSession.objects.create(
            nova_id="torch", session_id=text, started_at=now, last_seen_at=now, stopped_at=now
        ),
        "safety.candidateverdict": CandidateVerdict.objects.create(
            nova_id="torch",
            policy="strict",
            is_safe=False,
            mechanism="frosty",
            reason=text,
            since=now,
            observed_since=now,
            blocks=1,
            last_block_at=now,
            memory={"enforced": {"is_safe": False, "mechanism": text, "reason": text}},
        ),
        "workflow.halt": halts.order("pause", "nova", "torch", reason=text, now=now, drill=True),
        "workflow.commandtemplate": CommandTemplate.objects.create(slug="say", program="/bin/echo", description=text),
        "workflow.httpendpoint": HttpEndpoint.objects.create(slug="desk", url="https://desk.example/", description=text),
        "workflow.modelprice": ModelPrice.objects.create(
            account=ProviderAccount.objects.create(slug="priced"), model=text, input_price=1.0, output_price=2.0
        ),
        "workflow.novausage": NovaUsage.objects.create(nova=nova, day=now.date(), requests=3),
        "workflow.approval": approval,
        "django_q.ormq": OrmQ.objects.create(key="work@here", payload=text),
        "django_q.schedule": Schedule.objects.create(name=text, func="a.b"),
        "django_q.success": Success.objects.create(id="1" * 32, name="x", func=text, started=now, stopped=now, success=True),
        "django_q.failure": Failure.objects.create(
            id="2" * 32, name="y", func="a.b", started=now, stopped=now, success=False, result=text
        ),
        "reporting.alertrule": rule,
        "reporting.alertchannel": channel,
        "reporting.alertevent": event,
        "reporting.alertdelivery": AlertDelivery.objects.create(
            channel=channel, event=event, kind="fired", message_id="m", title=text, body=text, created_at=now, due_at=now
        ),
        "auth.user": User.objects.create_user("ada", password="x"),
        "auth.group": Group.objects.create(name="Operators"),
    }


def write_entries(now: datetime, *entries: audit.Entry) -> list[int]:
    return audit.record(entries, now=now)


def address(label: str, kind: str, *args: Any) -> str:
    return reverse(f"admin:{label.replace('.', '_')}_{kind}", args=args)


def journal(action: str) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(action=action).order_by("id"))


def alerts(text: str, now: datetime) -> dict[str, Any]:
    """A rule, what it found, a channel, and the message to it."""
    rule = AlertRule.objects.create(slug="silent", title=text, condition="nova_silent", threshold=60.0)
    channel = AlertChannel.objects.create(slug="ops", kind="webhook", url="https://ops.example.com/", description=text)
    subjects = [{"subject": text, "says": text, "value": 1.0, "nova_id": ""}]
    event = AlertEvent.objects.create(rule=rule, title=text, tier="warning", subjects=subjects, fired_at=now, seen_at=now)
    told = {"log": [{"at": "now", "ok": False, "detail": text, "seconds": 1.0}], "created_at": now, "due_at": now}
    delivery = AlertDelivery.objects.create(
        channel=channel, event=event, kind="fired", message_id="msg", title=text, body=text, **told
    )
    return {
        "reporting.alertrule": rule,
        "reporting.alertchannel": channel,
        "reporting.alertevent": event,
        "reporting.alertdelivery": delivery,
    }


class TestPages:
    def test_every_registered_page_is_known_to_these_tests(self, everything: dict[str, Any]) -> None:
        assert {model._meta.label_lower for model in admin.site._registry} == set(everything)

    def test_every_list_and_every_form_opens_and_escapes_what_it_shows(self, page: Client, everything: dict[str, Any]) -> None:
        for label, row in everything.items():
            for url in (address(label, "changelist"), address(label, "change", row.pk)):
                response = page.get(url)
                assert response.status_code == 200, url
                assert "<script>alert(1)" not in response.content.decode(), url
            adds = page.get(address(label, "add")).status_code
            assert adds == (200 if label not in WINDOWS else 403), label
            assert page.get(address(label, "changelist"), {"q": "a b"}).status_code == 200
            history = page.get(address(label, "history", row.pk))
            assert history.status_code == 200, label
            assert "<script>alert(1)" not in history.content.decode(), label

    def test_every_filter_works(self, page: Client, everything: dict[str, Any]) -> None:
        filters = {
            "workflow.nova": ["service=all", "service=archived", "state__mode__exact=paused", "team=x"],
            "workflow.task": ["status__exact=blocked", "assigned=no", "assignee__nova_id__exact=torch", "outcome__exact="],
            "safety.auditentry": ["action__icontains=nova", "nova_id__exact=torch", "actor__exact=system"],
            "workflow.inboxmessage": ["status__exact=rejected", "stream__icontains=torch"],
            "workflow.personality": ["use=yes", "use=no"],
            "safety.safetyincident": [
                "lasting=yes",
                "lasting=no",
                "mechanism=frosty",
                "status__exact=open",
                "nova_id__exact=x",
            ],
            "safety.provideraccount": ["use=yes", "kind__exact=openai", "breaker__exact=open"],
            "workflow.novausage": ["nova_id__exact=torch", "nova_id__exact="],
            "workflow.modelprice": ["use=yes", "account__slug__exact=priced"],
            "workflow.execution": ["status__exact=running", "task__assignee__nova_id__exact=torch"],
        }
        for label, queries in filters.items():
            for query in queries:
                assert page.get(f"{address(label, 'changelist')}?{query}").status_code == 200, query

    def test_an_empty_filter_filters_nothing(self, page: Client, everything: dict[str, Any]) -> None:
        url = address("safety.auditentry", "changelist")
        assert "test.happened" in page.get(f"{url}?nova_id__exact=&action__icontains=").content.decode()
        assert "test.happened" in page.get(f"{url}?nova_id__exact=torch").content.decode()
        assert "test.happened" not in page.get(f"{url}?nova_id__exact=tor").content.decode()

    def test_the_index_and_the_root_open(self, page: Client) -> None:
        assert page.get("/").status_code == 200
        content = page.get("/admin/").content.decode()
        assert "NOVAWF" in content

    def test_a_stranger_is_sent_to_the_login(self, client: Client, everything: dict[str, Any]) -> None:
        for label in everything:
            response = client.get(address(label, "changelist"))
            assert response.headers["Location"].startswith("/admin/login/")

    def test_nothing_is_deleted(self, page: Client, everything: dict[str, Any]) -> None:
        for label, row in everything.items():
            assert page.post(address(label, "delete", row.pk), {"post": "yes"}).status_code == 403
            body = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
            page.post(address(label, "changelist"), body)
            assert type(row)._default_manager.filter(pk=row.pk).exists(), label

    @pytest.mark.parametrize("count", [1, 40])
    def test_the_list_of_novas_costs_the_same_however_many_there_are(self, page: Client, count: int) -> None:
        factories.make_novas(count)
        page.get(address("workflow.nova", "changelist"))  # content types and the like are cached by now
        with CaptureQueriesContext(connection) as queries:
            page.get(address("workflow.nova", "changelist"))
        assert len(queries) <= 11

    def test_the_list_shows_what_a_nova_is_really_doing(self, page: Client, everything: dict[str, Any]) -> None:
        content = page.get(address("workflow.nova", "changelist")).content.decode()
        assert "safety pause" in content
        assert "66.7%" in content


WINDOWS = {
    "reporting.alertevent",
    "reporting.alertdelivery",
    "safety.auditseal",
    "safety.verificationrun",
    "workflow.approval",
    "django_q.ormq",
    "django_q.schedule",
    "django_q.success",
    "django_q.failure",
    "workflow.novausage",
    "workflow.execution",
    "workflow.halt",
    "workflow.inboxmessage",
    "workflow.streamcursor",
    "workflow.lease",
    "safety.safetyincident",
    "safety.auditentry",
    "safety.hookevent",
    "safety.hooksession",
    "safety.candidateverdict",
}


class TestJournalPage:
    def test_is_read_only(self, page: Client, everything: dict[str, Any]) -> None:
        entry = everything["safety.auditentry"]
        before = AuditEntry.objects.filter(id=entry.id).values().get()
        assert page.post(address("safety.auditentry", "change", entry.pk), {"action": "forged"}).status_code == 403
        assert page.post(address("safety.auditentry", "add"), {"action": "forged"}).status_code == 403
        assert AuditEntry.objects.filter(id=entry.id).values().get() == before
        assert not journal("forged")

    def test_shows_before_and_after(self, page: Client, now: datetime) -> None:
        (entry_id,) = write_entries(
            now, audit.Entry("x.y", "torch", "nova", "torch", {"team": "old"}, {"team": "new"}, "because")
        )
        content = page.get(address("safety.auditentry", "change", entry_id)).content.decode()
        for text in ("team", "old", "new", "because"):
            assert text in content

    def test_never_shows_what_a_nova_wrote_for_itself(self, page: Client, now: datetime) -> None:
        secret = "plantedsecret"
        (entry_id,) = write_entries(
            now, audit.Entry("x.y", "torch", "nova", "torch", {"a": secret}, {"b": secret}, secret, personal=True)
        )
        factories.make_nova()
        task = factories.make_task(secret, assignee="torch", personal=True)
        execution = factories.make_execution(task, results=secret)
        for url in (
            address("safety.auditentry", "changelist"),
            address("safety.auditentry", "change", entry_id),
            address("workflow.task", "changelist"),
            address("workflow.execution", "changelist"),
        ):
            assert secret not in page.get(url).content.decode()
        assert page.get(address("workflow.task", "change", task.id)).status_code == 302
        assert page.get(address("workflow.execution", "change", execution.id)).status_code == 302

    def test_the_history_button_leads_to_the_rows_own_story(self, page: Client, everything: dict[str, Any]) -> None:
        write_entries(timezone.now(), audit.Entry("other.story", "echo", "nova", "echo"))
        response = page.get(address("workflow.nova", "history", "torch"), follow=True)
        content = response.content.decode()
        assert "test.happened" in content
        assert "other.story" not in content


class TestNovaVerbs:
    def test_get_only_asks(self, page: Client) -> None:
        factories.make_nova()
        for verb in ("pause", "resume", "drain", "wake", "archive", "unarchive"):
            offered = page.get(reverse(f"admin:workflow_nova_offer_{verb}", args=["torch"]), follow=True)
            assert offered.status_code == 200
            assert b'name="reason"' in offered.content
        assert NovaState.objects.get().mode == "running"
        assert not AuditEntry.objects.filter(nova_id="torch").exists()

    def test_a_novas_page_offers_only_what_would_change_it(self, page: Client) -> None:
        factories.make_nova()
        content = page.get(address("workflow.nova", "change", "torch")).content.decode()
        assert "offer-pause" in content
        assert "offer-resume" not in content
        assert "offer-unarchive" not in content
        NovaState.objects.update(mode="paused")
        content = page.get(address("workflow.nova", "change", "torch")).content.decode()
        assert "offer-resume" in content
        assert "offer-pause" not in content

    def test_a_verb_on_one_nova(self, page: Client) -> None:
        factories.make_nova()
        url = address("workflow.nova", "verb", "pause")
        response = page.post(url, {"rows": "torch", "reason": "maintenance"}, follow=True)
        assert "1 nova paused." in response.content.decode()
        assert NovaState.objects.get().mode == "paused"
        (entry,) = journal("workflow.nova.paused")
        assert (entry.actor, entry.reason) == ("user:admin", "maintenance")
        assert entry.request_id
        response = page.post(url, {"rows": "torch", "reason": "again"}, follow=True)
        assert "needed no change" in response.content.decode()
        assert len(journal("workflow.nova.paused")) == 1

    def test_without_a_reason_it_asks_again(self, page: Client) -> None:
        factories.make_nova()
        response = page.post(address("workflow.nova", "verb", "pause"), {"rows": "torch", "reason": " "})
        assert response.status_code == 200
        assert "This field is required" in response.content.decode()
        assert NovaState.objects.get().mode == "running"

    def test_a_selection_keeps_the_rows_as_they_were_chosen(self, page: Client) -> None:
        nova_ids = factories.make_novas(3)
        body = {"action": "pause", "select_across": "1", "_selected_action": nova_ids[:1]}
        asked = page.post(address("workflow.nova", "changelist"), body)
        assert asked.status_code == 200
        assert "Pause: 3 novas" in asked.content.decode()
        assert "3 running" in asked.content.decode()
        factories.make_nova("late")
        page.post(address("workflow.nova", "verb", "pause"), {"rows": "\n".join(nova_ids), "reason": "all"})
        assert NovaState.objects.filter(mode="paused").count() == 3
        assert NovaState.objects.get(nova_id="late").mode == "running"

    def test_browsers_line_endings_are_understood(self, page: Client) -> None:
        nova_ids = factories.make_novas(3)
        page.post(address("workflow.nova", "verb", "pause"), {"rows": "\r\n".join(nova_ids), "reason": "all"})
        assert NovaState.objects.filter(mode="paused").count() == 3

    def test_what_refuses_is_told_and_the_others_go_on(self, page: Client) -> None:
        factories.make_nova()
        factories.make_nova("ill", state={"mode": "quarantined"})
        response = page.post(address("workflow.nova", "verb", "pause"), {"rows": "torch\nill", "reason": "x"}, follow=True)
        content = response.content.decode()
        assert "1 nova paused." in content
        assert "ill can&#x27;t pause: it is quarantined" in content

    def test_needs_the_csrf_token_and_the_permission(self, admin_user: User) -> None:
        factories.make_nova()
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(admin_user)
        url = address("workflow.nova", "verb", "pause")
        assert strict.post(url, {"rows": "torch", "reason": "x"}).status_code == 403
        viewer = Client()
        user = User.objects.create_user("ada", password="x", is_staff=True)
        user.user_permissions.add(*_permissions("view_nova"))
        viewer.force_login(user)
        assert viewer.get(address("workflow.nova", "changelist")).status_code == 200
        assert viewer.get(url, {"rows": "torch"}).status_code == 403
        assert viewer.post(url, {"rows": "torch", "reason": "x"}).status_code == 403
        assert NovaState.objects.get().mode == "running"

    def test_an_unknown_verb_or_row_is_not_found(self, page: Client) -> None:
        factories.make_nova()
        assert page.get("/admin/workflow/nova/verb/explode/", {"rows": "torch"}).status_code == 404
        assert page.get(address("workflow.nova", "verb", "pause"), {"rows": "nobody"}).status_code == 404
        assert page.get(address("workflow.nova", "verb", "pause"), {"rows": "a\0b"}).status_code == 404
        assert page.get(address("workflow.objective", "verb", "archive"), {"rows": "x"}).status_code == 404

    def test_a_selection_beyond_the_limit_is_refused(self, page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verbs, "SELECTION_LIMIT", 2)
        body = {"action": "pause", "select_across": "1", "_selected_action": factories.make_novas(3)[:1]}
        response = page.post(address("workflow.nova", "changelist"), body, follow=True)
        assert "narrow the list first" in response.content.decode()


def _permissions(*codenames: str) -> Any:
    from django.contrib.auth.models import Permission

    return Permission.objects.filter(codename__in=codenames, content_type__app_label__in=["workflow", "safety"])


NOVA_FORM = {
    "name": "Ember",
    "personality": "torch",
    "policy": "standard",
    "team": "",
    "default_executor": "builtin",
    "allowed_executors": ["builtin", "agent"],
    "stream_executors": ["builtin"],
    "execution_timeout": "300",
    "tasks_per_phase": "5",
    "personal_phase_after": "0",
    "personal_phase_minutes": "5",
}


class TestSaving:
    def test_a_new_nova_gets_its_state(self, page: Client) -> None:
        factories.make_personality()
        factories.make_policy()
        response = page.post(address("workflow.nova", "add"), NOVA_FORM | {"nova_id": "ember", "reason": "more hands"})
        assert response.status_code == 302, response.context["errors"]
        state = NovaState.objects.get(nova_id="ember")
        assert (state.mode, state.current_state) == ("running", "initializing")
        (entry,) = journal("workflow.nova.created")
        assert (entry.actor, entry.object_id, entry.reason) == ("user:admin", "ember", "more hands")
        assert not LogEntry.objects.exists()

    def test_a_change_is_journalled_field_by_field(self, page: Client) -> None:
        factories.make_nova()
        url = address("workflow.nova", "change", "torch")
        response = page.post(url, NOVA_FORM | {"name": "Torch", "team": "forge", "stream_executors": ["builtin", "agent"]})
        assert response.status_code == 302, response.context["errors"]
        (entry,) = journal("workflow.nova.changed")
        assert (entry.before, entry.after) == ({"team": ""}, {"team": "forge"})

    @pytest.mark.parametrize(
        "wrong",
        [
            {"nova_id": "Not One"},
            {"nova_id": ""},
            {"default_executor": "agent", "allowed_executors": ["builtin"], "stream_executors": []},
            {"allowed_executors": ["nonsense"]},
            {"tasks_per_phase": "0"},
        ],
    )
    def test_a_form_that_makes_no_sense_is_shown_again(self, page: Client, wrong: dict[str, Any]) -> None:
        factories.make_personality()
        factories.make_policy()
        response = page.post(address("workflow.nova", "add"), NOVA_FORM | {"nova_id": "ember"} | wrong)
        assert response.status_code == 200
        assert response.context["errors"]
        assert not Nova.objects.exists()

    def test_a_nova_keeps_its_id(self, page: Client) -> None:
        factories.make_nova()
        page.post(address("workflow.nova", "change", "torch"), NOVA_FORM | {"nova_id": "other"})
        assert list(Nova.objects.values_list("nova_id", flat=True)) == ["torch"]

    def test_personality_policy_and_objective_are_journalled_too(self, page: Client, now: datetime) -> None:
        personality = factories.make_personality()
        body = {f: getattr(personality, f) for f in ("reflection_frequency", "celebration_style", "work_style")}
        body |= {"communication_pattern": personality.communication_pattern, "base_cycle_time": 30, "reason": "calmer"}
        page.post(address("workflow.personality", "change", "torch"), body)
        (entry,) = journal("workflow.personality.changed")
        assert (entry.before, entry.after, entry.reason) == ({"base_cycle_time": 25.0}, {"base_cycle_time": 30.0}, "calmer")

        policy = factories.make_policy()
        fields = [f.name for f in SafetyPolicy._meta.fields if f.editable and f.name not in ("slug", "updated_at")]
        page.post(
            address("safety.safetypolicy", "change", "standard"), {f: getattr(policy, f) for f in fields} | {"cooldown": 45}
        )
        (entry,) = journal("safety.policy.changed")
        assert (entry.before, entry.after) == ({"cooldown": 30.0}, {"cooldown": 45.0})

        body = {"title": "Keep docs true", "priority": "medium", "cadence": 3600, "due_at_0": "2026-11-20", "due_at_1": "12:00"}
        response = page.post(address("workflow.objective", "add"), body)
        assert response.status_code == 302, response.context["errors"]
        (entry,) = journal("workflow.objective.created")
        assert entry.object_id == str(Objective.objects.get().pk)

    def test_archiving_keeps_the_row(self, page: Client) -> None:
        factories.make_personality("echo")
        page.post(address("workflow.personality", "verb", "archive"), {"rows": "echo", "reason": "old"})
        assert Personality.objects.get().archived_at is not None
        page.post(address("workflow.personality", "verb", "restore"), {"rows": "echo", "reason": "wanted"})
        assert Personality.objects.get().archived_at is None

    def test_a_personality_in_use_says_who_uses_it(self, page: Client) -> None:
        factories.make_nova()
        response = page.post(
            address("workflow.personality", "verb", "archive"), {"rows": "torch", "reason": "old"}, follow=True
        )
        assert "torch is used by torch" in response.content.decode()


class TestTasks:
    def test_a_task_is_asked_for(self, page: Client) -> None:
        factories.make_nova()
        body = {"title": "Write it", "priority": "high", "assignee": "torch", "executor": "builtin", "action": "echo"}
        response = page.post(address("workflow.task", "add"), body)
        assert response.status_code == 302, response.context["errors"]
        task = Task.objects.get()
        assert (task.assignee_id, task.priority, task.sender) == ("torch", "high", "user:admin")
        assert journal("workflow.task.created")[0].stream == "nova.tasks.torch.todo"

    def test_a_task_nobody_could_take_up_is_refused(self, page: Client) -> None:
        factories.make_nova(allowed_executors=["agent"], default_executor="agent")
        body = {"title": "Write it", "priority": "high", "assignee": "torch", "executor": "builtin"}
        response = page.post(address("workflow.task", "add"), body)
        assert response.status_code == 200
        assert "may not use the executor" in response.content.decode()
        assert not Task.objects.exists()

    def test_verbs(self, page: Client) -> None:
        factories.make_nova()
        task = factories.make_task(assignee="torch", status="blocked")
        page.post(address("workflow.task", "verb", "priority"), {"rows": task.id, "priority": "critical", "reason": "x"})
        page.post(address("workflow.task", "verb", "unblock"), {"rows": task.id, "reason": "x"})
        task.refresh_from_db()
        assert (task.priority, task.status) == ("critical", "pending")
        page.post(address("workflow.task", "verb", "cancel"), {"rows": task.id, "reason": "x"})
        task.refresh_from_db()
        assert task.outcome == "cancelled"
        response = page.post(address("workflow.task", "verb", "unblock"), {"rows": task.id, "reason": "x"}, follow=True)
        assert "Nothing was changed" in response.content.decode()

    def test_a_task_is_not_edited(self, page: Client) -> None:
        task = factories.make_task()
        assert page.post(address("workflow.task", "change", task.id), {"title": "Else"}).status_code == 403


class TestWhoCameIn:
    def test_logins_and_logouts_are_journalled(self, client: Client, admin_user: User) -> None:
        client.post("/accounts/login/", {"login": "admin", "password": "wrong"})
        client.post("/accounts/login/", {"login": "admin", "password": "password"})
        client.post("/admin/logout/")
        found = AuditEntry.objects.filter(action__startswith="access.log").order_by("id")
        assert list(found.values_list("action", "object_id", "actor")) == [
            ("access.login_failed", "admin", "anonymous"),
            ("access.logged_in", "admin", "user:admin"),
            ("access.logged_out", "admin", "user:admin"),
        ]
        assert found[0].after == {"address": "127.0.0.1"}
        assert found[0].request_id

    def test_a_name_that_cannot_be_stored_does_not_break_the_login(self, client: Client, db: None) -> None:
        for name in ("a\0b", "x" * 5000, "ü\u202e"):
            assert client.post("/accounts/login/", {"login": name, "password": "x"}).status_code == 200

    def test_users_and_their_rights_are_journalled_without_passwords(self, page: Client, admin_user: User) -> None:
        group = Group.objects.create(name="Operators")
        group.permissions.add(*_permissions("change_nova"))
        page.post(
            address("auth.user", "add"),
            {"username": "ada", "usable_password": "true", "password1": "Tz8-long-enough", "password2": "Tz8-long-enough"},
        )
        ada = User.objects.get(username="ada")
        page.post(
            address("auth.user", "change", ada.pk),
            {"username": "ada", "is_staff": "on", "is_active": "on", "groups": [group.pk], "date_joined_0": "2026-11-20",
             "date_joined_1": "12:00"},
        )  # fmt: skip
        page.post(
            reverse("admin:auth_user_password_change", args=[ada.pk]),
            {"usable_password": "true", "password1": "Qw9-another-one", "password2": "Qw9-another-one"},
        )
        (created,) = [e for e in journal("access.user.created") if e.object_id == "ada"]
        assert created.actor == "user:admin"
        changes = [(e.before, e.after) for e in journal("access.user.changed")]
        assert changes == [
            ({"is_staff": False}, {"is_staff": True}),
            ({"password": "(before)"}, {"password": "(after)"}),
        ]
        (granted,) = journal("access.user.groups_granted")
        assert (granted.object_id, granted.after) == ("ada", {"groups": ["Operators"]})
        assert len(journal("access.group.permissions_granted")) == 1
        assert "md5$" not in str(list(AuditEntry.objects.values_list("before", "after")))
        assert not LogEntry.objects.exists()

    def test_a_login_is_not_a_change_of_the_user(self, page: Client) -> None:
        assert not journal("access.user.changed")
