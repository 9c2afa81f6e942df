"""Permits over REST: granted, refused, given back; a Nova's key asks for its own Nova only, a stopped Nova gets none."""

import json
from datetime import datetime
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from safety import api_keys
from safety.models import Observation, ProviderAccount, SafetyIncident, SafetyState
from safety.stream_client import StreamClient
from tests import factories
from workflow import services
from workflow.models import Nova

pytestmark = pytest.mark.django_db


@pytest.fixture
def agent(stream: StreamClient, now: datetime) -> Client:
    """A client with torch's key."""
    factories.make_installation()
    factories.make_nova()
    key, _ = api_keys.create_key("torch", now=now)
    return Client(headers={"Authorization": f"Bearer {key}"})


def ask(client: Client, nova_id: str = "torch", **body: Any) -> Any:
    return client.post(f"/api/v1/novas/{nova_id}/api-permits/", json.dumps(body), content_type="application/json")


def test_a_permit_is_granted_counted_and_given_back(agent: Client, stream: StreamClient) -> None:
    answer = ask(agent)
    assert answer.status_code == 201
    permit = answer.json()
    assert (permit["timeout"], permit["left_in_minute"], permit["provider"]) == (30.0, 29, None)
    assert Observation.objects.get(kind="api_request").nova_id == "torch"
    assert stream.call("ZCARD", "novawf:guardian:torch:slots") == 1
    assert agent.delete(f"/api/v1/novas/torch/api-permits/{permit['permit_id']}/").status_code == 204
    assert stream.call("ZCARD", "novawf:guardian:torch:slots") == 0
    assert agent.delete(f"/api/v1/novas/torch/api-permits/{permit['permit_id']}/").status_code == 204


def test_no_room_is_429_with_when_to_ask_again(agent: Client) -> None:
    assert [ask(agent).status_code for _ in range(5)] == [201] * 5
    answer = ask(agent)
    assert answer.status_code == 429
    assert answer["Retry-After"] == "1"
    found = answer.json()
    assert (found["code"], found["mechanism"], found["limit"]) == ("api_limit_exceeded", "api_guardian", "nova at_once")


def test_hammering_makes_the_nova_unsafe_at_once(agent: Client) -> None:
    for _ in range(5):
        ask(agent)
    answers = [ask(agent) for _ in range(14)]
    assert answers[-1].status_code == 423
    assert answers[-1].json()["mechanism"] == "api_guardian"
    assert not SafetyState.objects.get().is_safe
    assert SafetyIncident.objects.get(mechanism="api_guardian").violation == "api_hammering"


def test_failures_open_the_breaker_of_the_account(agent: Client) -> None:
    Nova.objects.update(provider_account=ProviderAccount.objects.create(slug="claude"))
    for _ in range(5):
        permit = ask(agent).json()
        assert permit["provider"] == "claude"
        agent.delete(f"/api/v1/novas/torch/api-permits/{permit['permit_id']}/?outcome=failure")
    assert ask(agent).json()["limit"] == "breaker"
    assert ProviderAccount.objects.get().breaker == "open"


def test_another_novas_permits_are_not_to_be_had(agent: Client) -> None:
    factories.make_nova("echo")
    assert ask(agent, "echo").status_code == 403
    assert ask(agent, "nobody").status_code == 403
    assert agent.delete("/api/v1/novas/echo/api-permits/abc/").status_code == 403


def test_a_stopped_nova_gets_none(agent: Client) -> None:
    services.pause_nova("torch", reason="a look", now=timezone.now())
    answer = ask(agent)
    assert answer.status_code == 423
    assert answer.json()["mechanism"] == "paused"


def test_what_is_wrong_is_refused(agent: Client) -> None:
    assert ask(agent, provider="nowhere").status_code == 400
    assert ask(agent, colour="red").status_code == 400
    assert agent.delete("/api/v1/novas/torch/api-permits/abc/?outcome=odd").status_code == 400


def test_without_counters_there_is_none(agent: Client, stream_server: Any) -> None:
    stream_server.stop()
    answer = ask(agent)
    assert answer.status_code == 429
    assert "can't be reached" in answer.json()["detail"]
