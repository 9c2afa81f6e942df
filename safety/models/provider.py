"""An account at a provider of models: what the API guardian counts beside each Nova, and whose breaker all its Novas share."""

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q


def _count(default: int) -> "models.PositiveIntegerField[int, int]":
    return models.PositiveIntegerField(default=default, validators=[MinValueValidator(1)])


def _seconds(default: float) -> "models.FloatField[float, float]":
    return models.FloatField(default=default, validators=[MinValueValidator(0.1)], help_text="seconds")


class ProviderAccount(models.Model):
    """Where calls to models go, and how many may. Where its key is kept is never shown, logged or exported."""

    class Kind(models.TextChoices):
        ANTHROPIC = "anthropic"
        OPENAI = "openai"
        OTHER = "other"

    class KeySource(models.TextChoices):
        NONE = "none"  # the agent has its own
        ENVIRONMENT = "environment"
        FILE = "file"

    class Breaker(models.TextChoices):
        CLOSED = "closed"
        OPEN = "open"
        HALF_OPEN = "half_open"

    slug = models.SlugField(max_length=63, primary_key=True)
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.ANTHROPIC)
    base_url = models.URLField(max_length=255, blank=True)
    key_source = models.CharField(max_length=16, choices=KeySource.choices, default=KeySource.NONE)
    key_location = models.CharField(max_length=255, blank=True, help_text="name of the variable, or path of the file")
    requests_per_minute = _count(120)
    requests_per_hour = _count(2_000)
    requests_per_day = _count(40_000)
    concurrent_requests = _count(20)
    burst_requests = _count(48)
    burst_window = _seconds(10.0)
    breaker_failures = models.PositiveIntegerField(
        default=5, validators=[MinValueValidator(1)], help_text="consecutive failures that open the breaker"
    )
    breaker_rest = models.FloatField(
        default=30.0, validators=[MinValueValidator(0.1)], help_text="seconds until a probe; doubles with each failed probe"
    )
    breaker_rest_limit = _seconds(600.0)
    # what the breaker was when it last changed: the guardian's counters are the truth, this is what pages and judges read
    breaker = models.CharField(max_length=16, choices=Breaker.choices, default=Breaker.CLOSED, editable=False)
    breaker_since = models.DateTimeField(null=True, editable=False)
    breaker_open_until = models.DateTimeField(null=True, editable=False)
    breaker_reason = models.TextField(blank=True, editable=False)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=["anthropic", "openai", "other"]), name="provider_kind"),
            models.CheckConstraint(condition=Q(key_source__in=["none", "environment", "file"]), name="provider_key_source"),
            models.CheckConstraint(condition=Q(breaker__in=["closed", "open", "half_open"]), name="provider_breaker"),
        ]

    def __str__(self) -> str:
        return self.slug
