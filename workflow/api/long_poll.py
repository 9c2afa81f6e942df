"""The long poll of claims, in front of Django: who waits for work costs a coroutine, no thread and no database connection.

A claim that found nothing says in a header for whom it may be put off, and how long. One look at the database five times a
second tells for all who wait whose agents are to ask again. What may be claimed is not known here.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from django.db import DatabaseError, close_old_connections, connections
from django.utils import timezone

from workflow import agent_work
from workflow.api.agent_tasks import WAITS
from workflow.api.strict_json import BODY_LIMIT
from workflow.api.views import AGAIN

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

_LOOK_EVERY = 0.2  # seconds
_PATH = re.compile(r"/api/v1/tasks/claim/?")
_HEADER = WAITS.lower().encode()
_log = structlog.get_logger(__name__)


class LongPoll:
    """Passes everything on to Django; a claim that may wait is asked again when there may be something for it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._waiting: dict[asyncio.Future[None], str] = {}  # in the order they came; each with its Nova
        self._looker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long-poll")

    def close(self) -> None:
        """Let go of the thread that looks, and of its connection."""
        self._thread.submit(connections.close_all)
        self._thread.shutdown()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not _PATH.fullmatch(scope["path"]) or not _is_short(scope):
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await self._poll(scope, body, gone, send)
        finally:
            gone.cancel()

    async def _poll(self, scope: Any, body: bytes, gone: asyncio.Future[None], send: Send) -> None:
        """Ask until there is an answer, the time is over, or nobody listens any more."""
        loop = asyncio.get_running_loop()
        begun, again = loop.time(), False
        while True:
            reply, waits = await self._ask({**scope, AGAIN: again}, body)
            again = True
            nova_id, _, seconds = waits.partition(";")
            left = begun + float(seconds or 0) - loop.time()
            if not nova_id or left <= 0:
                for message in reply:
                    await send(message)
                return
            await self._wait(nova_id, left, gone)
            if gone.done():
                return

    async def _ask(self, scope: Any, body: bytes) -> tuple[list[Message], str]:
        """Put the request to Django once; give its answer, and for whom and how long it may be put off."""
        reply: list[Message] = []
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if pending:
                return pending.pop()
            await asyncio.Event().wait()  # Django stops listening when it has answered
            raise AssertionError

        async def keep(message: Message) -> None:
            reply.append(message)

        await self._app(scope, receive, keep)
        headers = reply[0].get("headers", []) if reply else []
        waits = next((value.decode() for name, value in headers if name.lower() == _HEADER), "")
        if waits:
            reply[0]["headers"] = [(name, value) for name, value in headers if name.lower() != _HEADER]
        return reply, waits

    async def _wait(self, nova_id: str, seconds: float, gone: asyncio.Future[None]) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[called] = nova_id
        if self._looker is None or self._looker.done():
            self._looker = asyncio.create_task(self._look())
        try:
            await asyncio.wait({called, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.pop(called, None)

    async def _look(self) -> None:
        """Call those for whom there may be work, as long as anybody waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            for nova_id in await loop.run_in_executor(self._thread, _whom, list(dict.fromkeys(self._waiting.values()))):
                called = next((future for future, waiting in self._waiting.items() if waiting == nova_id), None)
                if called is not None and not called.done():
                    called.set_result(None)
                    self._waiting.pop(called)
            await asyncio.sleep(_LOOK_EVERY)
        await loop.run_in_executor(self._thread, connections.close_all)


def _whom(nova_ids: list[str]) -> list[str]:
    close_old_connections()
    try:
        return agent_work.whom_work_waits_for(nova_ids, now=timezone.now())  # noqa: TID251 - a door
    except DatabaseError as error:  # whoever waits asks again when its time is over
        _log.warning("nobody was called for work", reason=str(error))
        return []


def _is_short(scope: Any) -> bool:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return bool(length.isdigit() and int(length) <= BODY_LIMIT)


async def _read(receive: Receive) -> bytes | None:
    """Read the body; None if the caller went away."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
