"""Live events: the journal to whoever may see it, resumed without loss or repeat, by a real uvicorn."""

import json
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection, connections, transaction
from django.test import Client

from safety import audit
from safety.api_keys import create_key, revoke_key
from safety.audit import Entry
from safety.models import AuditEntry
from tests import factories
from tests.web_server import OPERATOR_KEY, WebServer
from workflow.api import events, feed
from workflow.roles import ROLES

pytestmark = pytest.mark.django_db(transaction=True)


def write(count: int = 1, *, now: datetime = factories.NOW, **fields: Any) -> list[int]:
    """Journal something, in one transaction; give the ids."""
    fields = {"action": "workflow.task.created", "nova_id": "torch", "object_type": "task", "object_id": "T-1"} | fields
    with transaction.atomic():
        return audit.record([Entry(**fields) for _ in range(count)], now=now)


def ids(entries: list[dict[str, Any]]) -> list[int]:
    return [entry["id"] for entry in entries]


def session_of(role: str) -> str:
    """Log a new user in who may do what a role may; give the session's key."""
    user = User.objects.create_user(f"{role.replace(' ', '-')}-1", password=None)
    for right in ROLES.get(role, ()):
        app, _, codename = right.partition(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    client = Client()
    client.force_login(user)
    return client.session.session_key or ""


class TestWhatIsTold:
    def test_entries_come_as_they_are_committed(self, web_server: WebServer) -> None:
        with web_server.listen() as listener:
            listener.settle()
            assert listener.answer.headers["X-Accel-Buffering"] == "no"
            assert listener.answer.headers["Content-Type"].startswith("text/event-stream")
            written = write(
                3, after={"title": "One"}, reason="because", message={"task_id": "T-1"}, stream="nova.tasks.torch.todo"
            )
            found = listener.entries(3)
        assert ids(found) == written
        assert found[0]["after"] == {"title": "One"}
        assert found[0]["message"] == {"task_id": "T-1"}
        assert found[0]["before"] is None
        assert found[0]["created_at"] == "2026-11-20T12:00:00Z"
        assert set(found[0]) == set(events.FULL)

    def test_what_the_journal_shows_and_what_is_told_are_the_same(self, web_server: WebServer) -> None:
        (entry_id,) = write(after={"a": [1, None]}, now=factories.NOW + timedelta(microseconds=1500))
        with web_server.listen(after=entry_id - 1) as listener:
            (told,) = listener.entries(1)
        status, body, _ = web_server.get(f"/api/v1/journal/{entry_id}", OPERATOR_KEY)
        assert status == 200
        assert told == json.loads(body)

    def test_filters_choose(self, web_server: WebServer) -> None:
        start = write()[0]
        write(action="safety.nova.unsafe")
        wanted = write(action="workflow.task.completed", object_id="T-9") + write(
            action="workflow.task.claimed", object_id="T-9"
        )
        write(nova_id="echo", action="workflow.task.completed", object_id="T-9")
        with web_server.listen(after=start, action="workflow.task.*", nova_id="torch", object_id="T-9") as listener:
            assert ids(listener.entries(2)) == wanted
            write(nova_id="echo", object_id="T-9")
            live = write(object_id="T-9")
            assert ids(listener.entries(1)) == live
        with web_server.listen(after=start, action="safety.nova.unsafe", object_type="task") as listener:
            assert listener.entries(1)[0]["action"] == "safety.nova.unsafe"

    def test_a_quiet_line_has_heartbeats_that_say_where_it_is(self, web_server: WebServer) -> None:
        with web_server.listen(action="nothing.of.this.kind") as listener:
            listener.settle()
            (written,) = write()
            for block in listener.blocks():
                if block.get("") == "heartbeat" and block["id"] == str(written):
                    break
            assert "data" not in block

    @pytest.mark.parametrize(
        ("query", "status"),
        [({"after": "x"}, 400), ({"after": "-1"}, 400), ({"acton": "x"}, 400), ({"after": "9" * 19}, 400)],
    )
    def test_nonsense_is_refused(self, web_server: WebServer, query: dict[str, str], status: int) -> None:
        with web_server.listen(**query) as listener:
            assert listener.answer.status == status
            assert listener.answer.headers["Content-Type"] == "application/problem+json"


class TestResuming:
    def test_who_comes_back_misses_nothing_and_hears_nothing_twice(self, web_server: WebServer) -> None:
        """While three writers write, a listener is cut off again and again."""
        start = write()[0]
        writing = [threading.Thread(target=_write_many, args=(60,)) for _ in range(3)]
        for thread in writing:
            thread.start()
        heard: list[int] = []
        last = start
        while len(heard) < 360:
            with web_server.listen(last=last) as listener:
                heard += ids(listener.entries(min(40, 360 - len(heard))))
                last = listener.last or start
        for thread in writing:
            thread.join()
        assert heard == list(AuditEntry.objects.filter(id__gt=start).order_by("id").values_list("id", flat=True))

    def test_a_long_absence_is_read_page_by_page(self, web_server: WebServer) -> None:
        start = write()[0]
        written = write(2 * feed.PAGE + 7)
        with web_server.listen(after=start) as listener:
            assert ids(listener.entries(len(written))) == written
            live = write(2)
            assert ids(listener.entries(2)) == live

    def test_a_listener_that_does_not_read_loses_nothing(self, web_server: WebServer) -> None:
        with web_server.listen() as listener:
            listener.settle()
            written: list[int] = []
            for _ in range(8):  # far more than the sockets hold, and than is kept in memory
                written += write(400, after={"text": "x" * 4_000})
            assert ids(listener.entries(len(written))) == written


class TestOutOfOrder:
    def test_a_slow_transaction_is_waited_for(self, web_server: WebServer) -> None:
        """On PostgreSQL its entries have lower ids than what was committed before; on SQLite it holds the others up."""
        begun, go_on = threading.Event(), threading.Event()
        slow: list[int] = []

        def write_slowly() -> None:
            try:
                with transaction.atomic():
                    slow.extend(audit.record([Entry("workflow.slow", "echo")], now=factories.NOW))
                    begun.set()
                    go_on.wait(20)
            finally:
                connections.close_all()

        with web_server.listen() as listener:
            listener.settle()
            thread = threading.Thread(target=write_slowly)
            thread.start()
            begun.wait(20)
            quick: list[int] = []
            if connection.vendor == "postgresql":
                quick = write(2)
                listener.settle().settle()
            go_on.set()
            thread.join()
            assert ids(listener.entries(1 + len(quick))) == slow + quick

    def test_a_very_slow_transaction_is_told_late_and_moves_nobody_back(self, web_server: WebServer) -> None:
        """Its entries come without an id: whoever comes back then goes on behind the newest."""
        begun, go_on = threading.Event(), threading.Event()

        def write_slowly() -> None:
            try:
                with transaction.atomic():
                    audit.record([Entry("workflow.slow", "echo")], now=factories.NOW)
                    begun.set()
                    go_on.wait(20)
            finally:
                connections.close_all()

        with web_server.listen() as listener:
            listener.settle()
            thread = threading.Thread(target=write_slowly)
            thread.start()
            begun.wait(20)
            if connection.vendor != "postgresql":  # one writes at a time: the others wait
                go_on.set()
                thread.join()
            quick = write(2)
            found = [entry["action"] for entry in listener.entries(2)]
            go_on.set()
            thread.join()
            found += [entry["action"] for entry in listener.entries(1)]
            assert listener.last == quick[-1]
        slow, told = "workflow.slow", "workflow.task.created"
        assert found == ([told, told, slow] if connection.vendor == "postgresql" else [slow, told, told])

    def test_what_was_rolled_back_holds_nobody_up(self, web_server: WebServer) -> None:
        with web_server.listen() as listener:
            listener.settle()
            with transaction.atomic():
                audit.record([Entry("workflow.undone")], now=factories.NOW)
                transaction.set_rollback(True)
            written = write(2)
            assert ids(listener.entries(2)) == written


class TestWhoHears:
    def test_nobody_without_a_key(self, web_server: WebServer) -> None:
        assert web_server.get("/api/v1/events/")[0] == 401

    def test_a_nova_hears_of_itself_only(self, web_server: WebServer, now: datetime) -> None:
        factories.make_nova("torch")
        key, _ = create_key("torch", now=now)
        start = write()[0]
        write(nova_id="echo")
        write(nova_id="")
        own = write(message={"text": "for torch"})
        with web_server.listen(key, after=start) as listener:
            found = listener.entries(1)
            write(nova_id="echo")
            own += write()
            found += listener.entries(1)
        assert ids(found) == own
        assert found[0]["message"] == {"text": "for torch"}
        with web_server.listen(key, nova_id="echo") as listener:
            assert listener.answer.status == 403

    def test_what_is_personal_is_told_to_nobody(self, web_server: WebServer) -> None:
        start = write()[0]
        write(personal=True, after={"text": "planted"})
        with web_server.listen(after=start) as listener:
            write(personal=True, after={"text": "planted"})
            written = write()
            found = listener.entries(1)
        assert ids(found) == written

    def test_a_viewer_hears_no_words_and_of_no_keys(self, web_server: WebServer) -> None:
        session = session_of("viewer")
        start = write()[0]
        write(action="access.user.changed", nova_id="", object_type="user", object_id="ada")
        write(action="safety.key.created", object_type="key", object_id="1")
        written = write(after={"title": "planted"}, reason="planted", message={"text": "planted"})
        with web_server.listen_as(session, after=start) as listener:
            found = listener.entries(1)
        assert ids(found) == written
        assert "planted" not in str(found)
        assert set(found[0]) == set(events.OUTLINE)

    def test_an_auditor_hears_all_but_what_is_personal(self, web_server: WebServer) -> None:
        session = session_of("auditor")
        start = write()[0]
        written = write(action="access.user.changed", nova_id="", object_type="user", object_id="ada", after={"x": 1})
        with web_server.listen_as(session, after=start) as listener:
            found = listener.entries(1)
        assert ids(found) == written
        assert found[0]["after"] == {"x": 1}

    def test_a_user_without_a_role_hears_nothing(self, web_server: WebServer) -> None:
        with web_server.listen_as(session_of("nobody")) as listener:
            assert listener.answer.status == 403

    def test_a_revoked_key_hears_no_more(self, web_server: WebServer, now: datetime) -> None:
        factories.make_nova("torch")
        key, row = create_key("torch", now=now)
        with web_server.listen(key) as listener:
            listener.settle()
            revoke_key(row.pk, reason="lost", now=now)
            write(after={"text": "planted"})
            assert listener.entries(1_000) == []  # the line has ended

    def test_a_caller_has_only_so_many_lines(self, web_server: WebServer, now: datetime) -> None:
        factories.make_nova("torch")
        key, _ = create_key("torch", now=now)
        lines = [web_server.listen(key).settle() for _ in range(4)]
        with web_server.listen(key) as listener:
            assert listener.answer.status == 429
            assert listener.answer.headers["Retry-After"] == "30"
        for line in lines:
            line.close()


class TestTheServer:
    def test_a_listener_costs_no_thread(self, web_server: WebServer) -> None:
        keys = []
        for number in range(5):
            factories.make_nova(f"nova-{number}")
            keys.append(create_key(f"nova-{number}", now=factories.NOW)[0])
        with web_server.listen(keys[0]) as first:
            first.settle()
            before = web_server.threads()
            lines = [web_server.listen(key).settle() for key in keys for _ in range(2)]
            first.settle()
            assert web_server.threads() <= before + 1
            for line in lines:
                line.close()

    def test_lines_close_when_it_stops(self, web_server: WebServer) -> None:
        begun = len(web_server.log())
        with web_server.listen() as listener:
            listener.settle()
            web_server.stop()
            assert listener.entries(1) == []
        assert "graceful shutdown exceeded" not in web_server.log()[begun:]
        assert "Traceback" not in web_server.log()[begun:]


def _write_many(count: int) -> None:
    try:
        for _ in range(count):
            write(2)
    finally:
        connections.close_all()
