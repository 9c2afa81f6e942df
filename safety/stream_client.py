"""The one way to the stream server (DragonflyDB, Valkey, Redis): the only importer of redis; its errors get our names here.

Replies are bytes, the protocol is RESP2, every socket has a timeout, BLOCK is bounded (docs/streams.md, "Server manners").
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry


class StreamError(Exception):
    """Something between us and the stream server failed; nothing in the database was changed by it."""


class StreamUnavailable(StreamError):
    """The stream server could not be reached, or did not answer in time."""


class StreamRefused(StreamError):
    """The stream server answered with an error: no memory left, a wrong password, a command it does not have."""


class ScriptUnknown(StreamRefused):
    """The stream server does not know a script by that digest (yet, or any more)."""


@contextmanager
def translated() -> Iterator[None]:
    """Give redis-py's errors our names.

    :raises StreamUnavailable: connection or timeout.
    :raises ScriptUnknown: EVALSHA of a script it has not. :raises StreamRefused: any other error reply.
    """
    try:
        yield
    except (redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError) as error:
        raise StreamRefused(f"The stream server refused our login: {error}") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        raise StreamUnavailable(f"The stream server could not be reached: {error}") from error
    except redis.exceptions.NoScriptError as error:
        raise ScriptUnknown(str(error)) from error
    except redis.exceptions.RedisError as error:
        raise StreamRefused(f"The stream server refused: {error}") from error


def connect(url: str = "", *, name: str = "novawf", timeout: float = 0.0) -> redis.Redis:
    """Give a client of the configured server, not yet connected. One client belongs to one thread."""
    url = url or settings.DRAGONFLY_URL
    options: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": timeout or settings.STREAM_SOCKET_TIMEOUT,
        "socket_connect_timeout": min(settings.STREAM_CONNECT_TIMEOUT, timeout or settings.STREAM_CONNECT_TIMEOUT),
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),  # our loops retry, with backoff and without hiding the outage
        "client_name": f"{name}-{os.getpid()}",
    }
    if url.startswith("rediss://") and settings.STREAM_CA_FILE:
        options["ssl_ca_certs"] = settings.STREAM_CA_FILE
    return redis.Redis.from_url(url, **options)


StreamEntries = list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]


class StreamClient:
    """The few commands NOVAWF uses, with our errors. Not shared between threads."""

    def __init__(self, url: str = "", *, name: str = "novawf", timeout: float = 0.0) -> None:
        self._redis: Any = connect(url, name=name, timeout=timeout)

    def call(self, *command: Any) -> Any:
        """Run one command."""
        with translated():
            return self._redis.execute_command(*command)

    def read(self, cursors: Mapping[str, str], *, count: int, block: float | None = None) -> StreamEntries:
        """Read what stands behind the cursors, waiting up to `block` seconds (None: not at all).

        Gives (stream, [(entry id, {field: value})]) for streams that have something; all bytes. An entry of an odd shape never
        stops the others.
        """
        if not cursors:
            return []
        command: list[Any] = ["XREAD", "COUNT", count]
        if block is not None:
            command += ["BLOCK", max(1, int(min(block, settings.STREAM_BLOCK_LIMIT) * 1000))]
        command += ["STREAMS", *cursors.keys(), *cursors.values()]
        with translated():
            reply = self._redis.execute_command(*command)
        return [(stream, [(entry_id, fields or {}) for entry_id, fields in entries]) for stream, entries in reply]

    def execute(self, commands: Sequence[Sequence[Any]], *, tolerant: bool = False) -> list[Any]:
        """Run commands in one round trip, in order. `tolerant`: an error reply stands in the list as an exception.

        :raises StreamError: if any failed; some may have taken effect.
        """
        if not commands:
            return []
        with translated():
            pool: Any = self._redis.connection_pool
            connection = pool.get_connection()
            try:  # packed here: redis-py's pipeline spends three times as long on a command as the server does
                connection.send_packed_command([b"".join(hiredis.pack_command(tuple(command)) for command in commands)])
                replies = [_reply(connection) for _ in commands]
            except BaseException:
                connection.disconnect()  # replies may still be under way: nobody must read them as his own
                raise
            finally:
                pool.release(connection)
            if not tolerant:
                for reply in replies:
                    if isinstance(reply, redis.exceptions.ResponseError):
                        raise reply
            return replies

    def close(self) -> None:
        """Drop the connections."""
        self._redis.close()


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.exceptions.ResponseError as error:
        return error
