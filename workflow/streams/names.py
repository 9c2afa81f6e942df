"""Which streams are read, and what each is: the inbound doors, and outbound streams where foreign entries are noticed."""

from collections.abc import Iterable
from dataclasses import dataclass

from workflow.core.protocol import stream_name

SHARED = ("work_queue", "priority_alerts")  # read in the one blocking call
OWN = ("coordination", "task_todo")  # one a Nova: the first looked at every 250 ms, the other every five seconds
OUTBOUND = ("task_progress", "task_completed", "status_updates", "safety_alerts")  # one a Nova, swept slowly


@dataclass(frozen=True, slots=True)
class Inbound:
    """A stream that intake reads. `accepts` is False where only NOVAWF writes: a foreign entry there is kept as rejected."""

    name: str
    kind: str
    nova_id: str
    accepts: bool


def streams_of(nova_ids: Iterable[str]) -> dict[str, Inbound]:
    """Give every stream that is read for these Novas, by name."""
    found = [Inbound(stream_name(kind), kind, "", True) for kind in SHARED]
    found.append(Inbound(stream_name("enterprise_metrics"), "enterprise_metrics", "", False))
    for nova_id in nova_ids:
        found += [Inbound(stream_name(kind, nova_id), kind, nova_id, True) for kind in OWN]
        found += [Inbound(stream_name(kind, nova_id), kind, nova_id, False) for kind in OUTBOUND]
    return {stream.name: stream for stream in found}
