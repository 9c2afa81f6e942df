"""A real uvicorn on the test's own database, and a listener to its events, as a program outside would be one."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

import psutil
from django.conf import settings
from django.db import connection

from workflow.hosting import ports

ROOT = Path(__file__).resolve().parent.parent
WRONG_KEYS = 10_000  # a minute, from one address: schemathesis tries many
OPERATOR_KEY = "an-operator-key-for-the-web-server-of-tests"


def database_url() -> str:
    """Name the test's database as another process must."""
    found = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{found['NAME']}"
    return f"postgres://{found['USER']}:{found['PASSWORD']}@{found['HOST']}:{found['PORT']}/{found['NAME']}"


class WebServer:
    """One uvicorn of our application."""

    _started: ClassVar[set["WebServer"]] = set()  # by this worker

    @classmethod
    def stop_all(cls) -> None:
        """Stop every server of this worker: somebody wants the database alone."""
        for server in cls._started:
            server.stop()

    def __init__(self, folder: Path, **more: str) -> None:
        self._folder = folder
        self._more = more  # settings of its environment
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, same_port: bool = False) -> None:
        """Start, and wait until it answers."""
        self._started.add(self)
        if not same_port:
            self.port = ports.free_port("127.0.0.1", 41_000 + os.getpid() % 10_000)
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.served_settings",
            "DATABASE_URL": database_url(),
            "NOVAWF_OPERATOR_KEY": OPERATOR_KEY,
            "NOVAWF_WRONG_KEYS_PER_MINUTE": str(WRONG_KEYS),
            "NOVAWF_SECRET_KEY": settings.SECRET_KEY,
            "NOVAWF_VAR_DIR": str(self._folder),
            **self._more,
        }
        command = [sys.executable, "-m", "uvicorn", "tests.served:application", "--host", "127.0.0.1", "--port", str(self.port)]
        options = [
            "--ws",
            "websockets-sansio",
            "--ws-max-size",
            "4096",
            "--timeout-graceful-shutdown",
            "5",
            "--log-level",
            "warning",
            "--no-access-log",
        ]
        with (self._folder / "web.log").open("ab") as log:
            self._process = subprocess.Popen([*command, *options], env=environment, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 40
        while True:
            try:
                if self.get("/healthz")[0] == 200:
                    return
            except OSError:
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop as a supervisor does, and wait for the end."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)

    def log(self) -> str:
        return (self._folder / "web.log").read_text()

    def get(self, path: str, key: str = "") -> tuple[int, bytes, Any]:
        """Ask once; give status, body and headers."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            line.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
            answer = line.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            line.close()

    def listen(self, key: str = OPERATOR_KEY, *, last: int | None = None, **query: Any) -> "Listener":
        return Listener(self.port, {"Authorization": f"Bearer {key}"}, last, query)

    def listen_as(self, session: str, **query: Any) -> "Listener":
        """Listen with a session's cookie."""
        return Listener(self.port, {"Cookie": f"sessionid={session}"}, None, query)

    def threads(self) -> int:
        assert self._process is not None
        return psutil.Process(self._process.pid).num_threads()


class Listener:
    """Somebody who listens to the events, a line at a time."""

    def __init__(self, port: int, headers: dict[str, str], last: int | None, query: dict[str, Any]) -> None:
        self._line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {**headers, "Accept": "text/event-stream"}
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        self._line.request("GET", f"/api/v1/events/?{urlencode(query)}", headers=headers)
        self.answer = self._line.getresponse()
        self.last = last

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.answer.close()
        self._line.close()

    def blocks(self) -> Iterator[dict[str, str]]:
        """Give what comes, block by block, as {field: value}; a comment's field is empty."""
        block: dict[str, str] = {}
        deadline = time.monotonic() + 20  # heartbeats would go on for ever
        while line := self.answer.readline():
            assert time.monotonic() < deadline, "what was waited for did not come"
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(":")
                block[name] = value.removeprefix(" ")
            elif block:
                yield block
                block = {}

    def entries(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many entries."""
        found: list[dict[str, Any]] = []
        for block in self.blocks() if count else ():
            if "id" in block:
                self.last = int(block["id"])
            if "data" in block:
                found.append(json.loads(block["data"]))
                if len(found) == count:
                    break
        return found

    def settle(self) -> "Listener":
        """Wait until it hears what happens from now on: a heartbeat tells that it has all that was."""
        for block in self.blocks():
            if "" in block:
                break
        return self
