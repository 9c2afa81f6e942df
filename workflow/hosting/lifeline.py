"""Processes that die with the one that started them, so that no orphan ever goes on executing.

Imported, it arms forks; run as a script it is the shim: `python -I -S lifeline.py PARENT PROGRAM …` arms itself, makes sure
that the parent still lives, and becomes the program. Standard library only: the shim must start in milliseconds. The kernel
follows the parent's *thread*, so only main threads may start processes this way.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.5  # where the kernel offers nothing better than asking
KERNEL_TELLS = sys.platform.startswith("linux")
_libc = ctypes.CDLL(None, use_errno=True) if KERNEL_TELLS else None


def shimmed(command: Sequence[str]) -> list[str]:
    """Give the command line that runs `command` as a child which dies with this process."""
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), *command]


def die_with(parent: int) -> None:
    """End this process as soon as `parent` has ended, also if that was before this call."""
    if _libc is None:
        threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()
    elif _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)


def bind_forks() -> None:
    """Let every process forked from here on, at any depth, die with the process that forked it."""
    forker = [0]

    def remember_the_forker() -> None:
        forker[0] = os.getpid()

    os.register_at_fork(before=remember_the_forker, after_in_child=lambda: die_with(forker[0]))


def _watch(parent: int) -> None:
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _stand_by(parent: int, command: Sequence[str]) -> int:
    """Run the program as a child and take it along when the parent goes: the shim where no kernel does that."""
    child = subprocess.Popen(command)  # noqa: S603 - the command line was written by our own code
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    while True:
        try:
            return child.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                child.kill()


def main(arguments: Sequence[str]) -> None:
    """Arm, then become the program."""
    parent, command = int(arguments[0]), list(arguments[1:])
    if not KERNEL_TELLS:
        sys.exit(_stand_by(parent, command))
    die_with(parent)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
