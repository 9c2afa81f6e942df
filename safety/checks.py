"""System checks: what in the settings, the database or the stream server's address would make an installation unsafe.

`manage.py check` runs them without touching the database or the network. An error stops the start, a warning is shown.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.db import connections

_SHORTEST_SECRET = 32
_KNOWN_SECRETS = ("django-insecure", "change-me", "changeme", "secret", "password")
# no password, the one that the specification prints, and what people type first
_KNOWN_PASSWORDS = frozenset({"", "adapt123", "password", "changeme", "secret", "dragonfly", "redis", "valkey", "novawf"})
_SAFE_SQLITE = (3, 51, 3)


def check_secrets(**_: Any) -> Sequence[CheckMessage]:
    """Refuse short or well-known secrets in production (E001, E002); warn of the key that secrets are kept under (W005)."""
    found: list[CheckMessage] = []
    if not settings.PRODUCTION:
        return found
    for check_id, name in (("novawf.E001", "SECRET_KEY"), ("novawf.E002", "OPERATOR_KEY")):
        value = str(getattr(settings, name))
        if _is_weak(value):
            found.append(
                Error(
                    f"{name} is too short or well known.",
                    hint=f"Set NOVAWF_{name} (or NOVAWF_{name}_FILE) to at least {_SHORTEST_SECRET} random characters, "
                    'e.g. python -c "import secrets; print(secrets.token_urlsafe(48))".',
                    id=check_id,
                )
            )
    if message := _problem_of_secrets_key():
        found.append(message)
    return found


def check_seal_key(**_: Any) -> Sequence[CheckMessage]:
    """In production, miss the key that signs the journal's seals (W004), and refuse a short or well-known one (E006)."""
    key = str(settings.SEAL_KEY)
    if not settings.PRODUCTION:
        return []
    hint = (
        f"Set NOVAWF_SEAL_KEY (or NOVAWF_SEAL_KEY_FILE) to at least {_SHORTEST_SECRET} random characters, the same on every "
        "machine, and keep a copy of it."
    )
    if not key:
        return [Warning("The journal is not sealed: there is no key to sign with.", hint=hint, id="novawf.W004")]
    if _is_weak(key):
        return [Error("SEAL_KEY is too short or well known: others could sign in its place.", hint=hint, id="novawf.E006")]
    return []


def _problem_of_secrets_key() -> CheckMessage | None:
    """Warn of a NOVAWF_SECRETS_KEY that is missing, weak, or the same as another secret (W005)."""
    value = str(settings.SECRETS_KEY)
    if not value:
        problem = "SECRETS_KEY is not set, so no provider's key and no endpoint's secret can be kept in the database."
    elif _is_weak(value):
        problem = "SECRETS_KEY is too short or well known: what is encrypted under it can be read by whoever gets the database."
    elif value in (settings.SECRET_KEY, settings.OPERATOR_KEY):
        problem = "SECRETS_KEY is also another secret: who learns that one can read what is encrypted in the database."
    else:
        return None
    hint = f"Set NOVAWF_SECRETS_KEY (or NOVAWF_SECRETS_KEY_FILE) to at least {_SHORTEST_SECRET} random characters of its own"
    return Warning(
        problem, hint=f"{hint}, and keep it with the backups: without it nothing can be decrypted.", id="novawf.W005"
    )


def _is_weak(secret: str) -> bool:
    return len(secret) < _SHORTEST_SECRET or secret.lower().startswith(_KNOWN_SECRETS)


def check_stream_address(**_: Any) -> Sequence[CheckMessage]:
    """Look at the stream server's address: form (E003), password (E004, W002) and encryption (E005, W003)."""
    url = urlsplit(settings.DRAGONFLY_URL)
    if url.scheme not in ("redis", "rediss", "unix"):
        return [
            Error(
                "DRAGONFLY_URL is not the address of a stream server.",
                hint="Give redis://:password@host:port/0, or rediss://… for TLS.",
                id="novawf.E003",
            )
        ]
    if url.scheme == "unix":
        return []  # its directory's permissions say who may come
    found: list[CheckMessage] = []
    if unquote(url.password or "").lower() in _KNOWN_PASSWORDS:
        kind, check_id = (Error, "novawf.E004") if settings.PRODUCTION else (Warning, "novawf.W002")
        hint = "Set a random password on the server, and DRAGONFLY_URL=redis://:password@host:port/0."
        found.append(kind("The stream server's password is missing or well known.", hint=hint, id=check_id))
    if url.scheme == "redis" and (url.hostname or "") not in settings.STREAM_LOCAL_HOSTS:
        kind, check_id = (Error, "novawf.E005") if settings.PRODUCTION else (Warning, "novawf.W003")
        hint = "Use rediss:// and, for a private authority, NOVAWF_STREAM_CA_FILE."
        found.append(
            kind(f"The stream server {url.hostname} is remote, and the connection is not encrypted.", hint=hint, id=check_id)
        )
    return found


def check_database(**_: Any) -> Sequence[CheckMessage]:
    """Warn of SQLite releases that can lose or corrupt data (W001); say where SQLite is a limit (I001)."""
    connection: Any = connections["default"]
    if connection.vendor != "sqlite":
        return []
    found: list[CheckMessage] = []
    library = connection.Database  # the one in use: the wheel's, where novawf_site.sqlite took it
    if library.sqlite_version_info < _SAFE_SQLITE:
        found.append(
            Warning(
                f"SQLite {library.sqlite_version} can corrupt a database in WAL mode when its log is reset.",
                hint="Install the pysqlite3 wheel (requirements.txt has it where it exists), or use PostgreSQL.",
                id="novawf.W001",
            )
        )
    if settings.PRODUCTION:
        found.append(
            Info(
                "SQLite keeps NOVAWF on this one machine.",
                hint="For more machines, set DATABASE_URL to a PostgreSQL database.",
                id="novawf.I001",
            )
        )
    return found


def register_all() -> None:
    """Make the checks known to Django."""
    register(check_secrets, Tags.security)
    register(check_seal_key, Tags.security)
    register(check_stream_address, Tags.security)
    register(check_database, Tags.compatibility)  # a database check would run only when asked for
