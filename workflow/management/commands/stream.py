"""`manage.py stream info`: how long the streams are, and how far each is read. It looks only.

Exit codes: 0 done; 1 the stream server could not be asked; 2 the command line is wrong.
"""

from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from safety.models import OutboxEntry
from safety.stream_client import StreamClient, StreamError
from workflow.core.protocol import stream_name
from workflow.management import console
from workflow.models import Nova, StreamCursor
from workflow.streams.controller import KINDS

SHARED = ("work_queue", "priority_alerts", "enterprise_metrics")
OWN = (*(kind for kind in KINDS if kind not in SHARED), "celebrations", "insights")


class Command(BaseCommand):
    help = "Show each stream's length, its newest entry and how far it is read; and what waits to be published."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take whose streams."""
        parser.add_argument("verb", choices=["info"])
        parser.add_argument(
            "nova_ids", nargs="*", metavar="NOVA", help="whose own streams (default: only those that all share)"
        )
        parser.add_argument("--all", action="store_true", help="every Nova's")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, nova_ids: list[str], **options: Any) -> None:
        """Ask and print."""
        novas = Nova.objects.filter(archived_at=None).order_by("nova_id").values_list("nova_id", flat=True)
        if unknown := sorted(set(nova_ids) - set(Nova.objects.filter(pk__in=nova_ids).values_list("nova_id", flat=True))):
            raise CommandError(f"There is no Nova {', '.join(unknown)}.")
        chosen = list(novas) if options["all"] else nova_ids
        names = [stream_name(kind) for kind in SHARED]
        names += [stream_name(kind, nova_id) for nova_id in chosen for kind in OWN]
        client = StreamClient(name="novawf-look")
        try:
            rows = _rows(client, names)
        except StreamError as error:
            raise CommandError(str(error)) from error
        finally:
            client.close()
        waiting = OutboxEntry.objects.count()
        if options["json"]:
            console.print_json(self, {"streams": rows, "unpublished_commits": waiting})
            return
        for row in rows:
            read = f"read up to {row['read_up_to']}" if row["read_up_to"] else ""
            self.stdout.write(f"{row['stream']:<44} {row['length']:>8} {row['newest'] or '':<22} {read}".rstrip())
        self.stdout.write(f"commits waiting to be published: {waiting}")


def _rows(client: StreamClient, names: list[str]) -> list[dict[str, Any]]:
    lengths = client.execute([["XLEN", name] for name in names])
    newest = client.execute([["XREVRANGE", name, "+", "-", "COUNT", 1] for name in names])
    cursors = dict(StreamCursor.objects.filter(stream__in=names).values_list("stream", "last_id"))
    return [
        {
            "stream": name,
            "length": length,
            "newest": entries[0][0].decode() if entries else None,
            "read_up_to": cursors.get(name),
        }
        for name, length, entries in zip(names, lengths, newest, strict=True)
    ]
