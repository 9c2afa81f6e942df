"""The journal's page: filtered and paged by id in few queries, whole for auditors alone, proven, exported."""

import csv
import io
import json
import subprocess
import sys
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from reporting import journal_export, journal_rows
from reporting.journal_rows import JournalFilter, journal_page
from safety import audit, seals
from safety.audit import Entry
from safety.models import AuditEntry, VerificationRun
from safety.offline import audit_verify
from tests import factories
from tests.reporting.test_pages import person, text

pytestmark = pytest.mark.django_db


def write(number: int, *, at: datetime, action: str = "test.thing.done", **fields: Any) -> list[int]:
    with transaction.atomic():
        return audit.record([Entry(action, **fields) for _ in range(number)], now=at)


def ids(page: journal_rows.JournalPage) -> list[int]:
    return [row.id for row in page.rows]


def test_pages_hold_each_entry_once_from_the_newest_to_the_first_and_back(now: datetime) -> None:
    written = write(120, at=now)
    first = journal_page(JournalFilter(), in_full=True)
    second = journal_page(JournalFilter(), before=first.older, in_full=True)
    third = journal_page(JournalFilter(), before=second.older, in_full=True)
    assert ids(first) + ids(second) + ids(third) == written[::-1]
    assert (third.older, first.newer) == (None, None)
    assert ids(journal_page(JournalFilter(), after=third.newer, in_full=True)) == ids(second)
    assert ids(journal_page(JournalFilter(), after=second.newer, in_full=True)) == ids(first)


def test_a_filter_that_no_index_serves_looks_at_a_stretch_at_a_time_and_loses_nothing(
    now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_rows, "STRETCH", 30)
    (rare,) = write(1, at=now, action="test.rare.done")
    write(100, at=now)
    asked, before, found, looks = JournalFilter(action="test.rare"), None, [], 0
    while looks < 10:
        page = journal_page(asked, before=before, in_full=True)
        found, looks, before = found + ids(page), looks + 1, page.older
        if before is None:
            break
    assert (found, looks) == ([rare], 4)


def test_times_find_their_entries_by_bisection(now: datetime) -> None:
    early, middle, late = (write(40, at=now + timedelta(hours=hours)) for hours in (0, 5, 9))
    asked = JournalFilter(since=now + timedelta(hours=4), until=now + timedelta(hours=6))
    with CaptureQueriesContext(connection) as queries:
        page = journal_page(asked, in_full=True)
    assert sorted(ids(page)) == middle
    assert len(queries) < 20
    low, high = journal_rows.bounds(asked)
    assert early[-1] < low <= middle[0]
    assert middle[-1] <= high < late[0]


def test_what_is_personal_is_nowhere_not_even_by_its_address(now: datetime, admin_client: Client) -> None:
    (hidden,) = write(1, at=now, action="workflow.nova.reflected", personal=True, reason="PLANTED", nova_id="torch")
    assert "reflected" not in text(admin_client, "/journal/")
    assert admin_client.get(f"/journal/{hidden}/").status_code == 404
    assert admin_client.get(f"/journal/{2**70}/").status_code == 404


def test_auditors_read_all_and_others_only_what_happened_and_how_often(now: datetime) -> None:
    write(3, at=now, nova_id="torch", object_type="user", object_id="olivia", reason="PLANTED", after={"title": "PLANTED"},
          actor="user:olivia")  # fmt: skip
    auditor, viewer = person("auditor"), person("viewer")
    page = text(auditor, "/journal/?actor=user%3Aolivia")
    assert all(words in page for words in ("PLANTED", "user:olivia", "test.thing.done"))
    entry_id = AuditEntry.objects.filter(actor="user:olivia").latest("id").pk
    detail = text(auditor, f"/journal/{entry_id}/")
    assert "PLANTED" in detail
    assert "Not sealed yet" in detail
    assert "test.thing.done <b>3</b>" in text(viewer, "/journal/?actor=nobody&object=nothing"), "it does not answer guesses"
    seen = text(viewer, "/journal/")
    assert "olivia" not in seen
    assert "PLANTED" not in seen
    assert viewer.get(f"/journal/{entry_id}/").status_code == 403
    assert viewer.get("/journal/export/").status_code == 403


def test_a_filter_is_shown_as_chips_and_nonsense_is_named(admin_client: Client, now: datetime) -> None:
    write(1, at=now)
    page = text(admin_client, "/journal/?action=test&nova=torch%00&since=yesterday&before=x&after=-1")
    assert "“yesterday” is no time" in page
    assert "Action begins with test: take this filter away" in page
    assert "Clear filters (2)" in page
    assert "test.thing.done" in text(admin_client, "/journal/?action=test")


def test_a_page_costs_the_same_for_any_number_of_entries(admin_client: Client, now: datetime) -> None:
    counts = []
    for number in (60, 300):
        write(number, at=timezone.now(), nova_id="torch")
        admin_client.get("/journal/")
        with CaptureQueriesContext(connection) as queries:
            text(admin_client, "/journal/?action=test&nova=torch")
        counts.append(len(queries))
    assert counts[0] == counts[1] < 35


def test_an_entry_shows_what_changed_and_whether_it_is_what_was_sealed(auditor: Client, now: datetime) -> None:
    (entry_id,) = write(1, at=now, object_type="task", object_id="T-1", before={"a": 1, "b": 2}, after={"a": 1, "b": 3})
    seals.seal(now=now)
    page = text(auditor, f"/journal/{entry_id}/")
    assert "As it was sealed" in page
    assert page.index('<tr class="changed"><th scope="row">b') < page.index('<tr class="same"><th scope="row">a')
    assert not journal_rows.prove(AuditEntry(id=entry_id + 1)).digest


@pytest.fixture
def auditor(db: None) -> Client:
    return person("auditor")


def test_it_is_verified_on_demand_with_a_reason(auditor: Client, now: datetime) -> None:
    write(1, at=now)
    seals.seal(now=now)
    assert "Verify now" in text(auditor, "/journal/")
    assert auditor.post("/journal/verify/", {"reason": ""}).status_code == 400
    assert not VerificationRun.objects.exists()
    done = auditor.post("/journal/verify/", {"reason": "before the audit"}, follow=True)
    assert "A worker verifies the journal now." in done.content.decode()
    asked = VerificationRun.objects.get()
    assert (asked.scope, asked.reason, asked.requested_by) == ("full", "before the audit", "user:auditor")
    assert person("operator").get("/journal/verify/").status_code == 403


def test_an_export_holds_exactly_the_filter_verifies_offline_and_is_journalled(
    auditor: Client, now: datetime, tmp_path: Path
) -> None:
    factories.make_installation()
    mine = write(3, at=now, nova_id="torch", reason="=1+1")
    write(5, at=now, nova_id="echo")
    write(1, at=now, nova_id="torch", personal=True, reason="PLANTED")
    lines = auditor.post("/journal/export/?nova=torch", {"kind": "jsonl", "reason": "for the auditors"})
    assert lines["Content-Disposition"].endswith('.jsonl"')
    rows = [json.loads(line) for line in lines.content.splitlines()]
    assert [row["id"] for row in rows if row["kind"] == "entry"] == mine
    assert b"PLANTED" not in lines.content
    file = tmp_path / "export.jsonl"
    file.write_bytes(lines.content)
    told = subprocess.run([sys.executable, audit_verify.__file__, str(file)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    table = auditor.post("/journal/export/?nova=torch", {"kind": "csv", "reason": "for the auditors"})
    archive = zipfile.ZipFile(io.BytesIO(table.content))
    cells = list(csv.DictReader(io.StringIO(archive.read("entries.csv").decode("utf-8-sig"))))
    assert [(int(row["id"]), row["reason"]) for row in cells] == [(entry_id, "'=1+1") for entry_id in mine]
    manifest = json.loads(archive.read("manifest.json"))
    assert (manifest["entries"], manifest["filter"]) == (3, {"nova_id": "torch"})
    entries = AuditEntry.objects.filter(action="safety.journal.exported")
    assert [(entry.actor, entry.reason, entry.after["entries"]) for entry in entries] == [
        ("user:auditor", "for the auditors", 3)
    ] * 2


def test_an_export_that_would_take_too_long_is_refused_and_says_what_to_do(
    auditor: Client, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_export, "SPAN_MOST", 10)
    write(20, at=now)
    refused = auditor.post("/journal/export/", {"kind": "csv", "reason": "all of it"})
    assert refused.status_code == 409
    assert "Narrow the time, or use manage.py audit_export" in refused.content.decode().replace("\n", " ")
    assert not AuditEntry.objects.filter(action="safety.journal.exported").exists()
