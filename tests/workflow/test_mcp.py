"""MCP at /mcp: the official client over HTTP against a real uvicorn, in the current and the older revisions of the protocol."""

import http.client
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx2
import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.utils import timezone
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from safety.api_keys import create_key, revoke_key
from safety.models import AuditEntry, SafetyState
from safety.stream_client import StreamClient
from tests import factories
from tests.web_server import OPERATOR_KEY, WRONG_KEYS, WebServer
from workflow.api.mcp_tools import BY_NAME, TOOLS
from workflow.models import InboxMessage, Task

pytestmark = pytest.mark.django_db(transaction=True)

NAMES = {
    "whoami", "heartbeat", "read_messages", "ack_messages", "post_message", "claim_task", "renew_lease", "update_progress",
    "complete_task", "block_task", "release_task", "create_task", "safety_check", "request_permit", "report_violation",
    "record_usage", "request_approval", "get_approval",
}  # fmt: skip


@asynccontextmanager
async def agent(web_server: WebServer, key: str, mode: Any = "auto") -> AsyncIterator[Any]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=60) as line,
        Client(streamable_http_client(f"{web_server.url}/mcp", http_client=line), mode=mode) as client,
    ):
        yield client


async def call(client: Any, tool: str, **arguments: Any) -> Any:
    """Call a tool that works, and give what it gives."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


async def refusal(client: Any, tool: str, **arguments: Any) -> str:
    """Call a tool that refuses, and give its words."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    return str(result.content[0].text)


@pytest.fixture(autouse=True)
async def _no_connection_survives(transactional_db: None) -> AsyncIterator[None]:
    """Close what asynchronous tests opened in the thread that they share."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def key(transactional_db: None, now: datetime) -> str:
    """The key of Nova torch, whose agent works, on a machine that is well."""
    factories.make_installation()
    factories.make_healthy_fleet(now=timezone.now())
    factories.make_nova("torch", default_executor="agent", allowed_executors=["agent", "builtin"])
    factories.make_nova("echo")
    return create_key("torch", now=now)[0]


def post(web_server: WebServer, body: Any, key: str = "", method: str = "POST", **headers: str) -> tuple[int, Any, Any]:
    line = http.client.HTTPConnection("127.0.0.1", web_server.port, timeout=20)
    given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    given |= {"Authorization": f"Bearer {key}"} if key else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    line.request(method, "/mcp", json.dumps(body) if method == "POST" else None, given)
    answer = line.getresponse()
    text = answer.read()
    line.close()
    return answer.status, json.loads(text) if text else None, answer.headers


class TestTheWork:
    @pytest.mark.parametrize("mode", ["auto", "legacy"])
    async def test_an_agent_claims_reports_and_completes_a_task(self, web_server: WebServer, key: str, mode: str) -> None:
        async with agent(web_server, key, mode) as client:
            me = await call(client, "whoami")
            assert (me["nova_id"], me["mode"], me["order"]) == ("torch", "running", None)
            made = await call(client, "create_task", title="Count the beans", assignee="torch", idempotency_key="beans")
            again = await call(client, "create_task", title="Count the beans", assignee="torch", idempotency_key="beans")
            assert again["task_id"] == made["task_id"]
            (task,) = (await call(client, "claim_task"))["tasks"]
            assert task["task_id"] == made["task_id"]
            held = {"task_id": task["task_id"], "fence": task["fence"]}
            await call(client, "update_progress", **held, progress_percentage=50, update="half of them")
            await call(client, "renew_lease", **held)
            beat = await call(client, "heartbeat")
            assert [lease["task_id"] for lease in beat["leases"]] == [task["task_id"]]
            done = await call(client, "complete_task", **held, results="There are 12.", evidence=["sha256:00"])
            assert (done["status"], done["outcome"]) == ("completed", "succeeded")
            assert (await call(client, "claim_task"))["tasks"] == []
        entry = await AuditEntry.objects.filter(action="workflow.task.completed").afirst()
        assert entry is not None
        assert entry.actor == "nova:torch"
        assert entry.request_id

    async def test_what_it_can_not_do_it_blocks_or_releases(self, web_server: WebServer, key: str) -> None:
        async with agent(web_server, key) as client:
            for title in ("One", "Two"):
                await call(client, "create_task", title=title, assignee="torch")
            (one,) = (await call(client, "claim_task"))["tasks"]
            blocked = await call(
                client, "block_task", task_id=one["task_id"], fence=one["fence"], owner="operator", action="give me access"
            )
            assert blocked["status"] == "blocked"
            (two,) = (await call(client, "claim_task"))["tasks"]
            released = await call(client, "release_task", task_id=two["task_id"], fence=two["fence"], reason="not now")
            assert released["status"] == "pending"

    async def test_novas_write_to_each_other(self, web_server: WebServer, key: str, now: datetime) -> None:
        other = await sync_to_async(lambda: create_key("echo", now=now)[0])()
        async with agent(web_server, key) as torch, agent(web_server, other) as echo:
            await call(torch, "post_message", to="echo", title="Hello", message="How are you?")
            (message,) = (await call(echo, "read_messages", unread=True))["results"]
            assert (message["sender"], message["fields"]["message"]) == ("torch", "How are you?")
            assert (await call(echo, "ack_messages", ids=[message["id"]]))["acknowledged"] == [message["id"]]
            assert (await call(echo, "read_messages", unread=True))["results"] == []

    async def test_safety_permits_usage_violations_and_approvals(self, web_server: WebServer, key: str) -> None:
        async with agent(web_server, key) as client:
            assert "safety" in await call(client, "safety_check")
            used = await call(client, "record_usage", model="small", input_tokens=10, output_tokens=3)
            entry = await AuditEntry.objects.aget(pk=used["journal_id"])
            assert (entry.nova_id, entry.actor, entry.after["input_tokens"]) == ("torch", "nova:torch", 10)
            asked = await call(client, "request_approval", action="deploy", arguments={"to": "production"})
            assert (await call(client, "get_approval", approval_id=asked["id"]))["status"] == "pending"
            reported = await call(client, "report_violation", type="session_storm", details={"starts": 12})
            assert reported["incident"]["nova_id"] == "torch"

    async def test_a_permit_is_asked_for(self, web_server: WebServer, key: str) -> None:
        async with agent(web_server, key) as client:
            permit = await call(client, "request_permit")
            assert permit["permit_id"]


class TestRefusals:
    async def test_a_refusal_is_a_sentence_for_the_model(self, web_server: WebServer, key: str) -> None:
        async with agent(web_server, key) as client:
            words = await refusal(client, "create_task", title="x", priority="urgent")
            assert "/priority" in words
            assert "Unknown: titel" in await refusal(client, "create_task", title="x", titel="x")
            assert "Missing: fence" in await refusal(client, "complete_task", task_id="T-1", results="")
            assert "There is no task" in await refusal(client, "renew_lease", task_id="TORCH-1-abcdef", fence=1)
            assert "There is no tool approve" in await refusal(client, "approve")
            assert await refusal(client, "get_approval", approval_id=4711)

    async def test_a_stopped_nova_is_told_so(self, web_server: WebServer, key: str) -> None:
        await SafetyState.objects.acreate(
            nova_id="torch", is_safe=False, safety_level="warning", mechanism="frosty_cooldown", reason="Cooling down."
        )
        async with agent(web_server, key) as client:
            for tool, arguments in (("claim_task", {}), ("create_task", {"title": "x"}), ("request_permit", {})):
                words = await refusal(client, tool, **arguments)
                assert "Cooling down." in words
                assert "nova_stopped" in words
            assert (await call(client, "heartbeat"))["may_claim"] is False

    async def test_a_lost_lease_is_told_so(self, web_server: WebServer, key: str) -> None:
        async with agent(web_server, key) as client:
            await call(client, "create_task", title="One", assignee="torch")
            (task,) = (await call(client, "claim_task"))["tasks"]
            words = await refusal(client, "complete_task", task_id=task["task_id"], fence=task["fence"] + 1, results="x")
            assert "lease_lost" in words
        assert (await Task.objects.aget()).status == "in_progress"

    async def test_a_key_reaches_no_further_than_its_scopes(self, web_server: WebServer, key: str, now: datetime) -> None:
        narrow = await sync_to_async(lambda: create_key("torch", scopes=["read", "messages"], now=now)[0])()
        async with agent(web_server, narrow) as client:
            await call(client, "whoami")
            await call(client, "heartbeat")
            await call(client, "post_message", to="echo", title="Hello")
            for tool, arguments in (("claim_task", {}), ("create_task", {"title": "x"}), ("request_permit", {})):
                assert "scope_missing" in await refusal(client, tool, **arguments)
            assert "scope_missing" in await refusal(client, "request_approval", action="deploy")
        assert await Task.objects.acount() == 0

    async def test_an_agent_is_who_its_key_says(self, web_server: WebServer, key: str) -> None:
        async with agent(web_server, key) as client:
            assert "Unknown: nova_id" in await refusal(client, "heartbeat", nova_id="echo")
            for sly in ("../echo", "echo/messages?x=", "a%2Fb"):
                await refusal(client, "post_message", to=sly, title="x")
        assert await InboxMessage.objects.acount() == 0


class TestTheDoor:
    def test_only_a_good_key_of_a_nova_comes_in(self, web_server: WebServer, key: str, now: datetime) -> None:
        hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        for wrong in ("", "nova_000000_wrong", OPERATOR_KEY):
            status, body, headers = post(web_server, hello, wrong)
            assert status == 401
            assert headers["WWW-Authenticate"].startswith("Bearer")
            assert headers["Content-Type"] == "application/problem+json"
            assert (body["code"], body["title"]) == ("key_unknown" if "wrong" in wrong else "not_authenticated", "Unauthorized")
            assert body["detail"]
        assert post(web_server, hello, key)[0] == 200
        text, row = create_key("torch", now=now)
        revoke_key(row.pk, reason="lost", now=now)
        assert post(web_server, hello, text)[0] == 401

    def test_wrong_keys_are_counted_by_address_and_good_ones_still_come_in(
        self, web_server: WebServer, key: str, stream: StreamClient
    ) -> None:
        hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert post(web_server, hello, "nova_000000_wrong")[0] == 401
        minute = int(timezone.now().timestamp()) // 60
        for number in (minute, minute + 1):
            stream.call("SET", f"novawf:requests:wrong-keys:127.0.0.1:{number}", WRONG_KEYS)
        status, body, headers = post(web_server, hello, "nova_000000_wrong")
        assert (status, body["code"]) == (429, "too_many_requests")
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert post(web_server, hello, key)[0] == 200

    def test_pages_of_other_sites_are_refused(self, web_server: WebServer, key: str) -> None:
        hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert post(web_server, hello, key, Origin="https://evil.example")[0] == 403
        assert post(web_server, hello, key, Host="evil.example")[0] == 403
        assert post(web_server, hello, key, Origin=web_server.url)[0] == 200

    def test_it_answers_posts_only(self, web_server: WebServer, key: str) -> None:
        for method in ("GET", "DELETE"):
            status, _, headers = post(web_server, None, key, method)
            assert (status, headers["Allow"]) == (405, "POST")

    def test_an_old_client_shakes_hands_without_a_session(self, web_server: WebServer, key: str) -> None:
        for revision in ("2025-11-25", "2025-06-18", "2025-03-26"):
            params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}}
            hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
            status, body, headers = post(web_server, hello, key)
            assert (status, body["result"]["protocolVersion"]) == (200, revision)
            assert "Mcp-Session-Id" not in headers
            assert post(web_server, {"jsonrpc": "2.0", "method": "notifications/initialized"}, key)[0] == 202
            listed = post(web_server, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, key, MCP_Protocol_Version=revision)
            assert {tool["name"] for tool in listed[1]["result"]["tools"]} == NAMES

    def test_a_modern_client_discovers_without_shaking_hands(self, web_server: WebServer, key: str) -> None:
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        asked = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta}}
        status, body, _ = post(web_server, asked, key, MCP_Protocol_Version="2026-07-28", Mcp_Method="server/discover")
        assert status == 200
        assert body["result"]["resultType"] == "complete"
        assert "2026-07-28" in body["result"]["supportedVersions"]
        refused = post(web_server, asked, key, MCP_Protocol_Version="2026-07-28", Mcp_Method="tools/list")
        assert (refused[0], refused[1]["error"]["code"]) == (400, -32020)

    def test_a_broken_message_is_an_error_of_the_protocol(self, web_server: WebServer, key: str) -> None:
        status, body, _ = post(web_server, [1], key)
        assert status == 400
        assert body["error"]["code"]


class TestTheTools:
    def test_they_are_these_and_none_decides(self) -> None:
        assert set(BY_NAME) == NAMES
        assert not [tool.name for tool in TOOLS if any(word in tool.path for word in ("approve", "resume", "polic", "lift"))]

    async def test_each_says_all_of_itself(self, web_server: WebServer, key: str) -> None:
        async with agent(web_server, key) as client:
            listed = (await client.list_tools()).tools
        assert [tool.name for tool in listed] == [tool.name for tool in TOOLS]
        for tool in listed:
            hints = tool.annotations
            assert hints is not None
            given = (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint)
            assert all(isinstance(hint, bool) for hint in given)
            assert tool.title
            assert tool.description
            assert len(tool.description) < 2_000
            assert tool.input_schema["additionalProperties"] is False
            assert tool.output_schema is not None
            assert tool.output_schema["type"] == "object"
