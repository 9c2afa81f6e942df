"""Hooks that start the agent again are refused, hooks that guard less than they seem are warned of, harmless ones pass."""

from typing import Any

import pytest

from safety.core.hook_lint import Level, lint, lint_script, refused


def nothing(path: str) -> str | None:
    return None


def handler(command: str, **more: Any) -> dict[str, Any]:
    return {"type": "command", "command": command, "timeout": 5, "onFailure": "block"} | more


def settings(event: str, *handlers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"hooks": {event: [{"matcher": "*", "hooks": list(handlers)}]}} | more


def codes(content: object, read: Any = nothing, level: str = "error") -> set[str]:
    return {finding.code for finding in lint(content, read) if finding.level == level}


# the founding incident: a Stop hook that ran the agent again, and itself
FOUNDING = """#!/bin/bash
# keep the Nova working
sleep 1
claude -p "Continue with the next task" --continue
exec "$0" "$@"
"""


def test_the_founding_incident_is_refused():
    found = lint(
        settings("Stop", handler("~/.claude/hooks/keep-working.sh")), {"~/.claude/hooks/keep-working.sh": FOUNDING}.get
    )
    assert {finding.code for finding in found if finding.level is Level.ERROR} == {"runs_agent", "runs_itself"}
    assert refused(found)
    assert refused(lint_script("keep-working.sh", FOUNDING, nothing))


@pytest.mark.parametrize("event", ["Stop", "SubagentStop", "SessionEnd", "StopFailure", "SessionStart", "PostToolUse"])
@pytest.mark.parametrize(
    "command",
    [
        "claude",
        "claude -p 'go on'",
        "cd /work && claude --continue",
        "/usr/local/bin/claude --resume $SESSION",
        "codex exec 'go on'",
        "gemini -p go",
        "sleep 2; exec claude",
        "nohup claude -p x > /dev/null 2>&1 &",
        "bash -c 'claude -p go'",
        "env FOO=1 claude -p go",
        "timeout 60 claude -p go",
        "npx -y @anthropic-ai/claude-code -p go",
        "if true; then claude; fi",
        "$(claude -p hi)",
        "echo hi | claude",
        "$CLAUDE_BIN --continue",
        "python3 -c \"import subprocess; subprocess.run(['claude', '-p', 'go'])\"",
        "python3 -c \"import os; os.system('claude --resume x')\"",
    ],
)
def test_a_hook_that_starts_an_agent_is_refused(event, command):
    assert "runs_agent" in codes(settings(event, handler(command)))


@pytest.mark.parametrize(
    "command",
    [
        "nohup ./again.sh",
        "setsid ./again.sh",
        "./again.sh &",
        "(sleep 5; ./again.sh) & disown",
        "echo ./again.sh | at now + 1 minute",
        "at now -f again.sh",
        "systemd-run --user ./again.sh",
        "systemctl --user restart nova",
        "(crontab -l; echo '* * * * * ./again.sh') | crontab -",
        "tmux new-session -d ./again.sh",
        "screen -dmS nova ./again.sh",
    ],
)
def test_what_outlives_a_stop_is_refused_and_elsewhere_warned_of(command):
    assert "detaches" in codes(settings("Stop", handler(command)))
    assert "detaches" in codes(settings("PostToolUse", handler(command)), level="warning")
    assert "detaches" not in codes(settings("PostToolUse", handler(command)))


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("a.sh", 'exec "$0" "$@"'),
        ("a.sh", "bash $0"),
        ("a.sh", '"${BASH_SOURCE[0]}" --again'),
        ("a.sh", "sleep 1\n./a.sh"),
        ("a.sh", "bash /home/nova/hooks/a.sh"),
        ("a.py", "os.execv(sys.executable, [sys.executable] + sys.argv)"),
        ("a.py", "subprocess.Popen([sys.executable, __file__])"),
    ],
)
def test_a_script_that_runs_itself_is_refused(name, script):
    assert "runs_itself" in codes(settings("PostToolUse", handler(f"./{name}")), {f"./{name}": script}.get)


def test_scripts_that_scripts_run_are_read_too():
    scripts = {"/h/one.sh": "bash /h/two.sh", "/h/two.sh": "source /h/three.sh", "/h/three.sh": "claude -p go"}
    assert codes(settings("Stop", handler("/h/one.sh")), scripts.get) == {"runs_agent"}
    endless = {"/h/one.sh": "bash /h/two.sh", "/h/two.sh": "bash /h/one.sh"}
    assert codes(settings("Stop", handler("/h/one.sh")), endless.get) == set()


@pytest.mark.parametrize("event", ["Stop", "SubagentStop", "TeammateIdle"])
@pytest.mark.parametrize(
    "command", ['echo \'{"decision": "block", "reason": "go on"}\'', "exit 2", "python3 -c 'import sys; sys.exit(2)'"]
)
def test_a_hook_that_keeps_the_agent_going_is_refused(event, command):
    assert codes(settings(event, handler(command))) == {"keeps_going"}
    assert codes(settings("PreToolUse", handler(command))) == set()


def test_a_hook_that_wakes_the_agent_again_is_refused():
    assert codes(settings("Stop", handler("true", asyncRewake=True))) == {"rewakes"}


@pytest.mark.parametrize(
    "command",
    [
        "true",
        "python3 /opt/hooks/format.py",
        '"$CLAUDE_PROJECT_DIR"/.claude/hooks/check.sh',
        "/home/claude/bin/notify --done",
        "cat ~/.claude/log.txt",
        "echo claude stopped >> log",
        "notify-send 'claude is done' 2>&1",
        "cd /work && make lint && echo ok",
        "jq -r .tool_input.command | tee -a log &> /dev/null",
        "git commit -m 'started at noon'",
        "grep -c claude README",
        'printf "%s" "$0"',
        'cd "$(dirname "$0")" && make',
    ],
)
def test_harmless_hooks_pass(command):
    read = {"/opt/hooks/format.py": "print('ok')", "$CLAUDE_PROJECT_DIR/.claude/hooks/check.sh": 'cd "$(dirname "$0")"\nexit 0'}
    read["/home/claude/bin/notify"] = ""
    assert lint(settings("Stop", handler(command)), read.get) == []


def test_comments_are_not_commands():
    script = "#!/bin/sh\n# never run claude here\necho ok  # not claude -p either\n"
    assert lint_script("a.sh", script, nothing) == []


@pytest.mark.parametrize(
    ("event", "hook", "code"),
    [
        ("PreToolUse", {"type": "command", "command": "true", "onFailure": "block"}, "no_timeout"),
        ("PreToolUse", handler("true", timeout=600), "long_timeout"),
        ("PreToolUse", {"type": "command", "command": "true", "timeout": 5}, "fails_open"),
        ("PreToolUse", handler("test -f x || exit 1"), "exit_1"),
        ("PreToolUse", handler("./gone.sh"), "script_not_read"),
        ("PreToolUse", {**handler("true"), "async": True}, "async"),
        ("Stop", {"type": "prompt", "prompt": "Is it done?", "timeout": 5}, "model_decides"),
        ("PreToolUse", {"type": "http", "url": "http://nova.example", "timeout": 5, "onFailure": "block"}, "plain_http"),
        ("PreToolUze", handler("true"), "unknown_event"),
    ],
)
def test_what_guards_less_than_it_seems_is_warned_of(event, hook, code):
    assert codes(settings(event, hook), level="warning") == {code}
    assert codes(settings(event, hook)) == set()


def http(**more: Any) -> dict[str, Any]:
    return {"type": "http", "url": "https://n.example/hook", "timeout": 5, "onFailure": "block"} | more


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([], "unreadable"),
        (None, "unreadable"),
        ({"hooks": []}, "unreadable"),
        ({"hooks": {"Stop": {}}}, "unreadable"),
        ({"hooks": {"Stop": ["x"]}}, "unreadable"),
        ({"hooks": {"Stop": [{"hooks": [1]}]}}, "unreadable"),
        (settings("PreToolUse", {"type": "htpp", "timeout": 5}), "unknown_type"),
        ({"disableAllHooks": True}, "hooks_off"),
        (settings("SessionStart", http()), "http_unsupported"),
        (settings("PreToolUse", http(headers={"Authorization": "Bearer $T"})), "variable_not_allowed"),
        (settings("PreToolUse", http(headers={"Authorization": "Bearer " + "a1" * 12})), "secret_in_file"),
        (settings("PreToolUse", http(), allowedHttpHookUrls=["https://other.example/*"]), "url_not_allowed"),
        (
            settings(
                "PreToolUse", http(headers={"A": "$T"}, allowedEnvVars=["T"]), httpHookAllowedEnvVars=["OTHER"]
            ), "variable_not_allowed",
        ),
    ],
)  # fmt: skip
def test_what_does_not_work_at_all_is_refused(content, code):
    assert codes(content) == {code}


def test_a_matcher_that_hits_more_than_it_says_is_warned_of():
    content = {"hooks": {"PreToolUse": [{"matcher": "Bash|mcp__.*", "hooks": [handler("true")]}]}}
    assert codes(content, level="warning") == {"loose_matcher"}
    content["hooks"]["PreToolUse"][0]["matcher"] = "^(Bash)$|^mcp__"
    assert lint(content, nothing) == []


def test_settings_without_hooks_have_nothing_to_be_refused():
    assert lint({"permissions": {}}, nothing) == []
