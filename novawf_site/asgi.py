"""The web server's entry: HTTP now, sockets and MCP beside it later.

Django alone makes a thread, and in it a database connection, for every request, and goes there and back for every middleware.
Here a request gets a thread that another has finished with, and one of the API is handled there in one go.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from channels.routing import ProtocolTypeRouter
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.db import connections
from django.http import HttpResponseBase

django.setup(set_prefix=False)

from workflow.api.long_poll import LongPoll  # noqa: E402 - it needs Django to be set up

_KEPT = 8  # threads that wait for the next request, each with its database connection
_ASYNC = ("/api/v1/events",)  # addresses of the API that answer for as long as somebody listens


class Handler(ASGIHandler):
    """Django's handler, but in one thread for all that is not asynchronous by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._in_one_go = BaseHandler()
        self._in_one_go.load_middleware()

    async def get_response_async(self, request: Any) -> HttpResponseBase:
        """Answer a request."""
        path = request.path_info
        if path.startswith("/api/") and not path.startswith(_ASYNC):
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


application = ProtocolTypeRouter({"http": LongPoll(KeptThreads(Handler()))})
