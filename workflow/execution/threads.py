"""How an executor, which runs in an event loop, reads or writes the database: in a thread, that keeps no connection."""

import asyncio
from collections.abc import Callable
from typing import Any

from django.db import connections


async def in_thread(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a call in a thread of the pool."""

    def run() -> Any:
        try:
            return call(*args, **kwargs)
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)
