"""`manage.py alert VERB`: alerts from the shell: what fires, the rules, the channels; try a channel, send a message again.

Journalled as `cli:<user>`. Exit codes: 0 done; 1 refused, or the test did not come through; 2 the command line is wrong.
"""

from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from reporting import alert_sending, alert_services, alerting
from reporting.api.alerts import CHANNELS, RULES, AlertShown, DeliveryShown
from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule
from workflow.management import console

LISTED = 200


class Command(BaseCommand):
    help = "List what fires, the rules, channels and deliveries; test a channel, open one again, send a message again."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the verb, what it is about, and why."""
        parser.add_argument(
            "verb", choices=["list", "rules", "channels", "deliveries", "evaluate", "test", "reopen", "redeliver"]
        )
        parser.add_argument("names", nargs="*", metavar="NAME", help="test, reopen: channels; redeliver: deliveries' numbers")
        parser.add_argument("--reason", default="", help="required for test, reopen and redeliver")
        parser.add_argument("--all", action="store_true", help=f"list: also what is over (the newest {LISTED})")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, verb: str, names: list[str], **options: Any) -> None:
        """Do it, and print what became of it."""
        if verb in ("test", "reopen", "redeliver"):
            console.demand(names, "Name what it is about.")
            console.demand(options["reason"].strip(), "Say why with --reason; it is kept in the journal.")
            self._do(verb, names, options["reason"], options["json"])
            return
        if verb == "evaluate":
            with console.acting():
                changes = alerting.evaluate(now=console.now())
            self._print([{"rule": rule, "change": change.value} for rule, change in sorted(changes.items())], options["json"])
            return
        self._print(_rows(verb, everything=options["all"]), options["json"])

    def _do(self, verb: str, names: list[str], reason: str, as_json: bool) -> None:
        lines: list[dict[str, Any]] = []
        with console.acting():
            for name in names:
                if verb == "reopen":
                    changed = alert_services.reopen_channel(name, reason=reason, now=console.now())
                    lines.append({"channel": name, "status": "open", "changed": changed})
                    continue
                if verb == "test":
                    delivery = alert_services.try_channel(name, reason=reason, now=console.now())
                else:
                    delivery = alert_services.redeliver(_number(name), reason=reason, now=console.now())
                lines.append(_sent(delivery))
        self._print(lines, as_json)
        if any(line["status"] not in ("sent", "open") for line in lines):
            raise SystemExit(1)

    def _print(self, rows: list[dict[str, Any]], as_json: bool) -> None:
        if as_json:
            console.print_json(self, rows)
            return
        for row in rows:
            self.stdout.write("  ".join(f"{name}={value}" for name, value in row.items() if value not in ("", None, [], {})))
        if not rows:
            self.stdout.write("nothing")


def _number(text: str) -> int:
    if not text.isdigit():
        raise CommandError(f"{text} is not the number of a delivery. Nothing was sent.", returncode=2)
    return int(text)


def _rows(verb: str, *, everything: bool) -> list[dict[str, Any]]:
    if verb == "list":
        events = AlertEvent.objects.order_by("-id")
        events = events if everything else events.filter(status=AlertEvent.Status.FIRING)
        return [dict(row) for row in AlertShown(events[:LISTED], many=True).data]
    if verb == "deliveries":
        return [dict(row) for row in DeliveryShown(AlertDelivery.objects.order_by("-id")[:LISTED], many=True).data]
    kind, rows = (
        (RULES, AlertRule.objects.order_by("slug")) if verb == "rules" else (CHANNELS, AlertChannel.objects.order_by("slug"))
    )
    return [kind.show(row) for row in rows.filter(archived_at=None)]


def _sent(delivery: AlertDelivery) -> dict[str, Any]:
    """Send a queued message now, from here, and tell how it went."""
    if alert_sending.claim_now(delivery.pk, now=console.now()):
        alert_sending.send([delivery.pk], now=console.now(), clock=console.now)
    delivery.refresh_from_db()
    detail = delivery.log[-1]["detail"] if delivery.log else "a worker sends it"
    return {"delivery": delivery.pk, "channel": delivery.channel_id, "status": delivery.status, "detail": detail}
