"""The host's ear: a thread that waits on the wake stream and passes every knock on.

A knock only shortens a wait: without the stream server the host looks at the database by itself. This file knows no execution.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType

from django.conf import settings

from safety.stream_client import StreamClient, StreamError
from workflow.waking import WAKE_STREAMS

_STREAM = WAKE_STREAMS["work"]
_RETRY_SECONDS = 1.0


class WakeWatch:
    """Calls `knocked` for every knock at the work processes, from its own thread, until `until` (monotonic) at most."""

    def __init__(self, knocked: Callable[[], object], until: float) -> None:
        self._knocked = knocked
        self._until = until
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wake-watch", daemon=True)

    def __enter__(self) -> "WakeWatch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(settings.STREAM_BLOCK_LIMIT + settings.STREAM_SOCKET_TIMEOUT)

    def _left(self) -> float:
        return 0.0 if self._over.is_set() else self._until - time.monotonic()

    def _watch(self) -> None:
        client = StreamClient(name="novawf-work")
        cursor = ""
        while self._left() > 0:
            try:
                cursor = cursor or _latest(client)
                # the stream's newest id, not "$": what is written between two reads must be seen
                for _, entries in client.read({_STREAM: cursor}, count=100, block=max(0.0, min(1.0, self._left()))):
                    cursor = entries[-1][0].decode()
                    if self._left() > 0:
                        self._knocked()
            except StreamError:
                self._over.wait(min(_RETRY_SECONDS, max(0.0, self._left())))
        client.close()


def _latest(client: StreamClient) -> str:
    newest = client.call("XREVRANGE", _STREAM, "+", "-", "COUNT", 1)
    return newest[0][0].decode() if newest else "0-0"
