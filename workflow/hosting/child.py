"""A child process that is kept alive: started through the shim, restarted with backoff, stopped with a deadline.

It must not know what the child does.
"""

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from workflow.hosting import lifeline

BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
PULSE_SECONDS = 60.0  # longer than any wait for the database
SETTLED_SECONDS = 30.0  # a child that lived so long has not failed at starting


class StopSignal:
    """SIGTERM, SIGINT and SIGHUP as something to wait for, without a lock that a handler could find taken."""

    def __init__(self) -> None:
        self.asked = False
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._writable, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            os.write(self._writable, b"!")

    def wait(self, seconds: float) -> bool:
        """Wait until a stop is asked for, at most so long; tell whether it was."""
        if not self.asked:
            select.select([self._readable], [], [], seconds)
        return self.asked


class Running(Protocol):
    """A process that was started, as subprocess speaks of it."""

    pid: int

    @property
    def returncode(self) -> int | Any: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...


class Child:
    """One program, in a session of its own so that a terminal's Ctrl-C reaches its keeper alone."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        log: Path | None = None,
        pulse: Path | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.environment = {**os.environ, **(environment or {})}
        self.folder = folder
        self.log = log
        self.pulse = pulse  # a file that the program touches as long as it is well
        self.failures = 0  # deaths in a row, none of them after a settled life
        self.started_at = 0.0
        self.process: Running | None = None
        self._due_at = 0.0
        self._beat, self._beat_at = 0, 0.0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stuck(self, at: float) -> bool:
        """Whether it lives, but we have not seen its pulse change for too long; to be asked often."""
        if self.pulse is None or not self.alive:
            return False
        beat = self.pulse.stat().st_mtime_ns if self.pulse.exists() else 0
        if beat != self._beat or self._beat_at < self.started_at:
            self._beat, self._beat_at = beat, at
        return at - self._beat_at > PULSE_SECONDS

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def due(self, at: float) -> bool:
        """Whether it should be started now: it has never run, or died and its backoff is over."""
        return not self.alive and at >= self._due_at

    def start(self, at: float) -> None:
        """Start the program.

        :raises RuntimeError: outside the main thread, where the child would die with the thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("Children are started by the main thread only; nothing was started.")
        self.process = self._spawn()
        self.started_at = at

    def _spawn(self) -> "Running":
        output = None
        if self.log:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                lifeline.shimmed(self.command),
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            if output is not None:
                os.close(output)

    def bury(self, at: float) -> str:
        """Note a death and set the time of the next start; say how it died ("" if it lives or was never started)."""
        if self.process is None or self.process.poll() is None:
            return ""
        code = self.process.returncode
        self.process = None
        self.failures = 1 if at - self.started_at >= SETTLED_SECONDS else self.failures + 1
        self._due_at = at + BACKOFF_SECONDS[min(self.failures, len(BACKOFF_SECONDS)) - 1]
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def terminate(self) -> None:
        """Ask the program itself to stop; its children are its own affair."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most so long; tell whether it has ended."""
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill_group(self, wait: float = 2.0) -> None:
        """Kill the program with everything it started, and see them gone."""
        if self.process is None:
            return
        group = self.process.pid
        deadline = time.monotonic() + wait
        while _signal_group(group, signal.SIGKILL):
            self.process.poll()  # reap ours; the others are reaped by whoever inherits them
            if time.monotonic() >= deadline or not _group_runs(group):
                break
            threading.Event().wait(0.02)
        self.wait(wait)


class Fork(Child):
    """A copy of this process that does something else: it starts at once, and shares the memory of what is loaded already."""

    def __init__(self, name: str, target: Callable[[], None]) -> None:
        super().__init__(name, [])
        self._target = target

    def _spawn(self) -> Running:
        from django import db  # the keeper of all forks nothing, and does without it

        db.connections.close_all()  # no connection may be open on both sides
        return _Forked(self.name, self._target)


class _Forked:
    def __init__(self, name: str, target: Callable[[], None]) -> None:
        self._process = get_context("fork").Process(target=_become, args=(target,), name=name)
        self._process.start()
        self.pid = int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


def _become(target: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    target()


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return False
    return True


def _group_runs(group: int) -> bool:
    """Whether anything but zombies is left of a process group."""
    import psutil

    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
        except (psutil.Error, OSError):
            continue
    return False
