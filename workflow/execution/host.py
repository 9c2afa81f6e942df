"""The asyncio host: claims dispatched executions, runs many at once, writes their ends in batches (design section 3).

One process, one host. The event loop never touches the database: one thread does, in turns. What an execution does belongs to
its executor, what its end means to the engine.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

import structlog
from django.conf import settings
from django.db import connections
from django.utils import timezone

from workflow.execution import ledger
from workflow.execution.ledger import CLAIM_BATCH, Claimed, End, Held, Room
from workflow.execution.registry import ExecutionContext, Executor, InlineExecutor, Kept, Result, executors
from workflow.execution.watch import WakeWatch
from workflow.leases import LeaseLost

_LOOK_SECONDS = 0.5  # the longest rest between two looks at the database, whether or not anybody knocked
_LAST_WORDS_SECONDS = 1.0  # what cancelled executions get to tidy up when the host ends

_log = structlog.get_logger(__name__)
_clock: Callable[[], datetime] = timezone.now  # noqa: TID251 - the host is a door: here the clock enters
_Answer = TypeVar("_Answer")


def _no_heartbeat() -> None:
    """Tell nobody."""


@dataclass(slots=True)
class _Running:
    execution: Claimed
    task: asyncio.Task[Result]
    timer: asyncio.TimerHandle
    progress: int = 0
    kept: Kept | None = None
    written: Kept | None = None  # of what is kept, what its row has


class ExecutionHost:
    """Runs executions under its own name until told to stop."""

    def __init__(self, name: str, *, concurrency: int = 32, clock: Callable[[], datetime] = _clock) -> None:
        self.name = name[:64]
        self.concurrency = concurrency
        self._clock = clock
        self._executors = executors()
        self._inline = {
            (name, action): executor
            for name, executor in self._executors.items()
            if isinstance(executor, InlineExecutor)
            for action in executor.inline
        }
        self._inline_names = sorted(f"{name}:{action}" for name, action in self._inline)
        self._running: dict[int, _Running] = {}
        self._ends: list[End] = []  # finished, not yet written
        self._cancelled: dict[asyncio.Task[Result], _Running] = {}  # told to stop, perhaps not yet gone
        self._gone: list[Held] = []  # told to stop and gone, which nobody has been told yet

    def drive(self, stop: threading.Event, accept_seconds: float, heartbeat: Callable[[], None] = _no_heartbeat) -> None:
        """Accept executions for `accept_seconds` (or until `stop`), then drain; blocks until the last has ended.

        1. `heartbeat` runs about every second in the database's thread; LeaseLost from it is a stop.
        2. Without a stop the running ones have until their own timeouts. 3. After a stop, what doesn't end within the grace is
        handed back to be begun by another host.
        """
        # not asyncio.run(): at the end it waits for ever for a coroutine that ignores its cancellation
        loop = asyncio.new_event_loop()
        self._database = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        try:
            loop.run_until_complete(self._serve(stop, accept_seconds, heartbeat))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            self._database.submit(connections.close_all).result()
            self._database.shutdown()
            loop.close()

    async def _serve(self, stop: threading.Event, accept_seconds: float, heartbeat: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._stop = stop
        self._slot_lost = False
        self._beat_at = self._tend_at = 0.0  # all on the monotonic clock
        self._accept_until = time.monotonic() + accept_seconds
        self._give_up_at = float("inf")
        with WakeWatch(partial(self._loop.call_soon_threadsafe, self._wake.set), self._accept_until):
            await self._rounds(heartbeat)
        self._forget_running()
        if self._cancelled:
            await asyncio.wait(list(self._cancelled), timeout=_LAST_WORDS_SECONDS)

    async def _rounds(self, heartbeat: Callable[[], None]) -> None:
        """Look, run, write, rest, until there is nothing left to do."""
        failures = 0
        while self._accepting() or self._running or self._ends:
            self._wake.clear()  # before the look: whoever knocks after it is heard
            try:
                await self._keep_alive(heartbeat)
                more = await self._turn()
                if time.monotonic() >= self._give_up_at and self._running:
                    await self._hand_back()
                failures = 0
            except Exception:  # the top of the loop: whatever broke, the host looks again a little later
                failures += 1
                _log.exception("host_round_failed", host=self.name, failures=failures)
                await self._in_database(connections.close_all)  # a broken connection must not fail the next round too
                await asyncio.sleep(min(2.0, 0.1 * 2 ** min(failures, 5)) * random.uniform(0.5, 1.0))  # noqa: S311
                if time.monotonic() >= self._give_up_at + 1.0:
                    return  # the database is away; the leases will tell that this host is gone
            else:
                if not more:
                    await self._rest()

    def _accepting(self) -> bool:
        """Tell whether new work may begin; the first no after a stop starts the grace."""
        if self._stop.is_set() or self._slot_lost:
            self._give_up_at = min(self._give_up_at, time.monotonic() + max(0.0, settings.STOP_GRACE_SECONDS - 2.0))
            return False
        return time.monotonic() < self._accept_until

    async def _rest(self) -> None:
        """Wait for a knock, for an execution to end, or until something else is due."""
        moment = time.monotonic()
        ends = [moment + _LOOK_SECONDS, self._tend_at, self._give_up_at]
        if not self._slot_lost:
            ends.append(self._beat_at)
        if self._accept_until > moment:
            ends.append(self._accept_until)
        seconds = min(ends) - moment
        if seconds > 0 and (self._running or self._accepting()):
            timer = self._loop.call_later(seconds, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    async def _in_database(self, work: Callable[[], _Answer]) -> _Answer:
        return await self._loop.run_in_executor(self._database, work)

    async def _keep_alive(self, heartbeat: Callable[[], None]) -> None:
        """Beat and renew the leases when it is time; drop what is no longer ours."""
        if self._gone:
            gone, self._gone = self._gone, []
            await self._in_database(partial(ledger.let_go, gone))
        moment = time.monotonic()
        if moment >= self._beat_at and not self._slot_lost:
            self._beat_at = moment + settings.SLOT_HEARTBEAT_SECONDS
            try:
                await self._in_database(heartbeat)
            except LeaseLost:
                _log.info("host_slot_lost", host=self.name)
                self._slot_lost = True
        if moment >= self._tend_at:
            self._tend_at = moment + settings.LEASE_RENEW_SECONDS
            held = [self._held(running) for running in self._running.values()]
            lost = await self._in_database(partial(ledger.tend, held, now=self._clock()))
            for execution_id, status in lost.items():
                self._drop(execution_id, status)

    @staticmethod
    def _held(running: _Running) -> Held:
        """Give what is to be written of one that runs; what was written before is no news."""
        news = running.kept if running.kept is not running.written else None
        running.written = running.kept
        return Held(running.execution, running.progress, news)

    async def _turn(self) -> bool:
        """Write what has ended, claim what there is room for and begin it; tell whether there is more to write at once."""
        ends = list(self._ends)
        room = Room(0, 0)
        if self._accepting():
            room = Room(CLAIM_BATCH, self.concurrency - len(self._running), self._inline_names)
        claimed = await self._in_database(partial(ledger.turn, self.name, ends, room, now=self._clock()))
        del self._ends[: len(ends)]  # only now: had the turn failed, the next one would write them
        self._begin(claimed)
        return bool(self._ends)

    def _begin(self, claimed: list[Claimed]) -> None:
        """Run the inline ones through, begin the others."""
        now = self._clock()
        for execution in claimed:
            executor = self._executors.get(execution.executor)
            inline = self._inline.get((execution.executor, execution.action))
            if inline is not None:
                self._ends.append(self._run_inline(inline, execution, now))
            elif executor is not None:
                self._begin_task(executor, execution, now)
            else:
                self._ends.append(ledger.unknown_executor(execution, now=now))

    def _run_inline(self, executor: InlineExecutor, execution: Claimed, now: datetime) -> End:
        try:
            answer = executor.run_inline(self._context(execution, now))
        except Exception as error:  # around one execution: its failure is its own
            return _failed(execution, error, now)
        return ledger.succeeded(execution, answer, now=now)

    def _begin_task(self, executor: Executor, execution: Claimed, now: datetime) -> None:
        task = self._loop.create_task(_run(executor, self._context(execution, now)))
        timer = self._loop.call_later(execution.timeout, self._time_out, execution.id)
        self._running[execution.id] = _Running(execution, task, timer)
        task.add_done_callback(partial(self._ended, execution.id))

    def _context(self, execution: Claimed, now: datetime) -> ExecutionContext:
        return ExecutionContext(
            execution_id=execution.id,
            task_id=execution.task_id,
            title=execution.title,
            description=execution.description,
            metadata=execution.metadata or {},
            nova_id=execution.nova_id,
            executor=execution.executor,
            action=execution.action,
            attempt=execution.attempt,
            runs=execution.runs,
            now=now,
            progress_sink=self._note_progress,
            kept_sink=self._note_kept,
        )

    def _note_progress(self, execution_id: int, percent: int) -> None:
        running = self._running.get(execution_id)
        if running is not None:
            running.progress = percent

    def _note_kept(self, execution_id: int, kept: Kept) -> None:
        held = (self._running.get(execution_id), *self._cancelled.values())  # one that is told to stop has a last word
        running = next((one for one in held if one and one.execution.id == execution_id), None)
        if running is not None:
            running.kept = kept

    def _ended(self, execution_id: int, task: asyncio.Task[Result]) -> None:
        """Take the end of an execution, however it came; one that was given up before has no say any more."""
        dropped = self._cancelled.pop(task, None)
        error = None if task.cancelled() else task.exception()
        running = self._running.pop(execution_id, None)
        if running is None:
            if dropped is not None:
                self._gone.append(Held(dropped.execution, dropped.progress, dropped.kept))
            self._wake.set()
            return
        running.timer.cancel()
        if task.cancelled():
            error = RuntimeError("The executor cancelled itself.")
        now = self._clock()
        if error is None:
            end = ledger.succeeded(running.execution, task.result(), now=now)
        else:
            end = _failed(running.execution, error, now, running.kept)
        self._ends.append(end)
        self._wake.set()

    def _time_out(self, execution_id: int) -> None:
        running = self._running.get(execution_id)
        if running is None:
            return
        self._cancel(running)
        self._ends.append(ledger.timed_out(running.execution, now=self._clock(), kept=running.kept))
        self._wake.set()

    def _drop(self, execution_id: int, status: str) -> None:
        """Stop working on an execution whose row was cancelled, or which another host has by now."""
        running = self._running.get(execution_id)
        if running is None:
            return
        self._cancel(running)
        log = _log.info if status == "cancelled" else _log.warning
        log("execution_dropped", execution=execution_id, task_id=running.execution.task_id, status=status)

    def _cancel(self, running: _Running) -> None:
        del self._running[running.execution.id]
        running.timer.cancel()
        self._cancelled[running.task] = running
        running.task.cancel()

    def _forget_running(self) -> None:
        for running in list(self._running.values()):
            self._cancel(running)

    async def _hand_back(self) -> None:
        """Stop what the grace was too short for; another host begins it at once."""
        held = [running.execution for running in self._running.values()]
        self._forget_running()
        await self._in_database(partial(ledger.hand_back, held))
        _log.warning("executions_handed_back", host=self.name, executions=[execution.id for execution in held])


def _failed(execution: Claimed, error: BaseException, now: datetime, kept: Kept | None = None) -> End:
    # the error's text may quote the task: it belongs into the row, not into the log
    _log.info("execution_failed", execution=execution.id, task_id=execution.task_id, error=type(error).__name__)
    _log.debug("execution_failed_at", execution=execution.id, exc_info=error)
    return ledger.failed(execution, error, now=now, kept=kept)


async def _run(executor: Executor, context: ExecutionContext) -> Result:
    names = {"execution": context.execution_id, "task_id": context.task_id, "nova_id": context.nova_id}
    with structlog.contextvars.bound_contextvars(**names):
        return await executor.run(context)
