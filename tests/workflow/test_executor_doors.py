"""What executors reach, at admin and REST: configured by officers, journalled, secrets shown nowhere; a provider is tried."""

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from safety.encryption import decrypt, encrypt
from safety.models import AuditEntry, Observation, ProviderAccount
from safety.provider_keys import KeyUnavailable, key_of
from safety.stream_client import StreamClient
from tests import factories
from tests.workflow.execution.provider import Answer, Provider, fails, raw
from tests.workflow.test_api import _operator_key, api, get, post, problem  # noqa: F401 - fixtures
from tests.workflow.test_api_configuration import patch
from workflow.configuration import update_nova
from workflow.models import CommandTemplate, HttpEndpoint, ModelPrice, NovaUsage

pytestmark = pytest.mark.django_db

KEY = "PLANTED-KEY-0000000000"
SECRET = f"whsec_{base64.b64encode(b'PLANTED-SECRET-PLANTED-SECRET').decode()}"
COMMAND = {
    "slug": "say", "program": "/bin/echo", "arguments": ["{word}"], "placeholders": {"word": "[a-z]+"}, "reason": "agreed",
}  # fmt: skip
ENDPOINT = {"slug": "desk", "url": "https://desk.example/in", "secret": SECRET, "reason": "agreed"}


@pytest.fixture(autouse=True)
def _static_files(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


def person(role: str) -> Client:
    user = User.objects.create_user(role, password="x", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


class TestCommands:
    def test_are_allowed_changed_and_archived_with_their_story(self, api: Client) -> None:  # noqa: F811
        answer = post(api, "commands", COMMAND)
        assert answer.status_code == 201, answer.content
        assert (answer.json()["timeout"], answer["Location"]) == (60.0, "/api/v1/commands/say")
        assert patch(api, "commands/say", {"timeout": 5, "reason": "quicker"}).json()["timeout"] == 5
        entry = AuditEntry.objects.get(action="workflow.command.changed")
        assert (entry.object_type, entry.before, entry.after) == ("command", {"timeout": 60.0}, {"timeout": 5.0})
        assert post(api, "commands/say/archive", {"reason": "unused"}).json()["archived_at"]
        assert get(api, "commands")["results"] == []

    def test_that_are_none_are_refused(self, api: Client) -> None:  # noqa: F811
        found = problem(post(api, "commands", {**COMMAND, "program": "echo"}), 400, "invalid")
        assert [error["pointer"] for error in found["errors"]] == ["/program"]

    def test_are_allowed_in_the_admin_by_officers_only(self) -> None:
        form = {
            "slug": "say", "program": "/bin/echo", "arguments": '["{word}"]', "placeholders": '{"word": "[a-z]+"}',
            "environment": "[]", "timeout": 9, "cpu_limit": 9, "memory_limit": 64, "process_limit": 4, "file_limit": 1,
            "output_limit": 1000, "description": "", "reason": "agreed",
        }  # fmt: skip
        page = "/admin/workflow/commandtemplate/add/"
        assert person("operator").post(page, form).status_code == 403
        assert person("safety officer").post(page, form).status_code == 302
        assert CommandTemplate.objects.get().arguments == ["{word}"]
        assert AuditEntry.objects.get(action="workflow.command.created").actor == "user:safety officer"


class TestNamedOnly:
    @pytest.mark.parametrize("name", ["command", "http"])
    def test_a_stream_entry_or_a_default_never_chooses_them(self, name: str) -> None:
        factories.make_nova()
        allowed = {"allowed_executors": ["builtin", "agent", name]}
        update_nova("torch", allowed, now=timezone.now())
        for wish in ({"stream_executors": ["builtin", name]}, {"default_executor": name}):
            with pytest.raises(ValidationError):
                update_nova("torch", wish, now=timezone.now())


class TestEndpoints:
    def test_keep_their_secret_to_themselves(self, api: Client) -> None:  # noqa: F811
        shown = post(api, "http-endpoints", ENDPOINT)
        assert (shown.status_code, shown.json()["has_secret"]) == (201, True)
        assert decrypt(HttpEndpoint.objects.get().encrypted_secret) == SECRET
        etag = api.get("/api/v1/http-endpoints/desk")["ETag"]
        other = f"whsec_{base64.b64encode(b'another' * 5).decode()}"
        changed = patch(api, "http-endpoints/desk", {"secret": other, "reason": "rotated"}, **{"If-Match": etag})
        assert changed.status_code == 200
        assert changed["ETag"] != etag
        assert decrypt(HttpEndpoint.objects.get().encrypted_secret) == other
        entry = AuditEntry.objects.get(action="workflow.endpoint.changed")
        assert entry.after == {"encrypted_secret": "(after)"}

    @pytest.mark.parametrize("secret", ["", "short", "whsec_", "whsec_c2hvcnQ=", "whsec_???"])
    def test_a_secret_that_is_none_is_refused_and_not_repeated(self, api: Client, secret: str) -> None:  # noqa: F811
        answer = post(api, "http-endpoints", {**ENDPOINT, "secret": secret})
        assert [error["pointer"] for error in problem(answer, 400, "invalid")["errors"]] == ["/secret"]

    def test_one_without_a_secret_is_refused(self, api: Client) -> None:  # noqa: F811
        problem(post(api, "http-endpoints", {"slug": "desk", "url": "https://desk.example/"}), 400, "invalid")

    def test_an_officer_changes_the_secret_only_by_giving_another(self) -> None:
        officer = person("safety officer")
        form = {"slug": "desk", "url": "https://desk.example/in", "timeout": 30, "response_limit": 1000, "description": ""}
        add, page = "/admin/workflow/httpendpoint/add/", "/admin/workflow/httpendpoint/desk/change/"
        assert officer.post(add, form).status_code == 200  # asks for it
        assert officer.post(add, {**form, "secret": SECRET}).status_code == 302
        assert officer.post(page, {**form, "timeout": 5}).status_code == 302
        row = HttpEndpoint.objects.get()
        assert (row.timeout, decrypt(row.encrypted_secret)) == (5.0, SECRET)
        assert person("viewer").get(page).status_code == 200


class TestKeys:
    def test_a_key_given_itself_is_kept_encrypted(self, api: Client) -> None:  # noqa: F811
        answer = post(api, "provider-accounts", {"slug": "claude", "key": KEY, "reason": "new"})
        assert (answer.status_code, answer.json()["has_key"]) == (201, True)
        account = ProviderAccount.objects.get()
        assert (account.key_source, key_of(account), KEY in account.encrypted_key) == ("encrypted", KEY, False)
        body = {"key_source": "environment", "key_location": "CLAUDE_KEY", "reason": "a better place"}
        patch(api, "provider-accounts/claude", body)
        account.refresh_from_db()
        assert (account.key_source, account.encrypted_key) == ("environment", "")

    def test_an_officer_gives_one_in_the_admin(self) -> None:
        account = ProviderAccount.objects.create(slug="claude", key_source="environment", key_location="CLAUDE_KEY")
        form = {
            "kind": "anthropic", "base_url": "", "key_source": "", "key_location": "", "requests_per_minute": 120,
            "requests_per_hour": 2000, "requests_per_day": 40000, "concurrent_requests": 20, "burst_requests": 48,
            "burst_window": 10.0, "breaker_failures": 5, "breaker_rest": 30.0, "breaker_rest_limit": 600.0,
        }  # fmt: skip
        officer, page = person("safety officer"), "/admin/safety/provideraccount/claude/change/"
        assert officer.post(page, {**form, "key": KEY}).status_code == 302
        account.refresh_from_db()
        assert (account.key_source, account.key_location, key_of(account)) == ("encrypted", "", KEY)
        assert officer.post(page, {**form, "burst_requests": 9}).status_code == 302
        account.refresh_from_db()
        assert (account.burst_requests, key_of(account)) == (9, KEY)
        assert officer.post(page, {**form, "key_source": "none"}).status_code == 302
        account.refresh_from_db()
        assert (account.key_source, account.encrypted_key) == ("none", "")

    def test_without_a_key_to_encrypt_with_none_is_taken(self, api: Client, settings: Any) -> None:  # noqa: F811
        settings.SECRETS_KEY = ""
        found = problem(post(api, "provider-accounts", {"slug": "claude", "key": KEY}), 400, "invalid")
        assert "NOVAWF_SECRETS_KEY" in found["errors"][0]["detail"]
        assert KEY not in str(found)

    def test_another_secrets_key_reads_nothing_and_says_so(self, settings: Any) -> None:
        account = ProviderAccount(slug="claude", key_source="encrypted", encrypted_key=encrypt(KEY))
        settings.SECRETS_KEY = "another"
        with pytest.raises(KeyUnavailable, match="another NOVAWF_SECRETS_KEY"):
            key_of(account)

    def test_a_key_is_read_from_where_the_account_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = tmp_path / "key"
        place.write_text(f"{KEY}\n")
        monkeypatch.setenv("CLAUDE_KEY", KEY)
        for source, location in (("environment", "CLAUDE_KEY"), ("file", str(place))):
            assert key_of(ProviderAccount(slug="a", key_source=source, key_location=location)) == KEY
            with pytest.raises(KeyUnavailable) as problem_met:
                key_of(ProviderAccount(slug="a", key_source=source, key_location=f"{location}_ELSEWHERE"))
            assert "ELSEWHERE" not in str(problem_met.value)


class TestNova:
    def test_has_a_model_budgets_and_tools_that_need_approval(self, api: Client) -> None:  # noqa: F811
        factories.make_nova()
        body = {"model": "small-1", "budget_tokens": 1000, "approval_tools": ["post_message"], "reason": "begin"}
        assert patch(api, "novas/torch", body).status_code == 200
        entry = AuditEntry.objects.get(action="workflow.nova.changed")
        assert entry.after == {"model": "small-1", "budget_tokens": 1000, "approval_tools": ["post_message"]}
        problem(patch(api, "novas/torch", {"approval_tools": ["fly"], "reason": "x"}), 400, "invalid")
        problem(patch(api, "novas/torch", {"budget_cost": -1, "reason": "x"}), 400, "invalid")

    def test_shows_what_it_used(self, api: Client) -> None:  # noqa: F811
        factories.make_nova()
        today = timezone.now().date()
        NovaUsage.objects.create(nova_id="torch", day=today, requests=3, input_tokens=7, cost_micros=2_500_000)
        [shown] = get(api, "novas/torch/usage")["results"]
        assert shown == {
            "day": str(today), "requests": 3, "input_tokens": 7, "output_tokens": 0, "tool_uses": 0, "cost": 2.5,
        }  # fmt: skip
        page = person("viewer").get("/admin/workflow/nova/torch/change/").content.decode()
        assert "3 calls, 7 tokens, 2.5000 in money" in page
        assert api.get("/api/v1/novas/ghost/usage").status_code == 404


def test_a_price_is_given_and_changed(api: Client) -> None:  # noqa: F811
    ProviderAccount.objects.create(slug="claude")
    body = {"account": "claude", "model": "small-1", "input_price": 3, "output_price": 15, "reason": "list price"}
    made = post(api, "model-prices", body)
    assert made.status_code == 201, made.content
    patch(api, f"model-prices/{made.json()['id']}", {"input_price": 2, "reason": "cheaper"})
    assert ModelPrice.objects.get().input_price == 2
    assert AuditEntry.objects.get(action="workflow.price.changed").after == {"input_price": 2.0}
    problem(post(api, "model-prices", body), 400, "invalid")
    problem(post(api, "model-prices", {**body, "model": "x", "input_price": -1}), 400, "invalid")


@pytest.mark.django_db(transaction=True)
class TestTrial:
    @pytest.fixture
    def serve(self, stream: StreamClient) -> Iterator[Any]:
        factories.make_installation()
        begun: list[Provider] = []

        def begin(answer: Answer, kind: str = "openai") -> Provider:
            provider = Provider(answer).__enter__()
            begun.append(provider)
            ProviderAccount.objects.create(
                slug="local", kind=kind, base_url=provider.url, key_source="encrypted", encrypted_key=encrypt(KEY)
            )
            return provider

        yield begin
        for provider in begun:
            provider.__exit__()

    @pytest.mark.parametrize(("kind", "header"), [("openai", "authorization"), ("anthropic", "x-api-key")])
    def test_an_account_that_works_says_what_it_offers(self, serve: Any, api: Client, kind: str, header: str) -> None:  # noqa: F811
        provider = serve(raw(json.dumps({"data": [{"id": "small-1"}, {"id": "large-1"}]}).encode()), kind)
        found = post(api, "provider-accounts/local/test").json()
        assert (found["answers"], found["models"]) == (True, ["small-1", "large-1"])
        assert found["said"] == "Account local works: it knows 2 models."
        assert (provider.asked[0].path, KEY in provider.asked[0].headers[header]) == ("/v1/models", True)
        assert Observation.objects.filter(nova_id="@local", kind="api_request").count() == 1
        assert AuditEntry.objects.get(action="workflow.provider.tried").actor == "operator"

    def test_one_that_does_not_says_why(self, serve: Any, api: Client) -> None:  # noqa: F811
        provider = serve(fails(401, f"no {KEY}"))
        found = post(api, "provider-accounts/local/test").json()
        assert (found["answers"], "refuses the key" in found["said"], len(provider.asked)) == (False, True, 1)
        assert KEY not in str(found)

    def test_an_open_breaker_lets_no_trial_out(self, serve: Any, api: Client) -> None:  # noqa: F811
        provider = serve(fails(429, Retry_After="60"))
        for _ in range(2):
            assert post(api, "provider-accounts/local/test").json()["answers"] is False
        assert len(provider.asked) == 1

    def test_the_admins_button_tells_how_it_went(self, serve: Any, admin_client: Client) -> None:
        serve(fails(500))
        body = {"rows": "local", "reason": "is it up?"}
        answer = admin_client.post("/admin/safety/provideraccount/verb/try/", body, follow=True)
        assert "The provider failed (500)." in answer.content.decode()

    def test_there_must_be_an_account(self, api: Client) -> None:  # noqa: F811
        problem(post(api, "provider-accounts/ghost/test"), 404, "provider_account_not_found")


def test_secrets_are_in_no_output(
    api: Client,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    outputs: list[str] = []

    def keep(answer: Any) -> None:
        outputs.append(answer.content.decode() + str(answer.headers))

    keep(post(api, "provider-accounts", {"slug": "claude", "key": KEY}))
    keep(post(api, "provider-accounts", {"slug": "other", "key": KEY, "requests_per_minute": 0}))
    keep(post(api, "http-endpoints", ENDPOINT))
    keep(post(api, "http-endpoints", {**ENDPOINT, "slug": "other", "timeout": 0}))
    hidden = [ProviderAccount.objects.get().encrypted_key, HttpEndpoint.objects.get().encrypted_secret]
    for address in ("provider-accounts/claude", "http-endpoints/desk", "http-endpoints", "journal"):
        keep(api.get(f"/api/v1/{address}"))
    for role in ("viewer", "safety officer", "admin"):
        client = person(role)
        for page in ("safety/provideraccount/claude", "workflow/httpendpoint/desk"):
            keep(client.get(f"/admin/{page}/change/"))
        for query in ("encrypted_secret__startswith=g", "encrypted_secret__exact=x"):
            assert client.get(f"/admin/workflow/httpendpoint/?{query}").status_code in (302, 400)
        keep(client.post("/admin/safety/provideraccount/claude/change/", {"key": KEY, "burst_window": "odd"}))
        keep(client.post("/admin/workflow/httpendpoint/desk/change/", {"secret": SECRET, "url": "odd"}))
    outputs.append(str(list(AuditEntry.objects.values())))
    outputs += [str(record.__dict__) + record.getMessage() for record in caplog.records]
    printed = capfd.readouterr()
    outputs += [printed.out, printed.err]
    assert [text[:200] for text in outputs for planted in (KEY, SECRET, *hidden) if planted in text] == []
