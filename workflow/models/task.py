"""A task: work accepted, durable, with an id (spec TASK_MESSAGE_SCHEMA plus what running it needs)."""

from datetime import datetime

from django.db import models
from django.db.models import Q

from workflow.core.work import Outcome, Priority, TaskStatus, WorkType
from workflow.models.nova import Nova, Objective


class TaskQuerySet(models.QuerySet["Task"]):
    def claimable(self, *, now: datetime) -> "TaskQuerySet":
        """Open tasks ready now, most urgent first."""
        return self.filter(
            Q(not_before=None) | Q(not_before__lte=now),
            Q(reserved_until=None) | Q(reserved_until__lt=now),
            status=TaskStatus.PENDING,
            assignee=None,
            waiting_on=0,
        ).order_by("order_at", "id")


class Task(models.Model):
    """One piece of work. Changed by workflow.task_tracker.TaskTracker only."""

    id = models.CharField(max_length=96, primary_key=True)  # {NOVA_ID}-{unix seconds}-{6 hex}
    title = models.CharField(max_length=500)
    description = models.TextField(blank=True)
    status = models.CharField(max_length=12, choices=[(s, s) for s in TaskStatus], default=TaskStatus.PENDING)
    priority = models.CharField(max_length=8, choices=[(p, p) for p in Priority], default=Priority.MEDIUM)
    work_type = models.CharField(max_length=12, choices=[(w, w) for w in WorkType], default=WorkType.REQUESTED)
    assignee = models.ForeignKey(Nova, on_delete=models.PROTECT, null=True, blank=True, related_name="tasks")
    team = models.CharField(max_length=64, blank=True)
    executor = models.CharField(max_length=32, blank=True)  # empty: the Nova's default
    action = models.CharField(max_length=64, blank=True)
    estimated_duration = models.FloatField(default=0.0)  # seconds; 0: unknown
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    order_at = models.DateTimeField()  # work.order_at(): age set back by rank
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    not_before = models.DateTimeField(null=True)
    waiting_on = models.PositiveIntegerField(default=0)  # unfinished dependencies
    attempts = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField(default=3)
    progress = models.PositiveSmallIntegerField(default=0)  # percent
    outcome = models.CharField(max_length=10, choices=[(o, o) for o in Outcome], blank=True)
    results = models.TextField(blank=True)
    metrics = models.JSONField(default=dict)
    insights = models.JSONField(null=True)  # the four sentences of the completion reflection
    blocked_at = models.DateTimeField(null=True)
    blocked_seconds = models.FloatField(default=0.0)
    block_owner = models.CharField(max_length=64, blank=True)
    block_action = models.CharField(max_length=200, blank=True)
    block_reason = models.TextField(blank=True)
    reserved_by = models.CharField(max_length=64, blank=True)  # the engine or agent that holds it
    reserved_until = models.DateTimeField(null=True)
    claimed_open = models.BooleanField(null=True)  # an agent's claim: whether it was open work; null: no agent has it
    fence = models.BigIntegerField(default=0)
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001 - null: many have none
    sender = models.CharField(max_length=128, blank=True)  # a claim, never proof
    cause = models.CharField(max_length=200, blank=True)  # the inbound entry or request that asked for it
    metadata = models.JSONField(default=dict)
    personal = models.BooleanField(default=False)
    objective = models.ForeignKey(
        Objective, on_delete=models.SET_NULL, null=True, blank=True, related_name="tasks", db_index=False
    )

    objects = TaskQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["pending", "in_progress", "completed", "blocked"]), name="task_status"
            ),
            models.CheckConstraint(condition=Q(priority__in=["critical", "high", "medium", "low"]), name="task_priority"),
            models.CheckConstraint(condition=Q(outcome__in=["", "succeeded", "cancelled"]), name="task_outcome"),
            models.CheckConstraint(condition=Q(progress__lte=100), name="task_progress"),
            models.CheckConstraint(
                condition=~Q(status="completed") | (Q(completed_at__isnull=False) & ~Q(outcome="")),
                name="task_completed_says_how",
            ),
            models.CheckConstraint(
                condition=~Q(status="blocked") | (~Q(block_owner="") & ~Q(block_action="")),
                name="task_blocked_says_who",
            ),
            models.CheckConstraint(
                condition=~Q(status="in_progress") | Q(assignee__isnull=False), name="task_in_progress_has_assignee"
            ),
            models.UniqueConstraint(
                fields=["idempotency_key"], condition=Q(idempotency_key__isnull=False), name="task_idempotency"
            ),
        ]
        indexes = [
            # the engine's reservation of open work, most urgent first
            models.Index(
                fields=["order_at", "id"],
                name="task_open",
                condition=Q(status="pending", assignee=None, waiting_on=0),
            ),
            # the engine's gather: what is assigned to, or held by, the Novas of a batch
            models.Index(
                fields=["assignee", "status", "order_at"],
                name="task_mine",
                condition=Q(status__in=["pending", "in_progress"]),
            ),
            # what agents hold, to see whose leases have ended (a reservation changes none of its columns)
            models.Index(fields=["id"], name="task_agent_held", condition=Q(status="in_progress", claimed_open__isnull=False)),
            # lists by status, newest first
            models.Index(fields=["status", "-created_at"], name="task_status_list"),
            # the board's column of what was completed lately
            models.Index(fields=["-completed_at"], name="task_finished", condition=Q(status="completed")),
            # momentum's daily limit, the brief's related tasks and the history of an action
            models.Index(fields=["action", "completed_at"], name="task_history", condition=~Q(action="")),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.title[:60]}"


class TaskDependency(models.Model):
    """`task` waits until `depends_on` has succeeded."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="dependencies", db_index=False)
    depends_on = models.CharField(max_length=96, db_index=True)  # an id that may not exist yet

    class Meta:
        verbose_name_plural = "task dependencies"
        constraints = [models.UniqueConstraint(fields=["task", "depends_on"], name="dependency_once")]

    def __str__(self) -> str:
        return f"{self.task_id} after {self.depends_on}"


class TaskNumber(models.Model):
    """The counter behind task ids (one row); processes take blocks of it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    value = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.value)


class TaskStatistics(models.Model):
    """How tasks of one kind went so far: what estimates and celebrations compare with."""

    key = models.CharField(max_length=100, primary_key=True)  # work.similarity_key()
    count = models.PositiveBigIntegerField(default=0)
    seconds = models.FloatField(default=0.0)

    class Meta:
        verbose_name_plural = "task statistics"

    def __str__(self) -> str:
        return self.key
