"""A safety policy: the limits that Novas live under."""

from datetime import timedelta
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from safety.core.status import SafetyRules


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

    class Preset(models.TextChoices):
        STANDARD = "standard"
        STRICT = "strict"

    slug = models.SlugField(max_length=64, primary_key=True)
    description = models.TextField(blank=True)
    preset = models.CharField(
        max_length=16, choices=Preset.choices, default=Preset.STANDARD, help_text="what its values are compared with"
    )
    max_concurrent_tasks = _count(1)

    requests_per_minute = _count(_STANDARD.requests_per_minute)
    requests_per_hour = _count(_STANDARD.requests_per_hour)
    requests_per_day = _count(_STANDARD.requests_per_day)
    concurrent_requests = _count(_STANDARD.concurrent_requests)
    burst_requests = _count(_STANDARD.burst_requests)
    burst_window = _seconds(_STANDARD.burst_window)
    request_timeout = _seconds(_STANDARD.request_timeout)
    tool_uses_per_minute = _count(_STANDARD.tool_uses_per_minute)
    failures_in_window = _count(_STANDARD.failures_in_window)
    failure_ratio = _share(_STANDARD.failure_ratio)
    failure_window = _seconds(_STANDARD.failure_window)
    cooldown = _seconds(_STANDARD.cooldown)
    cooldown_limit = _seconds(_STANDARD.cooldown_limit)
    drift_without_task_change = _seconds(_STANDARD.drift_without_task_change)
    own_wakes_per_hour = _count(_STANDARD.own_wakes_per_hour)
    empty_cycles_per_minute = _count(_STANDARD.empty_cycles_per_minute)
    celebration_limit = _seconds(_STANDARD.celebration_limit)
    meditation_stress = models.FloatField(default=_STANDARD.meditation_stress)
    emergency_stress = models.FloatField(default=_STANDARD.emergency_stress)
    stress_sustained = _seconds(_STANDARD.stress_sustained)
    meditation = _seconds(_STANDARD.meditation)
    process_memory_limit = _count(_STANDARD.process_memory_limit)
    process_cpu_limit = models.FloatField(
        default=_STANDARD.process_cpu_limit, validators=[MinValueValidator(0.01), MaxValueValidator(1.0)]
    )
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
            models.CheckConstraint(condition=Q(preset__in=["standard", "strict"]), name="policy_preset"),
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
