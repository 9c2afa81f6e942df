"""WorkflowEngine: drives all due Novas through their cycles, a batch at a time.

claim ▸ gather ▸ step ▸ commit ▸ emit: one short method per verb, each for the whole batch, with a number of queries and round
trips that does not grow with the Novas. What a step decides is workflow.core's; this file only carries facts in and wishes out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog
from django.conf import settings
from django.db import OperationalError, transaction

from safety import audit, observe
from safety.audit import Entry
from safety.core.orchestrator import SafetyOrchestrator, Verdict
from safety.core.status import FleetFacts, SafetyFacts
from safety.facts import WorkflowSideFacts, load_facts
from safety.observations import Kind, Seen, observe_many
from safety.verdicts import store_verdicts
from workflow import gathering, momentum, waking
from workflow.carrying import Stepped
from workflow.committing import Commit, Committed
from workflow.core.completion import LEVELS
from workflow.core.discovery import LEAST_AVAILABLE
from workflow.core.effects import BlockTask, CompleteTask, HandleSignal, RecordInsight, RetryTask, StartTask, UpdateProgress
from workflow.core.machine import CycleInputs, Step, execute_cycle, recover
from workflow.core.momentum import MOMENTUM_PER_DAY
from workflow.core.state import WorkflowState, working_since
from workflow.core.work import AGENT, TaskFacts, Wanting, WorkType, deal
from workflow.effective import Effective, EffectiveConfigurations, candidates_of
from workflow.gathering import Claimed, Gathered
from workflow.models import NovaState
from workflow.task_tracker import TaskTracker

NOVA_QUARANTINED = "workflow.nova.quarantined"

_CRASHES_ALLOWED = 3
_SUSPECTS_EVERY = timedelta(milliseconds=20)
_EMPTY_EVERY = timedelta(seconds=1)
_INSIGHTS = "insights"  # keys in the state's context
_COUNTED = "agent_completed"  # how many tasks of its agent are counted
_INSIGHTS_KEPT = 5
_TASK_EFFECTS = (StartTask, UpdateProgress, CompleteTask, RetryTask, BlockTask)

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Batch:
    """The Novas in hand and what was gathered for them."""

    claimed: list[Claimed]
    effective: dict[str, Effective]
    gathered: Gathered
    facts: dict[str, SafetyFacts]
    verdicts: dict[str, Verdict]
    opinions: dict[str, observe.Opinion]
    inputs: dict[str, CycleInputs]


class WorkflowEngine:
    """One engine; many may run at once, on one machine or several: leases keep them apart."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self._configurations = EffectiveConfigurations()
        self._orchestrator = SafetyOrchestrator()
        self._suspects_at = datetime.min.replace(tzinfo=UTC)
        self._empty: Counter[str] = Counter()  # cycles that found nothing to do and are not told yet, by Nova
        self._empty_told_at = datetime.min.replace(tzinfo=UTC)

    def run_once(self, *, now: datetime, fleet: FleetFacts | None = None) -> Committed | None:
        """Take one batch of due Novas through a cycle each; None if nobody was due. `fleet`: facts read a moment ago."""
        claimed = self.claim(now)
        if not claimed:
            return None
        try:
            batch = self.gather(claimed, now, fleet)
            stepped = [self.step(nova, batch, now) for nova in batch.claimed]
            committed = self.commit(stepped, batch, now)
        except (
            OperationalError
        ):  # a deadlock, a busy database: no Nova's fault, so nobody is suspected, and all are due at once
            gathering.give_back(claimed)
            raise
        self.emit(committed)
        return committed

    # -- claim

    def claim(self, now: datetime) -> list[Claimed]:
        """Lease the Novas that are due, the longest due first; one that is suspected of killing its worker comes alone."""
        suspects_first = now >= self._suspects_at  # however busy the others are, a suspect gets its turn
        if suspects_first:
            self._suspects_at = now + _SUSPECTS_EVERY
            if suspect := self._claim_suspect(now):
                return suspect
        claimed = gathering.claim(self.holder, settings.ENGINE_BATCH, now=now, suspects=False)
        return claimed if claimed or suspects_first else self._claim_suspect(now)

    def _claim_suspect(self, now: datetime) -> list[Claimed]:
        while suspects := gathering.claim(self.holder, 1, now=now, suspects=True):
            if not self._quarantine(suspects[0], now):
                return suspects
        return []

    def _quarantine(self, nova: Claimed, now: datetime) -> bool:
        """Take a Nova out of the loop whose claims keep ending without a commit."""
        if nova.crashes <= _CRASHES_ALLOWED:
            return False
        reason = f"Its last {nova.crashes - 1} cycles ended with the death of their worker. Look at its tasks, then resume it."
        state = nova.state
        message = {
            "nova_id": nova.nova_id,
            "state": state.current_state.value,
            "phase": state.current_phase.value,
            "status": "quarantined",
            "message": reason,
            "timestamp": now.isoformat(),
        }
        with transaction.atomic():
            changed = NovaState.objects.filter(nova=nova.nova_id, fence=nova.fence).update(
                mode="quarantined", mode_reason=reason, mode_since=now, lease_until=None, lease_holder="", crashes=0
            )
            if changed:
                entry = Entry(
                    NOVA_QUARANTINED, nova.nova_id, "nova", nova.nova_id, after={"mode": "quarantined"}, reason=reason
                )
                entry.stream, entry.message = f"nova.status.{nova.nova_id}", message
                audit.record([entry], now=now)
        return True

    # -- gather

    def gather(self, claimed: list[Claimed], now: datetime, fleet: FleetFacts | None = None) -> Batch:
        """Load configuration, work, signals and safety facts of the batch, and deal out the open work."""
        ids = [nova.nova_id for nova in claimed]
        effective = self._configurations.load(ids, now=now)
        claimed = [nova for nova in claimed if nova.nova_id in effective]
        teams = {nova_id: effective[nova_id].config.team for nova_id in ids if nova_id in effective}
        gathered = gathering.gather(ids, set(teams.values()), now=now)
        wanting = self._wanting(claimed, effective, gathered)
        dealt = self._deal(wanting, gathered, now)
        available = self._available(teams, gathered)
        short = {want.nova_id: want.team for want in wanting if available[want.nova_id] < LEAST_AVAILABLE}
        today = momentum.runs_today(short.keys() | dealt.keys(), now=now) if short or _any_momentum(dealt) else {}
        dealt = _within_a_day(dealt, today)
        budgets = momentum.budgets(short, today, now=now) if short else {}
        facts = load_facts(
            ids,
            {nova_id: entry.rules for nova_id, entry in effective.items()},
            {nova.nova_id: self._work_facts(nova, effective[nova.nova_id], gathered, dealt, now) for nova in claimed},
            now,
            fleet=fleet,
        )
        judge = self._orchestrator.judge
        verdicts = {nova_id: judge(facts[nova_id], effective[nova_id].rules, now) for nova_id in teams}
        opinions = observe.judge_candidates(candidates_of(effective), facts, verdicts, now)
        inputs = {}
        for nova in claimed:
            nova_id = nova.nova_id
            config = effective[nova_id].config
            insights = nova.state.context.get(_INSIGHTS, "")
            inputs[nova_id] = CycleInputs(
                config=replace(config, draining=True) if nova.draining else config,
                safety=verdicts[nova_id].status,
                signals=gathered.signals.get(nova_id, ()),
                held=gathered.held.get(nova_id, ()),
                assigned=gathered.assigned.get(nova_id, ()),
                dealt=dealt.get(nova_id, ()),
                available=available[nova_id],
                momentum=budgets.get(nova_id, momentum.NOTHING),
                objectives=[
                    o for o in gathered.objectives if o.nova_id == nova_id or (not o.nova_id and o.team in ("", config.team))
                ]
                if gathered.objectives
                else (),
                similar=gathered.similar,
                recent_insights=insights.split("\n") if insights else (),
                completed_by_agent=nova.agent_completed - int(nova.state.context.get(_COUNTED, 0)),
                agent_level=LEVELS[nova.agent_level],
            )
        return Batch(claimed, effective, gathered, facts, verdicts, opinions, inputs)

    @staticmethod
    def _wanting(claimed: Sequence[Claimed], effective: dict[str, Effective], gathered: Gathered) -> list[Wanting]:
        """Say which Novas have room for open work; those that were unsafe come last, since they may be so still."""
        wanting = []
        for nova in sorted(claimed, key=lambda nova: nova.state.current_state is WorkflowState.SAFETY_PAUSE):
            config = effective[nova.nova_id].config
            held = sum(1 for task in gathered.held.get(nova.nova_id, ()) if not (task.execution and task.execution.finished_at))
            free = config.max_concurrent_tasks - held
            if free > 0 and not nova.draining:
                wanting.append(Wanting(nova.nova_id, config.team, free, config.default_executor, config.allowed_executors))
        return wanting

    def _deal(self, wanting: Sequence[Wanting], gathered: Gathered, now: datetime) -> dict[str, list[TaskFacts]]:
        """Reserve open work for the Novas that have room for it, and hand it out.

        Where urgent work of some took all that was reserved, more is reserved for the others, so that none waits behind work
        that it may not take.
        """
        hands: dict[str, list[TaskFacts]] = {}
        without = wanting
        while without:
            limit = sum(want.free_slots - len(hands.get(want.nova_id, ())) for want in without)
            reserved = gathering.reserve(self.holder, limit, _kinds(without), gathered, now=now)
            if reserved:
                hands = deal(gathered.reserved, wanting)
            before = len(without)
            without = [want for want in wanting if len(hands.get(want.nova_id, ())) < want.free_slots]
            if reserved < limit or len(without) == before:
                break
        reserved_for_all = sum(1 for task in gathered.reserved if not task.team)
        if wanting and reserved_for_all < LEAST_AVAILABLE:  # else it does not matter how many more there are
            gathering.look_left(_kinds(wanting), gathered, now=now)
        return hands

    @staticmethod
    def _available(teams: dict[str, str], gathered: Gathered) -> dict[str, int]:
        """Count the ready tasks in each Nova's reach; beyond three it does not matter how many."""
        open_teams = [task.team for task in gathered.reserved] + gathered.open_left
        reach = {team: sum(1 for other in open_teams if other in ("", team)) for team in set(teams.values())}
        return {nova_id: reach[team] + len(gathered.assigned.get(nova_id, ())) for nova_id, team in teams.items()}

    @staticmethod
    def _work_facts(
        nova: Claimed, effective: Effective, gathered: Gathered, dealt: dict[str, list[TaskFacts]], now: datetime
    ) -> WorkflowSideFacts:
        """Say what the safety floor must know of a Nova's work; momentum work waits for nobody, so it does not count."""
        nova_id, config = nova.nova_id, effective.config
        ready = [
            gathered.ready_since[task.id]
            for task in (*gathered.assigned.get(nova_id, ()), *dealt.get(nova_id, ()))
            if task.work_type is not WorkType.MOMENTUM
            and (task.executor or config.default_executor) in config.allowed_executors - {AGENT}
        ]
        idle = len(gathered.held.get(nova_id, ())) < config.max_concurrent_tasks and not nova.draining
        since = [instant for instant in (nova.last_task_change, min(ready) if ready else None) if instant]
        state = nova.state
        paused = state.current_state is WorkflowState.SAFETY_PAUSE  # who may not work does not drift
        # a celebration whose time is over ends with this cycle: that the cycle comes late is not the Nova's doing
        celebrates = bool(state.completion_stage) and (state.completion_until is None or now < state.completion_until)
        return WorkflowSideFacts(
            has_claimable_work=bool(ready) and idle and not paused,
            last_task_change=max(since) if since else None,
            active_since=working_since(nova.mode_since, state.session_start_time, state.context),
            celebrating_since=state.last_completion_celebration if celebrates and not paused else None,
            error_ratio=state.error_ratio,
            api_breaker_open_until=effective.breaker_open_until,
            queue_lag=max(now - nova.due_at, timedelta(0)),
            configuration_problem=effective.problem,
        )

    # -- step

    def step(self, nova: Claimed, batch: Batch, now: datetime) -> Stepped:
        """Decide one Nova's cycle; whatever goes wrong is that Nova's alone."""
        try:
            inputs = batch.inputs[nova.nova_id]
            step = execute_cycle(nova.state, inputs, now)
            _remember_insights(step)
            if inputs.completed_by_agent:
                step.state.context = {**step.state.context, _COUNTED: str(nova.agent_completed)}
            if len(inputs.signals) >= gathering.SIGNALS and any(type(effect) is HandleSignal for effect in step.effects):
                step.due_at = now  # more of them wait
        except Exception as error:  # the wall around one Nova's step: it recovers with backoff, the batch goes on
            logger.exception("step failed", nova_id=nova.nova_id)
            step: Step = recover(nova.state, f"{type(error).__name__}: {error}", now)  # type: ignore[no-redef]
        return Stepped(nova, step, {effect.task_id for effect in step.effects if isinstance(effect, _TASK_EFFECTS)})

    # -- commit

    def commit(self, stepped: Sequence[Stepped], batch: Batch, now: datetime) -> Committed:
        """Write the batch in one transaction."""
        tracker = TaskTracker(now=now, by_novas=True)

        empty = self._empty_cycles(stepped, now)

        def verdicts_of(winners: Sequence[str]) -> None:
            store_verdicts({nova_id: batch.verdicts[nova_id] for nova_id in winners}, batch.facts, now)
            observe.record_opinions({nova_id: batch.opinions[nova_id] for nova_id in winners if nova_id in batch.opinions}, now)
            observe_many([Seen(nova_id, Kind.EMPTY_CYCLE, count) for nova_id, count in empty.items()], now=now)

        return Commit(batch.gathered, self.holder, tracker).run(stepped, verdicts_of)

    def _empty_cycles(self, stepped: Sequence[Stepped], now: datetime) -> Counter[str]:
        """Count the cycles that found nothing to do; give them once a second, so that a busy fleet is not slowed down by it."""
        self._empty.update(one.claimed.nova_id for one in stepped if _is_empty(one))
        if not self._empty or timedelta(0) <= now - self._empty_told_at < _EMPTY_EVERY:
            return Counter()
        told, self._empty, self._empty_told_at = self._empty, Counter(), now
        return told

    # -- emit

    def emit(self, committed: Committed) -> None:
        """Wake the hosts for what was dispatched; the relay publishes the rest from the outbox."""
        if committed.dispatched:
            waking.knock("work")


def _kinds(wanting: Sequence[Wanting]) -> set[str]:
    """Name the kinds of open task that these Novas may take."""
    alike = {(want.team, want.default_executor, want.allowed_executors): want for want in wanting}
    return {
        gathering.kind_of(team, executor)
        for want in alike.values()
        for executor in ("", *want.allowed_executors)
        if want.may_take("", executor)
        for team in ("", want.team)
    }


def _is_empty(stepped: Stepped) -> bool:
    """Say whether a cycle came before its time and found nothing to do: a Nova whose cycles are like that runs in circles.

    In a safety pause a Nova is looked at before its time on purpose.
    """
    before, after = stepped.claimed.state, stepped.step.state
    return (
        not stepped.step.effects
        and before.cycle_started_at == after.cycle_started_at
        and before.total_cycles_completed > 0
        and after.current_state is not WorkflowState.SAFETY_PAUSE
        and before.completion_stage == after.completion_stage
    )


def _any_momentum(dealt: dict[str, list[TaskFacts]]) -> bool:
    return any(task.work_type is WorkType.MOMENTUM for tasks in dealt.values() for task in tasks)


def _within_a_day(dealt: dict[str, list[TaskFacts]], today: dict[str, Counter[str]]) -> dict[str, list[TaskFacts]]:
    """Leave out the momentum work that a Nova has done often enough today."""
    if not today:
        return dealt
    return {
        nova_id: [
            task
            for task in tasks
            if task.work_type is not WorkType.MOMENTUM or nova_id not in today or today[nova_id][task.action] < MOMENTUM_PER_DAY
        ]
        for nova_id, tasks in dealt.items()
    }


def _remember_insights(step: Step) -> None:
    """Keep the newest lessons with the Nova's state, for its reflecting cycles."""
    lessons = [" ".join(effect.insights["lessons_learned"].split()) for effect in step.effects if type(effect) is RecordInsight]
    if lessons:
        state = step.state
        known = [*reversed(lessons), *state.context.get(_INSIGHTS, "").split("\n")]
        state.context = {**state.context, _INSIGHTS: "\n".join(filter(None, known[:_INSIGHTS_KEPT]))}
