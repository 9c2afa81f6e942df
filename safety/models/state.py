"""What is known of each Nova and of the fleet: verdicts in force, observations, readings."""

from django.db import models


class SafetyState(models.Model):
    """The verdict in force for a Nova, and what the judges must remember between two checks."""

    nova_id = models.CharField(max_length=64, primary_key=True)
    is_safe = models.BooleanField(default=True)
    safety_level = models.CharField(max_length=16, default="normal")
    mechanism = models.CharField(max_length=32, blank=True)
    reason = models.TextField(blank=True)
    measured = models.FloatField(null=True)
    limit = models.FloatField(null=True)
    since = models.DateTimeField(null=True)
    until = models.DateTimeField(null=True)
    cooldown_since = models.DateTimeField(null=True)  # when the last cooldown began; kept after its end
    cooldown_until = models.DateTimeField(null=True)
    cooldown_reason = models.TextField(blank=True)
    cooldowns_in_a_row = models.PositiveIntegerField(default=0)
    last_cooldown_end = models.DateTimeField(null=True)
    meditation_until = models.DateTimeField(null=True)
    quarantine_until = models.DateTimeField(null=True)
    quarantine_reason = models.TextField(blank=True)
    stressed_since = models.DateTimeField(null=True)
    hooks_expected = models.BooleanField(default=False)
    last_hook_heartbeat = models.DateTimeField(null=True)
    last_work_evidence = models.DateTimeField(null=True)
    api_cooldown_until = models.DateTimeField(null=True)  # what the API guardian imposed after a violation
    api_cooldown_reason = models.TextField(blank=True, db_default="")

    def __str__(self) -> str:
        return f"{self.nova_id} {'safe' if self.is_safe else self.mechanism}"


class Observation(models.Model):
    """Something a Nova was seen doing, counted per kind and bucket of time: what the judges' windows are summed from."""

    id = models.BigAutoField(primary_key=True)
    nova_id = models.CharField(max_length=64)
    kind = models.CharField(max_length=24)  # safety.observations.Kind
    detail = models.CharField(max_length=64, blank=True)  # the digest of a call, so that identical ones can be counted
    at = models.DateTimeField()  # the beginning of its bucket
    count = models.PositiveIntegerField(default=1)

    class Meta:
        constraints = [
            # one row a bucket; the batched load of facts sums the windows of a batch of Novas by it
            models.UniqueConstraint(fields=["nova_id", "kind", "at", "detail"], name="observation_once"),
        ]
        indexes = [
            # forgetting what no window reaches any more
            models.Index(fields=["at"], name="observation_age"),
        ]

    def __str__(self) -> str:
        return f"{self.nova_id} {self.kind} {self.count}"


class FleetFact(models.Model):
    """What one process observed of machine and stream server for all to use (one row a name)."""

    name = models.CharField(max_length=128, primary_key=True)
    value = models.JSONField(null=True)
    since = models.DateTimeField(null=True)
    observed_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class CandidateVerdict(models.Model):
    """What a candidate policy says of a Nova beside the enforced one: recorded and shown, never enforced."""

    nova_id = models.CharField(max_length=64, primary_key=True)
    policy = models.CharField(max_length=64)  # slug of the candidate
    is_safe = models.BooleanField(default=True)
    mechanism = models.CharField(max_length=32, blank=True)
    reason = models.TextField(blank=True)
    measured = models.FloatField(null=True)
    limit = models.FloatField(null=True)
    since = models.DateTimeField(null=True)
    observed_since = models.DateTimeField()
    blocks = models.PositiveIntegerField(default=0)  # how often it would have stopped the Nova
    last_block_at = models.DateTimeField(null=True)
    memory = models.JSONField(default=dict)  # what its judges must remember, as SafetyState does for the enforced ones

    def __str__(self) -> str:
        return f"{self.nova_id} under {self.policy}: {'safe' if self.is_safe else self.mechanism}"
