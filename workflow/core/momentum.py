"""Momentum work: what a Nova does when nobody asks for anything, and how often (spec section 5).

Each template names a builtin action that does real work. A template that keeps finding nothing new falls asleep: busywork is
the failure this system exists to prevent. This file must not know tasks or Novas.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

# builtin action -> the spec's text, in the spec's order
MOMENTUM_TEMPLATES: Mapping[str, str] = {
    "review_workflow": "Review and optimize existing workflow components",
    "update_documentation": "Update documentation with recent insights and improvements",
    "analyze_streams": "Analyze stream coordination patterns for optimization opportunities",
    "validate_safety": "Perform safety system validation and testing",
    "research_patterns": "Research emerging patterns in Nova behavioral analysis",
    "enhance_reporting": "Enhance enterprise reporting with additional metrics",
    "optimize_coordination": "Optimize cross-Nova coordination and collaboration patterns",
}
MOMENTUM_ESTIMATE = timedelta(minutes=15)

MOMENTUM_INTERVAL = timedelta(hours=1)  # between two creations of a template in a scope
MOMENTUM_PER_DAY = 4  # runs of a template by one Nova
FRUITLESS_LIMIT = 3  # runs in a row without a new finding, then the template sleeps


@dataclass(frozen=True, slots=True)
class MomentumFacts:
    """What is known of a template in a scope."""

    template: str
    last_created_at: datetime | None = None
    asleep: bool = False


def allowed_templates(ledger: Iterable[MomentumFacts], now: datetime, today: Mapping[str, int]) -> tuple[str, ...]:
    """Give the templates that may run now, in the spec's order.

    `ledger` holds the templates of the Nova's scope (one without facts never ran), `today` how often this Nova ran each one
    within a day.
    """
    held_back = {
        facts.template
        for facts in ledger
        if facts.asleep or (facts.last_created_at is not None and now - facts.last_created_at < MOMENTUM_INTERVAL)
    }
    return tuple(
        template for template in MOMENTUM_TEMPLATES if template not in held_back and today.get(template, 0) < MOMENTUM_PER_DAY
    )


def after_momentum_run(known: Iterable[str], findings: Iterable[str], fruitless_runs: int) -> tuple[int, bool]:
    """Give the fruitless runs in a row after this one, and whether the template must now sleep until woken.

    `known` is what the last run found; letter case and spaces make no finding new.
    """
    new = {_recognised(finding) for finding in findings} - {_recognised(finding) for finding in known}
    fruitless = 0 if new else fruitless_runs + 1
    return fruitless, fruitless >= FRUITLESS_LIMIT


def _recognised(finding: str) -> str:
    return " ".join(finding.lower().split())
