"""The five mechanisms of one Nova as its page shows them: verdict, reason, measured against limit, until when.

The judges are asked anew and nothing is stored; the verdict in force is the stored one, and stands in its mechanism's row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reporting import series
from reporting.core.words import plain
from reporting.scope import Scope
from safety.core.status import SafetyFacts, SafetyRules, SafetyStatus
from safety.models import SafetyState
from workflow.safety_checks import judge_now

# mechanism -> what pages call it, and which limits it holds counts against
_NAMES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "frosty": ("Frosty", ("tool_uses_per_minute", "failures_in_window", "own_wakes_per_hour", "empty_cycles_per_minute")),
    "really_chill_willy": ("Really Chill Willy", ()),
    "hook_health": ("Hook health", ("identical_calls_per_minute", "hook_failures_in_window", "session_events_per_minute")),
    "api_guardian": (
        "API guardian", ("requests_per_minute", "requests_per_hour", "requests_per_day", "burst_requests"),
    ),
    "stream_monitor": ("Stream monitor", ()),
}  # fmt: skip
_TONES = {"normal": "good", "elevated": "warn", "cooldown": "bad", "meditation": "bad"}


@dataclass(frozen=True, slots=True)
class Margin:
    """What was measured against one limit."""

    meaning: str
    measured: str
    limit: str
    percentage: int  # 0 to 100
    tone: str


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One judge's answer. `in_force`: it is the stored verdict that stops the Nova now."""

    name: str
    title: str
    word: str
    tone: str
    icon: str
    reason: str
    since: datetime | None
    until: datetime | None
    in_force: bool
    margins: list[Margin]


def mechanisms_of(nova_id: str, *, now: datetime) -> list[Mechanism]:
    """Ask the five, trouble first; a sixth row tells of a configuration that is missing."""
    effective, facts, verdicts = judge_now([nova_id], now=now)
    if nova_id not in verdicts:
        return []
    stored = SafetyState.objects.filter(nova_id=nova_id, is_safe=False).first()
    counted = {margin["limit"]: margin for margin in series.safety_margins(Scope(nova_id), now=now)}
    rows = []
    for name, status in verdicts[nova_id].by_mechanism.items():
        title, limits = _NAMES.get(name, (plain(name).capitalize(), ()))
        margins = [_counted(counted[limit]) for limit in limits]
        if name == "stream_monitor":
            margins = _of_the_wire(facts[nova_id], effective[nova_id].rules)
        ours = stored if stored is not None and stored.mechanism == name else None
        rows.append(_row(name, title, status, ours, margins))
    rows.sort(key=lambda row: ("bad", "warn", "good").index(row.tone))
    return rows


def _row(name: str, title: str, status: SafetyStatus, stored: SafetyState | None, margins: list[Margin]) -> Mechanism:
    level = stored.safety_level if stored else status.safety_level.value
    safe = status.is_safe and stored is None
    tone = _TONES.get(level, "bad") if not safe or level == "elevated" else "good"
    word = plain(level).capitalize() if not safe or level == "elevated" else "Safe"
    said: Any = stored or status
    if said.measured is not None and said.limit is not None:
        margins = [_margin("what it objects to", said.measured, said.limit), *margins]
    until = stored.until if stored else status.expires_at
    icon = {"good": "check", "warn": "alert", "bad": "shield"}[tone]
    return Mechanism(name, title, word, tone, icon, said.reason, said.since, until, stored is not None, margins)


def _counted(margin: Mapping[str, Any]) -> Margin:
    return _margin(margin["meaning"], margin["measured"], margin["most"])


def _margin(meaning: str, measured: float, limit: float, unit: str = "") -> Margin:
    share = 100 * measured / limit if limit else 0
    tone = "bad" if share >= 100 else "warn" if share >= 80 else "good"
    told = f"{measured:,.0f}" if measured >= 100 else "under 0.001" if 0 < measured < 0.001 else f"{measured:.3g}"
    return Margin(meaning, f"{told}{unit}", f"{limit:,.10g}{unit}", min(100, round(share)), tone)


def _of_the_wire(facts: SafetyFacts, rules: SafetyRules) -> list[Margin]:
    fleet = facts.fleet
    times: tuple[tuple[str, timedelta | None, timedelta], ...] = (
        ("a round trip to the stream server", fleet.round_trip, rules.round_trip_limit),
        ("age of the oldest unread entry", fleet.intake_lag, rules.intake_lag_limit),
        ("age of the oldest unpublished entry", fleet.outbox_age, rules.outbox_age_limit),
    )
    found = [_margin(what, at.total_seconds(), most.total_seconds(), " s") for what, at, most in times if at is not None]
    if fleet.stream_memory_ratio is not None:
        found.append(
            _margin("the stream server's memory", 100 * fleet.stream_memory_ratio, 100 * rules.stream_memory_ratio, " %")
        )
    return found
