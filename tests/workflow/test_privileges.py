"""Every address, every method, every kind of caller: driven by the addresses themselves, so that no new one is forgotten.

MAY says for each address and method who may; a new address fails here until it has a line. AGENTS_NEED says which scopes open
what an agent may. Whether the answer then is 200 or 400 is not asked here: only who gets as far as that.
"""

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.test import Client
from django.urls import reverse

from reporting import reports
from reporting.api import urls as reporting_urls
from reporting.core.metrics import Period
from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule, ReportLink, ReportSchedule
from reporting.scope import Scope
from safety import api_keys
from safety.core.scopes import NOVA_SCOPES, OPERATOR_SCOPES
from safety.encryption import encrypt
from safety.models import AuditEntry, ProviderAccount, SafetyIncident
from tests import factories
from tests.workflow.test_api import KEY, _operator_key  # noqa: F401 - fixtures
from workflow.api import urls
from workflow.models import Approval, CommandTemplate, Halt, HttpEndpoint, ModelPrice

pytestmark = pytest.mark.django_db

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ROLES = ("viewer", "operator", "safety officer", "auditor", "admin")
AGENT = "agent"  # of the Nova that the address is about
EVERYBODY = set(ROLES)
OPERATORS = {"operator", "safety officer", "admin"}
OFFICERS = {"safety officer", "admin"}
AUDITORS = {"auditor", "admin"}
KEEPERS = OFFICERS | AUDITORS  # who may look at keys

MAY: dict[str, dict[str, set[str]]] = {
    "root": {"GET": EVERYBODY | {AGENT}},
    "novas": {"GET": EVERYBODY, "POST": OFFICERS},
    "nova": {"GET": EVERYBODY, "PATCH": OPERATORS},
    "nova-verb": {"POST": OPERATORS},
    "nova-stop": {"POST": OPERATORS},
    "nova-resume": {"POST": OPERATORS},
    "nova-lift-safety": {"POST": OFFICERS},
    "nova-halt-ack": {"POST": {AGENT}},
    "nova-violations": {"POST": OPERATORS | {AGENT}},
    "api-permits": {"POST": {AGENT}},
    "api-permit": {"DELETE": {AGENT}},
    "incidents": {"GET": EVERYBODY | {AGENT}},
    "incident": {"GET": EVERYBODY | {AGENT}},
    "incident-verb": {"POST": OPERATORS},
    "halts": {"GET": EVERYBODY, "POST": OPERATORS},
    "halt": {"GET": EVERYBODY},
    "halt-lift": {"POST": OPERATORS},
    "keys": {"GET": KEEPERS, "POST": OFFICERS},
    "key": {"GET": KEEPERS},
    "key-rotation": {"POST": OFFICERS},
    "key-verb": {"POST": OFFICERS},
    "tasks": {"GET": EVERYBODY | {AGENT}, "POST": OPERATORS | {AGENT}},
    "task": {"GET": EVERYBODY | {AGENT}, "PATCH": OPERATORS},
    "tasks-claim": {"POST": {AGENT}},
    "tasks-complete": {"POST": {AGENT}},
    "tasks-bulk": {"POST": OPERATORS},
    "task-report": {"POST": {AGENT}},
    "task-retry": {"POST": OPERATORS},
    "task-dependencies": {"POST": OPERATORS},
    "nova-heartbeat": {"POST": {AGENT}},
    "nova-safety-check": {"POST": {AGENT}},
    "nova-usage": {"GET": EVERYBODY, "POST": {AGENT}},
    "whoami": {"GET": {AGENT}},
    "nova-messages": {"GET": EVERYBODY | {AGENT}, "POST": OPERATORS | {AGENT}},
    "messages-ack": {"POST": {AGENT}},
    "approvals": {"GET": EVERYBODY | {AGENT}, "POST": {AGENT}},
    "approval": {"GET": EVERYBODY | {AGENT}},
    "approval-verb": {"POST": OPERATORS},
    "events": {"GET": EVERYBODY | {AGENT}},
    "task-verb": {"POST": OPERATORS},
    "personalities": {"GET": EVERYBODY, "POST": OFFICERS},
    "personality": {"GET": EVERYBODY, "PATCH": OFFICERS},
    "personality-verb": {"POST": OFFICERS},
    "policies": {"GET": EVERYBODY, "POST": OFFICERS},
    "policy": {"GET": EVERYBODY, "PATCH": OFFICERS},
    "policy-verb": {"POST": OFFICERS},
    "objectives": {"GET": EVERYBODY, "POST": OPERATORS},
    "objective": {"GET": EVERYBODY, "PATCH": OPERATORS},
    "objective-verb": {"POST": OPERATORS},
    "provider-accounts": {"GET": EVERYBODY, "POST": OFFICERS},
    "provider-account": {"GET": EVERYBODY, "PATCH": OFFICERS},
    "provider-account-verb": {"POST": OFFICERS},
    "provider-account-close-breaker": {"POST": OFFICERS},
    "provider-account-test": {"POST": OFFICERS},
    "commands": {"GET": EVERYBODY, "POST": OFFICERS},
    "command": {"GET": EVERYBODY, "PATCH": OFFICERS},
    "command-verb": {"POST": OFFICERS},
    "http-endpoints": {"GET": EVERYBODY, "POST": OFFICERS},
    "http-endpoint": {"GET": EVERYBODY, "PATCH": OFFICERS},
    "http-endpoint-verb": {"POST": OFFICERS},
    "model-prices": {"GET": EVERYBODY, "POST": OFFICERS},
    "model-price": {"GET": EVERYBODY, "PATCH": OFFICERS},
    "model-price-verb": {"POST": OFFICERS},
    "executions": {"GET": EVERYBODY},
    "journal": {"GET": AUDITORS},
    "journal-entry": {"GET": AUDITORS},
    "journal-seals": {"GET": AUDITORS},
    "journal-verify": {"GET": AUDITORS, "POST": AUDITORS},
    "journal-verifications": {"GET": AUDITORS},
    "insights": {"GET": EVERYBODY},
    "celebrations": {"GET": EVERYBODY},
    "dashboard": {"GET": EVERYBODY},
    "handover": {"GET": EVERYBODY},
    "handover-take": {"POST": EVERYBODY},
    "alerts": {"GET": EVERYBODY},
    "alert": {"GET": EVERYBODY},
    "alert-rules": {"GET": EVERYBODY, "POST": OFFICERS},
    "alert-rule": {"GET": EVERYBODY, "PATCH": OFFICERS},
    "alert-rule-verb": {"POST": OFFICERS},
    "alert-channels": {"GET": KEEPERS, "POST": OFFICERS},
    "alert-channel": {"GET": KEEPERS, "PATCH": OFFICERS},
    "alert-channel-verb": {"POST": OFFICERS},
    "alert-channel-test": {"POST": OFFICERS},
    "alert-channel-reopen": {"POST": OFFICERS},
    "alert-deliveries": {"GET": KEEPERS},
    "alert-delivery": {"GET": KEEPERS},
    "alert-delivery-redeliver": {"POST": OFFICERS},
    "team-dashboard": {"GET": EVERYBODY},
    "nova-dashboard": {"GET": EVERYBODY | {AGENT}},
    "series": {"GET": EVERYBODY},
    "team-series": {"GET": EVERYBODY},
    "nova-series": {"GET": EVERYBODY | {AGENT}},
    "reports": {"GET": EVERYBODY, "POST": OPERATORS},
    "report": {"GET": EVERYBODY},
    "report-export": {"GET": EVERYBODY},
    "report-links": {"GET": OPERATORS, "POST": OPERATORS},
    "report-link-revoke": {"POST": OPERATORS},
    "report-schedules": {"GET": EVERYBODY, "POST": OPERATORS},
    "report-schedule-verb": {"POST": OPERATORS},
}
# of these scopes a Nova's key needs one; an address that is not named is open to any of its keys
AGENTS_NEED: dict[tuple[str, str], set[str]] = {
    ("incidents", "GET"): {"read"},
    ("incident", "GET"): {"read"},
    ("api-permits", "POST"): {"permits"},
    ("api-permit", "DELETE"): {"permits"},
    ("tasks", "GET"): {"read", "tasks"},
    ("tasks", "POST"): {"tasks"},
    ("task", "GET"): {"read", "tasks"},
    ("tasks-claim", "POST"): {"tasks"},
    ("tasks-complete", "POST"): {"tasks"},
    ("task-report", "POST"): {"tasks"},
    ("approvals", "GET"): {"read", "tasks"},
    ("approvals", "POST"): {"tasks"},
    ("approval", "GET"): {"read", "tasks"},
    ("nova-messages", "GET"): {"read", "messages"},
    ("nova-messages", "POST"): {"messages"},
    ("messages-ack", "POST"): {"messages"},
    ("events", "GET"): {"events"},
    ("nova-dashboard", "GET"): {"read"},
    ("nova-series", "GET"): {"read"},
}
# bodies that get as far as the question whose Nova it is; of the others a reason is enough
BODIES: dict[str, dict[str, Any]] = {
    "violations": {"type": "tool_burst"}, "api-permits": {}, "halt-ack": {}, "heartbeat": {}, "safety-check": {},
    "usage": {"model": "m"}, "renew": {"fence": 1}, "progress": {"fence": 1}, "complete": {"fence": 1}, "release": {"fence": 1},
    "fail": {"fence": 1, "error": "x"}, "block": {"fence": 1, "owner": "operator", "action": "look"},
}  # fmt: skip
# whose they are is told by the key alone, or sorted out row by row: another agent finds its own there
BY_KEY = {
    ("root", "GET"), ("incidents", "GET"), ("tasks", "GET"), ("tasks", "POST"), ("tasks-claim", "POST"),
    ("tasks-complete", "POST"), ("messages-ack", "POST"), ("nova-messages", "POST"), ("approvals", "GET"),
    ("approvals", "POST"), ("whoami", "GET"), ("events", "GET"),
}  # fmt: skip
NOT_FOR_KEYS = {
    "hooks-claude-code",  # answers everybody with 200, and says no in its own words
    "schema",  # the OpenAPI document, the same for everybody
}


PATTERNS = {str(pattern.name): (house.app_name, pattern) for house in (urls, reporting_urls) for pattern in house.urlpatterns}


def addresses() -> Iterator[tuple[str, str]]:
    """Give (name, words of the address) of every address; one with several verbs once for each."""
    for _, pattern in PATTERNS.values():
        verbs = re.search(r"\(\?P<verb>([^)]*)\)", str(pattern.pattern))
        for verb in verbs[1].split("|") if verbs else [""]:
            yield str(pattern.name), verb


ADDRESSES = [address for address in addresses() if address[0] not in NOT_FOR_KEYS]
PARTS = 6  # the addresses are asked in so many shares: to make a house for each would take longer than to ask
Part = Iterator[AbstractContextManager[tuple[str, str]]]


def path_of(name: str, verb: str) -> str:
    namespace, pattern = PATTERNS[name]
    kind = name.removesuffix("-verb").removesuffix("-close-breaker").removesuffix("-test").removesuffix("-reopen")
    values = {
        "nova_id": "torch", "incident_id": "900017", "halt_id": "900018", "key_id": "900019", "task_id": "T-1",
        "approval_id": "900022", "team": "day", "alert_id": "900024", "delivery_id": "900025",
        "report_id": "REPORT-20261120-0a1b2c3d", "kind": "csv", "link_id": "0a1b", "schedule_id": "900024",
        "entry_id": str(AuditEntry.objects.latest("id").pk),
        "permit_id": "abc", "verb": verb,
        "pk": {
            "personality": "torch", "policy": "standard", "objective": "900021", "provider-account": "claude",
            "command": "words", "http-endpoint": "builds", "model-price": "900023",
            "alert-rule": "silent", "alert-channel": "ops",
        }.get(kind, ""),
    }  # fmt: skip
    return reverse(f"{namespace}:{name}", kwargs={group: values[group] for group in pattern.pattern.regex.groupindex})


@pytest.fixture
def house(now: datetime) -> None:
    """What the addresses are about: each of them exists, with ids that no sequence of the database comes to."""
    factories.make_installation()
    for nova_id in ("torch", "echo"):
        factories.make_nova(nova_id, personality=nova_id, team="day")
    factories.make_task(id="T-1", assignee="torch")
    factories.make_objective(pk=900021)
    ProviderAccount.objects.create(slug="claude", key_source="file", key_location="/nowhere")  # tried, it makes no call
    CommandTemplate.objects.create(slug="words", program="/usr/bin/wc")
    HttpEndpoint.objects.create(slug="builds", url="https://builds.example.com/tasks")
    ModelPrice.objects.create(pk=900023, account_id="claude", model="small", input_price=1, output_price=2)
    SafetyIncident.objects.create(pk=900017, nova_id="torch", mechanism="frosty", reason="x", opened_at=now, last_seen_at=now)
    Halt.objects.create(pk=900018, kind="pause", scope="nova", target="torch", reason="x", requested_by="x", requested_at=now)
    Approval.objects.create(
        pk=900022,
        nova_id="torch",
        action="deploy",
        digest="x",
        requested_by="x",
        requested_at=now,
        expires_at=now + timedelta(days=9999),
    )
    rule = AlertRule.objects.create(slug="silent", title="Silent", condition="nova_silent", threshold=60.0)
    channel = AlertChannel.objects.create(
        slug="ops", kind="webhook", url="https://ops.example.com/", encrypted_secret=encrypt("whsec_x")
    )
    event = AlertEvent.objects.create(pk=900024, rule=rule, title="Silent", tier="warning", fired_at=now, seen_at=now)
    AlertDelivery.objects.create(
        pk=900025, channel=channel, event=event, kind="fired", message_id="x", title="x", created_at=now, due_at=now
    )
    report = reports.make_report(Scope(), Period(now - timedelta(days=7), now), now=now)
    report.id, report._state.adding = "REPORT-20261120-0a1b2c3d", True
    report.save(force_insert=True)
    ReportLink.objects.create(pk="0a1b", report=report, created_at=now, created_by="x", expires_at=now + timedelta(days=9))
    ReportSchedule.objects.create(pk=900024, name="Monday", due_at=now)
    _, key = api_keys.create_key("torch", now=now)
    type(key).objects.filter(pk=key.pk).update(id=900019)


def bearer(key: str) -> Client:
    return Client(headers={"Authorization": f"Bearer {key}"}, raise_request_exception=False)


def ask(client: Any, method: str, path: str) -> Any:
    """Ask, and take back what it did."""
    with transaction.atomic():
        words = BODIES.get(path.rpartition("/")[2], {"reason": "x"})
        body = json.dumps(words) if method in ("POST", "PUT", "PATCH") else ""
        answer = client.generic(method, path, body, content_type="application/json")
        answer.entries = AuditEntry.objects.count()
        transaction.set_rollback(True)
    assert answer.status_code != 500
    if answer.status_code >= 400 and method != "HEAD":
        assert answer["Content-Type"] == "application/problem+json"
    return answer


def test_every_address_has_a_line() -> None:
    assert {name for name, _ in ADDRESSES} - MAY.keys() == set(), "say in MAY who may use the new address"


@pytest.fixture(params=range(PARTS))
def part(request: pytest.FixtureRequest, house: None, subtests: pytest.Subtests) -> Iterator[Part]:
    """A share of the addresses, in one house: each is a subtest of its own, and what it did is taken back."""
    return (each(subtests, name, verb) for name, verb in ADDRESSES[request.param :: PARTS])


@contextmanager
def each(subtests: pytest.Subtests, name: str, verb: str) -> Iterator[tuple[str, str]]:
    with subtests.test(address=" ".join(filter(None, (name, verb)))):
        yield name, path_of(name, verb)


def callers(now: datetime) -> list[tuple[str, Client]]:
    """Give each role twice: as a person with a session, and as a program with a key."""
    found = []
    for role in ROLES:
        user = User.objects.create(username=role.replace(" ", "-"))
        user.groups.add(Group.objects.get(name=role))
        session = Client(raise_request_exception=False)
        session.force_login(user)
        text, _ = api_keys.create_key(operator="ci", role=role, scopes=[scope.value for scope in OPERATOR_SCOPES], now=now)
        found += [(role, session), (role, bearer(text))]
    return found


class TestEveryAddress:
    def test_is_for_its_roles_by_session_and_by_key(self, part: Part, now: datetime) -> None:
        known = callers(now)
        entries = AuditEntry.objects.count()
        for address in part:
            with address as (name, path):
                for (role, client), (method, may) in product(known, MAY[name].items()):
                    answer = ask(client, method, path)
                    if role in may:
                        assert answer.status_code not in (401, 403, 404, 405), (role, method, answer.content)
                    else:
                        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), (role, method)
                        assert answer.entries == entries

    def test_agents_reach_what_is_their_novas_alone(self, part: Part, now: datetime) -> None:
        own, _ = api_keys.create_key("torch", now=now)
        other, _ = api_keys.create_key("echo", now=now)
        entries = AuditEntry.objects.count()
        for address in part:
            with address as (name, path):
                for method, may in MAY[name].items():
                    mine, foreign = ask(bearer(own), method, path), ask(bearer(other), method, path)
                    if AGENT not in may:
                        for answer in (mine, foreign):
                            assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), method
                            assert answer.entries == entries
                        continue
                    assert mine.status_code not in (401, 403, 404, 405), (method, mine.content)
                    assert foreign.status_code not in (401, 405)
                    if (name, method) in BY_KEY:
                        assert foreign.status_code < 500
                        assert b"torch" not in foreign.content.replace(path.encode(), b"")
                    else:
                        assert foreign.status_code in (403, 404), (method, foreign.content)
                        assert foreign.entries == entries

    def test_a_key_reaches_no_further_than_its_scopes(self, part: Part, now: datetime) -> None:
        keys = {scope.value: bearer(api_keys.create_key("torch", scopes=[scope.value], now=now)[0]) for scope in NOVA_SCOPES}
        nothing = bearer(api_keys.create_key(operator="ci", role="admin", scopes=["events"], now=now)[0])
        for address in part:
            with address as (name, path):
                for (scope, client), (method, may) in product(keys.items(), MAY[name].items()):
                    if AGENT in may:
                        answer = ask(client, method, path)
                        refused = answer.status_code == 403 and answer.json()["code"] == "scope_missing"
                        needed = AGENTS_NEED.get((name, method), {scope})
                        assert refused == (scope not in needed), (scope, method, answer.status_code)
                for method in MAY[name]:
                    status = ask(nothing, method, path).status_code
                    assert status == (200 if name in ("root", "events") else 403), method

    def test_is_shut_to_strangers_and_dead_keys(self, part: Part, now: datetime, settings: Any) -> None:
        settings.WRONG_KEYS_PER_MINUTE = 10_000
        revoked, key = api_keys.create_key("torch", now=now)
        api_keys.revoke_key(key.pk, reason="x", now=now)
        suspended, key = api_keys.create_key("torch", now=now)
        api_keys.suspend_key(key.pk, reason="x", now=now)
        expired, key = api_keys.create_key("torch", now=now)
        type(key).objects.filter(pk=key.pk).update(expires_at=now)
        dead = [bearer(text) for text in (revoked, suspended, expired, "nova_000000_nobody", "novaop_000000_nobody", "guess")]
        nobody, entries = Client(raise_request_exception=False), AuditEntry.objects.count()
        for address in part:
            with address as (name, path):
                for client, method in [*product([nobody], METHODS), *product(dead, MAY[name])]:
                    answer = ask(client, method, path)
                    assert answer.status_code == 401, (client.headers, method)
                    assert answer["WWW-Authenticate"].startswith("Bearer")
                    assert answer.entries == entries

    def test_offers_its_methods_and_no_others(self, part: Part) -> None:
        operator = bearer(KEY)
        for address in part:
            with address as (name, path):
                offered = MAY[name].keys() | ({"HEAD"} if "GET" in MAY[name] else set()) | {"OPTIONS"}
                for method in METHODS:
                    answer = ask(operator, method, path)
                    if MAY[name].get("GET" if method == "HEAD" else method) == {AGENT}:
                        assert answer.status_code not in (401, 405), method  # whose agent an operator is, it may ask
                    elif method in offered:
                        assert answer.status_code not in (401, 403, 404, 405), (method, answer.content)
                    else:
                        assert answer.status_code == 405, method
                    if method in ("HEAD", "OPTIONS"):
                        assert not answer.content
                    if method == "OPTIONS":
                        assert answer.status_code == 204
                        assert set(answer["Allow"].split(", ")) == offered


@pytest.mark.usefixtures("house")
def test_head_tells_nobody_more_than_get(now: datetime) -> None:
    text, _ = api_keys.create_key("torch", now=now)
    for path in ("journal", "novas", "keys"):
        assert ask(bearer(text), "HEAD", f"/api/v1/{path}").status_code == 403


@pytest.mark.usefixtures("house")
@pytest.mark.parametrize(
    ("scope", "opens"),
    [
        ("read", {("nova-messages", "GET")}),
        ("messages", {("nova-messages", "POST")}),
        ("control", set()),
        ("events", {("events", "GET")}),
    ],
)
def test_a_program_writes_and_hears_with_the_scopes_for_that(scope: str, opens: set[tuple[str, str]], now: datetime) -> None:
    text, _ = api_keys.create_key(operator="ci", role="admin", scopes=[scope], now=now)
    for name, method in (("nova-messages", "GET"), ("nova-messages", "POST"), ("events", "GET")):
        status = ask(bearer(text), method, path_of(name, "")).status_code
        assert (status != 403) == ((name, method) in opens), (scope, name, method)
