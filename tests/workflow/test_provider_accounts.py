"""Provider accounts at their doors: configured by officers, seen by all; the breaker; the key's place is shown nowhere."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone

from safety.api_guardian import AccountLimits, ApiGuardian, ApiLimitExceeded
from safety.core.status import SafetyRules
from safety.models import AuditEntry, ProviderAccount
from safety.stream_client import StreamClient
from tests import factories
from tests.workflow.test_api import _operator_key, api, get, post, problem  # noqa: F401 - fixtures
from tests.workflow.test_api_configuration import patch
from workflow.streams.relay import Relay

pytestmark = pytest.mark.django_db

PLANTED = "PLANTED_VARIABLE_OF_THE_KEY"
CLAUDE = {"slug": "claude", "kind": "anthropic", "base_url": "https://api.example.com/v1"}
FORM = {
    "slug": "claude", "kind": "anthropic", "base_url": "https://api.example.com/v1", "key_source": "", "key_location": "",
    "requests_per_minute": 120, "requests_per_hour": 2000, "requests_per_day": 40000, "concurrent_requests": 20,
    "burst_requests": 48, "burst_window": 10.0, "breaker_failures": 5, "breaker_rest": 30.0, "breaker_rest_limit": 600.0,
    "reason": "as agreed",
}  # fmt: skip
ADD, LIST = "/admin/safety/provideraccount/add/", "/admin/safety/provideraccount/"
PAGE = "/admin/safety/provideraccount/claude/change/"


@pytest.fixture(autouse=True)
def _static_files(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


def make_account(**fields: Any) -> ProviderAccount:
    return ProviderAccount.objects.create(**{**CLAUDE, "key_source": "environment", "key_location": PLANTED, **fields})


def person(role: str, name: str = "") -> Client:
    user = User.objects.create_user(name or role, password="x", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


class TestApi:
    def test_is_created_changed_under_its_etag_and_archived(self, api: Client) -> None:  # noqa: F811
        answer = post(api, "provider-accounts", {**CLAUDE, "requests_per_minute": 60, "reason": "a second account"})
        assert answer.status_code == 201, answer.content
        assert answer["Location"] == "/api/v1/provider-accounts/claude"
        shown = answer.json()
        assert (shown["requests_per_minute"], shown["breaker"], shown["has_key"]) == (60, "closed", False)
        etag = api.get("/api/v1/provider-accounts/claude")["ETag"]
        assert answer["ETag"] == etag
        body = {"requests_per_minute": 30, "reason": "calmer"}
        changed = patch(api, "provider-accounts/claude", body, **{"If-Match": etag})
        assert changed.status_code == 200
        problem(patch(api, "provider-accounts/claude", body, **{"If-Match": etag}), 412, "changed_meanwhile")
        entry = AuditEntry.objects.get(action="safety.provider.changed")
        assert (entry.object_type, entry.object_id, entry.reason) == ("provider", "claude", "calmer")
        assert (entry.before, entry.after) == ({"requests_per_minute": 60}, {"requests_per_minute": 30})
        assert post(api, "provider-accounts/claude/archive", {"reason": "unused"}).json()["archived_at"]
        assert get(api, "provider-accounts")["results"] == []
        assert post(api, "provider-accounts/claude/restore", {"reason": "used"}).json()["archived_at"] is None

    def test_one_that_novas_use_is_not_archived(self, api: Client) -> None:  # noqa: F811
        factories.make_nova(provider_account=make_account())
        found = problem(post(api, "provider-accounts/claude/archive", {"reason": "gone"}), 409, "still_in_use")
        assert "torch" in found["detail"]

    @pytest.mark.parametrize(
        "address",
        [
            "ftp://api.example.com", "javascript:alert(1)", "api.example.com", "https://ada:hunter2@api.example.com",
            "https://ada@api.example.com/v1", "https://api.example.com/v1?key=hunter2", "https://api.example.com/#hunter2",
        ],
    )  # fmt: skip
    def test_an_address_that_is_none_or_holds_a_secret_is_refused(self, api: Client, address: str) -> None:  # noqa: F811
        answer = post(api, "provider-accounts", {**CLAUDE, "base_url": address})
        assert [error["pointer"] for error in problem(answer, 400, "invalid")["errors"]] == ["/base_url"]
        assert "hunter2" not in answer.content.decode()
        assert not ProviderAccount.objects.exists()
        assert not AuditEntry.objects.exists()

    @pytest.mark.parametrize(
        ("source", "location"),
        [("environment", "sk-ant-planted-0000"), ("environment", ""), ("file", "key.txt"), ("none", "ANTHROPIC_KEY")],
    )
    def test_a_place_where_no_key_can_be_is_refused_and_not_repeated(
        self,
        api: Client,  # noqa: F811
        source: str,
        location: str,
    ) -> None:
        answer = post(api, "provider-accounts", {**CLAUDE, "key_source": source, "key_location": location})
        assert [error["pointer"] for error in problem(answer, 400, "invalid")["errors"]] == ["/key_location"]
        assert not location or location not in answer.content.decode()

    def test_limits_below_one_are_refused(self, api: Client) -> None:  # noqa: F811
        problem(post(api, "provider-accounts", {**CLAUDE, "requests_per_minute": 0}), 400, "invalid")
        problem(post(api, "provider-accounts", {**CLAUDE, "breaker": "closed", "colour": "red"}), 400, "invalid")

    def test_the_breaker_is_not_written_by_a_change(self, api: Client) -> None:  # noqa: F811
        make_account(breaker="open")
        patch(api, "provider-accounts/claude", {"breaker": "closed", "reason": "x"})
        assert ProviderAccount.objects.get().breaker == "open"

    def test_a_new_place_of_the_key_is_another_etag_and_a_moved_breaker_is_not(self, api: Client) -> None:  # noqa: F811
        make_account()
        etag = api.get("/api/v1/provider-accounts/claude")["ETag"]
        ProviderAccount.objects.update(breaker="open", breaker_since=timezone.now())
        assert api.get("/api/v1/provider-accounts/claude")["ETag"] == etag
        body = {"key_location": "ANOTHER_VARIABLE", "reason": "rotated"}
        assert patch(api, "provider-accounts/claude", body, **{"If-Match": etag})["ETag"] != etag
        assert ProviderAccount.objects.get().key_location == "ANOTHER_VARIABLE"

    def test_the_source_none_forgets_the_place(self, api: Client) -> None:  # noqa: F811
        make_account()
        answer = patch(api, "provider-accounts/claude", {"key_source": "none", "reason": "the agent has its own"})
        assert answer.json()["has_key"] is False
        assert ProviderAccount.objects.get().key_location == ""

    @pytest.mark.parametrize("count", [1, 40])
    def test_the_list_costs_the_same_however_many_there_are(
        self,
        api: Client,  # noqa: F811
        count: int,
        django_assert_num_queries: Any,
    ) -> None:
        for number in range(count):
            make_account(slug=f"a{number}")
        with django_assert_num_queries(1):
            get(api, "provider-accounts")


class TestAdmin:
    def test_an_officer_creates_and_changes_one(self) -> None:
        officer = person("safety officer")
        assert officer.post(ADD, {**FORM, "key_source": "environment", "key_location": PLANTED}).status_code == 302
        row = ProviderAccount.objects.get()
        assert (row.key_source, row.key_location) == ("environment", PLANTED)
        assert officer.post(PAGE, {**FORM, "requests_per_minute": 60}).status_code == 302
        row.refresh_from_db()
        assert (row.requests_per_minute, row.key_source, row.key_location) == (60, "environment", PLANTED)
        entry = AuditEntry.objects.get(action="safety.provider.changed")
        assert (entry.after, entry.reason, entry.actor) == ({"requests_per_minute": 60}, "as agreed", "user:safety officer")

    def test_the_place_of_the_key_changes_only_when_it_is_given(self) -> None:
        make_account()
        officer = person("safety officer")
        officer.post(PAGE, {**FORM, "key_location": "ANOTHER"})
        assert ProviderAccount.objects.get().key_location == "ANOTHER"
        officer.post(PAGE, {**FORM, "key_source": "none"})
        row = ProviderAccount.objects.get()
        assert (row.key_source, row.key_location) == ("none", "")
        told = [(entry.before, entry.after) for entry in AuditEntry.objects.filter(object_type="provider").order_by("id")]
        hidden = {"key_location": "(before)"}, {"key_location": "(after)"}
        assert told == [hidden, ({"key_source": "(before)", **hidden[0]}, {"key_source": "(after)", **hidden[1]})]

    def test_what_is_refused_is_not_shown_again(self) -> None:
        answer = person("safety officer").post(ADD, {**FORM, "key_source": "file", "key_location": PLANTED})
        assert answer.status_code == 200
        assert "absolute path" in answer.content.decode()
        assert PLANTED not in answer.content.decode()
        assert not ProviderAccount.objects.exists()

    def test_an_address_without_a_scheme_is_taken_for_https(self) -> None:
        person("safety officer").post(ADD, {**FORM, "base_url": "api.example.com"})
        assert ProviderAccount.objects.get().base_url == "https://api.example.com"

    def test_an_operator_may_only_look(self) -> None:
        make_account()
        operator = person("operator")
        assert operator.get(PAGE).status_code == 200
        assert operator.post(PAGE, FORM).status_code == 403
        assert operator.get(ADD).status_code == 403

    def test_the_place_of_the_key_cant_be_guessed_by_filters(self) -> None:
        make_account()
        viewer = person("viewer")
        for query in ("key_location__startswith=PLANTED", "key_source__exact=environment"):
            assert viewer.get(f"{LIST}?{query}").status_code in (302, 400)


class TestBreaker:
    @pytest.fixture
    def opened(self, stream: StreamClient) -> ApiGuardian:
        """An account whose breaker is open, at the guardian too."""
        factories.make_installation()
        factories.make_nova(provider_account=make_account())
        guardian = ApiGuardian(stream)
        guardian.open_breaker("claude", reason="the provider is overloaded", now=timezone.now())
        return guardian

    def ask(self, guardian: ApiGuardian) -> None:
        account = AccountLimits.of(ProviderAccount.objects.get())
        with guardian.permit("torch", SafetyRules(), account, now=timezone.now()):
            pass

    def test_an_officer_closes_it_and_calls_pass_again(self, opened: ApiGuardian, api: Client) -> None:  # noqa: F811
        with pytest.raises(ApiLimitExceeded):
            self.ask(opened)
        shown = get(api, "provider-accounts/claude")
        assert (shown["breaker"], shown["breaker_reason"]) == ("open", "the provider is overloaded")
        assert shown["breaker_since"]
        answer = post(api, "provider-accounts/claude/close-breaker/", {"reason": "the provider says it is well"})
        assert (answer.status_code, answer.json()["breaker"]) == (200, "closed")
        self.ask(opened)
        entry = AuditEntry.objects.get(action="safety.breaker.closed")
        assert (entry.actor, entry.reason) == ("operator", "the provider says it is well")
        assert (entry.before or {})["breaker"] == "open"
        assert post(api, "provider-accounts/claude/close-breaker", {"reason": "again"}).status_code == 200
        assert AuditEntry.objects.filter(action="safety.breaker.closed").count() == 1

    def test_it_opens_again_with_the_first_rest_if_calls_fail(self, opened: ApiGuardian, api: Client) -> None:  # noqa: F811
        post(api, "provider-accounts/claude/close-breaker", {"reason": "x"})
        limits, now = AccountLimits.of(ProviderAccount.objects.get()), timezone.now()
        for _ in range(limits.breaker_failures - 1):
            opened.report_failure("torch", limits, now=now)
        assert ProviderAccount.objects.get().breaker == "closed"
        opened.report_failure("torch", limits, now=now)
        row = ProviderAccount.objects.get()
        assert row.breaker == "open"
        assert row.breaker_open_until is not None
        assert row.breaker_open_until - timezone.now() <= limits.breaker_rest

    def test_counters_that_were_lost_begin_closed(self, opened: ApiGuardian, stream: StreamClient, api: Client) -> None:  # noqa: F811
        stream.call("FLUSHALL")
        post(api, "provider-accounts/claude/close-breaker", {"reason": "x"})
        self.ask(opened)
        assert ProviderAccount.objects.get().breaker == "closed"

    def test_one_that_only_the_counters_know_to_be_open_is_closed_and_told(
        self,
        opened: ApiGuardian,
        api: Client,  # noqa: F811
    ) -> None:
        ProviderAccount.objects.update(breaker="closed", breaker_open_until=None)
        post(api, "provider-accounts/claude/close-breaker", {"reason": "they disagree"})
        self.ask(opened)
        assert AuditEntry.objects.get(action="safety.breaker.closed").reason == "they disagree"

    def test_without_counters_nothing_is_changed(self, opened: ApiGuardian, api: Client, stream_server: Any) -> None:  # noqa: F811
        stream_server.stop()
        found = problem(post(api, "provider-accounts/claude/close-breaker", {"reason": "x"}), 503, "stream_server_away")
        assert "Try again" in found["detail"]
        assert ProviderAccount.objects.get().breaker == "open"
        officer = person("safety officer")
        body = {"rows": "claude", "reason": "x"}
        answer = officer.post(f"{LIST}verb/close_breaker/", body, follow=True)
        assert "was left as it was" in answer.content.decode()

    def test_the_admin_closes_it_too(self, opened: ApiGuardian) -> None:
        body = {"rows": "claude", "reason": "the provider says it is well"}
        assert person("operator").post(f"{LIST}verb/close_breaker/", body).status_code == 403
        assert ProviderAccount.objects.get().breaker == "open"
        assert person("safety officer").post(f"{LIST}verb/close_breaker/", body).status_code == 302
        self.ask(opened)

    def test_a_reason_and_an_account_are_required(self, api: Client) -> None:  # noqa: F811
        problem(post(api, "provider-accounts/claude/close-breaker", {"reason": "x"}), 404, "provider_account_not_found")
        problem(post(api, "provider-accounts/claude/close-breaker", {}), 400, "invalid")


def test_the_place_of_the_key_is_in_no_output(
    api: Client,  # noqa: F811
    stream: StreamClient,
    now: datetime,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    factories.make_installation()
    outputs: list[str] = []
    secret = {"key_source": "environment", "key_location": PLANTED}

    def keep(answer: Any) -> None:
        outputs.append(answer.content.decode() + str(answer.headers) + str(getattr(answer, "url", "")))

    keep(post(api, "provider-accounts", {**CLAUDE, **secret, "reason": "new"}))
    keep(patch(api, "provider-accounts/claude", {"key_source": "file", "key_location": f"/{PLANTED}", "reason": "moved"}))
    keep(patch(api, "provider-accounts/claude", {**secret, "reason": "moved back"}))
    keep(patch(api, "provider-accounts/claude", {"key_location": f"{PLANTED}-", "reason": "refused"}))
    keep(patch(api, "provider-accounts/claude", {"key_location": PLANTED * 20, "reason": "refused"}))
    keep(patch(api, "provider-accounts/claude", {"key_source": PLANTED, "reason": "refused"}))
    for address in ("", "/claude"):
        keep(api.get(f"/api/v1/provider-accounts{address}"))
    factories.make_nova(provider_account=ProviderAccount.objects.get())
    ApiGuardian(stream).open_breaker("claude", reason="overloaded", now=timezone.now())
    keep(post(api, "provider-accounts/claude/archive", {"reason": "refused"}))
    keep(post(api, "provider-accounts/claude/close-breaker", {"reason": "well"}))
    keep(api.get("/api/v1/novas/torch"))
    keep(api.get("/api/v1/journal"))
    for role in ("viewer", "operator", "safety officer", "auditor", "admin"):
        client = person(role)
        for page in (LIST, PAGE, ADD, "/admin/workflow/nova/torch/change/", "/admin/safety/auditentry/"):
            keep(client.get(page))
        for entry_id in AuditEntry.objects.values_list("id", flat=True):
            keep(client.get(f"/admin/safety/auditentry/{entry_id}/change/"))
        for verb in ("archive", "close_breaker"):
            keep(client.get(f"{LIST}verb/{verb}/", {"rows": "claude"}))
        keep(client.post(PAGE, {**FORM, **secret, "burst_window": "odd"}))
        keep(client.post(PAGE, {**FORM, **secret}))
    outputs.append(str(list(AuditEntry.objects.values())))
    Relay(stream).relay_batch(now=timezone.now())
    for name in stream.call("KEYS", "*"):
        if stream.call("TYPE", name) in (b"stream", "stream"):
            outputs.append(str(stream.call("XRANGE", name, "-", "+")))
        elif stream.call("TYPE", name) in (b"hash", "hash"):
            outputs.append(str(stream.call("HGETALL", name)))
    outputs += [str(record.__dict__) + record.getMessage() for record in caplog.records]
    printed = capfd.readouterr()
    outputs += [printed.out, printed.err]
    assert ProviderAccount.objects.get().key_location == PLANTED
    assert [text[:200] for text in outputs if PLANTED in text] == []
