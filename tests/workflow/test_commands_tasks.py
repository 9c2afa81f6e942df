"""`manage.py task`, `journal`, `stream` and the looking and making verbs of `nova`: what they do, print and end with."""

import json
import os
import signal
import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from safety import audit
from safety.models import AuditEntry
from safety.stream_client import StreamClient
from tests import factories
from tests.processes.stack import ROOT
from workflow.models import InboxMessage, Nova, NovaState, Task

pytestmark = pytest.mark.django_db


def run(*words: Any, code: int = 0, **options: Any) -> str:
    out = StringIO()
    if code:
        with pytest.raises(SystemExit) as ended:
            call_command(*words, stdout=out, **options)
        assert ended.value.code == code
    else:
        call_command(*words, stdout=out, **options)
    return out.getvalue()


class TestTasks:
    def test_are_asked_for_once_for_each_key(self, fleet):
        words = ("task", "create", "Analyse lag", "--priority", "HIGH", "--assignee", "torch", "--key", "order-1")
        task_id = run(*words).strip()
        assert run(*words).strip() == task_id
        task = Task.objects.get()
        assert (task.id, task.title, task.priority, task.assignee_id) == (task_id, "Analyse lag", "high", "torch")
        assert task.sender.startswith("cli:")
        assert AuditEntry.objects.get(action="workflow.task.created").actor.startswith("cli:")

    def test_may_wait_for_another_and_carry_data(self, fleet):
        first = run("task", "create", "First").strip()
        made = json.loads(run("task", "create", "Second", "--after", first, "--metadata", '{"ticket": 7}', "--json"))
        assert made["dependencies"] == [first]
        assert made["metadata"] == {"ticket": 7}
        assert made["replayed"] is False

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["create", "x", "--priority", "urgent"], "priority"),
            (["create", "x", "--assignee", "nobody"], "no Nova nobody"),
            (["create", "x", "--metadata", "{"], "no JSON"),
            (["create", "x", "--estimated-duration", "soon"], "estimated_duration"),
            (["show", "FLEET-1"], "no task FLEET-1"),
            (["cancel", "FLEET-1"], "Say why"),
        ],
    )
    def test_that_can_not_be_are_refused(self, words, message):
        with pytest.raises(CommandError, match=message):
            call_command("task", *words)
        assert not Task.objects.exists()

    def test_are_listed_newest_first_by_what_is_asked(self, fleet):
        old = factories.make_task("Old work", assignee="torch", status="blocked", block_action="say which database")
        new = factories.make_task("New work", created_at=factories.NOW.replace(hour=13))
        factories.make_task("Private", assignee="torch", personal=True)
        assert [row["task_id"] for row in json.loads(run("task", "list", "--json"))] == [new.id, old.id]
        assert [row["task_id"] for row in json.loads(run("task", "list", "--limit", "1", "--json"))] == [new.id]
        assert [row["task_id"] for row in json.loads(run("task", "list", "--assignee", "", "--json"))] == [new.id]
        text = run("task", "list", "--status", "blocked", "--search", "old")
        assert old.id in text
        assert "operator: say which database" in text
        assert "Old work" in run("task", "show", old.id)

    def test_are_cancelled_unblocked_retried_and_ranked_with_a_reason(self, fleet):
        blocked = factories.make_task(assignee="torch", status="blocked")
        assert run("task", "retry", blocked.id, "--reason", "mended") == f"{blocked.id}: done\n"
        assert run("task", "retry", blocked.id, "--reason", "again") == f"{blocked.id}: no change\n"
        assert run("task", "unblock", blocked.id, "--reason", "again") == f"{blocked.id}: no change\n"
        run("task", "priority", "critical", blocked.id, "--reason", "a customer waits")
        run("task", "cancel", blocked.id, "--reason", "not wanted")
        blocked.refresh_from_db()
        assert (blocked.priority, blocked.outcome) == ("critical", "cancelled")
        actors = set(AuditEntry.objects.values_list("actor", flat=True))
        assert {actor[:4] for actor in actors} == {"cli:"}

    def test_that_refuse_a_verb_say_why_and_do_not_hold_up_the_others(self, fleet):
        done, waiting = factories.make_task(assignee="torch", status="completed"), factories.make_task()
        text = run("task", "cancel", done.id, waiting.id, "--reason", "x", code=1)
        assert f"{done.id}: Task {done.id} is completed" in text
        assert f"{waiting.id}: done" in text


class TestNovas:
    def test_are_made_and_shown(self):
        factories.make_personality("echo")
        factories.make_policy()
        made = json.loads(
            run("nova", "create", "scout", "--personality", "echo", "--team", "red", "--executor", "agent", "--json")
        )
        assert made[0]["config"]["default_executor"] == "agent"
        assert Nova.objects.get().team == "red"
        assert AuditEntry.objects.get().actor.startswith("cli:")
        assert "scout (Scout)" in run("nova", "show", "scout")

    @pytest.mark.parametrize("words", [["create"], ["show"]])
    def test_must_be_named(self, words):
        with pytest.raises(CommandError, match="Name a Nova") as refused:
            call_command("nova", *words)
        assert refused.value.returncode == 2

    def test_that_are_taken_or_unknown_are_refused(self, fleet):
        with pytest.raises(CommandError, match="already exists"):
            call_command("nova", "create", "torch")
        with pytest.raises(CommandError, match="no Nova nobody"):
            call_command("nova", "show", "nobody")

    def test_go_out_of_service_and_come_back(self, fleet):
        run("nova", "archive", "torch", reason="retired")
        assert NovaState.objects.get(pk="torch").mode == "archived"
        run("nova", "unarchive", "torch", reason="needed again")
        assert NovaState.objects.get(pk="torch").mode == "paused"


class TestMessages:
    def test_reach_the_inbox_and_are_listed(self, fleet):
        sent = json.loads(run("message", "post", "torch", "echo", "--title", "Stand-up", "--priority", "high", "--json"))
        assert [row["tier"] for row in sent] == ["high", "high"]
        assert InboxMessage.objects.get(nova_id="torch").sender.startswith("cli:")
        assert AuditEntry.objects.filter(action="workflow.message.posted", actor__startswith="cli:").count() == 2
        assert "to torch, high: Stand-up" in run("message", "list", "torch", "--unread")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["post", "torch"], "needs a title or a text"),
            (["post", "torch", "nobody", "--title", "x"], "no Nova nobody"),
            (["list", "nobody"], "no Nova nobody"),
        ],
    )
    def test_that_can_not_be_are_refused(self, fleet, words, message):
        with pytest.raises(CommandError, match=message):
            call_command("message", *words)
        assert not InboxMessage.objects.exists()


class TestJournal:
    @pytest.fixture
    def _entries(self, transactional_db, now) -> None:
        from django.db import transaction

        for action, nova_id in (("workflow.nova.paused", "torch"), ("workflow.nova.resumed", "torch"), ("safety.x.y", "")):
            with transaction.atomic(), audit.acting("user:alice"):
                audit.record([audit.Entry(action, nova_id=nova_id, reason="a look")], now=now)
        with transaction.atomic():
            audit.record([audit.Entry("workflow.reflection.kept", nova_id="torch", reason="secret", personal=True)], now=now)

    @pytest.mark.usefixtures("_entries")
    def test_is_shown_oldest_first_by_what_is_asked(self):
        lines = run("journal", "tail").splitlines()
        assert ["paused" in lines[0], "resumed" in lines[1], "safety.x.y" in lines[2]] == [True] * 3
        assert "secret" not in run("journal", "tail")
        assert len(run("journal", "tail", "-n", "1").splitlines()) == 1
        found = [json.loads(line) for line in run("journal", "tail", "--action", "workflow.*", "--json").splitlines()]
        assert [entry["action"] for entry in found] == ["workflow.nova.paused", "workflow.nova.resumed"]
        assert run("journal", "tail", "--nova", "nobody") == ""

    @pytest.mark.usefixtures("_entries")
    def test_is_followed_until_the_end_is_asked_for(self, now):
        from django.db import connection, transaction

        code = (
            "import django; django.setup()\n"
            "from django.conf import settings\n"
            f"settings.DATABASES['default']['NAME'] = {str(connection.settings_dict['NAME'])!r}\n"
            "from django.core.management import call_command\n"
            "call_command('journal', 'tail', '-n', '1', '--follow', '--action', 'workflow.*')\n"
        )
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "novawf_site.settings", "PYTHONUNBUFFERED": "1"}
        follower = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert follower.stdout is not None
        assert "workflow.nova.resumed" in follower.stdout.readline()
        with transaction.atomic():
            audit.record([audit.Entry("workflow.nova.woken", nova_id="torch", reason="work")], now=now)
        assert "workflow.nova.woken" in follower.stdout.readline()
        follower.send_signal(signal.SIGTERM)
        _, errors = follower.communicate(timeout=10)
        assert (follower.returncode, errors) == (0, "")


class TestStreams:
    def test_are_shown_with_length_and_how_far_they_are_read(self, stream: StreamClient, fleet):
        stream.call("XADD", "nova.work.queue", "5-0", "title", "x")
        stream.call("XADD", "nova.status.torch", "7-0", "status", "x")
        found = json.loads(run("stream", "info", "torch", json=True))
        rows = {row["stream"]: row for row in found["streams"]}
        assert rows["nova.work.queue"] == {"stream": "nova.work.queue", "length": 1, "newest": "5-0", "read_up_to": None}
        assert rows["nova.status.torch"]["length"] == 1
        assert len(rows) == 11
        assert found["unpublished_commits"] == 0
        assert "nova.priority.alerts" in run("stream", "info")

    def test_of_nobody_are_refused(self):
        with pytest.raises(CommandError, match="no Nova nobody"):
            call_command("stream", "info", "nobody")
