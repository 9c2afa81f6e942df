"""How a task's status and priority look: word, tone and icon. Pure."""

from collections.abc import Mapping

from reporting.core.statuses import Look

PRIORITIES: Mapping[str, Look] = {
    "critical": Look("critical", "Critical", "bad", "critical"),
    "high": Look("high", "High", "warn", "high"),
    "medium": Look("medium", "Medium", "info", "medium"),
    "low": Look("low", "Low", "calm", "low"),
}
STATUSES: Mapping[str, Look] = {
    "pending": Look("pending", "Pending", "info", "clock"),
    "in_progress": Look("in_progress", "In progress", "good", "play"),
    "blocked": Look("blocked", "Blocked", "bad", "hand"),
    "completed": Look("completed", "Completed", "good", "check"),
}
CANCELLED = Look("cancelled", "Cancelled", "calm", "stop")
ATTEMPTS: Mapping[str, Look] = {
    "dispatched": Look("dispatched", "Dispatched", "info", "clock"),
    "running": Look("running", "Running", "good", "play"),
    "succeeded": Look("succeeded", "Succeeded", "good", "check"),
    "failed": Look("failed", "Failed", "bad", "alert"),
    "timed_out": Look("timed_out", "Timed out", "bad", "clock"),
    "cancelled": CANCELLED,
    "abandoned": Look("abandoned", "Abandoned", "warn", "silent"),
}


def look_of(status: str, outcome: str) -> Look:
    """Give how a task looks; a cancelled one is no success."""
    return CANCELLED if outcome == "cancelled" else STATUSES[status]
