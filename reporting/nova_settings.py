"""A Nova's effective configuration as its page shows it: each value, what it means, and where it comes from. Reads only."""

from dataclasses import dataclass
from typing import Any

from reporting.core.words import plain
from safety.limits import limits_in_force
from safety.models import SafetyPolicy
from workflow.models import Nova, Personality

# of the Nova's own row: its column and unit; where it is empty, what that means
_OWN: tuple[tuple[str, str, str], ...] = (
    ("default_executor", "", ""),
    ("allowed_executors", "", "none"),
    ("stream_executors", "", "none"),
    ("tasks_per_phase", "", ""),
    ("personal_phase_after", "work phases", "never"),
    ("personal_phase_minutes", "min", ""),
    ("execution_timeout", "s", ""),
    ("model", "", "none"),
    ("budget_cost", "in money a day", "no limit"),
    ("budget_tokens", "tokens a day", "no limit"),
    ("budget_requests", "calls a day", "no limit but the policy's"),
    ("approval_tools", "", "none"),
)
_OF_PERSONALITY: tuple[tuple[str, str], ...] = (
    ("base_cycle_time", "s"),
    ("reflection_frequency", "of cycles, 0 to 1"),
    ("celebration_style", ""),
    ("work_style", ""),
    ("communication_pattern", ""),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective value. `differs`: it is not what a Nova has by default."""

    name: str
    value: str
    origin: str
    meaning: str = ""
    differs: bool = False
    candidate: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Settings that come from one place."""

    title: str
    settings: list[Setting]
    candidate: str = ""  # a policy judged beside the one in force


def settings_of(nova: Nova) -> list[Group]:
    """Give what a Nova works under; its personality, policies and account must be loaded with it."""
    return [
        Group("How it works", [_of_personality(nova.personality, *one) for one in _OF_PERSONALITY]),
        Group("What it may run and use", [_account(nova), *(_own(nova, *one) for one in _OWN)]),
        Group("Limits in force", _limits(nova.policy, nova.candidate_policy), nova.candidate_policy_id or ""),
    ]


def _of_personality(personality: Personality, name: str, unit: str) -> Setting:
    return Setting(_titled(name), _words(getattr(personality, name), unit, ""), f"personality {personality.slug}")


def _account(nova: Nova) -> Setting:
    given = nova.provider_account_id
    return Setting("Provider account", given or "none", _set_here(bool(given)), "whose models it calls", bool(given))


def _own(nova: Nova, name: str, unit: str, empty: str) -> Setting:
    field: Any = Nova._meta.get_field(name)
    value, differs = getattr(nova, name), getattr(nova, name) != field.get_default()
    return Setting(_titled(name), _words(value, unit, empty), _set_here(differs), str(field.help_text), differs)


def _limits(policy: SafetyPolicy, candidate: SafetyPolicy | None) -> list[Setting]:
    found = []
    for limit in limits_in_force(policy, candidate):
        told = "" if limit.candidate in (None, limit.value) else limit.in_words(limit.candidate)
        value = limit.in_words(limit.value)
        found.append(Setting(_titled(limit.name), value, limit.origin, limit.meaning, limit.differs, told))
    return found


def _titled(name: str) -> str:
    return plain(name).capitalize()


def _set_here(differs: bool) -> str:
    return "set on this Nova" if differs else "default"


def _words(value: Any, unit: str, empty: str) -> str:
    if empty and not value:
        return empty
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = f"{value:,.10g}" if isinstance(value, int | float) else plain(str(value))
    return f"{text} {unit}".strip()
