"""`manage.py message VERB`: send a Nova a message, or read what its inbox holds. Journalled as `cli:<user>`.

Exit codes: 0 done; 1 refused; 2 the command line is wrong.
"""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from workflow import messages
from workflow.api.messages import MessageShown
from workflow.core.wake_signals import SignalTier
from workflow.management import console
from workflow.models import InboxMessage, Nova
from workflow.services import NovaNotFound


class Command(BaseCommand):
    help = "Post a message to Novas, which wakes them, or list a Nova's messages. Exit code 1: refused."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the verb and what it needs."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        post = verbs.add_parser("post", help="send a message")
        post.add_argument("nova_ids", nargs="+", metavar="NOVA")
        post.add_argument("--title", default="")
        post.add_argument("--message", default="", help="the text; a title or a text is needed")
        post.add_argument("--priority", default="", choices=["", *(tier.value for tier in SignalTier)], metavar="TIER")
        post.add_argument("--task", default="", dest="task_id", help="the task it is about")
        listed = verbs.add_parser("list", help="the newest messages of a Nova")
        listed.add_argument("nova_ids", nargs=1, metavar="NOVA")
        listed.add_argument("--unread", action="store_true", help="only those that its agent has not acknowledged")
        listed.add_argument("--limit", type=int, default=50, help="how many at most (default 50)")
        for one in (post, listed):
            one.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, verb: str, nova_ids: list[str], **options: Any) -> None:
        """Do it, and print the messages."""
        with console.acting():
            rows = _post(nova_ids, options) if verb == "post" else _newest(nova_ids[0], options)
        shown = MessageShown(rows, many=True).data
        if options["json"]:
            console.print_json(self, shown)
            return
        for row, nova_id in zip(shown, nova_ids if verb == "post" else nova_ids * len(shown), strict=True):
            said = " ".join(row["fields"].get(name, "") for name in ("title", "message")).strip()
            self.stdout.write(f"{row['id']} {row['received_at']} {row['sender']} to {nova_id}, {row['tier']}: {said}")


def _post(nova_ids: list[str], options: dict[str, Any]) -> list[InboxMessage]:
    fields = {name: options[name] for name in ("title", "message", "priority", "task_id") if options[name]}
    with transaction.atomic():  # to all of them, or to none
        return [messages.post_message(console.operator(), nova_id, fields, now=console.now()) for nova_id in nova_ids]


def _newest(nova_id: str, options: dict[str, Any]) -> list[InboxMessage]:
    if not Nova.objects.filter(pk=nova_id).exists():
        raise NovaNotFound(f"There is no Nova {nova_id}.")
    rows = InboxMessage.objects.filter(nova_id=nova_id, kind="signal").exclude(status=InboxMessage.Status.REJECTED)
    if options["unread"]:
        rows = rows.filter(acked_at=None)
    return list(rows.order_by("-id")[: options["limit"]])
