"""The web server's entry: HTTP now, sockets and MCP beside it later."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

from novawf_site.body_limit import BodyLimit

application = ProtocolTypeRouter({"http": BodyLimit(get_asgi_application())})
