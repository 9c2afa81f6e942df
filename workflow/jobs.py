"""What django-q2 runs: a slice of a loop slot, a slice of a work slot. A call each; leases decide who really works."""

import ctypes
import gc
import os
import sys
import threading
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.backends.signals import connection_created

from workflow.execution.host import ExecutionHost
from workflow.hosting.chores import Chores
from workflow.hosting.slices import Slice
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
