"""What a key may be used for: a small closed set of scopes, and which of them a permission or an agent's address needs.

A key never adds a right: a Nova's key acts for its Nova within its scopes, an operator's key has the rights of its person or
role within them.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum


class Scope(StrEnum):
    """One use of keys."""

    READ = "read"  # look at what one may see
    TASKS = "tasks"  # ask for tasks, claim and complete them, ask for approvals
    MESSAGES = "messages"  # post, read, acknowledge
    PERMITS = "permits"  # ask for calls to model providers
    HOOKS = "hooks"  # be asked by the agent's hooks
    EVENTS = "events"  # hear what happens
    CONTROL = "control"  # stop Novas and let them go on, incidents, approvals
    CONFIGURE = "configure"  # Novas, personalities, policies, objectives, accounts
    KEYS = "keys"  # make and revoke keys


NOVA_SCOPES = (Scope.READ, Scope.TASKS, Scope.MESSAGES, Scope.PERMITS, Scope.HOOKS, Scope.EVENTS)
OPERATOR_SCOPES = (
    Scope.READ, Scope.TASKS, Scope.MESSAGES, Scope.EVENTS, Scope.CONTROL, Scope.CONFIGURE, Scope.KEYS,
)  # fmt: skip

_BY_MODEL: Mapping[str, Scope] = {
    "task": Scope.TASKS,
    "inboxmessage": Scope.MESSAGES,
    "nova": Scope.CONTROL,
    "halt": Scope.CONTROL,
    "safetyincident": Scope.CONTROL,
    "approval": Scope.CONTROL,
    "apikey": Scope.KEYS,
}
_BY_NAME: Mapping[str, Scope] = {
    "add_nova": Scope.CONFIGURE,
    "order_stop": Scope.CONTROL,
    "lift_pause": Scope.CONTROL,
    "lift_halt": Scope.CONTROL,
    "hear_events": Scope.EVENTS,
}


def scope_of_permission(permission: str) -> Scope:
    """Give the scope within which a permission (`app.verb_model`) may be used; what is not known counts as configuration."""
    name = permission.rpartition(".")[2]
    verb, _, model = name.partition("_")
    if verb == "view":
        return Scope.READ
    return _BY_NAME.get(name) or _BY_MODEL.get(model, Scope.CONFIGURE)


def unknown_scopes(given: Collection[str], known: Collection[Scope]) -> list[str]:
    """Give those that are not among the known ones."""
    return sorted(set(given) - {scope.value for scope in known})
