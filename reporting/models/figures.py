"""The journal summed up: rows of sums per scope and stretch of time, and the cursor that says how far the journal is in them.

Sums and counts only. Kept by reporting.roll_ups; they can be made anew from the journal at any time.
"""

from django.db import models


class RollUp(models.Model):
    """What the journal says of one scope in one bucket of time: sums by name (reporting.core.tally)."""

    key = models.CharField(max_length=110, primary_key=True)  # {scope}|{grain}|{start, unix seconds}
    scope = models.CharField(max_length=80)  # fleet, team:{team}, nova:{nova_id}
    grain = models.PositiveSmallIntegerField()  # minutes: 15, 60 or 1440
    start = models.DateTimeField()
    sums = models.JSONField(default=dict)

    class Meta:
        indexes = [
            # forgetting short buckets that no reader asks for any more
            models.Index(fields=["grain", "start"], name="rollup_age"),
        ]

    def __str__(self) -> str:
        return self.key


class RollUpCursor(models.Model):
    """Up to which journal entry everything is in the roll-ups (one row). Moved in the transaction that writes the sums."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    position = models.BigIntegerField(default=0)  # AuditEntry.id
    newest_at = models.DateTimeField(null=True)  # created_at of the newest entry counted
    first_at = models.DateTimeField(null=True)  # of the oldest
    first_id = models.BigIntegerField(null=True)  # the first entry counted
    collected_at = models.DateTimeField(null=True)  # the hour of the newest EnterpriseMetric rows
    forgotten_at = models.DateTimeField(null=True)  # when old rows were last deleted

    def __str__(self) -> str:
        return str(self.position)


class Membership(models.Model):
    """To which team a Nova belonged at the cursor's place in the journal."""

    nova_id = models.CharField(max_length=64, primary_key=True)
    team = models.CharField(max_length=64, blank=True)

    def __str__(self) -> str:
        return f"{self.nova_id} in {self.team or 'no team'}"


class Rework(models.Model):
    """A succeeded task that another one had to do again within seven days; it counts once."""

    task_id = models.CharField(max_length=96, primary_key=True)  # the one done again
    by_task_id = models.CharField(max_length=96)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.task_id} again by {self.by_task_id}"


class EnterpriseMetric(models.Model):
    """One metric at one instant (spec "EnterpriseMetric"). `nova_id` empty: the fleet's, or the team's in `context`."""

    class Type(models.TextChoices):
        COUNTER = "counter"
        GAUGE = "gauge"

    metric_name = models.CharField(max_length=64)
    metric_value = models.FloatField(null=True)  # null: not enough data
    metric_type = models.CharField(max_length=8, choices=Type.choices)
    timestamp = models.DateTimeField()
    nova_id = models.CharField(max_length=64, blank=True)
    context = models.JSONField(default=dict)  # unit, cases, team

    class Meta:
        indexes = [
            # a metric's course, and forgetting old ones
            models.Index(fields=["metric_name", "timestamp"], name="metric_course"),
            models.Index(fields=["timestamp"], name="metric_age"),
        ]

    def __str__(self) -> str:
        return f"{self.metric_name} {self.metric_value}"
