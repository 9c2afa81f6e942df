"""The web server's entry: pages and API, beside them the lines of listeners, MCP, and the pages' sockets.

Django alone makes a thread, and in it a database connection, for every request, and goes there and back for every middleware.
Here a request gets a thread that another has finished with, and one of the API is handled there in one go.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.sessions import CookieMiddleware
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.db import connections
from django.http import HttpResponseBase
from django.urls import path, re_path

django.setup(set_prefix=False)

from novawf_site.body_limit import BodyLimit  # noqa: E402 - they need Django to be set up
from reporting.consumers import LiveConsumer, Refused  # noqa: E402
from workflow.api import mcp  # noqa: E402
from workflow.api.events import EventLines, on_stop  # noqa: E402
from workflow.api.long_poll import LongPoll  # noqa: E402

_KEPT = 8  # threads that wait for the next request, each with its database connection


class Handler(ASGIHandler):
    """Django's handler, but in one thread for all that is not asynchronous by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._in_one_go = BaseHandler()
        self._in_one_go.load_middleware()

    async def get_response_async(self, request: Any) -> HttpResponseBase:
        """Answer a request."""
        if request.path_info.startswith("/api/"):
            response: HttpResponseBase = await sync_to_async(self._in_one_go.get_response)(request)
            return response
        return await super().get_response_async(request)


class KeptThreads:
    """Gives each request a thread of its own, for a while."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._idle: list[ThreadPoolExecutor] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        thread = self._idle.pop() if self._idle else ThreadPoolExecutor(max_workers=1, thread_name_prefix="request")
        try:
            async with ThreadSensitiveContext(executor=thread):
                await self._app(scope, receive, send)
        finally:
            if len(self._idle) < _KEPT:
                self._idle.append(thread)
            else:
                self._drop(thread)

    def close(self) -> None:
        """Let go of the threads that wait."""
        while self._idle:
            self._drop(self._idle.pop(), wait=True)

    @staticmethod
    def _drop(thread: ThreadPoolExecutor, *, wait: bool = False) -> None:
        thread.submit(connections.close_all)
        thread.shutdown(wait=wait)


requests = KeptThreads(Handler())
api = LongPoll(requests)
lines = EventLines(api, "/api/v1/events")
agents = mcp.McpDoor(api)


async def http(scope: Any, receive: Any, send: Any) -> None:
    """Lead to MCP, or to everything else."""
    door = agents if scope["path"].rstrip("/") == mcp.PATH else lines
    await door(scope, receive, send)


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Begin and end with the server."""
    await receive()
    on_stop(lines.hang_up)
    async with agents.running():
        await send({"type": "lifespan.startup.complete"})
        await receive()
    requests.close()
    await send({"type": "lifespan.shutdown.complete"})


sockets = URLRouter([path("live/", CookieMiddleware(LiveConsumer.as_asgi())), re_path("", Refused.as_asgi())])
application = ProtocolTypeRouter({"http": BodyLimit(http), "websocket": sockets, "lifespan": lifespan})
