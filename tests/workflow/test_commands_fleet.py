"""`manage.py apply` and `export`: a fleet file is put in force as a whole, says what it changes, and comes back as it was."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command

from safety.models import AuditEntry, ProviderAccount, SafetyPolicy
from tests import factories
from workflow.models import Nova, NovaState, Objective, Personality

pytestmark = pytest.mark.django_db

FILE = """
version: 1
policies:
  calm: {description: for the night, requests_per_minute: 5}
personalities:
  owl: {base_cycle_time: 90, reflection_frequency: 0.2, celebration_style: quiet, work_style: builder_focused,
        communication_pattern: direct_collaborative}
novas:
  hoot: {personality: owl, policy: calm, team: night, default_executor: agent}
objectives:
  - {title: Keep the night quiet, nova: hoot, cadence: 3600}
"""


def run(*words: Any, code: int = 0, **options: Any) -> str:
    out = StringIO()
    if code:
        with pytest.raises(SystemExit) as ended:
            call_command(*words, stdout=out, **options)
        assert ended.value.code == code
    else:
        call_command(*words, stdout=out, **options)
    return out.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FILE)
    return path


def test_a_file_is_put_in_force_and_a_second_time_changes_nothing(file):
    assert "4 changed." in run("apply", file=str(file))
    nova = Nova.objects.get(pk="hoot")
    assert (nova.name, nova.personality_id, nova.policy_id, nova.team) == ("Hoot", "owl", "calm", "night")
    assert NovaState.objects.get(pk="hoot").mode == "running"
    assert Objective.objects.get().nova == nova
    entries = AuditEntry.objects.count()
    assert run("apply", file=str(file)) == "Nothing to change.\n"
    assert AuditEntry.objects.count() == entries
    assert AuditEntry.objects.earliest("id").actor.startswith("cli:")


def test_a_rehearsal_says_what_would_change_and_changes_nothing(file):
    text = run("apply", file=str(file), dry_run=True, code=3)
    assert "+ novas/hoot created" in text
    assert "4 would change." in text
    assert not Nova.objects.exists()
    assert not AuditEntry.objects.exists()
    run("apply", file=str(file))
    assert run("apply", file=str(file), dry_run=True) == "Nothing to change.\n"


def test_only_what_differs_is_changed_and_told(file):
    run("apply", file=str(file))
    file.write_text(FILE.replace("requests_per_minute: 5", "requests_per_minute: 7"))
    told = json.loads(run("apply", file=str(file), reason="busier nights", json=True))
    assert told == {
        "applied": True,
        "changes": [{"verb": "changed", "kind": "policies", "name": "calm", "fields": {"requests_per_minute": [5, 7]}}],
    }
    assert AuditEntry.objects.latest("id").reason == "busier nights"
    assert SafetyPolicy.objects.get().description == "for the night"


def test_what_the_file_takes_out_of_use_is_archived_and_comes_back(file):
    run("apply", file=str(file))
    tree = yaml.safe_load(FILE)
    tree["objectives"][0]["archived"] = True
    for kind, name in (("policies", "calm"), ("personalities", "owl"), ("novas", "hoot")):
        tree[kind][name]["archived"] = True
    file.write_text(yaml.safe_dump(tree))
    assert run("apply", file=str(file)).count(" archived") == 4
    assert NovaState.objects.get().mode == "archived"
    assert Objective.objects.get().archived_at
    assert run("apply", file=str(file)) == "Nothing to change.\n"
    text = json.dumps(tree).replace('"archived": true', '"archived": false')
    file.write_text(text)
    assert run("apply", file=str(file)).count(" restored") == 4
    assert NovaState.objects.get().mode == "paused"


def test_what_is_exported_is_what_is_there_and_applies_without_a_change(file):
    run("apply", file=str(file))
    Objective.objects.create(title="Tidy up", due_at=factories.NOW)
    Personality.objects.create(
        slug="old", base_cycle_time=9, reflection_frequency=0, celebration_style="a", work_style="b",
        communication_pattern="c", archived_at=factories.NOW,
    )  # fmt: skip
    text = run("export")
    assert text == run("export")
    tree = yaml.safe_load(text)
    assert tree["novas"]["hoot"]["team"] == "night"
    assert tree["personalities"]["old"]["archived"] is True
    assert [row["title"] for row in tree["objectives"]] == ["Keep the night quiet", "Tidy up"]
    assert "due_at" not in tree["objectives"][0]
    run("export", out=file)
    assert run("apply", file=str(file)) == "Nothing to change.\n"
    Nova.objects.filter(pk="hoot").update(team="day")
    assert "team: day -> night" in run("apply", file=str(file))


def test_no_secret_is_exported():
    ProviderAccount.objects.create(slug="acme", key_source="environment", key_location="ACME_PLANTED_KEY")
    factories.make_nova(provider_account_id="acme")
    assert "ACME_PLANTED_KEY" not in run("export")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("version: 1", "version: 9"), "version: 1"),
        (("novas:", "robots:"), "Unknown: robots"),
        (("team: night", "teem: night"), "novas/hoot: teem is no field"),
        (("personality: owl", "personality: lark"), "novas/hoot: personality"),
        (("cadence: 3600", "cadence: soon"), "objectives/Keep the night quiet: cadence"),
        (("cadence: 3600", "cadence: true"), "must be a number"),
        (("default_executor: agent", "default_executor: magic"), "default executor must be one"),
        (("  calm:", "  calm: {}\n  calm:"), "stands twice"),
        (("novas:\n", "novas: [\n"), "no YAML"),
        (("  owl:", "  owl: 7\n  lark:"), "personalities must be"),
    ],
)
def test_a_file_that_can_not_be_put_in_force_changes_nothing(file, change, message):
    file.write_text(FILE.replace(*change))
    with pytest.raises(CommandError, match=message):
        call_command("apply", file=str(file))
    assert not SafetyPolicy.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_policy_in_use_is_not_taken_away(file):
    run("apply", file=str(file))
    file.write_text(FILE.replace("description: for the night", "archived: true"))
    with pytest.raises(CommandError, match="policies/calm: calm is used by hoot"):
        call_command("apply", file=str(file))
    assert SafetyPolicy.objects.get().archived_at is None
