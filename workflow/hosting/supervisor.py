"""The supervisor of one django-q2 cluster: gives it a process group of its own, believes only evidence, restarts it.

Stock django-q2 stays silent for ever when an idle worker or its monitor is killed, leaves orphans when its sentinel dies, and
never ends when a whole group is told to stop. So: its processes die with their parents, slices beat in the database, probes
must be acknowledged, a stop goes to its main process only and has a deadline. It must not know what the slices do.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from django import db
from django.conf import settings
from django.core.management import call_command
from django.db.models import F, Max, Q
from django_q.models import OrmQ, Schedule

from workflow.hosting import slots
from workflow.hosting.child import BACKOFF_SECONDS, Child, Fork, StopSignal
from workflow.hosting.evidence import Sight, Watch
from workflow.models import Lease

LOOK_SECONDS = 0.5
ADOPT_SECONDS = 10.0
PROBE_LIMITS = {"loops": 6.0, "work": 15.0}  # seconds; a scheduled job may keep the spare worker of `work` busy
FORGET_AFTER = timedelta(days=1)  # hosts that left
SUPERVISOR = "supervisor"  # the holder of a slot that is being stopped

log = structlog.get_logger(__name__)


def run_cluster() -> None:
    """Be the main process of the cluster that Q_CLUSTER_NAME names, until it is told to stop."""
    call_command("qcluster")


class Supervisor:
    """Keeps one cluster of this host running until it is told to stop."""

    def __init__(self, cluster: str, stop: StopSignal, pulse: Callable[[], None] = lambda: None) -> None:
        self.cluster = cluster
        self.queue = slots.queue_name(cluster)
        self.slots = slots.slot_names(cluster)
        self.stop = stop
        self.pulse = pulse  # called as long as all is well with the supervisor itself
        self.child: Child = Fork(cluster, run_cluster)
        self.watch = Watch(self.slots, float(settings.SLOT_SILENT_SECONDS), PROBE_LIMITS[cluster])
        self._groups: dict[int, str] = {}  # queue row to the group in its payload, which is costly to read
        self._adopt_at = 0.0
        self._failures = 0

    def run(self) -> None:
        """Supervise until asked to stop; then stop the cluster and return."""
        wait = 0.0
        while not self.stop.wait(wait):
            self.pulse()
            try:
                self._round(time.monotonic())
                self._failures, wait = 0, LOOK_SECONDS
            except db.Error as error:
                # the database is away: the cluster can't prove anything now, so it is left alone
                log.warning("supervisor.database_failed", cluster=self.cluster, error=str(error))
                db.connections.close_all()
                self._failures += 1
                wait = BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS)) - 1]
        self._end()

    def _round(self, at: float) -> None:
        if not self.child.alive:
            self._bury(at)
            if self.child.due(at):
                self._begin(at)
            return
        plan = self.watch.look(at, self._see())
        if plan.restart:
            log.error("supervisor.cluster_restarted", cluster=self.cluster, reason=plan.restart)
            self.child.kill_group()
            self._begin(at)
            return
        for slot in plan.revive:
            self._revive(slot)
        for slot in plan.seed:
            slots.enqueue(slot)
        if plan.probe:
            slots.enqueue_probe(self.cluster)
        if self.cluster == "work" and at >= self._adopt_at:
            self._adopt_schedules()
            self._adopt_at = at + ADOPT_SECONDS

    def _bury(self, at: float) -> None:
        self.child.kill_group()
        if death := self.child.bury(at):
            log.error("supervisor.cluster_died", cluster=self.cluster, how=death)

    def _begin(self, at: float) -> None:
        """Start a cluster where none runs: nobody can hold its slots, nothing taken from its queue is being done."""
        self._clean()
        for slot in self.slots:
            slots.enqueue(slot)
        self.child.start(at)
        self.watch.cluster_started(at)
        log.info("supervisor.cluster_started", cluster=self.cluster, slots=len(self.slots))

    def _clean(self) -> None:
        self._free(self.slots)
        slots.forget_beats(self.cluster)
        rows = self._rows()
        ours = [row_id for row_id, _ in rows if self._groups[row_id] == slots.PROBE or self._groups[row_id] in self.slots]
        OrmQ.objects.filter(pk__in=ours).delete()
        OrmQ.objects.filter(key=self.queue).update(lock=datetime.now(UTC))  # scheduled jobs that the last cluster took
        gone = datetime.now(UTC) - FORGET_AFTER
        OrmQ.objects.filter(key__startswith=f"{self.cluster}@", lock__lt=gone).delete()
        Lease.objects.filter(name__startswith=f"slot:{self.cluster}:", heartbeat_at__lt=gone).exclude(
            name__in=self.slots
        ).delete()

    def _rows(self) -> list[tuple[int, datetime | None]]:
        """Give the rows of our queue as (id, lock), and know their groups."""
        rows: list[tuple[int, datetime | None]] = list(OrmQ.objects.filter(key=self.queue).values_list("pk", "lock"))
        unknown = [row_id for row_id, _ in rows if row_id not in self._groups]
        known = {row_id: self._groups[row_id] for row_id, _ in rows if row_id in self._groups}
        for row in OrmQ.objects.filter(pk__in=unknown):
            known[row.pk] = str(row.group() or "")
        self._groups = {row_id: known.get(row_id, "") for row_id, _ in rows}
        return rows

    def _see(self) -> Sight:
        leases = Lease.objects.filter(name__in=self.slots).values_list("name", "holder", "fence", "heartbeat_at")
        beats, held = {}, set()
        for name, holder, fence, heartbeat_at in leases:
            beats[name] = (fence, heartbeat_at)
            if holder:
                held.add(name)
        queued = frozenset(self._groups[row_id] for row_id, _ in self._rows())
        return Sight(beats, frozenset(held), queued, slots.PROBE in queued)

    def _revive(self, slot: str) -> None:
        log.warning("supervisor.slot_silent", cluster=self.cluster, slot=slot)
        self._free([slot])
        taken = [row_id for row_id, _ in self._rows() if self._groups[row_id] == slot]
        if taken:
            OrmQ.objects.filter(pk__in=taken).update(lock=datetime.now(UTC))
        else:
            slots.enqueue(slot)

    @staticmethod
    def _free(names: list[str]) -> None:
        # the fence rises, so that a holder which only slept notices that its time is over
        Lease.objects.filter(name__in=names).exclude(holder="").update(holder="", expires_at=None, fence=F("fence") + 1)

    def _adopt_schedules(self) -> None:
        """Take the schedules that no living host runs: django-q2 runs only those that name its own queue."""
        beating = Lease.objects.filter(name__startswith="slot:work:").values_list("name").annotate(at=Max("heartbeat_at"))
        fresh = datetime.now(UTC) - timedelta(seconds=60)
        living = {f"work@{name.split(':')[2]}" for name, at in beating if at and at > fresh} | {self.queue}
        Schedule.objects.filter(Q(cluster=None) | ~Q(cluster__in=living)).update(cluster=self.queue)

    def _end(self) -> None:
        """Stop: take the slots away, which slices notice at the next beat; tell the main process; kill at the deadline."""
        deadline = time.monotonic() + float(settings.STOP_GRACE_SECONDS)
        try:
            self._take_slots()
        except db.Error as error:
            log.warning("supervisor.database_failed", cluster=self.cluster, error=str(error))
        self.child.terminate()
        in_time = self.child.wait(deadline - time.monotonic())
        self.child.kill_group()
        try:
            self._free(self.slots)
        except db.Error as error:
            log.warning("supervisor.database_failed", cluster=self.cluster, error=str(error))
        log.info("supervisor.cluster_stopped", cluster=self.cluster, in_time=in_time)

    def _take_slots(self) -> None:
        until = datetime.now(UTC) + timedelta(seconds=float(settings.STOP_GRACE_SECONDS) * 2)
        Lease.objects.filter(name__in=self.slots).update(
            holder=SUPERVISOR, expires_at=until, heartbeat_at=None, fence=F("fence") + 1
        )
