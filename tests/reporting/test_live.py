"""The pages' socket: who is let in, what it says, and that it stays open."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from reporting.broadcast import Broadcast
from reporting.core.topics import RIGHTS, is_topic, topics_of
from tests import factories
from tests.web_server import WebServer
from workflow import services
from workflow.roles import ROLES


def session_of(role: str) -> str:
    user, _ = User.objects.get_or_create(username=role.replace(" ", "-"))
    group, _ = Group.objects.get_or_create(name=role)
    if not group.permissions.exists():
        _give(group, role)
    user.groups.add(group)
    client = Client()
    client.force_login(user)
    return str(client.cookies[settings.SESSION_COOKIE_NAME].value)


def _give(group: Group, role: str) -> None:
    for right in ROLES[role]:
        app, _, name = right.partition(".")
        group.permissions.add(*Permission.objects.filter(content_type__app_label=app, codename=name))


@contextmanager
def listening(server: WebServer, session: str, *topics: str, origin: str = "") -> Iterator[ClientConnection]:
    query = "&".join(f"topic={topic}" for topic in topics)
    headers = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={session}"} if session else {}
    address = server.url.replace("http", "ws") + f"/live/?{query}"
    with connect(address, additional_headers=headers, origin=Origin(origin or server.url), proxy=None) as line:
        yield line


def signals(line: ClientConnection, count: int) -> list[dict[str, Any]]:
    """Wait for so many signals; greetings and heartbeats are none."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        said = json.loads(line.recv(timeout=15))
        if said["kind"] not in ("hello", "beat"):
            found.append(said)
    return found


def code_of(line: ClientConnection) -> int:
    """Wait until it is closed; give the code."""
    try:
        while True:
            line.recv(timeout=15)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 0


def pause(nova_id: str) -> None:
    services.pause_nova(nova_id, reason="a secret reason", now=timezone.now())


def test_it_tells_what_changed_and_nothing_of_what_it_says(web_server: WebServer) -> None:
    for nova_id in ("torch", "echo"):
        factories.make_nova(nova_id)
    with listening(web_server, session_of("viewer"), "fleet", "nova:torch", "journal", "nonsense") as line:
        assert json.loads(line.recv(timeout=15))["kind"] == "hello"
        signals_seen = []
        pause("echo")
        signals_seen += signals(line, 1)
        pause("torch")
        signals_seen += signals(line, 2)
    assert {(said["kind"], said["id"]) for said in signals_seen} == {("fleet", ""), ("nova", "torch")}
    assert all(set(said) == {"kind", "id", "v"} for said in signals_seen)


def test_strangers_other_origins_and_long_words_are_sent_away(web_server: WebServer) -> None:
    with listening(web_server, "", "fleet") as line:
        assert code_of(line) == 4401
    session = session_of("viewer")
    with listening(web_server, session, "journal") as line:
        assert code_of(line) == 4403
    with pytest.raises(InvalidStatus) as refused, listening(web_server, session, "fleet", origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    with listening(web_server, session, "fleet") as line:
        line.send("x" * 300)
        assert code_of(line) == 1009


def test_whoever_loses_the_right_or_the_session_hears_no_more(web_server: WebServer) -> None:
    session = session_of("viewer")
    with listening(web_server, session, "fleet") as line:
        line.recv(timeout=15)
        User.objects.get(username="viewer").groups.clear()
        assert code_of(line) == 4403
    session = session_of("operator")
    with listening(web_server, session, "fleet") as line:
        line.recv(timeout=15)
        Session.objects.all().delete()
        assert code_of(line) == 4401


@pytest.mark.soak
@pytest.mark.timeout(150)
def test_a_socket_on_which_nothing_happens_stays_open(web_server: WebServer) -> None:
    with listening(web_server, session_of("viewer"), "fleet") as line:
        end = time.monotonic() + 70
        while time.monotonic() < end:
            assert json.loads(line.recv(timeout=30))["kind"] in ("hello", "beat")


def test_many_changes_are_few_signals(web_server: WebServer) -> None:
    novas = factories.make_novas(40, now=timezone.now())
    with listening(web_server, session_of("viewer"), "fleet") as line:
        line.recv(timeout=15)
        for nova_id in novas:
            pause(nova_id)
        first = signals(line, 1)
        heard = len(first)
        while json.loads(line.recv(timeout=15))["kind"] != "beat":
            heard += 1
    assert heard < len(novas) / 2


def test_news_come_while_the_stream_server_is_away(web_server: WebServer, stream_server: Any) -> None:
    factories.make_nova("torch")
    session = session_of("viewer")
    with listening(web_server, session, "fleet") as line:
        line.recv(timeout=15)
        stream_server.stop()
        try:
            pause("torch")
            assert signals(line, 1)[0]["kind"] == "fleet"
            with listening(web_server, session, "fleet") as newcomer:
                assert json.loads(newcomer.recv(timeout=15))["kind"] == "hello"
        finally:
            stream_server.start()


class Ear:
    """A listener that remembers."""

    topics = frozenset({"fleet"})

    def __init__(self) -> None:
        self.hung_up = False

    def changed(self, topic: str, version: int) -> None: ...

    def look_again(self) -> None: ...

    def hang_up(self) -> None:
        self.hung_up = True


@pytest.mark.django_db(transaction=True)
async def test_whoever_comes_just_when_the_last_one_leaves_is_told() -> None:
    news, first, second = Broadcast(), Ear(), Ear()
    await news.join(first)
    leaving = asyncio.create_task(news.leave(first))
    await asyncio.sleep(0)  # it has begun, and waits for what it stopped
    await news.join(second)
    await leaving
    assert not second.hung_up
    assert news.position >= 0
    await news.leave(second)
    assert news.position == -1


ENTRIES = st.fixed_dictionaries(
    {
        "action": st.text(max_size=30),
        "object_type": st.sampled_from(["task", "nova", "halt", "", "key"]),
        "object_id": st.text(min_size=1, max_size=20),
        "nova_id": st.sampled_from(["", "torch"]),
    }
)


@given(ENTRIES)
def test_every_entry_is_news_about_topics_that_somebody_may_hear_of(entry: dict[str, str]) -> None:
    found = topics_of(entry)
    assert "journal" in found
    assert {topic.partition(":")[0] for topic in found} <= RIGHTS.keys()
    assert ("nova:torch" in found) == (
        entry["nova_id"] == "torch" or (entry["object_type"], entry["object_id"]) == ("nova", "torch")
    )


def test_a_topic_is_a_kind_or_a_kind_with_an_id() -> None:
    assert all(map(is_topic, ("fleet", "nova:torch", "halt:3")))
    assert not any(map(is_topic, ("", "nova", "fleet:x", "nova:", "other", "task:" + "x" * 200)))
