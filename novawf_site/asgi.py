"""The web server's entry: Django's pages and API, and beside them the lines of listeners; sockets and MCP stand here too."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")

from typing import Any

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

django = get_asgi_application()

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
