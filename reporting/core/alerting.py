"""Alert rules as a pure decision: facts, a rule, what is remembered of it and the instant in; what changes out.

A rule is about many subjects at once (Novas, accounts, the fleet), and speaks once for all of them: 500 silent Novas are one
alert. How facts are read, and whom an alert reaches, is not known here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from safety.core.objections import in_words

NAMED = 10  # subjects that a message names
FIRST_RETRY, LONGEST_RETRY = timedelta(seconds=5), timedelta(hours=24)  # Standard Webhooks
GIVE_UP_AFTER = timedelta(days=5)  # a delivery, and a channel that only fails
_JITTER = 0.2  # a delay is longer or shorter by up to this share


class Tier(StrEnum):
    """How much it matters, mildest first."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


TIERS = tuple(Tier)


class Scope(StrEnum):
    """Whom a rule is about."""

    FLEET = "fleet"
    TEAM = "team"
    NOVA = "nova"


class Unit(StrEnum):
    """What a reading counts."""

    SECONDS = "seconds"
    SHARE = "share"


@dataclass(frozen=True, slots=True)
class Condition:
    """A named predicate: which fact it looks at, and what it says of a subject. `below`: it holds under the threshold."""

    fact: str
    says: str
    unit: Unit = Unit.SECONDS
    below: bool = False
    of_novas: bool = False  # each subject belongs to a Nova, so a rule may be about one Nova or team

    def holds(self, value: float, threshold: float) -> bool:
        """Tell whether a reading is beyond the threshold."""
        return value < threshold if self.below else value >= threshold


# What rules may ask. A new one: a line here, and its fact in reporting/alert_facts.py.
CONDITIONS: Mapping[str, Condition] = {
    "nova_silent": Condition("nova_silence", "due, but no worker has stepped it for {value}", of_novas=True),
    "nova_stalled": Condition("nova_stall", "has tasks in flight, and none has changed for {value}", of_novas=True),
    "critical_incident": Condition("critical_incident_age", "critical incident, open for {value}", of_novas=True),
    "incident_unattended": Condition("unattended_incident_age", "incident that nobody looks at for {value}", of_novas=True),
    "breaker_open": Condition("breaker_open_age", "its breaker is not closed for {value}"),
    "queue_old": Condition("queue_age", "the next task in line waits for {value}"),
    "outbox_old": Condition("outbox_age", "the oldest entry that is not published yet waits for {value}"),
    "intake_late": Condition("intake_lag", "streams are read {value} late"),
    "stream_away": Condition("stream_away", "the stream server does not answer for {value}"),
    "stream_gap": Condition("stream_gap_age", "entries vanished before they were read, {value} ago"),
    "no_worker": Condition("worker_silence", "no worker of this cluster beats for {value}"),
    "budget_used": Condition("budget_used", "has used {value} of its budget of today", unit=Unit.SHARE, of_novas=True),
    "approval_waiting": Condition("approval_wait", "an approval waits for a person for {value}", of_novas=True),
    "halt_unconfirmed": Condition("halt_wait", "an order to stop is not confirmed for {value}"),
    "seal_overdue": Condition("seal_age", "the journal was not sealed for {value}"),
    "journal_damaged": Condition("journal_damage_age", "the journal did not verify {value} ago"),
    "disk_low": Condition("disk_free", "{value} of the disk is free", unit=Unit.SHARE, below=True),
    "channel_failing": Condition("channel_failing_age", "alerts have not come through for {value}"),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """One subject's value of a fact. `nova_id` and `team` where it belongs to a Nova."""

    subject: str
    value: float
    nova_id: str = ""
    team: str = ""


# By name; None: could not be read, and then nothing is concluded.
Facts = Mapping[str, Sequence[Reading] | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as it is judged. `in_force` False: switched off; what it said is taken back."""

    name: str
    condition: str
    threshold: float
    duration: timedelta
    tier: Tier
    cooldown: timedelta
    scope: Scope = Scope.FLEET
    target: str = ""
    in_force: bool = True

    def is_about(self, reading: Reading) -> bool:
        """Tell whether a reading lies in this rule's scope."""
        if self.scope is Scope.NOVA:
            return reading.nova_id == self.target
        return self.scope is Scope.FLEET or reading.team == self.target


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a rule between two looks.

    `since`: from when each subject has held the condition. `told`: the subjects that messages of the present alert spoke of.
    """

    since: Mapping[str, datetime] = field(default_factory=dict)
    told: frozenset[str] = frozenset()
    told_at: datetime | None = None  # the last message but a resolution
    firing: bool = False


class Change(StrEnum):
    """What a look changed: each is a message."""

    FIRED = "fired"
    GREW = "grew"  # more subjects than the last message spoke of
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a rule: what to remember, the message if there is one, and the subjects it holds for, worst first."""

    memory: Memory
    change: Change | None = None
    holds: tuple[Reading, ...] = ()
    reason: str = ""  # of a resolution


def judge(rule: Rule, memory: Memory, facts: Facts, now: datetime) -> Verdict:
    """Decide about one rule.

    1. A subject counts once the condition has held for `duration` without a break. 2. The first that counts fires the alert;
    none that counts resolves it. 3. After a message the rule says nothing but a resolution until `cooldown` is over.
    """
    if not rule.in_force:
        over = Change.RESOLVED if memory.firing else None
        return Verdict(Memory(told_at=memory.told_at), over, reason="the rule was switched off" if over else "")
    condition = CONDITIONS[rule.condition]
    readings = facts.get(condition.fact)
    if readings is None:
        return Verdict(memory)
    beyond = [r for r in readings if rule.is_about(r) and condition.holds(r.value, rule.threshold)]
    since = {reading.subject: memory.since.get(reading.subject, now) for reading in beyond}
    counts = [reading for reading in beyond if since[reading.subject] <= now - rule.duration]
    counts.sort(key=lambda reading: (reading.value if condition.below else -reading.value, reading.subject))
    rests = memory.told_at is not None and now < memory.told_at + rule.cooldown
    quiet = Memory(since, memory.told & since.keys(), memory.told_at, memory.firing)
    if not counts:
        if not memory.firing:
            return Verdict(quiet)
        return Verdict(Memory(since, told_at=memory.told_at), Change.RESOLVED, reason="the condition holds no more")
    told = frozenset(reading.subject for reading in counts)
    loud = Memory(since, quiet.told | told, now, firing=True)
    if rests:
        return Verdict(quiet, None, tuple(counts) if memory.firing else ())
    if not memory.firing:
        return Verdict(Memory(since, told, now, firing=True), Change.FIRED, tuple(counts))
    if told - quiet.told:
        return Verdict(loud, Change.GREW, tuple(counts))
    return Verdict(quiet, None, tuple(counts))


def say(condition: Condition, reading: Reading) -> str:
    """Say of a subject what holds."""
    return condition.says.format(value=value_in_words(condition, reading.value))


def value_in_words(condition: Condition, value: float) -> str:
    """Write a value as people read it."""
    return f"{value:.0%}" if condition.unit is Unit.SHARE else in_words(timedelta(seconds=round(value)))


def summary(title: str, tier: Tier, change: Change | str, count: int) -> str:
    """Give the subject line of a message."""
    many = f" ({count})" if count > 1 else ""
    word = {"fired": tier.value.upper(), "grew": f"{tier.value.upper()}, more", "resolved": "RESOLVED"}.get(change, "TEST")
    return f"[{word}] {title}{many}"


def story(condition: Condition, holds: Sequence[Reading]) -> str:
    """Give the body of a message: the worst subjects, each with what holds of it, and how many more."""
    lines = [f"{reading.subject}: {say(condition, reading)}" for reading in holds[:NAMED]]
    if len(holds) > NAMED:
        lines.append(f"and {len(holds) - NAMED} more")
    return "\n".join(lines)


def reaches(tier: Tier, least: Tier) -> bool:
    """Tell whether an alert matters enough for a channel."""
    return TIERS.index(tier) >= TIERS.index(least)


def retry_after(attempts: int, jitter: float) -> timedelta:
    """Give how long to wait after so many failed attempts: 5 s, five times as long each time, 24 h at most.

    `jitter` from 0 to 1 spreads the waits, so that what failed together doesn't come back together.
    """
    plain: timedelta = min(FIRST_RETRY * 5.0 ** min(max(attempts - 1, 0), 12), LONGEST_RETRY)
    return min(plain * (1 - _JITTER + 2 * _JITTER * jitter), LONGEST_RETRY)
