"""The effective configuration of Novas, personality and policy resolved, read anew every half second: edits work at once.

Three or four queries read what is configured as plain rows; only rows that changed are resolved again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.db import connection

from safety.bulk import members, membership
from safety.core.status import SafetyRules
from safety.models import ProviderAccount, SafetyPolicy
from safety.observe import Candidate
from workflow.core.machine import NovaConfig
from workflow.models import Personality

KEPT = timedelta(seconds=0.5)  # so old may be what a process works by
_NOVA = (
    "nova_id",
    "team",
    "personality_id",
    "policy_id",
    "candidate_policy_id",
    "default_executor",
    "allowed_executors",
    "stream_executors",
    "tasks_per_phase",
    "personal_phase_after",
    "personal_phase_minutes",
    "execution_timeout",
    "provider_account_id",
)
_PERSONALITY = (
    "slug",
    "base_cycle_time",
    "reflection_frequency",
    "celebration_style",
    "work_style",
    "communication_pattern",
)
# Stand-ins for rows that are missing: an unknown style is read as the default one, and nothing is started anyway.
_NO_PERSONALITY = ("", 60.0, 0.0, "", "", "")
_NO_POLICY = (SafetyRules(), 1)


@dataclass(frozen=True, slots=True)
class Effective:
    """What a Nova works under."""

    config: NovaConfig
    rules: SafetyRules
    stream_executors: frozenset[str]
    account: str | None = None  # the provider account's slug
    breaker_open_until: datetime | None = None  # of that account
    candidate: Candidate | None = None  # a policy that is judged beside the rules in force
    problem: str = ""  # why nothing may run under it: a row it needs is missing


def candidates_of(effective: Mapping[str, Effective]) -> dict[str, Candidate]:
    """Give the candidates of those Novas that have one."""
    return {nova_id: entry.candidate for nova_id, entry in effective.items() if entry.candidate is not None}


class EffectiveConfigurations:
    """A process's short memory of configurations."""

    def __init__(self) -> None:
        self._read_at: dict[str, datetime] = {}
        self._known: dict[str, tuple[Sequence[Any], Effective]] = {}
        self._rules: dict[tuple[Any, ...], tuple[SafetyRules, int]] = {}

    def load(self, nova_ids: Collection[str], *, now: datetime) -> dict[str, Effective]:
        """Give the configuration of each of these Novas that exists, by four queries at most."""
        oldest = now - KEPT
        stale = [nova_id for nova_id in nova_ids if not oldest <= self._read_at.get(nova_id, now + KEPT) <= now]
        if stale:
            self._read(stale, now)
        return {nova_id: self._known[nova_id][1] for nova_id in nova_ids if nova_id in self._known}

    def _read(self, nova_ids: Collection[str], now: datetime) -> None:
        personalities = {row[0]: row for row in Personality.objects.values_list(*_PERSONALITY)}
        policies = {row[0]: row for row in SafetyPolicy.objects.values_list()}
        with connection.cursor() as cursor:  # raw: JSON columns stay text until they have changed
            cursor.execute(
                f"SELECT {', '.join(_NOVA)} FROM workflow_nova WHERE {membership('nova_id')}",  # noqa: S608
                [members(nova_ids)],
            )
            rows = cursor.fetchall()
        breakers = (
            dict(ProviderAccount.objects.values_list("slug", "breaker_open_until")) if any(row[-1] for row in rows) else {}
        )
        for row in rows:
            nova_id, _, personality, policy, candidate = row[:5]
            observed = policies.get(candidate) if candidate else None
            parts = (row, personalities.get(personality), policies.get(policy), observed, breakers.get(row[-1]))
            known = self._known.get(nova_id)
            if known is None or known[0] != parts:
                self._known[nova_id] = (parts, self._resolve(*parts))
            self._read_at[nova_id] = now

    def _resolve(
        self,
        nova: Sequence[Any],
        personality: Sequence[Any] | None,
        policy: tuple[Any, ...] | None,
        observed: tuple[Any, ...] | None,
        breaker_open_until: datetime | None,
    ) -> Effective:
        """Resolve one Nova's rows. Where one is missing it gets defaults under which it may only wait."""
        (nova_id, team, _, _, _, default_executor, allowed, from_streams, per_phase, personal_after, minutes, timeout,
         account) = nova  # fmt: skip
        problem = _problem(nova, personality, policy)
        _, cycle_time, frequency, celebration, style, pattern = personality or _NO_PERSONALITY
        rules, concurrent = self._rules_of(policy) if policy else _NO_POLICY
        config = NovaConfig(
            nova_id=nova_id,
            team=team,
            base_cycle_time=timedelta(seconds=cycle_time),
            reflection_frequency=frequency,
            celebration_style=celebration,
            work_style=style,
            communication_pattern=pattern,
            default_executor=default_executor,
            allowed_executors=frozenset(orjson.loads(allowed)),
            max_concurrent_tasks=concurrent,
            tasks_per_phase=per_phase,
            personal_phase_after=personal_after,
            personal_phase_length=timedelta(minutes=minutes),
            execution_timeout=timedelta(seconds=timeout),
        )
        candidate = Candidate(nova[4], self._rules_of(observed)[0]) if observed else None
        return Effective(config, rules, frozenset(orjson.loads(from_streams)), account, breaker_open_until, candidate, problem)

    def _rules_of(self, policy: tuple[Any, ...]) -> tuple[SafetyRules, int]:
        """Give a policy's rules and its limit of concurrent tasks."""
        if policy not in self._rules:
            if len(self._rules) > 1000:
                self._rules.clear()
            names = [field.attname for field in SafetyPolicy._meta.concrete_fields]
            row = SafetyPolicy(**dict(zip(names, policy, strict=True)))
            self._rules[policy] = (row.rules, row.max_concurrent_tasks)
        return self._rules[policy]


def _problem(nova: Sequence[Any], personality: Sequence[Any] | None, policy: Sequence[Any] | None) -> str:
    """Say which of the rows is missing that a Nova needs; empty if none is. Only somebody who goes past us can delete them."""
    missing = [
        f"{what} {slug}" for what, slug, row in (("policy", nova[3], policy), ("personality", nova[2], personality)) if not row
    ]
    if not missing:
        return ""
    return f"Its {' and '.join(missing)} can't be found, so nothing may run. Give Nova {nova[0]} another one that exists."
