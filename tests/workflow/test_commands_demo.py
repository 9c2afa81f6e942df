"""`manage.py seed_demo`: believable, labelled, in no real figure, and gone when it is removed."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db.models import F
from django.utils import timezone

from safety.models import AuditEntry, JournalHead, OutboxEntry, SafetyIncident
from tests import factories
from workflow import seeding
from workflow.configuration import create_nova
from workflow.core.demonstration import TEAM
from workflow.execution.registry import ExecutionContext
from workflow.execution.works.figures import enhance_reporting
from workflow.models import Nova, NovaState, Task

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(180)]

DAYS = 4
NAMES = ["demo-torch", "demo-echo", "demo-helix", "demo-vaeris", "demo-synergy"]


def run(**options: Any) -> dict[str, int]:
    out = StringIO()
    call_command("seed_demo", json=True, stdout=out, **options)
    found: dict[str, int] = json.loads(out.getvalue())
    return found


@pytest.fixture
def house() -> None:
    seeding.seed_all(now=timezone.now())
    OutboxEntry.objects.all().delete()


def rows_of_the_team() -> dict[str, int]:
    """Count the rows, but the journal's, in which a Nova of the team is named."""
    found = {}
    for model in apps.get_models():
        if model in (AuditEntry, JournalHead):
            continue
        for field in model._meta.concrete_fields:
            if field.related_model is Nova or field.name == "nova_id":
                found[model._meta.label] = model._base_manager.filter(**{f"{field.name}__in": NAMES}).count()
    return {label: count for label, count in found.items() if count}


def test_the_history_is_believable(house):
    begun = timezone.now()
    made = run(days=DAYS)
    tasks = Task.objects.filter(team=TEAM)
    assert made == {"novas": 5, "tasks": tasks.count(), "incidents": 2}
    assert made["tasks"] > 20
    done = tasks.filter(status="completed", outcome="succeeded")
    assert done.count() > made["tasks"] / 2
    assert not done.filter(started_at__lt=F("created_at")).exists()
    assert not done.filter(completed_at__lte=F("started_at")).exists()
    assert not tasks.filter(status="in_progress").exists()
    assert not tasks.filter(updated_at__gt=begun).exists()
    assert done.filter(insights__isnull=False).count() == done.count()
    assert tasks.earliest("created_at").created_at > begun - timedelta(days=DAYS, hours=2)
    assert SafetyIncident.objects.filter(ended_at__isnull=False, conclusion__gt="").count() == 2
    celebrated = AuditEntry.objects.filter(action="workflow.task.celebrated").values_list("object_id", flat=True)
    assert set(celebrated) == set(done.values_list("id", flat=True))


def test_it_is_labelled_and_its_novas_do_nothing(house):
    run(days=DAYS)
    novas = Nova.objects.filter(team=TEAM)
    assert all(nova.pk.startswith("demo-") and "demonstration" in nova.name for nova in novas)
    assert set(NovaState.objects.filter(nova__in=novas).values_list("mode", flat=True)) == {"paused"}
    made_up = AuditEntry.objects.filter(nova_id__startswith="demo-")
    assert set(made_up.values_list("actor", flat=True)) == {"demo"}
    assert AuditEntry.objects.get(action="workflow.demo.seeded").actor.startswith("cli:")


@pytest.mark.parametrize("scope", ["", TEAM])
def test_it_is_on_no_stream_and_in_no_figure_but_its_own(house, scope):
    at = timezone.now()
    factories.make_task(assignee="torch", status="completed", now=at)
    run(days=DAYS)
    assert not OutboxEntry.objects.exists()
    context = ExecutionContext(1, "T-1-000001", "x", "", {"scope": scope}, "torch", "builtin", "enhance_reporting", 1, 1, at)
    metrics = enhance_reporting(context).metrics
    assert metrics["completed_24h"] > 1 if scope else metrics["completed_24h"] == 1
    assert metrics["idle_novas"] == 0


def test_it_is_removed_without_a_trace_but_in_the_journal(house):
    before = rows_of_the_team()
    run(days=DAYS)
    entries = AuditEntry.objects.count()
    factories.make_task(assignee="torch")
    removed = run(remove=True)
    assert removed["workflow.nova"] == 5
    assert rows_of_the_team() == before == {}
    assert not Task.objects.filter(team=TEAM).exists()
    assert Task.objects.count() == 1
    assert AuditEntry.objects.count() == entries + 1
    told = AuditEntry.objects.latest("id")
    assert (told.action, told.after) == ("workflow.demo.removed", removed)
    run(days=1)
    assert Nova.objects.filter(team=TEAM).count() == 5


def test_a_nova_that_an_operator_made_is_never_taken_for_it(house):
    with pytest.raises(CommandError, match="no demonstration team"):
        run(remove=True)
    create_nova("demo-torch", now=timezone.now(), team=TEAM)
    with pytest.raises(CommandError, match="demo-torch already"):
        run(days=1)
    with pytest.raises(CommandError, match="no demonstration team"):
        run(remove=True)
    assert Nova.objects.filter(pk="demo-torch").exists()


def test_it_is_made_once(house):
    run(days=1)
    with pytest.raises(CommandError, match="already"):
        run(days=1)
    with pytest.raises(CommandError, match="1 to 90"):
        run(days=0)
