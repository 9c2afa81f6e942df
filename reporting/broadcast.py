"""Hears the journal grow and tells this process's listeners which topics changed: at most twice a second, once a topic.

It looks where /api/v1/events looks (workflow.api.feed), while somebody listens. So whoever commits does nothing for it, neither
the commit nor the news depends on the stream server, and the news of every process and machine arrives alike. What a topic's
page shows is not known here.
"""

import asyncio
from collections import Counter
from typing import Protocol

import structlog
from django.db.models import Max

from reporting.core.topics import RIGHTS, WITH_ID, topics_of
from safety.models import AuditEntry
from workflow.api.feed import Feed

SIGNAL_SECONDS = 0.5  # between two signals of a topic
_RIGHTS = ("access.", "safety.key.")  # actions after which somebody may see less than before

_log = structlog.get_logger(__name__)


class Listener(Protocol):
    """Somebody who wants to hear of topics; each call returns at once."""

    topics: frozenset[str]

    def changed(self, topic: str, version: int) -> None: ...

    def look_again(self) -> None: ...

    def hang_up(self) -> None: ...


class Broadcast:
    """One event loop's news. A topic's version is the id of the newest entry about it: the same in every process."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._wanted: Counter[str] = Counter()
        self._versions: dict[str, int] = {}  # of kinds, and of the topics with an id that somebody listens to
        self._position = -1
        self._passing: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    @property
    def position(self) -> int:
        """The newest entry that was passed on; -1 while nobody listens."""
        return self._position

    async def join(self, listener: Listener) -> None:
        """Tell a listener from now on; when this returns, nothing that is committed afterwards is missed."""
        self._listeners.add(listener)
        self._wanted.update(listener.topics)
        for topic in listener.topics:
            self._versions.setdefault(topic, self._position)
        if self._passing is None:
            self._ready = asyncio.Event()
            self._passing = asyncio.create_task(self._pass_on(self._ready))
        await self._ready.wait()

    async def leave(self, listener: Listener) -> None:
        """Tell a listener no more; after the last one nothing is looked at."""
        if listener not in self._listeners:
            return
        self._listeners.discard(listener)
        self._wanted.subtract(listener.topics)
        for topic in listener.topics:
            if ":" in topic and self._wanted[topic] <= 0:
                self._versions.pop(topic, None)
        self._wanted = +self._wanted
        if not self._listeners and self._passing is not None:
            passing, self._passing = self._passing, None
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    def version(self, topic: str) -> int:
        """Give a topic's version, in any thread; while nobody listens it is the journal's own."""
        if self._position < 0:
            return AuditEntry.objects.aggregate(highest=Max("id"))["highest"] or 0
        known = self._versions.get(topic)
        return known if known is not None else self._versions.get(topic.partition(":")[0], self._position)

    async def _pass_on(self, ready: asyncio.Event) -> None:
        feed = Feed(watched=_RIGHTS, lean=True)
        try:
            await feed.ready()
            position, late, stirred = feed.position, 0, feed.stirred
            self._versions = dict.fromkeys([*RIGHTS, *self._wanted], position)
            self._position = position
            ready.set()
            while True:
                if position >= feed.position and late == len(feed.late):  # it may have moved while this slept
                    await feed.moved(30.0)
                    continue
                behind = position < feed.floor  # more happened than is kept: then everything may have changed
                rows = [*feed.late[late:], *feed.since(position)]
                position, late = feed.position, len(feed.late)
                if feed.stirred != stirred:
                    stirred = feed.stirred
                    for listener in list(self._listeners):
                        listener.look_again()
                news = set(self._wanted) if behind else set[str]().union(*(topics_of(seen.row) for seen in rows))
                self._tell(news, position)
                await asyncio.sleep(SIGNAL_SECONDS)
        finally:
            self._position = -1
            ready.set()  # whoever waits for a beginning that failed is hung up on below
            await feed.close()
            if self._listeners:  # it never ends by itself: they come back, and it begins anew
                _log.error("the journal is no longer followed for pages; their sockets are closed")
                self._passing = None
                for listener in list(self._listeners):
                    listener.hang_up()

    def _tell(self, news: set[str], position: int) -> None:
        for topic in news:
            kind, _, its_id = topic.partition(":")
            if kind in WITH_ID:
                self._versions[kind] = position
            if not its_id or topic in self._wanted:
                self._versions[topic] = position
        self._position = position
        for listener in list(self._listeners):
            for topic in listener.topics & news:
                listener.changed(topic, position)


broadcast = Broadcast()
