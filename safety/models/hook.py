"""What an agent's hooks told us: each call, and the sessions they belong to."""

from django.db import models


class HookEvent(models.Model):
    """One hook call as it came, cut to size and without what looks secret, with what was answered."""

    id = models.BigAutoField(primary_key=True)
    nova_id = models.CharField(max_length=63, blank=True)  # empty: a key nobody knows
    session_id = models.CharField(max_length=128, blank=True)
    event = models.CharField(max_length=64, blank=True)  # hook_event_name; empty where the payload could not be read
    tool_name = models.CharField(max_length=128, blank=True)
    digest = models.CharField(max_length=64, blank=True)  # of tool and input: identical calls have the same
    delivery = models.CharField(max_length=64)  # tells a repeated delivery of one call: it is answered, but counted once
    received_at = models.DateTimeField()
    payload = models.JSONField(default=dict)
    reply = models.JSONField(default=dict)
    problem = models.TextField(blank=True)  # why it could not be taken as it came

    class Meta:
        constraints = [models.UniqueConstraint(fields=["nova_id", "delivery"], name="hookevent_once")]
        indexes = [
            # the story of a Nova's sessions
            models.Index(fields=["nova_id", "id"], name="hookevent_nova"),
            # forgetting old ones
            models.Index(fields=["received_at"], name="hookevent_age"),
        ]

    def __str__(self) -> str:
        return f"{self.nova_id} {self.event or 'unreadable'}"


class HookSession(models.Model):
    """One session of an agent, as its hooks told of it."""

    id = models.BigAutoField(primary_key=True)
    nova_id = models.CharField(max_length=63)
    session_id = models.CharField(max_length=128)
    source = models.CharField(max_length=32, blank=True)  # startup, resume, clear …
    started_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    stopped_at = models.DateTimeField(null=True)  # when it was first told to stop, by `continue: false` or a denial
    at_rest = models.BooleanField(default=False, db_default=False)  # nothing runs in it: it waits for a prompt, or was stopped
    events = models.PositiveIntegerField(default=0)
    turns = models.PositiveIntegerField(default=0, db_default=0)  # how often it stopped, that is, had answered a prompt

    class Meta:
        constraints = [models.UniqueConstraint(fields=["nova_id", "session_id"], name="hooksession_once")]
        indexes = [
            # which sessions of a Nova are open: a halt waits for them
            models.Index(fields=["nova_id", "last_seen_at"], name="hooksession_open", condition=models.Q(ended_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.nova_id} {self.session_id}"
