"""The API at its doors: every error's shape, who may come in, lists and pages, tasks and verbs."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from safety.models import AuditEntry
from tests import factories
from workflow.api import views
from workflow.api.document import Document
from workflow.models import NovaState, Task

pytestmark = pytest.mark.django_db

KEY = "an-operator-key-for-tests"


@pytest.fixture(autouse=True)
def _operator_key(settings: Any) -> None:
    settings.OPERATOR_KEY = KEY
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def api() -> Client:
    """A client with the operator key."""
    return Client(headers={"Authorization": f"Bearer {KEY}"}, raise_request_exception=False)


def post(client: Client, address: str, body: Any = None, **headers: str) -> Any:
    return client.post(
        f"/api/v1/{address}", json.dumps(body if body is not None else {}), content_type="application/json", headers=headers
    )


def problem(response: Any, status: int, code: str = "") -> dict[str, Any]:
    """Check an answer's shape by RFC 9457 and give its content."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert set(found) == {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
    assert found["status"] == status
    assert found["instance"] == response.request["PATH_INFO"]
    assert found["request_id"] == response["X-Request-ID"] != ""
    assert all(set(error) == {"pointer", "code", "detail"} for error in found["errors"])
    if code:
        assert found["code"] == code
    return found


def get(client: Client, address: str, **query: Any) -> Any:
    response = client.get(f"/api/v1/{address}", query)
    assert response.status_code == 200, response.content
    return response.json()


def permission(codename: str) -> Permission:
    return Permission.objects.get(codename=codename, content_type__app_label="workflow")


class TestWhoComesIn:
    def test_nobody_without_a_key_or_a_session(self) -> None:
        for address in ("tasks", "novas", "novas/torch", "tasks/x", "nothing/here", ""):
            response = Client().get(f"/api/v1/{address}")
            problem(response, 401, "not_authenticated")
            assert response["WWW-Authenticate"].startswith("Bearer")

    @pytest.mark.parametrize("value", ["Bearer wrong", "Bearer ", f"Bearer {KEY}x", "bearer \xe4"])
    def test_a_wrong_key_is_refused(self, value: str) -> None:
        problem(Client(headers={"Authorization": value}).get("/api/v1/tasks"), 401, "invalid_key")

    def test_an_empty_operator_key_lets_nobody_in(self, settings: Any) -> None:
        settings.OPERATOR_KEY = ""
        problem(Client(headers={"Authorization": "Bearer "}).get("/api/v1/tasks"), 401)

    def test_a_session_comes_in_with_its_permissions(self, client: Client) -> None:
        user = User.objects.create_user("ada", password="x")
        client.force_login(user)
        problem(client.get("/api/v1/tasks"), 403, "permission_denied")
        user.user_permissions.add(permission("view_task"))
        assert client.get("/api/v1/tasks").status_code == 200
        problem(post(client, "tasks", {"title": "x"}), 403, "permission_denied")

    def test_a_session_needs_the_csrf_token_to_write(self, admin_user: User) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(admin_user)
        problem(post(client, "tasks", {"title": "x"}), 403)
        assert not Task.objects.exists()

    def test_the_journal_knows_who_it_was_and_by_which_request(self, client: Client, api: Client, admin_user: User) -> None:
        post(api, "tasks", {"title": "One"}, **{"X-Request-ID": "r-17"})
        client.force_login(admin_user)
        post(client, "tasks", {"title": "Two"})
        one, two = AuditEntry.objects.filter(action="workflow.task.created").order_by("id")
        assert (one.actor, one.request_id, one.cause) == ("operator", "r-17", "request:r-17")
        assert two.actor == "user:admin"

    def test_logs_and_answer_carry_the_same_request_id(self, api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        filtered = views.TaskList._filtered

        def look(request: Any) -> Any:
            seen.append(structlog.contextvars.get_contextvars()["request_id"])
            return filtered(request)

        monkeypatch.setattr(views.TaskList, "_filtered", staticmethod(look))
        response = api.get("/api/v1/tasks")
        assert seen == [response["X-Request-ID"]]

    @pytest.mark.parametrize("given", ["x" * 65, "a b", "ü", ""])
    def test_a_harmful_request_id_is_replaced(self, api: Client, given: str) -> None:
        response = api.get("/api/v1/tasks", headers={"X-Request-ID": given})
        assert response["X-Request-ID"] not in ("", given)


class TestErrors:
    def test_an_unknown_address(self, api: Client) -> None:
        for address in ("/api/v1/nothing", "/api/v2/tasks", "/api/", "/api/v1/novas/UPPER", "/api/v1/tasks/a%00b"):
            problem(api.get(address), 404, "not_found")

    def test_an_unknown_row(self, api: Client) -> None:
        problem(api.get("/api/v1/novas/nobody"), 404, "nova_not_found")
        problem(api.get("/api/v1/tasks/TORCH-1-abcdef"), 404, "task_not_found")
        problem(post(api, "novas/nobody/pause", {"reason": "x"}), 404, "nova_not_found")
        problem(post(api, "tasks/TORCH-1-abcdef/cancel", {"reason": "x"}), 404, "task_not_found")

    def test_a_method_that_is_not_offered(self, api: Client) -> None:
        response = api.delete("/api/v1/tasks")
        problem(response, 405, "method_not_allowed")
        assert "POST" in response["Allow"]
        problem(api.get("/api/v1/novas/torch/pause"), 405)

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ("{", 400),
            ("[]", 400),
            ('"x"', 400),
            ("", 400),
            ("[" * 100_000, 400),
            ('{"title": NaN}', 400),
            ('{"title": "x", "metadata": ' + '{"a":' * 40 + "1" + "}" * 40 + "}", 400),
            ("\xff", 400),
        ],
    )
    def test_a_body_that_is_no_json_object(self, api: Client, body: str, status: int) -> None:
        response = api.post("/api/v1/tasks", body.encode("latin-1"), content_type="application/json")
        problem(response, status)

    def test_another_content_type(self, api: Client) -> None:
        problem(api.post("/api/v1/tasks", {"title": "x"}), 415, "unsupported_media_type")

    def test_a_body_that_is_too_large(self, api: Client) -> None:
        problem(post(api, "tasks", {"title": "x", "description": "x" * 600_000}), 413, "body_too_large")

    def test_an_answer_in_another_form(self, api: Client) -> None:
        problem(api.get("/api/v1/tasks", headers={"Accept": "text/html"}), 406, "not_acceptable")

    def test_a_host_that_is_not_ours(self, api: Client) -> None:
        response = api.get("/api/v1/tasks", headers={"Host": "evil.example"})
        assert response.status_code == 400
        assert response["Content-Type"] == "application/problem+json"

    def test_a_failure_nobody_foresaw_tells_no_internals(self, api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def explode(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(views.TaskList, "_filtered", explode)
        response = api.get("/api/v1/tasks")
        problem(response, 500, "server_error")
        assert b"secret" not in response.content

    def test_addresses_outside_the_api_keep_their_own_pages(self, client: Client) -> None:
        assert client.get("/nothing").status_code == 404
        assert "html" in client.get("/nothing")["Content-Type"]


class TestNovas:
    def test_the_list_tells_what_each_is_doing(self, api: Client, fleet: list[str], now: datetime) -> None:
        factories.make_safety_state("echo", is_safe=False, mechanism="frosty", reason="61 tool uses", measured=61, limit=60)
        NovaState.objects.filter(nova_id="torch").update(mode="paused", mode_reason="maintenance", mode_since=now)
        found = {nova["nova_id"]: nova for nova in get(api, "novas")["results"]}
        assert sorted(found) == sorted(fleet)
        assert (found["torch"]["status"], found["torch"]["status_reason"]) == ("paused", "maintenance")
        assert found["torch"]["status_since"] == "2026-11-20T12:00:00Z"
        assert found["echo"]["status"] == "safety_pause"
        assert found["echo"]["safety"]["measured"] == 61
        assert found["helix"]["status"] == "silent"  # its state is due since the past of the tests
        assert found["helix"]["safety"]["is_safe"] is True

    def test_one_shows_configuration_state_and_compliance(self, api: Client) -> None:
        factories.make_nova(team="forge", state={"protocol_checks": 4, "protocol_passes": 3})
        nova = get(api, "novas/torch")
        assert nova["config"]["personality"] == "torch"
        assert nova["config"]["team"] == "forge"
        assert nova["state"]["current_state"] == "initializing"
        assert nova["compliance"] == 0.75
        assert nova["state"]["due_at"] == "2026-11-20T12:00:00Z"

    def test_archived_ones_are_listed_only_when_asked_for(self, api: Client, now: datetime) -> None:
        factories.make_nova()
        factories.make_nova("gone", archived_at=now, state={"mode": "archived"})
        assert [n["nova_id"] for n in get(api, "novas")["results"]] == ["torch"]
        assert [n["nova_id"] for n in get(api, "novas", mode="archived")["results"]] == ["gone"]

    def test_filters_and_pages(self, api: Client) -> None:
        factories.make_novas(5, team="forge")
        factories.make_nova()
        first = get(api, "novas", team="forge", limit=3)
        assert len(first["results"]) == 3
        second = api.get(first["next"]).json()
        assert len(second["results"]) == 2
        assert second["next"] is None
        assert api.get(second["previous"]).json()["results"] == first["results"]
        assert [n["nova_id"] for n in get(api, "novas", search="ORCH")["results"]] == ["torch"]

    @pytest.mark.parametrize("count", [1, 40])
    def test_a_page_costs_the_same_however_many_there_are(self, api: Client, count: int) -> None:
        factories.make_novas(count)
        with CaptureQueriesContext(connection) as queries:
            assert len(get(api, "novas")["results"]) == count
        assert len(queries) == 3

    def test_instants_are_in_utc_whatever_the_sites_zone(self, api: Client, settings: Any) -> None:
        settings.TIME_ZONE = "Asia/Tokyo"
        factories.make_nova()
        assert get(api, "novas/torch")["state"]["due_at"] == "2026-11-20T12:00:00Z"


class TestNovaVerbs:
    def test_pause_and_resume_answer_the_nova_as_it_stands(self, api: Client) -> None:
        factories.make_nova()
        for _ in range(2):
            response = post(api, "novas/torch/pause", {"reason": "maintenance"})
            assert response.status_code == 200
            assert response.json()["status"] == "paused"
        assert post(api, "novas/torch/resume", {"reason": "done"}).json()["mode"] == "running"
        actions = AuditEntry.objects.order_by("id").values_list("action", "actor")
        assert list(actions) == [("workflow.nova.paused", "operator"), ("workflow.nova.resumed", "operator")]

    def test_drain_and_wake(self, api: Client) -> None:
        factories.make_nova()
        assert post(api, "novas/torch/wake", {"reason": "look"}).status_code == 200
        assert post(api, "novas/torch/drain", {"reason": "upgrade"}).json()["mode"] == "draining"

    @pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "   "}, {"reason": None}, {"reason": "x" * 2001}])
    def test_needs_a_reason(self, api: Client, body: dict[str, Any]) -> None:
        factories.make_nova()
        found = problem(post(api, "novas/torch/pause", body), 400, "invalid")
        assert found["errors"][0]["pointer"] == "/reason"
        assert NovaState.objects.get().mode == "running"

    def test_an_unknown_field_is_refused(self, api: Client) -> None:
        factories.make_nova()
        found = problem(post(api, "novas/torch/pause", {"reason": "x", "force": True}), 400)
        assert found["errors"] == [{"pointer": "/force", "code": "unknown_field", "detail": "Unknown field; known are reason."}]

    def test_a_mode_that_does_not_allow_it_is_a_conflict(self, api: Client) -> None:
        factories.make_nova(state={"mode": "paused"})
        found = problem(post(api, "novas/torch/wake", {"reason": "x"}), 409, "illegal_mode_change")
        assert "paused" in found["detail"]

    def test_needs_the_permission(self, client: Client) -> None:
        factories.make_nova()
        user = User.objects.create_user("ada", password="x")
        user.user_permissions.add(permission("view_nova"))
        client.force_login(user)
        problem(post(client, "novas/torch/pause", {"reason": "x"}), 403)
        assert NovaState.objects.get().mode == "running"


class TestTaskCreation:
    def test_title_alone_is_enough(self, api: Client) -> None:
        response = post(api, "tasks", {"title": "  Write the\nreport "})
        assert response.status_code == 201
        task = response.json()
        assert response["Location"] == f"/api/v1/tasks/{task['task_id']}"
        assert (task["title"], task["status"], task["priority"], task["work_type"]) == (
            "Write the report", "pending", "medium", "requested",
        )  # fmt: skip
        assert task["assignee"] is None
        assert task["task_id"].startswith("FLEET-")
        assert task["created_at"].endswith("Z")
        assert get(api, f"tasks/{task['task_id']}") == task

    def test_everything_a_stream_entry_may_say(self, api: Client) -> None:
        factories.make_nova(team="forge")
        other = factories.make_task()
        body = {
            "title": "Write it", "description": "all\nof it", "priority": "HIGH", "work_type": "requested",
            "executor": "builtin", "action": "echo", "assignee": "Torch", "team": "forge", "estimated_duration": "PT15M",
            "dependencies": [other.id],
            "metadata": {"a": {"b": [1, None, "ü"]}}, "max_attempts": 5,
        }  # fmt: skip
        task = post(api, "tasks", body).json()
        assert task["task_id"].startswith("TORCH-")
        assert (task["priority"], task["assignee"], task["estimated_duration"]) == ("high", "torch", 900.0)
        assert (task["dependencies"], task["waiting_on"], task["max_attempts"]) == ([other.id], 1, 5)
        assert task["metadata"] == body["metadata"]
        assert task["description"] == "all\nof it"

    @pytest.mark.parametrize(
        ("body", "pointer", "code"),
        [
            ({}, "/title", "required"),
            ({"title": ""}, "/title", "blank"),
            ({"title": None}, "/title", "null"),
            ({"title": "x" * 501}, "/title", "max_length"),
            ({"title": ["x"]}, "/title", "invalid"),
            ({"title": "a\0b"}, "/title", "unstorable"),
            ({"title": "\ud800"}, "/title", "unstorable"),
            ({"title": "x", "priority": "urgent"}, "/priority", "invalid_choice"),
            ({"title": "x", "priority": None}, "/priority", "null"),
            ({"title": "x", "priority": 1}, "/priority", "invalid_choice"),
            ({"title": "x", "work_type": "momentum"}, "/work_type", "invalid_choice"),
            ({"title": "x", "description": "ü" * 33_000}, "/description", "too_long"),
            ({"title": "x", "assignee": "nobody"}, "/assignee", "unknown_assignee"),
            ({"title": "x", "assignee": "gone"}, "/assignee", "unknown_assignee"),
            ({"title": "x", "executor": "nonsense"}, "/executor", "unknown_executor"),
            ({"title": "x", "team": "a b"}, "/team", "invalid"),
            ({"title": "x", "estimated_duration": -1}, "/estimated_duration", "min_value"),
            ({"title": "x", "estimated_duration": True}, "/estimated_duration", "invalid"),
            ({"title": "x", "estimated_duration": "soon"}, "/estimated_duration", "invalid"),
            ({"title": "x", "dependencies": ["a b"]}, "/dependencies/0", "invalid"),
            ({"title": "x", "dependencies": "a"}, "/dependencies", "not_a_list"),
            ({"title": "x", "dependencies": ["a"] * 101}, "/dependencies", "max_length"),
            ({"title": "x", "metadata": []}, "/metadata", "not_a_dict"),
            ({"title": "x", "metadata": {"a": {"b": "\0"}}}, "/metadata/a/b", "unstorable"),
            ({"title": "x", "metadata": {"a": 2**64}}, "/metadata/a", "unstorable"),
            ({"title": "x", "metadata": {"a/b~": 2**64}}, "/metadata/a~1b~0", "unstorable"),
            ({"title": "x", "metadata": {"a": "x" * 70_000}}, "/metadata", "too_long"),
            ({"title": "x", "max_attempts": 0}, "/max_attempts", "min_value"),
            ({"title": "x", "status": "completed"}, "/status", "unknown_field"),
            ({"title": "x", "id": "MINE-1"}, "/id", "unknown_field"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, api: Client, now: datetime, body: dict[str, Any], pointer: str, code: str
    ) -> None:
        factories.make_nova("gone", archived_at=now, state={"mode": "archived"})
        found = problem(post(api, "tasks", body), 400, "invalid")
        assert [(e["pointer"], e["code"]) for e in found["errors"]] == [(pointer, code)]
        assert not Task.objects.exists()

    def test_every_wrong_field_is_named_at_once(self, api: Client) -> None:
        found = problem(post(api, "tasks", {"priority": "urgent", "metadata": 3}), 400)
        assert {e["pointer"] for e in found["errors"]} == {"/title", "/priority", "/metadata"}


class TestIdempotency:
    def test_a_repeat_gives_the_same_task(self, api: Client) -> None:
        first = post(api, "tasks", {"title": "Once"}, **{"Idempotency-Key": "k-1"})
        again = post(api, "tasks", {"title": "Once"}, **{"Idempotency-Key": "k-1"})
        assert (first.status_code, again.status_code) == (201, 201)
        assert "Idempotency-Replayed" not in first
        assert again["Idempotency-Replayed"] == "true"
        assert first.json() == again.json()
        assert Task.objects.count() == 1

    def test_the_key_with_another_body_is_refused(self, api: Client) -> None:
        post(api, "tasks", {"title": "Once"}, **{"Idempotency-Key": "k-1"})
        problem(post(api, "tasks", {"title": "Else"}, **{"Idempotency-Key": "k-1"}), 422, "idempotency_key_reused")

    @pytest.mark.parametrize("key", ["", "x" * 129, "a b", "ü"])
    def test_a_key_that_is_none_is_refused(self, api: Client, key: str) -> None:
        problem(post(api, "tasks", {"title": "Once"}, **{"Idempotency-Key": key}), 400, "invalid")

    def test_callers_do_not_share_keys(self, api: Client, client: Client, admin_user: User) -> None:
        client.force_login(admin_user)
        one = post(api, "tasks", {"title": "Once"}, **{"Idempotency-Key": "k-1"}).json()
        two = post(client, "tasks", {"title": "Once"}, **{"Idempotency-Key": "k-1"}).json()
        assert one["task_id"] != two["task_id"]


class TestTaskList:
    def test_filters(self, api: Client, now: datetime) -> None:
        factories.make_nova(team="forge")
        open_one = factories.make_task("Open one", team="forge", description="needle in it")
        done = factories.make_task("Done one", assignee="torch", status="completed", priority="high")
        stuck = factories.make_task("Stuck one", assignee="torch", status="blocked")

        def ids(**query: Any) -> set[str]:
            return {task["task_id"] for task in get(api, "tasks", **query)["results"]}

        assert ids() == {open_one.id, done.id, stuck.id}
        assert ids(status="completed") == {done.id}
        assert ids(status="completed,blocked") == {done.id, stuck.id}
        assert ids(assignee="torch") == {done.id, stuck.id}
        assert ids(assignee="") == {open_one.id}
        assert ids(assignee="nobody") == set()
        assert ids(priority="high") == {done.id}
        assert ids(team="forge") == {open_one.id}
        assert ids(search="NEEDLE") == {open_one.id}
        assert ids(search=stuck.id.lower()) == {stuck.id}
        assert ids(search="stuck", status="pending") == set()

    def test_a_blocked_task_says_who_can_unblock_it(self, api: Client) -> None:
        factories.make_nova()
        factories.make_task(assignee="torch", status="blocked", block_reason="no model")
        (task,) = get(api, "tasks", status="blocked")["results"]
        assert task["block"] == {
            "owner": "operator",
            "action": "look at it",
            "reason": "no model",
            "since": "2026-11-20T12:00:00Z",
        }

    def test_pages_lead_forwards_and_back_through_everything_once(self, api: Client, now: datetime) -> None:
        factories.make_nova()
        made = [  # of every status, many created at one instant
            factories.make_task(f"Task {n}", assignee="torch", status=status, created_at=now + timedelta(seconds=n // 6))
            for n, status in enumerate(["pending", "in_progress", "completed", "blocked", "pending"] * 5)
        ]
        expected = [t.id for t in sorted(made, key=lambda t: (t.created_at, t.id), reverse=True)]
        pages = [get(api, "tasks", limit=4)]
        assert pages[0]["previous"] is None
        while pages[-1]["next"]:
            pages.append(api.get(pages[-1]["next"]).json())
        assert [t["task_id"] for page in pages for t in page["results"]] == expected
        assert [len(page["results"]) for page in pages] == [4, 4, 4, 4, 4, 4, 1]
        back = [pages[-1]]
        while back[-1]["previous"]:
            back.append(api.get(back[-1]["previous"]).json())
        assert [page["results"] for page in back] == [page["results"] for page in reversed(pages)]

    def test_new_rows_do_not_shift_the_pages(self, api: Client, now: datetime) -> None:
        made = [factories.make_task(created_at=now + timedelta(seconds=n)).id for n in range(4)]
        first = get(api, "tasks", limit=2)
        factories.make_task(created_at=now + timedelta(hours=1))
        second = api.get(first["next"]).json()
        assert [t["task_id"] for t in second["results"]] == [made[1], made[0]]

    def test_links_keep_the_filters(self, api: Client) -> None:
        for _ in range(3):
            factories.make_task(priority="high")
        factories.make_task(priority="low")
        page = get(api, "tasks", limit=2, priority="high")
        assert "priority=high" in page["next"]
        assert len(api.get(page["next"]).json()["results"]) == 1

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ({"limit": "0"}, "limit"),
            ({"limit": "201"}, "limit"),
            ({"limit": "-1"}, "limit"),
            ({"limit": "x"}, "limit"),
            ({"limit": "\u0663"}, "limit"),
            ({"limit": "9" * 5000}, "limit"),
            ({"cursor": "x"}, "cursor"),
            ({"cursor": "WzEsMl0"}, "cursor"),
            ({"cursor": "W2ZhbHNlLCIyMDI2IiwxXQ"}, "cursor"),
            ({"status": "done"}, "status"),
            ({"priority": "urgent"}, "priority"),
            ({"stauts": "pending"}, "stauts"),
            ({"search": "a\0b"}, "search"),
        ],
    )
    def test_a_question_that_makes_no_sense_is_refused(self, api: Client, query: dict[str, str], name: str) -> None:
        found = problem(api.get("/api/v1/tasks", query), 400, "invalid")
        assert [e["pointer"] for e in found["errors"]] == [f"/{name}"]

    @pytest.mark.parametrize("count", [1, 60])
    def test_a_page_costs_the_same_however_many_there_are(self, api: Client, count: int) -> None:
        factories.make_nova()
        for n in range(count):
            factories.make_task(assignee="torch", status=["pending", "completed", "blocked"][n % 3])
        with CaptureQueriesContext(connection) as queries:
            assert len(get(api, "tasks", limit=200)["results"]) == count
        assert len(queries) == 4  # one for each status

    def test_a_page_is_read_along_an_index(self, api: Client) -> None:
        if connection.vendor != "sqlite":
            return
        factories.make_task()
        with CaptureQueriesContext(connection) as queries:
            get(api, "tasks")
        with connection.cursor() as cursor:
            for query in queries:
                cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
                plan = " ".join(str(row[3]) for row in cursor.fetchall())
                assert "task_status_list" in plan

    def test_personal_tasks_are_not_there(self, api: Client) -> None:
        factories.make_nova()
        private = factories.make_task("Private thought", assignee="torch", personal=True)
        assert get(api, "tasks", search="thought")["results"] == []
        problem(api.get(f"/api/v1/tasks/{private.id}"), 404)
        problem(post(api, f"tasks/{private.id}/cancel", {"reason": "x"}), 404)


class TestOneTask:
    def test_shows_executions_and_what_came_of_it(self, api: Client, now: datetime) -> None:
        factories.make_nova()
        task = factories.make_task(
            assignee="torch",
            status="completed",
            results="It is written.",
            metrics={"pages": 3},
            insights={"lessons_learned": "x"},
        )
        factories.make_execution(task, attempt=2, status="succeeded", results="It is written.")
        factories.make_execution(task, attempt=1, status="failed", error="no ink")
        found = get(api, f"tasks/{task.id}")
        assert (found["outcome"], found["results"], found["metrics"]) == ("succeeded", "It is written.", {"pages": 3})
        assert [(e["attempt"], e["status"], e["error"]) for e in found["executions"]] == [
            (1, "failed", "no ink"),
            (2, "succeeded", ""),
        ]
        assert found["completed_at"] == "2026-11-20T12:00:00Z"

    def test_verbs_answer_the_task_as_it_stands(self, api: Client) -> None:
        factories.make_nova()
        task = factories.make_task(assignee="torch", status="blocked")
        assert post(api, f"tasks/{task.id}/priority", {"reason": "x", "priority": "Critical"}).json()["priority"] == "critical"
        assert post(api, f"tasks/{task.id}/unblock", {"reason": "x"}).json()["status"] == "pending"
        for _ in range(2):
            assert post(api, f"tasks/{task.id}/cancel", {"reason": "x"}).json()["outcome"] == "cancelled"
        problem(post(api, f"tasks/{task.id}/unblock", {"reason": "x"}), 409, "illegal_task_move")
        problem(post(api, f"tasks/{task.id}/priority", {"reason": "x"}), 400)


def test_a_slash_at_the_end_makes_no_difference(api: Client) -> None:
    assert get(api, "tasks/") == get(api, "tasks")
    assert post(api, "tasks/", {"title": "x"}).status_code == 201


def test_every_address_of_the_api_names_its_permissions() -> None:
    from workflow.api import urls

    for pattern in urls.urlpatterns:
        view: Any = getattr(pattern.callback, "view_class", None)
        if view is None:  # the hook door answers everybody, and says no in its own words
            assert (pattern.name or "").startswith("hooks-")
            continue
        offered = {method for method in ("GET", "POST", "PUT", "PATCH", "DELETE") if hasattr(view, method.lower())}
        assert view in (views.Root, Document) or set(view.permissions_needed) == offered


def test_the_root_names_the_lists(api: Client) -> None:
    lists = get(api, "")
    assert {"novas", "tasks", "journal"} <= set(lists)
    for address in lists.values():
        assert set(api.get(address).json()) == {"results", "next", "previous"}
