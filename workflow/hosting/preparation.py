"""What must stand before the first process starts: tables, starting fleet, static files, a login.

Every step may be repeated. It must not know which processes there are.
"""

import hashlib
import io
import secrets
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command

from safety import audit
from workflow.hosting import slots
from workflow.hosting.runfile import ADMIN, RunFile

_STAMP = ".collected"


def prepare_database() -> None:
    """Bring the tables up to date and put the personalities, policies and the starting fleet where they are missing."""
    call_command("migrate", interactive=False, verbosity=0)
    call_command("seed", verbosity=0, stdout=io.StringIO())


def forget_beats() -> None:
    """Let nobody take a beat of processes of an earlier run for a sign of life."""
    for cluster in slots.clusters():
        slots.forget_beats(cluster)


def collect_static() -> bool:
    """Copy the static files of all packages to STATIC_ROOT, if any changed since; tell whether it was needed."""
    if static_is_current():
        return False
    root = Path(settings.STATIC_ROOT)
    root.mkdir(parents=True, exist_ok=True)
    call_command("collectstatic", interactive=False, verbosity=0)
    (root / _STAMP).write_text(_static_digest())
    return True


def static_is_current() -> bool:
    """Whether STATIC_ROOT has the static files as they are now."""
    stamp = Path(settings.STATIC_ROOT) / _STAMP
    return stamp.exists() and stamp.read_text() == _static_digest()


def _static_digest() -> str:
    digest = hashlib.sha256()
    for finder in get_finders():
        for path, storage in finder.list([]):
            state = Path(storage.path(path)).stat()
            digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def ensure_admin(former: RunFile | None) -> tuple[str, bool]:
    """Make sure that the user `admin` exists; give its password, "" if only somebody else knows it, and whether it is new."""
    users = get_user_model()
    user = users.objects.filter(username=ADMIN).first()
    if user is not None:
        known = former.admin_password if former else ""
        return (known, False) if known and user.check_password(known) else ("", False)
    password = secrets.token_urlsafe(15)
    with audit.acting("cli:up"):  # whoever makes a login, the journal hears of it
        users.objects.create_superuser(username=ADMIN, password=password)
    return password, True
