"""Incidents at the admin, at REST and at the command line: read with evidence and story, told about, reported."""

import json
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from safety import api_keys, audit, incident_services
from safety.audit import Entry
from safety.core.orchestrator import VIOLATION_TYPES
from safety.facts import note_stream_back, note_stream_lost
from safety.models import AuditEntry, SafetyIncident, SafetyState
from safety.violations import report_violation
from tests import factories
from tests.workflow.test_api import _operator_key, api, get, post, problem  # noqa: F401 - fixtures
from workflow import halts, incident_story
from workflow.incident_story import story

pytestmark = pytest.mark.django_db

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture(autouse=True)
def _fleet(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    for nova_id in ("torch", "echo"):
        factories.make_nova(nova_id)


def agent_of(nova_id: str, now: datetime) -> Client:
    key, _ = api_keys.create_key(nova_id, now=now)
    return Client(headers={"Authorization": f"Bearer {key}"})


def incident_of(nova_id: str, now: datetime, kind: str = "session_storm", **details: Any) -> SafetyIncident:
    report_violation(nova_id, kind, details, now=now)
    return SafetyIncident.objects.filter(nova_id=nova_id).latest("id")


def actions(incident: SafetyIncident) -> list[str]:
    return [entry.action for entry in story(incident).entries]


class TestStory:
    def test_tells_what_was_said_and_done_while_it_was_open(self, now: datetime) -> None:
        with audit.acting("user:before"):
            halts.lift(halts.order("pause", "nova", "torch", reason="long ago", now=now - HOUR).pk, reason="x", now=now - HOUR)
        incident = incident_of("torch", now, count=12)
        with audit.acting("user:ada"):
            incident_services.acknowledge_incident(incident.pk, reason="I look", now=now + SECOND)
            halt = halts.order("halt", "fleet", reason="all stop", now=now + 2 * SECOND)
            incident_services.mitigate_incident(incident.pk, reason="hooks mended", now=now + 3 * SECOND)
            halts.lift_safety("torch", reason="mended", now=now + 4 * SECOND)
            halts.lift(halt.pk, reason="go on", now=now + 5 * SECOND)
            incident_services.resolve_incident(incident.pk, reason="a bad prompt", now=now + 6 * SECOND)
            halts.order("pause", "nova", "torch", reason="much later", now=now + HOUR)
            incident_services.add_note(incident.pk, reason="prompt changed too", now=now + 2 * HOUR)
        incident.refresh_from_db()
        assert actions(incident) == [
            "safety.violation.reported", "safety.incident.opened", "safety.incident.acknowledged", "workflow.halt.ordered",
            "workflow.nova.halted", "workflow.halt.confirmed", "safety.incident.mitigated", "safety.verdict.lifted",
            "workflow.nova.resumed", "workflow.halt.lifted", "safety.incident.resolved", "safety.incident.noted",
        ]  # fmt: skip
        assert story(incident).complete

    def test_tells_nothing_of_another_nova_and_nothing_private(self, now: datetime) -> None:
        incident = incident_of("torch", now)
        incident_of("echo", now)
        halts.order("halt", "nova", "echo", reason="x", now=now + SECOND)
        audit.record([Entry("safety.nova.unsafe", "torch", "nova", "torch", reason="private", personal=True)], now=now)
        assert actions(incident) == ["safety.violation.reported", "safety.incident.opened"]

    def test_of_the_fleet_is_the_outage(self, now: datetime) -> None:
        note_stream_lost(now)
        halts.order("pause", "fleet", reason="wait", now=now + SECOND)
        note_stream_back(now + MINUTE)
        assert actions(SafetyIncident.objects.get()) == [
            "safety.stream.lost", "safety.incident.opened", "workflow.halt.ordered", "safety.stream.returned",
            "safety.incident.ended",
        ]  # fmt: skip

    def test_is_bounded_and_keeps_its_beginning(self, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(incident_story, "LIMIT", 5)
        incident = incident_of("torch", now)
        for number in range(12):
            incident_services.add_note(incident.pk, reason=f"note {number}", now=now + number * SECOND)
        with CaptureQueriesContext(connection) as queries:
            told = story(incident)
        assert len(queries) <= 6
        assert not told.complete
        own = [entry.reason for entry in told.entries if entry.object_type == "incident"]
        assert own[1:] == [f"note {number}" for number in range(7, 12)]
        assert own[0].startswith("The agent restarts itself")


class TestReading:
    def test_the_list_is_filtered_and_paged(self, api: Client, now: datetime) -> None:  # noqa: F811
        for number in range(3):
            SafetyIncident.objects.create(
                nova_id="torch", mechanism="frosty", status="resolved", reason=f"{number}", opened_at=now, last_seen_at=now,
                ended_at=now,
            )  # fmt: skip
        incident_of("torch", now)
        incident_of("echo", now, "tool_burst")
        note_stream_lost(now)
        assert [row["nova_id"] for row in get(api, "incidents")["results"]] == ["", "echo", "torch", "torch", "torch", "torch"]
        assert [row["nova_id"] for row in get(api, "incidents", open="true")["results"]] == ["", "echo", "torch"]
        assert [row["mechanism"] for row in get(api, "incidents", nova_id="")["results"]] == ["stream_monitor"]
        assert len(get(api, "incidents", nova_id="torch", status="resolved,open")["results"]) == 4
        assert len(get(api, "incidents", mechanism="frosty")["results"]) == 4
        first = get(api, "incidents", nova_id="torch", limit=3)
        assert len(api.get(first["next"]).json()["results"]) == 1
        problem(api.get("/api/v1/incidents?status=odd"), 400)
        problem(api.get("/api/v1/incidents?mechanism=odd"), 400)
        problem(api.get("/api/v1/incidents?colour=red"), 400)
        assert "evidence" not in first["results"][0]

    def test_one_is_shown_with_its_evidence_and_its_story(self, api: Client, now: datetime) -> None:  # noqa: F811
        incident = incident_of("torch", now, count=12)
        shown = get(api, f"incidents/{incident.pk}")
        assert (shown["status"], shown["violation"], shown["evidence"]["count"]) == ("open", "session_storm", 12)
        assert [line["action"] for line in shown["story"]] == ["safety.violation.reported", "safety.incident.opened"]
        assert shown["story_complete"] is True
        assert set(shown["story"][0]) == {"id", "created_at", "action", "actor", "object_type", "object_id", "reason"}
        problem(api.get("/api/v1/incidents/999999999999999999"), 404, "incident_not_found")

    @pytest.mark.parametrize("count", [1, 40])
    def test_the_list_costs_the_same_however_many_there_are(
        self,
        api: Client,  # noqa: F811
        now: datetime,
        count: int,
        django_assert_num_queries: Any,
    ) -> None:
        SafetyIncident.objects.bulk_create(
            SafetyIncident(nova_id=f"n{number}", mechanism="frosty", reason="x", opened_at=now, last_seen_at=now)
            for number in range(count)
        )
        with django_assert_num_queries(1):
            get(api, "incidents", open="true")

    def test_a_novas_key_reads_its_own_only_and_changes_none(self, now: datetime) -> None:
        own, other = incident_of("torch", now), incident_of("echo", now)
        note_stream_lost(now)
        agent = agent_of("torch", now)
        assert [row["id"] for row in get(agent, "incidents")["results"]] == [own.pk]
        assert get(agent, "incidents", nova_id="echo")["results"] == []
        assert get(agent, f"incidents/{own.pk}")["nova_id"] == "torch"
        problem(agent.get(f"/api/v1/incidents/{other.pk}"), 404, "incident_not_found")
        for verb in incident_services.VERBS:
            problem(post(agent, f"incidents/{own.pk}/{verb}", {"reason": "x"}), 403)
        assert set(SafetyIncident.objects.values_list("status", flat=True)) == {"open"}


class TestVerbs:
    def test_an_incident_is_taken_through_its_life(self, api: Client, now: datetime) -> None:  # noqa: F811
        incident = incident_of("torch", now)
        for verb, status in (("acknowledge", "acknowledged"), ("note", "acknowledged"), ("mitigate", "mitigated")):
            answer = post(api, f"incidents/{incident.pk}/{verb}/", {"reason": f"I {verb}"})
            assert (answer.status_code, answer.json()["status"]) == (200, status)
        for _ in range(2):
            answer = post(api, f"incidents/{incident.pk}/resolve", {"reason": "it is over"})
            assert (answer.json()["status"], answer.json()["conclusion"]) == ("resolved", "it is over")
        assert [line["actor"] for line in answer.json()["story"] if line["action"] == "safety.incident.resolved"] == [
            "operator"
        ]
        found = problem(post(api, f"incidents/{incident.pk}/acknowledge", {"reason": "x"}), 409, "illegal_incident_move")
        assert "nothing was changed" in found["detail"]

    def test_a_reason_is_required(self, api: Client, now: datetime) -> None:  # noqa: F811
        incident = incident_of("torch", now)
        for body in ({}, {"reason": " "}, {"reason": "x" * 2001}, {"reason": "x", "colour": "red"}):
            problem(post(api, f"incidents/{incident.pk}/resolve", body), 400, "invalid")
        problem(post(api, "incidents/999999/resolve", {"reason": "x"}), 404, "incident_not_found")
        problem(post(api, f"incidents/{incident.pk}/forget", {"reason": "x"}), 404)
        assert SafetyIncident.objects.get().status == "open"


class TestReports:
    @pytest.fixture(autouse=True)
    def _all_is_well(self) -> None:
        factories.make_healthy_fleet(now=timezone.now())  # the doors' clock is the real one

    @pytest.mark.parametrize("kind", VIOLATION_TYPES)
    def test_each_type_opens_an_incident_and_what_is_the_novas_stops_it_at_once(self, api: Client, kind: str) -> None:  # noqa: F811
        answer = post(api, "novas/torch/violations/", {"type": kind.upper(), "details": {"count": 31}})
        assert answer.status_code == 201, answer.content
        found = answer.json()
        assert (found["incident"]["violation"], found["is_safe"]) == (kind, kind == "stream_lost")
        incident = SafetyIncident.objects.get(pk=found["incident"]["id"])
        assert incident.evidence["count"] == 31
        assert incident.nova_id == ("" if kind == "stream_lost" else "torch")
        assert AuditEntry.objects.get(action="safety.violation.reported").actor == "operator"

    def test_an_agent_reports_for_itself_only(self, now: datetime) -> None:
        agent = agent_of("torch", now)
        assert post(agent, "novas/torch/violations", {"type": "session_storm"}).status_code == 201
        assert AuditEntry.objects.get(action="safety.violation.reported").actor == "nova:torch"
        problem(post(agent, "novas/echo/violations", {"type": "session_storm"}), 403)
        problem(post(agent, "novas/torch/violations", {"type": "stream_lost"}), 403)
        assert SafetyIncident.objects.get().nova_id == "torch"

    def test_what_is_unknown_or_too_long_is_refused(self, api: Client) -> None:  # noqa: F811
        found = problem(post(api, "novas/torch/violations", {"type": "odd"}), 400, "invalid")
        assert found["errors"][0]["pointer"] == "/type"
        assert all(kind in found["errors"][0]["detail"] for kind in VIOLATION_TYPES)
        found = problem(post(api, "novas/torch/violations", {"type": "session_storm", "details": {"a": "x" * 9000}}), 400)
        assert found["errors"][0]["code"] == "too_long"
        problem(post(api, "novas/torch/violations", {"type": "session_storm", "details": []}), 400)
        problem(post(api, "novas/nobody/violations", {"type": "session_storm"}), 404)
        assert not SafetyIncident.objects.exists()
        assert not SafetyState.objects.exists()

    def test_what_looks_like_a_secret_is_taken_out(self, api: Client) -> None:  # noqa: F811
        post(
            api, "novas/torch/violations", {"type": "session_storm", "details": {"password": "plantedsecret", "a": "x" * 1000}}
        )
        shown = json.dumps(list(AuditEntry.objects.values("after", "reason", "message"))) + str(SafetyIncident.objects.values())
        assert "plantedsecret" not in shown
        assert len(SafetyIncident.objects.get().reason) < 400


class TestAdmin:
    def address(self, incident: SafetyIncident) -> str:
        return f"/admin/safety/safetyincident/{incident.pk}/change/"

    def test_the_page_shows_evidence_and_story(self, client: Client, admin_user: User, now: datetime) -> None:
        incident = incident_of("torch", now, count=12)
        SafetyIncident.objects.update(evidence={"hooks": {"top_repeated_call": {"tool": "Bash<b>"}}, "sessions": [1, 2]})
        incident_services.acknowledge_incident(incident.pk, reason="I look into it", now=now)
        client.force_login(admin_user)
        content = client.get(self.address(incident)).content.decode()
        for text in ("hooks, top repeated call, tool", "Bash&lt;b&gt;", "[1, 2]", "safety.incident.opened", "I look into it"):
            assert text in content

    def test_verbs_go_through_the_form(self, client: Client, now: datetime, settings: Any) -> None:
        settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
        user = User.objects.create_user("ada", password="x", is_staff=True)
        user.groups.add(Group.objects.get(name="operator"))
        client.force_login(user)
        incident = incident_of("torch", now)
        verb = "/admin/safety/safetyincident/verb/{}/"
        assert client.get(verb.format("false_positive"), {"rows": incident.pk}).status_code == 200
        assert client.post(verb.format("false_positive"), {"rows": incident.pk, "reason": " "}).status_code == 200
        assert SafetyIncident.objects.get().status == "open"
        for name, status in (
            ("acknowledge", "acknowledged"), ("note", "acknowledged"), ("mitigate", "mitigated"), ("resolve", "resolved"),
            ("false_positive", "false_positive"),
        ):  # fmt: skip
            assert client.post(verb.format(name), {"rows": incident.pk, "reason": f"so I {name}"}).status_code == 302
            assert SafetyIncident.objects.get().status == status
        assert AuditEntry.objects.latest("id").actor == "user:ada"
        answer = client.post(verb.format("acknowledge"), {"rows": incident.pk, "reason": "x"}, follow=True)
        assert "is false positive, so acknowledge is not possible" in answer.content.decode()

    def test_a_viewer_may_only_look(self, client: Client, now: datetime) -> None:
        user = User.objects.create_user("eve", password="x", is_staff=True)
        user.groups.add(Group.objects.get(name="viewer"))
        client.force_login(user)
        incident = incident_of("torch", now)
        assert client.get(self.address(incident)).status_code == 200
        body = {"rows": incident.pk, "reason": "x"}
        assert client.post("/admin/safety/safetyincident/verb/resolve/", body).status_code == 403
        assert SafetyIncident.objects.get().status == "open"

    def test_a_viewer_reads_nobodys_words_over_rest(self, client: Client, now: datetime) -> None:
        user = User.objects.create_user("eve", password="x")
        user.groups.add(Group.objects.get(name="viewer"))
        client.force_login(user)
        report_violation("torch", "tool_burst", {"said": "planted"}, now=now)
        incident = SafetyIncident.objects.get()
        incident_services.apply_verb("acknowledge", incident.pk, reason="planted", now=now)
        for address in ("/api/v1/incidents", f"/api/v1/incidents/{incident.pk}"):
            assert "planted" not in client.get(address).content.decode()
        user.groups.set([Group.objects.get(name="operator")])
        assert "planted" in client.get(f"/api/v1/incidents/{incident.pk}").content.decode()

    @pytest.mark.parametrize("count", [1, 40])
    def test_the_list_costs_the_same_however_many_there_are(
        self, client: Client, admin_user: User, now: datetime, count: int
    ) -> None:
        SafetyIncident.objects.bulk_create(
            SafetyIncident(nova_id=f"n{number}", mechanism="frosty", reason="x", opened_at=now, last_seen_at=now)
            for number in range(count)
        )
        client.force_login(admin_user)
        client.get("/admin/safety/safetyincident/")
        with CaptureQueriesContext(connection) as queries:
            client.get("/admin/safety/safetyincident/")
        assert len(queries) <= 6


class TestCommand:
    def run(self, *words: Any, **options: Any) -> str:
        out = StringIO()
        call_command("incident", *words, stdout=out, **options)
        return out.getvalue()

    def test_lists_those_that_last(self, now: datetime) -> None:
        first, second = incident_of("torch", now), incident_of("echo", now)
        self.run("resolve", first.pk, reason="over")
        assert [row["id"] for row in json.loads(self.run("list", json=True))] == [second.pk]
        assert [row["id"] for row in json.loads(self.run("list", nova="torch", all=True, json=True))] == [first.pk]
        assert "hook_health" in self.run("list")

    def test_shows_one_with_its_story(self, now: datetime) -> None:
        incident = incident_of("torch", now, count=12)
        self.run("note", incident.pk, reason="seen on the console")
        shown = json.loads(self.run("show", incident.pk, json=True))[0]
        assert shown["story"][-1]["reason"] == "seen on the console"
        assert shown["story"][-1]["actor"].startswith("cli:")
        text = self.run("show", incident.pk)
        assert "seen on the console" in text
        assert '"count": 12' in text

    def test_says_what_became_of_each(self, now: datetime) -> None:
        first, second = incident_of("torch", now), incident_of("echo", now)
        self.run("false-positive", first.pk, reason="a drill of ours")
        lines: list[dict[str, Any]] = []
        out = StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command("incident", "mitigate", first.pk, second.pk, reason="x", json=True, stdout=out)
        lines = json.loads(out.getvalue())
        assert ended.value.code == 1
        assert [line["changed"] for line in lines] == [False, True]
        assert "false positive" in lines[0]["problem"]

    @pytest.mark.parametrize(
        ("words", "options", "message"),
        [
            (["resolve"], {"reason": "x"}, "Name an incident"),
            (["resolve", 1], {"reason": " "}, "Say why"),
            (["show", 999_999], {}, "no incident 999999"),
        ],
    )
    def test_what_is_wrong_changes_nothing(self, words: list[Any], options: dict[str, Any], message: str) -> None:
        with pytest.raises(CommandError, match=message):
            call_command("incident", *words, **options)
        assert not AuditEntry.objects.exists()
