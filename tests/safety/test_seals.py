"""The sealer and the verification on real databases: nobody's entry is lost, and whatever is done to the tables is named."""

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.conf import settings
from django.db import connection, transaction

from safety import anchors, audit, audit_export, seal_keys, seals, verification
from safety.audit_export import Wanted
from safety.core.seals import Damage
from safety.models import AuditEntry, AuditSeal, SafetyIncident, SealCandidate, VerificationRun
from safety.offline import audit_verify
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)

VERIFIER = Path(audit_verify.__file__)


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SEALS_LOG", tmp_path / "seals.jsonl")
    monkeypatch.setattr(settings, "ARCHIVE_DIR", tmp_path / "archive")


def write(count: int = 3, *, now: datetime = factories.NOW, **fields: Any) -> list[int]:
    fields = {"nova_id": "torch", "object_id": "T-1", "after": {"status": "ünd", "n": 1.50}, "reason": "why"} | fields
    with transaction.atomic():
        return audit.record([audit.Entry("test.thing.done", **fields) for _ in range(count)], now=now)


def found(**options: Any) -> list[tuple[str, int]]:
    outcome = verification.verify(**options)
    return [(finding.damage.value, finding.first_id) for finding in outcome.findings]


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch, now: datetime) -> list[int]:
    """Nine entries under three seals; gives their ids."""
    monkeypatch.setattr(seals, "RANGE", 3)
    ids = write(9)
    assert seals.seal(now=now) == 3
    anchors.append()
    return ids


def test_every_entry_is_in_one_seal_and_the_chain_is_whole(sealed, now):
    assert [row.count for row in AuditSeal.objects.order_by("number")] == [3, 3, 3]
    assert found(anchors=anchors.own()) == []
    assert seals.seal(now=now) == 0
    write(1)
    assert verification.verify().unsealed == 1
    assert seals.seal(now=now) == 1
    assert anchors.append() == 1
    assert found(anchors=anchors.own()) == []


def test_the_database_refuses_to_change_a_seal(sealed):
    for statement in ("UPDATE safety_auditseal SET count = 0", "DELETE FROM safety_auditseal"):
        with pytest.raises(Exception, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE safety_auditentry SET reason = 'better' WHERE id = {4}", [("edited", 4)]),
        ("UPDATE safety_auditentry SET personal = true WHERE id = {0}", [("edited", 0)]),
        ("DELETE FROM safety_auditentry WHERE id = {1}", [("deleted", 1)]),
        ("DELETE FROM safety_auditentry WHERE id >= {0} AND id <= {2}", [("deleted", 0), ("deleted", 1), ("deleted", 2)]),
        ("DELETE FROM safety_auditseal WHERE number = 2", [("missing_range", 3)]),
        ("UPDATE safety_auditseal SET last_id = last_id - 1 WHERE number = 1", [
            ("seal_altered", 0), ("bad_signature", 0), ("inserted", None), ("missing_range", None),
        ]),
        ("UPDATE safety_auditseal SET signature = repeat_zeros WHERE number = 3", [("bad_signature", 6)]),
    ],
    ids=["text", "flag", "one gone", "range gone", "seal gone", "seal cut", "signature"],
)  # fmt: skip
def test_what_is_done_to_the_tables_is_named(sealed, tamper, sql, expected):
    tamper(sql.format(*sealed).replace("repeat_zeros", f"'{'0' * 128}'"))
    names = [damage for damage, _ in found()]
    assert set(names) >= {damage for damage, _ in expected if damage != "inserted"}
    if sql.startswith("UPDATE safety_auditentry") or "safety_auditentry WHERE" in sql:
        assert found() == [(damage, sealed[place]) for damage, place in expected]


def test_swapped_entries_are_a_reordering(sealed, tamper):
    first, second = sealed[0], sealed[2]
    tamper("UPDATE safety_auditentry SET id = -5 WHERE id = %s", first)
    tamper("UPDATE safety_auditentry SET id = %s WHERE id = %s", first, second)
    tamper("UPDATE safety_auditentry SET id = %s WHERE id = -5", second)
    assert found() == [("reordered", first), ("reordered", second)]


def test_an_entry_slipped_into_a_gap_is_an_insertion(sealed, tamper):
    tamper("DELETE FROM safety_auditseal")
    tamper("DELETE FROM safety_auditentry WHERE id = %s", sealed[4])
    seals.seal(now=factories.NOW)
    names = ", ".join(f.column for f in AuditEntry._meta.fields if f.column != "id")
    tamper(
        f"INSERT INTO safety_auditentry (id, {names}) SELECT {sealed[4]}, {names} FROM safety_auditentry WHERE id = %s",
        sealed[0],
    )
    assert found() == [("inserted", sealed[4])]


def test_a_cut_end_is_seen_against_an_anchor_only(sealed, tamper):
    kept = anchors.own()
    tamper("DELETE FROM safety_auditseal WHERE number = 3")
    tamper("DELETE FROM safety_auditentry WHERE id >= %s", sealed[6])
    assert found() == []
    assert found(anchors=kept) == [("truncated", sealed[6])]


def test_a_rebuild_with_another_key_is_seen_and_one_with_the_same_against_an_anchor(sealed, tamper, now, monkeypatch):
    kept, key = anchors.own(), settings.SEAL_KEY
    tamper("DELETE FROM safety_auditseal")
    tamper("UPDATE safety_auditentry SET actor = 'nobody' WHERE id = %s", sealed[0])
    monkeypatch.setattr(settings, "SEAL_KEY", "another" * 8)
    seals.seal(now=now)
    monkeypatch.setattr(settings, "SEAL_KEY", key)
    assert {damage for damage, _ in found()} == {"unknown_key"}
    tamper("DELETE FROM safety_auditseal")
    seals.seal(now=now)
    assert found() == []
    assert {damage for damage, _ in found(anchors=kept)} == {"rebuilt"}
    with pytest.raises(anchors.AnchorContradicts):
        anchors.append()


def test_a_changed_key_goes_on_where_its_public_half_is_still_named(sealed, now, monkeypatch):
    earlier = seal_keys.public_key()
    monkeypatch.setattr(settings, "SEAL_KEY", "the next one" * 4)
    write(1)
    seals.seal(now=now)
    assert {damage for damage, _ in found()} == {"unknown_key"}
    monkeypatch.setattr(settings, "SEAL_PUBLIC_KEYS", [earlier])
    assert found() == []


def test_without_a_key_nothing_is_sealed(now, monkeypatch):
    monkeypatch.setattr(settings, "SEAL_KEY", "")
    write(1)
    with pytest.raises(seal_keys.NoSealKey):
        seals.seal(now=now)
    assert verification.chain_status(now=now).state == "no_key"


def test_an_entry_of_a_transaction_that_is_open_across_seals_is_not_lost(now):
    """On PostgreSQL a lower id may be committed later: its range is closed only then."""
    if connection.vendor != "postgresql":
        assert seals.closed_up_to(now=now) == 0  # one writes at a time: what is committed is closed
        return
    write(2)
    assert seals.seal(now=now) == 1
    apart = connection.copy()
    try:
        with apart.cursor() as cursor:
            cursor.execute("BEGIN")
            _insert(cursor)
            later = write(2)
            assert seals.seal(now=now) == 0
            _insert(cursor)
            assert seals.seal(now=now) == 0
            cursor.execute("COMMIT")
            cursor.execute("BEGIN")  # somebody who came later holds nothing up
            _insert(cursor)
            assert seals.seal(now=now) == 1
            assert AuditSeal.objects.get(number=2).count == 3
            assert SealCandidate.objects.get().highest_id >= later[-1]
            cursor.execute("COMMIT")
        assert seals.seal(now=now) == 1
    finally:
        apart.close()
    assert sum(AuditSeal.objects.values_list("count", flat=True)) == AuditEntry.objects.count()
    assert found() == []


def _insert(cursor: Any) -> None:
    cursor.execute(
        "INSERT INTO safety_auditentry (created_at, nova_id, seq, actor, action, object_type, object_id, reason, request_id, "
        "cause, stream, personal) VALUES (now(), '', 0, 'late', 'test.late', '', '', '', '', '', '', false)"
    )


# -- verifications that are kept


def ran(asked: VerificationRun, **options: Any) -> VerificationRun:
    assert verification.run(asked, clock=lambda: factories.NOW, **options)
    return asked


def test_a_run_in_parts_finds_what_one_in_one_go_finds(sealed, now, tamper):
    tamper("UPDATE safety_auditentry SET reason = 'better' WHERE id = %s OR id = %s", sealed[1], sealed[8])
    asked = verification.due(now=now)
    behind = VerificationRun.objects.get(pk=asked.pk)
    for seal in (1, 2):
        assert ran(asked, go_on=lambda: False).finished_at is None
        assert (asked.last_seal, asked.damages) == (seal, 1)
    assert not verification.run(behind, clock=lambda: now)  # a part that another process did already
    assert ran(asked).finished_at == now
    assert [finding["first_id"] for finding in asked.findings] == [sealed[1], sealed[8]]
    assert (asked.entries, asked.first_seal, asked.last_seal) == (9, 1, 3)


def test_runs_go_on_where_the_last_clean_one_ended_and_the_badge_tells(sealed, now, tamper):
    assert verification.chain_status(now=now).state == "unverified"
    first = ran(verification.due(now=now), anchors=anchors.own())
    assert (first.scope, first.entries, first.damages, first.anchored) == ("full", 9, 0, True)
    write(2)
    seals.seal(now=now)
    second = ran(verification.due(now=now))
    assert (second.scope, second.first_seal, second.entries) == ("new", 4, 2)
    status = verification.chain_status(now=now)
    assert (status.state, status.verified_to, status.sealed_to) == ("verified", second.last_id, second.last_id)
    late = verification.chain_status(now=now + timedelta(days=2))
    assert (late.state, late.verification_overdue, late.sealing_overdue) == ("overdue", True, False)
    # what the last clean run ended with is gone: the run of new ranges looks at everything
    tamper("DELETE FROM safety_auditseal WHERE number = 4")
    third = ran(verification.request("new", reason="a look", now=now))
    assert third.findings[0]["damage"] == Damage.TRUNCATED
    assert verification.chain_status(now=now).state == "damaged"
    assert SafetyIncident.objects.get(ended_at=None).mechanism == "journal_seals"
    assert set(AuditEntry.objects.order_by("-id").values_list("action", flat=True)[:3]) == {
        "safety.incident.opened", "safety.journal.damaged", "safety.journal.verification_requested",
    }  # fmt: skip
    assert VerificationRun.objects.count() == 3


# -- exports


def offline(file: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run the one file on its own: isolated, without site-packages."""
    done = subprocess.run([sys.executable, "-I", "-S", VERIFIER, file, "--json", *words], capture_output=True, text=True)
    return done.returncode, orjson.loads(done.stdout) if done.stdout else {"error": done.stderr}


def test_an_export_verifies_offline_whatever_is_filtered_and_redacted(sealed, now, tmp_path):
    write(1, personal=True, reason="planted-private", after={"text": "planted-private"})
    write(1, nova_id="echo")
    seals.seal(now=now)
    anchors.append()
    known = ("--anchor", str(settings.SEALS_LOG), "--public-key", seal_keys.public_key())
    everything = tmp_path / "all.jsonl.gz"
    audit_export.export(everything, Wanted(), now=now)
    code, told = offline(everything, *known, "--every-signature")
    assert (code, told["entries"], told["redacted"], told["anchored"], told["signatures"]) == (0, 11, 1, True, 4)
    assert AuditEntry.objects.latest("id").action == "safety.journal.exported"
    echo = tmp_path / "echo.jsonl"
    done = audit_export.export(echo, Wanted(nova_id="echo", redact=frozenset({"actor", "reason"})), now=now)
    assert (done.entries, done.left_out, done.redacted) == (1, 10, 1)
    assert offline(echo, *known)[0] == 0
    for file in (everything, echo):
        text = b"".join(audit_verify.lines_of(str(file)))
        assert b"planted-private" not in text
    assert b'"why"' not in echo.read_bytes()
    with_personal = tmp_path / "personal.jsonl"
    audit_export.export(with_personal, Wanted(with_personal=True), now=now)
    assert b"planted-private" in with_personal.read_bytes()
    assert offline(with_personal, *known)[0] == 0


def test_an_export_that_was_changed_does_not_verify(sealed, now, tmp_path):
    file = tmp_path / "all.jsonl"
    audit_export.export(file, Wanted(), now=now)
    lines = file.read_bytes().splitlines(keepends=True)

    def told(changed: list[bytes]) -> Any:
        file.write_bytes(b"".join(changed))
        code, report = offline(file)
        return code, {(finding["damage"], finding["first_id"]) for finding in report.get("findings", ())} - {("edited", 0)}

    place = next(place for place, line in enumerate(lines) if f'"id":{sealed[4]},'.encode() in line)
    edited = lines[place].replace(b"why", b"how")
    assert told([*lines[:place], edited, *lines[place + 1 :]]) == (1, {("edited", sealed[4])})
    assert told([*lines[:place], *lines[place + 1 :]]) == (1, {("deleted", sealed[4])})
    assert told([*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]])[1] >= {("reordered", sealed[4])}
    assert told(lines[:-1])[0] == 2
    last = max(place for place, line in enumerate(lines) if b'"kind":"seal"' in line)
    forged = lines[last].replace(b'"signature":"', b'"signature":"0000')[:-6] + b"\n"
    assert told([*lines[:last], forged, *lines[last + 1 :]])[0] in (1, 2)
    assert told(lines) == (0, set())
