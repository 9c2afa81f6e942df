"""What every address answers to a request that makes no sense: problem details, whoever asks and wherever it fails."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client, RequestFactory

from novawf_site.body_limit import BodyLimit
from safety import api_keys
from tests import factories
from tests.workflow.test_api import KEY, _operator_key, api, post, problem  # noqa: F401 - fixtures
from tests.workflow.test_privileges import ADDRESSES, AGENT, MAY, bearer, house, path_of  # noqa: F401 - fixtures
from workflow.api import problem as problems
from workflow.api import views
from workflow.models import Personality

pytestmark = pytest.mark.django_db

EVERY = [(name, verb, method) for name, verb in ADDRESSES for method in MAY[name]]
WRITING = [address for address in EVERY if address[2] in ("POST", "PATCH")]

# where one request speaks of many tasks, the body may be larger
LARGEST = {"tasks-bulk": 8 * 1024 * 1024, "tasks-complete": 8 * 1024 * 1024}
CONFIGURED = ["nova", "personality", "policy", "objective", "provider-account"]
Callers = Callable[[str, str], Client]
OF_ONE_KIND = {"events", "report-export"}  # whatever form is asked for, there is one


def send(client: Client, method: str, path: str, body: str = "{}", content_type: str = "application/json", **extra: Any) -> Any:
    return client.generic(method, path, body, content_type=content_type, **extra)


@pytest.fixture
def callers(house: None) -> Callers:  # noqa: F811
    """Give somebody who may: an operator, or the Nova's agent where only that may."""
    operator, agent = bearer(KEY), bearer(api_keys.create_key("torch", now=factories.NOW)[0])
    return lambda name, method: agent if MAY[name][method] == {AGENT} else operator


@pytest.mark.parametrize("share", range(3))
def test_every_address_refuses_a_body_that_makes_no_sense(callers: Callers, subtests: pytest.Subtests, share: int) -> None:
    for name, verb, method in WRITING[share::3]:
        path, api = path_of(name, verb), callers(name, method)  # noqa: F811
        with subtests.test(address=f"{name} {verb}", method=method):
            refuses_nonsense(api, name, method, path)


def refuses_nonsense(api: Client, name: str, method: str, path: str) -> None:  # noqa: F811
    found = problem(send(api, method, path, json.dumps({"no_such_field": 1})), 400, "invalid")
    assert "/no_such_field" in {error["pointer"] for error in found["errors"]}
    for broken in ("{", "[]", '"x"', "\xff", "nonsense"):
        assert problem(send(api, method, path, broken), 400)["code"] in ("parse_error", "invalid")
    problem(send(api, method, path, "a=b", "application/x-www-form-urlencoded"), 415, "unsupported_media_type")
    problem(send(api, method, path, json.dumps({"x": "y" * LARGEST.get(name, 512 * 1024)})), 413, "body_too_large")
    problem(send(api, method, path, CONTENT_LENGTH="many"), 400, "parse_error")
    problem(send(api, method, path, CONTENT_LENGTH="-1"), 400, "parse_error")
    problem(send(api, method, path, CONTENT_LENGTH="", HTTP_TRANSFER_ENCODING="chunked"), 411, "length_required")
    if method == "POST":
        problem(send(api, method, path, headers={"Idempotency-Key": "a b"}), 400, "invalid")


def test_every_address_refuses_an_unknown_parameter_and_another_form(callers: Callers, subtests: pytest.Subtests) -> None:
    for name, verb, method in EVERY:
        path, api = path_of(name, verb), callers(name, method)  # noqa: F811
        with subtests.test(address=f"{name} {verb}", method=method):
            found = problem(send(api, method, f"{path}?no_such_parameter=1"), 400, "invalid")
            assert found["errors"][0]["pointer"] == "/no_such_parameter"
            if name not in OF_ONE_KIND:
                problem(send(api, method, path, headers={"Accept": "text/html"}), 406, "not_acceptable")


def test_the_hook_door_answers_other_methods_in_the_same_form(api: Client) -> None:  # noqa: F811
    answer = api.get("/api/v1/hooks/claude-code")
    problem(answer, 405, "method_not_allowed")
    assert answer["Allow"] == "POST"


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE", "TRACE", "NONSENSE"])
def test_an_unknown_address_is_told_to_those_who_may_know(api: Client, method: str) -> None:  # noqa: F811
    for path in ("/api/", "/api/v1/nothing", "/api/v2/tasks", "/api/v1/tasks/a b", "/api/v1//tasks"):
        answer = send(api, method, path, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 404
        if method != "HEAD":
            problem(answer, 404, "not_found")
        assert Client().generic(method, path).status_code == 401


class TestOutsideOfTheViews:
    """Failures that no view sees: in middleware, or while Django looks for the view."""

    @pytest.mark.parametrize("place", ["novawf_site.request_actor._actor", "workflow.api.views.Door.dispatch"])
    def test_a_failure_nobody_foresaw_tells_an_id_and_no_internals(
        self,
        api: Client,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
        place: str,
    ) -> None:
        def explode(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(place, explode)
        answer = api.get("/api/v1/tasks", headers={"X-Request-ID": "r-17"})
        found = problem(answer, 500, "server_error")
        assert found["request_id"] == "r-17"
        assert b"secret" not in answer.content

    def test_other_pages_keep_their_own_form(self) -> None:
        request = RequestFactory().get("/nothing")
        assert "html" in problems.server_error(request)["Content-Type"]


class TestConditions:
    @pytest.mark.parametrize(("verb", "body"), [("archive", {"reason": "x"}), ("restore", {"reason": "x"})])
    def test_a_verb_is_refused_on_what_was_changed_meanwhile(self, api: Client, verb: str, body: Any) -> None:  # noqa: F811
        factories.make_personality("calm")
        seen = api.get("/api/v1/personalities/calm")["ETag"]
        Personality.objects.update(base_cycle_time=99)
        problem(post(api, f"personalities/calm/{verb}", body, **{"If-Match": seen}), 412, "changed_meanwhile")
        now_seen = api.get("/api/v1/personalities/calm")["ETag"]
        assert post(api, f"personalities/calm/{verb}", body, **{"If-Match": f'"x", {now_seen}'}).status_code == 200

    @pytest.mark.usefixtures("house")
    @pytest.mark.parametrize("name", CONFIGURED)
    def test_every_configured_row_has_an_etag_and_heeds_if_match(self, api: Client, name: str) -> None:  # noqa: F811
        path = path_of(name, "")
        assert api.get(path)["ETag"].startswith('"')
        answer = send(api, "PATCH", path, '{"reason": "x"}', headers={"If-Match": '"stale"'})
        problem(answer, 412, "changed_meanwhile")


class TestBodyLimit:
    @staticmethod
    def read(limit: int, *pieces: bytes) -> bytes:
        """Give what an application gets to read of a body that comes in pieces."""
        waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        got = []

        async def receive() -> Any:
            return waiting.pop(0) if waiting else {"type": "http.request", "body": b"", "more_body": False}

        async def application(scope: Any, receive: Any, send: Any) -> None:
            more = True
            while more:
                message = await receive()
                got.append(message["body"])
                more = message["more_body"]

        asyncio.run(BodyLimit(application, limit)({"type": "http"}, receive, None))
        return b"".join(got)

    def test_a_body_within_it_passes_whole(self) -> None:
        assert self.read(6, b"abc", b"def") == b"abcdef"

    def test_after_its_end_only_the_disconnect_is_heard(self) -> None:
        waiting = [
            *({"type": "http.request", "body": b"abc", "more_body": True} for _ in range(5)),
            {"type": "http.disconnect"},
        ]
        heard = []

        async def receive() -> Any:
            return waiting.pop(0)

        async def application(scope: Any, receive: Any, send: Any) -> None:
            heard.extend([await receive(), await receive(), await receive()])

        asyncio.run(BodyLimit(application, 4)({"type": "http"}, receive, None))
        assert [message["type"] for message in heard] == ["http.request", "http.request", "http.disconnect"]
        assert (heard[1]["body"], heard[1]["more_body"]) == (b"a", False)

    def test_a_longer_one_ends_there(self) -> None:
        assert self.read(4, b"abc", b"def", b"ghi") == b"abcd"
        assert self.read(3, b"abc", b"d") == b"abc"


def test_every_anticipated_failure_has_one_answer() -> None:
    assert set(problems.STATUSES) <= set(problems.ANTICIPATED)
    assert views.ScopeMissing.default_code == "scope_missing"
