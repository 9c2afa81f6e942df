"""Keys at every door: made for Novas, persons and programs within their maker's rights, rotated, revoked, shown once."""

import json
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from safety import api_keys, audit
from safety.api_keys import KeyNotGood, KeyRefused, KeyUnsound, create_key, find_key, rotate_key
from safety.core.scopes import OPERATOR_SCOPES, Scope, scope_of_permission
from safety.models import ApiKey, AuditEntry, StoredAnswer
from tests import factories
from tests.workflow.test_api import _operator_key, api, get, post, problem  # noqa: F401 - fixtures
from workflow.roles import ROLES

pytestmark = pytest.mark.django_db

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def _torch(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    factories.make_nova()


def person(role: str, name: str = "someone", **fields: Any) -> Client:
    user = User.objects.create_user(name, password="x", **fields)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def bearer(key: str) -> Client:
    return Client(headers={"Authorization": f"Bearer {key}"})


class TestRotation:
    def test_old_and_new_overlap_and_then_the_old_one_ends(self, now: datetime) -> None:
        old, row = create_key("torch", name="laptop", scopes=["tasks"], now=now, expires_at=now + 30 * DAY)
        new, successor = rotate_key(row.pk, reason="yearly", now=now + DAY, overlap=2 * HOUR)
        assert find_key(old, now=now + DAY + HOUR).pk == row.pk
        with pytest.raises(KeyRefused, match="expired"):
            find_key(old, now=now + DAY + 2 * HOUR)
        assert find_key(new, now=now + 20 * DAY).scopes == ["tasks"]
        assert (successor.name, successor.nova_id) == ("laptop", "torch")
        assert successor.expires_at == now + 31 * DAY
        entry = AuditEntry.objects.get(action=api_keys.KEY_ROTATED)
        assert (entry.object_id, entry.reason, entry.after and entry.after["successor"]) == (
            str(row.pk),
            "yearly",
            successor.pk,
        )

    def test_an_overlap_never_lengthens_a_life(self, now: datetime) -> None:
        _, row = create_key("torch", now=now, expires_at=now + HOUR)
        rotate_key(row.pk, reason="x", now=now, overlap=DAY)
        row.refresh_from_db()
        assert row.expires_at == now + HOUR

    def test_a_key_is_rotated_once_and_only_while_it_is_good(self, now: datetime) -> None:
        _, row = create_key("torch", now=now)
        rotate_key(row.pk, reason="x", now=now)
        with pytest.raises(KeyNotGood, match="rotated already"):
            rotate_key(row.pk, reason="x", now=now)
        _, other = create_key("torch", now=now)
        api_keys.revoke_key(other.pk, reason="x", now=now)
        with pytest.raises(KeyNotGood, match="revoked"):
            rotate_key(other.pk, reason="x", now=now)
        assert ApiKey.objects.count() == 3


class TestSoundness:
    @pytest.mark.parametrize("scopes", [["everything"], [], ["control"], ["tasks", "keys"]])
    def test_scopes_are_a_closed_set(self, scopes: list[str], now: datetime) -> None:
        with pytest.raises(KeyUnsound, match="scope"):
            create_key("torch", scopes=scopes, now=now)
        assert not ApiKey.objects.exists()

    def test_a_key_that_would_have_expired_is_not_made(self, now: datetime) -> None:
        with pytest.raises(KeyUnsound, match="expired"):
            create_key("torch", now=now, expires_at=now)

    def test_every_right_of_every_role_lies_in_a_scope(self) -> None:
        for rights in ROLES.values():
            assert {scope_of_permission(right) for right in rights} <= set(OPERATOR_SCOPES)
        assert scope_of_permission("workflow.lift_halt") is Scope.CONTROL
        assert scope_of_permission("auth.change_user") is Scope.CONFIGURE

    def test_a_key_for_hooks_alone_is_heard_by_no_other_and_others_not_by_hooks(self, now: datetime) -> None:
        hooks, _ = create_key("torch", scopes=["hooks"], now=now)
        other, _ = create_key("torch", scopes=["tasks"], now=now)
        assert find_key(hooks, now=now, scope=Scope.HOOKS)
        with pytest.raises(KeyRefused) as refused:
            find_key(other, now=now, scope=Scope.HOOKS)
        assert refused.value.reason == "scope"
        answer = bearer(other).post("/api/v1/hooks/claude-code", "{}", content_type="application/json")
        assert answer.status_code == 200
        assert "not made for this use" in answer.content.decode()
        problem(bearer(hooks).get("/api/v1/incidents"), 403, "scope_missing")


class TestRest:
    def test_a_key_is_made_shown_once_and_works(self, api: Client) -> None:  # noqa: F811
        answer = post(api, "keys", {"nova_id": "torch", "name": "laptop", "scopes": ["read", "tasks"], "reason": "new machine"})
        assert answer.status_code == 201, answer.content
        assert answer["Cache-Control"] == "no-store"
        made = answer.json()
        assert (made["holder"], made["scopes"], made["status"]) == ("nova:torch", ["read", "tasks"], "good")
        assert bearer(made["key"]).get("/api/v1/incidents").status_code == 200
        (listed,) = get(api, "keys", nova_id="torch", status="good")["results"]
        shown = get(api, answer["Location"].removeprefix("/api/v1/"))
        assert "key" not in listed
        assert {**shown, "last_used_at": None} == {**listed, "last_used_at": None}
        text = json.dumps([made["prefix"], listed, shown])
        assert made["key"] not in text
        assert ApiKey.objects.get().digest not in text
        assert AuditEntry.objects.get(action=api_keys.KEY_CREATED).reason == "new machine"

    def test_a_repeat_of_the_request_makes_no_second_key_and_shows_none(self, api: Client) -> None:  # noqa: F811
        first = post(api, "keys", {"nova_id": "torch"}, **{"Idempotency-Key": "k"})
        again = post(api, "keys", {"nova_id": "torch"}, **{"Idempotency-Key": "k"})
        assert again.status_code == 201
        assert again.json() == {**first.json(), "key": None}
        assert ApiKey.objects.count() == 1
        assert first.json()["key"] not in StoredAnswer.objects.get().body

    def test_a_revoked_key_is_dead_at_once(self, api: Client, now: datetime) -> None:  # noqa: F811
        text, key = create_key("torch", now=now)
        assert bearer(text).get("/api/v1/incidents").status_code == 200
        assert post(api, f"keys/{key.pk}/revoke", {"reason": "leaked"}).json()["status"] == "revoked"
        problem(bearer(text).get("/api/v1/incidents"), 401, "key_revoked")

    def test_suspended_reinstated_and_rotated(self, api: Client, now: datetime) -> None:  # noqa: F811
        _, key = create_key("torch", now=now)
        assert post(api, f"keys/{key.pk}/suspend", {"reason": "x"}).json()["status"] == "suspended"
        problem(post(api, f"keys/{key.pk}/rotate", {"reason": "x"}), 409, "key_not_good")
        assert post(api, f"keys/{key.pk}/reinstate", {"reason": "x"}).json()["status"] == "good"
        answer = post(api, f"keys/{key.pk}/rotate", {"reason": "x", "overlap_hours": 0})
        assert answer.status_code == 201
        assert bearer(answer.json()["key"]).get("/api/v1/").status_code == 200
        old = get(api, f"keys/{key.pk}")
        assert (old["status"], old["successor_id"]) == ("expired", answer.json()["id"])
        assert [k["id"] for k in get(api, "keys", status="expired")["results"]] == [key.pk]

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({}, "/nova_id"),
            ({"nova_id": "nobody"}, "/nova_id"),
            ({"nova_id": "torch", "user": "ada"}, "/user"),
            ({"user": "nobody"}, "/user"),
            ({"operator": "ci"}, "/role"),
            ({"operator": "ci", "role": "king"}, "/role"),
            ({"nova_id": "torch", "role": "admin"}, "/role"),
            ({"nova_id": "torch", "scopes": ["control"]}, "/scopes"),
            ({"nova_id": "torch", "scopes": ["all"]}, "/scopes/0"),
            ({"nova_id": "torch", "expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
            ({"nova_id": "torch", "digest": "x"}, "/digest"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, api: Client, body: dict[str, Any], pointer: str) -> None:  # noqa: F811
        found = problem(post(api, "keys", body), 400, "invalid")
        assert [error["pointer"] for error in found["errors"]] == [pointer]
        assert not ApiKey.objects.exists()

    def test_an_unknown_key_is_not_there(self, api: Client) -> None:  # noqa: F811
        problem(api.get("/api/v1/keys/404"), 404, "key_not_found")
        problem(post(api, "keys/404/revoke", {"reason": "x"}), 404, "key_not_found")
        problem(post(api, "keys/404/rotate", {"reason": "x"}), 404, "key_not_found")


class TestOperatorsKeys:
    def test_a_program_has_the_rights_of_its_role_within_its_scopes(self, api: Client) -> None:  # noqa: F811
        body = {"operator": "ci", "role": "operator", "scopes": ["read", "tasks"]}
        key = post(api, "keys", body).json()["key"]
        assert key.startswith("novaop_")
        client = bearer(key)
        assert client.get("/api/v1/tasks").status_code == 200
        assert post(client, "tasks", {"title": "x"}).status_code == 201
        problem(post(client, "novas/torch/pause", {"reason": "x"}), 403, "permission_denied")  # the role may, the key may not
        problem(client.get("/api/v1/journal"), 403, "permission_denied")  # neither may
        assert AuditEntry.objects.get(action="workflow.task.created").actor == "operator:ci"

    def test_a_persons_key_ends_with_the_person(self, now: datetime) -> None:
        user = User.objects.create_user("ada", password="x")
        user.groups.add(Group.objects.get(name="operator"))
        key, _ = create_key(user=user, now=now)
        client = bearer(key)
        assert post(client, "tasks", {"title": "x"}).status_code == 201
        assert AuditEntry.objects.get(action="workflow.task.created").actor == "user:ada"
        user.groups.clear()
        problem(post(client, "tasks", {"title": "x"}), 403, "permission_denied")
        User.objects.update(is_active=False)
        problem(client.get("/api/v1/"), 401, "key_inactive")

    def test_nobody_makes_a_key_that_can_more_than_he_can(self, now: datetime) -> None:
        officer = person("safety officer")
        found = problem(post(officer, "keys", {"operator": "ci", "role": "admin"}), 403, "beyond_your_rights")
        assert "safety.view_auditentry" in found["detail"] or "auth." in found["detail"]
        assert post(officer, "keys", {"operator": "ci", "role": "operator"}).status_code == 201
        _, strong = create_key(operator="boss", role="admin", now=now)
        problem(post(officer, f"keys/{strong.pk}/rotate", {"reason": "x"}), 403, "beyond_your_rights")
        assert post(officer, f"keys/{strong.pk}/suspend", {"reason": "x"}).status_code == 200
        problem(post(officer, f"keys/{strong.pk}/reinstate", {"reason": "x"}), 403, "beyond_your_rights")

    def test_nobody_but_an_admin_makes_a_key_under_another_name(self) -> None:
        User.objects.create_user("ada", password="x")
        officer, admin = person("safety officer"), person("admin", "boss")
        problem(post(officer, "keys", {"user": "ada"}), 403, "beyond_your_rights")
        assert post(officer, "keys", {"user": "someone"}).status_code == 201
        assert post(admin, "keys", {"user": "ada"}).status_code == 201

    def test_a_key_makes_keys_only_where_it_was_made_for_that(self, now: datetime) -> None:
        plain, _ = create_key(operator="ci", role="safety officer", now=now)
        problem(post(bearer(plain), "keys", {"nova_id": "torch"}), 403, "permission_denied")
        maker, _ = create_key(operator="ci", role="safety officer", scopes=["keys", "read"], now=now)
        assert post(bearer(maker), "keys", {"nova_id": "torch"}).status_code == 201
        problem(post(bearer(maker), "keys", {"operator": "x", "role": "safety officer"}), 403, "beyond_your_rights")

    def test_it_is_nobodys_agent(self, now: datetime) -> None:
        key, _ = create_key(operator="ci", role="admin", now=now)
        problem(post(bearer(key), "novas/torch/api-permits", {}), 403, "permission_denied")
        answer = bearer(key).post("/api/v1/hooks/claude-code", "{}", content_type="application/json")
        assert "not made for this use" in answer.content.decode()


class TestAdmin:
    def test_a_key_is_made_and_shown_once(self, admin_client: Client, now: datetime) -> None:
        page = reverse("admin:safety_apikey_add")
        assert "Make a key" in admin_client.get(page).content.decode()
        answer = admin_client.post(page, {"nova_id": "torch", "name": "laptop", "scopes": ["tasks"], "days": "30"})
        text = answer.context["made"][0][1]
        assert text in answer.content.decode()
        assert "no-store" in answer["Cache-Control"]
        key = find_key(text, now=timezone.now())
        assert (key.nova_id, key.scopes, key.created_by) == ("torch", ["tasks"], "user:admin")
        assert text not in admin_client.get(reverse("admin:safety_apikey_change", args=[key.pk])).content.decode()

    def test_what_makes_no_sense_is_said_at_the_field(self, admin_client: Client) -> None:
        answer = admin_client.post(reverse("admin:safety_apikey_add"), {"nova_id": "nobody"})
        assert "There is no Nova nobody in service" in answer.content.decode()
        assert not ApiKey.objects.exists()

    def test_a_key_is_rotated_and_its_successor_shown_once(self, admin_client: Client, now: datetime) -> None:
        _, key = create_key("torch", now=now)
        form = {"rows": str(key.pk), "reason": "yearly", "overlap_hours": "1"}
        answer = admin_client.post(reverse("admin:safety_apikey_verb", args=["rotate"]), form)
        assert find_key(answer.context["made"][0][1], now=timezone.now()).pk != key.pk
        again = admin_client.post(reverse("admin:safety_apikey_verb", args=["rotate"]), form, follow=True)
        assert "rotated already" in again.content.decode()
        assert ApiKey.objects.count() == 2

    def test_an_officer_makes_no_key_beyond_his_rights(self, now: datetime) -> None:
        officer = person("safety officer", is_staff=True)
        answer = officer.post(reverse("admin:safety_apikey_add"), {"operator": "ci", "role": "admin"})
        assert "This key can what you can&#x27;t" in answer.content.decode()
        assert person("operator", "low", is_staff=True).get(reverse("admin:safety_apikey_add")).status_code == 403
        assert not ApiKey.objects.exists()


class TestCommandLine:
    def run(self, *arguments: str) -> str:
        out = StringIO()
        call_command(*arguments, stdout=out)
        return out.getvalue()

    def test_makes_lists_rotates_and_revokes(self) -> None:
        made = json.loads(
            self.run("apikey_create", "--operator", "ci", "--role", "viewer", "--scope", "read", "--days", "9", "--json")
        )
        assert made["holder"] == "operator:ci"
        assert ApiKey.objects.get().scopes == ["read"]
        (line,) = json.loads(self.run("apikey", "rotate", str(made["id"]), "--reason", "yearly", "--json"))
        assert line["key"].startswith("novaop_")
        assert len(json.loads(self.run("apikey", "list", "--json"))) == 2
        assert "operator:ci" in self.run("apikey", "list")
        assert self.run("apikey", "revoke", str(made["id"]), "--reason", "leaked") == f"{made['id']}: done\n"
        assert [key["id"] for key in json.loads(self.run("apikey", "list", "--json"))] == [line["successor_id"]]
        assert len(json.loads(self.run("apikey", "list", "--all", "--json"))) == 2
        assert {entry.actor[:4] for entry in AuditEntry.objects.all()} == {"cli:"}

    def test_says_what_is_wrong(self) -> None:
        malformed: list[tuple[str, ...]] = [
            ("apikey", "revoke"),
            ("apikey", "revoke", "1"),
            ("apikey_create", "torch", "--days", "-1"),
        ]
        for arguments in malformed:
            with pytest.raises(CommandError) as wrong:
                self.run(*arguments)
            assert wrong.value.returncode == 2
        refused: list[tuple[str, ...]] = [("apikey_create",), ("apikey_create", "torch", "--scope", "control")]
        for arguments in refused:
            with pytest.raises(CommandError):
                self.run(*arguments)
        with pytest.raises(SystemExit):
            self.run("apikey", "revoke", "404", "--reason", "x")
        assert not ApiKey.objects.exists()


def test_a_kill_suspends_a_rotated_pair_and_leaves_operators_alone(now: datetime) -> None:
    old, row = create_key("torch", now=now)
    new, _ = rotate_key(row.pk, reason="x", now=now)
    program, _ = create_key(operator="ci", role="viewer", now=now)
    with audit.acting("user:ann"):
        assert api_keys.suspend_keys(["torch"], reason="killed", now=now) == 2
    for text in (old, new):
        with pytest.raises(KeyRefused):
            find_key(text, now=now)
    assert find_key(program, now=now)
