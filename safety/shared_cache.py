"""Django's cache on the stream server: counts of failed logins and used one-time codes, for all processes together.

While that server is away each process keeps its own: people must be able to come in and stop things just then, and a process
that counts for itself still lets nobody guess without end. So no login fails, and none is unlimited, with the stream server.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache

from safety.stream_client import StreamError, translated

_AWAY_SECONDS = 5.0  # how long a silent server is left alone
Given = TypeVar("Given")


class SharedCache(RedisCache):
    """Redis, or this process's memory while it is away."""

    _away_until = 0.0  # of the process: each thread has an instance

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._own = LocMemCache("shared-cache", params)

    def _ask(self, shared: Callable[[], Given], own: Callable[[], Given]) -> Given:
        if time.monotonic() < self._away_until:
            return own()
        try:
            with translated():
                return shared()
        except StreamError:
            SharedCache._away_until = time.monotonic() + _AWAY_SECONDS
            return own()

    def add(self, *args: Any, **kwargs: Any) -> bool:
        return self._ask(lambda: RedisCache.add(self, *args, **kwargs), lambda: self._own.add(*args, **kwargs))

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(lambda: RedisCache.get(self, *args, **kwargs), lambda: self._own.get(*args, **kwargs))

    def set(self, *args: Any, **kwargs: Any) -> None:
        self._ask(lambda: RedisCache.set(self, *args, **kwargs), lambda: self._own.set(*args, **kwargs))

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return self._ask(lambda: RedisCache.delete(self, *args, **kwargs), lambda: self._own.delete(*args, **kwargs))
