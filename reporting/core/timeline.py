"""A Nova's course from its journal entries: which state it was in, from when to when. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

# Journal actions after which a Nova stands still, and how that is called.
STOPS = {
    "workflow.nova.paused": "paused",
    "workflow.nova.drained": "paused",
    "workflow.nova.halted": "halted",
    "workflow.nova.killed": "killed",
    "workflow.nova.quarantined": "quarantined",
    "workflow.nova.archived": "archived",
}
STARTS = frozenset({"workflow.nova.resumed", "workflow.nova.unarchived"})
MOVED = "workflow.nova.moved"
UNKNOWN = "unknown"  # before the first entry


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time in one state."""

    since: datetime
    until: datetime
    state: str


@dataclass(frozen=True, slots=True)
class Moment:
    """What the journal says of one instant: the action, and the states that a step went through."""

    at: datetime
    action: str
    path: tuple[str, ...] = ()


def course(moments: Iterable[Moment], since: datetime, until: datetime) -> list[Stretch]:
    """Give the stretches between two instants, without gaps; `moments` in order, with what led up to the first of them."""
    state, stopped = UNKNOWN, ""
    turns = [(since, UNKNOWN)]
    for moment in moments:
        if moment.action == MOVED and moment.path:
            state = moment.path[-1]
        elif moment.action in STOPS:
            stopped = STOPS[moment.action]
        elif moment.action in STARTS:
            stopped = ""
        turns.append((min(max(moment.at, since), until), stopped or state))
    found: list[Stretch] = []
    for (at, shown), end in zip(turns, [*(when for when, _ in turns[1:]), until], strict=True):
        if end > at and found and found[-1].state == shown:
            found[-1] = Stretch(found[-1].since, end, shown)
        elif end > at:
            found.append(Stretch(at, end, shown))
    return found
