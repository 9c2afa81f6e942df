"""`manage.py generate_templates NOVA --out DIR`: all that the agent of a Nova needs, with a fresh key.

Journalled as `cli:<user>`. Exit codes: 0 done; 1 refused, nothing was written and no key made; 2 the command line is wrong.
"""

import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from safety.api_keys import create_key
from workflow import deployment_bundle
from workflow.management import console
from workflow.models import Nova


class Command(BaseCommand):
    help = "Write env file, hooks, MCP configuration, instructions and systemd unit for the agent of a Nova, with a fresh key."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("nova", help="the Nova's id")
        parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
        parser.add_argument("--url", default=f"http://127.0.0.1:{settings.PORT}", help="how the agent's machine reaches NOVAWF")
        parser.add_argument("--folder", default="", help="where the bundle will stand there (/opt/nova-agents/NOVA)")
        parser.add_argument("--user", default="nova", help="the user that the service runs as (nova)")
        parser.add_argument("--command", default=deployment_bundle.COMMAND, dest="program", help="what the service runs")
        parser.add_argument("--shim-only", action="store_true", help="for agents older than 2.1.295, which ignore onFailure")
        parser.add_argument("--force", action="store_true", help="write over files that are there; the old key stays good")

    def handle(self, *args: Any, nova: str, out: Path, **options: Any) -> None:
        """Look, make the key, write."""
        row = Nova.objects.select_related("personality").filter(pk=nova, archived_at=None).first()
        if row is None:
            raise CommandError(f"There is no Nova {nova} in service; nothing was written, and no key made.")
        chosen = {
            "url": options["url"],
            "folder": options["folder"] or f"/opt/nova-agents/{nova}",
            "user": options["user"],
            "command": options["program"],
        }
        try:
            deployment_bundle.check(**chosen)
            names = deployment_bundle.files_for(row, "", **chosen)
            there = sorted(name for name in names if (out / name).exists())
            if there and not options["force"]:
                raise CommandError(f"{out} has {', '.join(there)} already. Nothing was written; --force replaces them.")
            for name in names:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
            with console.acting():
                key, _ = create_key(nova, name=f"bundle {out.name}"[:64], now=console.now())
            files = deployment_bundle.files_for(row, key, shim_only=options["shim_only"], **chosen)
            for name, text in files.items():
                _write(out / name, text, mode=_mode(name))
                self.stdout.write(str(out / name))
        except deployment_bundle.BundleRefused as refusal:
            raise CommandError(str(refusal)) from refusal
        except OSError as error:
            raise CommandError(f"The bundle could not be written: {error}.") from error


def _mode(name: str) -> int:
    if name == deployment_bundle.SECRET:
        return 0o600
    return 0o755 if name in deployment_bundle.PROGRAMS else 0o644


def _write(path: Path, text: str, *, mode: int) -> None:
    """Replace a file in one step; nobody else may read it before its mode says so."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.chmod(mode)
    draft.replace(path)
