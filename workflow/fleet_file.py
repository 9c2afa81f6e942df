"""The fleet as one file: policies, personalities, Novas and objectives, as `export` writes them and `apply` puts them in force.

`apply_fleet` makes the database say what the file says, in one transaction, through the same services as every other door:
what is equal is left alone, what the file does not name is left alone, nothing is ever deleted. Secrets have no place in it.
This room must not know files or terminals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models, transaction

from safety.models import SafetyPolicy
from workflow import configuration, services
from workflow.errors import WorkflowError
from workflow.models import Nova, Objective, Personality

VERSION = 1
ARCHIVED = "archived"  # a row's key in the file: out of use
_NOT_CONFIGURED = frozenset(
    {"created_at", "updated_at", "archived_at", "open_task_id", "due_at"}  # of an objective, which moves by itself
)
# in the order in which they are made: a Nova needs its policy
_KINDS: Mapping[str, type[models.Model]] = {
    "policies": SafetyPolicy,
    "personalities": Personality,
    "novas": Nova,
    "objectives": Objective,
}
_KEYS = {"policies": "slug", "personalities": "slug", "novas": "nova_id", "objectives": "title"}
_NUMBERS = (models.FloatField, models.IntegerField)


class FleetFileError(WorkflowError):
    """The file can't be put in force; its text says where. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row that the file changes: what was done, and each field's value before and after."""

    verb: str  # created, changed, archived, restored
    kind: str
    name: str
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Give it as a person reads it."""
        signs = {"created": "+", "changed": "~", "archived": "-", "restored": "^"}
        head = f"{signs[self.verb]} {self.kind}/{self.name} {self.verb}"
        if self.verb == "created":
            return [head, *(f"    {name}: {after}" for name, (_, after) in self.fields.items())]
        return [head, *(f"    {name}: {before} -> {after}" for name, (before, after) in self.fields.items())]


class _Rehearsed(Exception):
    """Rolls a rehearsal back."""


class _Loader(yaml.SafeLoader):
    """YAML of plain values, in which no key may stand twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise FleetFileError(f"{', '.join(twice)} stands twice, {node.start_mark}. Nothing was changed.")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def export_fleet() -> str:
    """Give the whole configuration as YAML: the same rows give the same text. Rows out of use say so."""
    content: dict[str, Any] = {"version": VERSION}
    for kind, model in _KINDS.items():
        if kind == "objectives":
            content[kind] = [{"title": row.title, **_row_shown(kind, row)} for row in _distinct_objectives()]
        else:
            content[kind] = {row.pk: _row_shown(kind, row) for row in model._default_manager.order_by("pk")}
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return text


def read_fleet(text: str) -> dict[str, Any]:
    """Read a fleet file.

    :raises FleetFileError: it is no YAML, or not of this form.
    """
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise FleetFileError(f"The file is no YAML: {error}. Nothing was changed.") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise FleetFileError(f"The file must begin with `version: {VERSION}`. Nothing was changed.")
    if unknown := sorted(map(str, set(content) - {"version", *_KINDS})):
        raise FleetFileError(f"Unknown: {', '.join(unknown)}; known are {', '.join(_KINDS)}. Nothing was changed.")
    for kind in _KINDS:
        rows = content.get(kind) or ([] if kind == "objectives" else {})
        fits = isinstance(rows, list) if kind == "objectives" else isinstance(rows, dict)
        entries = rows if isinstance(rows, list) else list(rows.values()) if isinstance(rows, dict) else []
        if not fits or not all(isinstance(entry, dict | None) for entry in entries):
            shape = "a list of objects with a title" if kind == "objectives" else "an object: name, then its fields"
            raise FleetFileError(f"{kind} must be {shape}. Nothing was changed.")
        content[kind] = rows
    return content


def apply_fleet(content: Mapping[str, Any], *, now: datetime, reason: str = "", rehearse: bool = False) -> list[Change]:
    """Put a file in force, all of it or nothing, and give what changed. `rehearse`: only say what would.

    1. Take into use, make and change: policies, personalities, Novas, objectives. 2. Take out of use, the other way round.

    :raises FleetFileError: a row can't be as the file says; nothing was changed.
    """
    changes: list[Change] = []
    try:
        with transaction.atomic():
            for kind in _KINDS:
                for name, given in _entries(kind, content[kind]):
                    changes += _apply_row(kind, name, given, reason, now)
            for kind in reversed(list(_KINDS)):
                for name, given in _entries(kind, content[kind]):
                    if given.get(ARCHIVED):
                        changes += _archive(kind, name, given, reason, now)
            if rehearse:
                raise _Rehearsed
    except _Rehearsed:
        pass
    return changes


def _entries(kind: str, rows: Any) -> list[tuple[str, dict[str, Any]]]:
    if kind != "objectives":
        return [(str(name), given or {}) for name, given in rows.items()]
    found = [(str(given.get("title") or ""), given) for given in rows]
    if not all(title for title, _ in found):
        raise FleetFileError("An objective has no title. Nothing was changed.")
    names = [(title, given.get("nova"), given.get("team")) for title, given in found]
    if twice := sorted({title for (title, nova, team) in names if names.count((title, nova, team)) > 1}):
        raise FleetFileError(f"The objective {twice[0]} stands twice. Nothing was changed.")
    return found


def _apply_row(kind: str, name: str, given: Mapping[str, Any], reason: str, now: datetime) -> list[Change]:
    """Make or change a row and take it into use; what is to go out of use is left for later."""
    where = f"{kind}/{name}"
    values = _values(kind, where, given)
    row = _find(kind, name, given)
    try:
        if row is None:
            return _create(kind, name, values, reason, now)
        changes = []
        if ARCHIVED in given and not given[ARCHIVED] and row.archived_at is not None:
            _restore(row, reason, now)
            changes.append(Change("restored", kind, name))
        before = {column: getattr(row, column) for column in values}
        for column, value in values.items():
            setattr(row, column, value)
        names = {_field(kind, column).name: column for column in values}
        changed = configuration.save_configured(row, now=now, reason=reason, fields=names)
        if changed:
            fields = {field: (before[names[field]], getattr(row, names[field])) for field in changed}
            changes.append(Change("changed", kind, name, fields))
        return changes
    except ValidationError as refusal:
        raise FleetFileError(f"{where}: {in_words(refusal)} Nothing was changed.") from refusal
    except WorkflowError as refusal:
        raise FleetFileError(f"{where}: {refusal}") from refusal


def _create(kind: str, name: str, values: dict[str, Any], reason: str, now: datetime) -> list[Change]:
    values = {_KEYS[kind]: name} | values
    if kind == "objectives":
        values.setdefault("due_at", now)
    if kind == "novas":
        values.setdefault("name", name.capitalize())
    row: Any = _KINDS[kind](**values)
    made = configuration.save_configured(row, now=now, reason=reason, creating=True)
    shown = {column: (None, value) for column, value in made.items() if column in values or f"{column}_id" in values}
    return [Change("created", kind, name, shown)]


def _archive(kind: str, name: str, given: Mapping[str, Any], reason: str, now: datetime) -> list[Change]:
    row = _find(kind, name, given)
    if row is None or row.archived_at is not None:
        return []
    reason = reason or "the fleet file says so"
    try:
        if isinstance(row, Nova):
            services.archive_nova(row.pk, reason=reason, now=now)
        else:
            configuration.archive(row, now=now, reason=reason)
    except WorkflowError as refusal:
        raise FleetFileError(f"{kind}/{name}: {refusal}") from refusal
    return [Change("archived", kind, name)]


def _restore(row: Any, reason: str, now: datetime) -> None:
    reason = reason or "the fleet file says so"
    if isinstance(row, Nova):
        services.unarchive_nova(row.pk, reason=reason, now=now)
        row.refresh_from_db()
    else:
        configuration.restore(row, now=now, reason=reason)


def _find(kind: str, name: str, given: Mapping[str, Any]) -> Any:
    """Give the row of a name; an objective is known by title, Nova and team, one in use before one that is not."""
    model: Any = _KINDS[kind]
    if kind != "objectives":
        return model.objects.filter(pk=name).first()
    rows = model.objects.filter(title=name, nova=given.get("nova") or None, team=given.get("team") or "")
    return rows.order_by(models.F("archived_at").asc(nulls_first=True), "id").first()


def _field(kind: str, name: str) -> Any:
    return _KINDS[kind]._meta.get_field(name)


def _values(kind: str, where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Give the columns that an entry names, as their fields take them.

    :raises FleetFileError: a field is unknown, or its value is none.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == ARCHIVED or (kind == "objectives" and name == "title"):
            continue
        try:
            found = _field(kind, str(name))
        except FieldDoesNotExist:
            found = None
        if found is None or name not in _configured(kind):
            known = ", ".join(sorted({*_configured(kind), ARCHIVED}))
            raise FleetFileError(f"{where}: {name} is no field; known are {known}. Nothing was changed.")
        if isinstance(value, bool) and isinstance(found, _NUMBERS):
            raise FleetFileError(f"{where}: {name} must be a number. Nothing was changed.")
        try:
            values[found.attname] = _instant(value) if isinstance(value, datetime) else found.to_python(value)
        except ValidationError as refusal:
            raise FleetFileError(f"{where}: {name}: {in_words(refusal)} Nothing was changed.") from refusal
    return values


def _instant(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)  # YAML's instants are in UTC where they don't say


def _configured(kind: str) -> list[str]:
    """Give the names of what a row may say, in the order of its fields."""
    key = _KEYS[kind]
    fields = _KINDS[kind]._meta.concrete_fields
    return [f.name for f in fields if f.name not in _NOT_CONFIGURED and f.name not in (key, "id")]


def _row_shown(kind: str, row: Any) -> dict[str, Any]:
    shown = {name: _field(kind, name).value_from_object(row) for name in _configured(kind)}
    return shown | ({ARCHIVED: True} if row.archived_at is not None else {})


def _distinct_objectives() -> list[Objective]:
    """Give the objectives that a file can tell apart: of those with one title, Nova and team the one that `_find` finds."""
    rows = Objective.objects.order_by(models.F("archived_at").asc(nulls_first=True), "id")
    first: dict[tuple[str, str, str], Objective] = {}
    for row in rows:
        first.setdefault((row.title, row.nova_id or "", row.team), row)
    return [first[key] for key in sorted(first)]


def in_words(refusal: ValidationError) -> str:
    """Give a refusal as one text that names the fields."""
    if not hasattr(refusal, "error_dict"):
        return " ".join(refusal.messages)
    fields: Mapping[str, Sequence[str]] = refusal.message_dict
    return " ".join(" ".join(texts) if name == "__all__" else f"{name}: {' '.join(texts)}" for name, texts in fields.items())
