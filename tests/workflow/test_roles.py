"""Every control at every door for every role: who may do what, and that refusal changes nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.test import Client

from safety import api_keys
from safety.models import AuditEntry, ProviderAccount, SafetyIncident, SafetyState
from tests import factories
from workflow.models import Halt, NovaState
from workflow.roles import ROLES

pytestmark = pytest.mark.django_db

ROLE_NAMES = ("viewer", "operator", "safety officer", "auditor", "admin")
OPERATORS = {"operator", "safety officer", "admin"}
OFFICERS = {"safety officer", "admin"}
AUDITORS = {"auditor", "admin"}
EVERYBODY = set(ROLE_NAMES)

# method, address, body, the mode of the Nova before, who may
CONTROLS: list[tuple[str, str, dict[str, Any] | None, str, set[str]]] = [
    ("get", "novas", None, "running", EVERYBODY),
    ("get", "novas/torch", None, "running", EVERYBODY),
    ("get", "tasks", None, "running", EVERYBODY),
    ("get", "halts", None, "running", EVERYBODY),
    ("get", "policies", None, "running", EVERYBODY),
    ("get", "executions", None, "running", EVERYBODY),
    ("get", "journal", None, "running", AUDITORS),
    ("post", "tasks", {"title": "x"}, "running", OPERATORS),
    ("post", "tasks/bulk", {"tasks": [{"title": "x"}]}, "running", OPERATORS),
    ("get", "approvals", None, "running", EVERYBODY),
    ("get", "novas/torch/messages", None, "running", EVERYBODY),
    ("post", "novas/torch/messages", {"message": "x"}, "running", OPERATORS),
    ("post", "novas/torch/wake", {"reason": "x"}, "running", OPERATORS),
    ("post", "novas/torch/pause", {"reason": "x"}, "running", OPERATORS),
    ("post", "novas/torch/drain", {"reason": "x"}, "running", OPERATORS),
    ("post", "novas/torch/halt", {"reason": "x"}, "running", OPERATORS),
    ("post", "novas/torch/kill", {"reason": "x"}, "running", OPERATORS),
    ("post", "halts", {"kind": "halt", "scope": "fleet", "reason": "x"}, "running", OPERATORS),
    ("post", "novas/torch/resume", {"reason": "x"}, "paused", OPERATORS),
    ("post", "novas/torch/resume", {"reason": "x"}, "draining", OPERATORS),
    ("post", "novas/torch/resume", {"reason": "x"}, "halted", OFFICERS),
    ("post", "novas/torch/resume", {"reason": "x"}, "killed", OFFICERS),
    ("post", "novas/torch/resume", {"reason": "x"}, "quarantined", OFFICERS),
    ("post", "novas/torch/lift-safety", {"reason": "x"}, "running", OFFICERS),
    ("patch", "policies/standard", {"requests_per_minute": 20, "reason": "x"}, "running", OFFICERS),
    ("patch", "novas/torch", {"team": "red", "reason": "x"}, "running", OPERATORS),
    ("post", "novas", {"nova_id": "nyx", "reason": "x"}, "running", OFFICERS),
    ("get", "provider-accounts", None, "running", EVERYBODY),
    ("get", "provider-accounts/claude", None, "running", EVERYBODY),
    ("post", "provider-accounts", {"slug": "spare", "reason": "x"}, "running", OFFICERS),
    ("patch", "provider-accounts/claude", {"requests_per_minute": 20, "reason": "x"}, "running", OFFICERS),
    ("post", "provider-accounts/claude/archive", {"reason": "x"}, "running", OFFICERS),
    ("post", "provider-accounts/claude/restore", {"reason": "x"}, "running", OFFICERS),
    ("post", "provider-accounts/claude/close-breaker", {"reason": "x"}, "running", OFFICERS),
    ("get", "incidents", None, "running", EVERYBODY),
    ("get", "incidents/900017", None, "running", EVERYBODY),
    ("post", "incidents/900017/acknowledge", {"reason": "x"}, "running", OPERATORS),
    ("post", "incidents/900017/mitigate", {"reason": "x"}, "running", OPERATORS),
    ("post", "incidents/900017/resolve", {"reason": "x"}, "running", OPERATORS),
    ("post", "incidents/900017/false-positive", {"reason": "x"}, "running", OPERATORS),
    ("post", "incidents/900017/note", {"reason": "x"}, "running", OPERATORS),
    ("post", "novas/torch/violations", {"type": "tool_burst"}, "running", OPERATORS),
]
# what a Nova's key opens for its own Nova
ITS_OWN = {
    "incidents": 200,
    "incidents/900017": 200,
    "get tasks": 200,
    "post tasks": 201,
    "novas/torch/violations": 201,
    "approvals": 200,
    "novas/torch/messages": 200,
    "post novas/torch/messages": 201,
}


@pytest.fixture
def _torch(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    factories.make_nova()
    ProviderAccount.objects.create(slug="claude")
    SafetyIncident.objects.create(
        pk=900017, nova_id="torch", mechanism="frosty", reason="x", opened_at=factories.NOW, last_seen_at=factories.NOW
    )


def person(role: str) -> Client:
    user = User.objects.create_user("someone", password="x")
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def send(client: Client, method: str, address: str, body: Any) -> Any:
    if method == "get":
        return client.get(f"/api/v1/{address}")
    return getattr(client, method)(f"/api/v1/{address}", json.dumps(body), content_type="application/json")


@contextmanager
def trial(subtests: pytest.Subtests, **cell: str) -> Iterator[None]:
    """Try one cell of a table, and take back what it did."""
    with subtests.test(**cell), transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.mark.usefixtures("_torch", "stream")
@pytest.mark.parametrize("role", ROLE_NAMES)
def test_each_control_is_for_its_roles(role: str, now: datetime, subtests: pytest.Subtests) -> None:
    SafetyState.objects.create(nova_id="torch", meditation_until=now)
    client, entries = person(role), AuditEntry.objects.count()
    for method, address, body, mode, may in CONTROLS:
        with trial(subtests, control=f"{method} {address}", mode=mode):
            NovaState.objects.update(mode=mode, mode_since=now)
            answer = send(client, method, address, body)
            if role in may:
                assert answer.status_code in (200, 201), answer.content
            else:
                assert answer.status_code == 403
                assert answer.json()["code"] == "permission_denied"
                assert NovaState.objects.get(nova="torch").mode == mode
                assert SafetyIncident.objects.get().status == "open"
                assert AuditEntry.objects.count() == entries


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("role", ROLE_NAMES)
def test_lifting_a_halt_of_the_fleet_needs_an_officer(role: str, now: datetime) -> None:
    from workflow import halts

    halt = halts.order("halt", "fleet", reason="x", now=now)
    answer = send(person(role), "post", f"halts/{halt.pk}/lift", {"reason": "over"})
    assert answer.status_code == (200 if role in OFFICERS else 403)
    assert (Halt.objects.get().lifted_at is not None) == (role in OFFICERS)


@pytest.mark.usefixtures("_torch")
def test_a_novas_key_opens_no_control_but_its_own(now: datetime, subtests: pytest.Subtests) -> None:
    key, _ = api_keys.create_key("torch", now=now)
    client = Client(headers={"Authorization": f"Bearer {key}"})
    for method, address, body, mode, _ in CONTROLS:
        with trial(subtests, control=f"{method} {address}", mode=mode):
            answer = ITS_OWN.get(f"{method} {address}", ITS_OWN.get(address, 403))
            assert send(client, method, address, body).status_code == answer


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("role", ROLE_NAMES)
def test_the_admin_has_the_same_rules(role: str, now: datetime, subtests: pytest.Subtests) -> None:
    client = person(role)
    User.objects.update(is_staff=True)
    for verb, mode in (("halt", "running"), ("pause", "running"), ("resume", "paused"), ("resume", "halted")):
        with trial(subtests, verb=verb, mode=mode):
            NovaState.objects.update(mode=mode, mode_since=now)
            answer = client.post(f"/admin/workflow/nova/verb/{verb}/", {"rows": "torch", "reason": "x"})
            may = OFFICERS if mode == "halted" else OPERATORS
            changed = NovaState.objects.get().mode != mode
            assert changed == (role in may), answer.content
            assert answer.status_code in (302, 403)


@pytest.mark.usefixtures("_torch", "stream")
@pytest.mark.parametrize("role", ROLE_NAMES)
def test_verbs_on_incidents_and_accounts_are_for_their_roles_in_the_admin(role: str, subtests: pytest.Subtests) -> None:
    ProviderAccount.objects.update(breaker="open")
    client = person(role)
    User.objects.update(is_staff=True)
    entries = AuditEntry.objects.count()
    for page, row, verbs, may in (
        ("safetyincident", "900017", ("acknowledge", "mitigate", "resolve", "false_positive", "note"), OPERATORS),
        ("provideraccount", "claude", ("archive", "close_breaker"), OFFICERS),
    ):
        for verb in verbs:
            with trial(subtests, page=page, verb=verb):
                answer = client.post(f"/admin/safety/{page}/verb/{verb}/", {"rows": row, "reason": "x"})
                assert answer.status_code == (302 if role in may else 403)
                assert (AuditEntry.objects.count() > entries) == (role in may)


def test_the_roles_are_groups_with_real_permissions() -> None:
    for role, names in ROLES.items():
        group = Group.objects.get(name=role)
        found = {f"{p.content_type.app_label}.{p.codename}" for p in group.permissions.select_related("content_type")}
        assert found == names
        for permission in group.permissions.select_related("content_type"):
            assert permission.content_type.model_class() is not None, permission
