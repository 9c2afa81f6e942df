"""`manage.py validate_safety`: it holds for the presets, leaves nothing behind, and can fail."""

import json
from datetime import datetime
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from safety.core.mechanisms import MECHANISMS
from safety.core.status import SafetyFacts, SafetyRules, SafetyStatus
from safety.models import AuditEntry, Observation, OutboxEntry, SafetyIncident, SafetyState
from safety.validation import Validation
from tests import factories

pytestmark = pytest.mark.django_db


class Blind:
    """A judge that sees nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.safe = SafetyStatus(True, "", mechanism=name)

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        return self.safe


@pytest.mark.parametrize("policy", ["standard", "strict"])
def test_every_requirement_holds_under_the_presets(policy: str) -> None:
    factories.make_policy(policy)
    out = StringIO()
    call_command("validate_safety", policy=policy, json=True, stdout=out)
    report = json.loads(out.getvalue())
    assert report["ok"]
    assert len(report["results"]) > 30
    assert all(set(result) >= {"requirement", "tried", "limit", "measured", "passed"} for result in report["results"])


def test_it_leaves_nothing_behind(now: datetime) -> None:
    assert all(result.passed for result in Validation(SafetyRules(), now=now).run())
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


def test_an_unknown_policy_is_named(now: datetime) -> None:
    with pytest.raises(CommandError, match="There is no policy nope; nothing was tried"):
        call_command("validate_safety", policy="nope")
