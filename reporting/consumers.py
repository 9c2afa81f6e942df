"""The pages' socket: tells a browser which topics changed, never what stands in them. The page asks for that itself.

Signals are {kind, id, v}. What a slow browser has not taken yet is merged, so nothing grows with what happens.
"""

import asyncio
import contextlib
from collections import Counter
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest

from reporting.broadcast import broadcast
from reporting.core.topics import RIGHTS, is_topic

BEAT_SECONDS = 20.0
NOT_LOGGED_IN, NOT_ALLOWED, TOO_MANY, TOO_LONG, COME_BACK = 4401, 4403, 4429, 1009, 1012
MOST_TOPICS = 20
MOST_SOCKETS = 2_000  # of one process
SOCKETS_OF_PERSON = 30
LONGEST_MESSAGE = 256  # characters: browsers have nothing to say but that they are there
MESSAGES_A_BEAT = 60

_NO_LAYER = "none"  # news come from the journal: a socket must open while the stream server is away

_open: Counter[Any] = Counter()


class LiveConsumer(AsyncWebsocketConsumer):
    """One browser's socket: `/live/?topic=fleet&topic=nova:torch`."""

    topics: frozenset[str] = frozenset()
    channel_layer_alias = _NO_LAYER

    async def connect(self) -> None:
        """Take whoever has a session and may hear of at least one topic."""
        self._person: Any = None
        self._telling: asyncio.Task[None] | None = None
        self._pending: dict[str, int] = {}
        self._stirred, self._heard = asyncio.Event(), 0
        self._wants_look = False
        if not _same_origin(self.scope):
            await self.close()  # refused with 403, before it is a socket
            return
        asked = parse_qs(self.scope["query_string"].decode("latin1")).get("topic", [])[:MOST_TOPICS]
        self._asked = frozenset(topic for topic in asked if is_topic(topic))
        await self.accept()
        if (refusal := await self._look()) or (refusal := self._crowded()):
            await self.close(refusal)
            return
        self._person = self._user.pk
        _open[self._person] += 1
        await broadcast.join(self)
        await self._send({"kind": "hello", "v": broadcast.position})
        self._telling = asyncio.create_task(self._tell())

    async def disconnect(self, code: int) -> None:
        """Forget it."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        await broadcast.leave(self)
        if self._person is not None:
            _open[self._person] -= 1
            if not _open[self._person]:
                del _open[self._person]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take note that the browser is there; it has nothing else to say."""
        self._heard += 1
        if len(text_data or bytes_data or "") > LONGEST_MESSAGE:
            await self.close(TOO_LONG)
        elif self._heard > MESSAGES_A_BEAT:
            await self.close(TOO_MANY)

    # -- what the broadcast calls

    def changed(self, topic: str, version: int) -> None:
        self._pending[topic] = version
        self._stirred.set()

    def look_again(self) -> None:
        self._wants_look = True
        self._stirred.set()

    def hang_up(self) -> None:
        asyncio.get_running_loop().create_task(self.close(COME_BACK))

    # -- details

    async def _tell(self) -> None:
        """Send what is pending, and a heartbeat where there is nothing: then also ask anew who that is."""
        with contextlib.suppress(OSError, RuntimeError):  # the browser has gone; disconnect() follows
            while True:
                try:
                    await asyncio.wait_for(self._stirred.wait(), BEAT_SECONDS)
                except TimeoutError:
                    self._wants_look, self._heard = True, 0
                    await self._send({"kind": "beat", "v": broadcast.position})
                self._stirred.clear()
                if self._wants_look and (refusal := await self._look()):
                    await self.close(refusal)
                    return
                pending, self._pending = self._pending, {}
                for topic, version in pending.items():
                    if topic in self.topics:
                        kind, _, its_id = topic.partition(":")
                        await self._send({"kind": kind, "id": its_id, "v": version})

    async def _look(self) -> int:
        """Ask who this is and what they may hear of; give 0, or the code to close with."""
        self._wants_look = False
        self._user = await database_sync_to_async(_who)(self.scope["cookies"].get(settings.SESSION_COOKIE_NAME, ""))
        if not self._user.is_authenticated:
            return NOT_LOGGED_IN
        allowed = await database_sync_to_async(_allowed)(self._user, self._asked)
        if not allowed:
            return NOT_ALLOWED
        if not self.topics:
            self.topics = allowed
        elif not self.topics <= allowed:
            return NOT_ALLOWED  # some of it is no longer for them: the page comes back, and asks for less
        return 0

    def _crowded(self) -> int:
        full = _open.total() >= MOST_SOCKETS or _open[self._user.pk] >= SOCKETS_OF_PERSON
        return TOO_MANY if full else 0

    async def _send(self, signal: dict[str, Any]) -> None:
        await self.send(text_data=orjson.dumps(signal).decode())


class Refused(AsyncWebsocketConsumer):
    """A socket at any other address."""

    channel_layer_alias = _NO_LAYER

    async def connect(self) -> None:
        await self.close()


def _same_origin(scope: Any) -> bool:
    """Tell whether the page that opens the socket is ours; browsers always say where it is from."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin1")
    host = headers.get(b"host", b"").decode("latin1")
    return bool(origin) and (urlsplit(origin).netloc == host or origin in settings.CSRF_TRUSTED_ORIGINS)


def _who(session_key: str) -> Any:
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    return auth.get_user(request)


def _allowed(user: Any, topics: frozenset[str]) -> frozenset[str]:
    return frozenset(topic for topic in topics if user.is_active and user.has_perm(RIGHTS[topic.partition(":")[0]]))
