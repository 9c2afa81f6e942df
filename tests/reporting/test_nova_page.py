"""The page of one Nova: every tab for every role, what viewers never read, what it costs, and a stream server that is away."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from reporting import series
from reporting.core.story import CHAPTERS, detail_of, words_of
from reporting.nova_story import PAGE
from safety import audit
from safety.api_keys import create_key
from safety.audit import Entry, acting
from safety.models import AuditEntry
from safety.observations import Kind, observe
from safety.stream_client import StreamClient
from tests import factories
from tests.reporting.test_pages import ROLES, person, text
from workflow.models import Nova, NovaState

pytestmark = pytest.mark.django_db
TABS = ("activity", "tasks", "streams", "safety", "configuration", "keys")
WRITTEN = "PLANTED-TEXT"


@pytest.fixture
def torch(db: None) -> Nova:
    """A Nova with a journal, tasks, an incident and a key, full of what people and agents wrote."""
    now = timezone.now()
    factories.make_healthy_fleet(now=now)
    nova = factories.make_nova("torch", now=now, state={"total_cycles_completed": 9, "tasks_in_flight": 1})
    factories.make_task("Write the notes", assignee="torch", status="in_progress", now=now, description=WRITTEN)
    factories.make_task("Sort them", assignee="torch", status="blocked", now=now, block_reason=WRITTEN, block_action=WRITTEN)
    factories.make_task("Read them", assignee="torch", status="completed", now=now, results=WRITTEN)
    factories.make_task("A PRIVATE-TITLE", assignee="torch", now=now, personal=True)
    factories.make_incident("torch", now=now, reason=WRITTEN)
    with transaction.atomic():
        note("workflow.nova.moved", after={"path": ["stream_check", "work_discovery"]})
        note("workflow.task.blocked", object_type="task", object_id="TORCH-1-000001", reason=WRITTEN)
        note("workflow.nova.reflected", reason="PRIVATE-TITLE", personal=True)
        create_key("torch", now=now)
    return nova


def note(action: str, **fields: Any) -> None:
    with acting(fields.pop("actor", "nova:torch")), transaction.atomic():
        audit.record([Entry(action, "torch", **fields)], now=timezone.now())


@pytest.mark.parametrize("role", ROLES)
def test_shows_each_role_what_it_may_see(role: str, torch: Nova, stream_url: str) -> None:
    client = person(role)
    for tab in TABS:
        answer = client.get(f"/novas/torch/?tab={tab}")
        part = client.get(f"/parts/novas/torch/tab/?tab={tab}")
        if tab == "keys" and role in ("viewer", "operator"):
            assert (answer.status_code, part.status_code) == (403, 403)
            continue
        assert (answer.status_code, part.status_code) == (200, 200), (tab, role)
        page = answer.content.decode()
        assert (WRITTEN in page) == (tab in ("activity", "tasks", "safety") and role != "viewer"), tab
        assert "PRIVATE-TITLE" not in page
        assert ('id="do-pause"' in page) == (role in ("operator", "safety officer", "admin"))
        assert ('id="tab-keys"' in page) == (role not in ("viewer", "operator"))
        assert page.count("<h1") == 1
        assert " style=" not in page
    assert client.get("/novas/nobody/").status_code == 404


def test_says_where_it_stands_and_what_it_may_do_next(torch: Nova, admin_client: Client) -> None:
    NovaState.objects.filter(pk="torch").update(current_state="work_discovery", mode="paused", mode_reason="disk full")
    standing = text(admin_client, "/parts/novas/torch/")
    assert "disk full" in standing
    assert 'aria-current="step">work discovery' in standing
    assert "when resumed" in standing
    assert 'id="do-resume"' in standing
    assert 'id="do-pause"' not in standing


def test_empty_tabs_say_what_would_fill_them(admin_client: Client, stream_url: str) -> None:
    factories.make_nova("torch", now=timezone.now())
    for tab, words in (
        ("activity", "Nothing yet"), ("tasks", "No tasks yet"), ("streams", "none yet"), ("safety", "No incidents"),
        ("keys", "apikey_create torch"), ("activity&chapter=people", "What operators do to torch"),
    ):  # fmt: skip
        assert words in text(admin_client, f"/novas/torch/?tab={tab}"), tab
    assert "No requested task was completed in 24 hours" in text(admin_client, "/parts/novas/torch/charts/")
    assert text(admin_client, "/novas/torch/?tab=nonsense&hours=x&before=y&chapter=z")


def test_costs_the_same_for_any_number_of_rows(torch: Nova, admin_client: Client, stream_url: str) -> None:
    counts: list[list[int]] = []
    for number in (1, 50):
        for place in range(number):
            factories.make_task(f"Task {place}", assignee="torch", now=timezone.now())
            factories.make_incident("torch", mechanism=f"m{number}-{place}", now=timezone.now())
            note("workflow.task.progressed", object_type="task", object_id=f"TORCH-{place}")
        counts.append([])
        for tab in TABS:
            with CaptureQueriesContext(connection) as queries:
                text(admin_client, f"/novas/torch/?tab={tab}")
            counts[-1].append(len(queries))
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 45


def test_a_story_is_read_on_by_chapters_and_pages(torch: Nova, admin_client: Client) -> None:
    for place in range(PAGE + 5):
        note("workflow.task.progressed", object_type="task", object_id=f"TORCH-{place}")
    note("workflow.nova.paused", actor="user:eve", reason="lunch")
    newest = text(admin_client, "/parts/novas/torch/tab/?tab=activity")
    assert "Nova paused" in newest
    assert "lunch" in newest
    last = AuditEntry.objects.filter(nova_id="torch").order_by("-id")[PAGE - 1].pk
    assert f"before={last}" in newest
    older = text(admin_client, f"/parts/novas/torch/tab/?tab=activity&before={last}")
    assert "stream check → work discovery" in older
    assert "story-older" not in older
    people = text(admin_client, "/parts/novas/torch/tab/?tab=activity&chapter=people")
    assert people.count("<li>") == 1
    assert "user:eve" in people
    states = text(admin_client, "/parts/novas/torch/tab/?tab=activity&chapter=states")
    assert states.count("<li>") == 1


def test_streams_tell_length_last_entry_and_what_is_unread(torch: Nova, admin_client: Client, stream: StreamClient) -> None:
    milliseconds = int((timezone.now() - timedelta(seconds=90)).timestamp() * 1000)
    stream.call("XADD", "nova.coordination.torch", f"{milliseconds}-0", "type", "hello")
    stream.call("XADD", "nova.status.torch", f"{milliseconds}-0", "state", "x")
    tab = text(admin_client, "/parts/novas/torch/tab/?tab=streams")
    assert "oldest waits" in tab
    assert tab.count(f"{milliseconds}-0") == 2


def test_a_stream_server_that_is_away_breaks_nothing(torch: Nova, admin_client: Client, settings: Any) -> None:
    settings.DRAGONFLY_URL = "redis://127.0.0.1:9/0"  # nobody listens there
    tab = text(admin_client, "/novas/torch/?tab=streams")
    assert "could not be reached" in tab
    assert "nova.coordination.torch" in tab
    factories.make_healthy_fleet(now=timezone.now(), stream_reachable=False)
    tab = text(admin_client, "/parts/novas/torch/tab/?tab=streams&chapter=again")
    assert "The stream server does not answer." in tab


def test_safety_names_who_objects_what_was_measured_and_until_when(torch: Nova, admin_client: Client) -> None:
    now = timezone.now()
    factories.make_safety_state(
        "torch", is_safe=False, safety_level="cooldown", mechanism="frosty", reason="61 tool uses in a minute",
        measured=61, limit=60, since=now, until=now + timedelta(minutes=5),
    )  # fmt: skip
    observe("torch", Kind.API_REQUEST, now=now, count=7)
    tab = text(admin_client, "/parts/novas/torch/tab/?tab=safety")
    assert "Frosty stops it" in tab
    assert tab.index("61 tool uses in a minute") < tab.index("API guardian")
    assert '<b class="text-good">7</b> of 30' in tab
    assert tab.count('<td data-label="Status">') == 5
    assert NovaState.objects.get(pk="torch").mode == "running"


def test_configuration_says_where_each_value_comes_from(torch: Nova, admin_client: Client) -> None:
    factories.make_policy("wide", requests_per_minute=99)
    Nova.objects.filter(pk="torch").update(budget_tokens=5_000, candidate_policy="wide")
    tab = text(admin_client, "/parts/novas/torch/tab/?tab=configuration")
    for words in ("personality torch", "set on this Nova", "5,000 tokens a day", "policy standard, as in standard", "99"):
        assert words in tab


def test_money_and_tokens_stand_beside_their_limits(torch: Nova, admin_client: Client) -> None:
    now = timezone.now()
    Nova.objects.filter(pk="torch").update(budget_cost=2.0)
    factories.make_usage("torch", now=now, requests=4, input_tokens=900, output_tokens=100, cost_micros=1_700_000)
    observe("torch", Kind.API_REQUEST, now=now, count=3)
    charts = text(admin_client, "/parts/novas/torch/charts/?hours=24")
    for words in ("1.70", "of 2.00", "1,000", "no limit", "30 a minute", "85 % of the budget used"):
        assert words in charts
    assert series.provider_calls("torch", now=now)[-1]["calls"] == 3


def test_a_control_refuses_an_empty_reason_and_journals_a_given_one(torch: Nova) -> None:
    operator = person("operator")
    assert operator.post("/novas/torch/drain/", {"reason": ""}).status_code == 400
    assert NovaState.objects.get(pk="torch").mode == "running"
    page = operator.post("/novas/torch/drain/", {"reason": "maintenance"}, follow=True).content.decode()
    assert "Asked to drain" in page
    assert "maintenance" in page
    assert AuditEntry.objects.get(action="workflow.nova.drain_requested").actor == "user:operator"


def test_words_say_only_what_actions_name() -> None:
    assert words_of("workflow.task.completion_refused") == "Task completion refused"
    assert detail_of("workflow.nova.moved", {"path": ["stream_check", "task_execution"]}) == "stream check → task execution"
    assert detail_of("workflow.task.completed", {"path": ["x"], "mechanism": "y"}) == ""
    assert "people" in CHAPTERS
