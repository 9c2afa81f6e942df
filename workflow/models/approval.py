"""An approval: a person's word on one exact action that an agent or an executor wants to take."""

from django.db import models
from django.db.models import Q

from workflow.models.nova import Nova


class Approval(models.Model):
    """A request and what became of it. It is bound to the digest of action and arguments, and good for one use."""

    class Status(models.TextChoices):
        PENDING = "pending"
        APPROVED = "approved"
        DENIED = "denied"
        EXPIRED = "expired"  # nobody answered in time, or what was approved was not used in time: no denial
        USED = "used"

    OPEN = ("pending", "approved")

    id = models.BigAutoField(primary_key=True)
    nova = models.ForeignKey(Nova, on_delete=models.PROTECT, related_name="approvals")
    task_id = models.CharField(max_length=96, blank=True)
    action = models.CharField(max_length=128)
    arguments = models.JSONField(default=dict)
    digest = models.CharField(max_length=64)  # SHA-256 over action and arguments as canonical JSON
    reason = models.TextField(blank=True)  # why the agent wants it
    requested_by = models.CharField(max_length=128)
    requested_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    frozen_at = models.DateTimeField(null=True)  # its clock stands since then, with its Nova's
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    decided_by = models.CharField(max_length=128, blank=True)
    decided_at = models.DateTimeField(null=True)
    decision_reason = models.TextField(blank=True)
    used_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["pending", "approved", "denied", "expired", "used"]), name="approval_status"
            ),
            # asking twice is asking once
            models.UniqueConstraint(
                fields=["nova", "digest"], condition=Q(status__in=["pending", "approved"]), name="approval_one_open"
            ),
        ]
        indexes = [
            # what may expire, and the operators' list of what waits for them
            models.Index(fields=["expires_at"], name="approval_open", condition=Q(status__in=["pending", "approved"])),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.action} {self.status}"
