"""Django under ASGI, each request in one go: in one thread that an earlier request has finished with.

Django alone goes to a thread and back for each signal and each middleware of a request, and opens a database connection for it.
All our views are synchronous; what waits or streams (events, long polls, sockets, MCP) stands in front of this.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.db import connections
from django.http import HttpResponseBase
from django.urls import set_script_prefix
from servestatic.asgi import FileServerASGI
from servestatic.middleware import ServeStaticMiddleware

_KEPT = 8  # threads that wait for the next request, each with its database connection


class Handler(ASGIHandler):
    """Answers a request by one call in a thread; who makes it and goes away has made it nevertheless."""

    def __init__(self) -> None:
        self.load_middleware()

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body, answer, and send the answer."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        try:
            response = await sync_to_async(self._answer)(scope, body)
            await self.send_response(response, send)
            if response.streaming:
                await sync_to_async(response.close)()
        finally:
            body.close()

    def _answer(self, scope: Any, body: Any) -> HttpResponseBase:
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, refusal = self.create_request(scope, body)
        response: Any = refusal if request is None else self.get_response(request)
        if not response.streaming:
            response.close()  # which tells that the request is over
        return response  # type: ignore[no-any-return]


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


class StaticFiles:
    """Serves collected files past Django: its middleware would make every request of every page asynchronous."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._files = ServeStaticMiddleware(self._nothing)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a file if the path names one; else hand on."""
        path = scope["path"]
        found = self._files.find_file(path) if self._files.autorefresh else self._files.files.get(path)
        if found is None:
            await self._app(scope, receive, send)
        else:
            await FileServerASGI(found)(scope, receive, send)

    @staticmethod
    async def _nothing(request: Any) -> HttpResponseBase:
        raise AssertionError("Only the files of the middleware are used.")
