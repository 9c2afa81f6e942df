"""The web server's entry: HTTP now, sockets and MCP beside it later."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

django = get_asgi_application()

from workflow.api.long_poll import LongPoll  # noqa: E402 - it needs Django to be set up

application = ProtocolTypeRouter({"http": LongPoll(django)})
