"""What is measured or prepared inside NOVAWF: `python -m bench.inside COMMAND`, in a stack's environment.

Each prints one line of JSON. It must not know how the stack's processes are run.
"""

import json
import os
import statistics
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import django

from bench import filler, pages

STARTING_FLEET = 5
_CHUNK = 500  # Novas made in one transaction


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - a door


def seed(novas: str) -> list[str]:
    """Make an installation with so many Novas, the starting fleet among them, in equal shares of the personalities."""
    from django.core.management import call_command
    from django.db import transaction

    from safety import bulk
    from workflow import seeding
    from workflow.configuration import create_nova
    from workflow.models import Nova, NovaState

    call_command("migrate", interactive=False, verbosity=0)
    now = _now()
    seeding.seed_all(now=now)
    names = [f"bench-{number:05d}" for number in range(int(novas) - STARTING_FLEET)]
    for start in range(0, len(names), _CHUNK):
        with transaction.atomic():
            for number, nova_id in enumerate(names[start : start + _CHUNK], start):
                create_nova(nova_id, now=now, personality=seeding.FLEET[number % len(seeding.FLEET)], reason="bench")
    # a fleet that was not born in one instant: each Nova somewhere in its own cycle
    lengths = Nova.objects.order_by("nova_id").values_list("nova_id", "personality__base_cycle_time")
    rows = [(nova_id, now + timedelta(seconds=length * (i * 0.6180339887 % 1))) for i, (nova_id, length) in enumerate(lengths)]
    bulk.update(NovaState, ("nova",), ("due_at",), rows)
    return [row[0] for row in rows]


def progress() -> dict[str, Any]:
    """Give each personality's Novas, cycle time and completed cycles, read at one instant."""
    from django.db.models import Count, Sum

    from workflow.models import NovaState

    at = time.monotonic()
    rows = NovaState.objects.values_list("nova__personality", "nova__personality__base_cycle_time").annotate(
        novas=Count("*"), cycles=Sum("total_cycles_completed")
    )
    return {"at": at, "personalities": {slug: [length, novas, cycles] for slug, length, novas, cycles in rows}}


def cycles(novas: str, rounds: str) -> dict[str, Any]:
    """Drive one engine over so many Novas, all due, so many times; only the engine's own time counts.

    The clock of the Novas goes on by a minute each round, so that every cycle is a new one and none is early.
    """
    from safety.core.status import FleetFacts
    from workflow.engine import WorkflowEngine
    from workflow.models import NovaState

    seed(novas)
    engine, now, fleet = WorkflowEngine("bench"), _now() + timedelta(minutes=5), FleetFacts()
    rates, batches = [], []
    for _ in range(int(rounds) + 2):  # the first two bring every Nova from its beginning into its idle cycle
        now += timedelta(minutes=1)
        NovaState.objects.update(due_at=now)
        done, spent = 0, 0.0
        while True:
            begun = time.perf_counter()
            committed = engine.run_once(now=now, fleet=fleet)
            if committed is None:
                break
            spent += time.perf_counter() - begun
            batches.append((time.perf_counter() - begun) * 1000)
            done += committed.steps
            if done >= 3 * int(novas):
                raise RuntimeError("The Novas stay due; they were expected to rest.")
        rates.append(done / spent)
    measured = rates[2:]
    states = Counter(NovaState.objects.values_list("current_state", flat=True))
    return {
        "per_second": statistics.median(measured),
        "all": measured,
        "batch_ms": statistics.median(batches),
        "states": states,
    }


def safety(repeats: str) -> dict[str, Any]:
    """Judge 100 Novas at once, and one alone: milliseconds a Nova, and how many queries it took."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from safety import facts as safety_facts
    from safety.core.orchestrator import SafetyOrchestrator
    from safety.core.status import FleetFacts, SafetyRules

    novas = seed("105")[:100]
    orchestrator, rules, fleet, now = SafetyOrchestrator(), SafetyRules(), FleetFacts(), _now()
    side = {nova_id: safety_facts.WorkflowSideFacts() for nova_id in novas}

    def judge(nova_ids: list[str]) -> None:
        found = safety_facts.load_facts(nova_ids, dict.fromkeys(nova_ids, rules), side, now, fleet=fleet)
        for nova_id in nova_ids:
            orchestrator.judge(found[nova_id], rules, now)

    def measure(nova_ids: list[str]) -> dict[str, Any]:
        with CaptureQueriesContext(connection) as queries:
            judge(nova_ids)
        times = []
        for _ in range(int(repeats)):
            begun = time.perf_counter()
            judge(nova_ids)
            times.append((time.perf_counter() - begun) * 1000 / len(nova_ids))
        return {"ms": times, "queries": len(queries)}

    return {"batch": measure(novas), "alone": measure(novas[:1])}


def agents(novas: str) -> list[str]:
    """Make so many Novas that are somebody outside, with room for 64 tasks each, and give a key of each."""
    from django.db import transaction

    from safety import api_keys
    from safety.models import SafetyPolicy
    from workflow.configuration import create_nova

    now, keys = _now(), []
    with transaction.atomic():
        SafetyPolicy.objects.create(slug="agents", max_concurrent_tasks=64)
        for number in range(int(novas)):
            nova_id = f"agent-{number:03d}"
            create_nova(nova_id, now=now, reason="bench", policy="agents", default_executor="agent")
            keys.append(api_keys.create_key(nova_id, now=now)[0])
    return keys


COMMANDS = {
    "agents": agents,
    "seed": seed,
    "progress": progress,
    "cycles": cycles,
    "safety": safety,
    "fill": filler.fill,
    "dashboards": filler.dashboards,
    "pages": pages.pages,
}


def main(arguments: list[str]) -> None:
    """Run one command and print what it found."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")
    django.setup()
    found = COMMANDS[arguments[0]](*arguments[1:])  # type: ignore[operator]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
