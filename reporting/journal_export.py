"""The journal's page as a file, of exactly its filter: JSON lines that prove themselves, or a table with a manifest.

Both are bounded, so that a page may make them while somebody waits; `manage.py audit_export` has no bound. Each is journalled.
"""

import csv
import io
import tempfile
import zipfile
from dataclasses import asdict
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from django.db import transaction

from reporting.core.comparison import unformulated
from reporting.exports import Export
from reporting.journal_rows import JournalFilter, bounds
from safety import audit, audit_export, seal_keys, seals
from safety.audit import Entry
from safety.audit_export import JOURNAL_EXPORTED, ExportRefused, Wanted
from safety.models import AuditEntry, AuditSeal
from workflow.errors import WorkflowError

SPAN_MOST = 100_000  # ids between the first and the last that may fit
_COLUMNS = (
    "id", "created_at", "actor", "action", "object_type", "object_id", "nova_id", "seq", "reason", "before", "after",
    "request_id", "cause", "stream", "message",
)  # fmt: skip


class JournalExportRefused(WorkflowError):
    """The journal can't be exported so; nothing was written."""

    answer = (409, "journal_export_refused")


def export_journal(asked: JournalFilter, kind: str, *, reason: str, now: datetime) -> Export:
    """Give the entries that fit as a file, and journal that it was made. `kind`: jsonl or csv.

    :raises JournalExportRefused: it would be too long, or nothing is sealed (jsonl).
    """
    low, high = bounds(asked)
    if high - low >= SPAN_MOST:
        raise JournalExportRefused(
            f"That would look at {high - low + 1:,} entries; here it may be {SPAN_MOST:,}. Narrow the time, or use "
            "manage.py audit_export, which has no bound. Nothing was written."
        )
    name = f"journal-{now:%Y%m%d-%H%M%S}"
    file, facts = _sealed_lines(asked, name, now) if kind == "jsonl" else _table(asked, low, high, name, now)
    after = facts | {"file": file.name, "filter": _said(asked), "sha256": sha256(file.content).hexdigest()}
    with transaction.atomic():
        audit.record([Entry(JOURNAL_EXPORTED, "", "export", file.name, after=after, reason=reason)], now=now)
    return file


def _said(asked: JournalFilter) -> dict[str, Any]:
    return {name: value for name, value in asdict(asked).items() if value}


def _sealed_lines(asked: JournalFilter, name: str, now: datetime) -> tuple[Export, dict[str, Any]]:
    """Write what is sealed, with its seals, as `audit_verify` verifies it; what is not sealed yet is sealed first."""
    if seal_keys.public_key():
        seals.seal(now=now)
    fields = asdict(asked) | {"action": f"{asked.action}*" if asked.action else "", "without_personal": True}
    wanted = Wanted(**fields)
    with tempfile.TemporaryDirectory(prefix="novawf-journal-") as folder:
        path = Path(folder) / f"{name}.jsonl"
        try:
            ranges = seals.ranges(*audit_export.seals_of(wanted))
            done = audit_export.write(path, ranges, wanted, now=now, packed=False)
        except ExportRefused as refusal:
            raise JournalExportRefused(str(refusal)) from None
        content = path.read_bytes()
    facts = {"entries": done.entries, "left_out": done.left_out, "redacted": done.redacted, "unsealed": done.unsealed}
    return Export(content, "application/x-ndjson", path.name), facts | {"head": done.head}


def _table(asked: JournalFilter, low: int, high: int, name: str, now: datetime) -> tuple[Export, dict[str, Any]]:
    """Write a table and a manifest that says what it holds, its digest, and the head of the seals it was made under."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    number = 0
    rows = AuditEntry.objects.filter(asked.condition, id__gte=low, id__lte=high).order_by("id")
    for row in rows.values_list(*_COLUMNS).iterator(chunk_size=2_000):
        number += 1
        writer.writerow([unformulated(_cell(value)) for value in row])
    table = text.getvalue().encode("utf-8-sig")  # the mark tells spreadsheets that it is UTF-8
    seal = AuditSeal.objects.order_by("-number").values("number", "last_id", "head").first()
    manifest = {
        "made_at": now, "made_by": audit.current_actor(), "filter": _said(asked), "entries": number,
        "first_id_looked_at": low, "last_id_looked_at": high, "sha256_of_entries_csv": sha256(table).hexdigest(), "seal": seal,
    }  # fmt: skip
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("entries.csv", table)
        archive.writestr("manifest.json", orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    facts = {"entries": number, "head": seal["head"] if seal else ""}
    return Export(file.getvalue(), "application/zip", f"{name}.zip"), facts


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return "" if value is None else value
