"""The doors offer the same verbs with the same rules.

To agents: what is a tool over MCP is an address of the API, with the same fields. To operators: what the command line does, the
API does too, and both refuse the same.
"""

import json
from datetime import datetime
from typing import Any

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.test import Client
from django.urls import resolve

from safety.api_keys import create_key
from safety.models import AuditEntry
from tests import factories
from tests.workflow.test_schema import DOCUMENT
from workflow.api.mcp_tools import BY_NAME, TOOLS, Tool
from workflow.models import NovaState, Task

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


# -- operators: the command line and the API

WHY = ("--reason", "a look is needed")
# What is typed, and the operation that does the same.
TYPED: dict[tuple[str, ...], str] = {
    ("nova", "list"): "get_novas",
    ("nova", "show", "torch"): "get_novas_one",
    ("nova", "create", "nova-8"): "post_novas",
    **{
        ("nova", verb, "torch", *WHY): f"post_novas_one_{verb}" for verb in ("pause", "drain", "halt", "kill", "resume", "wake")
    },
    ("nova", "lift-safety", "torch", *WHY): "post_novas_one_lift_safety",
    ("nova", "halt", "--fleet", *WHY): "post_halts",
    ("task", "create", "Count the beans"): "post_tasks",
    ("task", "list"): "get_tasks",
    ("task", "show", "T-1"): "get_tasks_one",
    **{("task", verb, "T-1", *WHY): f"post_tasks_one_{verb}" for verb in ("cancel", "retry", "unblock")},
    ("task", "priority", "high", "T-1", *WHY): "post_tasks_one_priority",
    ("message", "post", "torch", "Look at the beans."): "post_novas_one_messages",
    ("message", "list", "torch"): "get_novas_one_messages",
    ("journal", "tail"): "get_journal",
    ("audit_verify", "--json"): "post_journal_verify",
    ("incident", "list"): "get_incidents",
    ("incident", "show", "17"): "get_incidents_one",
    **{
        ("incident", verb, "17", *WHY): f"post_incidents_one_{verb.replace('-', '_')}"
        for verb in ("acknowledge", "mitigate", "resolve", "false-positive", "note")
    },
    ("alert", "list"): "get_alerts",
    ("alert", "rules"): "get_alert_rules",
    ("alert", "channels"): "get_alert_channels",
    ("alert", "deliveries"): "get_alert_deliveries",
    ("alert", "test", "ops", *WHY): "post_alert_channels_one_test",
    ("alert", "reopen", "ops", *WHY): "post_alert_channels_one_reopen",
    ("alert", "redeliver", "17", *WHY): "post_alert_deliveries_one_redeliver",
    ("approval", "list"): "get_approvals",
    ("approval", "show", "17"): "get_approvals_one",
    **{("approval", verb, "17", *WHY): f"post_approvals_one_{verb}" for verb in ("approve", "deny")},
    ("apikey", "list"): "get_keys",
    **{("apikey", verb, "17", *WHY): f"post_keys_one_{verb}" for verb in ("rotate", "suspend", "reinstate", "revoke")},
    ("apikey_create", "torch"): "post_keys",
}


@pytest.mark.parametrize("words", TYPED, ids=" ".join)
def test_what_can_be_typed_can_be_asked_of_the_api(words: tuple[str, ...]) -> None:
    name, *rest = words
    command = load_command_class(get_commands()[name], name)
    command.create_parser("manage.py", name).parse_args(rest)
    assert TYPED[words] in OPERATIONS


@pytest.mark.parametrize("verb", ["pause", "drain", "halt", "kill", "resume", "wake"])
def test_nova_verbs_without_a_reason_are_refused_at_both_doors(verb: str, settings: Any) -> None:
    factories.make_nova("torch")
    before = NovaState.objects.values().get(), AuditEntry.objects.count()
    answer = _operator(settings).post(f"/api/v1/novas/torch/{verb}", "{}", content_type="application/json")
    assert answer.status_code == 400
    with pytest.raises((CommandError, SystemExit)):
        call_command("nova", verb, "torch", "--wait", "0")
    assert (NovaState.objects.values().get(), AuditEntry.objects.count()) == before


@pytest.mark.parametrize("verb", ["cancel", "retry", "unblock"])
def test_task_verbs_that_a_status_does_not_allow_are_refused_at_both_doors(verb: str, settings: Any) -> None:
    done = {"status": "completed", "outcome": "succeeded", "completed_at": factories.NOW}
    task = factories.make_task("Done already", assignee=factories.make_nova("torch").pk, **done)
    before = Task.objects.values().get(), AuditEntry.objects.count()
    body = json.dumps({"reason": "why not"})
    answer = _operator(settings).post(f"/api/v1/tasks/{task.pk}/{verb}", body, content_type="application/json")
    assert answer.status_code == 409
    with pytest.raises((CommandError, SystemExit)):
        call_command("task", verb, task.pk, "--reason", "why not")
    assert (Task.objects.values().get(), AuditEntry.objects.count()) == before


def _operator(settings: Any) -> Client:
    return Client(headers={"Authorization": f"Bearer {settings.OPERATOR_KEY}"})
