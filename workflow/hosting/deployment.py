"""Bring a new version into service on this machine: look, migrate, collect static files, restart the workers in turn.

The old processes go on working meanwhile, so a version's migrations must suit the one before it. It must not know who starts
what was stopped: `up`, systemd or a container does.
"""

import fcntl
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from safety import triggers
from safety.stream_client import StreamClient, StreamError
from workflow.hosting import preparation, slots
from workflow.models import Lease

END_SECONDS = 30.0  # above STOP_GRACE_SECONDS: the supervisor kills what does not stop
BEGIN_SECONDS = 60.0
_LOOK_SECONDS = 0.2

Say = Callable[[str], None]


class DeploymentStopped(Exception):
    """A step failed; its text says which, and what was done before it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look found: `problem` stops a deployment, what is not one is what it would do."""

    problem: bool
    text: str


def look() -> list[Finding]:
    """Say what stands against a deployment, and what it would do; nothing: all is in service already."""
    found = [Finding(True, text) for text in _failed_checks()]
    try:
        plan = MigrationExecutor(connection).migration_plan(MigrationExecutor(connection).loader.graph.leaf_nodes())
        if plan:
            names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan)
            found.append(Finding(False, f"{len(plan)} migrations are to be applied: {names}"))
        elif absent := triggers.missing():
            found.append(
                Finding(True, f"the journal is not guarded: {', '.join(absent)}; find out who dropped them, then migrate")
            )
    except DatabaseError as error:
        found.append(Finding(True, f"the database: {error}"))
    if not preparation.static_is_current():
        found.append(Finding(False, "static files are to be collected"))
    if problem := _stream_problem():
        found.append(Finding(True, problem))
    return found


def carry_out(say: Say) -> None:
    """Migrate, seed, collect static files, restart this machine's workers, one cluster after the other.

    :raises DeploymentStopped: at the first step that fails; the workers that were not restarted yet go on with the old version.
    """
    if problems := [finding.text for finding in look() if finding.problem]:
        raise DeploymentStopped(f"{'; '.join(problems)}. Nothing was changed.")
    preparation.prepare_database()
    say("tables, policies, personalities and starting fleet: up to date")
    say("static files: collected" if preparation.collect_static() else "static files: up to date")
    for cluster in slots.clusters():
        if pid := supervisor_of(cluster):
            restart(cluster, pid)
            say(f"workers of {cluster}: restarted")
        else:
            say(f"workers of {cluster}: none run on this machine")


def supervisor_of(cluster: str) -> int:
    """Give the process that supervises a cluster on this machine; 0: none does."""
    try:
        descriptor = os.open(slots.lock_file(cluster), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return 0  # nobody holds it: what it names is gone
    except BlockingIOError:
        text = os.read(descriptor, 32).decode(errors="replace").strip()
    finally:
        os.close(descriptor)
    return int(text) if text.isdigit() and _supervises(int(text), cluster) else 0


def restart(cluster: str, pid: int) -> None:
    """Stop a cluster gracefully and wait until whoever keeps it has started it again and all its slots beat.

    :raises DeploymentStopped: it did not end, or nobody started it again.
    """
    asked_at = datetime.now(UTC)
    os.kill(pid, signal.SIGTERM)
    if not _until(END_SECONDS, lambda: not psutil.pid_exists(pid) or not _supervises(pid, cluster)):
        raise DeploymentStopped(f"The workers of {cluster} (process {pid}) did not end; look at their log.")
    if not _until(BEGIN_SECONDS, lambda: supervisor_of(cluster) not in (0, pid) and _beats(cluster, asked_at)):
        raise DeploymentStopped(
            f"The workers of {cluster} were stopped, and don't work again after {BEGIN_SECONDS:.0f} s: start them, and look at "
            "their log. Other clusters go on with the old version."
        )


def _supervises(pid: int, cluster: str) -> bool:
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return " ".join(words).strip().endswith(f"workers {cluster}")


def _beats(cluster: str, since: datetime) -> bool:
    names = slots.slot_names(cluster)
    return Lease.objects.filter(name__in=names, heartbeat_at__gt=since).exclude(holder="").count() == len(names)


def _until(seconds: float, true: Callable[[], bool]) -> bool:
    patience, deadline = threading.Event(), time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        patience.wait(_LOOK_SECONDS)
    return True


def _failed_checks() -> Iterator[str]:
    try:
        call_command("check", deploy=settings.PRODUCTION, stdout=io.StringIO(), stderr=io.StringIO())
    except SystemCheckError as error:
        yield str(error)


def _stream_problem() -> str:
    if settings.EMBEDDED_STREAM_SERVER:
        return ""  # `up` brings it along
    client = StreamClient(name="novawf-deploy")
    try:
        client.call("PING")
    except StreamError as error:
        return str(error).rstrip(".")
    finally:
        client.close()
    return ""
