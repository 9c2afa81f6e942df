"""The process behind `manage.py up`: holds the folder's lock and keeps the whole of NOVAWF running.

It lives as long as the installation, and needs settings but neither models nor applications: without them it is half as large.
"""

import fcntl
import os
import sys

from django.conf import settings

from workflow.hosting import runfile
from workflow.hosting.child import StopSignal
from workflow.hosting.stack import PreparationFailed, Stack


class RunsAlready(Exception):
    """Another keeper has this folder; nothing was started."""


def keep() -> None:
    """Run everything of this machine until asked to stop.

    :raises RunsAlready: somebody else does. :raises PreparationFailed, OSError: it could not be started.
    """
    stop = StopSignal()
    settings.VAR_DIR.mkdir(parents=True, exist_ok=True)
    lock = os.open(settings.VAR_DIR / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        former = runfile.read(settings.VAR_DIR)
        where = f" at {former.url}/" if former else ""
        raise RunsAlready(f"NOVAWF runs already from {settings.VAR_DIR}{where}; nothing was started.") from None
    try:
        Stack(stop, _say).run()
    finally:
        os.close(lock)


def main() -> int:
    """Keep, and say in words why it did not work; give the exit code."""
    try:
        keep()
    except (OSError, PreparationFailed, RunsAlready) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
