"""What a model may do here while it works on a task, and what must be asked before it: the services behind every other door.

Found by the model executor through settings.MODEL_TOOLS, since it stands above it. A refusal is told to the model as text, so
that it can do otherwise; only what a person must decide ends its run.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from django.utils import timezone

from safety import audit, bulk
from safety.models import SafetyState
from workflow import approvals, halts, messages
from workflow.core.protocol import ProtocolViolation
from workflow.core.work import Priority
from workflow.errors import WorkflowError
from workflow.execution.registry import ExecutionContext, ExecutionFailed
from workflow.models import Approval, InboxMessage, Nova, NovaState
from workflow.safety_checks import check_safety
from workflow.task_services import TaskRequest, request_task

MESSAGE_LIMIT = 4_000  # characters
SHOWN_MESSAGES = 20
_STOPPED = frozenset({"halted", "killed", "quarantined", "archived"})  # else what is in hand may be finished
_UNTIL_UNKNOWN = timedelta(seconds=30)


class ToolRefused(WorkflowError):
    """The tool can't do that; its text says why, to the model."""


# -- tools: their texts and parameters are what the model is told


def read_inbox(context: ExecutionContext) -> str:
    """Read the newest messages to you, oldest first."""
    rows = InboxMessage.objects.filter(nova_id=context.nova_id).exclude(status=InboxMessage.Status.REJECTED)
    newest = list(rows.order_by("-id")[:SHOWN_MESSAGES])
    told = [
        f"{row.received_at:%Y-%m-%d %H:%M} from {row.sender or 'unknown'}: {bulk.json_text(row.fields)[:MESSAGE_LIMIT]}"
        for row in reversed(newest)
    ]
    return "\n".join(told) or "There are no messages."


def post_message(context: ExecutionContext, to: str, text: str) -> str:
    """Send a message to another Nova.

    Args:
        to: its nova_id
        text: what you want to tell it, at most 4,000 characters
    """
    text = text.replace("\x00", "").strip()
    if len(text) > MESSAGE_LIMIT:
        raise ToolRefused(f"A message has at most {MESSAGE_LIMIT:,} characters; this one has {len(text):,}. It was not sent.")
    if to == context.nova_id:
        raise ToolRefused("That is you; nothing was sent.")
    # twice from one task is once: a run that was cut off may have sent it
    message_id = sha256(f"{context.task_id} {to} {text}".encode()).hexdigest()[:40]
    if sent := InboxMessage.objects.filter(nova_id=to, sender=context.nova_id, fields__message_id=message_id).first():
        return f"That was sent to {to} before, as message {sent.pk}."
    fields = {"message": text, "message_id": message_id, "task_id": context.task_id}
    return f"Sent to {to} as message {messages.post_message(context.nova_id, to, fields, now=_now()).pk}."


def create_task(context: ExecutionContext, title: str, description: str, assignee: str = "", priority: str = "medium") -> str:
    """Ask for further work that this task needs and that you can't do within it.

    Args:
        title: in a few words, what is to be done
        description: what is wanted, and how to tell that it is done
        assignee: the nova_id of who shall do it; empty: any Nova of your team
        priority: critical, high, medium or low
    """
    if priority not in set(Priority):
        raise ToolRefused("The priority is critical, high, medium or low. No task was created.")
    team = "" if assignee else Nova.objects.values_list("team", flat=True).get(pk=context.nova_id)
    request = TaskRequest(title, description, Priority(priority), assignee=assignee, team=team)
    key = sha256(f"{context.task_id} {assignee} {title} {description}".encode()).hexdigest()[:40]
    task_id, known = request_task(
        request, sender=f"nova:{context.nova_id}", now=_now(), cause=context.task_id, idempotency_key=key
    )
    return f"Task {task_id} was {'created before' if known else 'created'}."


def report_progress(context: ExecutionContext, update: str, percent: int) -> str:
    """Say how far the task has come; it is shown to those who wait for it, and kept if you are interrupted.

    Args:
        update: what is done so far
        percent: 0 to 100
    """
    context.report_progress(percent)
    return f"{max(0, min(100, percent))} %: {update[:1000]}"


TOOLS: Mapping[str, Callable[..., str]] = {
    tool.__name__: tool for tool in (read_inbox, post_message, create_task, report_progress)
}
_BEGIN_SOMETHING = frozenset({"post_message", "create_task"})


# -- what the executor asks


def use(tool: str, context: ExecutionContext, arguments: Mapping[str, Any], *, approval: bool) -> tuple[str, bool]:
    """Carry out a tool as the Nova, with a person's `approval` if it needs one; give its answer, and whether it was done.

    :raises ExecutionFailed: it is not approved yet: the task waits for a person.
    """
    try:
        with audit.acting(f"nova:{context.nova_id}", f"execution:{context.execution_id}"):
            if tool in _BEGIN_SOMETHING:
                halts.demand_may_act(context.nova_id)
            if approval:
                _demand_approval(context, tool, arguments)
            return TOOLS[tool](context, **arguments), True
    except ExecutionFailed:
        raise
    except (WorkflowError, ProtocolViolation) as refusal:
        return f"Refused: {refusal}", False


def demand_may_call(nova_id: str) -> None:
    """Refuse a call to a provider while the Nova is stopped or unsafe; what a paused one has in hand may be finished.

    :raises ExecutionFailed: the execution is put off until the Nova may act again.
    """
    mode = NovaState.objects.filter(nova=nova_id).values_list("mode", flat=True).first()
    if mode is None or mode in _STOPPED:
        raise ExecutionFailed(f"Nova {nova_id} is {mode or 'gone'}; no call was made.", retry_after=_UNTIL_UNKNOWN)
    verdict = SafetyState.objects.filter(nova_id=nova_id, is_safe=False).first()
    if verdict is not None:
        wait = verdict.until - _now() if verdict.until else _UNTIL_UNKNOWN
        text = f"Nova {nova_id} may not act now ({verdict.mechanism}): {verdict.reason} No call was made."
        raise ExecutionFailed(text, retry_after=max(wait, timedelta(seconds=1)))


def note_hammering(nova_id: str) -> None:
    """Judge a Nova at once whose asking for calls was itself a violation."""
    check_safety([nova_id], now=_now())


def _demand_approval(context: ExecutionContext, tool: str, arguments: Mapping[str, Any]) -> None:
    """Use up a person's approval of this very use of a tool; where there is none, ask for it.

    :raises ExecutionFailed: nobody has decided yet. :raises ToolRefused: a person has denied it.
    """
    now, nova_id = _now(), context.nova_id
    digest = approvals.digest_of(tool, arguments)
    asked = Approval.objects.filter(nova=nova_id, task_id=context.task_id, digest=digest).order_by("-id").first()
    if asked is not None and asked.status == Approval.Status.DENIED:
        raise ToolRefused(f"A person has denied this: {asked.decision_reason} Do without it, or say what the task needs.")
    reason = f"For task {context.task_id}: {context.title}"[:500]
    approval = approvals.request_approval(nova_id, tool, arguments, now=now, reason=reason, task_id=context.task_id)
    if approval.status == Approval.Status.APPROVED:
        approvals.demand_approval(nova_id, tool, arguments, approval.pk, now=now)
        return
    action = f"approve or deny request {approval.pk} ({tool} for {nova_id}), then unblock the task"
    text = f"The tool {tool} needs the approval of a person: request {approval.pk}. It was not used."
    raise ExecutionFailed(text, retryable=False, needs={"owner": "operator", "action": action})


def _now() -> datetime:
    return timezone.now()  # noqa: TID251 - a model's tools are doors: here the clock enters
