"""Board, task, new task and waiting pages, through their doors: what each role sees, what it may do, and what that costs."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from reporting import board_rows
from reporting.board_rows import Place
from safety.models import AuditEntry
from tests import factories
from tests.reporting.summing import do_task
from workflow import approvals, task_selections
from workflow.models import Approval, Halt, Task
from workflow.task_services import RequestRefused

pytestmark = pytest.mark.django_db
ROLES = ("viewer", "operator", "safety officer", "auditor", "admin")
MAY_ACT = {"operator", "safety officer", "admin"}
SECRET = "PLANTED-PAYLOAD"


def person(role: str) -> Client:
    user = User.objects.create(username=role.replace(" ", "-"))
    user.groups.add(Group.objects.get(name=role))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def text(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code, answer.content[:300])
    return answer.content.decode()


@pytest.fixture
def at() -> datetime:
    return timezone.now()


@pytest.fixture
def tasks(fleet: list[str], at: datetime) -> dict[str, Task]:
    """A task of each kind, full of words that a viewer may not read."""
    words: dict[str, Any] = {"description": SECRET, "results": SECRET, "metrics": {"evidence": SECRET}, "now": at}
    words |= {"insights": {"lesson": SECRET}, "metadata": {"note": SECRET}, "sender": SECRET, "assignee": "torch"}
    made = {
        "pending": factories.make_task("To do", priority="critical", **words),
        "running": factories.make_task("Doing", status="in_progress", progress=40, **words),
        "stuck": factories.make_task("Stuck", status="blocked", block_owner=SECRET, block_action=SECRET, **words),
        "done": factories.make_task("Done", status="completed", **words),
        "dropped": factories.make_task("Dropped", status="completed", outcome="cancelled", **words),
    }
    factories.make_execution(made["done"], results=SECRET, error=SECRET, status="succeeded", now=at)
    factories.make_task("Private thoughts", personal=True, **words)
    return made


@pytest.fixture
def request_(fleet: list[str], at: datetime) -> Approval:
    return approvals.request_approval("torch", "deploy", {"branch": SECRET}, reason=SECRET, now=at)


class TestEveryPage:
    def test_shows_each_role_what_it_may_see(self, tasks: dict[str, Task], request_: Approval) -> None:
        factories.make_incident("echo", reason=SECRET)
        done, stuck = tasks["done"].pk, tasks["stuck"].pk
        paths = ("/board/?view=columns", "/board/?view=table", f"/tasks/{done}/", f"/tasks/{stuck}/", "/waiting/")
        for role in ROLES:
            client = person(role)
            for path in paths:
                page = text(client, path)
                assert "Private thoughts" not in page
                assert (SECRET in page) == (role != "viewer"), (role, path)
            assert client.get("/tasks/new/").status_code == (200 if role in MAY_ACT else 403)
            assert client.get(f"/tasks/{stuck}/retry/").status_code == (200 if role in MAY_ACT else 403)
            assert client.get(f"/waiting/approvals/{request_.pk}/approve/").status_code == (200 if role in MAY_ACT else 403)
            assert ("/tasks/new/" in text(client, "/board/")) == (role in MAY_ACT)

    def test_is_shut_to_strangers_and_hides_what_is_not_there(self, tasks: dict[str, Task], admin_client: Client) -> None:
        private = Task.objects.get(personal=True).pk
        for path in (f"/tasks/{private}/", f"/tasks/{private}/cancel/", "/tasks/NO-1-000000/", "/waiting/approvals/7/deny/"):
            assert admin_client.get(path).status_code == 404, path
        for path in ("/board/", f"/tasks/{tasks['done'].pk}/", "/tasks/new/", "/waiting/"):
            assert Client().get(path).status_code == 302
        client = Client()
        client.force_login(User.objects.create(username="nobody"))
        assert {client.get(path).status_code for path in ("/board/", "/tasks/new/", "/waiting/")} == {403}

    def test_costs_the_same_for_one_row_and_for_fifty(self, admin_client: Client, fleet: list[str], at: datetime) -> None:
        paths = ["/board/?view=columns&team=red", "/board/?view=table", "/waiting/", ""]
        counts: list[list[int]] = []
        for number in (1, 50):
            for _ in range(number):
                ended = {status: factories.make_task(assignee="torch", status=status, now=at) for status in board_rows.COLUMNS}
                approvals.request_approval("torch", f"deploy {number} {_}", {}, now=at, task_id=ended["pending"].pk)
            paths[3] = f"/tasks/{ended['completed'].pk}/"
            for attempt in range(2, number + 2):
                factories.make_execution(ended["completed"], attempt=attempt, status="failed", now=at)
            for path in paths:
                admin_client.get(path)
            counts.append([])
            for path in paths:
                with CaptureQueriesContext(connection) as queries:
                    text(admin_client, path)
                counts[-1].append(len(queries))
        assert counts[0] == counts[1]
        assert max(counts[0]) < 30


class TestBoard:
    def test_has_a_column_for_each_status_with_number_and_age(
        self, admin_client: Client, fleet: list[str], at: datetime
    ) -> None:
        for number in range(25):
            factories.make_task(f"Task {number}", now=at - timedelta(hours=number))
        factories.make_task("Long over", status="completed", now=at - timedelta(days=2))
        page = " ".join(text(admin_client, "/board/?view=columns").split())
        assert re.search(r"Pending</h2> <b>25</b><small>oldest <time [^>]*>24 h", page)
        assert page.index("Task 0<") < page.index("Task 19<")
        assert "Task 20<" not in page
        assert "?view=table&amp;status=pending" in page
        assert "Long over" not in page
        assert "Nothing ended in the last 24 hours." in page

    def test_counts_no_further_than_it_says(self, admin_client: Client, at: datetime, monkeypatch: Any) -> None:
        monkeypatch.setattr(board_rows, "COUNTED", 4)
        for number in range(5):
            factories.make_task(now=at - timedelta(hours=number))
        page = text(admin_client, "/board/?view=columns")
        assert "<b>3+</b>" in page
        assert ">4 h</time>" in page

    @pytest.mark.parametrize("view", ["columns", "table"])
    def test_finds_by_nova_team_priority_executor_and_beginning(self, view: str, admin_client: Client, at: datetime) -> None:
        factories.make_nova("torch", team="red")
        wanted = factories.make_task("Wanted", assignee="torch", priority="high", executor="agent", now=at)
        factories.make_task("Other", now=at)
        queries = (
            "nova=Torch",
            "team=red",
            "priority=high",
            "executor=agent",
            "q=want",
            f"q={wanted.pk[:-3]}",
            "nova=torch%00",
        )
        for query in queries:
            page = text(admin_client, f"/parts/board/{view}/?{query}")
            assert "Wanted" in page, query
            assert "Other" not in page, query
        assert "Wanted" not in text(admin_client, f"/parts/board/{view}/?q=anted")
        wrong = text(admin_client, f"/board/?view={view}&priority=urgent")
        assert "This filter was left out." in wrong
        assert "Wanted" in wrong

    def test_is_a_table_first_on_a_telephone(self, admin_client: Client) -> None:
        assert "live-board-columns" in text(admin_client, "/board/")
        answer = admin_client.get("/board/", headers={"Sec-CH-UA-Mobile": "?1"})
        assert "live-board-table" in answer.content.decode()

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    @pytest.mark.parametrize("filtered", ["", "q=Task"])
    def test_the_table_is_paged_to_its_end_without_gap_or_repeat(
        self, order: str, filtered: str, admin_client: Client, at: datetime, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(board_rows, "LOOKED", 7)
        monkeypatch.setattr(board_rows, "TABLE_ROWS", 4)
        factories.make_nova("torch")
        for number in range(20):
            status = board_rows.COLUMNS[number % 4]
            title, made = "Task" if number % 3 else "Odd", at - timedelta(hours=number // 2)
            factories.make_task(title, status=status, assignee="torch", now=made)
        seen: list[str] = []
        url = f"/parts/board/table/?order={order}&{filtered}"
        while url:
            page = text(admin_client, url)
            seen += re.findall(r'id="tick-([^"]+)"', page)
            found = re.search(r'id="page-next"[^>]*href="([^"]+)"', page)
            url = f"/parts/board/table/{found[1].replace('&amp;', '&')}" if found else ""
        fitting = Task.objects.filter(title__startswith="Task") if filtered else Task.objects.all()
        ordered = fitting.order_by("created_at", "pk") if order == "oldest" else fitting.order_by("-created_at", "-pk")
        assert seen == list(ordered.values_list("pk", flat=True))

    def test_a_place_in_the_table_that_is_none_is_the_beginning(self, admin_client: Client, at: datetime) -> None:
        factories.make_task("Only one", now=at)
        for place in ("nonsense", "2026-01-01~x", "~", "2026-11-20T12:00:00+00:00~%00"):
            assert "Only one" in text(admin_client, f"/parts/board/table/?after={place}")
        assert Place.of(str(Place(at, "A~B"))) == Place(at, "A~B")


class TestManyTasks:
    def choose(self, client: Client, verb: str, **fields: Any) -> Any:
        return client.post("/board/selection/", {"verb": verb, "query": "view=table", **fields}, follow=True)

    def test_what_was_chosen_is_shown_then_done_to_exactly_that(self, fleet: list[str], at: datetime) -> None:
        client = person("operator")
        chosen = [factories.make_task(f"Task {n}", assignee="torch", now=at) for n in range(22)]
        done = factories.make_task("Done", status="completed", now=at)
        asked = self.choose(client, "cancel", every="1")
        page, path = asked.content.decode(), asked.redirect_chain[-1][0]
        assert "Cancel: 23 tasks" in page
        assert "and 3 more" in page
        assert client.post(path, {"reason": ""}).status_code == 400
        later = factories.make_task("Came later", now=at)
        told = client.post(path, {"reason": "no longer needed"}, follow=True).content.decode()
        assert "22 tasks cancelled. 1 refused: Task" in told
        assert set(Task.objects.filter(outcome="cancelled").values_list("pk", flat=True)) == {task.pk for task in chosen}
        assert Task.objects.get(pk=later.pk).status == "pending"
        assert done.pk in told
        entries = AuditEntry.objects.filter(action="workflow.task.cancelled", reason="no longer needed")
        assert (entries.count(), entries[0].actor) == (22, "user:operator")
        again = client.post(path, {"reason": "twice"}, follow=True).content.decode()
        assert "This selection was used" in again

    def test_ticked_ones_are_retried_and_ranked(self, fleet: list[str], at: datetime) -> None:
        client = person("operator")
        stuck = factories.make_task(status="blocked", assignee="torch", now=at)
        waits = factories.make_task(not_before=at + timedelta(hours=1), now=at)
        ready = factories.make_task(now=at)
        keys = [stuck.pk, waits.pk, ready.pk, "GONE-1-000000"]
        path = self.choose(client, "retry", task=keys).redirect_chain[-1][0]
        told = client.post(path, {"reason": "fixed"}, follow=True).content.decode()
        assert "2 tasks to be tried again. 1 needed no change. 1 refused: There is no task GONE" in told
        assert not Task.objects.exclude(status="pending", not_before=None).exists()
        path = self.choose(client, "priority", task=keys[:2]).redirect_chain[-1][0]
        assert client.post(path, {"reason": "hurry", "priority": "urgent"}).status_code == 400
        client.post(path, {"reason": "hurry", "priority": "critical"})
        assert set(Task.objects.filter(priority="critical").values_list("pk", flat=True)) == {stuck.pk, waits.pk}

    def test_nothing_chosen_is_nothing_done_and_viewers_may_not(self, fleet: list[str], at: datetime) -> None:
        task = factories.make_task(now=at)
        assert "No task is ticked" in self.choose(person("operator"), "cancel").content.decode()
        assert self.choose(person("viewer"), "cancel", task=[task.pk]).status_code == 403
        assert self.choose(person("admin"), "delete", task=[task.pk]).status_code == 404

    def test_many_cost_as_many_queries_as_one(self, fleet: list[str], at: datetime) -> None:
        counts = []
        for number in (2, 60):
            keys = [factories.make_task(assignee="torch", now=at).pk for _ in range(number)]
            with CaptureQueriesContext(connection) as queries:
                task_selections.act_on_many("cancel", keys, reason="x", now=at)
            counts.append(len(queries))
        assert counts[0] == counts[1]
        with pytest.raises(RequestRefused):
            task_selections.act_on_many("cancel", ["x"] * 1_001, reason="x", now=at)


class TestTaskPage:
    def test_tells_the_whole_story(self, admin_client: Client, fleet: list[str], at: datetime) -> None:
        first = do_task("torch", at=at, title="Count the beans", description="All of them.", metadata={"bag": 7})
        second = factories.make_task("After it", assignee="torch", waiting_on=1, now=at)
        second.dependencies.create(depends_on=first)
        asked = approvals.request_approval("torch", "pour", {}, task_id=first, now=at)
        factories.make_execution(Task.objects.get(pk=first), status="failed", error="the bag was torn", started_at=at, now=at)
        page = text(admin_client, f"/tasks/{first}/")
        for words in (
            "All of them.",
            "There are 12.",
            "sha256:0a1b",
            "bag",
            "the bag was torn",
            "After it",
            "is waited for by",
        ):
            assert words in page, words
        assert f"approval {asked.pk}" in page
        assert page.index("<strong>completed</strong>") < page.index("<strong>created</strong>")
        assert "It waits for 1 other task." in text(admin_client, f"/tasks/{second.pk}/")

    def test_offers_what_would_change_it(self, tasks: dict[str, Task], admin_client: Client) -> None:
        offered = {
            name: re.findall(r'id="do-(\w+)"', text(admin_client, f"/parts/tasks/{task.pk}/")) for name, task in tasks.items()
        }
        assert offered == {
            "pending": ["priority", "edit", "cancel"],
            "running": ["cancel"],
            "stuck": ["retry", "priority", "edit", "cancel"],
            "done": [],
            "dropped": [],
        }

    def test_controls_act_with_a_reason_and_are_journalled(self, tasks: dict[str, Task]) -> None:
        client, path = person("operator"), f"/tasks/{tasks['stuck'].pk}"
        edited = {"title": "Stuck no more", "description": "Anew.", "priority": "low", "assignee": "echo"}
        assert client.post(f"{path}/edit/", {**edited, "reason": " "}).status_code == 400
        assert client.post(f"{path}/edit/", {**edited, "assignee": "nobody", "reason": "x"}).status_code == 409
        assert Task.objects.get(pk=tasks["stuck"].pk).title == "Stuck"
        for verb, fields in (("edit", edited), ("priority", {"priority": "high"}), ("retry", {}), ("cancel", {})):
            assert client.post(f"{path}/{verb}/", {**fields, "reason": f"why {verb}"}).status_code == 302, verb
        task = Task.objects.get(pk=tasks["stuck"].pk)
        assert (task.title, task.description, task.priority, task.assignee_id) == ("Stuck no more", "Anew.", "high", "echo")
        assert task.outcome == "cancelled"
        told = {entry.action.rpartition(".")[2]: entry for entry in AuditEntry.objects.filter(object_id=task.pk)}
        assert told.keys() == {"edited", "assigned", "ranked", "unblocked", "cancelled"}
        assert {entry.actor for entry in told.values()} == {"user:operator"}
        refused = client.post(f"{path}/retry/", {"reason": "again"})
        assert refused.status_code == 409
        assert "only a blocked or failed task" in refused.content.decode()


class TestNewTask:
    GIVEN = {"title": "Count  the beans", "priority": "high", "assignee": "Torch", "executor": "builtin", "token": "t1",
             "description": "All.\r\nOf them.", "metadata": '{"bag": 7}'}  # fmt: skip

    def test_is_made_once_however_often_it_is_sent(self, fleet: list[str]) -> None:
        client = person("operator")
        form = text(client, "/tasks/new/?nova=torch")
        assert re.search(r'name="token" value="[\w-]{20,}"', form)
        assert 'value="torch"' in form
        first, second = (client.post("/tasks/new/", self.GIVEN) for _ in range(2))
        task = Task.objects.get()
        assert first.headers["Location"] == second.headers["Location"] == f"/tasks/{task.pk}/"
        assert (task.title, task.assignee_id, task.priority, task.metadata) == ("Count the beans", "torch", "high", {"bag": 7})
        assert (task.description, task.sender) == ("All.\nOf them.", "user:operator")
        assert AuditEntry.objects.get(action="workflow.task.created").actor == "user:operator"
        assert "was made already" in text(client, first.headers["Location"])
        other = client.post("/tasks/new/", {**self.GIVEN, "title": "Another"})
        assert other.status_code == 400
        assert "belongs to another task" in other.content.decode()

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"title": " "}, "This field is required."),
            ({"title": "x" * 501}, "at most"),
            ({"priority": "urgent"}, "Select a valid choice"),
            ({"assignee": "nobody"}, "There is no Nova nobody"),
            ({"team": "red"}, "is not in team red"),
            ({"team": "not a slug"}, "slug"),
            ({"executor": "magic"}, "Select a valid choice"),
            ({"action": "dance"}, "has no action dance"),
            ({"action": "no spaces"}, "does not match"),
            ({"metadata": "{bag: 7}"}, "This is no JSON"),
            ({"metadata": "[1]"}, "Give a JSON object"),
            ({"metadata": f'{{"x": "{"y" * 70_000}"}}'}, "Longer than"),
            ({"token": ""}, "Make the task"),
        ],
    )
    def test_refuses_what_rest_refuses_and_makes_nothing(
        self, wrong: dict[str, str], told: str, admin_client: Client, fleet: list[str]
    ) -> None:
        answer = admin_client.post("/tasks/new/", {**self.GIVEN, **wrong})
        assert answer.status_code == 400
        assert told in answer.content.decode()
        assert "All." in answer.content.decode()
        assert not Task.objects.exists()

    def test_needs_a_token_against_forgery(self, admin_user: User, fleet: list[str]) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(admin_user)
        assert strict.post("/tasks/new/", self.GIVEN).status_code == 403
        assert strict.post("/board/selection/", {"verb": "cancel", "every": "1"}).status_code == 403


class TestWaiting:
    def test_says_so_when_nothing_waits(self, admin_client: Client, fleet: list[str]) -> None:
        page = text(admin_client, "/waiting/")
        assert "Nothing waits for you" in page
        assert 'class="count"' not in page

    def test_lists_what_waits_and_counts_it_in_the_menu(self, request_: Approval, at: datetime, admin_client: Client) -> None:
        factories.make_task("For people", status="blocked", block_action="buy beans", now=at)
        factories.make_task("For a Nova", status="blocked", block_owner="echo", block_action="answer", now=at)
        factories.make_incident("echo", reason="60 tool uses in a minute")
        factories.make_incident("helix", status="acknowledged", reason="seen already")
        halt = Halt.objects.create(kind="pause", scope="nova", target="vaeris", reason="x", requested_by="y", requested_at=at)
        halt.confirmations.create(nova_id="vaeris", requested_at=at)
        page = text(admin_client, "/waiting/")
        for words in ("deploy", "buy beans", "60 tool uses in a minute", "0 of 1 confirmed", "echo can unblock them"):
            assert words in page, words
        assert "seen already" not in page
        assert page.index("operator can unblock them") < page.index("echo can unblock them")
        assert '<b class="count">5' in text(admin_client, "/")

    def test_approvals_are_decided_with_a_reason(self, request_: Approval, at: datetime) -> None:
        client, path = person("operator"), f"/waiting/approvals/{request_.pk}"
        assert SECRET in text(client, f"{path}/approve/")
        assert client.post(f"{path}/approve/", {"reason": ""}).status_code == 400
        request_.refresh_from_db()
        assert request_.status == "pending"
        assert client.post(f"{path}/approve/", {"reason": "go"}).status_code == 302
        request_.refresh_from_db()
        assert (request_.status, request_.decided_by, request_.decision_reason) == ("approved", "user:operator", "go")
        client.post(f"{path}/deny/", {"reason": "no, stop"})
        assert AuditEntry.objects.get(action="workflow.approval.denied").reason == "no, stop"
        refused = client.post(f"{path}/approve/", {"reason": "go after all"})
        assert refused.status_code == 409
        assert "is denied already" in refused.content.decode()

    def test_an_incident_is_acknowledged_with_words(self, fleet: list[str]) -> None:
        incident = factories.make_incident("echo")
        path = f"/waiting/incidents/{incident.pk}/acknowledge/"
        assert person("auditor").post(path, {"reason": "x"}).status_code == 403
        assert person("operator").post(path, {"reason": "I look at it"}).status_code == 302
        incident.refresh_from_db()
        assert (incident.status, incident.acknowledged_by) == ("acknowledged", "user:operator")
