"""What each limit of a safety policy means, its value in force, where that comes from, and what a candidate would make of it.

For pages that explain; no judge asks here. This room must not know how Novas are configured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from safety.models import SafetyPolicy

# limit -> its unit (a plain number: none) and what it means
MEANINGS: Mapping[str, tuple[str, str]] = {
    "max_concurrent_tasks": ("", "tasks a Nova may have in hand at once"),
    "requests_per_minute": ("", "calls to model providers in a minute"),
    "requests_per_hour": ("", "calls to model providers in an hour"),
    "requests_per_day": ("", "calls to model providers in 24 hours"),
    "concurrent_requests": ("", "calls to model providers at once"),
    "burst_requests": ("", "calls to model providers within the burst window"),
    "burst_window": ("s", "length of the burst window"),
    "request_timeout": ("s", "a call to a model provider may take"),
    "tool_uses_per_minute": ("", "tool uses in a minute"),
    "failures_in_window": ("", "failed calls within the failure window that cool down, if they are also the share below"),
    "failure_ratio": ("", "share of failed calls that cools down, 0 to 1"),
    "failure_window": ("s", "length of the failure window, of calls and of hooks"),
    "cooldown": ("s", "length of the first cooldown; each further one in a row takes twice as long"),
    "cooldown_limit": ("s", "length of the longest cooldown"),
    "drift_without_task_change": ("s", "time without a task change while work waits"),
    "own_wakes_per_hour": ("", "wakes in an hour that the Nova causes itself"),
    "empty_cycles_per_minute": ("", "cycles in a minute that come before their time and find nothing to do"),
    "celebration_limit": ("s", "a celebration may take"),
    "meditation_stress": ("of 100", "stress that, sustained, starts a meditation"),
    "emergency_stress": ("of 100", "stress that stops at once"),
    "stress_sustained": ("s", "such stress may last before a meditation"),
    "meditation": ("s", "length of a meditation"),
    "process_memory_limit": ("MB", "memory that a worker process may use, with the programs it runs"),
    "process_cpu_limit": ("", "share of the machine's processors that the worker processes may use, 0.01 to 1"),
    "hook_silence": ("s", "work may go on unseen by the hooks"),
    "hook_failures_in_window": ("", "failed hooks within the failure window"),
    "session_events_per_minute": ("", "starts and stops of the agent's sessions in a minute"),
    "identical_calls_per_minute": ("", "identical calls in a minute"),
    "quarantine": ("s", "length of a quarantine"),
    "stream_silence": ("s", "the stream server may stay silent"),
    "round_trip_limit": ("s", "a round trip to the stream server may take"),
    "intake_lag_limit": ("s", "an inbound entry may wait to be read"),
    "outbox_age_limit": ("s", "an outbound entry may wait to be published"),
    "stream_memory_ratio": ("", "share of the stream server's memory in use, 0 to 1"),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit in force; `standard` is the preset's default, `candidate` what a candidate says (None: there is none)."""

    name: str
    unit: str
    meaning: str
    value: float
    policy: str  # the row that the value comes from
    standard: float
    candidate: float | None = None

    @property
    def differs(self) -> bool:
        return self.value != self.standard

    @property
    def origin(self) -> str:
        """Say in words where the value comes from."""
        says = f"differs from standard ({self.in_words(self.standard)})" if self.differs else "as in standard"
        return f"policy {self.policy}, {says}"

    def in_words(self, value: float) -> str:
        """Write a value of this limit with its unit."""
        return f"{value:,.10g} {self.unit}".strip()


def limits_in_force(policy: SafetyPolicy, candidate: SafetyPolicy | None = None) -> list[Limit]:
    """Give every limit of a Nova under this policy, in the order of the policy's fields."""
    standard = SafetyPolicy()  # its defaults are the preset's
    return [
        Limit(
            name,
            *MEANINGS[name],
            getattr(policy, name),
            policy.slug,
            getattr(standard, name),
            getattr(candidate, name) if candidate else None,
        )
        for name in MEANINGS
    ]
