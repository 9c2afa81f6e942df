"""Examine the hooks of an agent's settings; exit 1 when something would start the agent again."""

import json
import os
import re
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from safety.core.hook_lint import Finding, ReadScript, lint, lint_script, refused

_SIZE_LIMIT = 1_000_000  # bytes of a script
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


class Command(BaseCommand):
    help = "Examine settings (or a hook script) for hooks that restart the agent or guard less than they seem to."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="a settings file (.json), or a script that a hook runs")
        parser.add_argument("--json", action="store_true", help="print {file, refused, findings}")

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path = options["file"]
        findings = _examine(path)
        is_refused = refused(findings)
        if options["json"]:
            shown = [{"level": f.level, "code": f.code, "place": f.place, "message": f.message} for f in findings]
            self.stdout.write(json.dumps({"file": str(path), "refused": is_refused, "findings": shown}))
        else:
            for one in findings:
                self.stdout.write(f"{one.level}: {one.place or path}: {one.message} [{one.code}]")
            self.stdout.write(f"{path} is {'refused' if is_refused else 'accepted'}.")
        if is_refused:
            raise SystemExit(1)


def _examine(path: Path) -> list[Finding]:
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error.strerror}.") from None
    if path.suffix != ".json":
        return lint_script(path.name, text, _reader(path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None  # the agent would not read it either
    return lint(content, _reader(path))


def _reader(settings_file: Path) -> ReadScript:
    """Give a function that reads scripts as commands name them, seen from where the settings file stands."""
    folder = settings_file.absolute().parent
    project = folder.parent if folder.name == ".claude" else folder

    def expand(found: "re.Match[str]") -> str:
        return str(project) if found[1] == "CLAUDE_PROJECT_DIR" else os.environ.get(found[1], found[0])

    def read(name: str) -> str | None:
        wanted = Path(_VARIABLE.sub(expand, name)).expanduser()
        # a bundle that is not in its place yet has the script beside the settings
        for candidate in (project / wanted, folder / wanted, folder / wanted.name):
            if candidate.is_file() and os.access(candidate, os.R_OK):
                content = candidate.read_bytes()[:_SIZE_LIMIT]
                return "" if b"\x00" in content else content.decode(errors="replace")
        return None

    return read
