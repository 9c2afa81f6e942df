"""StreamController: what stands on a Nova's nine streams now, for people and programs that look (spec section 2).

Reading for work is intake's, publishing the relay's: this file only shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from safety.stream_client import StreamClient
from workflow.core.protocol import STREAM_PATTERNS, stream_name

KINDS = (
    "coordination",
    "work_queue",
    "priority_alerts",
    "task_todo",
    "task_progress",
    "task_completed",
    "status_updates",
    "safety_alerts",
    "enterprise_metrics",
)


@dataclass(frozen=True, slots=True)
class StreamStanding:
    """One stream now. `oldest_unread` is the id of the first entry behind the cursor; empty: all is read, or nobody reads."""

    kind: str
    name: str
    length: int
    last_id: str  # empty: it does not exist
    oldest_unread: str = ""


class StreamController:
    """The streams of one Nova, by the spec's names."""

    def __init__(self, nova_id: str, client: StreamClient) -> None:
        self.nova_id = nova_id
        self.streams = {kind: stream_name(kind, nova_id) for kind in KINDS}
        self._client = client

    def check_coordination_streams(self, count: int = 10) -> dict[str, list[dict[str, str]]]:
        """Give the newest entries of each stream that has any, newest first, by kind; bytes that are no text are shown as �.

        :raises StreamError: the server could not be asked.
        """
        replies = self._client.execute([["XREVRANGE", name, "+", "-", "COUNT", count] for name in self.streams.values()])
        return {
            kind: [_readable(entry_id, fields) for entry_id, fields in entries]
            for kind, entries in zip(self.streams, replies, strict=True)
            if entries
        }

    def standings(self, cursors: Mapping[str, str]) -> list[StreamStanding]:
        """Give length, last id and what is unread of all eleven streams, in two round trips; `cursors`: how far each was read.

        :raises StreamError: the server could not be asked.
        """
        names = {kind: stream_name(kind, self.nova_id) for kind in STREAM_PATTERNS}
        replies = self._client.execute([["XINFO", "STREAM", name] for name in names.values()], tolerant=True)
        unread = {stream.decode(): entries[0][0].decode() for stream, entries in self._client.read(cursors, count=1) if entries}
        found = []
        for (kind, name), reply in zip(names.items(), replies, strict=True):
            # an error: nobody has written to it yet
            facts = {} if isinstance(reply, Exception) else dict(zip(reply[::2], reply[1::2], strict=True))
            last = facts.get(b"last-generated-id", b"").decode()
            found.append(StreamStanding(kind, name, int(facts.get(b"length", 0)), last, unread.get(name, "")))
        return found


def _readable(entry_id: bytes, fields: list[bytes]) -> dict[str, str]:
    texts = [value.decode(errors="replace") for value in fields]
    return {"entry_id": entry_id.decode(), **dict(zip(texts[::2], texts[1::2], strict=True))}
