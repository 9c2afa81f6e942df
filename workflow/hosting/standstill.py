"""Is this installation at a standstill? Who replaces its database must know, and must keep it so meanwhile.

Evidence only: locks of this machine's processes, leases of every machine's. It must not know what is done meanwhile.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import connection
from django.db.models import Q

from workflow.hosting import slots
from workflow.models import Lease

_FRESH = timedelta(seconds=15)  # well above every heartbeat and lease


class StillRunning(Exception):
    """Something of NOVAWF runs. Nothing was changed; stop it first."""


@contextmanager
def standstill(now: datetime) -> Iterator[None]:
    """Hold the locks of `up` and of the workers on this machine, so that none of them starts.

    :raises StillRunning: one of them runs here, or workers of another machine were heard just now.
    """
    folder = Path(settings.VAR_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    locks = {"`manage.py up`": folder / "up.lock"}
    locks |= {f"`manage.py workers {cluster}`": slots.lock_file(cluster) for cluster in slots.clusters()}
    with ExitStack() as held:
        for what, path in locks.items():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StillRunning(f"{what} runs from {folder}; stop it first. Nothing was changed.") from None
        if names := _held_leases(now):
            raise StillRunning(f"Workers were heard just now ({', '.join(names)}); stop them. Nothing was changed.")
        yield


def _held_leases(now: datetime) -> list[str]:
    if Lease._meta.db_table not in connection.introspection.table_names():
        return []
    beating = Q(heartbeat_at__gt=now - _FRESH) & ~Q(holder="")
    return sorted(Lease.objects.filter(beating).values_list("name", flat=True))[:5]
