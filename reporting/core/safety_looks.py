"""How safety looks: words, tones and icons of mechanisms, levels, incidents and breakers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from reporting.core.words import plain


@dataclass(frozen=True, slots=True)
class Sign:
    """A word with its tone (a class of the stylesheet) and its icon (a symbol of templates/reporting/icons.html)."""

    word: str
    tone: str
    icon: str


SAFE = Sign("Safe", "good", "check")
UNCHECKED = Sign("Not checked", "calm", "dot")  # nothing steps the Nova now, so nobody judges it
WATCHED = Sign("Incident open", "warn", "alert")

LEVELS: Mapping[str, Sign] = {
    "normal": SAFE,
    "elevated": Sign("Elevated", "warn", "alert"),
    "cooldown": Sign("Cooldown", "warn", "clock"),
    "meditation": Sign("Meditation", "warn", "idle"),
    "quarantine": Sign("Quarantine", "bad", "shield"),
    "emergency_stop": Sign("Emergency stop", "bad", "stop"),
}
GRAVEST = ("emergency_stop", "quarantine")  # those that want a person, before all others

INCIDENTS: Mapping[str, Sign] = {
    "open": Sign("Open", "bad", "alert"),
    "acknowledged": Sign("Acknowledged", "warn", "person"),
    "mitigated": Sign("Mitigated", "info", "shield"),
    "resolved": Sign("Resolved", "good", "check"),
    "false_positive": Sign("False positive", "calm", "silent"),
}
LASTING = ("open", "acknowledged", "mitigated")

BREAKERS: Mapping[str, Sign] = {
    "open": Sign("Open", "bad", "stop"),
    "half_open": Sign("Half open", "warn", "clock"),
    "closed": Sign("Closed", "good", "check"),
}

# mechanism -> what pages call it, and what it looks at; the five judges first, in their order
MECHANISMS: Mapping[str, tuple[str, str]] = {
    "frosty": ("Frosty", "bursts of tool use, failures, completion drift"),
    "really_chill_willy": ("Chill Willy", "stress of machine and Nova"),
    "hook_health": ("Hooks", "hooks silent, failing or storming; loops"),
    "api_guardian": ("API guardian", "calls to model providers"),
    "stream_monitor": ("Streams", "the stream server, for all Novas"),
}
_OTHERS = {"stream_gap": "Stream gap", "configuration": "Configuration"}

_ACTIONS: Mapping[str, str] = {
    "activate_cooldown": "cools the Nova down",
    "activate_meditation": "sends the Nova into meditation",
    "activate_quarantine": "puts the Nova into quarantine",
    "activate_emergency_stop": "stops the Nova at once",
    "activate_recovery": "lets the Nova wait until its hooks are heard again",
    "check_readings": "lets nothing run until the readings are back",
    "wait_for_window": "lets the Nova wait until the window has room again",
    "wait_for_breaker": "lets the Nova wait until the breaker lets calls pass",
    "wait_for_stream": "lets the fleet wait for the stream server",
    "watch": "watches it",
}

# journal action -> what it says in a story
_DONE: Mapping[str, str] = {
    "safety.incident.opened": "Incident opened",
    "safety.incident.joined": "Another violation joined it",
    "safety.incident.ended": "Its cause was over",
    "safety.incident.acknowledged": "Acknowledged",
    "safety.incident.mitigated": "Mitigated",
    "safety.incident.resolved": "Resolved",
    "safety.incident.false_positive": "Marked as a false positive",
    "safety.incident.noted": "Note",
    "safety.nova.unsafe": "Nova stopped: it may not act",
    "safety.nova.safe": "Nova let go: it may act again",
    "safety.fleet.unsafe": "Fleet stopped: no Nova may act",
    "safety.fleet.safe": "Fleet let go",
    "safety.violation.reported": "Violation reported",
    "safety.verdict.lifted": "What safety imposed was ended early",
    "safety.stream.lost": "Stream server lost",
    "safety.stream.returned": "Stream server back",
    "workflow.halt.ordered": "Ordered to stop",
    "workflow.halt.confirmed": "Stop confirmed",
    "workflow.halt.unreachable": "Did not confirm the stop",
    "workflow.halt.lifted": "Order lifted",
}


def mechanism_title(name: str) -> str:
    """Say what pages call a mechanism."""
    return MECHANISMS[name][0] if name in MECHANISMS else _OTHERS.get(name, plain(name).capitalize())


def action_in_words(name: str) -> str:
    """Say what a recommended action does; empty for none."""
    return _ACTIONS.get(name, plain(name))


def done_in_words(action: str) -> str:
    """Say what a journal entry of a story tells."""
    return _DONE.get(action, plain(action.partition(".")[2].replace(".", " ")).capitalize())


def posture(unsafe: int, total: int, lasting: int, unseen: int) -> str:
    """Say in one sentence how safe a fleet is: `lasting` incidents, of which nobody has looked at `unseen`."""
    if not total and not lasting:
        return "There are no Novas to guard yet."
    stopped = f"{unsafe} of {total} Novas {'is' if unsafe == 1 else 'are'} stopped by safety"
    first = stopped if unsafe else "No Nova is stopped by safety"
    if not lasting:
        return f"{first}; no incident is open."
    told = f"{lasting} incident{'' if lasting == 1 else 's'} last{'s' if lasting == 1 else ''}"
    seen = f"{unseen} not yet acknowledged" if unseen else "acknowledged" if lasting == 1 else "all acknowledged"
    return f"{first}; {told}, {seen}."
