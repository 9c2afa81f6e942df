"""What a journal entry is news about: the topics that pages listen to, and the permission each needs.

A topic is a kind (`fleet`), or a kind with an id (`nova:torch`). Pure: it knows actions and names, no rows.
"""

from collections.abc import Mapping
from typing import Any

RIGHTS: Mapping[str, str] = {
    "banner": "workflow.view_halt",
    "fleet": "workflow.view_nova",
    "nova": "workflow.view_nova",
    "board": "workflow.view_task",
    "task": "workflow.view_task",
    "waiting": "workflow.view_approval",
    "safety": "safety.view_safetyincident",
    "halt": "workflow.view_halt",
    "reports": "workflow.view_nova",
    "journal": "safety.view_auditentry",
    "alerts": "reporting.view_alertevent",
}
WITH_ID = frozenset({"nova", "task", "halt"})
_WAITS = (
    "workflow.approval.", "workflow.halt.", "safety.incident.", "workflow.task.blocked", "workflow.task.unblocked",
    "workflow.task.retried", "workflow.task.cancelled", "workflow.task.assigned",
)  # fmt: skip
_STOPS = ("workflow.halt.", "safety.fleet.", "safety.stream.", "safety.nova.", "workflow.nova.")


def is_topic(text: str) -> bool:
    """Tell whether a text names a topic."""
    kind, _, its_id = text.partition(":")
    return kind in RIGHTS and bool(its_id) == (kind in WITH_ID) and len(its_id) <= 128


def topics_of(entry: Mapping[str, Any]) -> set[str]:
    """Give the topics that a journal entry is news about."""
    action, kind, its_id = entry["action"], entry["object_type"], entry["object_id"]
    found = {"journal", "reports"}
    if kind == "task":
        found |= {"board", f"task:{its_id}", "fleet"}
    elif kind in ("nova", "personality", "policy"):
        found |= {"fleet"}
    elif kind == "halt":
        found |= {"banner", "fleet", "halt", f"halt:{its_id}"}
    elif kind == "alert":
        found |= {"alerts"}
    if action.startswith("safety."):
        found |= {"safety", "fleet"}
    if action.startswith(_STOPS):
        found |= {"banner"}
    if action.startswith(_WAITS):
        found |= {"waiting"}
    if entry["nova_id"]:
        found |= {f"nova:{entry['nova_id']}"}
    elif kind == "nova":
        found |= {f"nova:{its_id}"}
    return found
