"""The builtin executor: named actions that do real work on the system's own data, and the brief for what it can't do.

Each work stands in its own module under works/; this file only names them and finds each run a thread.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from django.db import connections

from safety.bulk import json_text
from workflow.core.momentum import MOMENTUM_TEMPLATES
from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works.brief import work_brief
from workflow.execution.works.coordination import optimize_coordination
from workflow.execution.works.documentation import update_documentation
from workflow.execution.works.figures import enhance_reporting
from workflow.execution.works.patterns import research_patterns
from workflow.execution.works.safety_check import validate_safety
from workflow.execution.works.streams import analyze_streams
from workflow.execution.works.workflow_review import review_workflow

Work = Callable[[ExecutionContext], Result]

MOMENTUM_ACTIONS = tuple(MOMENTUM_TEMPLATES)
WORKS: Mapping[str, Work] = {
    "brief": work_brief,
    "review_workflow": review_workflow,
    "update_documentation": update_documentation,
    "analyze_streams": analyze_streams,
    "validate_safety": validate_safety,
    "research_patterns": research_patterns,
    "enhance_reporting": enhance_reporting,
    "optimize_coordination": optimize_coordination,
}


class Builtin:
    """Runs the named works, each in a thread with a connection of its own; anything else gets a brief."""

    name = "builtin"
    actions = frozenset({"echo", *WORKS})
    inline = frozenset({"echo"})

    def run_inline(self, context: ExecutionContext) -> Result:
        """Run `echo`: give back what came in."""
        payload: Any = context.metadata.get("payload")
        if payload is None:
            payload = context.description
        text = payload if isinstance(payload, str) else json_text(payload)
        return Result(text, {"bytes": len(text.encode("utf-8", "replace"))})

    async def run(self, context: ExecutionContext) -> Result:
        """Run a named work; a task whose action is empty or unknown gets its brief."""
        return await asyncio.to_thread(_run_work, context)


def _run_work(context: ExecutionContext) -> Result:
    try:
        work = WORKS.get(context.action)
        if work is None:
            return work_brief(context, missing_action=context.action)
        return work(context)
    finally:
        connections.close_all()  # this thread's own; it may not run another work for long
