"""`manage.py nova VERB`: the operators' verbs on Novas, from the shell. Journalled as `cli:<user>`.

Exit codes: 0 done; 1 refused, or a Nova that was told to stop did not confirm it in time; 2 the command line is wrong.
"""

import json
import threading
from datetime import UTC, datetime
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from safety.observe import observation_of
from workflow import halts, services
from workflow.api.halts import show_halt
from workflow.api.serializers import show_candidate, show_nova
from workflow.derived_status import derived_status, load_fleet, load_verdicts
from workflow.management import console
from workflow.models import Halt, Nova

ORDERS = ("halt", "kill", "drain", "pause")
_EACH = ("resume", "wake", "archive", "unarchive", "lift-safety")
_CREATED_WITH = ("name", "personality", "policy", "team", "default_executor", "provider_account")
_LOOK_SECONDS = 0.25


class Command(BaseCommand):
    help = (
        "List, show or create Novas, or halt, kill, drain, pause, resume, wake or archive them. Exit code 1: refused, or not "
        "confirmed by all of them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the verb, whom it is for, why, and how long to wait."""
        parser.add_argument("verb", choices=["list", "show", "create", *ORDERS, *_EACH])
        parser.add_argument("nova_ids", nargs="*", metavar="NOVA")
        parser.add_argument("--team", default="", help="all Novas of a team; create: the new Nova's team")
        parser.add_argument("--fleet", action="store_true", help="all Novas")
        parser.add_argument(
            "--reason", default="", help="why: required for all verbs but list, show and create; kept in the journal"
        )
        parser.add_argument("--wait", type=float, default=40.0, help="seconds to wait for confirmation (default 40; 0: don't)")
        parser.add_argument("--json", action="store_true", help="print JSON")
        made = parser.add_argument_group("create")
        made.add_argument("--name", default="", help="what people call it (default: its id)")
        made.add_argument("--personality", default="", help="default torch")
        made.add_argument("--policy", default="", help="its safety policy (default standard)")
        made.add_argument("--executor", default="", dest="default_executor", help="what runs its tasks (default builtin)")
        made.add_argument("--allow", action="append", metavar="EXECUTOR", help="an executor it may use; may be repeated")
        made.add_argument("--provider-account", default="", help="where its calls to models are counted")

    def handle(self, *args: Any, verb: str, nova_ids: list[str], team: str, fleet: bool, **options: Any) -> None:
        """Do it, and print what became of it."""
        if verb == "list":
            self._list(nova_ids, team, options["json"])
            return
        if verb in ("show", "create"):
            console.demand(nova_ids, "Name a Nova.")
            with console.acting():
                if verb == "create":
                    self._create(nova_ids, options | {"team": team})
                else:
                    self._show(nova_ids, options["json"])
            return
        chosen = [bool(nova_ids), bool(team), fleet]
        if sum(chosen) != 1:
            raise CommandError("Name Novas, or --team TEAM, or --fleet. Nothing was changed.", returncode=2)
        scope, targets = ("fleet", [""]) if fleet else ("team", [team]) if team else ("nova", nova_ids)
        with console.acting():
            if verb in ORDERS:
                self._order(verb, scope, targets, options)
            else:
                self._each(verb, scope, targets, options)

    def _create(self, nova_ids: list[str], options: dict[str, Any]) -> None:
        given = {name: options[name] for name in _CREATED_WITH if options[name]}
        if account := given.pop("provider_account", ""):
            given["provider_account_id"] = account
        if options["allow"]:
            given["allowed_executors"] = given["stream_executors"] = options["allow"]
        with transaction.atomic():
            made = [services.create_nova(nova_id, now=_now(), reason=options["reason"], **given) for nova_id in nova_ids]
        if options["json"]:
            console.print_json(self, [_shown(nova.nova_id) for nova in made])
        else:
            for nova in made:
                self.stdout.write(f"{nova.nova_id}: made, and due now. Its agent's key: manage.py apikey_create {nova.nova_id}")

    def _show(self, nova_ids: list[str], as_json: bool) -> None:
        shown = [_shown(nova_id) for nova_id in nova_ids]
        if as_json:
            console.print_json(self, shown)
            return
        for nova in shown:
            self.stdout.write(f"{nova['nova_id']} ({nova['name']}): {nova['status']}. {nova['status_reason']}".rstrip(". "))
            for part in ("config", "state", "safety"):
                self.stdout.write(f"  {part}")
                for name, value in nova[part].items():
                    self.stdout.write(f"    {name}: {value}")

    def _order(self, kind: str, scope: str, targets: list[str], options: dict[str, Any]) -> None:
        orders = [halts.order(kind, scope, target, reason=options["reason"], now=_now()) for target in targets]
        wait_for(orders, options["wait"])
        shown = [show_halt(halts.get(order.pk)) for order in orders]
        missing = sum(len(halt["novas"]) - halt["counts"]["confirmed"] for halt in shown)
        if options["json"]:
            self.stdout.write(json.dumps(shown, default=str))
        else:
            for halt in shown:
                print_halt(self, halt)
        if missing and options["wait"]:
            raise SystemExit(1)

    def _each(self, verb: str, scope: str, targets: list[str], options: dict[str, Any]) -> None:
        novas = Nova.objects.all() if verb == "unarchive" else Nova.objects.filter(archived_at=None)
        if scope != "fleet":
            novas = novas.filter(team=targets[0]) if scope == "team" else novas.filter(nova_id__in=targets)
        found = list(novas.order_by("nova_id").values_list("nova_id", flat=True))
        unknown = sorted(set(targets) - set(found)) if scope == "nova" else [] if found else targets
        if unknown:
            raise CommandError(f"There is no Nova for {', '.join(unknown) or 'the fleet'}; nothing was changed.")
        reason, now = options["reason"], _now()
        if verb == "lift-safety":
            lifted = [halts.lift_safety(nova_id, reason=reason, now=now) for nova_id in found]
            lines = [{"nova_id": nova_id, "changed": done, "problem": ""} for nova_id, done in zip(found, lifted, strict=True)]
        else:
            if verb == "resume":
                results = halts.resume(found, reason=reason, now=now)
            else:
                results = services.apply_verb(verb, found, reason=reason, now=now)
            lines = [{"nova_id": r.nova_id, "changed": r.changed, "problem": r.problem} for r in results]
        if options["json"]:
            self.stdout.write(json.dumps(lines))
        else:
            for line in lines:
                self.stdout.write(f"{line['nova_id']}: {line['problem'] or ('done' if line['changed'] else 'no change')}")
        if any(line["problem"] for line in lines):
            raise SystemExit(1)

    def _list(self, nova_ids: list[str], team: str, as_json: bool) -> None:
        novas = Nova.objects.filter(archived_at=None).select_related("state", "personality").order_by("nova_id")
        if nova_ids:
            novas = novas.filter(nova_id__in=nova_ids)
        if team:
            novas = novas.filter(team=team)
        found = list(novas)
        verdicts, fleet, now = load_verdicts([nova.nova_id for nova in found]), load_fleet(), _now()
        rows = []
        for nova in found:
            doing = derived_status(nova, nova.state, verdicts.get(nova.nova_id), fleet, now)
            rows.append(
                {
                    "nova_id": nova.nova_id, "team": nova.team, "mode": nova.state.mode, "status": doing.status,
                    "reason": doing.reason, "in_flight": nova.state.tasks_in_flight,
                }
            )  # fmt: skip
        if as_json:
            self.stdout.write(json.dumps(rows))
            return
        for row in rows:
            self.stdout.write(f"{row['nova_id']:<24} {row['status']:<14} {row['team']:<12} {row['reason']}".rstrip())


def wait_for(orders: list[Halt], seconds: float) -> None:
    """Follow orders up until all are settled or the time is over."""
    patience = threading.Event()
    left = seconds
    while halts.settle(now=_now()) and left > 0:
        patience.wait(_LOOK_SECONDS)
        left -= _LOOK_SECONDS


def print_halt(command: BaseCommand, halt: dict[str, Any]) -> None:
    """Print an order and how far each Nova has come."""
    whom = halt["target"] or "the fleet"
    counts = ", ".join(f"{count} {status}" for status, count in halt["counts"].items() if count)
    command.stdout.write(f"{'drill' if halt['drill'] else halt['kind']} #{halt['id']} of {whom}: {counts}")
    for nova in halt["novas"]:
        if nova["status"] != "confirmed":
            command.stdout.write(f"  {nova['nova_id']}: {nova['status']}. {nova['detail']}".rstrip(". ") + ".")


def _shown(nova_id: str) -> dict[str, Any]:
    """Show a Nova as the API does.

    :raises NovaNotFound: there is none.
    """
    nova = Nova.objects.select_related("state", "personality").filter(nova_id=nova_id).first()
    if nova is None:
        raise services.NovaNotFound(f"There is no Nova {nova_id}.")
    shown = show_nova(nova, load_verdicts([nova_id]), load_fleet(), now=_now())
    candidate = nova.candidate_policy_id
    return shown | {"candidate": show_candidate(candidate, observation_of(nova_id, candidate))}


def _now() -> datetime:
    return datetime.now(UTC)
