"""An incident: a violation, and what became of it."""

from django.db import models
from django.db.models import Q


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
    violation = models.CharField(
        max_length=32, blank=True, db_default=""
    )  # as reported to handle_safety_violation; empty: a judge found it
    safety_level = models.CharField(max_length=16, blank=True, db_default="")
    reason = models.TextField()
    evidence = models.JSONField(default=dict)
    opened_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    joined = models.PositiveIntegerField(default=0, db_default=0)  # further violations that it took in
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.CharField(max_length=128, blank=True, db_default="")
    conclusion = models.TextField(blank=True, db_default="")  # what whoever closed it wrote

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["open", "acknowledged", "mitigated", "resolved", "false_positive"]),
                name="incident_status",
            ),
            # a violation that lasts joins its incident
            models.UniqueConstraint(fields=["nova_id", "mechanism"], condition=Q(ended_at=None), name="incident_one_open"),
        ]

        indexes = [
            # the list of one Nova's incidents, and of those with a status, newest first
            models.Index(fields=["nova_id", "id"], name="incident_of_nova"),
            models.Index(fields=["status", "id"], name="incident_by_status"),
        ]

    def __str__(self) -> str:
        return f"{self.mechanism} {self.nova_id or 'fleet'} {self.status}"
