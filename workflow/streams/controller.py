"""StreamController: what stands on a Nova's nine streams now, for people and programs that look (spec section 2).

Reading for work is intake's, publishing the relay's: this file only shows.
"""

from safety.stream_client import StreamClient
from workflow.core.protocol import stream_name

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


def _readable(entry_id: bytes, fields: list[bytes]) -> dict[str, str]:
    texts = [value.decode(errors="replace") for value in fields]
    return {"entry_id": entry_id.decode(), **dict(zip(texts[::2], texts[1::2], strict=True))}
