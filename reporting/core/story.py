"""How journal entries read in a Nova's story: what happened in words, its tone, and which chapter it belongs to. Pure.

Said is only what the action names and values of enums, never what people, agents or models wrote.
"""

from collections.abc import Mapping
from typing import Any

from reporting.core.timeline import MOVED
from reporting.core.words import plain

# chapter -> its title, and how the actions of its entries begin; `people` goes by who acted
CHAPTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "tasks": ("Tasks", ("workflow.task.", "workflow.insight.")),
    "safety": ("Safety", ("safety.", "workflow.halt.", "workflow.nova.quarantined", "workflow.nova.killed")),
    "people": ("People", ()),
    "states": ("States", (MOVED,)),
    "messages": ("Messages", ("workflow.message.", "workflow.signal.")),
}
PEOPLE = ("user:", "operator:")  # how their names begin in the journal

_TONES: Mapping[str, str] = {
    "completed": "good", "celebrated": "good", "resumed": "good", "safe": "good", "ended": "good", "unblocked": "good",
    "started": "info", "claimed": "info", "created": "info", "progressed": "info",
    "blocked": "warn", "paused": "warn", "drained": "warn", "retried": "warn", "rejected": "warn", "refused": "warn",
    "lapsed": "warn", "opened": "bad", "unsafe": "bad", "halted": "bad", "killed": "bad", "quarantined": "bad",
    "suspended": "bad",
}  # fmt: skip
_ICONS: Mapping[str, str] = {
    "good": "check", "info": "play", "warn": "pause", "bad": "alert", "calm": "dot",
}  # fmt: skip
_WORDS: Mapping[str, str] = {
    "safety.nova.unsafe": "Stopped by safety",
    "safety.nova.safe": "Safe again",
    "workflow.nova.drain_requested": "Asked to drain",
    "workflow.nova.changed": "Configuration changed",
    "workflow.insight.recorded": "Insights recorded",
}


def words_of(action: str) -> str:
    """Say what happened: `workflow.task.completed` reads `Task completed`."""
    if action in _WORDS:
        return _WORDS[action]
    return plain(" ".join(action.split(".")[1:]) or action).capitalize()


def tone_of(action: str) -> str:
    """Give the tone of what happened."""
    return _TONES.get(action.rpartition(".")[2], "calm")


def icon_of(action: str) -> str:
    """Give the symbol of what happened."""
    return _ICONS[tone_of(action)]


def detail_of(action: str, after: Mapping[str, Any] | None) -> str:
    """Give the states a step went through, or the mechanism that stopped a Nova; empty for everything else."""
    facts = after or {}
    if action == MOVED and isinstance(path := facts.get("path"), list):
        return " → ".join(plain(str(state)) for state in path)
    return plain(str(facts.get("mechanism") or "")) if action.startswith("safety.nova.") else ""
