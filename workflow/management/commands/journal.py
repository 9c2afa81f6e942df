"""`manage.py journal tail`: the newest entries of the journal, and with --follow each further one as it is written.

What is personal is not shown. Exit codes: 0 done; 1 refused; 2 the command line is wrong.
"""

from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from safety.models import AuditEntry, AuditEntryQuerySet
from workflow.api.record_views import EntryShown
from workflow.hosting.child import StopSignal
from workflow.management import console

_LOOK_SECONDS = 0.5
_AT_ONCE = 1_000
# An entry's id is taken before its transaction ends, so a later one may be seen first: so many ids are looked at again.
_LOOK_BACK = 1_000


class Command(BaseCommand):
    help = "Show the newest entries of the journal, oldest first; --follow goes on until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take which entries, and how many."""
        parser.add_argument("verb", choices=["tail"])
        parser.add_argument("-n", "--lines", type=int, default=20, help="how many to begin with (default 20)")
        parser.add_argument("-f", "--follow", action="store_true", help="go on with each new entry until Ctrl-C")
        parser.add_argument("--nova", default="", help="of this Nova only")
        parser.add_argument("--actor", default="", help="of this actor only, such as operator or cli:alice")
        parser.add_argument("--action", default="", help="of this action only; may end in *")
        parser.add_argument("--json", action="store_true", help="print one JSON object a line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print, and go on if so told."""
        rows = _filtered(options)
        newest = AuditEntry.objects.order_by("-id").values_list("id", flat=True).first() or 0
        found = list(rows.order_by("-id")[: max(options["lines"], 0)])[::-1]
        self._print(found, options["json"])
        if options["follow"]:
            self._follow(rows, newest, {entry.pk for entry in found}, options["json"])

    def _follow(self, rows: AuditEntryQuerySet, newest: int, shown: set[int], as_json: bool) -> None:
        stop = StopSignal()
        # what is there now and was not asked for stays unshown
        shown |= set(AuditEntry.objects.filter(id__gt=newest - _LOOK_BACK, id__lte=newest).values_list("id", flat=True))
        while not stop.wait(_LOOK_SECONDS):
            found = list(rows.filter(id__gt=newest - _LOOK_BACK).exclude(id__in=shown).order_by("id")[:_AT_ONCE])
            self._print(found, as_json)
            newest = max([newest, *(entry.pk for entry in found)])
            shown = {pk for pk in shown | {entry.pk for entry in found} if pk > newest - _LOOK_BACK}

    def _print(self, entries: Sequence[AuditEntry], as_json: bool) -> None:
        for entry in entries:
            if as_json:
                console.print_json(self, EntryShown(entry).data)
                continue
            whom = " ".join(word for word in (entry.object_type, entry.object_id) if word)
            line = f"{entry.created_at:%Y-%m-%d %H:%M:%S}Z {entry.id} {entry.actor} {entry.action} {whom}".rstrip()
            self.stdout.write(f"{line}: {entry.reason}" if entry.reason else line)
        if entries:
            self.stdout.flush()


def _filtered(options: dict[str, Any]) -> AuditEntryQuerySet:
    rows: AuditEntryQuerySet = AuditEntry.objects.filter(personal=False)
    if options["nova"]:
        rows = rows.filter(nova_id=options["nova"])
    if options["actor"]:
        rows = rows.filter(actor=options["actor"])
    if action := options["action"]:
        rows = rows.filter(action__startswith=action[:-1]) if action.endswith("*") else rows.filter(action=action)
    return rows
