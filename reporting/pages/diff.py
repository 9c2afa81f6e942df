"""What an entry of the journal changed, field by field, as texts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field before and after. `kind`: added, removed, changed or same."""

    name: str
    before: str
    after: str
    kind: str


def differences(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[Difference]:
    """Give the fields of both sides, those that changed first."""
    old, new = before or {}, after or {}
    found = [
        Difference(name, written(old.get(name)), written(new.get(name)), _kind(name, old, new))
        for name in dict.fromkeys([*old, *new])
    ]
    return sorted(found, key=lambda one: one.kind == "same")


def _kind(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if name not in old:
        return "added"
    if name not in new:
        return "removed"
    return "same" if old[name] == new[name] else "changed"


def written(value: Any) -> str:
    """Write a value: texts as they are, the rest as JSON."""
    if value is None or value == "":
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
