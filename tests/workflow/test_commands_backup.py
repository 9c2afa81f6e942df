"""`manage.py backup` and `restore`: one instant, whole, guarded, and only at a standstill. On both databases."""

import fcntl
import json
import os
import subprocess
import sys
import zipfile
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from safety import anchors, seals, triggers, verification
from safety.models import AuditEntry, Installation
from safety.stream_client import StreamClient
from tests import factories
from tests.processes.stack import ROOT, wait_until
from tests.web_server import WebServer
from workflow import task_services
from workflow.models import Lease, Task
from workflow.streams.reader import EPOCH_KEY
from workflow.task_services import TaskRequest

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def _own_var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "VAR_DIR", tmp_path / "var")
    monkeypatch.setattr(settings, "SEALS_LOG", tmp_path / "seals.jsonl")


@pytest.fixture(autouse=True)
def _nobody_else() -> None:
    """The web servers of other tests hold the database; each is started again when one of them needs it."""
    WebServer.stop_all()


@pytest.fixture
def house(stream: StreamClient) -> str:
    """An installation with a journal; gives its epoch."""
    factories.make_nova("torch")
    return factories.make_installation().epoch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "novawf.backup"


def run(*words: Any, **options: Any) -> str:
    out = StringIO()
    call_command(*words, stdout=out, **options)
    return out.getvalue()


def ask(title: str, now: datetime) -> str:
    return task_services.request_task(TaskRequest(title, assignee="torch"), sender="operator", now=now)[0]


def entries() -> list[tuple[Any, ...]]:
    return list(AuditEntry.objects.order_by("id").values_list("id", "nova_id", "seq", "actor", "action", "after", "message"))


def test_what_was_backed_up_comes_back_guarded_and_goes_on(house, file, now):
    kept = ask("Kept", now)
    before = entries()
    made = json.loads(run("backup", str(file), json=True))
    assert made["newest_entry"] == before[-1][0]
    assert file.stat().st_mode & 0o777 == 0o600
    assert AuditEntry.objects.latest("id").action == "safety.backup.made"
    ask("Lost", now)
    told = json.loads(run("restore", str(file), replace=True, json=True))
    assert told["lost_entries"] == 2  # that the backup was made, and the task
    assert list(Task.objects.values_list("id", flat=True)) == [kept]
    found = entries()
    assert found[:-1] == before
    assert found[-1][4] == "safety.backup.restored"
    assert found[-1][3].startswith("cli:")
    assert Installation.objects.get().epoch != house
    # the journal is guarded, and its numbers go on
    assert triggers.missing() == []
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE safety_auditentry SET actor = 'nobody'")
    ask("Next", now + timedelta(seconds=1))
    newest = AuditEntry.objects.latest("id")
    assert newest.id > found[-1][0]
    assert newest.seq == max(entry[2] for entry in before) + 1


def test_seals_stay_valid_and_their_log_says_what_was_taken_back(house, file, now, tmp_path):
    ask("Kept", now)
    seals.seal(now=now)
    anchors.append()
    run("backup", str(file))
    ask("Lost", now)
    seals.seal(now=now)
    assert anchors.append() == 1
    elsewhere = anchors.read(settings.SEALS_LOG)
    run("restore", str(file), replace=True)
    assert verification.verify(anchors=anchors.own()).damages == 0
    assert [finding.damage for finding in verification.verify(anchors=elsewhere).findings] == ["truncated"]
    ask("Next", now)
    assert seals.seal(now=now) == anchors.append() == 1
    assert verification.verify(anchors=anchors.own()).damages == 0


def test_the_streams_are_forgotten_so_that_they_are_made_anew(house, file, now, stream):
    run("backup", str(file))
    for key in ("nova.work.queue", "nova.tasks.torch.todo"):
        stream.call("XADD", key, "*", "title", "done after the backup")
    stream.call("SET", EPOCH_KEY, house)
    stream.call("SET", "workflow:state:torch", "x")
    stream.call("SET", "of:others", "x")
    run("restore", str(file), replace=True)
    assert stream.call("KEYS", "*") == [b"of:others"]


def test_a_stream_server_that_is_away_is_refused_unless_it_is_said_to_be_empty(house, file, stream_server):
    run("backup", str(file))
    stream_server.stop()
    with pytest.raises(CommandError, match="--leave-streams"):
        call_command("restore", str(file), replace=True)
    assert Installation.objects.get().epoch == house
    run("restore", str(file), replace=True, leave_streams=True)
    assert Installation.objects.get().epoch != house


def test_a_journal_that_is_there_is_replaced_only_when_that_is_said(house, file, now):
    ask("Work", now)
    run("backup", str(file))
    with pytest.raises(CommandError, match="--replace"):
        call_command("restore", str(file))
    assert Task.objects.exists()


def test_nothing_is_restored_while_something_runs(house, file, now):
    run("backup", str(file))
    settings.VAR_DIR.mkdir(exist_ok=True)
    with (settings.VAR_DIR / "workers-loops.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CommandError, match="workers loops` runs"):
            call_command("restore", str(file), replace=True)
    lease = Lease.objects.create(name="slot:loops:elsewhere:0", holder="1-a", heartbeat_at=timezone.now())
    with pytest.raises(CommandError, match="slot:loops:elsewhere:0"):
        call_command("restore", str(file), replace=True)
    lease.delete()
    elsewhere = connection.copy()
    try:
        with elsewhere.cursor() as cursor:
            cursor.execute("SELECT 1 FROM safety_installation")
        with pytest.raises(CommandError, match=r"open, perhaps|1 others are connected"):
            call_command("restore", str(file), replace=True)
    finally:
        elsewhere.close()
    assert Installation.objects.get().epoch == house


def test_a_backup_of_a_newer_version_is_refused(house, file):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('safety', '0999_later', %s)", [factories.NOW]
        )
    try:
        run("backup", str(file))
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM django_migrations WHERE name = '0999_later'")
    with pytest.raises(CommandError, match=r"newer version \(it has safety\.0999_later"):
        call_command("restore", str(file), replace=True)
    assert Installation.objects.get().epoch == house


@pytest.mark.parametrize("content", [b"", b"not a backup", b"SQLite format 3\0" + b"x" * 5000, b"PK\x03\x04" + b"x" * 500])
def test_a_file_that_is_no_backup_is_refused(house, file, content):
    file.write_bytes(content)
    with pytest.raises(CommandError, match=r"Nothing was changed"):
        call_command("restore", str(file), replace=True)
    assert Installation.objects.get().epoch == house


def test_a_damaged_backup_is_refused(house, file, now):
    for number in range(200):
        ask(f"Work {number}", now + timedelta(seconds=number))
    run("backup", str(file))
    size = file.stat().st_size
    if connection.vendor == "postgresql":
        with zipfile.ZipFile(file) as archive:
            place = archive.getinfo("safety_auditentry.copy").header_offset + 200
    else:
        place = size // 2
    with file.open("r+b") as damaged:
        damaged.seek(place)
        damaged.write(os.urandom(3000))
    with pytest.raises(CommandError, match=r"Nothing was changed"):
        call_command("restore", str(file), replace=True)
    assert Task.objects.count() == 200


def test_an_existing_file_is_written_over_only_when_that_is_said(house, file):
    file.write_text("precious")
    with pytest.raises(CommandError, match="there already"):
        call_command("backup", str(file))
    assert file.read_text() == "precious"
    run("backup", str(file), force=True)
    assert [path.name for path in file.parent.iterdir() if path.is_file()] == [file.name]


def test_a_backup_made_while_others_write_is_of_one_instant(house, file, tmp_path):
    """A writer adds a task and its entry in each commit: in the backup there is none without the other."""
    code = (
        "import django; django.setup()\n"
        "from django.conf import settings\n"
        f"settings.DATABASES['default']['NAME'] = {str(connection.settings_dict['NAME'])!r}\n"
        "from django.utils import timezone\n"
        "from workflow import task_services as t\n"
        "while True:\n"
        "    t.request_task(t.TaskRequest('Work', assignee='torch'), sender='operator', now=timezone.now())\n"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "novawf_site.settings", "NOVAWF_VAR_DIR": str(tmp_path / "writer")}
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    try:
        wait_until(lambda: Task.objects.count() > 20, seconds=30, what="the writer writes")
        run("backup", str(file))
        then = Task.objects.count()
        wait_until(lambda: Task.objects.count() > then, seconds=30, what="the writer goes on")
    finally:
        writer.kill()
        writer.wait()
    if connection.vendor == "postgresql":
        # the server notices the dead client when it next writes to it
        wait_until(lambda: _alone(), seconds=10, what="the writer's connection is gone")
    run("restore", str(file), replace=True)
    created = AuditEntry.objects.filter(action="workflow.task.created").values_list("object_id", flat=True)
    assert 20 <= Task.objects.count() <= then
    assert sorted(created) == sorted(Task.objects.values_list("id", flat=True))
    seqs = list(AuditEntry.objects.filter(nova_id="torch").order_by("id").values_list("seq", flat=True))
    assert seqs == list(range(1, len(seqs) + 1))


def _alone() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        return bool(cursor.fetchone()[0] == 1)


def test_it_may_be_done_again_from_what_was_restored(house, file, now):
    run("backup", str(file))
    run("restore", str(file), replace=True)
    run("backup", str(file), force=True)
    run("restore", str(file), replace=True)
    assert [entry[4] for entry in entries()] == ["safety.backup.restored", "safety.backup.restored"]
