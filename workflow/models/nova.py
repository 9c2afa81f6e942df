"""A Nova: what operators configure, and the row that remembers where it stands."""

from datetime import datetime
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from safety.models import ProviderAccount, SafetyPolicy
from workflow.core.state import CompletionStage, WorkflowPhase, WorkflowState

NOVA_ID = RegexValidator(
    r"^[a-z0-9][a-z0-9_-]{0,62}$",
    "A nova_id is 1 to 63 characters: lower-case letters, digits, - and _, beginning with a letter or digit.",
)


class Personality(models.Model):
    """How a Nova works: its pace, how often it reflects, its styles (spec section 8)."""

    slug = models.SlugField(max_length=64, primary_key=True)
    base_cycle_time = models.FloatField(validators=[MinValueValidator(1.0), MaxValueValidator(86_400.0)], help_text="seconds")
    reflection_frequency = models.FloatField(
        validators=[MinValueValidator(0.0), MaxValueValidator(1.0)], help_text="share of cycles, 0 to 1"
    )
    celebration_style = models.CharField(max_length=32)
    work_style = models.CharField(max_length=32)
    communication_pattern = models.CharField(max_length=32)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "personalities"
        constraints = [
            models.CheckConstraint(condition=Q(base_cycle_time__gte=1), name="personality_cycle_time"),
            models.CheckConstraint(
                condition=Q(reflection_frequency__gte=0, reflection_frequency__lte=1), name="personality_reflection"
            ),
        ]

    def __str__(self) -> str:
        return self.slug


def default_executors() -> list[str]:
    """What a new Nova may run: the builtin work, and an external agent that claims."""
    return ["builtin", "agent"]


def _budget(meaning: str) -> Any:
    return models.PositiveBigIntegerField(null=True, blank=True, help_text=meaning)


class Nova(models.Model):
    """An agent that works around the clock, as configured. Its `nova_id` is for ever: Novas are archived, not deleted."""

    nova_id = models.CharField(max_length=63, primary_key=True, validators=[NOVA_ID])
    name = models.CharField(max_length=128)
    personality = models.ForeignKey(Personality, on_delete=models.PROTECT, default="torch")
    policy = models.ForeignKey(SafetyPolicy, on_delete=models.PROTECT, default="standard")
    candidate_policy = models.ForeignKey(
        SafetyPolicy,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="judged beside the enforced policy: what it would have blocked is recorded, nothing more",
    )
    provider_account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, null=True, blank=True, related_name="novas")
    model = models.CharField(
        max_length=128, blank=True, help_text="what the executor model asks of the provider account, as the provider calls it"
    )
    budget_requests = _budget("calls to models a day (UTC); empty: no limit but the policy's")
    budget_tokens = _budget("tokens a day, in and out; empty: no limit")
    budget_cost = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.0)], help_text="money a day, by the prices; empty: no limit"
    )
    approval_tools = models.JSONField(
        default=list, blank=True, help_text="tools of the model that a person must approve each time"
    )
    team = models.SlugField(max_length=64, blank=True)
    default_executor = models.CharField(max_length=32, default="builtin")
    allowed_executors = models.JSONField(default=default_executors, help_text="what this Nova's tasks may run")
    stream_executors = models.JSONField(default=default_executors, help_text="what a stream entry may choose for this Nova")
    tasks_per_phase = models.PositiveIntegerField(default=5, validators=[MinValueValidator(1)])
    personal_phase_after = models.PositiveIntegerField(default=0, help_text="work phases between two personal phases; 0: never")
    personal_phase_minutes = models.FloatField(default=5.0, validators=[MinValueValidator(0.1)])
    execution_timeout = models.FloatField(
        default=300.0, validators=[MinValueValidator(0.1), MaxValueValidator(900.0)], help_text="seconds"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(execution_timeout__gt=0, execution_timeout__lte=900), name="nova_execution_timeout"
            ),
            models.CheckConstraint(condition=Q(tasks_per_phase__gte=1), name="nova_tasks_per_phase"),
        ]
        permissions = [("hear_events", "Can hear what happens, as it happens")]

    def __str__(self) -> str:
        return self.nova_id


class NovaStateQuerySet(models.QuerySet["NovaState"]):
    def runnable(self) -> "NovaStateQuerySet":
        """Novas that the engine may step: not paused, quarantined or archived."""
        return self.filter(mode__in=NovaState.RUNNING_MODES)

    def due(self, *, now: datetime) -> "NovaStateQuerySet":
        return self.runnable().filter(due_at__lte=now)


class NovaState(models.Model):
    """Where a Nova stands: WorkflowStateData, when it is due, and who holds it (spec "State Persistence").

    Written by the engine under its lease and fence; operators change `mode` through workflow.services.
    """

    class Mode(models.TextChoices):
        RUNNING = "running"
        DRAINING = "draining"
        PAUSED = "paused"
        HALTED = "halted"
        KILLED = "killed"
        QUARANTINED = "quarantined"
        ARCHIVED = "archived"

    RUNNING_MODES = ("running", "draining")

    nova = models.OneToOneField(Nova, on_delete=models.PROTECT, primary_key=True, related_name="state")
    mode = models.CharField(max_length=12, choices=Mode.choices, default=Mode.RUNNING)
    mode_reason = models.TextField(blank=True)
    mode_since = models.DateTimeField(null=True)
    mode_actor = models.CharField(max_length=128, blank=True)
    paused_remaining = models.FloatField(default=0.0)  # seconds the Nova still had to rest when it was paused

    current_state = models.CharField(max_length=20, choices=[(s, s) for s in WorkflowState], default="initializing")
    current_phase = models.CharField(max_length=16, choices=[(p, p) for p in WorkflowPhase], default="work_phase_1")
    tasks_completed_in_phase = models.PositiveIntegerField(default=0)
    tool_use_count = models.PositiveBigIntegerField(default=0)
    last_stream_check = models.DateTimeField(null=True)
    last_completion_celebration = models.DateTimeField(null=True)
    session_start_time = models.DateTimeField()
    total_cycles_completed = models.PositiveBigIntegerField(default=0)
    safety_status = models.JSONField(default=dict)  # SafetyStatus as published in the state hash
    state_entered_at = models.DateTimeField()
    cycle_started_at = models.DateTimeField()
    phase_started_at = models.DateTimeField()
    resume_state = models.CharField(max_length=20, blank=True)
    work_phases_completed = models.PositiveIntegerField(default=0)
    completion_stage = models.CharField(max_length=20, choices=[(s, s) for s in CompletionStage], blank=True)
    completion_stage_until = models.DateTimeField(null=True)
    completion_until = models.DateTimeField(null=True)
    consecutive_errors = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)
    tasks_in_flight = models.PositiveIntegerField(default=0)
    protocol_checks = models.PositiveBigIntegerField(default=0)
    protocol_passes = models.PositiveBigIntegerField(default=0)
    personal_reflections = models.PositiveIntegerField(default=0)
    error_ratio = models.FloatField(default=0.0, db_default=0.0)  # share of its recent executions that failed
    last_task_change = models.DateTimeField(null=True)  # by this Nova; completion drift is judged by it
    context = models.JSONField(default=dict)
    agent_completed = models.BigIntegerField(default=0)  # tasks its agent has completed; the engine counts them in its cycles
    agent_level = models.PositiveSmallIntegerField(default=0)  # the celebration level of the newest of them

    due_at = models.DateTimeField()
    wakes = models.BigIntegerField(default=0)  # a step whose claim saw another number is due again at once
    lease_holder = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True)
    fence = models.BigIntegerField(default=0)
    crashes = models.PositiveSmallIntegerField(default=0)  # claims in a row that ended without a commit

    objects = NovaStateQuerySet.as_manager()

    class Meta:
        indexes = [
            # the engine's claim: who is due?
            models.Index(fields=["due_at"], name="novastate_due", condition=Q(mode__in=["running", "draining"])),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(mode__in=["running", "draining", "paused", "halted", "killed", "quarantined", "archived"]),
                name="novastate_mode",
            ),
            models.CheckConstraint(condition=Q(current_state__in=[s.value for s in WorkflowState]), name="novastate_state"),
            models.CheckConstraint(condition=Q(current_phase__in=[p.value for p in WorkflowPhase]), name="novastate_phase"),
        ]

    def __str__(self) -> str:
        return f"{self.nova_id} {self.mode} {self.current_state}"

    @property
    def compliance(self) -> float | None:
        """Share of protocol checks passed, 0 to 1; None before the first."""
        return self.protocol_passes / self.protocol_checks if self.protocol_checks else None


class MomentumLedger(models.Model):
    """What a momentum template did lately in a scope (a team, or the fleet when `scope` is empty)."""

    scope = models.CharField(max_length=64, blank=True)
    template = models.CharField(max_length=64)
    last_created_at = models.DateTimeField(null=True)
    fruitless_runs = models.PositiveIntegerField(default=0)  # in a row, without a new finding
    asleep = models.BooleanField(default=False)
    findings = models.JSONField(default=list)  # digests of the last run's findings: a finding is new if not among them

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "template"], name="momentum_one_row")]

    def __str__(self) -> str:
        return f"{self.scope or 'fleet'} {self.template}"


class Objective(models.Model):
    """A standing goal, turned into one open task at a time by the StrategicWorkPlanner."""

    title = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    nova = models.ForeignKey(Nova, on_delete=models.PROTECT, null=True, blank=True, related_name="objectives")
    team = models.SlugField(max_length=64, blank=True)
    priority = models.CharField(max_length=8, choices=[(p, p) for p in ("critical", "high", "medium", "low")], default="medium")
    cadence = models.FloatField(default=86_400.0, validators=[MinValueValidator(60.0)], help_text="seconds")
    until = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField()
    open_task_id = models.CharField(max_length=96, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(cadence__gte=60), name="objective_cadence"),
            models.CheckConstraint(condition=Q(priority__in=["critical", "high", "medium", "low"]), name="objective_priority"),
        ]
        indexes = [
            # the planner's question: which objectives are due?
            models.Index(fields=["due_at"], name="objective_due", condition=Q(archived_at=None, open_task_id="")),
        ]

    def __str__(self) -> str:
        return self.title

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.full_clean(exclude=["open_task_id"])
        super().save(*args, **kwargs)
