"""Who may read what tasks, incidents and the journal say, and who did what: all who act or audit; a viewer only looks."""

from typing import Any


def may_read(user: Any) -> bool:
    """Tell whether somebody may read texts and the names of persons; told from rights, so new roles need no word here."""
    return bool(user.has_perm("safety.view_auditentry") or user.has_perm("safety.change_safetyincident"))
