"""`GET /api/v1/events/`: the journal as server-sent events, to whoever may see it, from where they stopped.

The door decides like every other: who asks, what for, what of it they may see. The line itself is held open beside Django, by
EventLines, so that a listener costs neither a thread nor a connection to the database.
"""

import asyncio
import contextlib
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Any, ClassVar

import structlog
from django.conf import settings
from django.contrib import auth
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from rest_framework.exceptions import APIException, PermissionDenied, Throttled, ValidationError
from rest_framework.request import Request

from workflow.api.authentication import NovaAgent
from workflow.api.feed import Feed, Seen
from workflow.api.views import Door

HEARTBEAT_SECONDS = 15.0
RETRY = 3_000  # milliseconds after which a client should come back
LINES_MOST = 1_000  # of one process
LINES_OF_CALLER = 20

FULL = (
    "id", "created_at", "nova_id", "seq", "actor", "action", "object_type", "object_id", "before", "after", "reason",
    "request_id", "cause", "stream", "message",
)  # fmt: skip
OUTLINE = ("id", "created_at", "nova_id", "seq", "actor", "action", "object_type", "object_id", "stream")
# What a viewer may not look at in its list, it is not told of here either.
_NEEDED = {
    "user": "auth.view_user", "group": "auth.view_group", "key": "safety.view_apikey", "session": "safety.view_hooksession",
}  # fmt: skip
_RIGHTS = ("access.", "safety.key.")  # actions after which somebody may see less than before
_OPENING = "novawf.opening"

_log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class LinesFull(APIException):
    """This process holds as many lines open as it may."""

    status_code = 503
    default_code = "too_many_listeners"
    default_detail = "Too many listen here already. Come back in a while, or read /api/v1/journal."
    wait = 30


@dataclass(frozen=True, slots=True)
class Sight:
    """What a caller may see: these columns, of one Nova or of all, but no object of the hidden types."""

    columns: tuple[str, ...]
    nova_id: str | None = None
    hidden: frozenset[str] = frozenset()

    @classmethod
    def of(cls, user: Any) -> "Sight":
        """Give what this caller may see.

        :raises PermissionDenied: nothing.
        """
        if isinstance(user, NovaAgent):
            return cls(FULL, user.nova_id)
        if user.is_active and user.has_perm("safety.view_auditentry"):
            return cls(FULL)
        if user.is_active and user.has_perm("workflow.hear_events"):
            return cls(OUTLINE, hidden=frozenset(kind for kind, right in _NEEDED.items() if not user.has_perm(right)))
        raise PermissionDenied


@dataclass(frozen=True, slots=True)
class Wish:
    """Which of these a listener wants to hear of; empty: all."""

    equal: Mapping[str, str]
    begins: str = ""

    def fits(self, seen: Seen) -> bool:
        return seen.row["action"].startswith(self.begins) and all(seen.row[name] == want for name, want in self.equal.items())


@dataclass(slots=True)
class Line:
    """One listener's line: what it may see and wants, where it is, and how to ask anew what it may see."""

    caller: str
    sight: Sight
    wish: Wish
    after: int | None  # None: from now on
    look_again: Callable[[], Sight]

    def shows(self, seen: Seen) -> bool:
        sight = self.sight
        return (
            (sight.nova_id is None or seen.row["nova_id"] == sight.nova_id)
            and seen.row["object_type"] not in sight.hidden
            and self.wish.fits(seen)
        )

    def conditions(self) -> dict[str, Any]:
        """Give what the database can sort out; `shows` has the last word."""
        found: dict[str, Any] = dict(self.wish.equal)
        if self.wish.begins:
            found["action__startswith"] = self.wish.begins
        if self.sight.nova_id is not None:
            found["nova_id"] = self.sight.nova_id
        return found


class Events(Door):
    """Open a line. `Last-Event-ID`, or `after`: the id of the last entry that was read; without either, from now on."""

    permissions_needed: ClassVar[dict[str, str]] = {"GET": "workflow.hear_events"}
    agents_too: ClassVar[frozenset[str]] = frozenset({"GET"})
    parameters: ClassVar[frozenset[str]] = frozenset({"after", "action", "nova_id", "object_type", "object_id"})

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Whatever the caller accepts: events are one kind of text, and refusals another."""
        return super().perform_content_negotiation(request, force=True)

    def get(self, request: Request) -> HttpResponse:
        sight, query = Sight.of(request.user), request.query_params
        wanted_nova = query.get("nova_id", "")
        if sight.nova_id is not None and wanted_nova not in ("", sight.nova_id):
            raise PermissionDenied("This key is another Nova's, and hears of its own Nova only.")
        equal = {name: query[name] for name in ("nova_id", "object_type", "object_id") if query.get(name)}
        action = query.get("action", "")
        begins = action.endswith("*")
        if action and not begins:
            equal["action"] = action
        wish = Wish(equal, action[:-1] if begins else "")
        line = Line(self.actor, sight, wish, _after(request), _looking_again(request._request))
        answer = HttpResponse(
            b": this server holds no line open; ask again\n\n",
            content_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        lines: list[Line] | None = getattr(request._request, "scope", {}).get(_OPENING)
        if lines is not None and request.method == "GET":
            if _open_lines.total() >= LINES_MOST:
                raise LinesFull
            if _open_lines[self.actor] >= LINES_OF_CALLER:
                detail = f"You hold {LINES_OF_CALLER} lines open already; close one first."
                raise Throttled(wait=30, detail=detail, code="too_many_listeners")
            lines.append(line)
        return answer


def _after(request: Request) -> int | None:
    """Give the id behind which the caller wants to go on.

    :raises ValidationError: it is no id.
    """
    for name, text in (("Last-Event-ID", request.headers.get("Last-Event-ID")), ("after", request.query_params.get("after"))):
        if text:
            if not text.isascii() or not text.isdigit() or len(text) > 18:
                raise ValidationError({name: ["Give the id of a journal entry."]}, code="invalid_id")
            return int(text)
    return None


def _looking_again(request: HttpRequest) -> Callable[[], Sight]:
    """Give a call that asks anew who the caller is and what they may see."""
    sessions = import_module(settings.SESSION_ENGINE)
    meta, session_key = dict(request.META), getattr(request.session, "session_key", None)

    def look() -> Sight:
        again = HttpRequest()
        again.method, again.META = "GET", meta
        again.session = sessions.SessionStore(session_key)
        again.user = auth.get_user(again)
        return Sight.of(Request(again, authenticators=Events().get_authenticators()).user)

    return look


_open_lines: Counter[str] = Counter()


class EventLines:
    """The ASGI application around Django's that holds the lines open which the door has opened."""

    def __init__(self, app: App, path: str) -> None:
        self._app = app
        self._path = path
        self._feed: Feed | None = None
        self._held: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/") != self._path:
            await self._app(scope, receive, send)
            return
        opened: list[Line] = []
        begun: dict[str, Any] = {}

        async def pass_on(message: Mapping[str, Any]) -> None:
            """Pass Django's answer on, unless it opened a line: then only its head is wanted."""
            if not opened:
                await send(message)
            elif message["type"] == "http.response.start":
                begun.update(message)

        await self._app({**scope, _OPENING: opened}, receive, pass_on)
        if opened and begun:  # by now the request's thread has gone
            headers = [pair for pair in begun["headers"] if pair[0].lower() != b"content-length"]
            await send({**begun, "headers": headers})
            await self._hold(opened[0], receive, send)

    def hang_up(self) -> None:
        """Close all lines: the server is about to stop."""
        for task in self._held:
            task.cancel()

    async def _hold(self, line: Line, receive: Receive, send: Send) -> None:
        """Tell until the listener goes, may hear no more, or the server stops."""
        _open_lines[line.caller] += 1
        telling = asyncio.create_task(self._tell(line, send))
        leaving = asyncio.create_task(_left(receive))
        self._held.add(telling)
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
            gone = leaving.done()
        finally:
            for task in (telling, leaving):
                task.cancel()
            results = await asyncio.gather(telling, leaving, return_exceptions=True)
            self._held.discard(telling)
            _open_lines[line.caller] -= 1
            if not self._held and self._feed is not None:
                feed, self._feed = self._feed, None
                await feed.close()
        if not gone:
            with contextlib.suppress(OSError):
                await send({"type": "http.response.body", "body": b": closed here\n\n", "more_body": False})
        if isinstance(results[0], Exception):
            raise results[0]

    async def _tell(self, line: Line, send: Send) -> None:
        self._feed = self._feed or Feed(watched=_RIGHTS)
        try:
            async for text in follow(self._feed, line):
                # waits while the listener doesn't read: then it falls behind, and is served from the database
                await send({"type": "http.response.body", "body": text, "more_body": True})
        except APIException:
            return  # the key was revoked, the session has ended, or the right is gone
        except DatabaseError:
            _log.warning("a listener was sent away: the database could not be read", exc_info=True)


async def follow(feed: Feed, line: Line) -> AsyncIterator[bytes]:
    """Give what a listener is to be told: first what it missed, then what happens, without end.

    :raises APIException: the caller may hear no more.
    """
    clock = asyncio.get_running_loop().time
    yield b"retry: %d\n\n" % RETRY
    await feed.ready()
    position = feed.position if line.after is None else line.after
    told_late, rights, spoke_at = len(feed.late), feed.stirred, clock()
    while True:
        late, told_late = feed.late[told_late:], len(feed.late)
        if position < feed.floor:
            rows, reached = await feed.page(position, line.conditions())
        else:
            rows, reached = feed.since(position), max(position, feed.position)
        if rights != feed.stirred:
            rights, line.sight = feed.stirred, await feed.run(line.look_again)
        for seen in late:
            if seen.id <= position and line.shows(seen):  # without an id: who comes back goes on behind the newest
                yield b"data: %b\n\n" % seen.text(line.sight.columns)
        for seen in rows:
            if line.shows(seen):
                spoke_at = clock()
                yield b"id: %d\ndata: %b\n\n" % (seen.id, seen.text(line.sight.columns))
        position = reached
        if clock() - spoke_at >= HEARTBEAT_SECONDS:
            line.sight = await feed.run(line.look_again)  # keys and sessions also expire
            spoke_at = clock()
            yield b": heartbeat\nid: %d\n\n" % position  # so that coming back costs little where little fits
        if position >= feed.position and told_late == len(feed.late):
            await feed.moved(max(0.0, spoke_at + HEARTBEAT_SECONDS - clock()))


async def _left(receive: Receive) -> None:
    """Wait until the listener has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def on_stop(call: Callable[[], None]) -> None:
    """Have the server's first signal to stop also make a call: it waits for open lines before it says so to applications."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, before: Any = before) -> None:
            loop.call_soon_threadsafe(call)
            if callable(before):
                before(number, frame)

        signal.signal(number, stop)
