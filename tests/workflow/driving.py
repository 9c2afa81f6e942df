"""Drives a WorkflowEngine by hand: one step at a time, at instants the test chooses, with executions ended by decree."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from safety.core.status import FleetFacts
from safety.models import AuditEntry, OutboxEntry
from tests.factories import NOW
from workflow import waking
from workflow.committing import Committed
from workflow.core.momentum import MOMENTUM_TEMPLATES
from workflow.engine import WorkflowEngine
from workflow.models import Execution, MomentumLedger, NovaState, Task

WELL = FleetFacts(
    stream_reachable=True,
    round_trip=timedelta(milliseconds=1),
    intake_lag=timedelta(0),
    outbox_age=timedelta(0),
    stream_memory_ratio=0.1,
    cpu_load=0.5,
    memory_ratio=0.5,
    process_memory=120.0,
    process_cpu=0.1,
)
FAR = timedelta(days=1)


class Driver:
    """An engine with a clock of its own."""

    def __init__(self, holder: str = "e1", *, now: datetime = NOW, fleet: FleetFacts = WELL) -> None:
        self.engine = WorkflowEngine(holder)
        self.now = now
        self.fleet = fleet

    def step(self, seconds: float = 0.0) -> Committed | None:
        """Run once, `seconds` after the last time."""
        self.now += timedelta(seconds=seconds)
        return self.engine.run_once(now=self.now, fleet=self.fleet)

    def run(self, limit: int = 50) -> list[Committed]:
        """Run at this instant until nobody is due."""
        done = []
        while committed := self.step():
            done.append(committed)
            assert len(done) < limit, "somebody is due again and again"
        return done

    def run_until(self, condition: Callable[[], bool], limit: int = 50) -> None:
        """Run at each instant at which somebody is due, until the condition holds."""
        for _ in range(limit):
            self.run()
            if condition():
                return
            self.now = max(self.now, NovaState.objects.runnable().earliest("due_at").due_at)
        raise AssertionError("It did not come to that.")

    def begin(self, count: int = 1) -> list[Execution]:
        """Let the Novas take work and let hosts begin it; gives the executions, which must be `count`."""
        self.step()
        open_ones = list(Execution.objects.filter(status="dispatched").order_by("id"))
        assert len(open_ones) == count
        Execution.objects.filter(status="dispatched").update(status="running", started_at=self.now, runs=1)
        return open_ones

    def end(self, task: Task | str | None = None, *, seconds: float = 10.0, **fields: Any) -> None:
        """End the open executions (of one task) `seconds` later, and make their Novas due; they succeed unless told so."""
        self.now += timedelta(seconds=seconds)
        rows = Execution.objects.filter(status__in=("dispatched", "running"))
        if task is not None:
            rows = rows.filter(task=task)
        novas = set(rows.values_list("nova_id", flat=True))
        assert novas, "nothing runs"
        values = {"status": "succeeded", "results": "Done.", "progress": 100, "finished_at": self.now} | fields
        rows.update(**values)
        waking.mark_due(novas, now=self.now)

    def claim_gather_step(self) -> tuple[Any, ...]:
        """Do all of a cycle but its commit; gives what `commit` takes."""
        claimed = self.engine.claim(self.now)
        batch = self.engine.gather(claimed, self.now, self.fleet)
        return [self.engine.step(nova, batch, self.now) for nova in batch.claimed], batch, self.now


def silence_momentum(*scopes: str) -> None:
    """Put every momentum template to sleep in these scopes (the fleet's, without any), so that only asked-for work is done."""
    MomentumLedger.objects.bulk_create(
        MomentumLedger(scope=scope, template=template, asleep=True)
        for scope in scopes or ("",)
        for template in MOMENTUM_TEMPLATES
    )


def story(object_id: str, **more: str) -> list[str]:
    """Give the actions journalled about an object, in order; a number alone names it only with its `object_type`."""
    return list(AuditEntry.objects.filter(object_id=object_id, **more).order_by("id").values_list("action", flat=True))


def published() -> list[int]:
    """Give the journal entries with a stream that the outbox points at, in its order; others it only counts."""
    pointed = [entry_id for ids in OutboxEntry.objects.order_by("id").values_list("entry_ids", flat=True) for entry_id in ids]
    counted = set(AuditEntry.objects.filter(pk__in=pointed, stream="").values_list("pk", flat=True))
    return [entry_id for entry_id in pointed if entry_id not in counted]


def state_of(nova_id: str = "torch") -> NovaState:
    """Give a Nova's state row as it stands."""
    return NovaState.objects.get(nova_id=nova_id)
