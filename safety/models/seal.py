"""Seals over closed ranges of the journal, their archives, and what verifications found.

AuditSeal is append-only as the journal is (safety/triggers.py). An archive's row, while it says `deleting`, is what lets the
database delete the entries of its range; nothing else does.
"""

from django.db import models
from django.db.models import F, Q


class AuditSeal(models.Model):
    """One closed range of the journal: its digest, the seal before, a signature. The form is safety/core/seals.py's."""

    number = models.BigIntegerField(primary_key=True)  # 1, 2, 3 …
    first_id = models.BigIntegerField()
    last_id = models.BigIntegerField()
    count = models.PositiveIntegerField()
    digest = models.CharField(max_length=64)
    leaves = models.BinaryField()  # tells the entries of a damaged range apart; see core.seals.leaves_of
    previous = models.CharField(max_length=64, unique=True)  # two sealers can't both follow one seal
    head = models.CharField(max_length=64)
    salt = models.CharField(max_length=64)
    sealed_at = models.DateTimeField()
    key_id = models.CharField(max_length=16)
    public_key = models.CharField(max_length=64)
    signature = models.CharField(max_length=128)
    format = models.PositiveSmallIntegerField(default=1)

    class Meta:
        indexes = [
            # in which range an id lies: exports, and the triggers at each deletion
            models.Index(fields=["last_id"], name="auditseal_range"),
        ]

    def __str__(self) -> str:
        return f"seal {self.number}: entries {self.first_id} to {self.last_id}"


class SealArchive(models.Model):
    """The file that a sealed range was written to and checked in; its entries may then be deleted."""

    seal = models.OneToOneField(AuditSeal, on_delete=models.PROTECT, primary_key=True, related_name="archive")
    file = models.CharField(max_length=255)  # in the folder of archives
    sha256 = models.CharField(max_length=64)  # of the file
    archived_at = models.DateTimeField()
    deleting = models.BooleanField(default=False, db_default=False)  # only within the transaction that deletes
    pruned_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(pruned_at=None) | Q(deleting=False), name="archive_deletes_once")]
        indexes = [
            # the triggers at each deletion: almost always empty
            models.Index(fields=["seal"], name="archive_deleting", condition=Q(deleting=True)),
        ]

    def __str__(self) -> str:
        return f"{self.file}: seal {self.seal_id}"


class SealCandidate(models.Model):
    """Up to where the journal may be closed once those who were writing then have ended (PostgreSQL; one row)."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    highest_id = models.BigIntegerField()
    writers = models.JSONField()  # virtual transaction ids that held the journal's write lock
    server = models.CharField(max_length=64)  # when the database server was started: its transactions end with it
    noted_at = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="sealcandidate_single")]

    def __str__(self) -> str:
        return f"up to {self.highest_id}"


class VerificationRun(models.Model):
    """One verification of the chain: how far it went, and everything it found."""

    class Scope(models.TextChoices):
        FULL = "full"
        NEW = "new"  # what was sealed since the last run that found nothing

    id = models.BigAutoField(primary_key=True)
    scope = models.CharField(max_length=8, choices=Scope.choices)
    requested_at = models.DateTimeField()
    requested_by = models.CharField(max_length=128)
    reason = models.TextField(blank=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    first_seal = models.BigIntegerField(default=0)
    last_seal = models.BigIntegerField(default=0)
    last_id = models.BigIntegerField(default=0)
    head = models.CharField(max_length=64, blank=True)  # of the last seal: where the next run of new ranges goes on
    entries = models.BigIntegerField(default=0)
    anchored = models.BooleanField(default=False)  # compared with an anchor: truncation and rebuild would have been seen
    damages = models.PositiveIntegerField(default=0)
    findings = models.JSONField(default=list)  # the first of them, each {damage, seal, first_id, last_id, words}

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(scope__in=["full", "new"]), name="verification_scope"),
            models.CheckConstraint(
                condition=Q(finished_at=None) | Q(finished_at__gte=F("started_at")), name="verification_ends_after_its_start"
            ),
        ]
        indexes = [
            # the badge: the newest that ended
            models.Index(fields=["-finished_at"], name="verification_newest"),
        ]

    def __str__(self) -> str:
        return f"{self.scope} verification {self.id}"
