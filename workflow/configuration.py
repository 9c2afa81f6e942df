"""The one way to save what operators configure: Novas, personalities, policies, objectives, accounts, what executors reach.

Each save is one transaction that checks the row, writes it and journals the fields that changed, before and after; of what a
model hides only that it changed. This room must not know who asks: admin, REST, seeding and commands all come through here.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial, reduce
from operator import or_
from typing import Any, ClassVar, Protocol, cast

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models, transaction
from django.db.models import Q

from safety import audit, observe
from safety.audit import Entry
from safety.core.status import SafetyStatus
from safety.models import ProviderAccount, SafetyPolicy
from workflow import waking
from workflow.effective import KEPT
from workflow.errors import WorkflowError
from workflow.execution import registry
from workflow.models import CommandTemplate, HttpEndpoint, ModelPrice, Nova, NovaState, Objective, Personality


class JournalledRow(Protocol):
    """A row of an upper floor: it says itself how the journal calls it (type, and how its actions begin).

    OWN, where it has one, names what the row keeps for itself.
    """

    JOURNAL: ClassVar[tuple[str, str]]
    pk: Any
    archived_at: Any

    def full_clean(self, *args: Any, **kwargs: Any) -> None: ...

    def save(self, *args: Any, **kwargs: Any) -> None: ...


Archivable = (
    Personality | SafetyPolicy | Objective | ProviderAccount | CommandTemplate | HttpEndpoint | ModelPrice | JournalledRow
)
Configured = Nova | Archivable

NOVA_CREATED = "workflow.nova.created"
NOVA_CHANGED = "workflow.nova.changed"
_ACTIONS: Mapping[type[models.Model], str] = {
    Nova: "workflow.nova",
    Personality: "workflow.personality",
    SafetyPolicy: "safety.policy",
    Objective: "workflow.objective",
    ProviderAccount: "safety.provider",
    CommandTemplate: "workflow.command",
    HttpEndpoint: "workflow.endpoint",
    ModelPrice: "workflow.price",
}
_TYPES: Mapping[type[models.Model], str] = {
    Nova: "nova",
    Personality: "personality",
    SafetyPolicy: "policy",
    Objective: "objective",
    ProviderAccount: "provider",
    CommandTemplate: "command",
    HttpEndpoint: "endpoint",
    ModelPrice: "price",
}
# How Novas use a row: it must not go out of use under them.
_USED_AS: Mapping[type[models.Model], tuple[str, ...]] = {
    Personality: ("personality",),
    SafetyPolicy: ("policy", "candidate_policy"),
    ProviderAccount: ("provider_account",),
}
# What the row keeps for itself: nobody configures these.
_OWN_FIELDS = frozenset(
    {"created_at", "updated_at", "open_task_id", "breaker", "breaker_since", "breaker_open_until", "breaker_reason"}
)
# What of a policy is no limit.
_WORDS = frozenset({"slug", "description", "preset"})
_COMMITTED = timedelta(seconds=0.25)  # within which a change is committed


class ReasonMissing(WorkflowError):
    """The verb needs a reason, in words, for the journal."""


class StillInUse(WorkflowError):
    """A personality, policy or provider account that Novas use can't be archived."""


def demand_reason(reason: str) -> str:
    """Give the reason without the blanks around it.

    :raises ReasonMissing: nothing is left.
    """
    reason = reason.strip()
    if not reason:
        raise ReasonMissing("Say why: a reason is required, and is kept in the journal. Nothing was changed.")
    return reason


def create_nova(
    nova_id: str,
    *,
    now: datetime,
    personality: str = "",
    policy: str = "standard",
    reason: str = "",
    **fields: Any,
) -> Nova:
    """Configure a new Nova and give it a state that is due at once. Without a personality it gets torch's (spec section 8).

    :raises ValidationError: a field is wrong, or the nova_id is taken.
    """
    fields.setdefault("name", nova_id.capitalize())
    nova = Nova(nova_id=nova_id, personality_id=personality or "torch", policy_id=policy, **fields)
    save_configured(nova, now=now, reason=reason, creating=True)
    return nova


def update_nova(nova_id: str, changes: Mapping[str, Any], *, now: datetime, reason: str = "") -> Nova:
    """Change fields of a Nova's configuration; what is equal already is neither written nor journalled.

    :raises ValidationError: a field is unknown or wrong.
    """
    nova = Nova.objects.get(nova_id=nova_id)
    fields = {field.name: field for field in Nova._meta.concrete_fields if field.editable and not field.primary_key}
    for name, value in changes.items():
        if name not in fields or name in _OWN_FIELDS:
            raise ValidationError({NON_FIELD_ERRORS: f"{name} is not a field that can be changed."})
        setattr(nova, name if isinstance(value, models.Model) else fields[name].attname, value)
    save_configured(nova, now=now, reason=reason, fields=changes)
    return nova


def save_configured(
    row: Configured,
    *,
    now: datetime,
    reason: str = "",
    fields: Collection[str] | None = None,
    creating: bool | None = None,
) -> dict[str, Any]:
    """Check, save and journal a row; give the new values of the fields that changed (empty: nothing did).

    1. Read the stored row under its lock. 2. Compare, only `fields` where given, so that a form filled in a while ago takes
    nobody else's change back. 3. Validate, write, journal. A new Nova gets its state in the same transaction. 4. Whom the
    change concerns need not wait for its next cycle: the Nova itself is due at once, those that live under a policy or
    observe it within a second. A Nova with another candidate, or none any more, is observed anew.

    :raises ValidationError: a value is wrong.
    """
    model: Any = type(row)
    with transaction.atomic():
        stored = None if creating or row.pk is None else model._default_manager.select_for_update().filter(pk=row.pk).first()
        after = _values(row)
        if stored is None:
            _check(row, new=True)
            row.save(force_insert=True)
            after = _shown(row, _values(row), "after")
            _record(row, "created", None, after, reason, now)
            if isinstance(row, Nova):
                _begin(row, now)
            return after
        before = _values(stored)
        changed = [name for name in after if after[name] != before[name] and (fields is None or name in fields)]
        if not changed:
            return {}
        _check(row, new=False)
        row.save(update_fields=[*changed, *(["updated_at"] if hasattr(row, "updated_at") else [])])
        new = _shown(row, {name: after[name] for name in changed}, "after")
        _record(row, "changed", _shown(row, {name: before[name] for name in changed}, "before"), new, reason, now)
        if isinstance(row, Nova):
            if "candidate_policy" in new:
                observe.begin_anew(row.pk)
            _wake([row.pk], now)
        elif isinstance(row, SafetyPolicy) and set(new) - _WORDS:
            # not at once: an engine that has just stepped a Nova remembers the old limits for a moment
            _wake(_living_under(row), now + KEPT + _COMMITTED)
        return new


def archive(row: Archivable, *, now: datetime, reason: str) -> bool:
    """Take a row out of use without deleting it; False if it was archived already.

    :raises StillInUse: Novas that are not archived use it.
    """
    reason = demand_reason(reason)
    with transaction.atomic():
        stored = _locked(row)
        if stored.archived_at is not None:
            return False
        if used_as := _USED_AS.get(type(stored)):
            used = reduce(or_, (Q(**{name: stored}) for name in used_as))
            users = list(Nova.objects.filter(used, archived_at=None).values_list("nova_id", flat=True)[:5])
            if users:
                raise StillInUse(f"{stored} is used by {', '.join(users)}; give them another first. Nothing was changed.")
        _set_archived(row, stored, now, "archived", reason, now)
        return True


def restore(row: Archivable, *, now: datetime, reason: str) -> bool:
    """Take an archived row back into use; False if it was not archived."""
    reason = demand_reason(reason)
    with transaction.atomic():
        stored = _locked(row)
        if stored.archived_at is None:
            return False
        _set_archived(row, stored, None, "restored", reason, now)
        return True


def check_executors(default: str, allowed: Collection[str], by_stream: Collection[str]) -> None:
    """Refuse a choice of executors that could never run.

    :raises ValidationError: it names the field.
    """
    for name, chosen in (("allowed_executors", allowed), ("stream_executors", by_stream)):
        if isinstance(chosen, str) or not all(isinstance(executor, str) for executor in chosen):
            raise ValidationError({name: "Give a list of executors' names."})
        if unknown := sorted(executor for executor in set(chosen) if not registry.is_known(executor)):
            raise ValidationError({name: f"There is no executor {', '.join(unknown)}."})
    if default not in allowed:
        raise ValidationError({"default_executor": "The default executor must be one of the allowed ones."})
    if default in registry.NAMED_ONLY:
        raise ValidationError({"default_executor": f"A task must name {default} itself; choose another default."})
    if named := sorted(set(by_stream) & registry.NAMED_ONLY):
        raise ValidationError({"stream_executors": f"A stream entry may never choose {', '.join(named)}."})
    if extra := sorted(set(by_stream) - set(allowed)):
        raise ValidationError({"stream_executors": f"{', '.join(extra)} is not among the allowed executors."})


def _locked(row: Archivable) -> Any:
    model: Any = type(row)
    return model._default_manager.select_for_update().get(pk=row.pk)


def _check(row: Configured, *, new: bool) -> None:
    row.full_clean(validate_unique=new)
    if isinstance(row, Nova):
        check_executors(row.default_executor, row.allowed_executors, row.stream_executors)
        if not isinstance(row.approval_tools, list) or not all(isinstance(name, str) for name in row.approval_tools):
            raise ValidationError({"approval_tools": "Give a list of tools' names."})


def _living_under(policy: SafetyPolicy) -> list[str]:
    """Give the Novas in the loop that live under a policy or observe it."""
    under = Nova.objects.filter(Q(policy=policy) | Q(candidate_policy=policy), state__mode__in=NovaState.RUNNING_MODES)
    return list(under.values_list("nova_id", flat=True))


def _wake(nova_ids: Collection[str], due_at: datetime) -> None:
    """Make Novas that must not wait for their next cycle due at an instant, or earlier where they were."""
    waking.mark_due(nova_ids, now=due_at)
    transaction.on_commit(partial(waking.knock, "loops"))


def _set_archived(row: Configured, stored: Configured, value: datetime | None, verb: str, reason: str, now: datetime) -> None:
    before = {"archived_at": stored.archived_at}
    model: Any = type(row)
    model._default_manager.filter(pk=row.pk).update(archived_at=value)
    row.archived_at = value
    _record(row, verb, before, {"archived_at": value}, reason, now)


def _begin(nova: Nova, now: datetime) -> None:
    """Give a new Nova its state, due now; its coordination stream is read as soon as the readers rebuild their list."""
    NovaState.objects.create(
        nova=nova,
        session_start_time=now,
        state_entered_at=now,
        cycle_started_at=now,
        phase_started_at=now,
        mode_since=now,
        due_at=now,
        safety_status=asdict(SafetyStatus(is_safe=True, reason="")),
    )
    transaction.on_commit(partial(waking.knock, "loops"))


def _values(configured: Configured) -> dict[str, Any]:
    """Give what is configured, as the journal keeps it."""
    row = cast(models.Model, configured)
    own = _OWN_FIELDS | getattr(row, "OWN", frozenset())
    return {
        field.name: field.value_from_object(row)
        for field in row._meta.concrete_fields
        if field.name not in own and not (field.primary_key and field.name == "id") and field.name != "archived_at"
    }


def _shown(row: Configured, values: dict[str, Any], side: str) -> dict[str, Any]:
    """Give values as anybody may see them: of what the model hides only whether it changed."""
    hidden: frozenset[str] = getattr(row, "HIDDEN", frozenset())
    return {name: f"({side})" if name in hidden else value for name, value in values.items()}


def _record(
    row: Configured, verb: str, before: dict[str, Any] | None, after: dict[str, Any], reason: str, now: datetime
) -> None:
    kind = cast(type[models.Model], type(row))
    object_type, action = (_TYPES[kind], _ACTIONS[kind]) if kind in _TYPES else cast(JournalledRow, row).JOURNAL
    audit.record(
        [
            Entry(
                action=f"{action}.{verb}",
                nova_id=row.pk if isinstance(row, Nova) else "",
                object_type=object_type,
                object_id=str(row.pk),
                before=before,
                after=after,
                reason=reason,
            )
        ],
        now=now,
    )
