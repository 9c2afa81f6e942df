"""`manage.py task VERB`: tasks from the shell: ask for work, look, cancel, retry, unblock, rank. Journalled as `cli:<user>`.

Exit codes: 0 done; 1 refused; 2 the command line is wrong.
"""

import json
from collections.abc import Callable
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser
from django.db.models import Prefetch, Q

from workflow import task_services
from workflow.api.serializers import TaskAccepted, TaskDetailShown, TaskShown
from workflow.core.work import Priority, TaskStatus
from workflow.errors import WorkflowError
from workflow.management import console
from workflow.models import Execution, Task
from workflow.task_tracker import TaskNotFound

_ASKED = ("title", "description", "priority", "assignee", "team", "executor", "action", "estimated_duration", "max_attempts")
_ACTS: dict[str, Callable[..., bool]] = {
    "cancel": task_services.cancel_task,
    "retry": task_services.retry_task,
    "unblock": task_services.unblock_task,
}
_VERBS = (*_ACTS, "priority")


class Command(BaseCommand):
    help = "Create, list or show tasks, or cancel, retry, unblock or rank them. Exit code 1: refused."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the verb and what it needs."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        made = verbs.add_parser("create", help="ask for work")
        made.add_argument("title")
        made.add_argument("--description")
        made.add_argument("--priority", help="critical, high, medium (default) or low")
        made.add_argument("--assignee", help="the Nova that is to do it (default: any)")
        made.add_argument("--team", help="any Nova of this team")
        made.add_argument("--executor", help="what runs it (default: the Nova's)")
        made.add_argument("--action")
        made.add_argument("--estimated-duration", help="seconds, or ISO 8601 (PT15M)")
        made.add_argument("--max-attempts", type=int)
        made.add_argument("--after", action="append", metavar="TASK", help="a task that must succeed first; may be repeated")
        made.add_argument("--metadata", help="a JSON object")
        made.add_argument("--key", help="an idempotency key: asking again with it makes no second task")
        listed = verbs.add_parser("list", help="the newest tasks")
        listed.add_argument("--status", action="append", choices=[s.value for s in TaskStatus], help="may be repeated")
        listed.add_argument("--priority", action="append", choices=[p.value for p in Priority], help="may be repeated")
        listed.add_argument("--assignee", help="of this Nova; '': nobody's yet")
        listed.add_argument("--team")
        listed.add_argument("--search", help="words in title, description or id")
        listed.add_argument("--limit", type=int, default=50, help="how many at most (default 50)")
        shown = verbs.add_parser("show", help="all about tasks")
        shown.add_argument("task_ids", nargs="+", metavar="TASK")
        helps = {
            "cancel": "end tasks for good",
            "retry": "try failed or blocked tasks again now",
            "unblock": "what the blocked tasks waited for is done: go on",
            "priority": "give pending or blocked tasks another place in the order",
        }
        acted = [verbs.add_parser(verb, help=helps[verb]) for verb in _VERBS]
        acted[-1].add_argument("priority", choices=[p.value for p in Priority])
        for one in acted:
            one.add_argument("task_ids", nargs="+", metavar="TASK")
            one.add_argument("--reason", default="", help="why: required, kept in the journal")
        for one in (made, listed, shown, *acted):
            one.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        """Do it, and print what became of it."""
        with console.acting():
            if verb == "create":
                self._create(options)
            elif verb == "list":
                self._list(options)
            elif verb == "show":
                self._show(options["task_ids"], options["json"])
            else:
                self._act(verb, options)

    def _create(self, options: dict[str, Any]) -> None:
        given = {name: options[name] for name in _ASKED if options[name] is not None}
        given["dependencies"] = options["after"] or []
        if options["metadata"] is not None:
            try:
                given["metadata"] = json.loads(options["metadata"])
            except ValueError as error:
                raise CommandError(f"--metadata is no JSON: {error}. No task was made.", returncode=2) from error
        asked = TaskAccepted(data=given)
        if not asked.is_valid():
            problems = "; ".join(f"{name}: {_flat(texts)}" for name, texts in asked.errors.items())
            raise CommandError(f"{problems} No task was made.")
        task_id, replayed = task_services.request_task(
            asked.request(), sender=console.operator(), now=console.now(), cause="cli", idempotency_key=options["key"]
        )
        if options["json"]:
            console.print_json(self, _shown(task_id) | {"replayed": replayed})
        else:
            self.stdout.write(task_id)

    def _list(self, options: dict[str, Any]) -> None:
        tasks = Task.objects.filter(personal=False).defer("results", "metrics", "insights", "metadata")
        if options["priority"]:
            tasks = tasks.filter(priority__in=options["priority"])
        if options["assignee"] is not None:
            tasks = tasks.filter(assignee=options["assignee"] or None)
        if options["team"]:
            tasks = tasks.filter(team=options["team"])
        if words := options["search"]:
            tasks = tasks.filter(Q(title__icontains=words) | Q(description__icontains=words) | Q(id__icontains=words))
        # one part for each status, along its index: the cost doesn't grow with the table
        newest = tasks.order_by("-created_at", "-id")
        parts = [newest.filter(status=status)[: options["limit"]] for status in options["status"] or list(TaskStatus)]
        found = sorted((task for part in parts for task in part), key=lambda task: (task.created_at, task.id), reverse=True)
        rows = TaskShown(found[: options["limit"]], many=True).data
        if options["json"]:
            console.print_json(self, rows)
            return
        for row in rows:
            who = row["assignee"] or "(open)"
            self.stdout.write(f"{row['task_id']:<32} {row['status']:<12} {row['priority']:<9} {who:<20} {row['title']}")
            if row["block"]:
                self.stdout.write(f"    {row['block']['owner']}: {row['block']['action']}. {row['block']['reason']}")

    def _show(self, task_ids: list[str], as_json: bool) -> None:
        shown = [_shown(task_id) for task_id in task_ids]
        if as_json:
            console.print_json(self, shown)
            return
        for task in shown:
            for name, value in task.items():
                if value not in ("", None, [], {}):
                    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
                    self.stdout.write(f"{name}: {text}")

    def _act(self, verb: str, options: dict[str, Any]) -> None:
        console.demand(options["reason"].strip(), "Say why with --reason; it is kept in the journal.")
        lines = [_apply(verb, task_id, options) for task_id in options["task_ids"]]
        if options["json"]:
            console.print_json(self, lines)
        else:
            for line in lines:
                self.stdout.write(f"{line['task_id']}: {line['problem'] or ('done' if line['changed'] else 'no change')}")
        if any(line["problem"] for line in lines):
            raise SystemExit(1)


def _apply(verb: str, task_id: str, options: dict[str, Any]) -> dict[str, Any]:
    reason, now = options["reason"], console.now()
    try:
        if not Task.objects.filter(id=task_id, personal=False).exists():
            raise TaskNotFound(f"There is no task {task_id}; nothing was changed.")
        if verb == "priority":
            changed = task_services.set_priority(task_id, Priority(options["priority"]), reason=reason, now=now)
        else:
            changed = _ACTS[verb](task_id, reason=reason, now=now)
    except WorkflowError as refusal:
        return {"task_id": task_id, "changed": False, "problem": str(refusal)}
    return {"task_id": task_id, "changed": changed, "problem": ""}


def _shown(task_id: str) -> dict[str, Any]:
    executions = Prefetch("executions", Execution.objects.order_by("attempt"))
    task = Task.objects.filter(id=task_id, personal=False).prefetch_related("dependencies", executions).first()
    if task is None:
        raise TaskNotFound(f"There is no task {task_id}.")
    return dict(TaskDetailShown(task).data)


def _flat(texts: Any) -> str:
    return " ".join(map(str, texts if isinstance(texts, list) else texts.values()))
