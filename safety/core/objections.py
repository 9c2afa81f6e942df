"""How a judge objects, and how long a cooldown lasts: what the five mechanisms share. Pure, like them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from zlib import crc32

from safety.core.status import SafetyFacts, SafetyLevel, SafetyRules, SafetyStatus

# What a judge recommends. The first four change what is remembered of the Nova (orchestrator.py).
ACTIVATE_COOLDOWN = "activate_cooldown"
ACTIVATE_MEDITATION = "activate_meditation"
ACTIVATE_QUARANTINE = "activate_quarantine"
ACTIVATE_EMERGENCY_STOP = "activate_emergency_stop"
ACTIVATE_RECOVERY = "activate_recovery"
CHECK_READINGS = "check_readings"
WAIT_FOR_WINDOW = "wait_for_window"
WAIT_FOR_BREAKER = "wait_for_breaker"
WAIT_FOR_STREAM = "wait_for_stream"
WATCH = "watch"

_JITTER = 0.2  # a cooldown is up to this share longer, so that a fleet cooled at once does not come back at once


def objection(
    mechanism: str,
    facts: SafetyFacts,
    now: datetime,
    reason: str,
    action: str,
    *,
    level: SafetyLevel = SafetyLevel.COOLDOWN,
    measured: float | None = None,
    limit: float | None = None,
    until: datetime | None = None,
) -> SafetyStatus:
    """Give an unsafe status; it began when the verdict in force did, if that is the same mechanism's."""
    in_force = not facts.verdict_is_safe and facts.verdict_mechanism == mechanism
    since = facts.verdict_since or now if in_force else now
    return SafetyStatus(False, reason, action, level, until, mechanism, measured, limit, since)


def concern(
    mechanism: str, reason: str, *, measured: float | None = None, limit: float | None = None, since: datetime | None = None
) -> SafetyStatus:
    """Give a status that is safe but worth watching."""
    return SafetyStatus(True, reason, WATCH, SafetyLevel.ELEVATED, None, mechanism, measured, limit, since)


def unreadable(mechanism: str, facts: SafetyFacts, now: datetime, readings: Mapping[str, object]) -> SafetyStatus:
    """Object because one of the readings, given by what they are called, is None."""
    what = next((words for words, value in readings.items() if value is None), "facts")
    return objection(mechanism, facts, now, f"The {what} could not be read, so nothing may run until it can.", CHECK_READINGS)


def cooling(mechanism: str, facts: SafetyFacts, now: datetime) -> SafetyStatus | None:
    """Report the cooldown in force, if there is one."""
    if facts.cooldown_until is None or facts.cooldown_until <= now:
        return None
    reason = facts.cooldown_reason or "The Nova is cooling down."
    return objection(mechanism, facts, now, reason, ACTIVATE_COOLDOWN, until=facts.cooldown_until)


def cooldowns_in_a_row(facts: SafetyFacts, rules: SafetyRules, now: datetime) -> int:
    """Count the cooldowns that still weigh: the row is forgotten once the Nova was calm for as long as the longest cooldown."""
    end = facts.cooldown_until or facts.last_cooldown_end
    if not facts.cooldowns_in_a_row or end is None or now - end >= rules.cooldown_limit:
        return 0
    return facts.cooldowns_in_a_row


def next_cooldown_until(facts: SafetyFacts, rules: SafetyRules, now: datetime, least: timedelta = timedelta(0)) -> datetime:
    """Say until when a cooldown that begins now lasts.

    It doubles with each cooldown in a row, gets up to a fifth longer by the Nova's own share, and never exceeds the limit;
    `least` is how long the window takes to empty that was overrun, and comes before all that.
    """
    row = cooldowns_in_a_row(facts, rules, now)
    length = max(rules.cooldown * (1 << min(row, 20)), least)
    share = crc32(f"{facts.nova_id}:{row}:{now.isoformat()}".encode()) / 0xFFFFFFFF
    return now + max(min(length * (1 + _JITTER * share), rules.cooldown_limit), least)


def in_words(length: timedelta) -> str:
    """Write a duration with its unit: `45 s`, `31 min`, `3.5 h`."""
    seconds = length.total_seconds()
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
