"""Anchors: heads of seals kept outside of the database: from inside nobody sees that the end was cut off, or all rebuilt.

The seals log is a file of JSON lines that only grows, one a seal; copies of it, kept elsewhere, are what a verification should
be given. A restore of a backup takes seals back: a line says so, and the log goes on. The stream is the caller's.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings

from safety import seals
from safety.core.seals import Anchor
from safety.models import AuditSeal


class AnchorUnusable(Exception):
    """The file is no seals log. Nothing was verified."""


class AnchorContradicts(Exception):
    """The seals log knows another seal by that number, so nothing was added to it: run `audit_verify`."""


def append(path: Path | None = None) -> int:
    """Add the seals that the log has not yet, each with its whole text; give how many.

    :raises AnchorContradicts: its last seal is not the database's. :raises OSError: it can't be written.
    """
    path = path or settings.SEALS_LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        last = _last(file)
        if last.number and not AuditSeal.objects.filter(number=last.number, head=last.head).exists():
            raise AnchorContradicts(f"Seal {last.number} in {path.name} is not the database's. Nothing was added to it.")
        added = 0
        for row in seals.ranges(last.number + 1):
            file.write(_line(row))
            added += 1
        if added:
            file.flush()
            os.fsync(file.fileno())
    return added


def note_restored(seal: int, *, now: datetime, path: Path | None = None) -> None:
    """Say in the log that a backup was restored whose last seal is this one: what the log knew beyond it is void."""
    path = path or settings.SEALS_LOG
    if not path.exists():
        return
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(_json({"restored_to": seal, "at": seals.instant_text(now)}))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> dict[int, Anchor]:
    """Read a seals log, or a copy of it, as anchors by seal.

    :raises AnchorUnusable: it is none, or there is nothing in it.
    """
    try:
        with path.open("rb") as file:
            found = read_lines(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnchorUnusable(f"{path} is no seals log: {error}. Nothing was verified.") from error
    if not found:
        raise AnchorUnusable(f"{path} holds no seal. Nothing was verified.")
    return found


def own() -> dict[int, Anchor]:
    """Give the anchors of this machine's own log; none if there is no log yet.

    :raises AnchorUnusable: it is damaged.
    """
    path: Path = settings.SEALS_LOG
    return read(path) if path.exists() and path.stat().st_size else {}


def read_lines(lines: Iterable[bytes]) -> dict[int, Anchor]:
    """Read the lines of a log; a restore takes back what was beyond it."""
    found: dict[int, Anchor] = {}
    for line in lines:
        if not line.endswith(b"\n"):
            break  # being written
        said = json.loads(line)
        if "restored_to" in said:
            kept = int(said["restored_to"])
            found = {number: anchor for number, anchor in found.items() if number <= kept}
        else:
            anchor = Anchor(int(said["number"]), int(said["last_id"]), str(said["head"]))
            found[anchor.number] = anchor
    return found


def shown(row: AuditSeal) -> Mapping[str, Any]:
    """Give a seal as it stands in logs and manifests: all that is signed, but the digest of its salt in the salt's place."""
    seal = seals.sealed(row)
    return {
        "number": seal.number,
        "first_id": seal.first_id,
        "last_id": seal.last_id,
        "count": seal.count,
        "digest": seal.digest,
        "leaves": seal.leaves,
        "previous": seal.previous,
        "salt_digest": seal.salt_digest,
        "sealed_at": seal.sealed_at,
        "key_id": seal.key_id,
        "format": seal.format,
        "head": row.head,
        "public_key": row.public_key,
        "signature": row.signature,
    }


def _line(row: AuditSeal) -> bytes:
    return _json(shown(row))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _last(file: Any) -> Anchor:
    """Give the newest seal of a log, reading its end only; a restore there, or nothing, has it read as a whole."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return Anchor(0, 0, "")
    file.seek(max(size - 4096, 0))
    tail = file.read().splitlines(keepends=True)
    newest = tail[-1]
    if newest.endswith(b"\n") and len(tail) > 1 and b'"restored_to"' not in newest:
        said = json.loads(newest)
        return Anchor(said["number"], said["last_id"], said["head"])
    if not newest.endswith(b"\n"):
        file.truncate(size - len(newest))  # a crash cut it; the seal is written again
    file.seek(0)
    found = read_lines(file)
    return max(found.values(), key=lambda anchor: anchor.number, default=Anchor(0, 0, ""))
