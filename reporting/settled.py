"""How far the journal is settled: up to which id no entry can appear any more.

On SQLite one writes at a time and ids appear in order. On PostgreSQL a transaction may commit after another that took higher
ids: a gap is passed when its entry is there, or when every transaction has ended that could fill it (`pg_snapshot_xmin`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.db import connection
from django.db.models import Max

from safety.models import AuditEntry

_LOOKS = 3  # within one turn: most transactions end within milliseconds
_PAUSE = 0.02  # seconds between them


@dataclass(slots=True)
class _Barrier:
    """Entries up to `highest` were written by transactions numbered below `ceiling`; None: to be asked a moment later."""

    highest: int
    ceiling: int | None = None


class Settled:
    """Remembers what is in doubt between two turns of one process. `pause`: waits so many seconds; `looks`: how often."""

    def __init__(self, pause: Callable[[float], object], looks: int = _LOOKS) -> None:
        self._pause, self._looks = pause, looks
        self._barrier: _Barrier | None = None
        self._proven = 0

    def upto(self, position: int, most: int) -> int:
        """Give the id up to which everything behind `position` is settled, at most so many ids further."""
        newest = AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0
        top = min(newest, position + most)
        if top <= position:
            return position
        if connection.vendor != "postgresql" or top <= self._proven:
            return top
        there = self._ids(position, top)
        if len(there) == top - position:
            return top
        for look in range(self._looks):
            if look:
                self._pause(_PAUSE)
            if self._prove(newest) >= top:
                return top
        settled = max(position, self._proven)
        for entry_id in self._ids(settled, top):
            if entry_id != settled + 1:
                break
            settled = entry_id
        return settled

    @staticmethod
    def _ids(after: int, until: int) -> list[int]:
        return list(AuditEntry.objects.filter(id__gt=after, id__lte=until).order_by("id").values_list("id", flat=True))

    def _prove(self, newest: int) -> int:
        """Look at the running transactions once, and give the id up to which none of them holds any."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text FROM pg_current_snapshot() s")
            oldest, ceiling = map(int, cursor.fetchone())
        barrier = self._barrier
        if barrier is None:
            self._barrier = _Barrier(newest)
        elif barrier.ceiling is None:  # a look later: a transaction takes an id a moment before it has a number itself
            barrier.ceiling = ceiling
        if barrier is not None and barrier.ceiling is not None and barrier.ceiling <= oldest:
            self._proven, self._barrier = barrier.highest, None
        return self._proven
