"""The doors offer agents the same verbs: what is a tool over MCP is an address of the API, with the same fields and rules.

The command line is for operators: it offers none of these to a Nova, and what it does offer has its own tests.
"""

import json
from datetime import datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import resolve

from safety.api_keys import create_key
from tests import factories
from tests.workflow.test_schema import DOCUMENT
from workflow.api.mcp_tools import BY_NAME, TOOLS, Tool

pytestmark = pytest.mark.django_db

# The table: each verb of agents, its tool, and its operation in the OpenAPI document.
VERBS = {
    "whoami": "get_whoami",
    "heartbeat": "post_novas_one_heartbeat",
    "read_messages": "get_novas_one_messages",
    "ack_messages": "post_messages_ack",
    "post_message": "post_novas_one_messages",
    "claim_task": "post_tasks_claim",
    "renew_lease": "post_tasks_one_renew",
    "update_progress": "post_tasks_one_progress",
    "complete_task": "post_tasks_one_complete",
    "block_task": "post_tasks_one_block",
    "release_task": "post_tasks_one_release",
    "create_task": "post_tasks",
    "safety_check": "post_novas_one_safety_check",
    "request_permit": "post_novas_one_api_permits",
    "report_violation": "post_novas_one_violations",
    "record_usage": "post_novas_one_usage",
    "request_approval": "post_approvals",
    "get_approval": "get_approvals_one",
}
# What the API has for agents and MCP has not, and why.
ONLY_REST = {
    "post_novas_one_halt_ack": "a heartbeat tells of a halt, and the silence that follows confirms it",
    "delete_novas_one_api_permits_one": "a permit that is not given back expires",
    "post_tasks_complete": "a batch, for programs",
    "post_tasks_one_fail": "a model that can't go on blocks or releases the task",
}
_SAMPLE = {"string": "x", "integer": 1, "number": 5, "boolean": True, "array": [], "object": {}}
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def fields_of(operation: dict[str, Any]) -> dict[str, Any]:
    """Give what an operation takes, in its body, its query and its header for idempotency."""
    names = {p["name"]: p["schema"] for p in operation.get("parameters", []) if p["in"] in ("path", "query")}
    if any(p["name"] == "Idempotency-Key" for p in operation.get("parameters", [])):
        names["idempotency_key"] = {}
    if body := operation.get("requestBody"):
        name = body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        names |= DOCUMENT["components"]["schemas"][name].get("properties", {})
    return names


def required_of(operation: dict[str, Any]) -> set[str]:
    if not (body := operation.get("requestBody")):
        return set()
    name = body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    return set(DOCUMENT["components"]["schemas"][name].get("required", []))


def test_every_tool_has_its_address_and_every_address_of_agents_its_tool() -> None:
    assert set(VERBS) == set(BY_NAME)
    for_agents = {name for name, (_, _, operation) in OPERATIONS.items() if operation["security"] == [{"key": []}]}
    assert for_agents - set(VERBS.values()) == set(ONLY_REST)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_tool_takes_what_its_address_takes(tool: Tool) -> None:
    path, method, operation = OPERATIONS[VERBS[tool.name]]
    assert tool.method.lower() == method
    known = fields_of(operation)
    renamed = {"to": "nova_id"}  # a recipient, not oneself
    for name in tool.takes:
        assert renamed.get(name, name) in known, f"{tool.name}.{name}"
    assert required_of(operation) <= set(tool.needs)
    concrete, _, _ = tool.request("torch", {name: _SAMPLE[schema.get("type", "object")] for name, schema in tool.takes.items()})
    assert resolve(concrete).route == resolve(_filled(path)).route


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_tool_promises_what_its_address_gives(tool: Tool) -> None:
    _, _, operation = OPERATIONS[VERBS[tool.name]]
    answer = next(answer for status, answer in operation["responses"].items() if status in ("200", "201"))
    name = answer["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    given = DOCUMENT["components"]["schemas"][name]["properties"]
    assert set(tool.gives["properties"]) <= set(given)


@pytest.mark.parametrize("name", ["claim_task", "create_task", "request_permit", "request_approval"])
def test_what_a_stopped_nova_may_not_begin_is_refused_at_the_address_too(name: str, now: datetime) -> None:
    factories.make_nova("torch", default_executor="agent", allowed_executors=["agent"])
    factories.make_safety_state("torch", is_safe=False, mechanism="frosty_cooldown", reason="Cooling down.")
    key = create_key("torch", now=now)[0]
    example = OPERATIONS[VERBS[name]][2]["requestBody"]["content"]["application/json"]["examples"]
    body = next(iter(example.values()))["value"]
    path, _, _ = BY_NAME[name].request("torch", {})
    answer = Client(headers={"Authorization": f"Bearer {key}"}).post(path, json.dumps(body), content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (423, "nova_stopped")


def _filled(path: str) -> str:
    return path.replace("{nova_id}", "torch").replace("{task_id}", "x").replace("{approval_id}", "1")
