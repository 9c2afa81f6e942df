"""How many requests our own doors let through: counted in windows, by key or by address, for all processes together.

One round trip to the stream server a request. While that server is away each process counts for itself, so that doors neither
shut (REST goes on accepting, design section 3) nor stand open to guessing. Who is counted, and why, is not known here.
"""

import ipaddress
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from safety.stream_client import StreamClient, StreamError

PREFIX = "novawf:requests"
_TIMEOUT = 0.25  # seconds a request waits for the counters
_AWAY = timedelta(seconds=5)  # how long a silent server is left alone
_REMEMBERED = 10_000  # counts a process keeps while the server is away


@dataclass(frozen=True, slots=True)
class Window:
    """So many requests in so many seconds. `most` 0: no limit."""

    name: str
    most: int
    seconds: int = 60


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a window is used up."""

    window: Window
    count: int
    resets_in: int  # seconds until it begins anew

    @property
    def exceeded(self) -> bool:
        return bool(self.window.most) and self.count > self.window.most

    @property
    def left(self) -> int:
        return max(0, self.window.most - self.count)


class RequestCounters:
    """Fixed windows, by the clock: twice the limit may pass around the turn of one. May be used by several threads."""

    def __init__(self) -> None:
        self._clients: deque[StreamClient] = deque()
        self._lock = threading.Lock()
        self._own: dict[str, tuple[int, int]] = {}  # key -> number of the window, count
        self._away_until: datetime | None = None

    def count(self, window: Window, owner: str, *, now: datetime, by: int = 1) -> Standing:
        """Count `by` requests of `owner` (0: only look), and say where it stands now."""
        number, spent = divmod(int(now.timestamp()), window.seconds)
        resets_in = window.seconds - spent
        counted = self._shared(f"{PREFIX}:{window.name}:{owner}:{number}", by, 2 * window.seconds, now)
        if counted is None:
            counted = self._counted_here(f"{window.name}:{owner}", number, by)
        return Standing(window, counted, resets_in)

    def forget(self) -> None:
        """Connect anew, and begin to count anew here: the server's address has changed."""
        with self._lock:
            self._own.clear()
            self._away_until = None
        while self._clients:
            self._clients.pop().close()

    def _shared(self, key: str, by: int, life: int, now: datetime) -> int | None:
        """Count at the stream server; None while it is away."""
        if self._away_until is not None and now < self._away_until:
            return None
        try:
            client = self._clients.pop()
        except IndexError:
            client = StreamClient(name="novawf-requests", timeout=_TIMEOUT)
        try:
            count, _ = client.execute([("INCRBY", key, by), ("EXPIRE", key, life)])
        except StreamError:
            client.close()
            self._away_until = now + _AWAY
            return None
        self._clients.append(client)
        self._away_until = None
        return int(count)

    def _counted_here(self, key: str, number: int, by: int) -> int:
        with self._lock:
            if len(self._own) >= _REMEMBERED:
                self._own = {name: seen for name, seen in self._own.items() if seen[0] == number}
                if len(self._own) >= _REMEMBERED:
                    self._own.clear()
            known, count = self._own.get(key, (number, 0))
            count = by + (count if known == number else 0)
            self._own[key] = (number, count)
            return count


counters = RequestCounters()


def owner_of_address(address: str) -> str:
    """Give what is counted as one client: an IPv4 address, or the network of an IPv6 one, since a host has all of it."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "nowhere"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)).network_address)
    return str(found)
