"""Asks all judges, lets the worst verdict win, and says what must be remembered for the next check (spec section 4).

Pure, like the judges: facts in, a Verdict out. The shell stores its `memory` in the Nova's SafetyState row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from safety.core.mechanisms import ALL_SAFE, MECHANISMS, SafetyMechanism
from safety.core.objections import (
    ACTIVATE_COOLDOWN,
    ACTIVATE_EMERGENCY_STOP,
    ACTIVATE_MEDITATION,
    ACTIVATE_QUARANTINE,
    ACTIVATE_RECOVERY,
    CHECK_READINGS,
    WAIT_FOR_STREAM,
    cooldowns_in_a_row,
    objection,
)
from safety.core.status import SafetyFacts, SafetyLevel, SafetyRules, SafetyStatus

_ORDER = {level: place for place, level in enumerate(SafetyLevel)}
NOTHING: Mapping[str, Any] = MappingProxyType({})
CONFIGURATION = "configuration"  # the mechanism that a verdict names where no judge could be asked


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for one Nova: the status in force, what each judge said, and the SafetyState columns to change."""

    status: SafetyStatus
    by_mechanism: Mapping[str, SafetyStatus]
    memory: Mapping[str, Any]


# One for all Novas about which there is nothing to say and nothing to remember.
HEALTHY = Verdict(SafetyStatus(is_safe=True, reason="No mechanism objects."), ALL_SAFE, NOTHING)


@dataclass(frozen=True, slots=True)
class ViolationResponse:
    """What is to be done about a violation that somebody reports: which mechanism does what, and how bad it is."""

    mechanism: str
    recommended_action: str
    safety_level: SafetyLevel
    reason: str


_RESPONSES: Mapping[str, tuple[str, str, SafetyLevel, str]] = {
    # the spec's three
    "api_hammering": (
        "api_guardian",
        ACTIVATE_EMERGENCY_STOP,
        SafetyLevel.EMERGENCY_STOP,
        "API hammering: calls to the provider stop",
    ),
    "system_overload": (
        "really_chill_willy",
        ACTIVATE_MEDITATION,
        SafetyLevel.MEDITATION,
        "The system is overloaded: the Nova meditates",
    ),
    "hook_failure": (
        "hook_health",
        ACTIVATE_RECOVERY,
        SafetyLevel.COOLDOWN,
        "Hooks fail: the Nova waits until they are heard again",
    ),
    # ours
    "session_storm": (
        "hook_health",
        ACTIVATE_QUARANTINE,
        SafetyLevel.QUARANTINE,
        "The agent restarts itself: the Nova is in quarantine",
    ),
    "hook_tampering": (
        "hook_health",
        ACTIVATE_QUARANTINE,
        SafetyLevel.QUARANTINE,
        "What guards the agent was tampered with: the Nova is in quarantine",
    ),
    "call_loop": (
        "hook_health",
        ACTIVATE_COOLDOWN,
        SafetyLevel.COOLDOWN,
        "The agent repeats one call without end: the Nova cools down",
    ),
    "tool_burst": ("frosty", ACTIVATE_COOLDOWN, SafetyLevel.COOLDOWN, "A burst of tool use: the Nova cools down"),
    "completion_drift": ("frosty", ACTIVATE_COOLDOWN, SafetyLevel.COOLDOWN, "Completion drift: the Nova cools down"),
    "stream_lost": (
        "stream_monitor",
        WAIT_FOR_STREAM,
        SafetyLevel.COOLDOWN,
        "The stream server is away: the fleet waits for it",
    ),
}
_NOBODY_KNOWS = "A violation nobody knows"
_FACTS_SHOWN = 300  # characters of a report's details within its reason
# what may be reported
VIOLATION_TYPES = tuple(_RESPONSES)


class SafetyOrchestrator:
    """The spec's SafetyOrchestrator, for any number of Novas: it keeps nothing between two calls."""

    def __init__(self, mechanisms: Sequence[SafetyMechanism] = MECHANISMS) -> None:
        self._mechanisms = mechanisms

    def judge(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> Verdict:
        """Ask every judge; the worst answer wins.

        Of answers at the same level, that of the mechanism whose verdict is in force wins, then the one that lasts longest.
        """
        if facts.configuration_problem:
            return _unconfigured(facts, now)
        said: dict[str, SafetyStatus] | None = None
        for mechanism in self._mechanisms:
            try:
                status = mechanism.check_safety_status(facts, rules, now)
            except Exception as error:  # the wall around one judge: what can't judge can't call anything safe
                reason = f"The judge failed ({type(error).__name__}: {error}), so nothing may run."
                status = objection(mechanism.name, facts, now, reason, CHECK_READINGS)
            if status is not mechanism.safe:
                said = said or {}
                said[mechanism.name] = status
        memory = _remember(said or {}, facts, rules, now) if said or _remembers(facts) else NOTHING
        if not said:
            return Verdict(HEALTHY.status, ALL_SAFE, memory) if memory else HEALTHY

        def weight(status: SafetyStatus) -> tuple[int, bool, float]:
            until = status.expires_at.timestamp() if status.expires_at else 0.0
            return _ORDER[status.safety_level], status.mechanism == facts.verdict_mechanism, until

        every = {mechanism.name: mechanism.safe for mechanism in self._mechanisms}
        return Verdict(max(said.values(), key=weight), {**every, **said}, memory)

    def is_safe_to_proceed(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> bool:
        """Say whether the Nova may act (spec `is_safe_to_proceed`)."""
        return self.judge(facts, rules, now).status.is_safe

    def handle_safety_violation(self, violation_type: str, details: Mapping[str, Any]) -> ViolationResponse:
        """Say what a reported violation calls for (spec `handle_safety_violation`); an unknown one calls for quarantine."""
        known = _RESPONSES.get(violation_type)
        if known is None:
            reason = f"{_NOBODY_KNOWS}, {violation_type!r}, was reported: the Nova is in quarantine"
            known = ("hook_health", ACTIVATE_QUARANTINE, SafetyLevel.QUARANTINE, reason)
        mechanism, action, level, reason = known
        facts = ", ".join(f"{name} {value}" for name, value in details.items())
        if len(facts) > _FACTS_SHOWN:  # the evidence has all of them
            facts = f"{facts[:_FACTS_SHOWN]}…"
        return ViolationResponse(mechanism, action, level, f"{reason} ({facts})." if facts else f"{reason}.")


def without_details(reason: str) -> str:
    """Leave out of a reason what somebody told of a violation: words of a stranger, which not every reader may read."""
    for _, _, _, known in _RESPONSES.values():
        before, found, _ = reason.partition(f"{known} (")
        if found:
            return f"{before}{known}."
    before, found, _ = reason.partition(_NOBODY_KNOWS)
    return f"{before}{_NOBODY_KNOWS} was reported." if found else reason


def _unconfigured(facts: SafetyFacts, now: datetime) -> Verdict:
    """Object for all judges: without limits there is nothing to judge by. What is remembered of the Nova stays."""
    status = objection(CONFIGURATION, facts, now, facts.configuration_problem, CHECK_READINGS)
    return Verdict(status, {**ALL_SAFE, CONFIGURATION: status}, NOTHING)


def _remembers(facts: SafetyFacts) -> bool:
    return (
        facts.cooldown_until is not None
        or facts.meditation_until is not None
        or facts.quarantine_until is not None
        or facts.stressed_since is not None
    )


def _remember(said: Mapping[str, SafetyStatus], facts: SafetyFacts, rules: SafetyRules, now: datetime) -> Mapping[str, Any]:
    """Give the SafetyState columns that change.

    1. What has ended is forgotten. 2. What a judge activates is noted, unless it is in force already. 3. Stress is timed.
    """
    memory: dict[str, Any] = {}
    if facts.cooldown_until is not None and facts.cooldown_until <= now:
        memory.update(cooldown_until=None, cooldown_reason="", last_cooldown_end=facts.cooldown_until)
    if facts.meditation_until is not None and facts.meditation_until <= now:
        memory["meditation_until"] = None
    if facts.quarantine_until is not None and facts.quarantine_until <= now:
        memory.update(quarantine_until=None, quarantine_reason="")
    for status in said.values():
        _activate(status, memory, facts, rules, now)
    willy = said.get("really_chill_willy")
    if willy is None or willy.recommended_action != CHECK_READINGS:
        stressed = willy is not None and willy.measured is not None and willy.measured >= rules.meditation_stress
        if stressed != (facts.stressed_since is not None):
            memory["stressed_since"] = now if stressed else None
    return memory


def _activate(status: SafetyStatus, memory: dict[str, Any], facts: SafetyFacts, rules: SafetyRules, now: datetime) -> None:
    """Note what one judge activates; a cooldown asked for twice at once is the longer one."""
    action = status.recommended_action
    if action == ACTIVATE_COOLDOWN and status.expires_at and not _in_force(facts.cooldown_until, now):
        if (memory.get("cooldown_until") or now) < status.expires_at:
            memory.update(
                cooldown_since=now,
                cooldown_until=status.expires_at,
                cooldown_reason=status.reason,
                cooldowns_in_a_row=cooldowns_in_a_row(facts, rules, now) + 1,
            )
    elif action in (ACTIVATE_MEDITATION, ACTIVATE_EMERGENCY_STOP):
        # an emergency stop ends with the stress that caused it, and is followed by a meditation
        if not _in_force(facts.meditation_until, now):
            memory["meditation_until"] = now + rules.meditation
    elif action == ACTIVATE_QUARANTINE and not _in_force(facts.quarantine_until, now):
        memory.update(quarantine_until=status.expires_at, quarantine_reason=status.reason)


def _in_force(until: datetime | None, now: datetime) -> bool:
    return until is not None and until > now
