"""What an agent's machine is given so that its hooks ask NOVAWF: settings with hooks and deny rules, and the shim.

The key is in none of it: the files name the variables that hold it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SHIM = Path(__file__).parent / "shim" / "nova-hook.py"
DOOR = "/api/v1/hooks/claude-code"
TIMEOUT = 5  # seconds; the shim ends itself before
_COMMAND = 'python3 "$CLAUDE_PROJECT_DIR/.claude/nova-hook.py"'

# `onFailure` is ignored on Stop, SubagentStop, TaskCompleted and TeammateIdle: there a failure lets the agent stop, or work
_FAILURE_IGNORED = frozenset({"Stop", "SubagentStop", "TaskCompleted", "TeammateIdle"})
_WITHOUT_HTTP = frozenset({"SessionStart"})
# where a call can be blocked; the shim blocks with old clients too, which don't know `onFailure`
_GUARDED = frozenset({"PreToolUse", "UserPromptSubmit"})
_EVENTS = (
    "SessionStart", "UserPromptSubmit", "PreToolUse", "PermissionRequest", "PostToolUse", "PostToolUseFailure",
    "PostToolBatch", "SubagentStop", "Stop", "StopFailure", "TaskCreated", "TaskCompleted", "TeammateIdle", "ConfigChange",
    "SessionEnd",
)  # fmt: skip
_WITH_MATCHER = frozenset({"PreToolUse", "PermissionRequest", "PostToolUse", "PostToolUseFailure"})

# Hooks can fail; these rules don't: the agent touches neither what guards it nor starts another agent that outlives it.
DENIED = (
    *(
        f"Edit({folder}{name})"
        for folder in (".claude/", "~/.claude/")
        for name in ("settings.json", "settings.local.json", "nova-hook.py", "hooks/**")
    ),
    *(f"Bash({word}:*)" for word in ("claude", "codex", "gemini")),
    *(f"Bash({word}:*)" for word in ("nohup", "setsid", "at", "batch", "crontab", "systemd-run")),
)


def settings_for(url: str, *, shim_only: bool = False) -> dict[str, Any]:
    """Give the settings file's content for a NOVAWF at `url`; `shim_only`: what guards goes through the shim."""
    hooks = {}
    for event in _EVENTS:
        by_shim = event in _WITHOUT_HTTP or (shim_only and event in _GUARDED)
        handler = _command() if by_shim else _http(url)
        if event not in _FAILURE_IGNORED:
            handler["onFailure"] = "block"
        hooks[event] = [{**({"matcher": "*"} if event in _WITH_MATCHER else {}), "hooks": [handler]}]
    return {"hooks": hooks, "permissions": {"deny": list(DENIED)}}


def _command() -> dict[str, Any]:
    return {"type": "command", "command": _COMMAND, "timeout": TIMEOUT}


def _http(url: str) -> dict[str, Any]:
    return {
        "type": "http",
        "url": url.rstrip("/") + DOOR,
        "timeout": TIMEOUT,
        "headers": {"Authorization": "Bearer $NOVA_TOKEN", "X-Nova-Id": "$NOVA_ID"},
        "allowedEnvVars": ["NOVA_TOKEN", "NOVA_ID"],
    }


def problem_with(url: str, allowed_hosts: list[str], *, production: bool) -> str:
    """Say why hooks can't reach us under this address; empty if they can. Whatever is not answered 200 lets calls pass."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        return f"{url} is no address like https://nova.example.com."
    if production and parts.scheme == "http":
        return f"{url} is plain HTTP, which this installation answers with a redirect; give its https address."
    shown = f"[{host}]" if ":" in host else host
    if not any(_allows(pattern, shown) for pattern in allowed_hosts):
        return f"{host} is not among NOVAWF_ALLOWED_HOSTS, so its calls would be refused; add it there."
    return ""


def _allows(pattern: str, host: str) -> bool:
    return pattern in ("*", host) or (pattern.startswith(".") and (host.endswith(pattern) or host == pattern[1:]))


def readme_for(nova_id: str, url: str) -> str:
    """Give the three lines that go with the files."""
    return (
        f"1. Put settings.json and nova-hook.py into the .claude/ folder of the project where the agent of {nova_id} works.\n"
        f"2. Start the agent with NOVA_ID={nova_id}, NOVA_URL={url} and NOVA_TOKEN=<its key, from `manage.py apikey_create "
        f"{nova_id}`>; the key stands in no file.\n"
        "3. Change these files only while no agent runs: a change is refused, and the Nova goes into quarantine.\n"
    )


def files_for(nova_id: str, url: str, *, shim_only: bool = False) -> Mapping[str, Any]:
    """Give the bundle: file name -> content (settings.json as an object)."""
    return {
        "settings.json": settings_for(url, shim_only=shim_only),
        SHIM.name: SHIM.read_text(),
        "README": readme_for(nova_id, url),
    }
