"""An execution: one attempt at a task, run by a host outside the loop."""

from django.db import models
from django.db.models import Q

from workflow.models.nova import Nova
from workflow.models.task import Task


class Execution(models.Model):
    """One attempt. The host that runs it holds `lease_until` and writes its end under `fence`."""

    class Status(models.TextChoices):
        DISPATCHED = "dispatched"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        TIMED_OUT = "timed_out"
        CANCELLED = "cancelled"
        ABANDONED = "abandoned"  # its host died; the task's next attempt says so

    id = models.BigAutoField(primary_key=True)
    # no index of their own: executions are found by task and attempt
    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="executions", db_index=False)
    nova = models.ForeignKey(Nova, on_delete=models.PROTECT, related_name="executions", db_index=False)
    executor = models.CharField(max_length=32)
    action = models.CharField(max_length=64, blank=True)
    attempt = models.PositiveIntegerField()
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.DISPATCHED)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    timeout = models.FloatField()  # seconds
    results = models.TextField(blank=True)
    metrics = models.JSONField(default=dict)
    needs = models.JSONField(null=True)  # {owner, action} when only somebody else can go on
    error = models.TextField(blank=True)
    retryable = models.BooleanField(default=True)
    not_before = models.DateTimeField(null=True)  # it was put off until then: no attempt is used up, and none begins earlier
    progress = models.PositiveSmallIntegerField(default=0)
    runs = models.PositiveIntegerField(default=0)  # hosts that began it; more than 1 means its effect may have happened twice
    host = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True)
    fence = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["task", "attempt"], name="execution_attempt_once"),
            models.CheckConstraint(
                condition=Q(status__in=["dispatched", "running", "succeeded", "failed", "timed_out", "cancelled", "abandoned"]),
                name="execution_status",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["dispatched", "running"], finished_at=None)
                | (~Q(status__in=["dispatched", "running"]) & Q(finished_at__isnull=False)),
                name="execution_ended_says_when",
            ),
        ]
        indexes = [
            # the host's claim: what waits to be run, and what a dead host left; a claim leaves it as it is
            models.Index(fields=["id"], name="execution_open", condition=Q(finished_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.task_id}#{self.attempt} {self.status}"
