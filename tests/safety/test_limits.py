"""Limits in force: each has a meaning, and says its value, where that comes from, and what a candidate makes of it."""

from safety.core.status import SafetyRules
from safety.limits import MEANINGS, limits_in_force
from safety.models import SafetyPolicy


def test_every_limit_has_a_meaning():
    assert set(MEANINGS) == {*SafetyRules.__dataclass_fields__, "max_concurrent_tasks"}


def test_a_value_says_which_policy_it_is_of_and_whether_it_is_standard():
    strict = SafetyPolicy(slug="strict", requests_per_minute=25, burst_window=30.0)
    found = {limit.name: limit for limit in limits_in_force(strict)}
    assert found["requests_per_minute"].origin == "policy strict, differs from standard (30)"
    assert found["burst_window"].origin == "policy strict, differs from standard (10 s)"
    assert found["cooldown"].origin == "policy strict, as in standard"
    assert [limit.name for limit in found.values() if limit.differs] == ["requests_per_minute", "burst_window"]
    assert found["burst_window"].in_words(found["burst_window"].value) == "30 s"
    assert found["requests_per_day"].in_words(10_000) == "10,000"
    assert {limit.candidate for limit in found.values()} == {None}


def test_a_candidates_values_stand_beside_them():
    standard, candidate = SafetyPolicy(slug="standard"), SafetyPolicy(slug="calm", cooldown=60.0, max_concurrent_tasks=2)
    found = {limit.name: limit for limit in limits_in_force(standard, candidate)}
    assert (found["cooldown"].value, found["cooldown"].candidate) == (30.0, 60.0)
    assert (found["max_concurrent_tasks"].value, found["max_concurrent_tasks"].candidate) == (1, 2)
    assert found["quarantine"].candidate == found["quarantine"].value


def test_a_standard_policy_that_was_edited_differs_from_its_preset():
    edited = SafetyPolicy(slug="standard", cooldown=45.0)
    (changed,) = [limit for limit in limits_in_force(edited) if limit.differs]
    assert (changed.name, changed.value, changed.standard) == ("cooldown", 45.0, 30.0)
