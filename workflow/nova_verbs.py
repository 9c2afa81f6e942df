"""The operator's verbs on Novas as people meet them: what each is called, what it does, which right it needs, carried out.

The admin and the pages offer these, with these words; how a verb works stands in services and halts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from workflow import halts, services
from workflow.models import Halt, NovaState
from workflow.services import VerbResult

ORDER_STOP = "workflow.order_stop"


@dataclass(frozen=True, slots=True)
class NovaVerb:
    """A verb on chosen Novas. `icon` is a name of the admin's icon font."""

    name: str
    past: str
    icon: str
    effect: str
    danger: bool = False

    @property
    def title(self) -> str:
        return self.name.capitalize()

    def offered(self, mode: str) -> bool:
        """Tell whether it would change a Nova in this mode."""
        return mode in services.VERBS[self.name].starts


_ALL = (
    NovaVerb(
        "pause", "paused", "pause", "Stops the clock at once: no new work begins, tasks in flight finish. Rest and "
        "deadlines go on with what they had left after a resume.",
    ),
    NovaVerb(
        "halt", "halted", "front_hand", "Stops the clock and what runs. Each Nova is called stopped when nothing of it is "
        "seen any more; one that does not obey within half a minute is killed. Only a safety officer "
        "resumes it.", danger=True,
    ),
    NovaVerb("kill", "killed", "dangerous", "Halts, and suspends the keys of its agents at once.", danger=True),
    NovaVerb(
        "resume", "resumed", "play_arrow", "Lets Novas go on; "
        "those that were halted, killed or quarantined need a safety officer.",
    ),
    NovaVerb("drain", "draining", "hourglass_bottom", "Finishes the tasks in hand, takes no new one, then pauses."),
    NovaVerb("wake", "woken", "bolt", "Looks for work now instead of at the end of the cycle."),
    NovaVerb(
        "archive", "archived", "archive", "Takes out of service for good; nothing is deleted. Only Novas that hold no work "
        "somebody asked for.", danger=True,
    ),
    NovaVerb("unarchive", "back, paused", "unarchive", "Brings back, paused."),
)  # fmt: skip
NOVA_VERBS: Mapping[str, NovaVerb] = {verb.name: verb for verb in _ALL}


def right_for(name: str, nova_ids: Sequence[str]) -> str:
    """Name the permission that a verb needs for these Novas; empty: that of changing Novas."""
    if name == "resume":
        return halts.right_to_resume(list(NovaState.objects.filter(nova__in=nova_ids).values_list("mode", flat=True)))
    return ORDER_STOP if name in Halt.Kind.values else ""


def carry_out(name: str, nova_ids: Sequence[str], *, reason: str, now: datetime) -> list[VerbResult]:
    """Carry a verb out for chosen Novas; each of them says what became of it."""
    if name in (Halt.Kind.HALT, Halt.Kind.KILL):
        before = dict(NovaState.objects.filter(nova__in=nova_ids).values_list("nova_id", "mode"))
        for nova_id in nova_ids:
            halts.order(name, Halt.Scope.NOVA, nova_id, reason=reason, now=now)
        after = dict(NovaState.objects.filter(nova__in=nova_ids).values_list("nova_id", "mode"))
        return [VerbResult(nova_id, after[nova_id], after[nova_id] != before[nova_id]) for nova_id in nova_ids]
    if name == "resume":
        return halts.resume(nova_ids, reason=reason, now=now)
    return services.apply_verb(name, nova_ids, reason=reason, now=now)
