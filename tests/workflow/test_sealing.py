"""Sealing as the installation does it: every minute, anchored outside, verified on demand, by jobs, commands and doors."""

import json
import subprocess
import sys
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client
from django_q.models import OrmQ, Schedule

from safety import anchors, audit, seals
from safety.models import AuditEntry, AuditSeal
from safety.stream_client import StreamClient
from tests import factories
from tests.workflow.test_stream_formats import SCHEMA
from workflow import jobs, sealing
from workflow.streams.intake import Intake
from workflow.streams.names import streams_of

pytestmark = pytest.mark.django_db(transaction=True)

METRICS = "nova.enterprise.metrics"


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SEALS_LOG", tmp_path / "seals.jsonl")
    factories.make_installation()


def write(now: datetime, count: int = 2, **fields: Any) -> None:
    with transaction.atomic():
        audit.record([audit.Entry("test.thing.done", "torch", reason="why", **fields) for _ in range(count)], now=now)


def run(*words: Any, **options: Any) -> str:
    out = StringIO()
    call_command(*words, stdout=out, **options)
    return out.getvalue()


def refused(*words: Any, **options: Any) -> tuple[int, str]:
    out = StringIO()
    with pytest.raises(CommandError) as error:
        call_command(*words, stdout=out, **options)
    return error.value.returncode, out.getvalue()


def test_a_seal_is_anchored_in_the_log_and_on_the_metrics_stream(stream: StreamClient, now: datetime) -> None:
    write(now)
    assert sealing.seal_and_anchor(now=now, client=stream) == 1
    head = AuditSeal.objects.get().head
    assert anchors.own()[1].head == head
    ((_, fields),) = stream.call("XRANGE", METRICS, "-", "+")
    told = {name.decode(): value.decode() for name, value in fields.items()}
    schema = {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/enterprise_metrics"}
    jsonschema.Draft202012Validator(schema).validate(told)
    assert json.loads(told["context"])["head"] == head
    # intake, which looks at that stream for strangers, knows it as ours
    own = Intake(streams_of([]), "testhouse")._published([(METRICS, told["event_id"].encode())])
    assert own == {(METRICS, told["event_id"].encode())}
    assert sealing.seal_and_anchor(now=now, client=stream) == 0
    assert stream.call("XLEN", METRICS) == 1


def test_without_a_stream_server_it_is_told_the_next_time(stream_server: Any, stream_url: str, now: datetime) -> None:
    stream_server.stop()
    write(now)
    jobs.seal_journal()
    stream_server.start()
    write(now)
    jobs.seal_journal()
    client = StreamClient(stream_url, name="test")
    assert client.call("XLEN", METRICS) == 1
    assert AuditSeal.objects.count() == len(anchors.own()) == 2


def test_an_auditor_sees_seals_and_has_them_verified(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    write(now)
    seals.seal(now=now)
    client = Client(headers={"Authorization": f"Bearer {settings.OPERATOR_KEY}"})
    (seal,) = client.get("/api/v1/journal/seals").json()["results"]
    assert seal["head"] == AuditSeal.objects.get().head
    assert "salt" not in seal
    assert client.get("/api/v1/journal/verify").json()["state"] == "unverified"
    body = json.dumps({"reason": "before the audit"})
    asked = client.post("/api/v1/journal/verify", body, content_type="application/json")
    assert (asked.status_code, asked.json()["scope"]) == (201, "full")
    planned = Schedule.objects.get(func=sealing.VERIFY_JOB)
    assert planned.args == str(asked.json()["id"])
    monkeypatch.setattr(settings, "JOB_SECONDS", 0.0)
    jobs.verify_journal(int(planned.args))
    (row,) = OrmQ.objects.all()
    monkeypatch.setattr(settings, "JOB_SECONDS", 5.0)
    assert row.task["args"] == (int(planned.args), 1)
    jobs.verify_journal(*row.task["args"])
    jobs.verify_journal(*row.task["args"])  # delivered twice, done once
    (done,) = client.get("/api/v1/journal/verifications").json()["results"]
    assert (done["damages"], done["requested_by"], done["reason"]) == (0, "operator", "before the audit")
    assert client.get("/api/v1/journal/verify").json()["state"] == "verified"
    assert AuditEntry.objects.get(action="safety.journal.verification_requested").reason == "before the audit"


def test_the_command_names_damage_and_says_what_cannot_be_excluded(now: datetime, tamper: Any, tmp_path: Path) -> None:
    assert refused("audit_verify")[0] == 2
    write(now, 3)
    seals.seal(now=now)
    anchors.append()
    kept = tmp_path / "kept.jsonl"
    kept.write_bytes(settings.SEALS_LOG.read_bytes())
    assert "can't be excluded" in run("audit_verify")
    told = json.loads(run("audit_verify", anchor=kept, json=True))
    assert (told["ok"], told["anchored"], told["entries"]) == (True, True, 3)
    entry_id = AuditEntry.objects.latest("id").pk
    tamper("UPDATE safety_auditentry SET reason = 'better' WHERE id = %s", entry_id)
    code, text = refused("audit_verify")
    assert code == 1
    assert f"edited: Entry {entry_id} was edited" in text
    assert refused("audit_verify", anchor=tmp_path / "nothing")[0] == 2


def test_an_export_comes_with_its_verifier_and_is_journalled(now: datetime, tmp_path: Path) -> None:
    write(now)
    write(now, 1, personal=True, after={"text": "planted-private"})
    file, verifier = tmp_path / "journal.jsonl", tmp_path / "verify.py"
    told = json.loads(run("audit_export", str(file), redact=frozenset({"actor"}), verifier=verifier, json=True))
    assert (told["entries"], told["redacted"], told["unsealed"]) == (3, 3, 0)
    assert b"planted-private" not in file.read_bytes()
    done = subprocess.run([sys.executable, "-I", "-S", verifier, file], capture_output=True, text=True)
    assert (done.returncode, "Nothing is wrong with what is here." in done.stdout) == (0, True)
    entry = AuditEntry.objects.latest("id")
    assert (entry.action, entry.after["filter"]) == ("safety.journal.exported", {"redact": ["actor"]})
    assert entry.actor.startswith("cli:")
    assert refused("audit_export", str(file))[0] == 1


def test_after_a_restore_the_log_goes_on_and_the_chain_verifies(now: datetime) -> None:
    write(now)
    seals.seal(now=now)
    anchors.append()
    anchors.note_restored(0, now=now)
    with settings.SEALS_LOG.open("rb") as log:
        assert anchors.read_lines(log) == {}
    assert anchors.append() == 1
    assert anchors.own()[1].head == AuditSeal.objects.get().head
