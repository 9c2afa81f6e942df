"""Slices without an engine: they beat, and say that streams are read, which is what supervisor and readiness need."""

import os
import time
from datetime import UTC, datetime

from safety.models import FleetFact
from workflow.hosting.slices import Slice


def run_slice(slot: str) -> None:
    turn = Slice(slot, seconds=float(os.environ.get("STAND_IN_SECONDS", "3")))
    if not turn.begin():
        return
    FleetFact.objects.update_or_create(name="intake_lag", defaults={"value": 0.0, "observed_at": datetime.now(UTC)})
    while turn.beat():
        time.sleep(0.05)
    turn.end()
