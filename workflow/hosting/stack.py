"""All of NOVAWF on one machine: prepare, start every process, keep them alive, stop them in order.

It must not know what the processes do; whether they do it, it asks /readyz.
"""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from workflow.hosting import lifeline, ports, runfile, slots
from workflow.hosting.child import Child, StopSignal
from workflow.hosting.stream_server import StreamServer, url_with_port, without_password

LOOK_SECONDS = 0.2
READY_SECONDS = 60.0  # then it says what is missing, and goes on
STOP_SECONDS = 9.0  # for web and workers, which have STOP_GRACE_SECONDS themselves; the stream server comes after them
STREAM_STOP_SECONDS = 0.8

Say = Callable[[str], None]


class PreparationFailed(Exception):
    """Tables, starting fleet, static files or login could not be made ready."""


class Stack:
    """All processes of one installation (one `var/` folder)."""

    def __init__(self, stop: StopSignal, say: Say) -> None:
        self.stop = stop
        self.say = say
        self.var = Path(settings.VAR_DIR)
        self.address = settings.BIND
        self.port = self._port("Port", self.address, settings.PORT)
        self.stream_url = settings.DRAGONFLY_URL
        self.stream_server: StreamServer | None = None
        if settings.EMBEDDED_STREAM_SERVER:
            stream_port = self._port("Stream server port", "127.0.0.1", settings.DRAGONFLY_PORT, apart_from=self.port)
            self.stream_url = url_with_port(settings.DRAGONFLY_URL, stream_port)
            self.stream_server = StreamServer(self.var, self.stream_url)
        self.servants = [self._web(), *(self._workers(cluster) for cluster in slots.clusters())]
        self._said = ""

    @property
    def url(self) -> str:
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.address, self.address)  # noqa: S104 - shown, not bound
        return f"http://{shown}:{self.port}"

    def run(self) -> None:
        """Start everything, say when it is ready, keep it alive until asked to stop, stop it."""
        begun = time.monotonic()
        try:
            if self.stream_server:
                self.stream_server.start(begun)
            password, is_new = self._prepare_apart()
            for servant in self.servants:
                servant.start(time.monotonic())
            if self._keep(until_ready=True):
                self._announce(password, is_new, time.monotonic() - begun)
                self._keep(until_ready=False)
        finally:
            self._stop()

    def _prepare_apart(self) -> tuple[str, bool]:
        """Prepare in a program of its own: what migrations and logins load, the keeper would hold for ever.

        :raises PreparationFailed: the program has said why.
        """
        command = lifeline.shimmed([sys.executable, str(settings.BASE_DIR / "manage.py"), "prepare", "--json"])
        done = subprocess.run(command, env=os.environ | self._environment, stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise PreparationFailed("The preparation failed, for the reason above; nothing runs.")
        found = json.loads(done.stdout.splitlines()[-1])
        if found["static_collected"]:
            self.say("Static files collected.")
        content = runfile.RunFile(self.url, self.stream_url, runfile.ADMIN, found["password"], settings.OPERATOR_KEY)
        runfile.write(self.var, content)
        return str(found["password"]), bool(found["is_new"])

    def _keep(self, *, until_ready: bool) -> bool:
        """Keep all processes alive until a stop is asked for (False) or, if so told, until ready or late (True)."""
        deadline = time.monotonic() + READY_SECONDS
        look_at = 0.0
        while not self.stop.wait(LOOK_SECONDS):
            at = time.monotonic()
            self._tend(at)
            if until_ready and at >= look_at:
                missing = self._not_ready()
                if not missing:
                    return True
                if at >= deadline:
                    self.say(f"Not ready after {READY_SECONDS:.0f} s: {missing}. It goes on trying; see {self.url}/readyz.")
                    return True
                look_at = at + LOOK_SECONDS
        return False

    def _tend(self, at: float) -> None:
        for child in [*([self.stream_server] if self.stream_server else []), *self.servants]:
            if child.stuck(at):
                self.say(f"The {child.name} show no sign of life; they are killed.")
                child.kill_group()
            if child.alive:
                continue
            child.kill_group()
            if death := child.bury(at):
                self.say(f"The {child.name} {death}; it is started again.")
            if child.due(at):
                child.start(at)

    def _not_ready(self) -> str:
        """Ask /readyz; "" when all is well, else what is missing."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=5)
        try:
            connection.request("GET", "/readyz", headers={"Host": _allowed_host()})
            reply = connection.getresponse()
            body = reply.read()
        except (OSError, http.client.HTTPException):
            return "the web server does not answer"
        finally:
            connection.close()
        if reply.status == http.HTTPStatus.OK:
            return ""
        try:
            checks = json.loads(body)["checks"]
            return "; ".join(f"{name}: {check['detail']}" for name, check in checks.items() if not check["ok"])
        except (ValueError, KeyError, TypeError):
            return f"/readyz answers {reply.status}"

    def _announce(self, password: str, is_new: bool, seconds: float) -> None:
        if is_new:
            login = f"{runfile.ADMIN}, password {password} (shown this once; kept in {self.var / 'run.json'})"
        elif password:
            login = f"{runfile.ADMIN}, password as before (in {self.var / 'run.json'})"
        else:
            login = f"{runfile.ADMIN}, password as you set it (forgotten: manage.py changepassword {runfile.ADMIN})"
        database = settings.DATABASES["default"]
        where = f"SQLite, {database['NAME']}" if "sqlite" in database["ENGINE"] else "PostgreSQL"
        logs = f"this terminal; stream server {self.stream_server.log}" if self.stream_server else "this terminal"
        self.say(
            f"\nNOVAWF runs at {self.url}/ (ready after {seconds:.1f} s)\n"
            f"  admin      {self.url}/admin/\n"
            f"  login      {login}\n"
            f"  streams    {without_password(self.stream_url)}\n"
            f"  database   {where}\n"
            f"  logs       {logs}\n"
            f"  Ctrl-C stops everything.\n"
        )

    def _stop(self) -> None:
        """Stop web and workers together, the stream server last; what does not end in time is killed."""
        self.say("Stopping.")
        deadline = time.monotonic() + STOP_SECONDS
        for servant in self.servants:
            servant.terminate()
        for servant in self.servants:
            servant.wait(deadline - time.monotonic())
            servant.kill_group(wait=0.3)
        if self.stream_server:
            self.stream_server.terminate()
            self.stream_server.wait(STREAM_STOP_SECONDS)
            self.stream_server.kill_group(wait=0.1)
        self.say("Stopped.")

    def _port(self, what: str, address: str, wanted: int, *, apart_from: int = 0) -> int:
        port = ports.free_port(address, wanted, apart_from=apart_from)
        if port != wanted:
            self.say(f"{what} {wanted} is busy; using {port}.")
        return port

    def _web(self) -> Child:
        options = [
            "--ws",
            "websockets-sansio",
            "--ws-max-size",
            "4096",
            "--timeout-graceful-shutdown",
            "5",
            "--log-level",
            "warning",
            "--no-access-log",
        ]
        place = ["--host", self.address, "--port", str(self.port), "--no-server-header"]
        command = [sys.executable, "-m", "uvicorn", "novawf_site.asgi:application", *place, *options]
        return Child("web server", command, environment=self._environment, folder=settings.BASE_DIR)

    def _workers(self, cluster: str) -> Child:
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "workers", cluster]
        return Child(
            f"workers of {cluster}",
            command,
            environment=self._environment,
            folder=settings.BASE_DIR,
            pulse=slots.lock_file(cluster),
        )

    @property
    def _environment(self) -> dict[str, str]:
        # fewer memory pools a process: with many threads, glibc would keep one for each
        return {"DRAGONFLY_URL": self.stream_url, "PORT": str(self.port), "MALLOC_ARENA_MAX": "2"}


def _allowed_host() -> str:
    """A name that the web server answers to."""
    first = next(iter(settings.ALLOWED_HOSTS), "localhost")
    return "localhost" if first == "*" else str(first).lstrip(".")
