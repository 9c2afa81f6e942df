"""Chores: small jobs that upper floors want done every few seconds, in a thread of a work slot, by one process at a time.

Settings name them (`CHORES`), so nothing here knows an upper floor. A chore does a bounded turn and says in how many seconds it
wants the next; a lease sees to it that one process does them, and each chore itself that a second one would do no harm.
"""

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from django.conf import settings
from django.db import close_old_connections, connections
from django.db.models import Q
from django.utils.module_loading import import_string

from workflow import leases
from workflow.models import Lease

CHORES = "chores"
Chore = Callable[[datetime], float]
_LOOK_SECONDS = 2.0  # for whoever waits to take over
_LEASE_SECONDS = 10.0  # longer than a turn of any chore
_TROUBLE_SECONDS = 5.0

logger = structlog.get_logger(__name__)


class Chores:
    """Does the chores until it is stopped."""

    def __init__(self, holder: str) -> None:
        self._holder = holder
        self._stop = threading.Event()
        self._held: leases.Held | None = None
        self._renew_at = 0.0
        self._due: dict[str, float] = dict.fromkeys(settings.CHORES, 0.0)
        self._chores: dict[str, Chore] = {}
        self._thread = threading.Thread(target=self._drive, name=CHORES, daemon=True)

    def __enter__(self) -> "Chores":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_LEASE_SECONDS)

    def _drive(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            close_old_connections()
            try:
                wait = self._round(datetime.now(UTC), time.monotonic())
            except Exception:  # the top of a loop: log, back off with jitter, go on
                logger.exception("a chore failed")
                self._held = None
                wait = _TROUBLE_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        if self._held:
            leases.release(self._held)
        connections.close_all()

    def _round(self, now: datetime, at: float) -> float:
        """Do what is due, if the lease is ours; give the seconds to wait."""
        if not self._hold(now, at):
            return _LOOK_SECONDS
        for name, due in self._due.items():
            if due <= at and not self._stop.is_set():
                chore = self._chores.get(name) or self._chores.setdefault(name, import_string(name))
                self._due[name] = at + chore(now)
        return max(0.02, min(min(self._due.values(), default=at + _LOOK_SECONDS) - time.monotonic(), _LOOK_SECONDS))

    def _hold(self, now: datetime, at: float) -> bool:
        if self._held is None:
            free = Q(holder="") | Q(holder=self._holder) | Q(expires_at=None) | Q(expires_at__lt=now)
            if Lease.objects.filter(name=CHORES).exclude(free).exists():
                return False
            self._held = leases.acquire(CHORES, self._holder, now=now, seconds=_LEASE_SECONDS)
            self._renew_at = at + _LEASE_SECONDS / 3
        elif at >= self._renew_at:
            leases.renew(self._held, now=now, seconds=_LEASE_SECONDS)
            self._renew_at = at + _LEASE_SECONDS / 3
        return self._held is not None
