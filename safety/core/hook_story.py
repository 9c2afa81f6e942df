"""Tells what an agent did, from its hook calls: how its sessions began, what it called how often, what it was answered.

Pure: calls in, plain values out, as an incident keeps them. Times are in seconds.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from safety.core.hooks import Event

_MINUTE = timedelta(minutes=1)
_NEAR = timedelta(seconds=30)  # a session that begins so soon after another's stop is told as begun by it
_SHOWN = 20  # sessions


@dataclass(frozen=True, slots=True)
class Told:
    """One hook call as it was kept."""

    at: datetime
    event: str
    session_id: str
    tool_name: str
    digest: str
    source: str
    refused: bool


def tell_story(calls: Sequence[Told], now: datetime) -> dict[str, Any]:
    """Tell the story of the given calls, which are in the order they came."""
    starts = _starts(calls)
    recent = [call for call in calls if call.event == Event.PRE_TOOL_USE and now - call.at < _MINUTE]
    by_call = Counter((call.tool_name, call.digest) for call in recent)
    (tool, digest), times = by_call.most_common(1)[0] if by_call else (("", ""), 0)
    refused = [call for call in calls if call.refused]
    story: dict[str, Any] = {
        "sessions": starts[-_SHOWN:],
        "session_starts": len(starts),
        "begun_after_a_stop": sum(1 for start in starts if "after_stop_of" in start),
        "tool_calls_last_minute": len(recent),
        "top_repeated_call": {"tool": tool, "digest": digest, "times": times} if times else None,
        "answered": {"let through": len(calls) - len(refused), "refused": len(refused)},
        "first_refused_at": refused[0].at.isoformat() if refused else None,
        "told_at": now.isoformat(),
    }
    return {"summary": _summary(story, calls), **story}


def _starts(calls: Sequence[Told]) -> list[dict[str, Any]]:
    """Give each session start: since the last one, and after whose stop."""
    starts: list[dict[str, Any]] = []
    last_start: datetime | None = None
    last_stop: Told | None = None
    for call in calls:
        if call.event in (Event.STOP, Event.SESSION_END):
            last_stop = call
        if call.event != Event.SESSION_START or call.source == "compact":
            continue
        start: dict[str, Any] = {"session": call.session_id, "source": call.source, "at": call.at.isoformat()}
        if last_start is not None:
            start["seconds_after_last_start"] = _seconds(call.at - last_start)
        if last_stop is not None and last_stop.session_id != call.session_id and call.at - last_stop.at <= _NEAR:
            start["after_stop_of"] = last_stop.session_id
            start["seconds_after_stop"] = _seconds(call.at - last_stop.at)
        starts.append(start)
        last_start = call.at
    return starts


def _seconds(length: timedelta) -> float:
    return round(length.total_seconds(), 1)


def _summary(story: dict[str, Any], calls: Sequence[Told]) -> str:
    """Put the story into one line for people."""
    parts = []
    starts = [call.at for call in calls if call.event == Event.SESSION_START and call.source != "compact"]
    if starts:
        text = f"{len(starts)} sessions began within {_seconds(starts[-1] - starts[0]):g} s"
        if after := story["begun_after_a_stop"]:
            text += f", {after} of them right after another one's stop"
        parts.append(text)
    parts.append(f"{story['tool_calls_last_minute']} tool calls in the last minute")
    if top := story["top_repeated_call"]:
        parts.append(f"the same {top['tool']} call {top['times']} times")
    parts.append(f"{story['answered']['refused']} calls were refused")
    return "; ".join(parts) + "."
