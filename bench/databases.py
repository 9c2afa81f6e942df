"""The databases a bench runs on: made for one run, thrown away after it. SQLite, and PostgreSQL where Debian's is installed."""

import glob
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg

FOLDER = "/var/tmp"  # noqa: S108 - a disk, where /tmp may be memory; each run has a folder of its own in it


class Database:
    """Where one stack keeps its rows: the folder for its `var/`, and a `DATABASE_URL` unless it is SQLite."""

    name = "SQLite"
    server_pid = 0  # of a database server, whose CPU counts

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.url = url

    def number(self, query: str) -> int:
        """Give the one number that a query asks for; reads only, past NOVAWF."""
        with closing(sqlite3.connect(f"file:{self.folder / 'novawf.sqlite3'}?mode=ro", uri=True, timeout=20)) as connection:
            return int(connection.execute(query).fetchone()[0] or 0)


class PostgresDatabase(Database):
    """A database of its own on the bench's server."""

    name = "PostgreSQL"

    def __init__(self, folder: Path, url: str, server_pid: int) -> None:
        super().__init__(folder, url)
        self.server_pid = server_pid

    def number(self, query: str) -> int:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(query.encode()).fetchone()
            return int((row and row[0]) or 0)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder on a real disk that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="novawf-bench-", dir=FOLDER if os.access(FOLDER, os.W_OK) else None))
    folder.chmod(0o755)  # PostgreSQL's own user passes through it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Give a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """Debian's PostgreSQL with its default settings (fsync and synchronous_commit on), on a free port."""

    @staticmethod
    def programs() -> Path | None:
        """Give the newest installed version's folder of programs; None if there is none."""
        found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
        newest = max(found, key=lambda path: int(path.split("/")[4]), default="")
        return Path(newest).parent if newest else None

    def __init__(self, folder: Path, programs: Path) -> None:
        self.data = folder / "postgres"
        self.data.mkdir(mode=0o700)
        self._user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        if self._user:
            shutil.chown(self.data, self._user)
        self._password = secrets.token_hex(8)
        secret = folder / "postgres-password"
        secret.write_text(self._password)
        if self._user:
            shutil.chown(secret, self._user)
        self._run(
            [programs / "initdb", "-D", self.data, "-U", "bench", "--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"]
        )
        self.port = free_port()
        options = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories="]
        command = [str(programs / "postgres"), "-D", str(self.data), *(word for option in options for word in ("-c", option))]
        self._log = (folder / "postgres.log").open("wb")
        self.process = subprocess.Popen(command, user=self._user, cwd="/", stdout=self._log, stderr=self._log)  # noqa: S603
        self._wait()

    def _run(self, command: list[str | Path]) -> None:
        subprocess.run(command, user=self._user, cwd="/", check=True, stdout=subprocess.DEVNULL)  # noqa: S603

    def url(self, database: str) -> str:
        return f"postgresql://bench:{self._password}@127.0.0.1:{self.port}/{database}"

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                threading.Event().wait(0.1)
            else:
                return

    def create(self, folder: Path) -> PostgresDatabase:
        """Make an empty database for one stack."""
        name = f"bench_{secrets.token_hex(4)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return PostgresDatabase(folder, self.url(name), self.process.pid)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # the fast shutdown
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()
