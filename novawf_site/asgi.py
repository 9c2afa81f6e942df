"""The web server's entry: Django's pages and API, and beside them the lines of listeners; sockets and MCP stand here too."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import ThreadSensitiveContext
from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

_KEPT = 8  # threads that wait for the next request, each with its database connection


class KeptThreads:
    """Gives each request a thread that another has finished with, and so a database connection that is open already.

    Django alone makes a new thread, and with it a new connection, for every request.
    """

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
                thread.shutdown(wait=False)


django = KeptThreads(get_asgi_application())

from workflow.api import mcp  # noqa: E402 - they need Django to be set up
from workflow.api.events import EventLines, on_stop  # noqa: E402
from workflow.api.long_poll import LongPoll  # noqa: E402

api = LongPoll(django)
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
    await send({"type": "lifespan.shutdown.complete"})


application = ProtocolTypeRouter({"http": http, "lifespan": lifespan})
