"""The http executor: signed requests to addresses that were judged, and what becomes of the answers."""

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from safety.encryption import encrypt
from safety.models import AuditEntry
from tests.workflow.execution.conftest import dispatch, ended
from tests.workflow.execution.provider import Answer, Provider, fails, hangs, raw, send
from workflow.execution.http import is_public
from workflow.models import Execution, HttpEndpoint

pytestmark = pytest.mark.django_db(transaction=True)

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
Serve = Callable[..., Provider]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Set up a server with these answers and the endpoint `desk` that leads to it."""
    begun: list[Provider] = []

    def begin(*answers: Answer, **fields: Any) -> Provider:
        provider = Provider(*answers)
        url = provider.url.replace("127.0.0.1", fields.pop("host", "127.0.0.1"))
        given = {"slug": "desk", "url": url, "allow_private": True, "encrypted_secret": encrypt(SECRET), **fields}
        HttpEndpoint.objects.create(**given)
        begun.append(provider.__enter__())
        return provider

    yield begin
    for provider in begun:
        provider.__exit__()


def run(**fields: Any) -> Execution:
    execution = dispatch("desk", executor="http", **fields)
    return ended(execution)


def answers(**body: Any) -> Answer:
    return raw(json.dumps(body).encode())


def test_a_task_is_posted_signed_and_its_answer_is_the_result(serve: Serve) -> None:
    provider = serve(answers(results="It is filed.", metrics={"pages": 2}))
    execution = run(title="File it", metadata={"a": 1})
    assert (execution.error, execution.results) == ("", "It is filed.")
    assert (execution.metrics["pages"], execution.metrics["status"], execution.metrics["endpoint"]) == (2, 200, "desk")
    asked = provider.asked[0]
    assert (asked["type"], asked["data"]["title"], asked["data"]["metadata"]) == ("task.execution", "File it", {"a": 1})
    assert asked.headers["webhook-id"] == f"exec_{execution.pk}_1"
    assert abs(int(asked.headers["webhook-timestamp"]) - timezone.now().timestamp()) < 60
    signed = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.".encode() + asked.raw
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert asked.headers["webhook-signature"] == f"v1,{expected}"


def test_a_second_run_of_an_attempt_has_the_same_id_and_another_attempt_has_not(serve: Serve) -> None:
    provider = serve(raw(b"ok", "text/plain"))
    first = run(runs=1)
    run(task=first.task, attempt=2)
    ids = [asked.headers["webhook-id"] for asked in provider.asked]
    assert ids[0] == f"exec_{first.pk}_1"
    assert len(set(ids)) == 2
    assert provider.asked[0]["data"]["runs"] == 2


def test_any_text_is_a_result(serve: Serve) -> None:
    serve(raw(b"filed", "text/plain"))
    assert run().results == "filed"


def test_what_an_endpoint_needs_blocks_the_task(serve: Serve) -> None:
    serve(answers(results="", needs={"owner": "ada", "action": "sign it"}))
    assert run().needs == {"owner": "ada", "action": "sign it"}


@pytest.mark.parametrize("needs", [3, {}, {"owner": "ada"}])
def test_half_a_need_is_a_failure(serve: Serve, needs: Any) -> None:
    serve(answers(results="", needs=needs))
    assert run().status == "failed"


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (404, False), (422, False), (500, True), (502, True)])
def test_a_status_says_whether_to_try_again(serve: Serve, status: int, retryable: bool) -> None:
    serve(fails(status, "no such desk"))
    execution = run()
    assert (execution.status, execution.retryable, execution.not_before) == ("failed", retryable, None)
    assert "no such desk" in execution.error


def test_a_429_puts_the_execution_off(serve: Serve) -> None:
    serve(fails(429, Retry_After="90"))
    execution = run()
    assert execution.not_before is not None
    assert timedelta(seconds=60) < execution.not_before - timezone.now() <= timedelta(seconds=90)


def test_one_that_is_gone_is_an_operators(serve: Serve) -> None:
    serve(fails(410))
    execution = run()
    assert (execution.retryable, (execution.needs or {})["owner"]) == (False, "operator")


def test_a_redirect_is_not_followed(serve: Serve) -> None:
    provider = serve(fails(302, Location="/elsewhere"))
    assert "not followed" in run().error
    assert len(provider.asked) == 1


def test_an_answer_that_is_too_long_is_refused(serve: Serve) -> None:
    serve(raw(b"x" * 5000), response_limit=1000)
    execution = run()
    assert "longer than 1,000 bytes" in execution.error
    assert execution.retryable is False


def test_one_that_hangs_is_left_when_its_time_is_over(serve: Serve) -> None:
    later: list[Provider] = []
    later.append(serve(hangs(later), timeout=0.3))
    assert "did not answer within 0.3 s" in run().error


def test_one_that_is_away_is_tried_again(serve: Serve) -> None:
    serve(raw(b"x"))
    HttpEndpoint.objects.update(url="http://127.0.0.1:9/")
    execution = run()
    assert ("can't be reached" in execution.error, execution.retryable) == (True, True)


def test_an_unknown_endpoint_is_an_operators() -> None:
    execution = run()
    assert (execution.retryable, (execution.needs or {})["owner"]) == (False, "operator")


# -- where it may go


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_private_address_is_refused_unless_it_is_allowed(serve: Serve, host: str) -> None:
    provider = serve(raw(b"secret"), allow_private=False, host=host)
    execution = run()
    assert (execution.status, execution.retryable, provider.asked) == ("failed", False, [])
    assert (execution.needs or {})["owner"] == "operator"


def test_a_name_that_leads_elsewhere_the_second_time_is_connected_to_where_it_was_judged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver, which is not ours, gives an address the first time and another one ever after."""
    provider = serve(raw(b"ok", "text/plain"), host="desk.example")
    look_ups: list[str] = []
    look_up = socket.getaddrinfo

    def rebinding(host: Any, *arguments: Any, **more: Any) -> Any:
        if host == "desk.example":
            look_ups.append(host)
            host = "127.0.0.1" if len(look_ups) == 1 else "127.0.0.2"
        return look_up(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert run().results == "ok"
    assert look_ups == ["desk.example"]
    assert provider.asked[0].headers["host"].startswith("desk.example:")


def test_one_private_address_among_public_ones_is_enough_to_refuse(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = serve(raw(b"x"), allow_private=False, host="desk.example")
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **more: found)
    assert "private network" in run().error
    assert provider.asked == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255",
     "224.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
     "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "not an address", ""],
)  # fmt: skip
def test_these_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"])
def test_these_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    ["http://desk.example/", "ftp://desk.example/", "https://ada:hunter2@desk.example/", "https://desk.example/#hunter2",
     "https:///x", "https://desk.example:99999/"],
)  # fmt: skip
def test_an_address_that_holds_a_secret_or_can_be_listened_to_is_refused(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        HttpEndpoint(slug="desk", url=url).full_clean()
    assert "hunter2" not in str(refused.value)


def test_the_secret_is_told_nowhere(serve: Serve, caplog: Any, capfd: Any) -> None:
    caplog.set_level("DEBUG")
    serve(lambda asked, handler: send(handler, b"no", 400))
    run()
    HttpEndpoint.objects.update(encrypted_secret="damaged")
    run()
    printed = capfd.readouterr()
    outputs = [str(list(model.objects.values())) for model in (Execution, AuditEntry, HttpEndpoint)]
    outputs += [printed.out, printed.err, *(str(record.__dict__) for record in caplog.records)]
    assert [text[:200] for text in outputs if SECRET in text or SECRET[6:] in text] == []
