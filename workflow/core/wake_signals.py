"""Wake signals: how urgent a message is that waits for a Nova, and what becomes of it (spec section 2).

Nothing is dropped: what is not made into work is noted, and says so. Whether work may be created now is the machine's business.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from workflow.core.cycle import NovaConfig
from workflow.core.protocol import TITLE_LIMIT, cause_of
from workflow.core.work import Priority, Signal, WorkItem, WorkType


class SignalTier(StrEnum):
    """How soon a signal wants an answer; only the first three ask for work."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    BACKGROUND = "background"


_TIERS = {tier.value: tier for tier in SignalTier}
_RANK = {tier: rank for rank, tier in enumerate(SignalTier)}
_ACTIONABLE = {
    SignalTier.CRITICAL: Priority.CRITICAL,
    SignalTier.HIGH: Priority.HIGH,
    SignalTier.MEDIUM: Priority.MEDIUM,
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The first tier of which a message contains a word is its own, unless it says its priority.
_SIGNS: Sequence[tuple[SignalTier, frozenset[str]]] = (
    (SignalTier.CRITICAL, _words("emergency critical outage breach intrusion corrupted corruption crash crashed sos fatal")),
    (
        SignalTier.HIGH,
        _words("urgent asap immediately failing failure failed broken blocked incident deadline overdue"),
    ),
    (SignalTier.MEDIUM, _words("please review request requested help question todo fix check answer needed need task handoff")),
    (SignalTier.BACKGROUND, _words("heartbeat ping pong ack acknowledged keepalive presence typing telemetry")),
    (SignalTier.LOW, _words("fyi note info information notice announcement thanks update status digest summary")),
)
_KINDS = {"heartbeat": SignalTier.BACKGROUND, "ping": SignalTier.BACKGROUND, "ack": SignalTier.BACKGROUND}
_TEXTS = ("title", "subject", "message", "text", "body", "content", "description", "reason", "event", "signal", "action")
_READ = 2000  # characters of a text in which words are looked for
_FIND = re.compile(r"[a-z]+").findall
_ALERTS = "nova.priority.alerts"
_WORK_TYPES = {"alert": WorkType.ALERT, "work_item": WorkType.REQUESTED}
_MEANT = frozenset((*_TEXTS, "type", "priority", "nova_id", "assignee", "assigned_to", "executor", "sender", "event_id"))
_ADDRESS = ("nova_id", "assignee", "assigned_to")


class WakeSignalPriorityClassifier:
    """Gives every message a tier; what it can't understand it takes for medium, so that somebody looks at it."""

    def classify_signal(self, fields: Mapping[str, str], stream: str) -> SignalTier:
        """Give the tier: an explicit priority, else the kind, else the stream, else the words."""
        explicit = _TIERS.get(fields.get("priority", "").strip().lower())
        if explicit:
            return explicit
        kind = fields.get("type", "").strip().lower()
        if kind in _KINDS:
            return _KINDS[kind]
        words = set(_FIND(" ".join(fields.get(name, "")[:_READ] for name in _TEXTS).lower()))
        is_alert = stream == _ALERTS or kind == "alert"
        for tier, signs in _SIGNS:
            if is_alert and tier != SignalTier.CRITICAL:
                return SignalTier.HIGH  # an alert is never less
            if signs & words:
                return tier
        return SignalTier.MEDIUM


@dataclass(frozen=True, slots=True)
class HandledSignal:
    """What becomes of a signal: outcome `work` (with its item), `noted` or `wake`."""

    signal: Signal
    tier: SignalTier
    outcome: str
    note: str
    item: WorkItem | None = None


class WakeSignalProcessor:
    """Turns a Nova's waiting signals into work, most urgent and oldest first."""

    def __init__(self) -> None:
        self.priority_classifier = WakeSignalPriorityClassifier()

    def process_wake_signals(self, signals: Sequence[Signal], config: NovaConfig, now: datetime) -> list[HandledSignal]:
        """Say of each signal what becomes of it; none is left out."""
        handled = [self._handle(signal, config, now) for signal in signals]
        handled.sort(key=lambda entry: (_RANK[entry.tier], entry.signal.received_at, entry.signal.id))
        return handled

    def _handle(self, signal: Signal, config: NovaConfig, now: datetime) -> HandledSignal:
        fields = signal.fields
        tier = self.priority_classifier.classify_signal(fields, signal.stream)
        if signal.stream == _ALERTS and not any(fields.get(name) for name in _ADDRESS):
            return HandledSignal(signal, tier, "wake", f"Woke up: {_subject(fields)}")  # all were woken; its task is not ours
        priority = _ACTIONABLE.get(tier)
        if priority is None and signal.kind != "signal":
            priority = Priority.LOW  # alerts and work items are work, however little they press
        if priority is None:
            return HandledSignal(signal, tier, "noted", f"Noted ({tier}): {_subject(fields)}")
        item = _work_item(signal, priority, config, now)
        return HandledSignal(signal, tier, "work", f"Became work ({tier}): {item.title[:120]}", item)


def _subject(fields: Mapping[str, str]) -> str:
    """Say in a few words what a message is about."""
    for name in _TEXTS:
        text = fields.get(name, "").strip()
        if text:
            return " ".join(text.split())[:120]
    return "a message without text"


def _work_item(signal: Signal, priority: Priority, config: NovaConfig, now: datetime) -> WorkItem:
    """Make the item; an executor is taken over only where the Nova may use it."""
    fields = signal.fields
    executor = fields.get("executor", "").strip()
    if executor not in config.allowed_executors:
        executor = ""
    sender = fields.get("sender", "").strip()
    title = fields.get("title", "").strip() or f"Answer {sender or 'a signal'}: {_subject(fields)}"
    metadata: dict[str, Any] = {name: value for name, value in fields.items() if name not in _MEANT}
    metadata["signal_id"] = signal.id  # the inbox row has the whole message
    if sender:
        metadata["sender"] = sender[:128]
    return WorkItem(
        id=f"signal:{signal.stream}:{signal.entry_id or signal.id}",
        title=" ".join(title.split())[:TITLE_LIMIT],
        description=fields.get("description") or fields.get("message") or fields.get("text") or "",
        priority=priority,
        work_type=_WORK_TYPES.get(signal.kind, WorkType.SIGNAL),
        estimated_duration=timedelta(0),
        created_at=now,
        assigned_to=config.nova_id,
        metadata=metadata,
        team=config.team,
        executor=executor,
        action=fields.get("action", "").strip()[:64] if executor else "",
        cause=cause_of(signal.stream, signal.entry_id) if signal.entry_id else "",
    )
