"""The web server's entry: Django's pages and API, and beside them the lines of listeners; sockets and MCP stand here too."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")

from typing import Any

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

django = get_asgi_application()

from workflow.api.events import EventLines, on_stop  # noqa: E402 - they need Django to be set up
from workflow.api.long_poll import LongPoll  # noqa: E402

lines = EventLines(LongPoll(django), "/api/v1/events")


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Begin and end with the server."""
    await receive()
    on_stop(lines.hang_up)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


application = ProtocolTypeRouter({"http": lines, "lifespan": lifespan})
