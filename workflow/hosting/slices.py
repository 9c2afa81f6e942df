"""One slice of a slot: takes the slot's lease, beats, ends in time and queues its successor.

    slice = Slice(slot, seconds=12)
    if slice.begin():
        while slice.beat():
            ...one round, shorter than SLOT_SILENT_SECONDS...
        slice.end()

The beat is evidence of life, so it belongs into the loop that works, never into a thread beside it.
"""

import os
import secrets
import time
from datetime import UTC, datetime

from django.conf import settings

from safety.facts import note_process
from workflow import leases
from workflow.hosting import slots, usage

_NOTE_USAGE_SECONDS = 5.0  # half of what a reading counts for


class Slice:
    """A turn at a slot. When the lease is lost (taken over, or taken by a stopping supervisor), it ends without successor."""

    def __init__(self, slot: str, *, seconds: float) -> None:
        self.slot = slot
        self.holder = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.lost = False
        self._ends_at = time.monotonic() + seconds
        self._beat_at = self._noted_at = 0.0
        self._held: leases.Held | None = None

    def begin(self) -> bool:
        """Take the slot; False if somebody drives it already, and then there is nothing to do."""
        self._held = leases.acquire(self.slot, self.holder, now=datetime.now(UTC), seconds=self._lease_seconds)
        self._beat_at = time.monotonic()
        if self._held is not None:
            self._note_usage()
        return self._held is not None

    def beat(self) -> bool:
        """Say that we live, when that is due; False once the time is up or the lease is lost."""
        if time.monotonic() >= self._ends_at:
            return False
        try:
            self.renew()
        except leases.LeaseLost:
            return False
        return True

    def renew(self) -> None:
        """Say that we live, when that is due, also past the end: for a slice that drains.

        :raises LeaseLost: the slot is no longer ours; leave soon.
        """
        at = time.monotonic()
        if self._held is None or at < self._beat_at + settings.SLOT_HEARTBEAT_SECONDS:
            return
        try:
            leases.renew(self._held, now=datetime.now(UTC), seconds=self._lease_seconds)
        except leases.LeaseLost:
            self.lost, self._held = True, None
            raise
        self._beat_at = at
        if at >= self._noted_at + _NOTE_USAGE_SECONDS:
            self._note_usage()

    def _note_usage(self) -> None:
        """Tell the safety judges what this process uses of the machine."""
        memory, cpu = usage.of_this_process()
        note_process(self.slot, settings.HOST, memory=memory, cpu=cpu, now=datetime.now(UTC))
        self._noted_at = time.monotonic()

    def end(self) -> None:
        """Give the slot back, then queue the successor, which may begin at once; nothing of both if the lease is lost.

        A slot of no cluster (the foreground's) has no successor.
        """
        if self._held is not None and leases.release(self._held) and slots.cluster_of(self.slot) in slots.clusters():
            slots.enqueue(self.slot)
        self._held = None

    @property
    def _lease_seconds(self) -> float:
        return float(settings.SLOT_SILENT_SECONDS) * 2
