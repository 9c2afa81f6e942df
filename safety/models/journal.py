"""The one journal with its outbox, and the name of this installation.

AuditEntry is append-only: the model refuses, and database triggers refuse (safety/triggers.py).
"""

from typing import Any, NoReturn

from django.db import models
from django.db.models import Q


class JournalIsAppendOnly(Exception):
    """Somebody tried to change or delete a journal entry. Nothing was changed; write a new entry instead."""


class AuditEntryQuerySet(models.QuerySet["AuditEntry"]):
    def update(self, **kwargs: Any) -> NoReturn:
        raise JournalIsAppendOnly("Journal entries can't be changed; nothing was changed.")

    def delete(self) -> NoReturn:
        raise JournalIsAppendOnly("Journal entries can't be deleted; nothing was deleted.")


class AuditEntry(models.Model):
    """One accepted change: who did what to which object, and the stream message it causes, if any (design sections 2 and 6).

    Written by `safety.audit.record` only, in the transaction of the change. No foreign keys: the entry outlives its object.
    """

    id = models.BigAutoField(primary_key=True)
    created_at = models.DateTimeField()
    nova_id = models.CharField(max_length=64, blank=True)
    seq = models.BigIntegerField(default=0)  # per Nova, in commit order; 0 where the entry belongs to no Nova
    actor = models.CharField(max_length=128)
    action = models.CharField(max_length=64)
    object_type = models.CharField(max_length=32, blank=True)
    object_id = models.CharField(max_length=128, blank=True)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    reason = models.TextField(blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    cause = models.CharField(max_length=200, blank=True)
    stream = models.CharField(max_length=128, blank=True)
    message = models.JSONField(null=True)  # the stream entry's fields, without the envelope
    personal = models.BooleanField(default=False)

    objects = AuditEntryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "audit entries"
        indexes = [
            # the story of one Nova, and of one object, in order
            models.Index(fields=["nova_id", "id"], name="audit_nova"),
            models.Index(fields=["object_id", "id"], name="audit_object"),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.action} {self.object_id}"

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise JournalIsAppendOnly("Journal entries are written by safety.audit.record; nothing was written.")

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise JournalIsAppendOnly("Journal entries can't be deleted; nothing was deleted.")


class JournalHead(models.Model):
    """The last `seq` taken for a Nova. Its row lock makes commit order and `seq` order the same."""

    nova_id = models.CharField(max_length=64, primary_key=True)
    seq = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.nova_id} {self.seq}"


class OutboxEntry(models.Model):
    """Points at the entries of one commit that are yet to be published; the relay deletes it when they are out."""

    id = models.BigAutoField(primary_key=True)
    created_at = models.DateTimeField()
    entry_ids = models.JSONField()  # AuditEntry ids, ascending

    class Meta:
        verbose_name_plural = "outbox entries"

    def __str__(self) -> str:
        return f"{self.id} {self.entry_ids}"


class Installation(models.Model):
    """Names this installation to the stream server (one row): the epoch key and the prefix of every event id."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    name = models.CharField(max_length=16)  # random; event ids are `{name}-{entry id}`
    epoch = models.CharField(max_length=32)  # what the stream server's epoch key must say
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="installation_single")]

    def __str__(self) -> str:
        return self.name
