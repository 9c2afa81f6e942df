"""The pages' ground: policy, login, fragments, the fleet page and its controls."""

from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from novawf_site.sign_in import SecondFactorAdapter, give_role, role_of
from reporting import fragments
from reporting.fleet_rows import counts_by_status, statuses
from safety.models import AuditEntry, FleetFact, ProviderAccount
from safety.shared_cache import SharedCache
from tests import factories
from workflow.derived_status import derived_status, load_fleet, load_verdicts
from workflow.models import Halt, NovaState

pytestmark = pytest.mark.django_db
ROLES = ("viewer", "operator", "safety officer", "auditor", "admin")


def person(role: str, **fields: Any) -> Client:
    """Give a browser in which somebody of that role is logged in."""
    user = User.objects.create(username=role.replace(" ", "-"), **fields)
    user.groups.add(Group.objects.get(name=role))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def text(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return answer.content.decode()


class TestPolicy:
    def test_is_strict_everywhere_but_under_the_admin(self, admin_client: Client) -> None:
        for path in ("/", "/accounts/login/", "/api/docs/", "/api/v1/novas", "/healthz", "/nowhere/", "/administration/"):
            policy = admin_client.get(path, headers={"Accept": "*/*"})["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy + ";"
            assert "unsafe" not in policy, path
        relaxed = admin_client.get("/admin/")["Content-Security-Policy"]
        assert "script-src 'self' 'unsafe-eval'" in relaxed
        assert "style-src 'self' 'unsafe-inline'" in relaxed
        assert "frame-ancestors 'none'" in relaxed

    def test_no_page_has_a_script_or_style_of_its_own(self, admin_client: Client, fleet: list[str]) -> None:
        for path in ("/", "/novas/torch/", "/novas/torch/kill/", "/stop-all/", "/accounts/login/", "/accounts/2fa/"):
            page = text(admin_client, path) if path != "/accounts/login/" else text(Client(), path)
            assert " style=" not in page
            assert "<style" not in page
            assert page.count("<script") == page.count('<script src="')
            assert page.count("<h1") == 1, path


@pytest.mark.usefixtures("stream_url")
class TestComingIn:
    def test_a_password_opens_pages_and_admin(self, client: Client, admin_user: User) -> None:
        assert client.get("/").headers["Location"] == "/accounts/login/?next=/"
        asked = client.get("/admin/", follow=True)
        assert asked.redirect_chain[-1][0].startswith("/accounts/login/")
        answer = client.post("/accounts/login/?next=/admin/", {"login": "admin", "password": "password", "next": "/admin/"})
        assert answer.headers["Location"] == "/admin/"
        assert client.get("/admin/").status_code == 200
        assert client.get("/").status_code == 200

    def test_guessing_is_stopped_and_written_down(self, client: Client, admin_user: User) -> None:
        cache.clear()
        statuses = []
        for _ in range(6):
            answer = client.post("/accounts/login/", {"login": "admin", "password": "guess"})
            statuses.append(answer.status_code)
        body = answer.content.decode()
        assert statuses[0] == 200
        assert "Too many" in body
        assert AuditEntry.objects.filter(action="access.login_failed").count() == 5
        client.post("/accounts/login/", {"login": "admin", "password": "password"})
        assert not AuditEntry.objects.filter(action="access.logged_in").exists()

    def test_a_login_works_while_the_stream_server_is_away_and_guessing_is_still_stopped(
        self, client: Client, admin_user: User, stream_server: Any
    ) -> None:
        stream_server.stop()
        try:
            for _ in range(6):
                answer = client.post("/accounts/login/", {"login": "stranger", "password": "guess"})
            assert "Too many" in answer.content.decode()
            assert client.post("/accounts/login/", {"login": "admin", "password": "password"}).status_code == 302
        finally:
            SharedCache._away_until = 0.0
            cache._own.clear()  # type: ignore[attr-defined]
            stream_server.start()

    def test_nobody_signs_up(self, client: Client) -> None:
        for path in ("/accounts/signup/", "/accounts/password/reset/", "/accounts/email/"):
            assert client.get(path).status_code == 404

    def test_staff_are_led_to_a_second_factor_where_it_is_demanded(self, settings: Any) -> None:
        settings.REQUIRE_MFA = True
        staff, viewer = person("operator", is_staff=True), person("viewer")
        assert staff.get("/").headers["Location"] == "/accounts/2fa/totp/activate/"
        assert staff.get("/api/v1/novas").json()["code"] == "second_factor_missing"
        assert viewer.get("/").status_code == 200


class TestSingleSignOn:
    def test_the_strongest_role_that_the_claims_name_counts(self, settings: Any) -> None:
        settings.OIDC_ROLES = settings.OIDC_ROLES | {"operator": ["ops"], "admin": ["root", "it"]}
        assert role_of({"groups": ["ops", "it", "x"]}) == "admin"
        assert role_of({"groups": "ops"}) == "operator"
        assert role_of({"groups": {"odd": 1}}) == role_of({}) == "viewer"
        settings.OIDC_DEFAULT_ROLE = ""
        assert role_of({"groups": ["x"]}) == ""

    def test_a_role_is_taken_back_when_the_claims_no_longer_give_it(self) -> None:
        user = User.objects.create(username="ada")
        own = Group.objects.create(name="own")
        user.groups.add(own)
        give_role(user, "admin")
        assert user.is_staff
        give_role(user, "viewer")
        assert {group.name for group in user.groups.all()} == {"viewer", "own"}
        assert not user.is_staff
        assert AuditEntry.objects.filter(actor="oidc", action="access.user.groups_revoked").exists()

    def test_the_secret_of_a_second_factor_is_kept_encrypted(self, settings: Any) -> None:
        adapter = SecondFactorAdapter()
        kept = adapter.encrypt("JBSWY3DP")
        assert "JBSWY3DP" not in kept
        assert adapter.decrypt(kept) == "JBSWY3DP"
        assert adapter.decrypt("kept before there was a key") == "kept before there was a key"


class TestFleetPage:
    def test_is_for_every_role_and_says_who_needs_help_and_why(self, fleet: list[str], now: datetime) -> None:
        NovaState.objects.filter(nova="torch").update(current_state="error_recovery", last_error="disk full")
        NovaState.objects.update(due_at=timezone.now())
        factories.make_safety_state("echo", is_safe=False, mechanism="frosty", reason="60 tool uses in a minute")
        for role in ROLES:
            page = text(person(role), "/")
            assert "2 Novas of 5 need help: 1 in error, 1 in safety pause." in page
            assert "disk full" in page
            assert "60 tool uses in a minute" in page
            assert page.index("disk full") < page.index('id="nova-helix"')
            assert ("/novas/helix/pause/" in page) == (role in ("operator", "safety officer", "admin"))

    def test_is_shut_to_whoever_has_no_role(self, client: Client, django_user_model: Any) -> None:
        client.force_login(django_user_model.objects.create(username="nobody"))
        for path in ("/", "/parts/fleet/table/", "/stop-all/"):
            answer = client.get(path)
            assert answer.status_code == 403
            assert "Ask an admin" in answer.content.decode() or path.startswith("/parts/")
        assert Client().get("/parts/fleet/table/").status_code == 401

    def test_costs_the_same_for_any_number_of_novas(self, admin_client: Client) -> None:
        counts = []
        for number in (3, 120):
            factories.make_novas(number, prefix=f"n{number}", now=timezone.now())
            admin_client.get("/")
            with CaptureQueriesContext(
                connection,
            ) as queries:
                page = text(admin_client, "/?page=2")
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 50
        assert "Page 2 of 3" in page

    def test_finds_by_name_team_and_status(self, admin_client: Client, fleet: list[str]) -> None:
        factories.make_nova("wanted", team="red", state={"mode": "paused"})
        for query in ("q=wan", "team=red", "status=paused"):
            table = text(admin_client, f"/parts/fleet/table/?{query}")
            assert 'id="nova-wanted"' in table
            assert 'id="nova-torch"' not in table
        assert "Clear filters (1)" in text(admin_client, "/parts/fleet/table/?q=nobody%00")
        assert text(admin_client, "/parts/fleet/table/?page=99&status=nonsense")

    def test_has_three_steps_until_something_is_connected(self, admin_client: Client, fleet: list[str]) -> None:
        assert "apikey_create echo" in text(admin_client, "/")
        ProviderAccount.objects.create(slug="claude")
        assert "apikey_create" not in text(admin_client, "/")

    def test_an_empty_fleet_says_what_to_do(self, admin_client: Client) -> None:
        page = text(admin_client, "/")
        assert "There are no Novas yet." in page
        assert "manage.py seed_demo" in page

    def test_the_demonstration_is_counted_nowhere(self, admin_client: Client) -> None:
        factories.make_nova("demo-torch", team="demo", state={"mode": "paused"})
        page = text(admin_client, "/")
        assert "There are no Novas yet." in page
        assert "demonstration" in page


class TestFragments:
    def test_say_304_until_their_topic_or_the_rights_change(
        self, admin_client: Client, fleet: list[str], monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(fragments, "FRESH_SECONDS", 10**10)  # however slow the machine
        viewer, other = person("viewer"), Client()
        user = User.objects.create(username="second")
        user.groups.add(Group.objects.get(name="viewer"))
        other.force_login(user)
        path = "/parts/fleet/table/"
        first = viewer.get(path)
        tag = {"If-None-Match": first["ETag"]}
        assert viewer.get(path, headers=tag).status_code == 304
        assert other.get(path, headers=tag).status_code == 304
        assert admin_client.get(path, headers=tag).status_code == 200
        assert viewer.get(f"{path}?q=t", headers=tag).status_code == 200
        assert viewer.get(f"{path}?unread=t", headers=tag).status_code == 304
        admin_client.post("/novas/torch/pause/", {"reason": "look"})
        assert viewer.get(path, headers=tag).status_code == 200

    def test_are_rendered_once_for_all_who_may_see_the_same(self, fleet: list[str]) -> None:
        path, viewer = "/parts/fleet/table/", person("viewer")
        viewer.get(path)
        with CaptureQueriesContext(connection) as queries:
            assert viewer.get(path).status_code == 200
        assert not [query for query in queries if "workflow_novastate" in query["sql"]]


class TestControls:
    def test_ask_for_a_reason_then_act_and_are_journalled(self, fleet: list[str]) -> None:
        operator = person("operator")
        assert "Stops the clock at once" in text(operator, "/novas/torch/pause/")
        refused = operator.post("/novas/torch/pause/", {"reason": " "})
        assert refused.status_code == 400
        assert "Say why" in refused.content.decode()
        assert NovaState.objects.get(pk="torch").mode == "running"
        done = operator.post("/novas/torch/pause/", {"reason": "look"}, follow=True)
        assert "torch paused." in done.content.decode()
        entry = AuditEntry.objects.get(action="workflow.nova.paused")
        assert (entry.actor, entry.reason) == ("user:operator", "look")
        again = operator.post("/novas/torch/pause/", {"reason": "look"}, follow=True)
        assert "needed no change" in again.content.decode()

    @pytest.mark.parametrize("verb", ["pause", "drain", "halt", "kill", "resume", "wake"])
    def test_are_for_their_roles(self, verb: str, fleet: list[str]) -> None:
        mode = "halted" if verb == "resume" else "running"
        NovaState.objects.filter(nova="torch").update(mode=mode)
        may = {"safety officer", "admin"} | (set() if verb == "resume" else {"operator"})
        for role in ROLES:
            assert (person(role).get(f"/novas/torch/{verb}/").status_code == 200) == (role in may), role

    def test_stop_the_fleet_after_the_word_and_show_who_is_confirmed(self, fleet: list[str]) -> None:
        operator, officer = person("operator"), person("safety officer")
        assert operator.post("/stop-all/", {"reason": "fire", "word": "go"}).status_code == 400
        assert not Halt.objects.exists()
        page = operator.post("/stop-all/", {"reason": "fire", "word": "stop"}, follow=True).content.decode()
        halt = Halt.objects.get()
        assert (halt.kind, halt.scope, halt.requested_by) == ("halt", "fleet", "user:operator")
        assert "All 5 confirmed: stopped." in page
        assert "Lift this order" not in page
        assert "fire" in text(operator, "/")
        assert operator.get(f"/orders/{halt.pk}/lift/").status_code == 403
        officer.post(f"/orders/{halt.pk}/lift/", {"reason": "out"})
        assert set(NovaState.objects.values_list("mode", flat=True)) == {"running"}

    def test_change_nothing_without_a_token_or_by_get(self, fleet: list[str], admin_user: User) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(admin_user)
        assert strict.post("/novas/torch/pause/", {"reason": "x"}).status_code == 403
        strict.get("/novas/torch/pause/?reason=x")
        assert NovaState.objects.get(pk="torch").mode == "running"
        assert strict.get("/novas/torch/archive/").status_code == 404


def test_a_theme_is_kept_and_rendered_by_the_server(admin_client: Client) -> None:
    assert 'data-theme="system"' in text(admin_client, "/")
    answer = admin_client.post("/theme/", {"theme": "dark", "next": "//evil.example/"})
    assert answer.headers["Location"] == "/"
    assert 'data-theme="dark"' in text(admin_client, "/")
    admin_client.post("/theme/", {"theme": "system"})
    assert 'data-theme="system"' in text(admin_client, "/")


@pytest.mark.parametrize("stream_away", [False, True])
def test_the_database_derives_the_status_that_the_function_derives(stream_away: bool, now: datetime) -> None:
    late = timedelta(seconds=200)
    combinations = product(NovaState.Mode.values, ("error_recovery", "completion_routine"), (0, 1), (0, 1), (now, now - late))
    slow = factories.make_personality("slow", base_cycle_time=100.0)
    for place, (mode, current, in_flight, cycles, due_at) in enumerate(combinations):
        state = {"mode": mode, "current_state": current, "tasks_in_flight": in_flight, "total_cycles_completed": cycles}
        nova = factories.make_nova(
            f"n{place}", personality=slow.slug if place % 3 else "torch", state={**state, "due_at": due_at}
        )
        if place % 5 == 0:
            factories.make_safety_state(nova.nova_id, is_safe=False)
    FleetFact.objects.create(name="stream_reachable", value=not stream_away, observed_at=now)
    states = list(statuses(now).select_related("nova__personality"))
    verdicts, facts = load_verdicts([found.nova_id for found in states]), load_fleet()
    assert len(states) > 50
    for found in states:
        told = derived_status(found.nova, found, verdicts.get(found.nova_id), facts, now)
        assert found.status == told.status, found
    assert sum(counts_by_status(statuses(now)).values()) == len(states)
