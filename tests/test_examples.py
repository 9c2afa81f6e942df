"""The examples of docs/examples/ do what they say, run as a reader would run them, against a real web server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from django.core.management import call_command
from django.utils import timezone

from safety.api_keys import create_key
from safety.models import HookEvent, SafetyPolicy
from safety.stream_client import StreamClient
from tests import factories
from tests.web_server import WebServer, database_url
from workflow import fleet_file, seeding, task_services
from workflow.models import Nova, Objective, Task
from workflow.task_services import TaskRequest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]


@pytest.fixture
def server(transactional_db: None, stream: StreamClient, tmp_path: Path) -> Iterator[WebServer]:
    factories.make_healthy_fleet(now=timezone.now())
    made = WebServer(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def agent(server: WebServer) -> dict[str, str]:
    """The environment of an agent whose Nova is scribe."""
    factories.make_nova("scribe", default_executor="agent", now=timezone.now())
    key, _ = create_key("scribe", now=timezone.now())
    return {**os.environ, "NOVA_URL": server.url, "NOVA_TOKEN": key, "NOVA_ID": "scribe"}


def ask(title: str = "Write the release notes") -> str:
    request = TaskRequest(title, "all of them", assignee="scribe")
    return task_services.request_task(request, sender="operator", now=timezone.now())[0]


def run(command: list[str], environment: dict[str, str], **options: Any) -> str:
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=200, **({"cwd": ROOT} | options)
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("program", ["rest_agent.py", "mcp_agent.py"])
def test_an_agent_of_few_lines_completes_what_it_is_given(agent, program):
    tasks = {ask(), ask("Tidy up")}
    said = run([sys.executable, str(EXAMPLES / program), "2"], agent)
    for task in Task.objects.filter(id__in=tasks):
        assert (task.status, task.outcome, task.assignee_id) == ("completed", "succeeded", "scribe")
        assert task.results == f"I have read 3 words about: {task.title}"
        assert task.id in said


def test_an_agent_whose_key_is_no_good_ends(agent):
    command = [sys.executable, str(EXAMPLES / "rest_agent.py")]
    found = subprocess.run(
        command, env={**agent, "NOVA_TOKEN": "wrong"}, capture_output=True, text=True, timeout=200, check=False
    )
    assert (found.returncode, "key" in found.stderr) == (1, True)


@pytest.mark.parametrize("program", ["rest_agent.py", "mcp_agent.py"])
def test_an_agent_of_few_lines_is_one(program):
    words = (EXAMPLES / program).read_text().partition('"""')[2].partition('"""')[2]
    assert len([line for line in words.splitlines() if line.strip()]) <= 40


def test_five_commands_suffice(agent):
    task_id = ask()
    run(["bash", "-eu", str(EXAMPLES / "five_commands.sh")], agent)
    task = Task.objects.get(pk=task_id)
    assert (task.outcome, task.results) == ("succeeded", "done by hand")
    lines = (EXAMPLES / "five_commands.sh").read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith("#")]) == 5


def test_the_fleet_is_put_in_force_and_stays_so():
    seeding.seed_all(now=timezone.now())
    out = StringIO()
    call_command("apply", file=str(EXAMPLES / "fleet.yaml"), stdout=out)
    assert Nova.objects.get(pk="scribe").policy == SafetyPolicy.objects.get(pk="night")
    assert Objective.objects.get().nova_id == "scribe"
    content = fleet_file.read_fleet((EXAMPLES / "fleet.yaml").read_text())
    assert fleet_file.apply_fleet(content, now=timezone.now()) == []
    assert yaml.safe_load(fleet_file.export_fleet())["novas"]["scribe"]["execution_timeout"] == 600


def test_claude_code_is_set_up_with_hooks_and_mcp(server, tmp_path):
    """The set-up is run; then each kind of call that Claude Code would make by it."""
    seeding.seed_all(now=timezone.now())
    folder = tmp_path / "scribe"
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "NOVAWF_VAR_DIR": str(tmp_path / "var"),
        "PYTHON": sys.executable,
    }
    run(["sh", str(EXAMPLES / "claude-code" / "set-up.sh"), "scribe", str(folder), server.url], environment)
    lines = [line for line in (folder / "nova.env").read_text().splitlines() if line and not line.startswith("#")]
    agent = {**os.environ, **dict(line.split("=", 1) for line in lines), "CLAUDE_PROJECT_DIR": str(folder)}
    hooks = json.loads((folder / ".claude" / "settings.json").read_text())["hooks"]

    factories.make_healthy_fleet(now=timezone.now())  # nobody measures the machine here: what is old counts as unread
    begun = {"session_id": "s1", "hook_event_name": "SessionStart", "source": "startup"}
    command = hooks["SessionStart"][0]["hooks"][0]["command"]
    assert json.loads(run(["sh", "-c", command], agent, input=json.dumps(begun))) == {}

    factories.make_healthy_fleet(now=timezone.now())
    hook = hooks["PreToolUse"][0]["hooks"][0]
    headers = {name: _expanded(value, agent) for name, value in hook["headers"].items()}
    call = {"session_id": "s1", "hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "ls"}}
    assert _post(hook["url"], headers, call) == {}
    assert list(HookEvent.objects.order_by("id").values_list("event", flat=True)) == ["SessionStart", "PreToolUse"]

    ask()
    described = json.loads((folder / ".mcp.json").read_text())["mcpServers"]["nova"]
    assert described["url"] == f"{server.url}/mcp"
    assert _expanded(described["headers"]["Authorization"], agent) == f"Bearer {agent['NOVA_TOKEN']}"
    run([sys.executable, str(EXAMPLES / "mcp_agent.py"), "1"], agent)
    assert Task.objects.get().outcome == "succeeded"


def _expanded(text: str, environment: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: environment[found[1]], text)


def _post(url: str, headers: dict[str, str], body: dict[str, Any]) -> Any:
    request = Request(url, json.dumps(body).encode(), {**headers, "Content-Type": "application/json"})
    with urlopen(request, timeout=20) as answer:
        return json.load(answer)
