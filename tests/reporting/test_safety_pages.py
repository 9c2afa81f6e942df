"""The safety page, the incident page, their controls and the choice of shortcuts."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from reporting.core.safety_looks import posture
from reporting.incident_rows import incident_page
from safety import audit
from safety.incidents import Violation, end_incidents, open_incidents
from safety.models import AuditEntry, FleetFact, SafetyIncident
from safety.violations import report_violation
from tests import factories
from tests.reporting.test_pages import ROLES, person, text
from workflow import halts
from workflow.models import Halt, HaltConfirmation, NovaState
from workflow.safety_checks import check_safety
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db
MAY_SAY = {"operator", "safety officer", "admin"}
PLANTED = "PLANTED-secret-of-an-agent"


def unsafe(nova_id: str = "echo", mechanism: str = "frosty", level: str = "cooldown", **fields: Any) -> SafetyIncident:
    """Let a mechanism object to a Nova."""
    factories.make_safety_state(nova_id, is_safe=False, mechanism=mechanism, safety_level=level, reason="61 tool uses")
    evidence = {"measured": 61, "limit": 60, "recommended_action": "activate_cooldown"}
    fields = {"reason": "61 tool uses", "evidence": evidence, "safety_level": level} | fields
    return factories.make_incident(nova_id, mechanism=mechanism, now=timezone.now(), **fields)


@pytest.fixture
def busy_fleet(fleet: list[str]) -> list[str]:
    """The fleet, at work now."""
    NovaState.objects.update(due_at=timezone.now() + timedelta(minutes=1), total_cycles_completed=1234)
    return fleet


class TestSafetyPage:
    def test_is_for_every_role_and_says_what_objects_to_whom(self, busy_fleet: list[str]) -> None:
        incident = unsafe()
        for role in ROLES:
            page = text(person(role), "/safety/")
            assert "1 of 5 Novas is stopped by safety; 1 incident lasts, 1 not yet acknowledged." in page
            assert f'id="why-echo-frosty" href="/safety/incidents/{incident.pk}/">Cooldown' in page
            assert page.index('id="guarded-echo"') < page.index('id="guarded-helix"')
            assert (f'id="acknowledge-{incident.pk}"' in page) == (role in MAY_SAY), role
            assert ('id="halt-fleet"' in page) == (role in MAY_SAY), role
            assert "Calls to model providers in a minute" in page

    def test_is_shut_to_whoever_has_no_role(self, client: Client, django_user_model: Any) -> None:
        client.force_login(django_user_model.objects.create(username="nobody"))
        incident = factories.make_incident()
        for path in ("", "drill/", f"incidents/{incident.pk}/", f"incidents/{incident.pk}/resolve/", "breakers/main/close/"):
            assert client.get(f"/safety/{path}").status_code == 403, path
        assert client.get("/parts/safety/matrix/").status_code == 403

    def test_calls_nobody_safe_whom_nobody_judges(self, busy_fleet: list[str]) -> None:
        NovaState.objects.filter(nova="torch").update(mode="paused")
        FleetFact.objects.create(name="stream_reachable", value=True, observed_at=timezone.now())
        matrix = text(person("viewer"), "/parts/safety/matrix/?q=torch")
        assert matrix.count("Not checked") == 5
        assert "Safe" not in matrix

    def test_costs_the_same_for_any_number_of_novas_and_incidents(self, admin_client: Client) -> None:
        counts = []
        for number in (3, 60):
            names = factories.make_novas(number, prefix=f"n{number}", now=timezone.now())
            for nova_id in names:
                unsafe(nova_id)
            admin_client.get("/safety/")
            with CaptureQueriesContext(connection) as queries:
                page = text(admin_client, "/safety/?page=2&from=2")
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 60
        assert "Page 2 of 3 · 63 Novas" in page

    def test_an_empty_history_comes_with_evidence(self, admin_client: Client, busy_fleet: list[str]) -> None:
        page = text(admin_client, "/safety/")
        assert "No Nova is stopped by safety; no incident is open." in page
        assert "6,170 cycles were begun, each after the five judges had looked" in page
        assert "No drill was ever run" in page
        assert "No match" in text(admin_client, "/parts/safety/incidents/?nova=torch%00&status=open&from=x")

    def test_lists_incidents_that_want_a_person_first(self, busy_fleet: list[str]) -> None:
        now = timezone.now()
        over = factories.make_incident("torch", status="resolved", ended_at=now)
        seen = factories.make_incident("echo", status="acknowledged")
        fresh = factories.make_incident("helix")
        for _ in range(24):
            factories.make_incident("torch", status="false_positive", ended_at=now)

        def shown(**how: Any) -> list[int]:
            asked = {"status": "", "mechanism": "", "nova_id": "", "number": 1, "texts": True} | how
            return [row.incident.pk for row in incident_page(**asked).rows]

        first, second = shown(), shown(number=2)
        assert first[:2] == [fresh.pk, seen.pk]
        assert len(first) == 25
        assert second == [over.pk + 3, over.pk]
        assert shown(status="lasting") == [fresh.pk, seen.pk]
        assert shown(status="resolved") == [over.pk]
        assert shown(nova_id="echo") == [seen.pk]
        assert shown(mechanism="hook_health") == []

    def test_shows_who_has_not_confirmed_an_order(self, busy_fleet: list[str]) -> None:
        halt = halts.order(Halt.Kind.HALT, Halt.Scope.FLEET, reason="fire", now=timezone.now())
        HaltConfirmation.objects.filter(nova="torch").update(status="delivered", confirmed_at=None)
        Halt.objects.update(settled_at=timezone.now())
        page = text(person("viewer"), "/parts/safety/orders/")
        assert "requested 5, confirmed 4" in page
        assert f'id="late-{halt.pk}-torch"' in page
        assert f'id="late-{halt.pk}-echo"' not in page

    def test_a_drill_asks_everybody_and_stops_nobody(self, busy_fleet: list[str]) -> None:
        operator = person("operator")
        operator.post("/safety/drill/", {"reason": "Friday"}, follow=True)
        assert Halt.objects.get().drill
        assert set(NovaState.objects.values_list("mode", flat=True)) == {"running"}
        assert "would hear a halt" in text(operator, "/safety/")
        assert person("auditor").post("/safety/drill/", {"reason": "Friday"}).status_code == 403

    def test_closes_a_breaker_for_officers_alone(self, stream_url: str, busy_fleet: list[str]) -> None:
        factories.make_provider(breaker="open", breaker_reason="5 failures in a row")
        officer, operator = person("safety officer"), person("operator")
        assert "5 failures in a row" in text(officer, "/safety/")
        assert "close-breaker-main" not in text(operator, "/safety/")
        assert operator.post("/safety/breakers/main/close/", {"reason": "up"}).status_code == 403
        done = officer.post("/safety/breakers/main/close/", {"reason": "up"}, follow=True).content.decode()
        assert "The breaker of main is closed" in done
        assert AuditEntry.objects.filter(action="safety.breaker.closed", actor="user:safety-officer", reason="up").exists()
        assert officer.get("/safety/breakers/nobody/close/").status_code == 404


class TestIncidentPage:
    def test_tells_what_happened_and_what_was_done(self, busy_fleet: list[str]) -> None:
        incident = unsafe()
        officer = person("safety officer")
        for verb, words in (("acknowledge", "I look"), ("note", "a loop in its tool"), ("mitigate", "tool removed")):
            answer = officer.post(f"/safety/incidents/{incident.pk}/{verb}/", {"reason": words}, follow=True)
            assert words in answer.content.decode()
        page = text(officer, f"/safety/incidents/{incident.pk}/")
        assert "<strong>61</strong> measured" in page
        assert "In answer, the mechanism cools the Nova down." in page
        assert page.index("I look") < page.index("a loop in its tool") < page.index("tool removed")
        assert 'id="do-acknowledge"' not in page
        assert set(AuditEntry.objects.filter(object_type="incident").values_list("action", "actor")) == {
            (f"safety.incident.{done}", "user:safety-officer") for done in ("acknowledged", "noted", "mitigated")
        }

    def test_takes_words_of_those_who_act_alone(self, busy_fleet: list[str]) -> None:
        incident = unsafe()
        for role in ROLES:
            answer = person(role).post(f"/safety/incidents/{incident.pk}/note/", {"reason": role})
            assert answer.status_code == (302 if role in MAY_SAY else 403), role
        assert AuditEntry.objects.filter(action="safety.incident.noted").count() == len(MAY_SAY)

    def test_refuses_what_is_not_possible_and_changes_nothing(self, busy_fleet: list[str]) -> None:
        incident = factories.make_incident("echo", status="resolved", ended_at=timezone.now(), conclusion="done")
        operator, path = person("operator"), f"/safety/incidents/{incident.pk}"
        assert operator.post(f"{path}/resolve/", {"reason": " "}).status_code == 400
        refused = operator.post(f"{path}/acknowledge/", {"reason": "late"})
        assert refused.status_code == 409
        assert "nothing was changed" in refused.content.decode()
        assert "needed no change" in operator.post(f"{path}/resolve/", {"reason": "again"}, follow=True).content.decode()
        assert operator.get(f"{path}/delete/").status_code == operator.get("/safety/incidents/999999/").status_code == 404
        assert not AuditEntry.objects.filter(object_type="incident").exists()

    def test_shows_a_viewer_no_words_of_strangers_and_no_names(self, busy_fleet: list[str]) -> None:
        report_violation("echo", "call_loop", {"command": PLANTED}, now=timezone.now())
        incident = SafetyIncident.objects.get()
        officer, viewer, auditor = person("safety officer", first_name="Ada"), person("viewer"), person("auditor")
        officer.post(f"/safety/incidents/{incident.pk}/acknowledge/", {"reason": "words of Ada"})
        for path in (f"/safety/incidents/{incident.pk}/", f"/parts/safety/incidents/{incident.pk}/"):
            assert PLANTED in text(auditor, path)
            assert "words of Ada" in text(auditor, path)
            seen = text(viewer, path)
            assert "The agent repeats one call without end" in seen
            for hidden in (PLANTED, "words of Ada", "user:safety-officer"):
                assert hidden not in seen
        check_safety(["echo"], now=timezone.now())  # its verdict has the report's words, and opens an incident of its own
        spoken = SafetyIncident.objects.filter(reason__contains=PLANTED, violation="").get()
        for path in ("/safety/", "/", "/novas/echo/", f"/safety/incidents/{spoken.pk}/"):
            seen = text(viewer, path)
            assert PLANTED not in seen, path
            assert "user:safety-officer" not in seen, path

    def test_names_the_tasks_that_it_touched(self, busy_fleet: list[str]) -> None:
        held = factories.make_task("Held by echo", assignee="echo", status="in_progress")
        factories.make_task("Of the personal phase", assignee="echo", status="in_progress", personal=True)
        factories.make_task("Of another", assignee="torch", status="in_progress")
        page = text(person("viewer"), f"/safety/incidents/{unsafe().pk}/")
        assert held.pk in page
        assert "Of the personal phase" not in page
        assert "Of another" not in page

    def test_names_the_tasks_of_an_incident_that_is_over(self, busy_fleet: list[str]) -> None:
        begin = timezone.now() - timedelta(hours=1)
        for minutes in (0, 2, 4):
            at = begin + timedelta(minutes=minutes)
            if minutes == 2:
                audit.record(open_incidents([Violation("echo", "frosty", "61 tool uses")], now=at), now=at)
            with TaskTracker.open(now=at) as tracker:
                tracker.create_task(f"Made after {minutes} minutes", assignee="echo")
            if minutes == 2:
                ended = end_incidents([("echo", "frosty")], now=at + timedelta(minutes=1))
                audit.record(list(ended.values()), now=at + timedelta(minutes=1))
        page = text(person("viewer"), f"/safety/incidents/{SafetyIncident.objects.get().pk}/")
        assert [f"Made after {minutes} minutes" in page for minutes in (0, 2, 4)] == [False, True, False]


def test_shortcuts_can_be_switched_off_and_on(admin_client: Client) -> None:
    assert 'data-keys="on"' in text(admin_client, "/")
    assert 'data-go="s"' in text(admin_client, "/")
    answer = admin_client.post("/keys/", {"keys": "off", "next": "//evil.example/"})
    assert answer.headers["Location"] == "/"
    assert 'data-keys="off"' in text(admin_client, "/")
    admin_client.post("/keys/", {"keys": "on"})
    assert 'data-keys="on"' in text(admin_client, "/")


def test_the_posture_is_told_in_one_sentence() -> None:
    assert posture(0, 0, 0, 0) == "There are no Novas to guard yet."
    assert posture(2, 5, 3, 0) == "2 of 5 Novas are stopped by safety; 3 incidents last, all acknowledged."
