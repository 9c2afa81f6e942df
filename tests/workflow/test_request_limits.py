"""Limits at the API's doors: per key, with words that must come through in a window of their own; wrong keys by address."""

from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from safety import api_keys
from tests import factories
from tests.workflow.test_api import KEY, _operator_key, api, post, problem  # noqa: F401 - fixtures
from workflow.api import addresses

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("stream")]


@pytest.fixture
def agent(settings: Any, now: datetime) -> Client:
    settings.REQUESTS_PER_MINUTE = 3
    factories.make_nova()
    key, _ = api_keys.create_key("torch", now=now)
    return Client(headers={"Authorization": f"Bearer {key}"})


def wrong(key: str = "nova_000000_" + "x" * 43, **extra: str) -> Any:
    return Client(headers={"Authorization": f"Bearer {key}"}).get("/api/v1/tasks", **extra)


def test_every_answer_says_how_much_is_left(agent: Client) -> None:
    answer = agent.get("/api/v1/incidents")
    assert answer["RateLimit-Policy"] == '"requests";q=3;w=60'
    name, left, resets_in = answer["RateLimit"].split(";")
    assert (name, left) == ('"requests"', "r=2")
    assert 1 <= int(resets_in.removeprefix("t=")) <= 60
    denied = agent.get("/api/v1/novas")
    problem(denied, 403)
    assert denied["RateLimit"].startswith('"requests";r=1;')


def test_too_many_are_refused_with_when_to_come_again(agent: Client) -> None:
    answers = [agent.get("/api/v1/incidents") for _ in range(5)]  # the minute may turn once meanwhile
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    problem(refused[-1], 429, "too_many_requests")
    assert 1 <= int(refused[-1]["Retry-After"]) <= 60
    assert refused[-1]["RateLimit"].startswith('"requests";r=0;')


def test_a_throttled_agent_may_still_stop_and_report(agent: Client) -> None:
    for _ in range(8):
        agent.get("/api/v1/incidents")
    assert post(agent, "novas/torch/halt-ack").status_code == 200
    assert post(agent, "novas/torch/halt-ack")["RateLimit-Policy"].startswith('"vital"')


def test_another_key_has_its_own_window(agent: Client, now: datetime) -> None:
    for _ in range(8):
        agent.get("/api/v1/incidents")
    other, _ = api_keys.create_key("torch", now=now)
    assert Client(headers={"Authorization": f"Bearer {other}"}).get("/api/v1/incidents").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "tasks/complete", "tasks/T-1/complete/", "tasks/T-1/renew", "tasks/T-1/progress", "tasks/T-1/release", "tasks/T-1/fail",
        "novas/torch/heartbeat/", "novas/torch/halt-ack", "halts", "halts/3", "novas/torch/kill",
    ],
)  # fmt: skip
def test_words_that_must_come_through_have_their_own_window(path: str) -> None:
    assert addresses.window_of(f"/api/v1/{path}", agent=True).name == "vital"


@pytest.mark.parametrize("path", ["tasks", "tasks/claim/", "tasks/T-1", "novas/torch/messages", "novas/torch/resume"])
def test_all_others_share_one(path: str) -> None:
    assert addresses.window_of(f"/api/v1/{path}", agent=True).name == "requests"


def test_without_a_limit_nothing_is_said_of_one(agent: Client, settings: Any) -> None:
    settings.REQUESTS_PER_MINUTE = 0
    answers = [agent.get("/api/v1/incidents") for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert "RateLimit" not in answers[0]


class TestWrongKeys:
    def test_are_counted_by_address_and_then_refused(self, settings: Any) -> None:
        settings.WRONG_KEYS_PER_MINUTE = 2
        answers = [wrong() for _ in range(6)]
        assert answers[0].status_code == 401
        problem(answers[-1], 429, "too_many_requests")
        assert int(answers[-1]["Retry-After"]) >= 1
        problem(wrong("neither"), 429)
        problem(wrong(REMOTE_ADDR="192.0.2.7"), 401, "key_unknown")

    def test_no_good_key_is_locked_out_by_them(self, settings: Any, now: datetime) -> None:
        settings.WRONG_KEYS_PER_MINUTE = 2
        settings.OPERATOR_KEY = "k" * 32
        factories.make_nova()
        key, _ = api_keys.create_key("torch", now=now)
        for _ in range(6):
            wrong()
        assert Client(headers={"Authorization": f"Bearer {key}"}).get("/api/v1/incidents").status_code == 200
        assert Client(headers={"Authorization": f"Bearer {'k' * 32}"}).get("/api/v1/incidents").status_code == 200

    def test_an_operator_key_that_could_be_guessed_waits_at_that_address(self, settings: Any) -> None:
        settings.WRONG_KEYS_PER_MINUTE = 2
        for _ in range(6):
            wrong("guess")
        problem(wrong(KEY), 429)
        assert wrong(KEY, REMOTE_ADDR="192.0.2.7").status_code == 200

    def test_a_revoked_key_is_no_wrong_one(self, settings: Any, now: datetime) -> None:
        settings.WRONG_KEYS_PER_MINUTE = 1
        key, row = api_keys.create_key("torch", now=now)
        api_keys.revoke_key(row.pk, reason="x", now=now)
        assert {wrong(key).status_code for _ in range(5)} == {401}

    def test_are_refused_too_while_the_stream_server_is_away(self, settings: Any, stream_server: Any) -> None:
        settings.WRONG_KEYS_PER_MINUTE = 2
        stream_server.stop()
        answers = [wrong().status_code for _ in range(8)]
        stream_server.start()
        assert (answers[0], answers[-1]) == (401, 429)
