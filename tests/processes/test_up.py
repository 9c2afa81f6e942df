"""What `manage.py up` leaves and says, without starting everything."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model

from safety.models import AuditEntry
from tests.processes.stack import ROOT
from workflow.hosting import ports, preparation, runfile
from workflow.hosting.stream_server import StreamServer, url_with_port, without_password

CONTENT = runfile.RunFile("http://127.0.0.1:8000", "redis://:secret@127.0.0.1:18000/0", "admin", "word", "key")


class TestRunFile:
    def test_is_for_its_owner_only_and_comes_back(self, tmp_path: Path) -> None:
        runfile.write(tmp_path, CONTENT)
        assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
        assert runfile.read(tmp_path) == CONTENT
        assert set(json.loads((tmp_path / "run.json").read_text())) == {
            *("url", "dragonfly_url", "admin_username", "admin_password", "operator_key"),
        }

    def test_is_replaced_in_one_step(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("old")
        os.link(tmp_path / "run.json", tmp_path / "reader")  # whoever opened the old file reads the old file to its end
        runfile.write(tmp_path, CONTENT)
        assert (tmp_path / "reader").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run.json")] == ["run.json"]

    @pytest.mark.parametrize("content", ["", "[]", '{"url": 1}', "{"])
    def test_that_can_not_be_read_is_none(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "run.json").write_text(content)
        assert runfile.read(tmp_path) is None


class TestPorts:
    def test_a_busy_port_gives_way_to_the_next_free_one(self) -> None:
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            taken = busy.getsockname()[1]
            assert not ports.is_free("127.0.0.1", taken)
            assert ports.free_port("127.0.0.1", taken) > taken

    def test_two_servers_are_not_given_the_same_port(self) -> None:
        first = ports.free_port("127.0.0.1", 23_000)
        assert ports.free_port("127.0.0.1", first, apart_from=first) != first

    def test_an_address_of_another_machine_is_refused(self) -> None:
        with pytest.raises(OSError, match="nothing was started"):
            ports.free_port("192.0.2.1", 65_530)


class TestStreamServer:
    URL = "redis://:pass%2Fword@127.0.0.1:18000/0"

    def test_keeps_its_password_off_the_command_line_and_in_a_private_file(self, tmp_path: Path) -> None:
        server = StreamServer(tmp_path, url_with_port(self.URL, ports.free_port("127.0.0.1", 24_000)))
        server.start(0.0)
        try:
            configuration = tmp_path / "stream" / "valkey.conf"
            assert not any("pass/word" in word for word in server.command)
            assert 'requirepass "pass/word"' in configuration.read_text()
            assert configuration.stat().st_mode & 0o777 == 0o600
        finally:
            server.kill_group()

    def test_that_can_not_start_from_its_files_starts_without_them(self, tmp_path: Path) -> None:
        server = StreamServer(tmp_path, self.URL)
        server.place.mkdir()
        (server.place / "broken").touch()
        server.failures = 3
        server.start(0.0)
        server.kill_group()
        assert not (server.place / "broken").exists()
        assert len(list(tmp_path.glob("stream-broken-*/broken"))) == 1

    def test_shows_no_password(self) -> None:
        assert without_password(self.URL) == "redis://:***@127.0.0.1:18000/0"
        assert without_password("rediss://streams:6379/1") == "rediss://streams:6379/1"


@pytest.mark.django_db
class TestAdmin:
    def test_is_made_once_with_a_journal_entry(self) -> None:
        password, is_new = preparation.ensure_admin(None)
        assert is_new
        assert get_user_model().objects.get(username="admin").check_password(password)
        assert AuditEntry.objects.filter(object_id="admin", actor="cli:up").exists()
        assert password not in json.dumps(list(AuditEntry.objects.values()), default=str)

    def test_keeps_the_password_that_was_shown(self) -> None:
        password, _ = preparation.ensure_admin(None)
        former = runfile.RunFile("", "", "admin", password, "")
        assert preparation.ensure_admin(former) == (password, False)

    def test_with_a_password_of_somebody_elses_is_left_alone(self) -> None:
        password, _ = preparation.ensure_admin(None)
        user = get_user_model().objects.get(username="admin")
        user.set_password("chosen by a person")
        user.save()
        assert preparation.ensure_admin(runfile.RunFile("", "", "admin", password, "")) == ("", False)
        assert preparation.ensure_admin(None) == ("", False)

    def test_that_was_deleted_is_made_again_with_a_new_password(self) -> None:
        password, _ = preparation.ensure_admin(None)
        get_user_model().objects.all().delete()
        again, is_new = preparation.ensure_admin(runfile.RunFile("", "", "admin", password, ""))
        assert is_new
        assert again != password


def test_a_second_up_in_the_same_folder_says_so_and_starts_nothing(tmp_path: Path) -> None:
    runfile.write(tmp_path, CONTENT)
    lock = os.open(tmp_path / "up.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    environment = {**os.environ, "NOVAWF_VAR_DIR": str(tmp_path), "DRAGONFLY_URL": ""}
    try:
        done = subprocess.run(
            [sys.executable, "manage.py", "up"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        os.close(lock)
    assert done.returncode == 1
    assert "runs already" in done.stderr
    assert CONTENT.url in done.stderr
    assert not (tmp_path / "stream").exists()
