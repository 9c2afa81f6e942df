"""A whole NOVAWF of its own, started as a user starts it, whose processes a test may find by role and kill."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from safety.stream_client import StreamClient
from workflow.hosting import ports

ROOT = Path(__file__).resolve().parent.parent.parent


def wait_until(condition: Callable[[], Any], *, seconds: float, what: str, interval: float = 0.1) -> Any:
    """Wait until the condition is true and give its value; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(interval)


class RunningStack:
    """One `manage.py up` in a folder of its own."""

    def __init__(self, folder: Path, *, settings: str = "novawf_site.settings", environment: dict[str, str] | None = None):
        self.folder = folder
        # ten apart from the next process's: two stacks that start at once both find the same port free
        self.port = ports.free_port("127.0.0.1", 20_000 + os.getpid() % 2_000 * 10)
        self.stream_port = ports.free_port("127.0.0.1", self.port + 1)
        self.output = folder / "up.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NOVAWF_", "DRAGONFLY_", "PYTEST_"))}
        self.environment = {
            **kept,
            "DJANGO_SETTINGS_MODULE": settings,
            "NOVAWF_VAR_DIR": str(folder),
            "PORT": str(self.port),
            "DRAGONFLY_PORT": str(self.stream_port),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, psutil.Process] = {}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), *arguments]

    def start(self, *, ready_in: float = 150.0) -> None:
        """Start and wait until it says that it runs."""
        with self.output.open("ab") as output:
            begun = output.tell()
            self.process = subprocess.Popen(self.command("up"), env=self.environment, cwd=ROOT, stdout=output, stderr=output)
        wait_until(
            lambda: self.process and (self.process.poll() is not None or self.said("NOVAWF runs at", begun)),
            seconds=ready_in,
            what="the stack is ready",
        )
        assert self.process.poll() is None, self.text(begun)

    def text(self, begun: int = 0) -> str:
        return self.output.read_bytes()[begun:].decode()

    def said(self, words: str, begun: int = 0) -> bool:
        return words in self.text(begun)

    def run_file(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / "run.json").read_text())
        return found

    def stream(self) -> StreamClient:
        return StreamClient(self.run_file()["dragonfly_url"], name="outside", timeout=5.0)

    def readiness(self) -> dict[str, Any]:
        """What /readyz answers; {} if nothing does."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=6) as reply:
                return dict(json.load(reply))
        except urllib.error.HTTPError as refusal:
            return dict(json.load(refusal))
        except OSError:
            return {}

    def processes(self) -> list[psutil.Process]:
        """`up` and everything below it."""
        assert self.process is not None
        try:
            up = psutil.Process(self.process.pid)
            found = [up, *up.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self._seen.update({process.pid: process for process in found})
        return found

    def survivors(self) -> list[psutil.Process]:
        """What was ever seen of this stack and still runs."""
        return [process for process in self._seen.values() if runs(process)]

    def role(self, name: str) -> psutil.Process | None:
        """Find a process by what it is: up, web, stream; workers, main, sentinel, busy, idle, monitor, pusher of `:cluster`."""
        role, _, cluster = name.partition(":")
        processes = self.processes()
        if role == "up":
            return processes[0] if processes else None
        if role in ("web", "stream"):
            word = "uvicorn" if role == "web" else "valkey-server"
            return next((p for p in processes[1:] if word in _words(p)), None)
        supervisor = next((p for p in processes if _words(p).endswith(f"workers {cluster}")), None)
        if role == "workers" or supervisor is None:
            return supervisor
        main = next(iter(_children(supervisor)), None)
        if role == "main" or main is None:
            return main
        sentinel = next(iter(_children(main)), None)
        if role == "sentinel" or sentinel is None:
            return sentinel
        word = "processing" if role == "busy" else role
        found = [p for p in _children(sentinel) if word in _words(p) and "answer_probe" not in _words(p)]
        return next((p for p in found if reads_a_queue(p)), next(iter(found), None))

    def kill(self, role: str) -> psutil.Process:
        """kill -9 of one role, once it is there."""
        victim: psutil.Process = wait_until(lambda: self.role(role), seconds=20, what=f"there is a process {role}")
        victim.send_signal(signal.SIGKILL)
        if self.process and victim.pid == self.process.pid:
            self.process.wait(10)
        return victim

    def kill_everything(self) -> None:
        """kill -9 of all at once, `up` first so that nothing is restarted."""
        for process in self.processes():
            if runs(process):
                process.send_signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def terminate(self) -> float:
        """SIGTERM to `up`; give the seconds until it had ended."""
        assert self.process is not None
        self.processes()
        begun = time.monotonic()
        self.process.terminate()
        self.process.wait(30)
        return time.monotonic() - begun

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill_everything()
        for process in self.survivors():
            process.kill()


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def reads_a_queue(process: psutil.Process) -> bool:
    """Whether it waits inside one of django-q2's queues, that is, with the queue's lock in hand."""
    try:
        return "pipe" in Path(f"/proc/{process.pid}/wchan").read_text()
    except OSError:
        return False


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children())
    except psutil.NoSuchProcess:
        return []
