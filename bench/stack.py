"""The whole of NOVAWF as a user runs it: `manage.py up` as a child, and what its processes use of the machine."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import psutil

from bench.databases import Database, free_port

ROOT = Path(__file__).resolve().parent.parent
_OURS = ("NOVAWF_", "DRAGONFLY_", "DATABASE_URL", "DJANGO_", "PORT", "Q_CLUSTER")


def environment(database: Database) -> dict[str, str]:
    """Give the environment of a NOVAWF of its own: nothing of the caller's installation is left in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    ours = {
        "NOVAWF_VAR_DIR": str(database.folder),
        "NOVAWF_LOG_FORMAT": "json",
        "PORT": str(free_port()),
        "DRAGONFLY_PORT": str(free_port()),
        "PYTHONUNBUFFERED": "1",
        # one agent with one key, and one operator, ask as fast as they can
        "NOVAWF_REQUESTS_PER_MINUTE": "0",
        "NOVAWF_VITAL_REQUESTS_PER_MINUTE": "0",
        "NOVAWF_OPERATOR_REQUESTS_PER_MINUTE": "0",
    }
    if database.url:
        ours["DATABASE_URL"] = database.url
    return kept | ours


def inside(given: dict[str, str], *arguments: str) -> Any:
    """Run one of bench/inside.py's measurements in a process of its own and give what it found."""
    command = [sys.executable, "-m", "bench.inside", *arguments]
    done = subprocess.run(command, env=given, cwd=ROOT, stdout=subprocess.PIPE, check=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def pause(seconds: float) -> None:
    """Let the others work."""
    threading.Event().wait(max(0.0, seconds))


class RunningStack:
    """One `manage.py up` with so many Novas, from ready until the end of the `with` block."""

    def __init__(self, database: Database, *, novas: int = 5) -> None:
        self.database = database
        self.environment = environment(database)
        self.output = database.folder / "up.log"
        self.nova_ids: list[str] = inside(self.environment, "seed", str(novas)) if novas else []  # 0: the database is filled
        self.process: subprocess.Popen[bytes] | None = None
        self.stream_url = ""
        self.address = ""
        self.operator_key = ""

    def __enter__(self) -> "RunningStack":
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, str(ROOT / "manage.py"), "up"], env=self.environment, cwd=ROOT, stdout=output, stderr=output
            )
        try:
            self._wait_until_ready(120.0)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        if self.process is None:
            return
        below = _below(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for process in below:
            if process.is_running():
                process.kill()

    def _wait_until_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._ready():
            if time.monotonic() > deadline or (self.process and self.process.poll() is not None):
                tail = self.output.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"The stack is not ready; the end of its output:\n{tail}")
            pause(0.2)

    def _ready(self) -> bool:
        try:
            found = json.loads((self.database.folder / "run.json").read_text())
            self.stream_url = found["dragonfly_url"]
            self.address, self.operator_key = found["url"], found["operator_key"]
            web = http.client.HTTPConnection(urlsplit(found["url"]).netloc, timeout=5)
            try:
                web.request("GET", "/readyz")
                return web.getresponse().status == http.HTTPStatus.OK
            finally:
                web.close()
        except (OSError, ValueError, http.client.HTTPException):
            return False

    # -- what it uses

    def parts(self) -> dict[str, list[psutil.Process]]:
        """Give its processes by part: up, web, streams, loops, work, database."""
        if self.process is None:
            return {}
        up = psutil.Process(self.process.pid)
        found = {"up": [up]}
        for child in up.children():
            found.setdefault(_part(child), []).extend([child, *_below(child.pid)])
        if self.database.server_pid:
            found["database"] = [psutil.Process(self.database.server_pid), *_below(self.database.server_pid)]
        return found

    def cpu(self) -> dict[str, float]:
        """Give the seconds of CPU that each part has used so far, ended children included."""
        return {part: sum(map(_cpu, processes)) for part, processes in self.parts().items()}

    def memory(self) -> dict[str, float]:
        """Give each part's memory in MB, shared pages divided among those who share them (PSS)."""
        return {part: sum(map(_pss, processes)) for part, processes in self.parts().items()}

    def log_bytes(self) -> int:
        """Give how much has been logged so far."""
        folder = self.database.folder / "log"
        return self.output.stat().st_size + sum(path.stat().st_size for path in folder.glob("**/*") if path.is_file())


@contextmanager
def running(database: Database, *, novas: int = 5) -> Iterator[RunningStack]:
    """Run a stack for a while."""
    with RunningStack(database, novas=novas) as stack:
        yield stack


def used(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Give what was used between two readings."""
    return {part: after[part] - before.get(part, 0.0) for part in after}


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _part(process: psutil.Process) -> str:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return "up"
    signs = {"uvicorn": "web", "valkey": "streams", "workers loops": "loops", "workers work": "work"}
    return next((part for sign, part in signs.items() if sign in words), "up")


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system


def _pss(process: psutil.Process) -> float:
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
