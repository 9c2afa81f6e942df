"""Tries every safety mechanism with synthetic overload and says what it took to trip it (spec `validate_safety.sh`).

The facts go the real way: observations are written, windows summed, judges asked, verdicts stored, for a Nova that does not
exist, and everything is rolled back. This room decides nothing about Novas that do exist.
"""

import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import DatabaseError, connection, transaction

from safety import audit, observations
from safety.audit import Entry
from safety.core.mechanisms import MECHANISMS, SafetyMechanism
from safety.core.objections import in_words
from safety.core.orchestrator import SafetyOrchestrator, Verdict
from safety.core.status import FleetFacts, SafetyFacts, SafetyLevel, SafetyRules, SafetyStatus
from safety.core.stress import stress_score
from safety.facts import WorkflowSideFacts, load_facts
from safety.models import AuditEntry, SafetyIncident, SafetyState
from safety.observations import STATE_DEFAULTS, Kind, Seen
from safety.verdicts import store_verdicts

TRIED = "safety.validation.tried"

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(hours=24)
_CHECK_LIMIT = 0.050  # seconds, spec "Performance": safety checks < 50 ms
_NO_LIMIT = 1_000_000
_FELLOWS = {"requests_per_minute", "requests_per_hour", "requests_per_day", "burst_requests"}
_STEPS = 2_000  # instants over which a window's observations are spread, at most: so that a day's worth is no burst


@dataclass(frozen=True, slots=True)
class Result:
    """One requirement: what was tried, the limit, what was measured, and whether it holds (None: it could not be tried)."""

    requirement: str
    source: str
    tried: str
    limit: str
    measured: str
    passed: bool | None


@dataclass(frozen=True, slots=True)
class Counted:
    """A limit on how often something is seen; `enough`: reaching it is too much, not only passing it."""

    requirement: str
    source: str
    kind: Kind
    mechanism: str
    window: timedelta
    limit: str  # the name of the rule
    what: str
    detail: str = ""
    enough: bool = False


class _Failing:
    """A judge that fails."""

    safe = SafetyStatus(True, "")

    def __init__(self, name: str) -> None:
        self.name = name

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        raise RuntimeError("made to fail")


class Validation:
    """Tries one set of rules. Uses the database, inside transactions that are rolled back."""

    def __init__(self, rules: SafetyRules, *, now: datetime, mechanisms: Sequence[SafetyMechanism] = MECHANISMS) -> None:
        self.rules = rules
        self.now = now
        self._mechanisms = mechanisms
        self._orchestrator = SafetyOrchestrator(mechanisms)

    def run(self) -> Iterator[Result]:
        """Try everything, one result at a time."""
        for counted in self._limits():
            yield self._overrun(counted)
        yield from self._drift()
        yield from self._stress()
        yield from self._hooks()
        yield from self._streams()
        yield from self._breaker()
        yield from self._closed()
        yield self._incident()
        yield self._duration()
        yield self._append_only()

    # -- limits on how often

    def _limits(self) -> list[Counted]:
        rules = self.rules
        failing = in_words(rules.failure_window)
        protection, storm = "spec Security: API Protection", "design 5: HookHealthMonitor"
        api, frosty, hooks = "api_guardian", "frosty", "hook_health"
        return [
            Counted("Requests a minute", protection, Kind.API_REQUEST, api, _MINUTE, "requests_per_minute", "requests in 60 s"),
            Counted("Requests an hour", protection, Kind.API_REQUEST, api, _HOUR, "requests_per_hour", "requests in an hour"),
            Counted("Requests a day", "design 5", Kind.API_REQUEST, api, _DAY, "requests_per_day", "requests in 24 h"),
            Counted(
                "Bursts of requests", "design 5", Kind.API_REQUEST, api, rules.burst_window, "burst_requests",
                f"requests in {in_words(rules.burst_window)}",
            ),
            Counted(
                "Bursts of tool use", "design 5: FrostyCooldownManager", Kind.TOOL_USE, frosty, _MINUTE,
                "tool_uses_per_minute", "different tool uses in 60 s",
            ),
            Counted(
                "Failing calls", "design 5: FrostyCooldownManager", Kind.TOOL_FAILURE, frosty, rules.failure_window,
                "failures_in_window", f"failed calls, all there were, in {failing}", enough=True,
            ),
            Counted(
                "Waking itself", "design 5: completion drift", Kind.OWN_WAKE, frosty, _HOUR, "own_wakes_per_hour",
                "wakes of its own in an hour",
            ),
            Counted(
                "Running in circles", "design 5: cycle pace", Kind.EMPTY_CYCLE, frosty, _MINUTE, "empty_cycles_per_minute",
                "cycles before their time that found nothing to do, in 60 s",
            ),
            Counted(
                "A loop of one call", storm, Kind.TOOL_USE, hooks, _MINUTE, "identical_calls_per_minute",
                "identical calls in 60 s", detail="the same",
            ),
            Counted(
                "A storm of sessions", storm, Kind.SESSION_EVENT, hooks, _MINUTE, "session_events_per_minute",
                "session starts and stops in 60 s",
            ),
            Counted(
                "Failing hooks", storm, Kind.HOOK_FAILURE, hooks, rules.failure_window, "hook_failures_in_window",
                f"failed hooks in {failing}", enough=True,
            ),
        ]  # fmt: skip

    def _overrun(self, counted: Counted) -> Result:
        """Do as much as is allowed, then once more: only the second may be stopped."""
        # its fellows don't count here: under some policies the burst limit alone keeps a Nova below its limit of a minute
        most = getattr(self.rules, counted.limit) - counted.enough
        others: dict[str, Any] = dict.fromkeys(_FELLOWS - {counted.limit}, _NO_LIMIT)
        rules = replace(self.rules, **others)
        with self._scratch() as nova_id:
            self._do(nova_id, counted, most)
            allowed = self._judge(nova_id, rules).by_mechanism[counted.mechanism]
            self._do(nova_id, counted, 1)
            stopped = self._judge(nova_id, rules)
        said = stopped.by_mechanism[counted.mechanism]
        at = f"stopped at {most + 1}" if not said.is_safe else f"not stopped at {most + 1}"
        measured = at if allowed.is_safe else f"stopped at {most} already"
        return Result(
            counted.requirement,
            counted.source,
            f"{most}, then {most + 1} {counted.what}",
            f"{most} allowed",
            f"{measured} by {counted.mechanism}",
            allowed.is_safe and not said.is_safe and not stopped.status.is_safe,
        )

    def _do(self, nova_id: str, counted: Counted, times: int) -> None:
        """Write observations evenly over nine tenths of the window."""
        steps = min(times, _STEPS)
        length = counted.window * 0.9
        for step in range(steps):
            share = times * (step + 1) // steps - times * step // steps
            at = self.now - length + length * ((step + 1) / steps)
            seen = [Seen(nova_id, counted.kind, share, counted.detail)]
            if counted.kind is Kind.TOOL_FAILURE:
                seen.append(Seen(nova_id, Kind.TOOL_USE, share))
            observations.observe_many(seen, now=at)

    # -- what a Nova does with its time

    def _drift(self) -> Iterator[Result]:
        rules, source, what = self.rules, "spec 6, design 5", "work to claim and no task change"

        def idling(length: timedelta) -> Verdict:
            return self._judge_one(has_claimable_work=True, last_task_change=self.now - length)

        def celebrating(length: timedelta) -> Verdict:
            return self._judge_one(celebrating_since=self.now - length)

        limits = rules.drift_without_task_change, rules.celebration_limit
        yield self._just_over("Completion drift: idling", source, what, limits[0], "frosty", idling)
        yield self._just_over("Completion drift: celebrating", source, "one celebration", limits[1], "frosty", celebrating)

    def _just_over(
        self,
        requirement: str,
        source: str,
        what: str,
        limit: timedelta,
        mechanism: str,
        judge: Callable[[timedelta], Verdict],
    ) -> Result:
        past = timedelta(seconds=1)
        allowed = judge(limit).by_mechanism[mechanism].is_safe
        stopped = not judge(limit + past).by_mechanism[mechanism].is_safe
        tried = f"{what} for {in_words(limit)}, then for {past.total_seconds():g} s more"
        measured = "stopped the second only" if allowed and stopped else "stopped the first" if stopped else "stopped neither"
        return Result(requirement, source, tried, in_words(limit), f"{measured}, by {mechanism}", allowed and stopped)

    # -- stress

    def _stress(self) -> Iterator[Result]:
        rules, source = self.rules, "design 5: ReallyChillWillyEmergency"
        load = stress_score(1000.0, 0.0, 0.0, timedelta(0), 0)
        alone = self._judge_facts(SafetyFacts("scratch", fleet=FleetFacts(cpu_load=1000.0)))
        yield Result(
            "Processor load alone stops nobody", source, "a load average of 1,000 a core", "40 of 100 points", f"{load:g}",
            load <= 40 and alone.status.is_safe,
        )  # fmt: skip
        stressed = SafetyFacts("scratch", fleet=FleetFacts(memory_ratio=0.98), error_ratio=1.0)
        score = stress_score(0.0, 0.98, 1.0, timedelta(0), 0)

        def sustained(length: timedelta) -> Verdict:
            return self._judge_facts(replace(stressed, stressed_since=self.now - length))

        second = timedelta(seconds=1)
        before = sustained(rules.stress_sustained - second).status
        after = sustained(rules.stress_sustained).status
        until = after.expires_at - self.now if after.expires_at else timedelta(0)
        yield Result(
            "Meditation under stress", source,
            f"stress {score:.0f} for {in_words(rules.stress_sustained - second)}, then for {in_words(rules.stress_sustained)}",
            f"{rules.meditation_stress:g} for {in_words(rules.stress_sustained)}",
            f"{after.safety_level.value} for {in_words(until)}",
            before.is_safe and after.safety_level is SafetyLevel.MEDITATION and until == rules.meditation,
        )  # fmt: skip
        full = FleetFacts(process_memory=rules.process_memory_limit, process_cpu=rules.process_cpu_limit)
        grown = self._judge_facts(replace(stressed, fleet=full, stressed_since=self.now - rules.stress_sustained)).status
        yield Result(
            "Stress of our own processes", source, "worker processes at their limits, and every execution fails",
            f"{rules.process_memory_limit} MB and {rules.process_cpu_limit:.0%} of the processors",
            f"{grown.safety_level.value} at {grown.measured or 0:.0f}",
            not grown.is_safe,
        )  # fmt: skip
        worst = replace(stressed, fleet=FleetFacts(memory_ratio=0.98, cpu_load=4.0))
        stop = self._judge_facts(worst).status
        yield Result(
            "Emergency stop", source, "memory, errors and load at their worst", f"{rules.emergency_stress:g} of 100 points",
            f"{stop.safety_level.value} at {stop.measured or 0:.0f}", stop.safety_level is SafetyLevel.EMERGENCY_STOP,
        )  # fmt: skip

    # -- hooks

    def _hooks(self) -> Iterator[Result]:
        def silent(length: timedelta) -> Verdict:
            heard = self.now - length
            facts = SafetyFacts("scratch", hooks_expected=True, last_hook_heartbeat=heard, last_work_evidence=self.now)
            return self._judge_facts(facts)

        limit = self.rules.hook_silence
        yield self._just_over(
            "Unguarded work", "design 5: HookHealthMonitor", "work without hooks", limit, "hook_health", silent
        )

    # -- streams

    def _streams(self) -> Iterator[Result]:
        rules, source = self.rules, "design 5: StreamHealthMonitor"

        def lost(length: timedelta) -> Verdict:
            return self._judge_fleet(stream_reachable=False, stream_unreachable_since=self.now - length)

        silence = in_words(rules.stream_silence)
        nearly = lost(rules.stream_silence - timedelta(milliseconds=1)).status.is_safe
        stopped = not lost(rules.stream_silence).status.is_safe
        yield Result(
            "Stream server away", source, f"no answer for a millisecond less than {silence}, then for {silence}", silence,
            "stopped the second only, by stream_monitor" if nearly and stopped else "wrong", nearly and stopped,
        )  # fmt: skip
        for what, name, limit in (
            ("Slow round trips", "round_trip", rules.round_trip_limit),
            ("Intake behind", "intake_lag", rules.intake_lag_limit),
            ("Outbox behind", "outbox_age", rules.outbox_age_limit),
        ):
            yield self._just_over(
                what, source, name.replace("_", " "), limit, "stream_monitor",
                partial(self._judge_reading, name),
            )  # fmt: skip
        ratio = rules.stream_memory_ratio
        allowed, stopped = (self._judge_fleet(stream_memory_ratio=value).status.is_safe for value in (ratio, ratio + 0.01))
        yield Result(
            "Stream server's memory", source, f"{ratio:.0%}, then {ratio + 0.01:.0%} in use", f"{ratio:.0%}",
            "stopped the second only" if allowed and not stopped else "wrong", allowed and not stopped,
        )  # fmt: skip

    def _breaker(self) -> Iterator[Result]:
        until = self.now + timedelta(seconds=30)
        verdict = self._judge_facts(SafetyFacts("scratch", api_breaker_open_until=until))
        yield Result(
            "Open circuit breaker", "spec Security: API Protection", "a breaker that is open for 30 s", "no calls while open",
            verdict.status.reason, not verdict.status.is_safe and verdict.status.expires_at == until,
        )  # fmt: skip

    # -- it fails closed

    def _closed(self) -> Iterator[Result]:
        for mechanism in self._mechanisms:
            judges = [_Failing(mechanism.name) if other is mechanism else other for other in self._mechanisms]
            status = SafetyOrchestrator(judges).judge(SafetyFacts("scratch"), self.rules, self.now).status
            yield Result(
                f"{mechanism.name} fails closed", "spec 4", "the judge raises", "unsafe, and it is named",
                f"{_said(status)} by {status.mechanism}: {status.reason}",
                not status.is_safe and status.mechanism == mechanism.name,
            )  # fmt: skip
        problem = "Its policy can't be found, so nothing may run."
        status = self._judge_one(configuration_problem=problem).status
        yield Result(
            "No policy", "design 5", "a Nova whose policy is gone", "unsafe, and the reason is told",
            f"{_said(status)}: {status.reason}", not status.is_safe and status.reason == problem,
        )  # fmt: skip
        open_to: list[str] = []
        names = 0
        for kind, build in ((SafetyFacts, self._judge_one), (FleetFacts, self._judge_fleet)):
            for name in _readings(kind):
                names += 1
                if build(**{name: None}).status.is_safe:
                    open_to.append(name)
        yield Result(
            "Unreadable counters", "design 5", f"each of {names} readings missing, one at a time", "unsafe",
            f"safe without {', '.join(open_to)}" if open_to else "unsafe every time", not open_to,
        )  # fmt: skip

    # -- what follows

    def _incident(self) -> Result:
        """A violation must be stored, told on the Nova's safety stream, and be one incident however often it is judged."""
        sessions = next(counted for counted in self._limits() if counted.kind is Kind.SESSION_EVENT)
        with self._scratch() as nova_id:
            self._do(nova_id, sessions, self.rules.session_events_per_minute + 1)
            for step in range(3):
                at = self.now + timedelta(seconds=step)
                facts = self._load(nova_id, at)
                store_verdicts({nova_id: self._orchestrator.judge(facts[nova_id], self.rules, at)}, facts, at, announce=False)
            incidents = SafetyIncident.objects.filter(nova_id=nova_id).count()
            told = AuditEntry.objects.filter(stream=f"nova.safety.{nova_id}").count()
            stored = SafetyState.objects.get(nova_id=nova_id)
        measured = f"{incidents} incident, {told} message, {stored.safety_level}"
        return Result(
            "A violation is an incident, once", "spec 4, design 5", "a storm of sessions, judged three times",
            "1 incident, 1 message",
            measured, (incidents, told, stored.is_safe) == (1, 1, False),
        )  # fmt: skip

    def _duration(self) -> Result:
        with self._scratch() as nova_id:
            observations.observe_many([Seen(nova_id, kind) for kind in (Kind.TOOL_USE, Kind.API_REQUEST)], now=self.now)
            seconds = []
            for _ in range(25):
                began = time.perf_counter()
                self._judge(nova_id)
                seconds.append(time.perf_counter() - began)
        middle = statistics.median(seconds)
        return Result(
            "Safety checks are quick", "spec Performance", "25 checks of one Nova", f"{_CHECK_LIMIT * 1000:g} ms",
            f"{middle * 1000:.1f} ms (median)", middle < _CHECK_LIMIT,
        )  # fmt: skip

    def _append_only(self) -> Result:
        changed = 0
        with self._scratch() as nova_id:
            audit.record([Entry(TRIED, nova_id, "nova", nova_id, reason="validation")], now=self.now, announce=False)
            for statement in ("UPDATE safety_auditentry SET reason = 'x'", "DELETE FROM safety_auditentry"):
                try:
                    with transaction.atomic(), connection.cursor() as cursor:
                        cursor.execute(f"{statement} WHERE nova_id = %s", [nova_id])
                        changed += 1
                except DatabaseError:
                    continue
        return Result(
            "The journal can't be changed", "spec Security: Audit Logging", "UPDATE and DELETE of an entry",
            "refused by the database",
            "refused" if not changed else f"{changed} of 2 went through", not changed,
        )  # fmt: skip

    # -- details

    @contextmanager
    def _scratch(self) -> Iterator[str]:
        """Give the name of a Nova that does not exist; whatever is written about it is rolled back."""
        with transaction.atomic():
            nova_id = f"validation-{secrets.token_hex(4)}"
            SafetyState.objects.create(nova_id=nova_id, **STATE_DEFAULTS)
            yield nova_id
            transaction.set_rollback(True)

    def _load(self, nova_id: str, at: datetime) -> dict[str, SafetyFacts]:
        return load_facts([nova_id], {nova_id: self.rules}, {nova_id: WorkflowSideFacts()}, at, fleet=FleetFacts())

    def _judge(self, nova_id: str, rules: SafetyRules | None = None) -> Verdict:
        return self._orchestrator.judge(self._load(nova_id, self.now)[nova_id], rules or self.rules, self.now)

    def _judge_facts(self, facts: SafetyFacts) -> Verdict:
        return self._orchestrator.judge(facts, self.rules, self.now)

    def _judge_reading(self, name: str, value: Any) -> Verdict:
        return self._judge_fleet(**{name: value})

    def _judge_one(self, **values: Any) -> Verdict:
        return self._judge_facts(SafetyFacts("scratch", **values))

    def _judge_fleet(self, **values: Any) -> Verdict:
        return self._judge_facts(SafetyFacts("scratch", fleet=FleetFacts(**values)))


def _said(status: SafetyStatus) -> str:
    return "safe" if status.is_safe else "unsafe"


def _readings(kind: type[SafetyFacts] | type[FleetFacts]) -> list[str]:
    """Name the facts that are readings: those that say None when they could not be read, and are something by default."""
    blank: Any = SafetyFacts("scratch") if kind is SafetyFacts else FleetFacts()
    return [one.name for one in fields(kind) if "None" in str(one.type) and getattr(blank, one.name) is not None]
