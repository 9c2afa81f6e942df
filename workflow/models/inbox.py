"""What came in by stream, and how far each stream was read."""

from django.db import models
from django.db.models import Q


class InboxMessage(models.Model):
    """One inbound stream entry and what became of it. A refused one keeps its raw fields and the reason."""

    class Status(models.TextChoices):
        WAITING = "waiting"  # addressed to a Nova that has not looked yet
        HANDLED = "handled"
        REJECTED = "rejected"

    id = models.BigAutoField(primary_key=True)
    stream = models.CharField(max_length=128)
    entry_id = models.CharField(max_length=48)
    kind = models.CharField(max_length=12)  # work_item, alert, signal, foreign
    status = models.CharField(max_length=10, choices=Status.choices)
    tier = models.CharField(max_length=12, blank=True)  # critical, high, medium, low, background
    nova_id = models.CharField(max_length=64, blank=True)
    sender = models.CharField(max_length=128, blank=True)
    task_id = models.CharField(max_length=96, blank=True)
    outcome = models.CharField(max_length=200, blank=True)  # what became of it, in a few words
    reason = models.TextField(blank=True)  # why it was rejected
    fields = models.JSONField(default=dict)
    received_at = models.DateTimeField()
    handled_at = models.DateTimeField(null=True)
    acked_at = models.DateTimeField(null=True)  # when the Nova's agent said that it has read it

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["stream", "entry_id"], name="inbox_once"),
            models.CheckConstraint(condition=Q(status__in=["waiting", "handled", "rejected"]), name="inbox_status"),
        ]
        indexes = [
            # a Nova's stream check: what waits for it?
            models.Index(fields=["nova_id", "id"], name="inbox_waiting", condition=Q(status="waiting")),
            # what a Nova's agent has not acknowledged
            models.Index(
                fields=["nova_id", "id"], name="inbox_unread", condition=Q(kind="signal", acked_at=None) & ~Q(nova_id="")
            ),
            # the operators' list of refused messages
            models.Index(fields=["-id"], name="inbox_rejected", condition=Q(status="rejected")),
        ]

    def __str__(self) -> str:
        return f"{self.stream} {self.entry_id} {self.status}"


class StreamCursor(models.Model):
    """How far a stream was read; moves in the transaction of what its entries caused."""

    stream = models.CharField(max_length=128, primary_key=True)
    last_id = models.CharField(max_length=48, default="0-0")
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.stream} {self.last_id}"
