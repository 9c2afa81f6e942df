"""Journals who came in and who may do what: logins, logouts, failed logins, and every change of users, groups and permissions.

It listens to Django's signals, since Django's own code writes these rows: the admin, the password page, createsuperuser.
No password reaches the journal, neither changed nor tried; only that one changed.
"""

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import Group, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db import models, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone

from safety import audit
from safety.audit import Entry

LOGGED_IN = "access.logged_in"
LOGGED_OUT = "access.logged_out"
LOGIN_FAILED = "access.login_failed"

_TYPES: Mapping[type[models.Model], str] = {User: "user", Group: "group"}
_UNWATCHED = frozenset({"id", "last_login", "date_joined"})


@receiver(user_logged_in, dispatch_uid="journal")
def _logged_in(sender: Any, request: HttpRequest | None, user: User, **kwargs: Any) -> None:
    name = user.get_username()
    _record(Entry(LOGGED_IN, object_type="user", object_id=name[:128], after=_origin(request), actor=_as_actor(name)))


@receiver(user_logged_out, dispatch_uid="journal")
def _logged_out(sender: Any, request: HttpRequest | None, user: User | None, **kwargs: Any) -> None:
    if user is None:  # nobody was logged in
        return
    name = user.get_username()
    _record(Entry(LOGGED_OUT, object_type="user", object_id=name[:128], after=_origin(request), actor=_as_actor(name)))


@receiver(user_login_failed, dispatch_uid="journal")
def _login_failed(sender: Any, credentials: Mapping[str, Any], request: HttpRequest | None = None, **kwargs: Any) -> None:
    # the name as it was typed: a claim, cut and made storable
    name = str(credentials.get("username", "")).replace("\x00", "").encode(errors="replace").decode()[:128]
    _record(Entry(LOGIN_FAILED, object_type="user", object_id=name, after=_origin(request), actor="anonymous"))


@receiver(pre_save, sender=User, dispatch_uid="journal")
@receiver(pre_save, sender=Group, dispatch_uid="journal")
def _remember(sender: type[models.Model], instance: Any, raw: bool, update_fields: Any, **kwargs: Any) -> None:
    """Keep what is stored now, for the comparison after the save."""
    if raw or (update_fields is not None and set(update_fields) <= _UNWATCHED):
        return
    stored = sender._default_manager.filter(pk=instance.pk).first() if instance.pk else None
    instance._before_save = _values(stored) if stored else {}


@receiver(post_save, sender=User, dispatch_uid="journal")
@receiver(post_save, sender=Group, dispatch_uid="journal")
def _saved(sender: type[models.Model], instance: Any, created: bool, **kwargs: Any) -> None:
    before: dict[str, Any] | None = instance.__dict__.pop("_before_save", None)
    if before is None:
        return
    after = _values(instance)
    changed = [name for name in after if created or after[name] != before.get(name)]
    if not changed:
        return
    _record(
        Entry(
            f"access.{_TYPES[sender]}.{'created' if created else 'changed'}",
            object_type=_TYPES[sender],
            object_id=str(instance)[:128],
            before=None if created else {name: _shown(name, before[name], "before") for name in changed},
            after={name: _shown(name, after[name], "after") for name in changed},
        )
    )


@receiver(post_delete, sender=User, dispatch_uid="journal")
@receiver(post_delete, sender=Group, dispatch_uid="journal")
def _deleted(sender: type[models.Model], instance: Any, **kwargs: Any) -> None:
    kind = _TYPES[sender]
    _record(Entry(f"access.{kind}.deleted", object_type=kind, object_id=str(instance)[:128]))


@receiver(m2m_changed, sender=User.groups.through, dispatch_uid="journal")
@receiver(m2m_changed, sender=User.user_permissions.through, dispatch_uid="journal")
@receiver(m2m_changed, sender=Group.permissions.through, dispatch_uid="journal")
def _granted(sender: Any, instance: Any, action: str, model: type[models.Model], pk_set: Any, **kwargs: Any) -> None:
    if action not in ("post_add", "post_remove", "pre_clear"):
        return
    kind = _TYPES.get(type(instance), type(instance).__name__.lower())
    if action == "pre_clear":
        names = ["all"]
    elif not pk_set:
        return
    else:
        names = sorted(str(row) for row in model._default_manager.filter(pk__in=pk_set))
    what = f"{model._meta.model_name}s"
    verb = "granted" if action == "post_add" else "revoked"
    _record(Entry(f"access.{kind}.{what}_{verb}", object_type=kind, object_id=str(instance)[:128], after={what: names}))


def _values(row: models.Model) -> dict[str, Any]:
    return {f.name: f.value_from_object(row) for f in row._meta.concrete_fields if f.name not in _UNWATCHED}


def _shown(name: str, value: Any, side: str) -> Any:
    return f"({side})" if name == "password" else value


def _origin(request: HttpRequest | None) -> dict[str, str] | None:
    return {"address": request.META.get("REMOTE_ADDR") or ""} if request is not None else None


def _as_actor(name: str) -> str:
    return f"user:{name}"[:128]


def _record(entry: Entry) -> None:
    with transaction.atomic():
        audit.record([entry], now=timezone.now())  # noqa: TID251 - a door
