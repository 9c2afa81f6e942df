"""`manage.py audit_export FILE`: the journal as a file that others can verify, filtered and redacted. It is journalled.

Exit codes: 0 done; 1 not done, nothing was written; 2 the command line is wrong.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from safety import audit_export, seal_keys, seals
from safety.audit_export import ExportRefused, Wanted
from safety.core.seals import CLOSED_FIELDS, TEXT_FIELDS
from safety.offline import audit_verify
from workflow.management import console


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _fields(text: str) -> frozenset[str]:
    names = frozenset(filter(None, text.split(",")))
    return (names - {"text"}) | (TEXT_FIELDS if "text" in names else frozenset())


class Command(BaseCommand):
    help = "Write sealed journal entries to a file (JSON lines; packed if it ends in .gz) that can be verified offline."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, nargs="?")
        parser.add_argument("--since", type=_instant, help="entries from this instant on (ISO 8601; without a zone: UTC)")
        parser.add_argument("--until", type=_instant, help="entries before this instant")
        parser.add_argument("--actor", default="", help="of this actor only")
        parser.add_argument("--action", default="", help="of this action only; may end in *")
        parser.add_argument("--nova", default="", help="of this Nova only")
        parser.add_argument(
            "--redact",
            type=_fields,
            default=frozenset(),
            metavar="FIELDS",
            help=f"leave these out: of {', '.join(CLOSED_FIELDS)}, with commas between; text: {', '.join(sorted(TEXT_FIELDS))}",
        )
        parser.add_argument("--with-personal", action="store_true", help="do not redact the texts of personal entries")
        parser.add_argument("--verifier", type=Path, metavar="FILE", help="write the program that verifies such files, too")
        parser.add_argument("--force", action="store_true", help="write over a file that is there")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, file: Path | None, **options: Any) -> None:
        """Seal what can be sealed, write, and print what was written."""
        console.demand(file or options["verifier"], "Name a file to write, or --verifier FILE.")
        try:
            if options["verifier"]:
                self._write_verifier(options["verifier"], replace=options["force"])
            if file:
                self._export(file, options)
        except (ExportRefused, seal_keys.NoSealKey) as refusal:
            raise CommandError(str(refusal)) from refusal
        except OSError as error:
            raise CommandError(f"It can't be written: {error}.") from error

    def _export(self, file: Path, options: dict[str, Any]) -> None:
        wanted = Wanted(
            options["since"], options["until"], options["actor"], options["action"], options["nova"],
            options["redact"], options["with_personal"],
        )  # fmt: skip
        with console.acting():
            if seal_keys.public_key():
                seals.seal(now=console.now())
            done = audit_export.export(file, wanted, now=console.now(), replace=options["force"])
        if options["json"]:
            console.print_json(self, asdict(done))
            return
        self.stdout.write(
            f"{done.file}: {done.entries:,} entries ({done.redacted:,} with redacted fields) of the seals {done.first_seal} to "
            f"{done.last_seal}, {done.bytes:,} bytes.\nHead: {done.head}\nKey: {seal_keys.public_key() or 'none'}"
        )
        if done.left_out:
            self.stdout.write(f"{done.left_out:,} entries of these seals are not in it: filtered, or in archives.")
        if done.unsealed:
            self.stdout.write(f"{done.unsealed:,} entries are not sealed yet and not in it.")

    def _write_verifier(self, path: Path, *, replace: bool) -> None:
        if path.exists() and not replace:
            raise ExportRefused(f"{path} is there already. Nothing was written.")
        path.write_bytes(Path(audit_verify.__file__).read_bytes())
        self.stderr.write(f"{path}: python3 {path.name} EXPORT [--anchor SEALS.jsonl] [--public-key HEX]")
