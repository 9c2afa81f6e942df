"""Reflection: which cycles look back, what recent insights add up to, and what a Nova tells itself in its personal phase.

A private text is made from the Nova's own facts and goes nowhere but into its flagged entry (design section 6).
"""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from zlib import crc32

from workflow.core.completion import span
from workflow.core.personality import phrase
from workflow.core.state import WorkflowPhase, WorkflowStateData

_SHARES = 10_000
_KEPT_TITLES = 5
_TITLES = "phase_titles"  # keys in the state's context
_FAILURES = "phase_failures"
_WORD = re.compile(r"[a-z][a-z_-]{4,}")
_COMMON = frozenset(
    (
        "about", "after", "again", "attempt", "attempts", "before", "estimate", "estimated", "failed", "first", "found",
        "helped", "needed", "nobody", "nothing", "success", "successes", "succeeded", "their", "there", "these", "those",
        "times", "waited", "where", "which", "would",
    )
)  # fmt: skip


def is_reflecting_cycle(nova_id: str, cycle: int, frequency: float) -> bool:
    """Say whether this cycle of a Nova looks back: a share of all cycles, spread evenly but without a beat."""
    return crc32(f"{nova_id}:{cycle}".encode()) % _SHARES < frequency * _SHARES


def newest_digest(insights: Sequence[str]) -> str:
    """Give what tells whether anything was learned since the last review."""
    return f"{crc32(insights[0].encode(errors='replace')):08x}"


def recurring(insights: Sequence[str]) -> list[tuple[str, int]]:
    """Give the words that several insights share, with the number of insights, most shared first; at most three."""
    counts = Counter(word for insight in insights for word in set(_WORD.findall(insight.lower())) - _COMMON)
    shared = [(word, count) for word, count in counts.items() if count > 1]
    return sorted(shared, key=lambda entry: (-entry[1], entry[0]))[:3]


def gist(insights: Sequence[str]) -> str:
    """Say what insights (newest first) add up to: what recurs, and the newest of them."""
    shared = ", ".join(f"{word} in {count}" for word, count in recurring(insights))
    newest = insights[0][:200]
    return f"{shared} of them; the newest: {newest}" if shared else f"nothing recurs; the newest: {newest}"


def remember_completed(state: WorkflowStateData, title: str) -> None:
    """Keep the title of a completed task for the private reflection at the end of the phase."""
    titles = state.context.get(_TITLES, "").split("\n")[-_KEPT_TITLES + 1 :]
    state.context = {**state.context, _TITLES: "\n".join(filter(None, (*titles, " ".join(title.split())[:80])))}


def remember_failure(state: WorkflowStateData) -> None:
    """Count something that went wrong in this phase."""
    state.context = {**state.context, _FAILURES: str(int(state.context.get(_FAILURES, "0")) + 1)}


def forget_phase(state: WorkflowStateData) -> None:
    """Begin a phase without memories of the last one."""
    if _TITLES in state.context or _FAILURES in state.context:
        state.context = {key: value for key, value in state.context.items() if key not in (_TITLES, _FAILURES)}


def private_text(state: WorkflowStateData, insights: Sequence[str], pattern: str, now: datetime) -> str:
    """Write what a Nova tells itself about the work phase that ends: what it completed, how it went, what keeps coming back."""
    titles = state.context.get(_TITLES, "").split("\n") if state.context.get(_TITLES) else []
    number = state.tasks_completed_in_phase
    done = f"{number} task{'' if number == 1 else 's'} in {span(now - state.phase_started_at)}"
    if titles:
        done += f" ({'among them ' if len(titles) < number else ''}{'; '.join(titles)})"
    failures = int(state.context.get(_FAILURES, "0"))
    errors = f"Something went wrong {failures} time{'' if failures == 1 else 's'}." if failures else "Nothing went wrong."
    shared = ", ".join(f"{word} ({count} times)" for word, count in recurring(insights))
    keeps = f"What keeps coming back: {shared}." if shared else "No lesson has come back yet."
    if state.last_error and failures:
        keeps += f" The last error was: {state.last_error[:200]}"
    which = "first" if state.current_phase == WorkflowPhase.WORK_PHASE_1 else "second"
    return f"{phrase(pattern, 'private', done=done, errors=errors, recurring=keeps)} It was a {which} work phase."
