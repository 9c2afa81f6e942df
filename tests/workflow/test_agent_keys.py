"""A Nova's key at the REST doors: it says who the agent is, opens nothing but that Nova's own doors, and stops with the key."""

from datetime import datetime
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from safety import api_keys
from safety.api_keys import create_key
from tests import factories
from workflow.api.authentication import ACT_AS_NOVA, NovaAgent, actor_name

pytestmark = pytest.mark.django_db


def ask(method: str, path: str, key: str, body: Any = None) -> Any:
    client = Client(raise_request_exception=False)
    return client.generic(
        method, f"/api/v1/{path}", body or "", content_type="application/json", headers={"Authorization": f"Bearer {key}"}
    )


def test_an_agent_may_act_for_its_nova_and_nothing_else():
    agent = NovaAgent("torch")
    assert agent.is_authenticated
    assert agent.has_perm(ACT_AS_NOVA)
    assert not agent.has_perm("workflow.view_nova")
    assert not agent.is_staff
    assert actor_name(agent) == "nova:torch"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "novas", None),
        ("GET", "novas/torch", None),
        ("POST", "novas/torch/resume", '{"reason": "let me"}'),
    ],
)
def test_an_operators_doors_are_closed_to_an_agent(method: str, path: str, body: str | None, now: datetime) -> None:
    factories.make_nova("torch")
    response = ask(method, path, create_key("torch", now=now)[0], body)
    assert (response.status_code, response.json()["code"]) == (403, "permission_denied")


def test_an_agent_asks_for_work_and_sees_its_own_novas(now: datetime) -> None:
    factories.make_nova("torch")
    factories.make_nova("echo")
    factories.make_task("Another's", assignee="echo")
    key = create_key("torch", now=now)[0]
    made = ask("POST", "tasks", key, '{"title": "Mine", "assignee": "torch"}')
    assert made.status_code == 201
    assert [task["title"] for task in ask("GET", "tasks", key).json()["results"]] == ["Mine"]
    factories.make_safety_state("torch", is_safe=False, mechanism="frosty_cooldown", reason="Cooling down.")
    refused = ask("POST", "tasks", key, '{"title": "More", "assignee": "torch"}')
    assert (refused.status_code, refused.json()["code"]) == (423, "nova_stopped")


def test_a_key_that_is_no_good_is_refused_and_says_why(now: datetime) -> None:
    text, key = create_key("torch", now=now)
    assert ask("GET", "", text).status_code == 200
    api_keys.suspend_key(key.pk, reason="lost", now=timezone.now())
    response = ask("GET", "", text)
    assert (response.status_code, response.json()["code"]) == (401, "key_suspended")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert ask("GET", "", "nova_000000_nobody").json()["code"] == "key_unknown"
    assert ask("GET", "", "neither").json()["code"] == "invalid_key"
