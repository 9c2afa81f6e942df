"""The journal is pruned only where it is sealed, archived, verified and read by all; afterwards the chain verifies still."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db import DatabaseError, connection, transaction

from safety import audit, pruning, seals, verification
from safety.models import AuditEntry, AuditSeal, OutboxEntry, SealArchive
from safety.offline import audit_verify
from safety.pruning import PruneRefused

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "ARCHIVE_DIR", tmp_path / "archive")
    monkeypatch.setattr(seals, "RANGE", 3)
    monkeypatch.setattr(pruning, "_readers", {})
    return tmp_path / "archive"


@pytest.fixture
def ids(now: datetime) -> list[int]:
    """Nine entries under three seals, and one that is not sealed."""
    written = write(9, now)
    assert seals.seal(now=now) == 3
    return [*written, *write(1, now)]


def write(count: int, now: datetime, **fields: str) -> list[int]:
    with transaction.atomic():
        return audit.record([audit.Entry("test.thing.done", reason="why", **fields) for _ in range(count)], now=now)


def test_old_ranges_move_into_a_verifiedarchive_and_the_chain_stands(ids, now, archive):
    later = now + timedelta(days=40)
    planned = pruning.prune(before=later, now=later, dry_run=True)
    assert (planned.seals, planned.entries, planned.files) == (3, 9, [])
    assert not archive.exists()
    done = pruning.prune(before=later, now=later)
    assert (done.entries, done.last_id, len(done.files)) == (9, ids[8], 1)
    assert AuditEntry.objects.filter(id__lte=ids[8]).count() == 0
    assert AuditEntry.objects.filter(id=ids[9]).exists()
    told = AuditEntry.objects.filter(action="safety.journal.pruned")
    assert sum(entry.after["entries"] for entry in told) == 9
    assert set(SealArchive.objects.values_list("deleting", "pruned_at")) == {(False, later)}
    file = archive / done.files[0]
    assert file.stat().st_mode & 0o777 == 0o600
    assert audit_verify.verify(audit_verify.lines_of(str(file))).entries == 9
    outcome = verification.verify(check_pruned=pruning.check_pruned())
    assert (outcome.damages, outcome.pruned) == (0, 9)
    seals.seal(now=later)
    assert verification.verify().damages == 0
    assert pruning.prune(before=later, now=later).seals == 0
    # an archive that is lost, or an entry that comes back, is named
    file.write_bytes(file.read_bytes()[:-40])
    assert {finding.damage.value for finding in verification.verify(check_pruned=pruning.check_pruned()).findings} == {
        "archive_damaged"
    }


def test_the_database_deletes_nothing_else(ids, now):
    row = AuditSeal.objects.get(number=1)
    SealArchive.objects.create(seal=row, file="x", sha256="x", archived_at=now)
    attempts = [("DELETE FROM safety_auditentry WHERE id <= %s", ids[2])]
    with pytest.raises(DatabaseError, match="append-only"):
        execute(*attempts[0])
    SealArchive.objects.update(deleting=True)
    with pytest.raises(DatabaseError, match="append-only"):
        execute("DELETE FROM safety_auditentry WHERE id <= %s", ids[3])
    with pytest.raises(DatabaseError, match="append-only"):
        execute("UPDATE safety_auditentry SET reason = '' WHERE id = %s", ids[0])
    execute("DELETE FROM safety_auditentry WHERE id <= %s", ids[2])
    assert AuditEntry.objects.filter(id__in=ids).count() == 7


def execute(sql: str, parameter: int) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql, [parameter])


def test_what_a_reader_has_not_read_stays(ids, now):
    later = now + timedelta(days=40)
    OutboxEntry.objects.create(created_at=now, entry_ids=[ids[7]])
    pruning.register_reader("roll-ups", lambda: ids[4])
    done = pruning.prune(before=later, now=later)
    assert (done.seals, done.held_back_by) == (1, {"outbox": ids[7], "roll-ups": ids[4]})
    pruning.register_reader("roll-ups", lambda: None)
    assert pruning.prune(before=later, now=later).seals == 1
    OutboxEntry.objects.all().delete()
    assert pruning.prune(before=now, now=later).seals == 0
    assert pruning.prune(before=later, now=later).seals == 1


def test_a_damaged_range_is_neitherarchived_nor_deleted(ids, now, tamper, archive):
    tamper("UPDATE safety_auditentry SET reason = 'better' WHERE id = %s", ids[4])
    later = now + timedelta(days=40)
    with pytest.raises(PruneRefused, match=f"Entry {ids[4]} was edited"):
        pruning.prune(before=later, now=later)
    assert AuditEntry.objects.filter(id__in=ids).count() == 10
    assert not SealArchive.objects.exists()


def test_a_run_that_broke_off_goes_on_with_thearchive_that_stands(ids, now, monkeypatch, archive):
    later = now + timedelta(days=40)

    def break_off(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(pruning, "_delete", break_off)
        with pytest.raises(KeyboardInterrupt):
            pruning.prune(before=later, now=later)
    assert AuditEntry.objects.filter(id__in=ids).count() == 10
    files = list(archive.iterdir())
    assert pruning.prune(before=later, now=later).files == [file.name for file in files]
    assert AuditEntry.objects.filter(id__in=ids).count() == 1
    assert verification.verify(check_pruned=pruning.check_pruned()).damages == 0
