"""`manage.py validate_safety`: it holds for the presets, leaves nothing behind, and can fail."""

import json
from datetime import datetime
from hashlib import sha1
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from safety import api_guardian
from safety.call_trials import CallTrials
from safety.core.mechanisms import MECHANISMS
from safety.core.status import SafetyFacts, SafetyRules, SafetyStatus
from safety.models import AuditEntry, Observation, OutboxEntry, SafetyIncident, SafetyState
from safety.stream_client import StreamClient
from safety.validation import Validation
from tests import factories
from tests.conftest import StreamServer

pytestmark = pytest.mark.django_db


class Blind:
    """A judge that sees nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.safe = SafetyStatus(True, "", mechanism=name)

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        return self.safe


@pytest.mark.parametrize("policy", ["standard", "strict"])
def test_every_requirement_holds_under_the_presets(policy: str, stream: StreamClient) -> None:
    factories.make_policy(policy)
    factories.make_installation()
    out = StringIO()
    call_command("validate_safety", policy=policy, json=True, stdout=out)
    report = json.loads(out.getvalue())
    assert report["ok"]
    assert len(report["results"]) > 35
    assert {result["passed"] for result in report["results"]} == {True}
    assert not [key for key in stream.call("KEYS", "*") if b"validation" in key]
    assert all(set(result) >= {"requirement", "tried", "limit", "measured", "passed"} for result in report["results"])


def test_it_leaves_nothing_behind(now: datetime, stream: StreamClient) -> None:
    factories.make_installation()
    assert all(result.passed for result in Validation(SafetyRules(), now=now).run())
    assert all(result.passed for result in CallTrials(SafetyRules(), stream, now=now).run())
    for model in (AuditEntry, Observation, OutboxEntry, SafetyIncident, SafetyState):
        assert not model.objects.exists()


@pytest.mark.parametrize("name", [mechanism.name for mechanism in MECHANISMS])
def test_a_blind_judge_is_found(now: datetime, name: str) -> None:
    judges = [Blind(name) if mechanism.name == name else mechanism for mechanism in MECHANISMS]
    results = list(Validation(SafetyRules(), now=now, mechanisms=judges).run())
    failed = [result for result in results if not result.passed]
    assert len(failed) >= 2
    assert len(failed) < len(results)


def test_a_failure_is_the_exit_code() -> None:
    # no Nova can meditate for ever: the policy asks for what the judges don't give
    factories.make_policy("odd", meditation_stress=99.0, emergency_stress=99.5)
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("validate_safety", policy="odd", stdout=out)
    assert ended.value.code == 1
    assert "FAIL  Meditation under stress" in out.getvalue()


def test_without_a_stream_server_it_says_what_could_not_be_tried(stream_server: StreamServer) -> None:
    factories.make_policy("standard")
    factories.make_installation()
    stream_server.stop()
    out = StringIO()
    call_command("validate_safety", stdout=out)
    assert "----  The API guardian" in out.getvalue()
    assert "not tried: the stream server can't be reached; run this beside a running NOVAWF" in out.getvalue()
    assert "Not tried: The API guardian." in out.getvalue()


@pytest.mark.parametrize("kind", [{"limit": "at_once"}, {"limit": "minute"}, {"hammering": False}])
def test_a_guardian_that_grants_too_much_is_found(
    now: datetime, stream: StreamClient, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    factories.make_installation()
    text, _ = api_guardian._script("acquire")
    if "limit" in kind:  # a script that overlooks one limit
        start = {"at_once": "if count >= most then", "minute": "if within >= window[3] then"}[kind["limit"]]
        broken = text.replace(start, "if false then")
    else:
        broken = text.replace("if refused > tonumber(ARGV[7]) then", "if false then")
    assert broken != text
    digest = sha1(broken.encode(), usedforsecurity=False).hexdigest()
    scripts = {name: api_guardian._script(name) for name in ("release", "seed")} | {"acquire": (broken, digest)}
    monkeypatch.setattr(api_guardian, "_script", scripts.__getitem__)
    results = list(CallTrials(SafetyRules(), stream, now=now).run())
    assert 1 <= sum(not result.passed for result in results) < len(results)


def test_an_unknown_policy_is_named(now: datetime) -> None:
    with pytest.raises(CommandError, match="There is no policy nope; nothing was tried"):
        call_command("validate_safety", policy="nope")
