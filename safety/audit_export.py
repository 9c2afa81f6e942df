"""Writes the journal to a file that proves itself: entries with their seals, filtered and redacted, still verifiable offline.

`safety/offline/audit_verify.py` tells the form of the lines. Whoever reads such a file can't guess what was left out: a closed
field that is redacted stands there as a digest under a salt that nobody outside knows.
"""

import gzip
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
from django.db import transaction
from django.db.models import Q

from safety import anchors, audit, seals
from safety.audit import Entry
from safety.core import seals as core
from safety.core.seals import CLOSED_FIELDS, SALT_BYTES, TEXT_FIELDS
from safety.models import AuditEntry, AuditSeal, Installation

JOURNAL_EXPORTED = "safety.journal.exported"
_LATEST = timedelta(days=1)  # an entry is sealed so long after it happened at most, as far as a filter by time goes
_PACKED = 6  # gzip's level


class ExportRefused(Exception):
    """The journal can't be exported so. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries, and which of their fields are redacted. Personal entries' texts are, unless they are asked for."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str = ""
    action: str = ""  # may end in *
    nova_id: str = ""
    redact: frozenset[str] = frozenset()
    with_personal: bool = False
    object_type: str = ""
    object_id: str = ""
    request_id: str = ""
    without_personal: bool = False  # personal entries are left out, not only redacted

    @property
    def condition(self) -> Q:
        """Give what an entry must meet."""
        condition = Q()
        if self.since:
            condition &= Q(created_at__gte=self.since)
        if self.until:
            condition &= Q(created_at__lt=self.until)
        if self.without_personal:
            condition &= Q(personal=False)
        for name in ("actor", "nova_id", "object_type", "object_id", "request_id"):
            if value := getattr(self, name):
                condition &= Q(**{name: value})
        if self.action.endswith("*"):
            condition &= Q(action__startswith=self.action[:-1])
        elif self.action:
            condition &= Q(action=self.action)
        return condition


@dataclass(slots=True)
class Exported:
    """What was written."""

    file: str = ""
    bytes: int = 0
    sha256: str = ""
    first_seal: int = 0
    last_seal: int = 0
    head: str = ""
    entries: int = 0
    left_out: int = 0
    redacted: int = 0
    unsealed: int = 0  # entries that are not sealed yet, and so not in the file
    archived: list[int] = field(default_factory=list)  # seals whose entries are in archives only


def export(path: Path, wanted: Wanted, *, now: datetime, replace: bool = False) -> Exported:
    """Write an export, whole or not at all, readable by its owner only; packed if its name ends in .gz. Journalled.

    :raises ExportRefused: there is such a file, or nothing is sealed. :raises OSError: it can't be written.
    """
    if path.exists() and not replace:
        raise ExportRefused(f"{path} is there already. Nothing was written.")
    if unknown := sorted(wanted.redact - set(CLOSED_FIELDS)):
        raise ExportRefused(
            f"{', '.join(unknown)} can't be redacted; what can: {', '.join(CLOSED_FIELDS)}. Nothing was written."
        )
    first, last = seals_of(wanted)
    draft = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        done = write(draft, seals.ranges(first, last), wanted, now=now, packed=path.suffix == ".gz")
        done.file = str(path)
        after = asdict(done) | {"file": path.name, "filter": _said(wanted)}
        with transaction.atomic():
            audit.record([Entry(JOURNAL_EXPORTED, "", "export", path.name[:128], after=after)], now=now)
            draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return done


def _said(wanted: Wanted) -> dict[str, Any]:
    said = {name: value for name, value in asdict(wanted).items() if value}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in said.items()}


def _last_sealed() -> int:
    return AuditSeal.objects.order_by("-number").values_list("last_id", flat=True).first() or 0


def seals_of(wanted: Wanted) -> tuple[int, int]:
    """Give the first and the last seal whose ranges may hold what is wanted.

    :raises ExportRefused: there is no seal.
    """
    rows = AuditSeal.objects.order_by("number").values_list("number", flat=True)
    newest = rows.last()
    if newest is None:
        raise ExportRefused("Nothing is sealed yet, so nothing could be proven. Nothing was written.")
    first = rows.filter(sealed_at__gte=wanted.since).first() if wanted.since else 1
    last = rows.filter(sealed_at__gt=wanted.until + _LATEST).first() if wanted.until else newest
    return first or newest, last or newest


def write(path: Path, rows: Iterator[AuditSeal], wanted: Wanted, *, now: datetime, packed: bool) -> Exported:
    """Write seals and their entries to a new file, flushed to the disk; constant memory, whatever their number.

    :raises FileExistsError: the file is there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as raw:
        if packed:
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=_PACKED, mtime=0) as file:
                done = _write(cast(BinaryIO, file), rows, wanted, now)
        else:
            done = _write(raw, rows, wanted, now)
        raw.flush()
        os.fsync(raw.fileno())
    done.bytes, done.sha256 = path.stat().st_size, digest_of_file(path)
    return done


def digest_of_file(path: Path) -> str:
    """Give a file's SHA-256, hex."""
    digest = sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _write(file: BinaryIO, rows: Iterator[AuditSeal], wanted: Wanted, now: datetime) -> Exported:
    done, whole = Exported(), sha256()

    def put(value: Mapping[str, Any]) -> None:
        line = orjson.dumps(value) + b"\n"
        whole.update(line)
        file.write(line)

    name = Installation.objects.values_list("name", flat=True).first() or ""
    head = {"kind": "export", "format": core.FORMAT, "installation": name, "made_at": seals.instant_text(now)}
    put(head | {"made_by": audit.current_actor(), "filter": _said(wanted)})
    for row in rows:
        for line in _lines(row, wanted, done):
            put(line)
        done.first_seal = done.first_seal or row.number
        done.last_seal, done.head = row.number, row.head
    to_the_end = not AuditSeal.objects.filter(number__gt=done.last_seal).exists()
    end = {"kind": "end", "entries": done.entries, "left_out": done.left_out, "redacted": done.redacted}
    done.unsealed = AuditEntry.objects.filter(id__gt=_last_sealed()).count()
    end |= {"unsealed": done.unsealed, "last_seal": done.last_seal, "to_the_end": to_the_end, "sha256": whole.hexdigest()}
    file.write(orjson.dumps(end) + b"\n")
    return done


def _lines(row: AuditSeal, wanted: Wanted, done: Exported) -> Iterator[Mapping[str, Any]]:
    """Give a seal's line and its entries'. Its salt stands there only where nothing of its range is withheld."""
    seal = {"kind": "seal", **anchors.shown(row)}
    archive = getattr(row, "archive", None)
    chosen = _chosen(row, wanted)
    if (archive and archive.pruned_at) or (chosen is not None and not chosen):
        if archive and archive.pruned_at:
            done.archived.append(row.number)
        done.left_out += row.count
        yield seal | {"entries": "left_out"}
        return
    rows = seals.read_rows(row.first_id, row.last_id, row.count + 1)
    hidden = [_hidden(entry, wanted) for entry in rows]
    seal["leaf_data"] = b64encode(bytes(row.leaves)).decode()
    withheld = chosen is not None or any(hidden)
    yield seal if withheld else seal | {"salt": row.salt}
    salt = bytes.fromhex(row.salt)
    for entry, without in zip(rows, hidden, strict=True):
        if chosen is not None and entry[0] not in chosen:
            done.left_out += 1
            yield {"kind": "left_out", "id": entry[0], "digest": core.digest_of(entry, salt).hex()}
            continue
        done.entries += 1
        done.redacted += bool(without)
        yield _entry(entry, without, salt if withheld else None)


def _chosen(row: AuditSeal, wanted: Wanted) -> set[int] | None:
    """Give the ids of a range that the filter lets through; None: there is no filter."""
    condition = wanted.condition
    if not condition:
        return None
    rows = AuditEntry.objects.filter(condition, id__gte=row.first_id, id__lte=row.last_id)
    return set(rows.values_list("id", flat=True))


def _hidden(entry: Sequence[Any], wanted: Wanted) -> frozenset[str]:
    """Give the closed fields of an entry that are there and must not be shown."""
    names = wanted.redact | TEXT_FIELDS if entry[5] and not wanted.with_personal else wanted.redact
    if not names:
        return names
    return frozenset(name for place, name in enumerate(CLOSED_FIELDS) if name in names and entry[place + 6])


def _entry(entry: Sequence[Any], without: frozenset[str], salt: bytes | None) -> Mapping[str, Any]:
    entry_id, created_at, seq, action, object_type, personal, *closed = entry
    shown: dict[str, Any] = {"kind": "entry", "id": entry_id, "created_at": created_at, "seq": seq, "action": action}
    shown |= {"object_type": object_type, "personal": bool(personal)}
    there = {name: value for name, value in zip(CLOSED_FIELDS, closed, strict=True) if value != ""}
    shown |= {name: value for name, value in there.items() if name not in without}
    if salt is None:
        return shown
    salts = core.salts_of(salt, entry_id)
    if without:
        digests = dict(zip(CLOSED_FIELDS, core.field_digests(entry, salts), strict=True))
        shown["redacted"] = {name: digests[name].hex() for name in CLOSED_FIELDS if name in without}
    shown["salts"] = {
        name: salts[place * SALT_BYTES : (place + 1) * SALT_BYTES].hex()
        for place, name in enumerate(CLOSED_FIELDS)
        if name in there and name not in without
    }
    return shown
