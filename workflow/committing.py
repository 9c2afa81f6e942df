"""The engine's hand: writes a batch of steps in one transaction, each Nova under its fence.

A Nova whose fence or whose task was taken meanwhile changes nothing; the others of its batch go on. Nothing is decided here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from safety import bulk
from safety.audit import Entry
from workflow import momentum, waking
from workflow.carrying import DRAINED, EffectCarrier, Stepped
from workflow.core.effects import AdvanceObjective, CompleteTask, CreateTask
from workflow.core.state import WorkflowState
from workflow.core.work import WorkType
from workflow.gathering import Claimed, Gathered
from workflow.models import Execution, InboxMessage, NovaState, Objective, Task, TaskStatistics
from workflow.state_rows import IDLE_COLUMNS, OTHER_COLUMNS, idle_values, other_values, stored
from workflow.task_tracker import TaskTracker

NOVA_FENCED = "workflow.nova.fenced"

_RELEASED = ("crashes", "lease_until", "lease_holder")
_EXECUTION_COLUMNS = (
    "task",
    "nova",
    "executor",
    "action",
    "attempt",
    "status",
    "created_at",
    "timeout",
    "results",
    "metrics",
    "error",
    "retryable",
    "progress",
    "runs",
    "host",
    "fence",
)


@dataclass(slots=True)
class Committed:
    """What a commit came to."""

    steps: int = 0
    dispatched: int = 0
    fenced: int = 0


class Commit:
    """One batch's transaction."""

    def __init__(self, gathered: Gathered, holder: str, tracker: TaskTracker) -> None:
        self.now = tracker.now
        self.holder = holder
        self.gathered = gathered
        self.tracker = tracker
        self.outcome = Committed()

    def run(self, batch: Sequence[Stepped], store_verdicts: Callable[[Sequence[str]], None]) -> Committed:
        """Write the batch.

        1. Leave out the Novas whose tasks or fences are gone. 2. Carry the effects of the rest into rows. 3. Write tasks,
        executions, signals, objectives, statistics, verdicts and the journal.
        """
        with transaction.atomic():
            stale = self._stale_tasks(batch)
            waking.lock_states([stepped.claimed.nova_id for stepped in batch])
            if stale:
                self._give_back([stepped for stepped in batch if stepped.tasks & stale])
            winners = self._write_states([stepped for stepped in batch if not stepped.tasks & stale])
            granted, plannable = self._grant_momentum(winners), self._lock_objectives(winners)
            carrier = EffectCarrier(self.tracker, self.gathered.rows, granted, plannable)
            for stepped in winners:
                carrier.carry(stepped)
            self.tracker.flush()
            self._thaw_leases(winners)
            store_verdicts([stepped.claimed.nova_id for stepped in winners])
            self._write_rest(carrier)
            self._release_reservations(winners)
        self.outcome.steps = len(winners)
        self.outcome.dispatched = len(carrier.executions)
        return self.outcome

    def _stale_tasks(self, batch: Sequence[Stepped]) -> set[str]:
        """Give the tasks of this batch that somebody else changed since they were gathered."""
        rows = self.gathered.rows
        wanted = [task_id for stepped in batch for task_id in stepped.tasks]
        touched = wanted
        if connection.vendor == "postgresql":
            touched = [*wanted, *(task.id for task in self.gathered.reserved)]
        if not touched:
            return set()
        found, values = bulk.membership("id"), [bulk.members(touched)]
        if connection.vendor == "postgresql":
            # all that this transaction may change, in one order for all, so that no two writers wait in a circle
            found = (
                "id = ANY(ARRAY(SELECT unnest(%s::text[]) UNION SELECT task_id "  # noqa: S608
                f"FROM workflow_taskdependency WHERE {bulk.membership('depends_on')})) ORDER BY id FOR UPDATE"
            )
            values.append(bulk.members(wanted))
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT id, fence FROM workflow_task WHERE {found}", values)  # noqa: S608
            fences = dict(cursor.fetchall())
        return {task_id for task_id in wanted if fences.get(task_id) != rows[task_id].fence}

    def _write_states(self, batch: Sequence[Stepped]) -> list[Stepped]:
        """Write the new states, each under its fence, and give the Novas whose write took effect.

        A Nova that was woken after its claim is due again at once: its step may not have seen why.
        """
        idle, busy = [], []
        for stepped in batch:
            claimed, state = stepped.claimed, stepped.step.state
            row: list[Any] = [claimed.nova_id, claimed.fence, 0, None, "", *idle_values(state)]
            wanted = (stepped.step.due_at, claimed.wakes)
            values = other_values(state)
            if not stepped.step.effects and values == other_values(claimed.state):
                idle.append([*row, *wanted])
            else:
                busy.append([*row, *stored(values), *wanted, self.now if stepped.tasks else None])
        released = (*_RELEASED, *IDLE_COLUMNS)
        due = "due_at = CASE WHEN t.wakes = {wakes} THEN {due_at} ELSE t.due_at END"
        changed = f"{due}, last_task_change = COALESCE({{last_task_change}}, t.last_task_change)"  # its agent writes it too
        wish = ("due_at", "wakes")
        keys = ("nova", "fence")
        written = bulk.update_counted(NovaState, keys, released, idle, given=wish, extra_set=due)
        written += bulk.update_counted(
            NovaState, keys, (*released, *OTHER_COLUMNS), busy, given=(*wish, "last_task_change"), extra_set=changed
        )
        return self._in_time(batch, written)

    def _in_time(self, batch: Sequence[Stepped], written: int) -> list[Stepped]:
        """Give the Novas of which a row was written, and note of the others that their leases were lost."""
        if written == len(batch):
            return list(batch)
        fences = dict(NovaState.objects.filter(nova_id__in=[s.claimed.nova_id for s in batch]).values_list("nova_id", "fence"))
        for stepped in batch:
            if fences.get(stepped.claimed.nova_id) != stepped.claimed.fence:
                self._note_fenced(stepped.claimed)
        return [stepped for stepped in batch if fences.get(stepped.claimed.nova_id) == stepped.claimed.fence]

    def _note_fenced(self, claimed: Claimed) -> None:
        self.outcome.fenced += 1
        self.tracker.journal.entries.append(
            Entry(
                NOVA_FENCED,
                claimed.nova_id,
                "nova",
                claimed.nova_id,
                after={"fence": claimed.fence, "holder": self.holder},
                reason="The lease was lost before the step could be written; the step changed nothing.",
            )
        )

    def _grant_momentum(self, batch: Sequence[Stepped]) -> set[tuple[str, str]]:
        """Take the hourly turn of each momentum template that the batch wants to create."""
        wanted: set[tuple[str, str]] = set()
        ended = False
        for stepped in batch:
            for effect in stepped.step.effects:
                if isinstance(effect, CreateTask) and effect.momentum_template:
                    wanted.add((effect.item.team, effect.momentum_template))
                elif isinstance(effect, CompleteTask):
                    ended = ended or self.gathered.rows[effect.task_id].work_type == WorkType.MOMENTUM
        if wanted or ended:
            momentum.lock_ledger()
        return momentum.take_turns(sorted(wanted), now=self.now)

    def _write_rest(self, carrier: EffectCarrier) -> None:
        bulk.insert(Execution, _EXECUTION_COLUMNS, carrier.executions)
        bulk.update(
            InboxMessage,
            ("id",),
            ("status", "handled_at", "outcome", "task_id"),
            [
                (signal_id, "handled", self.now, outcome, carrier.signal_tasks.get(signal_id, ""))
                for signal_id, outcome in carrier.signals
            ],
        )
        self._write_objectives(carrier)
        write_statistics(carrier)
        momentum.note_runs(carrier.momentum_runs)
        if carrier.drained:
            NovaState.objects.filter(nova_id__in=carrier.drained, mode="draining").update(
                mode="paused", mode_since=self.now, mode_reason=DRAINED
            )

    def _thaw_leases(self, batch: Sequence[Stepped]) -> None:
        """Give agents' leases what they had left when the safety pause began that ends with this step."""
        since = {stepped.claimed.nova_id: stepped.claimed.state.state_entered_at for stepped in batch if _leaves_pause(stepped)}
        if not since:
            return
        held = Task.objects.filter(assignee__in=since, status="in_progress", executor="agent")
        rows = [
            (task_id, until + (self.now - since[nova_id]))
            for task_id, nova_id, until in held.values_list("id", "assignee_id", "reserved_until")
            if until is not None and until > since[nova_id]
        ]
        bulk.update(Task, ("id",), ("reserved_until",), rows)

    def _lock_objectives(self, batch: Sequence[Stepped]) -> set[int]:
        """Give the objectives that the batch may plan: another engine may have done so since they were gathered."""
        wanted = {
            effect.objective_id for stepped in batch for effect in stepped.step.effects if isinstance(effect, AdvanceObjective)
        }
        if not wanted:
            return set()
        due = {objective.id: objective.due_at for objective in self.gathered.objectives}
        rows = Objective.objects.select_for_update().filter(pk__in=wanted, archived_at=None, open_task_id="").order_by("pk")
        return {pk for pk, due_at in rows.values_list("pk", "due_at") if due_at == due[pk]}

    def _write_objectives(self, carrier: EffectCarrier) -> None:
        rows = []
        for objective in self.gathered.objectives:
            if objective.id in carrier.objectives:
                next_due_at = carrier.objectives[objective.id]
                ended = self.now if next_due_at is None else None
                task_id = carrier.objective_tasks.get(objective.id, "")
                rows.append((objective.id, task_id, next_due_at or objective.due_at, ended))
        bulk.update(Objective, ("id",), ("open_task_id", "due_at", "archived_at"), rows)

    def _give_back(self, losers: Sequence[Stepped]) -> None:
        """Let Novas whose task was taken look again at once."""
        rows = [(stepped.claimed.nova_id, stepped.claimed.fence, 0, None, "") for stepped in losers]
        self._in_time(losers, bulk.update_counted(NovaState, ("nova", "fence"), _RELEASED, rows))

    def _release_reservations(self, winners: Sequence[Stepped]) -> None:
        """Free the open tasks that were reserved for this batch and not taken."""
        taken = {task_id for stepped in winners for task_id in stepped.tasks}
        unused = [task.id for task in self.gathered.reserved if task.id not in taken]
        if unused:
            with connection.cursor() as cursor:
                cursor.execute(
                    "UPDATE workflow_task SET reserved_by = '', reserved_until = NULL, fence = fence + 1 "  # noqa: S608
                    f"WHERE reserved_by = %s AND assignee_id IS NULL AND {bulk.membership('id')}",
                    [self.holder, bulk.members(unused)],
                )


def _leaves_pause(stepped: Stepped) -> bool:
    paused = WorkflowState.SAFETY_PAUSE
    return stepped.claimed.state.current_state is paused and stepped.step.state.current_state is not paused


def write_statistics(carrier: EffectCarrier) -> None:
    """Count the tasks that succeeded, and the time they took, with those of their kind."""
    bulk.insert(
        TaskStatistics,
        ("key", "count", "seconds"),
        [(key, count, carrier.seconds[key]) for key, count in sorted(carrier.counts.items())],
        on_conflict="(key) DO UPDATE SET count = workflow_taskstatistics.count + excluded.count, "
        "seconds = workflow_taskstatistics.seconds + excluded.seconds",
    )
