"""`manage.py prune`: forget what is older than the settings say, the journal only after it was archived and verified.

Exit codes: 0 done, or nothing to do; 1 refused, or not all of it was done; 2 the command line is wrong.
"""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from safety import pruning
from safety.pruning import Pruned, PruneRefused
from workflow import retention
from workflow.management import console


class Command(BaseCommand):
    help = "Delete old rows as NOVAWF_RETENTION_..._DAYS say; journal entries are archived, verified, and then deleted."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="tell what would go, and change nothing")
        parser.add_argument(
            "--journal-days",
            type=int,
            help=f"the journal only, older than so many days ({settings.JOURNAL_KEPT_AT_LEAST} at least)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Forget, and tell what went."""
        dry_run, days, now = options["dry_run"], options["journal_days"], console.now()
        if days is not None and days < settings.JOURNAL_KEPT_AT_LEAST:
            text = f"The journal is kept for {settings.JOURNAL_KEPT_AT_LEAST} days at least. Nothing was changed."
            raise CommandError(text, returncode=2)
        try:
            with console.acting():
                if days is None:
                    done = retention.keep(now=now, dry_run=dry_run)
                else:
                    pruned = pruning.prune(before=now - timedelta(days=days), now=now, dry_run=dry_run)
                    done = retention.Forgotten({}, pruned)
        except PruneRefused as refusal:
            raise CommandError(str(refusal)) from refusal
        except OSError as error:
            raise CommandError(f"The archive can't be written: {error}. Nothing of it was deleted.") from error
        if options["json"]:
            console.print_json(self, asdict(done) | {"dry_run": dry_run})
            return
        would = "would go" if dry_run else "went"
        for name, rows in done.rows.items():
            self.stdout.write(f"{name}: {rows:,} rows {would}")
        if done.journal is not None:
            self._tell_journal(done.journal, would)

    def _tell_journal(self, pruned: Pruned, would: str) -> None:
        if pruned.seals:
            text = (
                f"journal: {pruned.entries:,} entries of {pruned.seals:,} seals, {pruned.first_id} to {pruned.last_id}, {would}"
            )
            self.stdout.write(text)
        else:
            self.stdout.write("journal: nothing is old enough, sealed and read by all")
        for file in pruned.files:
            self.stdout.write(f"archived in {file}")
        for name, lowest in pruned.held_back_by.items():
            self.stdout.write(f"{name} has not read entry {lowest} yet: nothing from there on goes")
