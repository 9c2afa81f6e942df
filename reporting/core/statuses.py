"""How a derived status looks: word, tone and icon, whether it wants a person, and its place in lists, trouble first. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """A status as people see it. `help`: what a person can do about it; empty: nothing needs to be done."""

    status: str
    word: str
    tone: str  # bad, warn, good, info or calm: a class of the stylesheet
    icon: str  # a symbol of templates/reporting/icons.html
    help: str = ""
    told: str = ""  # how it stands in a sentence, after a number: "2 in safety pause"
    rank: int = 0

    @property
    def needs_help(self) -> bool:
        return bool(self.help)


_ALL = (
    Look("silent", "Silent", "bad", "silent", "No worker has stepped it. See whether the workers run; wake it.", "silent"),
    Look("error_recovery", "Error", "bad", "alert", "Its last cycle failed. It tries again by itself.", "in error"),
    Look("quarantined", "Quarantined", "bad", "shield", "Cut off by safety. A safety officer resumes it.", "quarantined"),
    Look("safety_pause", "Safety pause", "bad", "shield", "Stopped by a safety mechanism, until it ends.", "in safety pause"),
    Look("killed", "Killed", "bad", "stop", "Stopped by order, its keys suspended. A safety officer resumes it.", "killed"),
    Look("halted", "Halted", "bad", "stop", "Stopped by order. A safety officer resumes it.", "halted"),
    Look("draining", "Draining", "warn", "drain"),
    Look("paused", "Paused", "warn", "pause"),
    Look("new", "New", "calm", "dot"),
    Look("working", "Working", "good", "play"),
    Look("completing", "Completing", "good", "check"),
    Look("idle", "Idle", "info", "idle"),
    Look("archived", "Archived", "calm", "box"),
)
LOOKS: Mapping[str, Look] = {
    look.status: Look(look.status, look.word, look.tone, look.icon, look.help, look.told, rank)
    for rank, look in enumerate(_ALL)
}
HELPLESS = tuple(look.status for look in LOOKS.values() if look.needs_help)


def verdict(counts: Mapping[str, int]) -> str:
    """Say in one sentence how a fleet of so many Novas a status does: who needs help stands first."""
    total = sum(number for status, number in counts.items() if status != "archived")
    if not total:
        return "There are no Novas yet."
    troubled = [(LOOKS[s].told, counts[s]) for s in LOOKS if LOOKS[s].needs_help and counts.get(s)]
    busy = sum(counts.get(status, 0) for status in ("working", "completing", "idle", "new"))
    rest = [f"{number} {LOOKS[s].word.lower()}" for s in ("draining", "paused") if (number := counts.get(s, 0))]
    needing = sum(number for _, number in troubled)
    if needing:
        what = ", ".join(f"{number} {word}" for word, number in troubled)
        first = f"{_novas(needing)} of {total} {'needs' if needing == 1 else 'need'} help: {what}."
    else:
        first = f"No Nova needs help: {busy} of {total} up and running."
        return " ".join([first, *([f"{', '.join(rest).capitalize()}."] if rest else [])])
    return " ".join([first, f"{busy} up and running{''.join(f', {one}' for one in rest)}."])


def _novas(number: int) -> str:
    return f"{number} Nova{'' if number == 1 else 's'}"
