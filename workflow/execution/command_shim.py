"""What stands between a host and a command: sets limits, runs it in a session of its own, takes everything along at the end.

Run as a script: `python -I -S command_shim.py PARENT ANSWER_FD LIMITS PROGRAM ARGUMENT …`. Whatever the command starts,
daemons too, ends with it: orphans become this process's children, and it leaves none behind. It ends with the host that
started it. Standard library only, Linux only. Answers with one line of JSON on the file descriptor it is told.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
LOOK_SECONDS = 0.05
_MIB = 1024 * 1024
_PAGE = resource.getpagesize()


def main(arguments: list[str]) -> int:
    parent, answer_fd, limits, command = int(arguments[0]), int(arguments[1]), json.loads(arguments[2]), arguments[3:]
    os.set_inheritable(answer_fd, False)
    libc = ctypes.CDLL(None, use_errno=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP})
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != parent:
        return 1
    child = os.fork()
    if child == 0:
        _become(libc, limits, command)
    answer = _watch(child, limits)
    _end_all(child)
    os.write(answer_fd, json.dumps(answer).encode())
    return 0


def _become(libc: Any, limits: dict[str, Any], command: list[str]) -> None:
    """Turn into the command, under its limits; never returns."""
    try:
        os.setsid()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        for kind, value in (
            (resource.RLIMIT_AS, limits["memory"] * _MIB),
            (resource.RLIMIT_FSIZE, limits["file"] * _MIB),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, 256),
        ):
            resource.setrlimit(kind, (value, value))
        resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"] + 1))
        os.nice(5)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except BaseException as error:  # a child must never come back into the parent's code
        os.write(2, f"It could not be started: {type(error).__name__}: {error}\n".encode())
        os._exit(126)


def _watch(child: int, limits: dict[str, Any]) -> dict[str, Any]:
    """Wait until the command has ended, or goes beyond a limit, or somebody wants it ended."""
    begun = time.monotonic()
    while True:
        received = signal.sigtimedwait({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}, LOOK_SECONDS)
        if received is not None and received.si_signo != signal.SIGCHLD:
            return {"ended": "stopped"}
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == child:
                return {
                    "ended": "itself",
                    "code": os.waitstatus_to_exitcode(status),
                    "seconds": round(time.monotonic() - begun, 3),
                    "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
                }
            if pid == 0:
                break
        count = pages = 0
        for _, resident in _descendants():
            count, pages = count + 1, pages + resident
        if count > limits["processes"]:
            return {"ended": "processes", "measured": count}
        if pages * _PAGE > limits["memory"] * _MIB:
            return {"ended": "memory", "measured": pages * _PAGE // _MIB}


def _descendants() -> Iterator[tuple[int, int]]:
    """Give what descends from this process: pid and resident pages."""
    waiting = [os.getpid()]
    while waiting:
        for pid in _children(waiting.pop()):
            try:
                with open(f"/proc/{pid}/statm", "rb") as file:
                    yield pid, int(file.read().split()[1])
            except OSError:
                continue
            waiting.append(pid)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # it ended meanwhile
    return found


def _end_all(child: int) -> None:
    """Kill the command's session, then whatever has left it, until nothing is there any more."""
    while True:
        try:
            os.killpg(child, signal.SIGKILL)  # the whole group at once: a fork bomb can't outrun it
        except OSError:
            pass
        left = [pid for pid, _ in _descendants()]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in left:
                try:
                    os.kill(pid, number)
                except OSError:
                    pass
        try:
            while os.waitpid(-1, os.WNOHANG if left else 0)[0]:
                pass
        except ChildProcessError:
            if not left:
                return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
