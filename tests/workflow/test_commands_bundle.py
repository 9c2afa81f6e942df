"""`manage.py generate_templates`: a bundle that works as it is, with the key in one private file."""

import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from safety.api_keys import find_key
from safety.models import ApiKey, AuditEntry
from tests import factories
from tests.systemd import problems_of_unit

pytestmark = pytest.mark.django_db

FILES = {
    "README.md", "CLAUDE.md", ".mcp.json", ".claude/settings.json", ".claude/nova-hook.py", "nova-agent-torch.service",
    "nova.env",
}  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    factories.make_nova("torch", team="red")
    return tmp_path / "torch"


def written(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def environment(out: Path) -> dict[str, str]:
    lines = (out / "nova.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_bundle_is_whole_and_its_key_is_good(out, now):
    call_command("generate_templates", "torch", out=out, url="http://localhost:8000/", verbosity=0)
    assert written(out) == FILES
    assert (out / "nova.env").stat().st_mode & 0o777 == 0o600
    assert (out / ".claude/nova-hook.py").stat().st_mode & 0o777 == 0o755
    found = environment(out)
    assert (found["NOVA_ID"], found["NOVA_URL"]) == ("torch", "http://localhost:8000")
    assert find_key(found["NOVA_TOKEN"], now=now).nova_id == "torch"
    assert AuditEntry.objects.get(action="safety.key.created").actor.startswith("cli:")


def test_the_key_stands_in_one_file(out):
    call_command("generate_templates", "torch", out=out, verbosity=0)
    key = environment(out)["NOVA_TOKEN"]
    assert [name for name in written(out) if key in (out / name).read_text()] == ["nova.env"]
    server = json.loads((out / ".mcp.json").read_text())["mcpServers"]["nova"]
    assert server["url"].endswith("/mcp")
    assert server["headers"] == {"Authorization": "Bearer ${NOVA_TOKEN}"}
    call_command("hook_lint", str(out / ".claude/settings.json"), verbosity=0)  # ends the program where it refuses


def test_the_instructions_are_those_of_its_personality(out):
    call_command("generate_templates", "torch", out=out, verbosity=0)
    text = (out / "CLAUDE.md").read_text()
    assert "You finish things" in text
    assert "of the team red" in text
    assert "{" not in text


def test_the_unit_is_one_that_systemd_takes(out):
    call_command("generate_templates", "torch", out=out, folder=str(out), user="root", verbosity=0)
    assert problems_of_unit(out / "nova-agent-torch.service") == []


def test_what_is_there_is_left_alone_unless_told(out):
    call_command("generate_templates", "torch", out=out, verbosity=0)
    first = environment(out)["NOVA_TOKEN"]
    with pytest.raises(CommandError, match="already"):
        call_command("generate_templates", "torch", out=out)
    assert ApiKey.objects.count() == 1
    call_command("generate_templates", "torch", out=out, force=True, verbosity=0)
    assert environment(out)["NOVA_TOKEN"] != first
    assert written(out) == FILES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://elsewhere.example"}, "NOVAWF_ALLOWED_HOSTS"),
        ({"folder": "here"}, "no absolute path"),
        ({"folder": "/opt/a\nb"}, "no absolute path"),
        ({"user": "No body"}, "no user's name"),
        ({"command": "claude"}, "absolute path"),
    ],
)
def test_what_could_not_work_is_refused_and_no_key_made(out, options, message):
    if "command" in options:
        options = {"program": options["command"]}
    with pytest.raises(CommandError, match=message):
        call_command("generate_templates", "torch", out=out, **options)
    assert not ApiKey.objects.exists()
    assert not out.exists()


def test_a_nova_that_is_not_in_service_gets_none(out):
    with pytest.raises(CommandError, match="no Nova nobody"):
        call_command("generate_templates", "nobody", out=out)
