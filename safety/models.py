"""The ground floor's tables: safety policies and verdicts, observations, incidents, and the one journal with its outbox.

A Nova is known here by its `nova_id` only. AuditEntry is append-only: the model refuses, and database triggers refuse
(safety/triggers.py).
"""

from datetime import timedelta
from typing import Any, NoReturn

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from safety.core.status import SafetyRules


class JournalIsAppendOnly(Exception):
    """Somebody tried to change or delete a journal entry. Nothing was changed; write a new entry instead."""


class AuditEntryQuerySet(models.QuerySet["AuditEntry"]):
    def update(self, **kwargs: Any) -> NoReturn:
        raise JournalIsAppendOnly("Journal entries can't be changed; nothing was changed.")

    def delete(self) -> NoReturn:
        raise JournalIsAppendOnly("Journal entries can't be deleted; nothing was deleted.")


class AuditEntry(models.Model):
    """One accepted change: who did what to which object, and the stream message it causes, if any (design sections 2 and 6).

    Written by `safety.audit.record` only, in the transaction of the change. No foreign keys: the entry outlives its object.
    """

    id = models.BigAutoField(primary_key=True)
    created_at = models.DateTimeField()
    nova_id = models.CharField(max_length=64, blank=True)
    seq = models.BigIntegerField(default=0)  # per Nova, in commit order; 0 where the entry belongs to no Nova
    actor = models.CharField(max_length=128)
    action = models.CharField(max_length=64)
    object_type = models.CharField(max_length=32, blank=True)
    object_id = models.CharField(max_length=128, blank=True)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    reason = models.TextField(blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    cause = models.CharField(max_length=200, blank=True)
    stream = models.CharField(max_length=128, blank=True)
    message = models.JSONField(null=True)  # the stream entry's fields, without the envelope
    personal = models.BooleanField(default=False)

    objects = AuditEntryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "audit entries"
        indexes = [
            # the story of one Nova, and of one object, in order
            models.Index(fields=["nova_id", "id"], name="audit_nova"),
            models.Index(fields=["object_id", "id"], name="audit_object"),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.action} {self.object_id}"

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise JournalIsAppendOnly("Journal entries are written by safety.audit.record; nothing was written.")

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise JournalIsAppendOnly("Journal entries can't be deleted; nothing was deleted.")


class JournalHead(models.Model):
    """The last `seq` taken for a Nova. Its row lock makes commit order and `seq` order the same."""

    nova_id = models.CharField(max_length=64, primary_key=True)
    seq = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.nova_id} {self.seq}"


class OutboxEntry(models.Model):
    """Points at the entries of one commit that are yet to be published; the relay deletes it when they are out."""

    id = models.BigAutoField(primary_key=True)
    created_at = models.DateTimeField()
    entry_ids = models.JSONField()  # AuditEntry ids, ascending

    class Meta:
        verbose_name_plural = "outbox entries"

    def __str__(self) -> str:
        return f"{self.id} {self.entry_ids}"


class Installation(models.Model):
    """Names this installation to the stream server (one row): the epoch key and the prefix of every event id."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    name = models.CharField(max_length=16)  # random; event ids are `{name}-{entry id}`
    epoch = models.CharField(max_length=32)  # what the stream server's epoch key must say
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="installation_single")]

    def __str__(self) -> str:
        return self.name


def _count(default: int, least: int = 1) -> Any:
    return models.PositiveIntegerField(default=default, validators=[MinValueValidator(least)])


def _seconds(default: timedelta) -> Any:
    return models.FloatField(default=default.total_seconds(), validators=[MinValueValidator(0.1)], help_text="seconds")


def _share(default: float) -> Any:
    return models.FloatField(default=default, validators=[MinValueValidator(0.0), MaxValueValidator(1.0)])


_STANDARD = SafetyRules()
RULE_DURATIONS = frozenset(name for name in SafetyRules.__dataclass_fields__ if isinstance(getattr(_STANDARD, name), timedelta))


class SafetyPolicy(models.Model):
    """The limits a Nova lives under; one row per preset or operator's own set. Fields mirror SafetyRules."""

    slug = models.SlugField(max_length=64, primary_key=True)
    description = models.TextField(blank=True)
    max_concurrent_tasks = _count(1)

    requests_per_minute = _count(_STANDARD.requests_per_minute)
    requests_per_hour = _count(_STANDARD.requests_per_hour)
    requests_per_day = _count(_STANDARD.requests_per_day)
    concurrent_requests = _count(_STANDARD.concurrent_requests)
    burst_requests = _count(_STANDARD.burst_requests)
    burst_window = _seconds(_STANDARD.burst_window)
    tool_uses_per_minute = _count(_STANDARD.tool_uses_per_minute)
    failures_in_window = _count(_STANDARD.failures_in_window)
    failure_ratio = _share(_STANDARD.failure_ratio)
    failure_window = _seconds(_STANDARD.failure_window)
    cooldown = _seconds(_STANDARD.cooldown)
    cooldown_limit = _seconds(_STANDARD.cooldown_limit)
    drift_without_task_change = _seconds(_STANDARD.drift_without_task_change)
    own_wakes_per_hour = _count(_STANDARD.own_wakes_per_hour)
    celebration_limit = _seconds(_STANDARD.celebration_limit)
    meditation_stress = models.FloatField(default=_STANDARD.meditation_stress)
    emergency_stress = models.FloatField(default=_STANDARD.emergency_stress)
    stress_sustained = _seconds(_STANDARD.stress_sustained)
    meditation = _seconds(_STANDARD.meditation)
    hook_silence = _seconds(_STANDARD.hook_silence)
    hook_failures_in_window = _count(_STANDARD.hook_failures_in_window)
    session_events_per_minute = _count(_STANDARD.session_events_per_minute)
    identical_calls_per_minute = _count(_STANDARD.identical_calls_per_minute)
    quarantine = _seconds(_STANDARD.quarantine)
    stream_silence = _seconds(_STANDARD.stream_silence)
    round_trip_limit = _seconds(_STANDARD.round_trip_limit)
    intake_lag_limit = _seconds(_STANDARD.intake_lag_limit)
    outbox_age_limit = _seconds(_STANDARD.outbox_age_limit)
    stream_memory_ratio = _share(_STANDARD.stream_memory_ratio)

    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "safety policies"
        constraints = [
            models.CheckConstraint(
                condition=Q(max_concurrent_tasks__gte=1, max_concurrent_tasks__lte=64), name="policy_concurrency"
            ),
            models.CheckConstraint(condition=Q(failure_ratio__gte=0, failure_ratio__lte=1), name="policy_failure_ratio"),
            models.CheckConstraint(
                condition=Q(meditation_stress__gt=0, emergency_stress__gte=models.F("meditation_stress")),
                name="policy_stress",
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def rules(self) -> SafetyRules:
        """Give the limits as the core takes them."""
        values: dict[str, Any] = {
            name: timedelta(seconds=getattr(self, name)) if name in RULE_DURATIONS else getattr(self, name)
            for name in SafetyRules.__dataclass_fields__
        }
        return SafetyRules(**values)


class SafetyState(models.Model):
    """The verdict in force for a Nova, and what the judges must remember between two checks."""

    nova_id = models.CharField(max_length=64, primary_key=True)
    is_safe = models.BooleanField(default=True)
    safety_level = models.CharField(max_length=16, default="normal")
    mechanism = models.CharField(max_length=32, blank=True)
    reason = models.TextField(blank=True)
    measured = models.FloatField(null=True)
    limit = models.FloatField(null=True)
    since = models.DateTimeField(null=True)
    until = models.DateTimeField(null=True)
    cooldown_since = models.DateTimeField(null=True)  # when the last cooldown began; kept after its end
    cooldown_until = models.DateTimeField(null=True)
    cooldown_reason = models.TextField(blank=True)
    cooldowns_in_a_row = models.PositiveIntegerField(default=0)
    last_cooldown_end = models.DateTimeField(null=True)
    meditation_until = models.DateTimeField(null=True)
    quarantine_until = models.DateTimeField(null=True)
    quarantine_reason = models.TextField(blank=True)
    stressed_since = models.DateTimeField(null=True)
    hooks_expected = models.BooleanField(default=False)
    last_hook_heartbeat = models.DateTimeField(null=True)
    last_work_evidence = models.DateTimeField(null=True)
    api_breaker_open_until = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.nova_id} {'safe' if self.is_safe else self.mechanism}"


class Observation(models.Model):
    """Something a Nova was seen doing, counted per kind and bucket of time: what the judges' windows are summed from."""

    id = models.BigAutoField(primary_key=True)
    nova_id = models.CharField(max_length=64)
    kind = models.CharField(max_length=24)  # safety.observations.Kind
    detail = models.CharField(max_length=64, blank=True)  # the digest of a call, so that identical ones can be counted
    at = models.DateTimeField()  # the beginning of its bucket
    count = models.PositiveIntegerField(default=1)

    class Meta:
        constraints = [
            # one row a bucket; the batched load of facts sums the windows of a batch of Novas by it
            models.UniqueConstraint(fields=["nova_id", "kind", "at", "detail"], name="observation_once"),
        ]
        indexes = [
            # forgetting what no window reaches any more
            models.Index(fields=["at"], name="observation_age"),
        ]

    def __str__(self) -> str:
        return f"{self.nova_id} {self.kind} {self.count}"


class SafetyIncident(models.Model):
    """A violation and what was done about it. `nova_id` empty: the whole fleet's (stream server away)."""

    class Status(models.TextChoices):
        OPEN = "open"
        ACKNOWLEDGED = "acknowledged"
        MITIGATED = "mitigated"
        RESOLVED = "resolved"
        FALSE_POSITIVE = "false_positive"

    nova_id = models.CharField(max_length=64, blank=True)
    mechanism = models.CharField(max_length=32)
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.OPEN)
    reason = models.TextField()
    evidence = models.JSONField(default=dict)
    opened_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["open", "acknowledged", "mitigated", "resolved", "false_positive"]),
                name="incident_status",
            ),
            # a violation that lasts joins its incident
            models.UniqueConstraint(fields=["nova_id", "mechanism"], condition=Q(ended_at=None), name="incident_one_open"),
        ]

    def __str__(self) -> str:
        return f"{self.mechanism} {self.nova_id or 'fleet'} {self.status}"


class FleetFact(models.Model):
    """What one process observed of machine and stream server for all to use (one row a name)."""

    name = models.CharField(max_length=32, primary_key=True)
    value = models.JSONField(null=True)
    since = models.DateTimeField(null=True)
    observed_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
