"""What one agent's machine needs: its key in an env file, hooks, MCP configuration, instructions, a systemd unit.

The spec's deployment_templates. The sources stand in templates/nova_deployment/; the key stands in one file only, which its
owner alone may read. This room must not know where the files go.
"""

import json
import re
from collections.abc import Mapping

from django.conf import settings
from django.template.loader import render_to_string

from workflow import hook_bundle
from workflow.core.personality import phrase
from workflow.models import Nova

SECRET = "nova.env"  # noqa: S105 - the one file that holds the key
PROGRAMS = frozenset({".claude/nova-hook.py"})
COMMAND = '/usr/bin/env claude --print "Do your work as CLAUDE.md says."'
_FOLDER = re.compile(r"/[A-Za-z0-9._/@-]+")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")

_WORK_STYLES: Mapping[str, str] = {
    "builder_focused": "You finish things: what was asked for comes first, the shortest before the long.",
    "coordinator_focused": "You keep others moving: what most others wait for comes first.",
    "strategist_focused": "You take the long view: what serves the goals comes first, and you think before you act.",
    "guardian_focused": "You watch over the fleet: alerts come first, then what has failed before.",
    "harmonizer_focused": "You smooth the way: what others signalled comes first, then what was blocked longest.",
}
_VOICES: Mapping[str, str] = {
    "direct_collaborative": "You speak directly and briefly, as a colleague does.",
    "collaborative_facilitating": "You speak for the group, and ask who needs what.",
    "analytical_thoughtful": "You speak in observations, with the evidence for each.",
    "protective_supportive": "You speak calmly, and say what is safe and what is not.",
    "empathetic_adaptive": "You speak with those in mind who wait for the result.",
}


class BundleRefused(Exception):
    """The bundle would not work as asked for. Nothing was written."""


def check(*, url: str, folder: str, user: str, command: str) -> None:
    """Refuse what a unit or an env file can't hold.

    :raises BundleRefused: it says what, and why.
    """
    if problem := hook_bundle.problem_with(url, settings.ALLOWED_HOSTS, production=settings.PRODUCTION):
        raise BundleRefused(f"{problem} Nothing was written.")
    if not _FOLDER.fullmatch(folder):
        raise BundleRefused(f"{folder} is no absolute path of letters, digits and . _ @ -. Nothing was written.")
    if not _USER.fullmatch(user):
        raise BundleRefused(f"{user} is no user's name. Nothing was written.")
    if not command.startswith("/") or not command.isprintable():
        raise BundleRefused("The command must be one line that begins with a program's absolute path. Nothing was written.")


def files_for(
    nova: Nova, key: str, *, url: str, folder: str, user: str, command: str = COMMAND, shim_only: bool = False
) -> dict[str, str]:
    """Give the bundle: path below its folder -> text. The key is in SECRET only."""
    personality = nova.personality
    pattern = personality.communication_pattern
    context = {
        "nova_id": nova.nova_id,
        "name": nova.name,
        "team": nova.team,
        "personality": personality.slug,
        "url": url.rstrip("/"),
        "folder": folder.rstrip("/"),
        "user": user,
        "command": command,
        "work_style": _WORK_STYLES.get(personality.work_style, _WORK_STYLES["builder_focused"]),
        "voice": _VOICES.get(pattern, _VOICES["direct_collaborative"]),
        "begun": phrase(pattern, "begun"),
        "complete": phrase(pattern, "complete", title="the report"),
        "renew_seconds": int(settings.AGENT_LEASE_SECONDS // 2),
    }
    hooks = hook_bundle.files_for(nova.nova_id, url.rstrip("/"), shim_only=shim_only)
    return {
        "README.md": _rendered("README.md", context),
        "CLAUDE.md": _rendered("CLAUDE.md", context),
        ".mcp.json": _rendered("mcp.json", context),
        ".claude/settings.json": json.dumps(hooks["settings.json"], indent=2) + "\n",
        ".claude/nova-hook.py": str(hooks[hook_bundle.SHIM.name]),
        f"nova-agent-{nova.nova_id}.service": _rendered("nova-agent.service", context),
        SECRET: _rendered("nova.env", context | {"key": key}),
    }


def _rendered(name: str, context: Mapping[str, object]) -> str:
    return render_to_string(f"nova_deployment/{name}", dict(context)).lstrip("\n").rstrip("\n") + "\n"
