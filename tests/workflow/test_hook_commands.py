"""What an agent's machine is given: keys, the bundle, the shim that fails closed (really run), the lint."""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from safety.api_keys import find_key
from safety.models import ApiKey, AuditEntry, SafetyState
from safety.observations import Kind, observe
from tests import factories
from workflow import hook_bundle

CALL = {"session_id": "s1", "hook_event_name": "SessionStart", "source": "startup"}


def run(*arguments: str, capsys: Any) -> str:
    call_command(*arguments)
    return str(capsys.readouterr().out)


# -- keys


@pytest.mark.django_db
def test_a_key_is_printed_once_and_works(now, capsys):
    factories.make_nova("torch")
    made = json.loads(run("apikey_create", "torch", "--name", "laptop", "--json", capsys=capsys))
    assert made.keys() == {"id", "holder", "nova_id", "expires_at", "key"}
    assert find_key(made["key"], now=now).nova_id == made["nova_id"] == "torch"
    assert AuditEntry.objects.get(action="safety.key.created").actor.startswith("cli:")


@pytest.mark.django_db
@pytest.mark.parametrize("archived", [False, True])
def test_no_key_is_made_for_a_nova_that_is_not_in_service(archived, now):
    if archived:
        factories.make_nova("torch", archived_at=now)
    with pytest.raises(CommandError, match="no key was made"):
        call_command("apikey_create", "torch")
    assert not ApiKey.objects.exists()


# -- the bundle


@pytest.fixture
def bundle(db: None, tmp_path: Path) -> Path:
    factories.make_nova("torch")
    folder = tmp_path / "bundle"
    call_command("hook_bundle", "torch", "--out", str(folder), "--url", "http://localhost:8000/", verbosity=0)
    return folder


def test_the_bundle_asks_about_every_event_that_counts_or_can_be_stopped(bundle):
    settings = json.loads((bundle / "settings.json").read_text())
    handlers = {event: groups[0]["hooks"][0] for event, groups in settings["hooks"].items()}
    assert handlers["SessionStart"]["type"] == "command"
    assert {event for event, one in handlers.items() if one["type"] == "http"} == handlers.keys() - {"SessionStart"}
    assert {one["timeout"] for one in handlers.values()} == {5}
    assert handlers["PreToolUse"]["onFailure"] == "block"
    assert handlers["PreToolUse"]["url"] == "http://localhost:8000/api/v1/hooks/claude-code"
    assert "onFailure" not in handlers["Stop"]
    assert {"Edit(.claude/settings.json)", "Edit(.claude/nova-hook.py)", "Bash(claude:*)"} <= set(
        settings["permissions"]["deny"]
    )


def test_the_bundle_holds_no_key_and_three_lines_to_read(bundle, now):
    text = "".join(path.read_text() for path in bundle.iterdir())
    assert "nova_" not in text.replace("nova_hook", "")
    assert len((bundle / "README").read_text().splitlines()) == 3
    assert (bundle / "nova-hook.py").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("more", [[], ["--shim-only"]])
def test_the_bundle_passes_its_own_lint_without_a_warning(bundle, more, capsys):
    call_command("hook_bundle", "torch", "--out", str(bundle), "--force", *more)
    capsys.readouterr()
    found = json.loads(run("hook_lint", str(bundle / "settings.json"), "--json", capsys=capsys))
    assert (found["refused"], found["findings"]) == (False, [])


def test_for_old_agents_what_guards_goes_through_the_shim():
    hooks = hook_bundle.settings_for("https://n.example", shim_only=True)["hooks"]
    assert hooks["PreToolUse"][0]["hooks"][0]["type"] == "command"
    assert hooks["PostToolUse"][0]["hooks"][0]["type"] == "http"


def test_files_that_are_there_are_kept_unless_told_otherwise(bundle):
    (bundle / "settings.json").write_text("mine")
    with pytest.raises(CommandError, match="Nothing was written"):
        call_command("hook_bundle", "torch", "--out", str(bundle))
    assert (bundle / "settings.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("url", "production", "words"),
    [
        ("https://elsewhere.example", False, "NOVAWF_ALLOWED_HOSTS"),
        ("http://nova.example", True, "https address"),
        ("nova.example", False, "no address"),
        ("https://nova.example", True, ""),
        ("https://eu.nova.test:8443/prefix", True, ""),
        ("http://[::1]:8000", False, ""),
    ],
)
def test_an_address_under_which_hooks_would_fail_is_refused(url, production, words):
    problem = hook_bundle.problem_with(url, ["nova.example", ".nova.test", "[::1]"], production=production)
    assert words in problem
    assert bool(problem) is bool(words)


@pytest.mark.django_db
def test_hooks_may_be_retired_with_a_reason(now):
    factories.make_nova("torch")
    observe("torch", Kind.HOOK_HEARTBEAT, now=now)
    with pytest.raises(CommandError, match="--reason"):
        call_command("hook_bundle", "torch", "--retire")
    call_command("hook_bundle", "torch", "--retire", "--reason", "another agent now")
    assert SafetyState.objects.get().last_hook_heartbeat is None
    assert AuditEntry.objects.get(action="safety.hooks.retired").reason == "another agent now"


# -- the shim, as a process


class Answering(HTTPServer):
    """An HTTP server that gives one answer to everything."""

    status, text = 200, "{}"
    heard: list[tuple[str, str, bytes]]
    held: threading.Event  # answers wait for it


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, self.headers["Authorization"], body))
        self.server.held.wait(30)
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(self.server.text.encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Answering]:
    made = Answering(("127.0.0.1", 0), _Handler)
    made.heard, made.held = [], threading.Event()
    made.held.set()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.held.set()
    made.shutdown()
    thread.join()
    made.server_close()


def shim(url: str | None, *, token: str | None = "nova_key", body: bytes = json.dumps(CALL).encode()) -> Any:
    given = {"NOVA_URL": url, "NOVA_TOKEN": token, "PATH": os.environ["PATH"]}
    environment = {name: value for name, value in given.items() if value is not None}
    return subprocess.run([sys.executable, "-I", str(hook_bundle.SHIM)], input=body, env=environment, capture_output=True)


def address(server: Answering) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_the_shim_passes_the_call_on_and_is_content_when_all_is_safe(server):
    done = shim(address(server) + "/")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"{}", b"")
    assert server.heard == [("/api/v1/hooks/claude-code", "Bearer nova_key", json.dumps(CALL).encode())]


def test_the_shim_passes_a_denial_on(server):
    server.text = json.dumps({"continue": False, "stopReason": "NOVAWF: no"})
    done = shim(address(server))
    assert (done.returncode, done.stdout.decode()) == (0, server.text)


def test_the_shim_blocks_when_nobody_is_there(server):
    url = address(server)
    server.server_close()
    done = shim(url)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"may not go on" in done.stderr


@pytest.mark.parametrize(
    ("status", "text"), [(500, "{}"), (404, "{}"), (302, "{}"), (204, ""), (200, ""), (200, "oops"), (200, "[]"), (200, "\xff")]
)
def test_the_shim_blocks_on_any_other_answer(server, status, text):
    server.status, server.text = status, text
    done = shim(address(server))
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("url", "token"), [(None, "k"), ("http://127.0.0.1:9", None), ("", "k"), ("ftp://x", "k"), ("no url", "k")]
)
def test_the_shim_blocks_when_it_is_not_told_whom_to_ask(url, token):
    done = shim(url, token=token)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stderr


def test_the_shim_blocks_when_the_answer_does_not_come_in_time(server):
    server.held.clear()
    done = shim(address(server))
    assert done.returncode == 2


def test_a_shim_that_is_missing_blocks():
    done = subprocess.run([sys.executable, "/nowhere/nova-hook.py"], input=b"{}", capture_output=True)
    assert done.returncode == 2


# -- lint


def test_a_settings_file_with_the_founding_incident_is_refused(tmp_path, capsys):
    folder = tmp_path / ".claude"
    (folder / "hooks").mkdir(parents=True)
    (folder / "hooks" / "keep.sh").write_text('claude -p go --continue\nexec "$0"\n')
    handler = {"type": "command", "command": "$CLAUDE_PROJECT_DIR/.claude/hooks/keep.sh", "timeout": 5}
    (folder / "settings.json").write_text(json.dumps({"hooks": {"Stop": [{"hooks": [handler]}]}}))
    with pytest.raises(SystemExit) as ended:
        call_command("hook_lint", str(folder / "settings.json"))
    assert ended.value.code == 1
    text = capsys.readouterr().out
    assert "[runs_agent]" in text
    assert "[runs_itself]" in text
    assert text.endswith("is refused.\n")
    with pytest.raises(SystemExit):
        call_command("hook_lint", str(folder / "hooks" / "keep.sh"), "--json")
    assert json.loads(capsys.readouterr().out)["refused"] is True


def test_a_settings_file_that_is_no_json_is_refused(tmp_path, capsys):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(SystemExit):
        call_command("hook_lint", str(tmp_path / "settings.json"))
    with pytest.raises(CommandError, match="can't be read"):
        call_command("hook_lint", str(tmp_path / "gone.json"))
