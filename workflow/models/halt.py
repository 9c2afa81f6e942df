"""An order to stop: what was asked of which Novas, and what each of them has been seen to do (design section 5)."""

from django.db import models
from django.db.models import Q

from workflow.models.nova import Nova


class Halt(models.Model):
    """One order by an operator over a Nova, a team or the fleet. It is done when every confirmation has settled."""

    class Kind(models.TextChoices):
        HALT = "halt"
        KILL = "kill"
        DRAIN = "drain"
        PAUSE = "pause"

    class Scope(models.TextChoices):
        FLEET = "fleet"
        TEAM = "team"
        NOVA = "nova"

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    scope = models.CharField(max_length=8, choices=Scope.choices)
    target = models.CharField(max_length=64, blank=True)  # the team or the nova_id; empty for the fleet
    reason = models.TextField()
    requested_by = models.CharField(max_length=128)
    requested_at = models.DateTimeField()
    drill = models.BooleanField(default=False)  # asks and measures, stops nobody
    settled_at = models.DateTimeField(null=True)
    lifted_at = models.DateTimeField(null=True)
    lifted_by = models.CharField(max_length=128, blank=True)
    lift_reason = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=["halt", "kill", "drain", "pause"]), name="halt_kind"),
            models.CheckConstraint(
                condition=Q(scope="fleet", target="") | (Q(scope__in=["team", "nova"]) & ~Q(target="")), name="halt_scope"
            ),
            # asking twice is asking once
            models.UniqueConstraint(
                fields=["kind", "scope", "target"], condition=Q(lifted_at=None, drill=False), name="halt_one_open"
            ),
        ]
        permissions = [
            ("order_stop", "Can pause, drain, halt and kill Novas"),
            ("lift_pause", "Can resume paused and drained Novas"),
            ("lift_halt", "Can resume halted, killed and quarantined Novas, and lift safety verdicts"),
        ]
        indexes = [
            # what is yet to be confirmed
            models.Index(fields=["id"], name="halt_unsettled", condition=Q(settled_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} #{self.id} of {self.target or 'the fleet'}"


class HaltConfirmation(models.Model):
    """How far one Nova has come in obeying a halt. Nothing is called stopped before it is `confirmed`."""

    class Status(models.TextChoices):
        REQUESTED = "requested"
        DELIVERED = "delivered"
        ACKNOWLEDGED = "acknowledged"
        CONFIRMED = "confirmed"
        UNREACHABLE = "unreachable"

    id = models.BigAutoField(primary_key=True)
    halt = models.ForeignKey(Halt, on_delete=models.PROTECT, related_name="confirmations", db_index=False)
    nova = models.ForeignKey(Nova, on_delete=models.PROTECT, related_name="halts")
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.REQUESTED)
    requested_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True)
    acknowledged_at = models.DateTimeField(null=True)
    confirmed_at = models.DateTimeField(null=True)
    unreachable_at = models.DateTimeField(null=True)
    detail = models.TextField(blank=True)  # what is still seen running

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["halt", "nova"], name="haltconfirmation_once"),
            models.CheckConstraint(
                condition=Q(status__in=["requested", "delivered", "acknowledged", "confirmed", "unreachable"]),
                name="haltconfirmation_status",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.halt_id} {self.nova_id} {self.status}"
