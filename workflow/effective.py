"""The effective configuration of Novas, personality and policy resolved, kept for half a second: edits work everywhere at once.

One query loads what is missing or stale for a whole batch.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from safety.core.status import SafetyRules
from safety.models import SafetyPolicy
from workflow.core.machine import NovaConfig
from workflow.models import Nova

_KEPT = timedelta(seconds=0.5)


@dataclass(frozen=True, slots=True)
class Effective:
    """What a Nova works under."""

    config: NovaConfig
    rules: SafetyRules
    stream_executors: frozenset[str]


class EffectiveConfigurations:
    """A process's short memory of configurations."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[datetime, Effective]] = {}
        self._rules: dict[tuple[str, datetime], SafetyRules] = {}

    def load(self, nova_ids: Collection[str], *, now: datetime) -> dict[str, Effective]:
        """Give the configuration of each of these Novas that exists, from one query at most."""
        oldest = now - _KEPT
        known = self._known
        stale = [nova_id for nova_id in nova_ids if nova_id not in known or not oldest <= known[nova_id][0] <= now]
        if stale:
            for nova in Nova.objects.filter(nova_id__in=stale).select_related("personality", "policy"):
                known[nova.nova_id] = (now, self._resolve(nova))
        return {nova_id: known[nova_id][1] for nova_id in nova_ids if nova_id in known}

    def _resolve(self, nova: Nova) -> Effective:
        personality, policy = nova.personality, nova.policy
        return Effective(
            NovaConfig(
                nova_id=nova.nova_id,
                team=nova.team,
                base_cycle_time=timedelta(seconds=personality.base_cycle_time),
                reflection_frequency=personality.reflection_frequency,
                celebration_style=personality.celebration_style,
                work_style=personality.work_style,
                communication_pattern=personality.communication_pattern,
                default_executor=nova.default_executor,
                allowed_executors=frozenset(nova.allowed_executors),
                max_concurrent_tasks=policy.max_concurrent_tasks,
                tasks_per_phase=nova.tasks_per_phase,
                personal_phase_after=nova.personal_phase_after,
                personal_phase_length=timedelta(minutes=nova.personal_phase_minutes),
                execution_timeout=timedelta(seconds=nova.execution_timeout),
            ),
            self._rules_of(policy),
            frozenset(nova.stream_executors),
        )

    def _rules_of(self, policy: SafetyPolicy) -> SafetyRules:
        key = policy.slug, policy.updated_at
        if key not in self._rules:
            if len(self._rules) > 1000:
                self._rules.clear()
            self._rules[key] = policy.rules
        return self._rules[key]
