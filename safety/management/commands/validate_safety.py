"""`manage.py validate_safety`: proof that every safety mechanism trips where its policy says (spec `validate_safety.sh`)."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from safety.call_trials import CallTrials
from safety.models import SafetyPolicy
from safety.stream_client import StreamClient
from safety.validation import Result, Validation

_SHOWN = {True: "pass", False: "FAIL", None: "----"}


class Command(BaseCommand):
    help = (
        "Try every safety mechanism with synthetic overload, for a Nova that does not exist, and roll everything back. "
        "Exit code 1: a requirement does not hold."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--policy", default="standard", help="whose limits to try (default: standard)")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, policy: str, **options: Any) -> None:
        """Try, print, and exit with 1 if something does not hold."""
        row = SafetyPolicy.objects.filter(slug=policy).first()
        if row is None:
            known = ", ".join(SafetyPolicy.objects.values_list("slug", flat=True)) or "none yet: run manage.py seed"
            raise CommandError(f"There is no policy {policy}; nothing was tried. Known: {known}.", returncode=2)
        now, client = datetime.now(UTC), StreamClient(name="novawf-validation", timeout=2.0)
        try:
            results = [*Validation(row.rules, now=now).run(), *CallTrials(row.rules, client, now=now).run()]
        finally:
            client.close()
        failed = [result.requirement for result in results if result.passed is False]
        if options["json"]:
            self.stdout.write(
                json.dumps({"policy": policy, "ok": not failed, "results": [asdict(r) for r in results]}, indent=2)
            )
        else:
            self._print(results, failed, policy)
        if failed:
            raise SystemExit(1)

    def _print(self, results: list[Result], failed: list[str], policy: str) -> None:
        for result in results:
            self.stdout.write(f"{_SHOWN[result.passed]}  {result.requirement} ({result.source})")
            self.stdout.write(f"      limit     {result.limit}")
            self.stdout.write(f"      tried     {result.tried}")
            self.stdout.write(f"      measured  {result.measured}")
        held = sum(result.passed is True for result in results)
        self.stdout.write(f"\n{held} of {len(results)} requirements hold under policy {policy}.")
        if untried := [result.requirement for result in results if result.passed is None]:
            self.stdout.write(f"Not tried: {', '.join(untried)}. See above for what is missing.")
        if failed:
            self.stdout.write(f"These do not: {', '.join(failed)}.")
