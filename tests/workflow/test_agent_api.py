"""The doors for agents' work: what they answer, whom they turn away, and what waits behind a claim."""

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import connections
from django.test import Client
from django.utils import timezone

from novawf_site.handler import Handler, KeptThreads
from safety.api_keys import create_key
from safety.models import AuditEntry
from tests import factories
from workflow import services
from workflow.api.long_poll import LongPoll
from workflow.models import Approval, InboxMessage, Task, TaskDependency

pytestmark = pytest.mark.django_db


def make_agent(nova_id: str = "torch", *, room: int = 64) -> str:
    """Make a Nova that is an agent, and give its key."""
    policy = factories.make_policy(f"room-{room}", max_concurrent_tasks=room)
    factories.make_nova(nova_id, policy=policy.slug, default_executor="agent")
    return create_key(nova_id, now=timezone.now())[0]


def ask(key: str, path: str, body: Any = None, *, method: str = "POST") -> Any:
    client = Client(raise_request_exception=False)
    text = "" if body is None else json.dumps(body)
    headers = {"Authorization": f"Bearer {key}"}
    return client.generic(method, f"/api/v1/{path}", text, content_type="application/json", headers=headers)


def operate(path: str, body: Any = None, *, method: str = "POST") -> Any:
    return ask(settings.OPERATOR_KEY, path, body, method=method)


def claim(key: str, **body: Any) -> list[dict[str, Any]]:
    response = ask(key, "tasks/claim/", body)
    assert response.status_code == 200, response.content
    return response.json()["tasks"]


def test_an_agent_claims_reports_and_completes_a_task():
    key = make_agent()
    factories.make_task("Write it", executor="agent", metadata={"pages": 3})
    task = claim(key)[0]
    assert (task["title"], task["metadata"], task["attempt"]) == ("Write it", {"pages": 3}, 1)
    path, fence = f"tasks/{task['task_id']}", task["fence"]
    assert ask(key, f"{path}/renew/", {"fence": fence, "lease_seconds": 300}).json()["fence"] == fence
    progress = ask(key, f"{path}/progress/", {"fence": fence, "progress_percentage": 50, "update": "Half."})
    assert progress.status_code == 200
    done = ask(key, f"{path}/complete/", {"fence": fence, "results": "Done.", "evidence": ["commit 1a2b"]})
    assert done.status_code == 200
    assert (done.json()["status"], done.json()["outcome"], done.json()["late"]) == ("completed", "succeeded", False)
    shown = ask(key, f"{path}/", method="GET").json()
    assert (shown["status"], shown["results"], shown["progress"]) == ("completed", "Done.", 100)
    actors = set(AuditEntry.objects.filter(object_id=task["task_id"]).values_list("actor", flat=True))
    assert actors == {"nova:torch"}


def test_a_claim_that_finds_nothing_says_when_to_come_again():
    response = ask(make_agent(), "tasks/claim/", {"wait": 5})
    assert (response.status_code, response.headers["Retry-After"], response.content) == (204, "2", b"")


@pytest.mark.parametrize("body", [{"limit": 101}, {"wait": 46}, {"lease_seconds": 1}, {"team": "red"}])
def test_a_claim_that_asks_for_too_much_is_refused(body):
    assert ask(make_agent(), "tasks/claim/", body).status_code == 400


def test_a_stale_fence_is_answered_with_lease_lost():
    key = make_agent()
    factories.make_task()
    task = claim(key)[0]
    response = ask(key, f"tasks/{task['task_id']}/complete/", {"fence": task["fence"] - 1, "results": "x"})
    assert (response.status_code, response.json()["code"]) == (409, "lease_lost")
    assert AuditEntry.objects.filter(action="workflow.task.completion_refused").count() == 1


def test_a_stopped_nova_is_told_why_it_can_claim_nothing():
    key = make_agent()
    services.pause_nova("torch", reason="look", now=timezone.now())
    response = ask(key, "tasks/claim/", {})
    assert (response.status_code, response.json()["mechanism"]) == (423, "paused")
    assert ask(key, "novas/torch/heartbeat/", {}).json()["may_claim"] is False


@pytest.mark.parametrize("verb", ["renew", "progress", "complete", "fail", "block", "release"])
def test_anothers_task_is_not_found_whatever_is_asked(verb):
    key, other = make_agent("torch"), make_agent("echo")
    factories.make_task()
    task = claim(key)[0]
    body = {"fence": task["fence"], **{"fail": {"error": "x"}, "block": {"owner": "a", "action": "b"}}.get(verb, {})}
    assert ask(other, f"tasks/{task['task_id']}/{verb}/", body).status_code == 404
    assert ask(other, f"tasks/{task['task_id']}/", method="GET").status_code == 404
    assert Task.objects.get().status == "in_progress"
    assert operate(f"tasks/{task['task_id']}/{verb}/", body).status_code == 403


def test_a_task_is_failed_blocked_and_released():
    key = make_agent()
    for _ in range(3):
        factories.make_task()
    failed, blocked, released = claim(key, limit=3)
    answers = [
        ask(key, f"tasks/{failed['task_id']}/fail/", {"fence": failed["fence"], "error": "no luck"}),
        ask(key, f"tasks/{blocked['task_id']}/block/", {"fence": blocked["fence"], "owner": "alice", "action": "help"}),
        ask(key, f"tasks/{released['task_id']}/release/", {"fence": released["fence"]}),
    ]
    assert [answer.json()["status"] for answer in answers] == ["pending", "blocked", "pending"]
    assert operate(f"tasks/{blocked['task_id']}/retry/", {"reason": "helped"}).json()["status"] == "pending"
    assert operate(f"tasks/{failed['task_id']}/retry/", {"reason": "now"}).json()["not_before"] is None


def test_a_batch_is_completed_with_one_answer_each():
    key = make_agent()
    for _ in range(3):
        factories.make_task()
    tasks = [{"task_id": task["task_id"], "fence": task["fence"], "results": "x"} for task in claim(key, limit=3)]
    tasks[1]["fence"] += 7
    results = ask(key, "tasks/complete/", {"tasks": tasks}).json()["results"]
    assert [result["status"] for result in results] == ["completed", None, "completed"]
    assert results[1]["problem"]["code"] == "lease_lost"


def test_a_heartbeat_renews_and_tells_what_the_nova_must_do():
    key = make_agent()
    factories.make_task()
    task = claim(key, lease_seconds=10)[0]
    operate("halts/", {"kind": "halt", "scope": "nova", "target": "torch", "reason": "stop"})
    beat = ask(key, "novas/torch/heartbeat/", {}).json()
    assert [lease["task_id"] for lease in beat["leases"]] == [task["task_id"]]
    assert beat["leases"][0]["lease_until"] > task["lease_until"]
    assert (beat["mode"], beat["directives"][0]["type"]) == ("halted", "halt")
    make_agent("echo")
    assert ask(key, "novas/echo/heartbeat/", {}).status_code == 404


def test_many_tasks_are_created_at_once_with_one_answer_each():
    make_agent()
    tasks = [{"title": f"Task {number}"} for number in range(998)]
    tasks[3:3] = [{"title": ""}, {"title": "x", "assignee": "nobody"}]
    response = operate("tasks/bulk/", {"tasks": tasks})
    answer = response.json()
    assert (response.status_code, answer["accepted"], answer["refused"]) == (200, 998, 2)
    assert answer["results"][3]["problem"]["errors"][0]["pointer"] == "/title"
    assert answer["results"][4]["problem"]["errors"][0]["code"] == "unknown_assignee"
    assert Task.objects.get(id=answer["results"][5]["task_id"]).title == "Task 3"
    assert operate("tasks/bulk/", {"tasks": [{"title": "x"}] * 1001}).status_code == 400


def test_an_operator_edits_a_task_while_nobody_works_on_it():
    key = make_agent()
    task = factories.make_task("Old", executor="agent")
    body = {"title": "New", "priority": "high", "estimated_duration": 60, "assignee": "torch", "reason": "better"}
    shown = operate(f"tasks/{task.id}/", body, method="PATCH").json()
    assert (shown["title"], shown["priority"], shown["estimated_duration"], shown["assignee"]) == ("New", "high", 60.0, "torch")
    names = AuditEntry.objects.filter(object_id=task.id).order_by("id").values_list("action", flat=True)
    assert list(names) == ["workflow.task.edited", "workflow.task.ranked", "workflow.task.assigned"]
    assert operate(f"tasks/{task.id}/", {"assignee": "nobody", "reason": "x"}, method="PATCH").status_code == 400
    assert operate(f"tasks/{task.id}/", {"assignee": None, "reason": "x"}, method="PATCH").json()["assignee"] is None
    claim(key)
    assert operate(f"tasks/{task.id}/", {"title": "Newer", "reason": "x"}, method="PATCH").status_code == 409


def test_tasks_wait_for_others_but_never_in_a_circle():
    first, second, third = (factories.make_task(title) for title in ("a", "b", "c"))
    for task, other in ((second, first), (third, second)):
        assert operate(f"tasks/{task.id}/dependencies/", {"add": [other.id], "reason": "order"}).json()["waiting_on"] == 1
    circle = operate(f"tasks/{first.id}/dependencies/", {"add": [third.id], "reason": "order"})
    assert (circle.status_code, circle.json()["errors"][0]["code"]) == (400, "circle")
    freed = operate(f"tasks/{second.id}/dependencies/", {"remove": [first.id], "reason": "order"}).json()
    assert (freed["waiting_on"], freed["dependencies"]) == (0, [])
    done = factories.make_task(status="completed")
    assert operate(f"tasks/{first.id}/dependencies/", {"add": [done.id], "reason": "order"}).json()["waiting_on"] == 0
    assert TaskDependency.objects.count() == 2


def test_novas_send_each_other_messages_and_read_only_their_own():
    torch, echo = make_agent("torch"), make_agent("echo")
    sent = ask(torch, "novas/echo/messages/", {"message": "Hello.", "priority": "low"})
    assert (sent.status_code, sent.json()["sender"]) == (201, "torch")
    read = ask(echo, "novas/echo/messages/?unread=true", method="GET").json()["results"]
    assert [message["fields"]["message"] for message in read] == ["Hello."]
    assert ask(torch, "novas/echo/messages/", method="GET").status_code == 404
    assert ask(torch, "novas/nobody/messages/", {"message": "x"}).status_code == 404
    assert ask(torch, "messages/ack/", {"ids": [read[0]["id"]]}).json() == {"acknowledged": []}
    assert ask(echo, "messages/ack/", {"ids": [read[0]["id"]]}).json() == {"acknowledged": [read[0]["id"]]}
    assert ask(echo, "novas/echo/messages/?unread=true", method="GET").json()["results"] == []
    assert operate("novas/torch/messages/", {"title": "From a person"}).status_code == 201
    assert InboxMessage.objects.get(nova_id="torch").sender == "operator"


def test_an_agent_asks_and_a_person_approves():
    torch, echo = make_agent("torch"), make_agent("echo")
    body = {"action": "deploy", "arguments": {"to": "production"}, "reason": "ready"}
    asked = ask(torch, "approvals/", body)
    assert (asked.status_code, asked.json()["status"]) == (201, "pending")
    assert ask(torch, "approvals/", body).status_code == 200
    path = f"approvals/{asked.json()['id']}"
    for key in (torch, echo):
        assert ask(key, f"{path}/approve/", {"reason": "me"}).status_code == 403
    assert ask(echo, f"{path}/", method="GET").status_code == 404
    assert ask(echo, "approvals/", method="GET").json()["results"] == []
    assert operate(f"{path}/approve/", {"reason": "fine"}).json()["status"] == "approved"
    assert ask(torch, f"{path}/", method="GET").json()["decision_reason"] == "fine"
    assert operate(f"{path}/deny/", {}).status_code == 400


@pytest.mark.parametrize(("role", "may"), [("viewer", False), ("operator", True), ("auditor", False), ("admin", True)])
def test_roles_say_who_approves(role, may):
    asked = ask(make_agent(), "approvals/", {"action": "deploy"}).json()
    user = User.objects.create_user("somebody")
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    path = f"/api/v1/approvals/{asked['id']}"
    assert client.get(f"{path}/").status_code == 200
    response = client.post(f"{path}/approve/", {"reason": "x"}, content_type="application/json")
    assert response.status_code == (200 if may else 403)
    assert Approval.objects.get().status == ("approved" if may else "pending")


# -- the long poll


async def poll(
    app: LongPoll, key: str, body: dict[str, Any], gone: asyncio.Event | None = None
) -> tuple[int, Any, dict[str, str]]:
    """Claim through the ASGI application; give status, body and headers."""
    text = json.dumps(body).encode()
    pending, reply = [{"type": "http.request", "body": text}], []

    async def receive() -> Any:
        if pending:
            return pending.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        reply.append(message)

    headers = {"host": "localhost", "content-type": "application/json", "authorization": f"Bearer {key}"}
    headers["content-length"] = str(len(text))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/tasks/claim/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    if not reply:
        return 0, None, {}
    content = b"".join(message.get("body", b"") for message in reply[1:])
    answered = {name.decode().lower(): value.decode() for name, value in reply[0]["headers"]}
    return reply[0]["status"], json.loads(content) if content else None, answered


@pytest.fixture
async def app(transactional_db):
    """The web server's application, with threads of its own."""
    threads = KeptThreads(Handler())
    app = LongPoll(threads)
    yield app
    await asyncio.sleep(0.5)  # who looks for those that wait looks once more
    app.close()
    threads.close()
    await sync_to_async(connections.close_all)()


@pytest.mark.django_db(transaction=True)
async def test_a_claim_that_waits_gets_the_task_that_comes_meanwhile(app):
    key = await sync_to_async(make_agent)()
    waiting = asyncio.create_task(poll(app, key, {"wait": 30}))
    await asyncio.sleep(0.1)
    task = await sync_to_async(factories.make_task)(now=timezone.now())
    status, body, headers = await asyncio.wait_for(waiting, 20)
    assert (status, body["tasks"][0]["task_id"]) == (200, task.id)
    assert f";r={settings.REQUESTS_PER_MINUTE - 1};" in headers["ratelimit"]  # it asked twice, and counts once


@pytest.mark.django_db(transaction=True)
async def test_a_claim_that_waited_in_vain_is_answered_when_its_time_is_over(app):
    key = await sync_to_async(make_agent)()
    status, body, headers = await asyncio.wait_for(poll(app, key, {"wait": 0.3}), 20)
    assert (status, body, headers["retry-after"]) == (204, None, "2")
    assert "novawf-wait" not in headers


@pytest.mark.django_db(transaction=True)
async def test_of_many_that_wait_one_gets_the_task_and_who_went_away_gets_none(app):
    keys = [await sync_to_async(make_agent)(nova_id) for nova_id in ("torch", "echo", "helix")]
    gone = asyncio.Event()
    left = asyncio.create_task(poll(app, keys[0], {"wait": 30}, gone))
    await asyncio.sleep(0.1)
    others = [asyncio.create_task(poll(app, key, {"wait": 3})) for key in keys[1:]]
    gone.set()
    assert (await asyncio.wait_for(left, 20))[0] == 0
    await sync_to_async(factories.make_task)(now=timezone.now())
    statuses = sorted([(await asyncio.wait_for(other, 20))[0] for other in others])
    assert statuses == [200, 204]


@pytest.mark.django_db(transaction=True)
async def test_a_wrong_key_does_not_wait(app):
    status, body, _ = await asyncio.wait_for(poll(app, "nova_000000_nobody", {"wait": 30}), 20)
    assert (status, body["code"]) == (401, "key_unknown")
