"""Write what makes an agent's hooks ask NOVAWF, or say that a Nova's agent has no hooks any more."""

import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from safety import audit
from safety.hook_intake import retire_hooks
from workflow import hook_bundle
from workflow.models import Nova


class Command(BaseCommand):
    help = "Write settings.json, the shim and a README for the agent of a Nova. The key is in none of them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("nova", help="the Nova's id")
        parser.add_argument("--out", type=Path, help="the folder to write to (nova-hooks/NOVA)")
        parser.add_argument("--url", default=f"http://127.0.0.1:{settings.PORT}", help="how the agent's machine reaches NOVAWF")
        parser.add_argument("--shim-only", action="store_true", help="for agents older than 2.1.295, which ignore onFailure")
        parser.add_argument("--force", action="store_true", help="write over files that are there")
        parser.add_argument("--retire", action="store_true", help="write nothing: the agent has no hooks any more")
        parser.add_argument("--reason", default="", help="why they are retired")

    def handle(self, *args: Any, **options: Any) -> None:
        nova_id = options["nova"]
        if not Nova.objects.filter(pk=nova_id).exists():
            raise CommandError(f"There is no Nova {nova_id}; nothing was done.")
        if options["retire"]:
            self._retire(nova_id, options["reason"])
        else:
            self._write(nova_id, options)

    def _retire(self, nova_id: str, reason: str) -> None:
        if not reason.strip():
            raise CommandError("Say why with --reason; nothing was changed.")
        with audit.acting("cli:hook_bundle"):
            retire_hooks(nova_id, reason=reason.strip(), now=timezone.now())
        self.stdout.write(f"{nova_id} may work without hooks until they are heard again.")

    def _write(self, nova_id: str, options: dict[str, Any]) -> None:
        url = options["url"].rstrip("/")
        if problem := hook_bundle.problem_with(url, settings.ALLOWED_HOSTS, production=settings.PRODUCTION):
            raise CommandError(f"{problem} Nothing was written.")
        folder: Path = options["out"] or Path("nova-hooks") / nova_id
        files = hook_bundle.files_for(nova_id, url, shim_only=options["shim_only"])
        there = sorted(name for name in files if (folder / name).exists())
        if there and not options["force"]:
            raise CommandError(f"{folder} has {', '.join(there)} already. Nothing was written; use --force to replace them.")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
            (folder / name).write_text(text)
            self.stdout.write(str(folder / name))
        (folder / hook_bundle.SHIM.name).chmod(0o755)
