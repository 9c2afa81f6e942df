"""Takes old ranges out of the journal: written to an archive, the archive verified, and only then deleted. The seals stay.

A range goes only when it is sealed, whole, and read by everyone who reads the journal by a cursor: upper floors register how
far theirs have come. The database lets nothing else be deleted (safety/triggers.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import accumulate, takewhile
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, Max, Min, QuerySet, Sum

from safety import audit, audit_export, seals
from safety.audit import Entry
from safety.audit_export import Wanted
from safety.core import seals as core
from safety.core.seals import Damage, Finding
from safety.models import AuditEntry, AuditSeal, OutboxEntry, SealArchive
from safety.offline import audit_verify

JOURNAL_PRUNED = "safety.journal.pruned"
SEALS_OF_ARCHIVE = 500
ENTRIES_OF_ARCHIVE = 10_000  # so that a job that writes one is soon done
_ENTRIES_AT_ONCE = 2_000  # deleted in one transaction, about
_TABLE = AuditEntry._meta.db_table

# reader's name -> how to learn the lowest id it has not read yet; None: it has read everything
_readers: dict[str, Callable[[], int | None]] = {}


class PruneRefused(Exception):
    """The journal can't be pruned now; what was not archived and verified was not deleted."""


@dataclass(slots=True)
class Pruned:
    """What was taken out, or would be."""

    seals: int = 0
    entries: int = 0
    first_id: int = 0
    last_id: int = 0
    files: list[str] = field(default_factory=list)
    held_back_by: dict[str, int] = field(default_factory=dict)  # readers that need entries from this id on
    more: bool = False  # it was told to stop before all was done


def register_reader(name: str, lowest_unread: Callable[[], int | None]) -> None:
    """Make known who reads the journal by a cursor; nothing at or above its lowest unread id is pruned."""
    _readers[name] = lowest_unread


def prune(*, before: datetime, now: datetime, dry_run: bool = False, go_on: Callable[[], bool] = lambda: True) -> Pruned:
    """Archive and delete the ranges that were sealed before an instant, oldest first, archive by archive while `go_on` says so.

    1. Choose ranges no reader needs. 2. Verify them. 3. Write the archive. 4. Verify it, by its own means. 5. Delete in bounded
    batches, each journalled. Broken off anywhere it may be run again: an archive that stands is used.

    :raises PruneRefused: a range or an archive is damaged. :raises OSError: the archive can't be written.
    """
    done = Pruned(held_back_by=unread())
    old = _old(before, min(done.held_back_by.values(), default=None))
    if dry_run:
        sums = old.aggregate(Count("number"), Sum("count"), Min("first_id"), Max("last_id"))
        done.seals, done.entries, done.first_id, done.last_id = (value or 0 for value in sums.values())
        return done
    while batch := _batch(old):
        if not go_on():
            done.more = True
            break
        done.seals += len(batch)
        done.entries += sum(row.count for row in batch)
        done.first_id, done.last_id = done.first_id or batch[0].first_id, batch[-1].last_id
        name = _archive(batch, now=now)
        done.files += [name] if name not in done.files else []
        for part in _parts(batch):
            _delete(part, name, now=now)
    return done


def unread() -> dict[str, int]:
    """Give, by reader, the lowest id that it has not read."""
    found = {"outbox": _lowest_in_outbox(), **{name: lowest() for name, lowest in _readers.items()}}
    return {name: lowest for name, lowest in found.items() if lowest is not None}


def _lowest_in_outbox() -> int | None:
    rows = OutboxEntry.objects.values_list("entry_ids", flat=True).iterator(chunk_size=1_000)
    return min((min(ids) for ids in rows if ids), default=None)


def _old(before: datetime, limit: int | None) -> QuerySet[AuditSeal]:
    """Give the seals whose ranges may go, oldest first."""
    rows = AuditSeal.objects.filter(sealed_at__lt=before).exclude(archive__pruned_at__isnull=False)
    if limit is not None:
        rows = rows.filter(last_id__lt=limit)
    return rows.select_related("archive").order_by("number")


def _batch(old: QuerySet[AuditSeal]) -> list[AuditSeal]:
    """Give the oldest seals that share an archive: one that stands, or one that is to be written."""
    found = list(old[:SEALS_OF_ARCHIVE])
    shared = list(takewhile(partial(_shares, _file_of(found[0])), found)) if found else []
    if not shared or _file_of(shared[0]):
        return shared
    fitting = sum(entries <= ENTRIES_OF_ARCHIVE for entries in accumulate(row.count for row in shared))
    return shared[: max(fitting, 1)]


def _shares(file: str, row: AuditSeal) -> bool:
    return _file_of(row) == file


def _file_of(row: AuditSeal) -> str:
    archive = getattr(row, "archive", None)
    return archive.file if archive else ""


def _archive(batch: Sequence[AuditSeal], *, now: datetime) -> str:
    """Write and verify the archive of a batch, or verify the one that an earlier run left; give its name.

    :raises PruneRefused: something does not match; nothing was deleted.
    """
    folder: Path = settings.ARCHIVE_DIR
    if name := _file_of(batch[0]):
        _demand_whole(folder / name, batch, _archive_of(batch[0]).sha256)
        return name
    for row in batch:
        if found := _damage(row):
            raise PruneRefused(f"{found[0].words} Nothing of it was archived or deleted; run `audit_verify`.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"journal-{batch[0].first_id}-{batch[-1].last_id}.jsonl.gz"
    (folder / name).unlink(missing_ok=True)  # a draft that a broken-off run left: no row speaks of it
    everything = Wanted(with_personal=True)
    written = audit_export.write(folder / name, iter(batch), everything, now=now, packed=True)
    _demand_whole(folder / name, batch, written.sha256)
    rows = [SealArchive(seal=row, file=name, sha256=written.sha256, archived_at=now) for row in batch]
    SealArchive.objects.bulk_create(rows)
    return name


def _archive_of(row: AuditSeal) -> SealArchive:
    return SealArchive.objects.get(seal=row)


def _damage(row: AuditSeal) -> list[Finding]:
    rows = seals.read_rows(row.first_id, row.last_id, row.count + 1)
    return core.check_range(seals.sealed(row), bytes(row.leaves), rows)


def _demand_whole(path: Path, batch: Sequence[AuditSeal], digest: str) -> None:
    """Read an archive back with the verifier that others use.

    :raises PruneRefused: it is not what these seals closed.
    """
    if problems := check_file(path, {row.number: row.head for row in batch}, digest):
        raise PruneRefused(f"{problems[0]} Nothing of it was deleted.")


def check_file(path: Path, heads: dict[int, str], digest: str) -> list[str]:
    """Tell what is wrong with an archive: it must hold these seals, with all of their entries."""
    try:
        if audit_export.digest_of_file(path) != digest:
            return [f"The archive {path.name} is not the file that was written."]
        report = audit_verify.verify(audit_verify.lines_of(str(path)))
    except (OSError, audit_verify.Unusable) as error:
        return [f"The archive {path.name} can't be read: {error}"]
    problems = [str(finding["words"]) for finding in report.findings]
    if report.left_out or report.redacted:
        problems.append(f"The archive {path.name} does not hold all of its entries.")
    if absent := [number for number, head in heads.items() if report.heads.get(number) != head]:
        problems.append(f"The archive {path.name} does not hold seal {absent[0]} as it is.")
    return problems


def check_pruned() -> Callable[[AuditSeal], list[Finding]]:
    """Give what checks the archives of ranges whose entries are gone, each file once."""
    known: dict[str, list[str]] = {}

    def check(row: AuditSeal) -> list[Finding]:
        archive = row.archive
        if archive.file not in known:
            rows = AuditSeal.objects.filter(archive__file=archive.file).values_list("number", "head")
            known[archive.file] = check_file(settings.ARCHIVE_DIR / archive.file, dict(rows), archive.sha256)
        damage = Damage.ARCHIVE_DAMAGED
        return [Finding(damage, row.number, row.first_id, row.last_id, words) for words in known[archive.file][:1]]

    return check


def _parts(batch: Sequence[AuditSeal]) -> Iterator[list[AuditSeal]]:
    part: list[AuditSeal] = []
    for row in batch:
        if part and sum(one.count for one in part) + row.count > _ENTRIES_AT_ONCE:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _delete(part: Sequence[AuditSeal], file: str, *, now: datetime) -> None:
    """Delete the entries of some archived ranges, in one transaction with the journal's word of it.

    :raises PruneRefused: another number of entries was there; nothing of these was deleted.
    """
    first_id, last_id = part[0].first_id, part[-1].last_id
    expected = sum(row.count for row in part)
    archives = SealArchive.objects.filter(seal__in=[row.pk for row in part], pruned_at=None)
    with transaction.atomic():
        archives.update(deleting=True)
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {_TABLE} WHERE id >= %s AND id <= %s", [first_id, last_id])  # noqa: S608
            gone = cursor.rowcount
        if gone != expected:
            raise PruneRefused(f"{gone} entries were there from {first_id} to {last_id}, {expected} were archived. They stay.")
        archives.filter(deleting=True).update(deleting=False, pruned_at=now)
        after = {"first_id": first_id, "last_id": last_id, "entries": gone, "seals": len(part), "file": file}
        entry = Entry(JOURNAL_PRUNED, "", "journal", f"{first_id}-{last_id}", after=after, reason="retention")
        audit.record([entry], now=now)
