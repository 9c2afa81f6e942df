"""The stream server over TLS and AUTH: Debian's redis-server under a certificate of our own, through every door of ours to it.

The embedded server's wheel has no TLS, so this is the one place where `rediss://` is really spoken.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from safety.stream_client import StreamClient, StreamRefused, StreamUnavailable
from tests import factories
from tests.conftest import _die_with_parent
from workflow.models import InboxMessage, Task
from workflow.streams.intake import Intake
from workflow.streams.reader import Reader
from workflow.streams.relay import Relay
from workflow.task_tracker import TaskTracker

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "a password/with @ odd:signs"
IN_URL = "a%20password%2Fwith%20%40%20odd%3Asigns"

# What the settings make of the address, in a process that has read them: the cache and the channel layer.
THROUGH_SETTINGS = """
import asyncio, json
import django
django.setup()
from channels.layers import get_channel_layer
from django.core.cache import cache

async def there_and_back():
    layer = get_channel_layer()
    name = await layer.new_channel()
    await layer.group_add("watchers", name)
    await layer.group_send("watchers", {"type": "seen", "text": "by group"})
    message = await asyncio.wait_for(layer.receive(name), 10)
    await layer.flush()
    return message["text"]

cache.set("greeting", "by cache", 60)
print(json.dumps({"cache": cache.get("greeting"), "channels": asyncio.run(there_and_back())}))
"""


@dataclass(frozen=True)
class TlsServer:
    """A redis-server that takes nothing but TLS, and the authority that signed its certificate."""

    port: int
    authority: Path

    def url(self, password: str = IN_URL, scheme: str = "rediss") -> str:
        return f"{scheme}://default:{password}@127.0.0.1:{self.port}/0"


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_authority(folder: Path, name: str) -> Path:
    """Make a certificate authority; give its certificate, its key stands beside it."""
    certificate = folder / f"{name}.crt"
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
        *("-keyout", folder / f"{name}.key", "-out", certificate),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    return certificate


def make_certificate(folder: Path, authority: Path) -> None:
    """Make the server's key and certificate, for 127.0.0.1."""
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"),
        *("-keyout", folder / "server.key", "-out", folder / "server.csr"),
    )
    openssl(
        *(
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            folder / "server.csr",
            "-CA",
            authority,
            "-CAkey",
            authority.with_suffix(".key"),
        ),
        *("-CAcreateserial", "-extfile", folder / "names", "-out", folder / "server.crt"),
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """A running TlsServer. Its absence is a failure: nothing else tries TLS."""
    programs = {name: shutil.which(name) for name in ("redis-server", "openssl")}
    missing = [name for name, path in programs.items() if not path]
    assert not missing, f"TLS can't be tried without {' and '.join(missing)}: apt-get install {' '.join(missing)}"
    folder = tmp_path_factory.mktemp("tls")
    authority = make_authority(folder, "authority")
    make_certificate(folder, authority)
    server = TlsServer(free_port(), authority)
    (folder / "redis.conf").write_text(
        f'port 0\nbind 127.0.0.1\ntls-port {server.port}\nrequirepass "{PASSWORD}"\nsave ""\nappendonly no\n'
        f'tls-cert-file "{folder}/server.crt"\ntls-key-file "{folder}/server.key"\n'
        f'tls-ca-cert-file "{authority}"\ntls-auth-clients no\ndir "{folder}"\nlogfile "{folder}/redis.log"\n'
    )
    process = subprocess.Popen([str(programs["redis-server"]), str(folder / "redis.conf")], preexec_fn=_die_with_parent)
    try:
        deadline = time.monotonic() + 20
        while not _listens(server.port):
            assert process.poll() is None, (folder / "redis.log").read_text()
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.02)
        yield server
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def tls_stream(tls_server: TlsServer, settings) -> Iterator[StreamClient]:
    """A client of the emptied server."""
    settings.STREAM_CA_FILE = str(tls_server.authority)
    client = StreamClient(tls_server.url(), name="test-tls")
    client.call("FLUSHALL")
    yield client
    client.close()


def environment(server: TlsServer, folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NOVAWF_", "DRAGONFLY_"))}
    return {
        **kept,
        "DJANGO_SETTINGS_MODULE": "novawf_site.settings",
        "DRAGONFLY_URL": server.url(),
        "NOVAWF_STREAM_CA_FILE": str(server.authority),
        "NOVAWF_VAR_DIR": str(folder),
    }


def run(command: list[str], given: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=50, check=False)


def test_the_client_writes_reads_and_pipelines(tls_stream: StreamClient) -> None:
    first, second = tls_stream.execute([["XADD", "a", "1-1", "word", "hello"], ["XADD", "a", "2-1", "word", "world"]])
    assert (first, second) == (b"1-1", b"2-1")
    assert tls_stream.read({"a": "1-1"}, count=10, block=0.5) == [(b"a", [(b"2-1", {b"word": b"world"})])]
    assert tls_stream.read({"a": "2-1"}, count=10, block=0.05) == []


@pytest.mark.django_db
def test_intake_takes_and_the_relay_publishes(tls_stream: StreamClient, fleet: list[str]) -> None:
    factories.make_installation()
    tls_stream.call("XADD", "nova.work.queue", "*", "title", "Over TLS", "assignee", "echo")
    tls_stream.call("XADD", "nova.work.queue", "*", "description", "without a title")
    reader = Reader(tls_stream)
    reader.refresh()
    accepted = Intake(reader.streams, "testhouse").accept(reader.wait(0.1), None, now=factories.NOW, seconds=6)
    assert (accepted.tasks, accepted.rejected) == (1, 1)
    assert InboxMessage.objects.get(status="rejected").reason.startswith("The title is missing")

    task = Task.objects.get(title="Over TLS")
    with TaskTracker.open(now=factories.NOW) as tracker:
        tracker.cancel_task(task.id, "no longer wanted")
    relay = Relay(tls_stream)
    while relay.relay_batch(now=factories.NOW):
        pass
    ((_, fields),) = tls_stream.call("XRANGE", "nova.tasks.echo.completed", "-", "+")
    assert fields[b"task_id"].decode() == task.id
    assert tls_stream.call("TTL", "workflow:state:echo") > 3000


def test_cache_and_channels_work_by_the_settings_alone(tls_server: TlsServer, tmp_path: Path) -> None:
    done = run([sys.executable, "-c", THROUGH_SETTINGS], environment(tls_server, tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"cache": "by cache", "channels": "by group"}


def test_the_doctor_finds_all_that_is_needed(tls_server: TlsServer, tmp_path: Path) -> None:
    done = run([sys.executable, "manage.py", "doctor", "--json"], environment(tls_server, tmp_path))
    report = json.loads(done.stdout)
    assert [f["command"] for f in report["findings"] if f["needed"] and not f["ok"]] == []
    assert PASSWORD not in done.stdout
    assert IN_URL not in done.stdout


def test_a_wrong_password_is_refused_in_words(tls_stream: StreamClient, tls_server: TlsServer) -> None:
    with pytest.raises(StreamRefused, match="refused our login") as caught:
        StreamClient(tls_server.url("wrong"), name="test-tls").call("PING")
    assert "wrong@" not in str(caught.value)


def test_no_password_is_refused_in_words(tls_stream: StreamClient, tls_server: TlsServer) -> None:
    with pytest.raises(StreamRefused, match=r"refused our login.*required"):
        StreamClient(f"rediss://127.0.0.1:{tls_server.port}/0", name="test-tls").call("PING")


def test_a_certificate_of_another_authority_is_not_trusted(tls_server: TlsServer, settings, tmp_path: Path) -> None:
    settings.STREAM_CA_FILE = str(make_authority(tmp_path, "stranger"))
    with pytest.raises(StreamUnavailable, match="certificate verify failed"):
        StreamClient(tls_server.url(), name="test-tls").call("PING")


def test_without_our_authority_the_systems_do_not_vouch_for_it(tls_server: TlsServer, settings) -> None:
    settings.STREAM_CA_FILE = ""
    with pytest.raises(StreamUnavailable, match="certificate verify failed"):
        StreamClient(tls_server.url(), name="test-tls").call("PING")


def test_a_certificate_for_another_name_is_not_trusted(tls_server: TlsServer, settings) -> None:
    settings.STREAM_CA_FILE = str(tls_server.authority)
    with pytest.raises(StreamUnavailable, match="certificate verify failed"):
        StreamClient(tls_server.url().replace("127.0.0.1", "localhost"), name="test-tls").call("PING")


def test_plain_text_at_the_tls_port_fails_at_once(tls_server: TlsServer) -> None:
    begun = time.monotonic()
    with pytest.raises(StreamUnavailable, match="could not be reached"):
        StreamClient(tls_server.url(scheme="redis"), name="test-tls").call("PING")
    assert time.monotonic() - begun < 5


def test_an_authority_file_that_is_not_there_stops_the_start(tls_server: TlsServer, tmp_path: Path) -> None:
    done = run(
        [sys.executable, "manage.py", "check"], {**environment(tls_server, tmp_path), "NOVAWF_STREAM_CA_FILE": "/nowhere"}
    )
    assert done.returncode != 0
    assert "NOVAWF_STREAM_CA_FILE is /nowhere; no file there can be read." in done.stderr
