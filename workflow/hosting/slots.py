"""Slots and their queue: the names, and the one way to put a slice into django-q2's queue.

A slot is a lease `slot:{cluster}:{host}:{number}`; a slice is one queue row that drives it for a while. Each host has a queue
of its own, so what waits there is this host's to judge. This room must not know what a slice does. Models are imported where
they are used: the keeper of all processes needs the names alone, and stays small without them.
"""

from pathlib import Path

from django.conf import settings

PROBE = "probe"  # the group of the supervisor's probes
_PROBE_JOB = "workflow.hosting.slots.answer_probe"


def clusters() -> tuple[str, ...]:
    """The clusters of this installation."""
    return tuple(settings.SLICE_JOBS)


def slot_count(cluster: str) -> int:
    return int(settings.LOOP_SLOTS if cluster == "loops" else settings.WORK_SLOTS)


def slot_names(cluster: str) -> list[str]:
    """The leases of this host's slots in a cluster."""
    return [f"slot:{cluster}:{settings.HOST}:{number}" for number in range(slot_count(cluster))]


def queue_name(cluster: str) -> str:
    """What django-q2 calls this host's part of a cluster, and its queue."""
    return f"{cluster}@{settings.HOST}"


def lock_file(cluster: str) -> Path:
    """The file that the supervisor of a cluster locks, and touches as long as it is well."""
    return Path(settings.VAR_DIR) / f"workers-{cluster}.lock"


def cluster_of(slot: str) -> str:
    """Give the cluster a slot belongs to."""
    return slot.split(":")[1]


def forget_beats(cluster: str) -> None:
    """Let nobody take a beat of processes that are gone for a sign of life."""
    from workflow.models import Lease

    Lease.objects.filter(name__in=slot_names(cluster)).update(heartbeat_at=None)


def _put(job: str, *values: str, cluster: str, group: str) -> None:
    from django_q.tasks import async_task

    async_task(job, *values, cluster=queue_name(cluster), group=group)


def enqueue(slot: str) -> None:
    """Queue a slice for a slot: the supervisor's seed, or the successor of a slice that ends."""
    cluster = cluster_of(slot)
    _put(settings.SLICE_JOBS[cluster], slot, cluster=cluster, group=slot)


def enqueue_probe(cluster: str) -> None:
    """Queue a row that does nothing: where it vanishes, pusher, worker and monitor are alive."""
    _put(_PROBE_JOB, cluster=cluster, group=PROBE)


def enqueue_job(path: str, *, group: str) -> None:
    """Queue one run of a function for this host's spare worker of `work`, which answers probes too: it must end in seconds."""
    _put(path, cluster="work", group=group)


def answer_probe() -> None:
    """Do nothing; that it was done and acknowledged is the answer."""
