"""`manage.py audit_verify`: recompute the journal's digests, signatures and chain, and name everything that does not match.

Exit codes: 0 nothing is wrong; 1 something is, and is named; 2 nothing could be verified. Without `--anchor` it says what
can't be excluded. The result is not kept: `POST /api/v1/journal/verify` and the daily job keep theirs.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from safety import anchors, pruning, seal_keys, verification
from safety.core.seals import Anchor
from safety.models import AuditSeal
from safety.verification import Outcome, Start
from workflow.management import console

_PROGRESS_EVERY = 200  # seals
OPEN_QUESTION = (
    "No anchor was given: that the end was cut off, or that everything was rebuilt by somebody with the signing key, can't be "
    "excluded. Give a copy of the seals log that was kept elsewhere: --anchor FILE."
)


class Command(BaseCommand):
    help = (
        "Verify the journal against its seals: name every edit, deletion, insertion, reordering, missing range, bad signature."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--anchor", type=Path, help="a copy of the seals log that was kept elsewhere")
        parser.add_argument("--from", type=int, dest="first", default=0, help="begin with the range of this entry")
        parser.add_argument("--to", type=int, dest="last", default=0, help="end with the range of this entry")
        parser.add_argument("--archives", action="store_true", help="read the archives of pruned ranges, too")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify, and tell."""
        known = self._anchors(options["anchor"])
        if not AuditSeal.objects.exists() and not known:
            raise CommandError("Nothing is sealed yet, so nothing can be verified.", returncode=2)
        outcome = verification.verify(
            start=verification.start_at(options["first"]) if options["first"] else Start(),
            last=verification.seal_of(options["last"]) if options["last"] else None,
            anchors=known,
            check_pruned=pruning.check_pruned() if options["archives"] else None,
            go_on=self._progress if not options["json"] and options["verbosity"] else lambda outcome: True,
        )
        if options["json"]:
            told = asdict(outcome) | {"keys": sorted(outcome.keys), "ok": not outcome.damages}
            console.print_json(self, told)
        else:
            self._tell(outcome, known, archives=options["archives"])
        if outcome.damages:
            raise CommandError(f"The journal does not match its seals: {outcome.damages} findings.")

    def _anchors(self, path: Path | None) -> Mapping[int, Anchor]:
        if path is None:
            return {}
        try:
            return anchors.read(path)
        except anchors.AnchorUnusable as unusable:
            raise CommandError(str(unusable), returncode=2) from unusable

    def _progress(self, outcome: Outcome) -> bool:
        if outcome.seals % _PROGRESS_EVERY == 0:
            self.stderr.write(f"{outcome.seals:,} seals, {outcome.entries:,} entries", self.style.NOTICE)
        return True

    def _tell(self, outcome: Outcome, known: Mapping[int, Anchor], *, archives: bool) -> None:
        for finding in outcome.findings:
            self.stdout.write(f"{finding.damage.value}: {finding.words}")
        if outcome.damages > len(outcome.findings):
            self.stdout.write(f"and {outcome.damages - len(outcome.findings):,} findings more")
        self.stdout.write(
            f"Seals {outcome.first_seal:,} to {outcome.last_seal:,}, up to entry {outcome.last_id:,}: "
            f"{outcome.entries:,} entries verified. Head: {outcome.head}"
        )
        for key in sorted(outcome.keys):
            self.stdout.write(f"Key {seal_keys.key_id(key)}: {key}")
        if outcome.unsealed:
            self.stdout.write(f"{outcome.unsealed:,} entries are not sealed yet: of those nothing can be said.")
        if outcome.pruned:
            what = "verified" if archives else "not looked at (--archives)"
            self.stdout.write(f"{outcome.pruned:,} entries are in archives only, which were {what}.")
        if outcome.first_seal > 1:
            self.stdout.write(f"It began at seal {outcome.first_seal}; the one before was believed.")
        anchored = f"The chain was compared with the anchor, which ends at seal {max(known, default=0):,}."
        self.stdout.write(anchored if known else OPEN_QUESTION)
        if not outcome.damages:
            self.stdout.write("Nothing is wrong with what was seen.", self.style.SUCCESS)
