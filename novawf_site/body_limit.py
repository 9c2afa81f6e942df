"""Reads no more of a request's body than any door could want: the rest is never taken in, neither to memory nor to disk.

Doors see a body that ends early and refuse it in their own words: the API by its Content-Length, the hook door by its size. So
nobody fills a disk, and hooks are still answered.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LIMIT = 16 * 1024 * 1024  # bytes; every door's own limit is lower

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Any, Receive, Any], Awaitable[None]]


class BodyLimit:
    """An ASGI application before another."""

    def __init__(self, app: App, limit: int = LIMIT) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Any, receive: Receive, send: Any) -> None:
        """Hand on, counting the body of a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            while taken > self._limit and message["type"] == "http.request":
                message = await receive()  # what comes after the early end is thrown away
            if message["type"] != "http.request":
                return message
            body = message.get("body", b"")
            rest = max(0, self._limit - taken)
            taken += len(body)
            if taken > self._limit:
                return {"type": "http.request", "body": body[:rest], "more_body": False}
            return message

        await self._app(scope, bounded, send)
