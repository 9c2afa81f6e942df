"""The one base of this floor's anticipated failures; each stands beside the code that raises it."""


class WorkflowError(Exception):
    """Something asked for can't be done. Its text says why, for a person to read; nothing was changed."""
