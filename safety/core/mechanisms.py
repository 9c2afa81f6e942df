"""The five judges: each looks at the facts of one Nova under its rules and says whether it may act (spec section 4).

Pure: no I/O, no clock, no memory of their own. What a judge must remember from one check to the next comes with the facts
and goes out with the verdict (orchestrator.py). A counter that could not be read (None) is unsafe. A new judge is a class here
and a line in MECHANISMS; one that has nothing to say gives its one `safe` status, always the same object.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Protocol

from safety.core.objections import (
    ACTIVATE_COOLDOWN,
    ACTIVATE_EMERGENCY_STOP,
    ACTIVATE_MEDITATION,
    ACTIVATE_QUARANTINE,
    ACTIVATE_RECOVERY,
    WAIT_FOR_BREAKER,
    WAIT_FOR_STREAM,
    WAIT_FOR_WINDOW,
    concern,
    cooldowns_in_a_row,
    cooling,
    in_words,
    next_cooldown_until,
    objection,
    unreadable,
)
from safety.core.status import SafetyFacts, SafetyLevel, SafetyRules, SafetyStatus
from safety.core.stress import stress_score

# the judge whose objections are the fleet's
STREAM_MONITOR = "stream_monitor"

_MINUTE = timedelta(minutes=1)


class SafetyMechanism(Protocol):
    """What the orchestrator asks of a judge."""

    name: str
    safe: SafetyStatus

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus: ...


class FrostyCooldownManager:
    """Cools a Nova down after a burst of tool use or failures, and when it drifts: idles, wakes itself or celebrates."""

    name = "frosty"
    safe = SafetyStatus(True, "Tool use, failures and progress are within limits.", mechanism=name)

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        tools, calls, failures = facts.tool_uses_minute, facts.calls_in_failure_window, facts.failures_in_failure_window
        wakes, empty = facts.own_wakes_hour, facts.empty_cycles_minute
        if tools is None or calls is None or failures is None or wakes is None or empty is None:
            readings = {
                "number of tool uses in the last minute": tools,
                "number of calls": calls,
                "number of failed calls": failures,
                "number of wakes the Nova caused itself": wakes,
                "number of cycles without work": empty,
            }
            return unreadable(self.name, facts, now, readings)
        if facts.cooldown_until is not None and (in_force := cooling(self.name, facts, now)) is not None:
            return in_force
        if tools > rules.tool_uses_per_minute:
            reason = f"{tools} tool uses in the last minute, more than the {rules.tool_uses_per_minute} allowed."
            return self._cool(facts, rules, now, reason, tools, rules.tool_uses_per_minute)
        if failures >= rules.failures_in_window and failures >= rules.failure_ratio * calls:
            reason = (
                f"{failures} of {max(calls, failures)} calls failed in the last {in_words(rules.failure_window)}; "
                f"{rules.failures_in_window} or more that are {rules.failure_ratio:.0%} of the calls are too many."
            )
            return self._cool(facts, rules, now, reason, failures, rules.failures_in_window)
        if wakes > rules.own_wakes_per_hour:
            reason = f"The Nova woke itself {wakes} times in the last hour, more than the {rules.own_wakes_per_hour} allowed."
            return self._cool(facts, rules, now, reason, wakes, rules.own_wakes_per_hour)
        if empty > rules.empty_cycles_per_minute:
            reason = (
                f"{empty} cycles in the last minute came before their time and found nothing to do, more than the "
                f"{rules.empty_cycles_per_minute} allowed: the Nova runs in circles."
            )
            return self._cool(facts, rules, now, reason, empty, rules.empty_cycles_per_minute)
        if facts.has_claimable_work or facts.celebrating_since is not None:
            return self._drift(facts, rules, now)
        return self.safe

    def _drift(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        """Judge completion drift (spec section 6). After a pause, or whatever kept it from acting, a Nova begins afresh."""
        afresh = (facts.active_since, facts.last_cooldown_end, facts.verdict_since if facts.verdict_is_safe else now)
        if facts.has_claimable_work:
            length, limit = _length(now, facts.last_task_change, *afresh), rules.drift_without_task_change
            if length > limit:
                reason = (
                    f"There is work to claim, but no task changed for {in_words(length)}, "
                    f"longer than the {in_words(limit)} allowed."
                )
                return self._cool(facts, rules, now, reason, length.total_seconds(), limit.total_seconds())
        if facts.celebrating_since is not None:
            length, limit = _length(now, facts.celebrating_since, *afresh), rules.celebration_limit
            if length > limit:
                reason = f"The Nova has celebrated for {in_words(length)}, longer than the {in_words(limit)} allowed."
                return self._cool(facts, rules, now, reason, length.total_seconds(), limit.total_seconds())
        return self.safe

    def _cool(
        self, facts: SafetyFacts, rules: SafetyRules, now: datetime, reason: str, measured: float, limit: float
    ) -> SafetyStatus:
        until = next_cooldown_until(facts, rules, now)
        return objection(self.name, facts, now, reason, ACTIVATE_COOLDOWN, measured=measured, limit=limit, until=until)


def _length(now: datetime, *begins: datetime | None) -> timedelta:
    """Measure from the latest of the given beginnings; nothing known is no time at all."""
    return now - max((begin for begin in begins if begin is not None), default=now)


class ReallyChillWillyEmergency:
    """Sends a stressed Nova into meditation, and stops it in an emergency (the spec's `ReallyChlWillyEmergency`)."""

    name = "really_chill_willy"
    safe = SafetyStatus(True, "The machine and the Nova are at ease.", mechanism=name)

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        cpu, memory = facts.fleet.cpu_load, facts.fleet.memory_ratio
        used, held = facts.fleet.process_cpu, facts.fleet.process_memory
        errors, lag = facts.error_ratio, facts.queue_lag
        if cpu is None or memory is None or used is None or held is None or errors is None or lag is None:
            readings = {
                "load of the machine": cpu,
                "memory of the machine": memory,
                "load of the worker processes": used,
                "memory of the worker processes": held,
                "share of executions that failed": errors,
                "lag of the queue": lag,
            }
            return unreadable(self.name, facts, now, readings)
        row = cooldowns_in_a_row(facts, rules, now) if facts.cooldowns_in_a_row else 0
        score = stress_score(
            cpu,
            memory,
            errors,
            lag,
            row,
            process_cpu=used / rules.process_cpu_limit,
            process_memory=held / rules.process_memory_limit,
        )
        if score >= rules.emergency_stress:
            return objection(
                self.name,
                facts,
                now,
                f"Stress is {score:.0f} of 100; from {rules.emergency_stress:g} on everything stops.",
                ACTIVATE_EMERGENCY_STOP,
                level=SafetyLevel.EMERGENCY_STOP,
                measured=score,
                limit=rules.emergency_stress,
            )
        if facts.meditation_until is not None and facts.meditation_until > now:
            reason = f"The Nova meditates until {facts.meditation_until:%H:%M:%S} after too much stress; now it is {score:.0f}."
            return self._meditate(facts, rules, now, reason, score, facts.meditation_until)
        if score < rules.meditation_stress:
            return self.safe
        begin = facts.stressed_since or now
        if now - begin < rules.stress_sustained:
            limit = in_words(rules.stress_sustained)
            reason = f"Stress is {score:.0f} of 100; {rules.meditation_stress:g} or more may last {limit}."
            return concern(self.name, reason, measured=score, limit=rules.meditation_stress, since=begin)
        reason = (
            f"Stress is {score:.0f} of 100 and has been {rules.meditation_stress:g} or more for {in_words(now - begin)}; "
            f"{in_words(rules.stress_sustained)} are allowed."
        )
        return self._meditate(facts, rules, now, reason, score, now + rules.meditation)

    def _meditate(
        self, facts: SafetyFacts, rules: SafetyRules, now: datetime, reason: str, score: float, until: datetime
    ) -> SafetyStatus:
        level, limit = SafetyLevel.MEDITATION, rules.meditation_stress
        return objection(
            self.name, facts, now, reason, ACTIVATE_MEDITATION, level=level, measured=score, limit=limit, until=until
        )


class HookHealthMonitor:
    """Watches the hooks of an agent: failing, storming, caught in a loop of identical calls, or silent while it works."""

    name = "hook_health"
    safe = SafetyStatus(True, "Hooks answer, and no call repeats itself without end.", mechanism=name)

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        sessions, identical, failures = facts.session_events_minute, facts.identical_calls_minute, facts.hook_failures_in_window
        if sessions is None or identical is None or failures is None:
            readings = {
                "number of session starts and stops": sessions,
                "number of identical calls": identical,
                "number of failed hooks": failures,
            }
            return unreadable(self.name, facts, now, readings)
        if facts.quarantine_until is not None and facts.quarantine_until > now:
            reason = facts.quarantine_reason or "The Nova is in quarantine."
            return self._quarantine(facts, now, reason, facts.quarantine_until)
        if sessions > rules.session_events_per_minute:
            reason = (
                f"{sessions} session starts and stops in the last minute, more than the "
                f"{rules.session_events_per_minute} allowed: the agent restarts itself."
            )
            return self._quarantine(facts, now, reason, now + rules.quarantine, sessions, rules.session_events_per_minute)
        if facts.verdict_mechanism == self.name and (in_force := cooling(self.name, facts, now)) is not None:
            return in_force
        if identical > rules.identical_calls_per_minute:
            reason = (
                f"The same call was made {identical} times in the last minute, more than the "
                f"{rules.identical_calls_per_minute} allowed: the agent is in a loop."
            )
            limit, until = rules.identical_calls_per_minute, next_cooldown_until(facts, rules, now)
            return objection(self.name, facts, now, reason, ACTIVATE_COOLDOWN, measured=identical, limit=limit, until=until)
        if failures >= rules.hook_failures_in_window:
            limit = rules.hook_failures_in_window
            reason = f"{failures} hooks failed in the last {in_words(rules.failure_window)}; {limit} are too many."
            return objection(self.name, facts, now, reason, ACTIVATE_RECOVERY, measured=failures, limit=limit)
        return self._unguarded(facts, rules, now) if facts.last_work_evidence is not None else self.safe

    def _unguarded(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        """Object to work that no hook saw, of a Nova that has hooks. An agent that is merely quiet is left alone."""
        heard, limit = facts.last_hook_heartbeat, rules.hook_silence.total_seconds()
        worked = facts.last_work_evidence or now
        if heard is None:
            if not facts.hooks_expected:
                return self.safe
            reason = "UNGUARDED: the agent works, but its hooks have never been heard."
            return objection(self.name, facts, now, reason, ACTIVATE_RECOVERY, limit=limit)
        unseen = worked - heard
        if unseen <= rules.hook_silence:
            return self.safe
        reason = (
            f"UNGUARDED: the agent worked at {worked:%H:%M:%S}, {in_words(unseen)} after its hooks were last heard; "
            f"{in_words(rules.hook_silence)} are allowed. It may go on once its hooks are heard again."
        )
        return objection(self.name, facts, now, reason, ACTIVATE_RECOVERY, measured=unseen.total_seconds(), limit=limit)

    def _quarantine(
        self,
        facts: SafetyFacts,
        now: datetime,
        reason: str,
        until: datetime,
        measured: float | None = None,
        limit: float | None = None,
    ) -> SafetyStatus:
        level = SafetyLevel.QUARANTINE
        return objection(
            self.name, facts, now, reason, ACTIVATE_QUARANTINE, level=level, measured=measured, limit=limit, until=until
        )


class APIHammeringPrevention:
    """Guards the calls to model providers: how many were made, by window, and the provider's circuit breaker.

    How many run at once is not judged here: the API guardian alone counts its slots, and grants none beyond them.
    """

    name = "api_guardian"
    safe = SafetyStatus(True, "API usage within safe limits", mechanism=name)

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        minute, hour, day = facts.api_requests_minute, facts.api_requests_hour, facts.api_requests_day
        burst = facts.api_requests_burst
        if minute is None or hour is None or day is None or burst is None:
            readings = {
                "number of API requests in the last minute": minute,
                "number of API requests in the last hour": hour,
                "number of API requests in the last day": day,
                "number of API requests in the burst window": burst,
            }
            return unreadable(self.name, facts, now, readings)
        if facts.verdict_mechanism == self.name and (in_force := cooling(self.name, facts, now)) is not None:
            return in_force
        if facts.api_cooldown_until is not None and facts.api_cooldown_until > now:
            reason = facts.api_cooldown_reason or "The Nova asked its provider for too much and cools down."
            return objection(self.name, facts, now, reason, WAIT_FOR_WINDOW, until=facts.api_cooldown_until)
        if minute > rules.requests_per_minute:
            return self._cool(facts, rules, now, minute, rules.requests_per_minute, _MINUTE)
        if burst > rules.burst_requests:
            return self._cool(facts, rules, now, burst, rules.burst_requests, rules.burst_window)
        if hour > rules.requests_per_hour:
            return self._wait(facts, now, hour, rules.requests_per_hour, "in the last hour")
        if day > rules.requests_per_day:
            return self._wait(facts, now, day, rules.requests_per_day, "in the last 24 hours")
        until = facts.api_breaker_open_until
        if until is not None and until > now:
            reason = f"The provider failed too often; its circuit breaker is open until {until:%H:%M:%S}."
            return objection(self.name, facts, now, reason, WAIT_FOR_BREAKER, until=until)
        return self.safe

    def _cool(
        self, facts: SafetyFacts, rules: SafetyRules, now: datetime, count: int, limit: int, window: timedelta
    ) -> SafetyStatus:
        """Cool down for at least as long as the overrun window takes to empty."""
        when = "minute" if window == _MINUTE else in_words(window)
        reason = f"API rate limit exceeded: {count} requests in last {when}, more than the {limit} allowed."
        until = next_cooldown_until(facts, rules, now, least=window)
        return objection(self.name, facts, now, reason, ACTIVATE_COOLDOWN, measured=count, limit=limit, until=until)

    def _wait(self, facts: SafetyFacts, now: datetime, count: int, limit: int, when: str) -> SafetyStatus:
        reason = f"API rate limit exceeded: {count} requests {when}, more than the {limit} allowed."
        return objection(self.name, facts, now, reason, WAIT_FOR_WINDOW, measured=count, limit=limit)


class StreamHealthMonitor:
    """Watches the wire that all Novas share: its objections are the fleet's, not one Nova's."""

    name = STREAM_MONITOR
    safe = SafetyStatus(True, "The stream server answers in time.", mechanism=name)

    def check_safety_status(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        fleet = facts.fleet
        if fleet.stream_reachable is False:
            return self._lost(facts, rules, now)
        trip, lag, age, memory = fleet.round_trip, fleet.intake_lag, fleet.outbox_age, fleet.stream_memory_ratio
        if fleet.stream_reachable is None or trip is None or lag is None or age is None or memory is None:
            readings = {
                "state of the stream server": fleet.stream_reachable,
                "round trip to the stream server": trip,
                "lag of the stream intake": lag,
                "age of the outbox": age,
                "memory of the stream server": memory,
            }
            return unreadable(self.name, facts, now, readings)
        if trip > rules.round_trip_limit:
            return self._slow(facts, now, "A round trip to the stream server takes", trip, rules.round_trip_limit)
        if lag > rules.intake_lag_limit:
            return self._slow(facts, now, "The oldest unread stream entry has waited for", lag, rules.intake_lag_limit)
        if age > rules.outbox_age_limit:
            return self._slow(facts, now, "The oldest unpublished entry has waited for", age, rules.outbox_age_limit)
        if memory > rules.stream_memory_ratio:
            limit = rules.stream_memory_ratio
            reason = f"The stream server uses {memory:.0%} of its memory, more than the {limit:.0%} allowed."
            return objection(self.name, facts, now, reason, WAIT_FOR_STREAM, measured=memory, limit=limit)
        if fleet.stream_gap:  # past help: it is shown, and the Novas go on
            return concern(self.name, f"Entries of {fleet.stream_gap} vanished before they were read.")
        return self.safe

    def _lost(self, facts: SafetyFacts, rules: SafetyRules, now: datetime) -> SafetyStatus:
        since = facts.fleet.stream_unreachable_since
        if since is not None and now - since < rules.stream_silence:
            return concern(self.name, "The stream server does not answer at the moment.", since=since)
        length = None if since is None else (now - since).total_seconds()
        reason = "The stream server can't be reached" + ("." if since is None else f" since {since:%H:%M:%S}.")
        limit = rules.stream_silence.total_seconds()
        return objection(self.name, facts, now, reason, WAIT_FOR_STREAM, measured=length, limit=limit)

    def _slow(self, facts: SafetyFacts, now: datetime, what: str, measured: timedelta, limit: timedelta) -> SafetyStatus:
        reason = f"{what} {in_words(measured)}, longer than the {in_words(limit)} allowed."
        seconds, most = measured.total_seconds(), limit.total_seconds()
        return objection(self.name, facts, now, reason, WAIT_FOR_STREAM, measured=seconds, limit=most)


MECHANISMS: Sequence[SafetyMechanism] = (
    FrostyCooldownManager(),
    ReallyChillWillyEmergency(),
    HookHealthMonitor(),
    APIHammeringPrevention(),
    StreamHealthMonitor(),
)
# What the judges say of a Nova about which none has anything to say.
ALL_SAFE: Mapping[str, SafetyStatus] = MappingProxyType({mechanism.name: mechanism.safe for mechanism in MECHANISMS})
