"""What django-q2 runs: slices of loop and work slots, where leases decide who really works; and what is done by the clock."""

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.backends.signals import connection_created
from django_q.tasks import async_task

from safety import audit
from workflow import retention, sealing
from workflow.execution.host import ExecutionHost
from workflow.hosting.chores import Chores
from workflow.hosting.slices import Slice
from workflow.hosting.slots import queue_name
from workflow.loop import Loop


def run_loop_slice(slot: str) -> None:
    """Drive the engine for one slice of a loop slot."""
    _use_indexes_as_queues()
    turn = Slice(slot, seconds=settings.LOOP_SLICE)
    if not turn.begin():
        return
    gc.freeze()  # what was loaded before the fork stays shared, and is not searched again
    gc.set_threshold(50_000, 20, 20)  # a batch makes many small objects that die with it
    loop = Loop(f"{settings.HOST}:{turn.holder}", threading.Event())
    while turn.beat():
        loop.round()
    loop.close()
    turn.end()
    _give_memory_back()


def run_work_slice(slot: str) -> None:
    """Run executions for one slice of a work slot, then drain."""
    _use_indexes_as_queues()
    turn = Slice(slot, seconds=settings.WORK_SLICE)
    if not turn.begin():
        return
    holder = f"{settings.HOST}:{turn.holder}"
    with Chores(holder):
        ExecutionHost(holder).drive(threading.Event(), settings.WORK_SLICE, heartbeat=turn.renew)
    turn.end()
    _give_memory_back()


def seal_journal() -> None:
    """Seal the journal behind its writers, and anchor the seals; what is left after a while waits for the next minute."""
    sealing.seal_and_anchor(now=_now(), go_on=_for_a_while())


def verify_journal(run_id: int | None = None, part: int = 0) -> None:
    """Do a part of the verification that was asked for, and queue the next; without an id, begin the daily one."""
    with audit.acting("scheduler"):
        run = sealing.verify(run_id, part, clock=_now, go_on=_for_a_while())
        if run and run.finished_at is None:
            async_task(sealing.VERIFY_JOB, run.pk, run.last_seal, cluster=queue_name("work"))


def keep_retention() -> None:
    """Forget what is older than the settings say; what is left after a while is queued again."""
    with audit.acting("scheduler"):
        if retention.keep(now=_now(), go_on=_for_a_while()).more:
            async_task("workflow.jobs.keep_retention", cluster=queue_name("work"))


def _for_a_while() -> Callable[[], bool]:
    """Say yes for some seconds: a job that takes longer would keep the supervisor's probes waiting."""
    until = time.monotonic() + settings.JOB_SECONDS
    return lambda: time.monotonic() < until


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - scheduled jobs are a door


def _use_indexes_as_queues() -> None:
    """Let PostgreSQL walk the indexes of open work in their order: a bitmap reads, and keeps, every dead entry of them."""
    if connection.vendor == "postgresql":
        connection_created.connect(_without_bitmaps, dispatch_uid="without-bitmaps")
        _without_bitmaps(connection)


def _without_bitmaps(connection: Any, **kwargs: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET enable_bitmapscan = off")


def _give_memory_back() -> None:
    """Return what the slice's batches took: the next slice is another process's, and this one would only hold it."""
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        if trim:
            trim(0)


def drive(stop: threading.Event, slot: str) -> None:
    """Run the loop and the executions in the foreground until `stop` is set."""
    turn = Slice(slot, seconds=float("inf"))
    if not turn.begin():
        return
    host = ExecutionHost(f"{settings.HOST}:{os.getpid()}")
    worker = threading.Thread(target=host.drive, args=(stop, float("inf")), name="executions")
    worker.start()
    loop = Loop(f"{settings.HOST}:{turn.holder}", stop)
    try:
        with Chores(f"{settings.HOST}:{turn.holder}"):
            while not stop.is_set() and turn.beat():
                loop.round()
    finally:
        stop.set()
        loop.close()
        worker.join()
        turn.end()
