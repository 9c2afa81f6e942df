"""Reports: what was said to whom, unchangeable, so that a number quoted in a meeting can be found again."""

from typing import Any, NoReturn

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q


class ReportIsFixed(Exception):
    """Somebody tried to change a report. Nothing was changed; make a new one instead."""


class ReportQuerySet(models.QuerySet["Report"]):
    def update(self, **kwargs: Any) -> NoReturn:
        raise ReportIsFixed("Reports can't be changed; nothing was changed. Make a new one.")


class Report(models.Model):
    """A snapshot of one scope's figures over a period, beside the period before. Never changed; `digest` proves it."""

    id = models.CharField(max_length=40, primary_key=True)  # REPORT-{yyyymmdd}-{8 hex}
    scope = models.CharField(max_length=80)  # fleet, team:{team}, nova:{nova_id}
    since = models.DateTimeField()
    until = models.DateTimeField()
    generated_at = models.DateTimeField()
    generated_by = models.CharField(max_length=128)
    journal_head = models.BigIntegerField()  # the newest journal entry in its sums
    seal_head = models.CharField(max_length=128, blank=True)  # digest of the newest seal of the journal, where there is one
    payload = models.JSONField()
    digest = models.CharField(max_length=64)  # SHA-256 of the payload's canonical JSON

    objects = ReportQuerySet.as_manager()

    class Meta:
        indexes = [
            # the list, newest first
            models.Index(fields=["-generated_at", "-id"], name="report_list"),
        ]

    def __str__(self) -> str:
        return self.id

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise ReportIsFixed("Reports can't be changed; nothing was changed. Make a new one.")
        super().save(*args, **kwargs)


class ReportLink(models.Model):
    """A link by which somebody without an account may read one report until it expires or is revoked."""

    id = models.CharField(max_length=32, primary_key=True)  # random; the link is it, signed
    report = models.ForeignKey(Report, on_delete=models.CASCADE, related_name="links")
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    revoked_by = models.CharField(max_length=128, blank=True)

    def __str__(self) -> str:
        return f"{self.report_id} until {self.expires_at:%Y-%m-%d %H:%M}"


class ReportSchedule(models.Model):
    """Makes a report each `every` days at `due_at`; the row is moved on in the transaction that makes the report."""

    name = models.CharField(max_length=100, unique=True)
    scope = models.CharField(max_length=80, default="fleet")
    days = models.PositiveSmallIntegerField(default=7, help_text="length of the period, and the time between two reports")
    due_at = models.DateTimeField()
    enabled = models.BooleanField(default=True)
    last_report = models.ForeignKey(Report, on_delete=models.SET_NULL, null=True, blank=True, related_name="+", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(days__gte=1, days__lte=366), name="report_schedule_days")]
        indexes = [
            # which are due?
            models.Index(fields=["due_at"], name="report_schedule_due", condition=Q(enabled=True)),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        kind, _, name = self.scope.partition(":")
        if not (self.scope == "fleet" or (kind in ("team", "nova") and name)):
            raise ValidationError({"scope": "Give fleet, team:NAME or nova:ID."})
