"""An account at a provider of models: what the API guardian counts beside each Nova, and whose breaker all its Novas share."""

import re
from typing import ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _count(default: int) -> "models.PositiveIntegerField[int, int]":
    return models.PositiveIntegerField(default=default, validators=[MinValueValidator(1)])


def _seconds(default: float) -> "models.FloatField[float, float]":
    return models.FloatField(default=default, validators=[MinValueValidator(0.1)], help_text="seconds")


class ProviderAccount(models.Model):
    """Where calls to models go, and how many may. Where its key is kept is never shown, logged or exported."""

    HIDDEN: ClassVar[frozenset[str]] = frozenset(
        {"key_source", "key_location", "encrypted_key"}
    )  # written, and read by callers of models only

    class Kind(models.TextChoices):
        ANTHROPIC = "anthropic"
        OPENAI = "openai"
        OTHER = "other"

    class KeySource(models.TextChoices):
        NONE = "none"  # the agent has its own
        ENVIRONMENT = "environment"
        FILE = "file"
        ENCRYPTED = "encrypted"  # in encrypted_key

    class Breaker(models.TextChoices):
        CLOSED = "closed"
        OPEN = "open"
        HALF_OPEN = "half_open"

    slug = models.SlugField(max_length=63, primary_key=True)
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.ANTHROPIC)
    base_url = models.URLField(max_length=255, blank=True)
    key_source = models.CharField(max_length=16, choices=KeySource.choices, default=KeySource.NONE)
    key_location = models.CharField(max_length=255, blank=True, help_text="name of the variable, or path of the file")
    encrypted_key = models.TextField(blank=True, editable=False)
    streaming = models.BooleanField(default=False, help_text="ask for answers as they are written, instead of whole")
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
            models.CheckConstraint(
                condition=Q(key_source__in=["none", "environment", "file", "encrypted"]), name="provider_key_source"
            ),
            models.CheckConstraint(condition=Q(breaker__in=["closed", "open", "half_open"]), name="provider_breaker"),
        ]

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        """Refuse an address or a place of the key that could hold or tell a secret; what was given is not repeated."""
        problems = {}
        if problem := _problem_of_address(self.base_url):
            problems["base_url"] = problem
        if problem := self._problem_of_location():
            problems["key_location"] = problem
        if problems:
            raise ValidationError(problems)

    def _problem_of_location(self) -> str:
        if self.key_source == self.KeySource.ENVIRONMENT and not _VARIABLE.fullmatch(self.key_location):
            return "Give the name of an environment variable: letters, digits and _. Never give the key itself."
        if self.key_source == self.KeySource.FILE and not self.key_location.startswith("/"):
            return "Give the absolute path of the file that holds the key. Never give the key itself."
        if self.key_source == self.KeySource.ENCRYPTED and (self.key_location or not self.encrypted_key):
            return "Give the key itself, and no place; it is kept encrypted."
        if self.key_source == self.KeySource.NONE and self.key_location:
            return "Say with key_source what this is: environment or file."
        return ""


def _problem_of_address(text: str) -> str:
    """Say what is wrong with a base URL; empty: nothing, or the field's own validator says it."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    if text and parts.scheme.lower() not in ("http", "https"):
        return "Give an address that begins with http:// or https://."
    if "@" in parts.netloc:
        return "Give the address without a user name or password. Where the key is kept is said by key_source and key_location."
    if parts.query or parts.fragment or "?" in text or "#" in text:
        return "Give scheme, host and path only, without ? and #."
    return ""
