"""The web server's entry: pages and API, beside them static files, the lines of listeners, MCP, and the pages' sockets."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")

from typing import Any

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.sessions import CookieMiddleware
from django.urls import path, re_path

django.setup(set_prefix=False)

from novawf_site.body_limit import BodyLimit  # noqa: E402 - they need Django to be set up
from novawf_site.handler import Handler, KeptThreads, StaticFiles  # noqa: E402
from reporting.consumers import LiveConsumer, Refused  # noqa: E402
from workflow.api import mcp  # noqa: E402
from workflow.api.events import EventLines, on_stop  # noqa: E402
from workflow.api.long_poll import LongPoll  # noqa: E402

requests = KeptThreads(Handler())
api = LongPoll(requests)
lines = EventLines(api, "/api/v1/events")
agents = mcp.McpDoor(api)
static = StaticFiles(lines)


async def http(scope: Any, receive: Any, send: Any) -> None:
    """Lead to MCP, or to everything else."""
    door = agents if scope["path"].rstrip("/") == mcp.PATH else static
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
