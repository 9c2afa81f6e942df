"""Work discovery: what a Nova could do now, in order, and what it should create when there is too little (spec section 5).

Four sources, each a class with one verb; the processor joins them, drops doubles and ranks. Nothing is started here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from workflow.core.cycle import CycleInputs, NovaConfig
from workflow.core.momentum import MOMENTUM_ESTIMATE, MOMENTUM_TEMPLATES
from workflow.core.personality import momentum_order, work_style
from workflow.core.work import ObjectiveFacts, Priority, TaskFacts, WorkItem, WorkType

LEAST_AVAILABLE = 3  # ready items a Nova should find; momentum work fills up
BUILTIN = "builtin"


@dataclass(frozen=True, slots=True)
class PlannedObjective:
    """What the planner makes of an objective: an item (None: it has ended) and when to look at it again (None: never)."""

    objective: ObjectiveFacts
    item: WorkItem | None
    next_due_at: datetime | None


@dataclass(slots=True)
class DiscoveredWork:
    """What discovery found: tasks in the order to take them, and work to create."""

    tasks: Sequence[TaskFacts]
    planned: list[PlannedObjective] = field(default_factory=list)
    momentum: list[WorkItem] = field(default_factory=list)


class PriorityWorkDiscovery:
    """Work that was given to this Nova."""

    def generate_work(self, ready: Sequence[TaskFacts], nova_id: str) -> list[TaskFacts]:
        return [task for task in ready if task.assignee == nova_id]


class StreamBasedWorkDiscovery:
    """Open work, as it came by the streams, that was dealt to this Nova."""

    def generate_work(self, ready: Sequence[TaskFacts], nova_id: str) -> list[TaskFacts]:
        return [task for task in ready if task.assignee != nova_id]


class StrategicWorkPlanner:
    """Turns objectives that are due into work, one open item each."""

    def generate_work(self, objectives: Sequence[ObjectiveFacts], now: datetime) -> list[PlannedObjective]:
        return [self._plan(objective, now) for objective in objectives if objective.due_at <= now]

    def _plan(self, objective: ObjectiveFacts, now: datetime) -> PlannedObjective:
        """Make this turn's item. Turns that were missed are not made up for."""
        if objective.until is not None and now > objective.until:
            return PlannedObjective(objective, None, None)
        turns = (now - objective.due_at) // objective.cadence + 1
        next_due_at: datetime | None = objective.due_at + turns * objective.cadence
        if objective.until is not None and next_due_at is not None and next_due_at > objective.until:
            next_due_at = None
        item = WorkItem(
            id=f"objective:{objective.id}:{objective.due_at.isoformat()}",
            title=objective.title,
            description=objective.description,
            priority=objective.priority,
            work_type=WorkType.STRATEGIC,
            estimated_duration=timedelta(0),
            created_at=now,
            assigned_to=objective.nova_id,
            metadata={"objective_id": objective.id},
            team=objective.team,
        )
        return PlannedObjective(objective, item, next_due_at)


class MomentumTaskGenerator:
    """Makes work that nobody asked for, from the templates that may run now."""

    def generate_work(self, count: int, allowed: Sequence[str], config: NovaConfig, now: datetime) -> list[WorkItem]:
        """Make up to `count` items, those first that suit the Nova's work style; they are open to its team."""
        places: Mapping[str, int] = momentum_order(config.work_style)
        wanted = sorted((action for action in allowed if action in places), key=places.__getitem__)[:count]
        return [self._item(action, config.team, now) for action in wanted]

    def _item(self, action: str, scope: str, now: datetime) -> WorkItem:
        template = MOMENTUM_TEMPLATES[action]
        return WorkItem(
            id=f"momentum:{scope}:{action}",
            title=f"Momentum Task: {template}",
            description=f"Productive momentum work: {template}",
            priority=Priority.LOW,
            work_type=WorkType.MOMENTUM,
            estimated_duration=MOMENTUM_ESTIMATE,
            created_at=now,
            metadata={"template": action, "scope": scope},
            team=scope,
            executor=BUILTIN,
            action=action,
        )


class WorkQueueProcessor:
    """Asks the four sources, drops doubles and ranks."""

    def __init__(self) -> None:
        self.priority_work = PriorityWorkDiscovery()
        self.stream_work = StreamBasedWorkDiscovery()
        self.momentum_work = MomentumTaskGenerator()
        self.strategic_work = StrategicWorkPlanner()

    def discover_work(
        self, ready: Sequence[TaskFacts], inputs: CycleInputs, now: datetime, *, created: int = 0, create: bool = True
    ) -> DiscoveredWork:
        """Find work among `ready` tasks; where `create`, plan due objectives and fill up to LEAST_AVAILABLE with momentum work.

        `created` counts items that this cycle has made already.
        """
        config = inputs.config
        if len(ready) > 1:
            found = self.priority_work.generate_work(ready, config.nova_id)
            found += self.stream_work.generate_work(ready, config.nova_id)
            ready = rank(found, config.work_style)
        work = DiscoveredWork(ready)
        if not create:
            return work
        if inputs.objectives:
            work.planned = self.strategic_work.generate_work(inputs.objectives, now)
        missing = LEAST_AVAILABLE - inputs.available - created - sum(1 for plan in work.planned if plan.item)
        if missing > 0 and inputs.momentum.allowed and BUILTIN in config.allowed_executors:
            work.momentum = self.momentum_work.generate_work(missing, inputs.momentum.allowed, config, now)
        return work


def rank(tasks: Sequence[TaskFacts], style: str) -> list[TaskFacts]:
    """Order tasks by rank and age, each once; of equally urgent ones (the same second) the work style has its choice."""
    preference = work_style(style).preference
    unique = {task.id: task for task in tasks}
    return sorted(
        unique.values(),
        key=lambda task: (task.order_at.replace(microsecond=0), task.priority.rank, preference(task), task.order_at, task.id),
    )
