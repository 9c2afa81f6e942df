"""The reader: which streams to read next and from where, for the holder of the intake lease.

The shared streams (and, in a small fleet, each Nova's own) are read in one blocking call, which is also the loop's sleep; the
rest in turn. It notices a server that lost its data and entries that vanished unread. What entries mean is intake's business.
"""

import secrets
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from safety import bulk
from safety.facts import note_stream_gap
from safety.models import Installation, OutboxEntry
from safety.stream_client import StreamClient, StreamEntries
from workflow import waking
from workflow.models import NovaState, StreamCursor
from workflow.streams import mirror
from workflow.streams.names import OUTBOUND, SHARED, Inbound, streams_of

EPOCH_KEY = "nova:epoch"
_BLOCKING_STREAMS = 256  # how many of the Novas' own streams go into the blocking call
_STREAMS_A_CALL = 1000
_STREAMS_A_SWEEP = 1000
_COUNT_OF_SWEEP = 16
_COUNT = 256  # entries of each stream in one read
_KEPT_READ = 10_000  # entries that have been read and stay on an inbound stream
_GAP_CHECKS = 200  # streams asked for gaps at a time
_REPUBLISHED = 20_000  # the newest journal entries that go out again to a server that lost them


class Reader:
    """Reads inbound streams from cursors that are rows in the ORM."""

    def __init__(self, client: StreamClient) -> None:
        self._client = client
        self.streams: dict[str, Inbound] = {}
        self._cursors: dict[str, str] = {}
        self._own: list[str] = []
        self._todo: list[str] = []
        self._swept: list[str] = []
        self._checked: list[str] = []
        self._moved: set[str] = set()
        self._read_count: dict[str, int] = {}  # how many entries a stream had ever got when its cursor stood where it stands
        self._wake_id = "$"

    def refresh(self) -> None:
        """Rebuild the list of streams from the Novas there are, and load the cursors of new ones."""
        nova_ids = NovaState.objects.exclude(mode="archived").order_by("nova_id").values_list("nova_id", flat=True)
        streams = streams_of(nova_ids)
        if streams.keys() == self.streams.keys():
            return
        self.streams = streams
        self._moved &= streams.keys()  # a Nova that was archived meanwhile is no longer read
        stored = dict(StreamCursor.objects.values_list("stream", "last_id"))
        self._cursors = {name: self._cursors.get(name) or stored.get(name, "0-0") for name in streams}
        outbound = (*OUTBOUND, "enterprise_metrics")
        self._own = [name for name, stream in streams.items() if stream.kind == "coordination"]
        self._todo = [name for name, stream in streams.items() if stream.kind == "task_todo"]
        self._swept = [name for name, stream in streams.items() if stream.kind in outbound]
        self._checked = [*(name for name, s in streams.items() if s.kind in SHARED), *self._own, *self._todo]

    # -- reading

    @property
    def own_in_blocking_call(self) -> bool:
        """Whether the Novas' own streams wake the loop by themselves."""
        return len(self._own) <= _BLOCKING_STREAMS

    def wait(self, seconds: float) -> StreamEntries:
        """Read what is new on the shared streams, waiting up to `seconds` for it, or for a knock."""
        names = [name for name, stream in self.streams.items() if stream.kind in SHARED]
        if self.own_in_blocking_call:
            names += self._own
        return self._read(names, block=seconds if seconds > 0 else None)

    def read_own(self) -> StreamEntries:
        """Read the Novas' own streams, all of them in calls of bounded size, when the blocking call does not hold them."""
        return [] if self.own_in_blocking_call else self._read_all(self._own)

    def read_todo(self) -> StreamEntries:
        """Read the `todo` streams: mostly our own messages come back; work that somebody else puts there may wait a little."""
        return self._read_all(self._todo)

    def _read_all(self, names: list[str]) -> StreamEntries:
        found: StreamEntries = []
        for start in range(0, len(names), _STREAMS_A_CALL):
            found += self._read(names[start : start + _STREAMS_A_CALL])
        return found

    def sweep(self, turn: int = 0, parts: int = 1) -> StreamEntries:
        """Read a little of the streams on which only NOVAWF should write: at each turn a part of them, of at least `parts`."""
        return self._read(_part(self._swept, turn, parts, _STREAMS_A_SWEEP), wake=False, count=_COUNT_OF_SWEEP)

    def _read(self, names: list[str], block: float | None = None, *, wake: bool = True, count: int = _COUNT) -> StreamEntries:
        cursors = {name: self._cursors[name] for name in names}
        if wake:
            cursors[waking.WAKE_STREAMS["loops"]] = self._wake_id
        reply: StreamEntries = []
        for stream, entries in self._client.read(cursors, count=count, block=block):
            name, last = stream.decode(), entries[-1][0].decode()
            if name == waking.WAKE_STREAMS["loops"]:
                self._wake_id = last
            else:
                reply.append((stream, entries))
        return reply

    def listen(self) -> None:
        """Begin to hear knocks: those from now on."""
        newest = self._client.call("XREVRANGE", waking.WAKE_STREAMS["loops"], "+", "-", "COUNT", 1)
        self._wake_id = newest[0][0].decode() if newest else "0-0"

    def wait_for_knock(self, seconds: float) -> bool:
        """Sleep up to `seconds`, or until somebody knocks, and tell which: what a process without the intake lease does."""
        before = self._wake_id
        self._read([], block=max(seconds, 0.001))
        return self._wake_id != before

    def taken(self, reply: StreamEntries) -> None:
        """Move on: what `reply` holds has been taken in."""
        for stream, entries in reply:
            name = stream.decode()
            self._cursors[name] = entries[-1][0].decode()
            self._moved.add(name)
            if name in self._read_count:
                self._read_count[name] += len(entries)

    def keep_cursors(self, *, now: datetime) -> None:
        """Write how far streams were read on which there was nothing but our own entries, so that nobody reads those again."""
        rows = [(name, self._cursors[name], now) for name in sorted(self._moved)]
        self._moved.clear()
        bulk.insert(
            StreamCursor,
            ("stream", "last_id", "updated_at"),
            rows,
            on_conflict="(stream) DO UPDATE SET last_id = excluded.last_id, updated_at = excluded.updated_at",
        )

    # -- trouble

    def check_epoch(self, *, now: datetime) -> bool:
        """Notice a server that is not the one we knew, and rebuild the wire on it; True if it was rebuilt."""
        installation = Installation.objects.get()
        known = self._client.call("GET", EPOCH_KEY)
        if known is not None and known.decode() == installation.epoch:
            return False
        if known is None and not StreamCursor.objects.exists():
            self._client.call("SET", EPOCH_KEY, installation.epoch)  # nothing was ever read: this is the first start
            return False
        epoch = secrets.token_hex(8)
        with transaction.atomic():
            Installation.objects.filter(pk=installation.pk).update(epoch=epoch)
            StreamCursor.objects.update(last_id="0-0", updated_at=now)
            self._republish(now)
        self._cursors = dict.fromkeys(self.streams, "0-0")
        self._read_count.clear()
        self._wake_id = "0-0"
        publish_hashes(self._client, now=now)
        self._client.call("SET", EPOCH_KEY, epoch)
        return True

    @staticmethod
    def _republish(now: datetime) -> None:
        """Point the outbox at the newest entries again; readers know them by their event ids."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM safety_auditentry WHERE stream <> '' AND id > "
                "(SELECT coalesce(max(id), 0) FROM safety_auditentry) - %s ORDER BY id",
                [_REPUBLISHED],
            )
            ids = [row[0] for row in cursor.fetchall()]
        rows = [(now, bulk.json_text(ids[start : start + 500])) for start in range(0, len(ids), 500)]
        bulk.insert(OutboxEntry, ("created_at", "entry_ids"), rows)

    def check_gaps(self, *, now: datetime, turn: int = 0, parts: int = 1) -> None:
        """Notice entries that vanished before they were read, and streams that went back in time: at each turn on a part."""
        names = _part(self._checked, turn, parts, _GAP_CHECKS)
        trims = []  # of what was read: writers may forget to trim, and the server's memory is finite
        replies = self._client.execute([["XINFO", "STREAM", name] for name in names], tolerant=True)
        for name, reply in zip(names, replies, strict=True):
            if isinstance(reply, Exception):
                continue  # nobody has written to it yet
            facts = dict(zip(reply[::2], reply[1::2], strict=False))
            if problem := self._gap(name, facts):
                note_stream_gap(name, problem, now)
            if facts.get(b"length", 0) > _KEPT_READ:
                trims.append(["XTRIM", name, "MINID", "~", self._cursors[name]])
        self._client.execute(trims)

    def _gap(self, name: str, facts: dict[bytes, Any]) -> str:
        """Say what vanished from a stream before it was read, once; empty: nothing.

        The server counts what was ever added, and we what we read; nothing else tells of entries that were cut off.
        """
        cursor, last, length = self._cursors[name], facts[b"last-generated-id"].decode(), facts[b"length"]
        if _order(last) < _order(cursor):
            self._move(name, "0-0")
            return f"The stream went back to {last}; read was up to {cursor}."
        first, added = facts.get(b"recorded-first-entry-id", b"0-0").decode(), facts.get(b"entries-added")
        if added is None or (last != cursor and length and _order(first) <= _order(cursor)):
            return ""  # what follows the cursor is all there, and will be counted when it has been read
        read, known = added - (length if last != cursor else 0), self._read_count.get(name)
        self._read_count[name] = read
        if last != cursor and not length:
            self._move(name, last)
        if known is None:
            between = f"between {cursor} and {first if length else last}"
            return f"Entries {between} may have vanished while nobody read." if last != cursor != "0-0" else ""
        if read < known:
            return f"The stream was begun anew; what came after {cursor} on the old one was not read."
        return f"{read - known} entries after {cursor} vanished before they were read." if read > known else ""

    def _move(self, name: str, cursor: str) -> None:
        self._cursors[name] = cursor
        self._moved.add(name)
        self._read_count.pop(name, None)


def publish_hashes(client: StreamClient, *, now: datetime) -> None:
    """Write the state hash of every Nova that is not archived."""
    nova_ids = mirror.every_nova()
    for start in range(0, len(nova_ids), 500):
        client.execute(mirror.state_commands(nova_ids[start : start + 500], now=now))


def _part(names: list[str], turn: int, parts: int, most: int) -> list[str]:
    """Give the names whose turn it is: one part of at least `parts`, none larger than `most`."""
    parts = max(parts, -(-len(names) // most))
    size = -(-len(names) // parts)
    start = turn % parts * size
    return names[start : start + size]


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
