"""What a supervisor concludes from what it saw: which slots to seed or revive, whether the cluster must be restarted.

Pure: it compares one look with the last ones by the supervisor's monotonic clock, so no clock of another process is believed.
It must not know Django, django-q2 or processes.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

START_GRACE = 8.0  # seconds a new cluster has before its silence counts
SEED_INTERVAL = 1.0  # seconds between two seeds of one slot
PROBE_INTERVAL = 3.0
LATE_LOOK = 2.0  # the most silence that one look can prove: before that we were stopped, or the database was
FREE_RESTARTS = 3
CALM_SECONDS = 120.0  # after so long without a restart, patience is back to its start


@dataclass(frozen=True, slots=True)
class Sight:
    """One look: each slot's beat (anything that changes with it), the slots held, and the groups of the queue's rows."""

    beats: Mapping[str, Hashable]
    held: frozenset[str]
    queued: frozenset[str]
    probe_waits: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `restart` says why, or is empty."""

    seed: tuple[str, ...] = ()  # nothing runs and nothing is queued: queue a slice
    revive: tuple[str, ...] = ()  # silent: free its lease and have its slice delivered again
    probe: bool = False
    restart: str = ""


@dataclass(slots=True)
class Watch:
    """The supervisor's memory of one cluster."""

    slots: Sequence[str]
    silent: float  # seconds without a beat after which a slot is revived
    probe_limit: float  # seconds after which an unanswered probe means a dead worker, pusher or monitor
    _beats: dict[str, Hashable] = field(default_factory=dict)
    _alive_at: dict[str, float] = field(default_factory=dict)
    _revived: dict[str, int] = field(default_factory=dict)
    _seeded_at: dict[str, float] = field(default_factory=dict)
    _probe_at: float = 0.0  # when the probe under way was queued, or the next one is due
    _last_look: float = 0.0
    _restarts: int = 0
    _restarted_at: float = 0.0

    def cluster_started(self, at: float) -> None:
        """Forget what was seen of the cluster before this one."""
        for slot in self.slots:
            self._alive_at[slot] = at + START_GRACE
            self._revived[slot] = 0
        self._probe_at = at + START_GRACE
        self._last_look = at

    def look(self, at: float, sight: Sight) -> Plan:
        """Compare with what was seen before and say what to do."""
        self._forgive(at)
        for slot in self.slots:
            beat = sight.beats.get(slot)
            if slot in sight.held and beat != self._beats.get(slot):
                self._alive_at[slot] = max(at, self._alive_at[slot])
                self._revived[slot] = 0
            self._beats[slot] = beat
        if reason := self._wedged(at, sight):
            self._restarts, self._restarted_at = self._restarts + 1, at
            return Plan(restart=reason)
        return Plan(seed=self._to_seed(at, sight), revive=self._to_revive(at), probe=self._probe_due(at, sight))

    def _forgive(self, at: float) -> None:
        unseen = at - self._last_look - LATE_LOOK
        if unseen > 0:
            for slot in self.slots:
                self._alive_at[slot] += unseen
            self._probe_at += unseen
        self._last_look = at
        if self._restarts and at - self._restarted_at > CALM_SECONDS:
            self._restarts = 0

    @property
    def _patience(self) -> float:
        """Restarts that do not help become rarer: they may be what keeps an overloaded machine from working."""
        return float(2 ** min(max(self._restarts - FREE_RESTARTS, 0), 3))

    def _wedged(self, at: float, sight: Sight) -> str:
        silences = {slot: at - self._alive_at[slot] for slot in self.slots}
        if min(silences.values()) >= 2 * self.silent * self._patience:
            return f"all its slots are silent for {min(silences.values()):.0f} s"
        longest = max(silences, key=lambda slot: silences[slot])
        if silences[longest] >= 3 * self.silent * self._patience:
            return f"{longest} is silent for {silences[longest]:.0f} s although its slice was delivered again"
        if sight.probe_waits and at - self._probe_at >= self.probe_limit * self._patience:
            return f"a probe is not acknowledged after {at - self._probe_at:.0f} s"
        return ""

    def _to_seed(self, at: float, sight: Sight) -> tuple[str, ...]:
        free = [slot for slot in self.slots if slot not in sight.held and slot not in sight.queued]
        due = tuple(slot for slot in free if at - self._seeded_at.get(slot, -SEED_INTERVAL) >= SEED_INTERVAL)
        self._seeded_at.update(dict.fromkeys(due, at))
        return due

    def _to_revive(self, at: float) -> tuple[str, ...]:
        due = tuple(s for s in self.slots if at - self._alive_at[s] >= self.silent * (self._revived[s] + 1))
        for slot in due:
            self._revived[slot] += 1
        return due

    def _probe_due(self, at: float, sight: Sight) -> bool:
        if sight.probe_waits or at < self._probe_at + PROBE_INTERVAL:
            return False
        self._probe_at = at
        return True
