"""Evaluates the alert rules: reads facts, judges every rule, writes alerts, what is to be sent, and the journal.

Several processes may evaluate at once: each rule's memory is locked while it is judged, so every change is found once. Nothing
is sent here.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from reporting.alert_facts import load_facts, note_disk
from reporting.core import alerting
from reporting.core.alerting import CONDITIONS, Change, Memory, Reading, Rule, Scope, Tier, Verdict
from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertMemory, AlertRule
from safety import audit
from safety.audit import Entry
from workflow import leases

FIRED, GREW, RESOLVED = "reporting.alert.fired", "reporting.alert.grew", "reporting.alert.resolved"
LEASE = "alerts"  # its heartbeat says when the rules were last evaluated
EVERY = 12.0  # seconds: the least between two evaluations, whoever makes them
KEPT_SUBJECTS = 100  # of an alert's row; its count says how many there are


def evaluate_if_due(*, now: datetime) -> bool:
    """Evaluate, unless somebody has done so within the last seconds; tell whether it was done."""
    note_disk(now=now)
    if leases.acquire(LEASE, secrets.token_hex(8), now=now, seconds=EVERY) is None:
        return False
    evaluate(now=now)
    return True


def evaluate(*, now: datetime) -> dict[str, Change]:
    """Judge every rule, and give what changed, by rule.

    1. Read the facts that some rule asks for. 2. Lock all memories, in one order. 3. Judge, write, queue what is to be sent and
    journal it, in the same transaction.
    """
    rules = {row.slug: row for row in AlertRule.objects.all()}
    asked = {CONDITIONS[row.condition].fact for row in rules.values() if _in_force(row) and row.condition in CONDITIONS}
    facts = load_facts(asked, now=now)
    AlertMemory.objects.bulk_create([AlertMemory(rule_id=slug) for slug in _without_memory(rules)], ignore_conflicts=True)
    changes: dict[str, Change] = {}
    with transaction.atomic():
        memories = list(AlertMemory.objects.select_for_update().order_by("rule_id"))
        firing = {event.rule_id: event for event in AlertEvent.objects.filter(status=AlertEvent.Status.FIRING)}
        channels = list(AlertChannel.objects.order_by("slug"))
        entries: list[Entry] = []
        for row in memories:
            rule = rules.get(row.rule_id)
            if rule is None or rule.condition not in CONDITIONS:
                continue
            event = firing.get(row.rule_id)
            before = _memory(row, event)
            verdict = alerting.judge(_rule(rule), before, facts, now)
            if verdict.memory != before:
                _keep(row, verdict.memory)
            event = _write(rule, event, verdict, now)
            if event is not None and verdict.change is not None:
                changes[rule.slug] = verdict.change
                entries.append(_entry(rule, event, verdict))
                _queue(rule, event, verdict, channels, now)
        audit.record(entries, now=now)
    return changes


def _without_memory(rules: Mapping[str, AlertRule]) -> list[str]:
    return sorted(set(rules) - set(AlertMemory.objects.values_list("rule_id", flat=True)))


def _in_force(row: AlertRule) -> bool:
    return row.enabled and row.archived_at is None


def _rule(row: AlertRule) -> Rule:
    return Rule(
        name=row.slug,
        condition=row.condition,
        threshold=row.threshold,
        duration=timedelta(seconds=row.duration),
        tier=Tier(row.tier),
        cooldown=timedelta(seconds=row.cooldown),
        scope=Scope(row.scope),
        target=row.target,
        in_force=_in_force(row),
    )


def _memory(row: AlertMemory, event: AlertEvent | None) -> Memory:
    since = {subject: datetime.fromisoformat(at) for subject, at in row.since.items()}
    return Memory(since, frozenset(row.told), row.told_at, event is not None)


def _keep(row: AlertMemory, memory: Memory) -> None:
    row.since = {subject: at.isoformat() for subject, at in sorted(memory.since.items())}
    row.told = sorted(memory.told)
    row.told_at = memory.told_at
    row.save()


def _write(rule: AlertRule, event: AlertEvent | None, verdict: Verdict, now: datetime) -> AlertEvent | None:
    """Bring the rule's alert up to what was judged; None where there is none."""
    if verdict.change is Change.FIRED:
        return AlertEvent.objects.create(
            rule=rule,
            title=rule.title,
            tier=rule.tier,
            subjects=_subjects(rule, verdict.holds),
            count=len(verdict.holds),
            most=len(verdict.holds),
            fired_at=now,
            seen_at=now,
        )
    if event is None:
        return None
    if verdict.change is Change.RESOLVED:
        event.status, event.resolved_at, event.resolution = AlertEvent.Status.RESOLVED, now, verdict.reason
        event.save(update_fields=["status", "resolved_at", "resolution"])
    elif verdict.holds:
        event.subjects, event.count = _subjects(rule, verdict.holds), len(verdict.holds)
        event.most, event.seen_at = max(event.most, event.count), now
        event.save(update_fields=["subjects", "count", "most", "seen_at"])
    return event


def _subjects(rule: AlertRule, holds: Sequence[Reading]) -> list[dict[str, Any]]:
    condition = CONDITIONS[rule.condition]
    return [
        {
            "subject": reading.subject,
            "value": round(reading.value, 3),
            "says": alerting.say(condition, reading),
            "nova_id": reading.nova_id,
        }
        for reading in holds[:KEPT_SUBJECTS]
    ]


def _entry(rule: AlertRule, event: AlertEvent, verdict: Verdict) -> Entry:
    change = verdict.change or Change.FIRED
    action = {Change.FIRED: FIRED, Change.GREW: GREW, Change.RESOLVED: RESOLVED}[change]
    after = {
        "rule": rule.slug,
        "tier": event.tier,
        "count": event.count,
        "subjects": [s["subject"] for s in event.subjects[:10]],
    }
    reason = verdict.reason or f"{rule.title}: {alerting.say(CONDITIONS[rule.condition], verdict.holds[0])}"
    return Entry(action, object_type="alert", object_id=str(event.pk), after=after, reason=reason)


def _queue(rule: AlertRule, event: AlertEvent, verdict: Verdict, channels: Sequence[AlertChannel], now: datetime) -> None:
    """Queue one message for each channel of the rule that is open and wants alerts of its tier."""
    change = verdict.change or Change.FIRED
    tier = Tier(event.tier)
    wanted = [
        channel
        for channel in channels
        if channel.is_open
        and (not rule.channels or channel.slug in rule.channels)
        and alerting.reaches(tier, Tier(channel.least_tier))
    ]
    title = alerting.summary(event.title, tier, change, event.count)
    text = verdict.reason if change is Change.RESOLVED else alerting.story(CONDITIONS[rule.condition], verdict.holds)
    AlertDelivery.objects.bulk_create(
        AlertDelivery(
            channel=channel,
            event=event,
            kind=change.value,
            message_id=new_message_id(),
            title=title,
            body=text,
            data=message_data(event),
            created_at=now,
            due_at=now,
        )
        for channel in wanted
    )


def new_message_id() -> str:
    """Give an id by which receivers tell a repeated message."""
    return f"msg_{secrets.token_hex(12)}"


def message_data(event: AlertEvent) -> dict[str, Any]:
    """Give what a webhook tells of an alert: no text of tasks, a few subjects."""
    return {
        "alert_id": event.pk,
        "rule": event.rule_id,
        "title": event.title,
        "tier": event.tier,
        "status": event.status,
        "count": event.count,
        "subjects": event.subjects[: alerting.NAMED],
        "fired_at": event.fired_at.isoformat(),
        "resolved_at": event.resolved_at.isoformat() if event.resolved_at else None,
        "resolution": event.resolution,
    }
