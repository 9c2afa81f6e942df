"""Settings of NOVAWF: one file, read from the environment, refusing nonsense.

Every secret may also be given as a file (`NAME_FILE`). Nothing here reaches outside the environment and `var/`.
"""

import os
import re
import secrets
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from novawf_site.admin_site import UNFOLD  # noqa: F401 - tables that no environment changes
from novawf_site.api_site import REST_FRAMEWORK, SPECTACULAR_SETTINGS  # noqa: F401
from novawf_site.logs import logging_by

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.FileAwareEnv()

VAR_DIR = Path(env.str("NOVAWF_VAR_DIR", default=str(BASE_DIR / "var"))).absolute()
DEBUG = env.bool("NOVAWF_DEBUG", default=False)
PRODUCTION = env.bool("NOVAWF_PRODUCTION", default=False)


def _integer(name: str, default: int, least: int, most: int) -> int:
    value = env.int(name, default=default)
    if not least <= value <= most:
        raise ImproperlyConfigured(f"{name} is {value}; give a whole number from {least} to {most}.")
    return int(value)


def _secret(name: str, filename: str) -> str:
    """Read a secret from the environment, else from `var/`, where it is made on first use (mode 0600)."""
    given = env.str(name, default="")
    if given:
        return str(given)
    if PRODUCTION:
        raise ImproperlyConfigured(f"{name} is not set; in production it must be given (or {name}_FILE).")
    path = VAR_DIR / filename
    if not path.exists():
        VAR_DIR.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(48))
        try:
            os.link(draft, path)  # fails if another process was first: then its secret is ours
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


SECRET_KEY = _secret("NOVAWF_SECRET_KEY", "secret_key")
OPERATOR_KEY = _secret("NOVAWF_OPERATOR_KEY", "operator_key")
# Under it secrets are encrypted that must be kept in the database. In production without one, none can be kept there.
SECRETS_KEY = env.str("NOVAWF_SECRETS_KEY", default="") or ("" if PRODUCTION else _secret("NOVAWF_SECRETS_KEY", "secrets_key"))
# The journal's seals are signed with a key made from this secret; it is never in the database. In production without one,
# nothing is sealed.
SEAL_KEY = env.str("NOVAWF_SEAL_KEY", default="") or ("" if PRODUCTION else _secret("NOVAWF_SEAL_KEY", "seal_key"))
SEAL_PUBLIC_KEYS = env.list("NOVAWF_SEAL_PUBLIC_KEYS", default=[])  # of earlier keys, hex
if wrong := [key for key in SEAL_PUBLIC_KEYS if not re.fullmatch(r"[0-9a-f]{64}", key)]:
    raise ImproperlyConfigured(
        f"NOVAWF_SEAL_PUBLIC_KEYS has {wrong[0]!r}; give keys of 64 hexadecimal digits, as `audit_verify` prints."
    )
SEALS_LOG = Path(env.str("NOVAWF_SEALS_LOG", default=str(VAR_DIR / "seals.jsonl"))).absolute()
ARCHIVE_DIR = Path(env.str("NOVAWF_ARCHIVE_DIR", default=str(VAR_DIR / "archive"))).absolute()
ALLOWED_HOSTS = env.list("NOVAWF_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("NOVAWF_CSRF_TRUSTED_ORIGINS", default=[])
PORT = _integer("PORT", 8000, 1, 65535)
BIND = env.str("NOVAWF_BIND", default="127.0.0.1")
HOST = re.sub(r"[^a-z0-9-]+", "-", env.str("NOVAWF_HOST", default=socket.gethostname()).lower())[:40] or "host"

_COMMAND = sys.argv[1:3] if Path(sys.argv[0]).name == "manage.py" else []
# Keeper and workers show no pages: without the admin's classes each of their processes is 20 MB smaller.
_SHOWS_PAGES = _COMMAND[:1] not in (["up"], ["workers"])
_KNOWS_PEOPLE = _SHOWS_PAGES  # and of how people come in

_SIGN_IN = (
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
)
INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin" if _SHOWS_PAGES else "django.contrib.admin.apps.SimpleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    *(_SIGN_IN if _KNOWS_PEOPLE else ()),
    "django_htmx",
    "channels",
    "django_q",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "safety",
    "workflow",
    "reporting",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "novawf_site.content_policy.content_policy",
    "django_htmx.middleware.HtmxMiddleware",
    "novawf_site.request_actor.request_actor",
    *(("allauth.account.middleware.AccountMiddleware", "novawf_site.second_factor.second_factor") if _KNOWS_PEOPLE else ()),
    "django_structlog.middlewares.RequestMiddleware",
]
DJANGO_STRUCTLOG_TRUST_UPSTREAM_REQUEST_ID = True  # request_actor has made the header ours by then
ROOT_URLCONF = "novawf_site.urls"
ASGI_APPLICATION = "novawf_site.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "reporting.shell.shell",
            ]
        },
    }
]

# -- database


def _sqlite(path: Path) -> dict[str, Any]:
    return {
        "ENGINE": "novawf_site.sqlite",
        "NAME": str(path.absolute()),
        "CONN_MAX_AGE": None,  # a connection keeps its prepared statements
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": (
                "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA busy_timeout=20000;PRAGMA foreign_keys=ON;"
                "PRAGMA wal_autocheckpoint=4000;PRAGMA journal_size_limit=67108864;PRAGMA temp_store=MEMORY;"
                "PRAGMA cache_size=-4000"
            ),
        },
        # a file, so that a test sees what real processes see: several connections
        "TEST": {"NAME": str(VAR_DIR / "test.sqlite3")},
    }


def _database() -> dict[str, Any]:
    url = env.str("DATABASE_URL", default="")
    if not url:
        VAR_DIR.mkdir(parents=True, exist_ok=True)
        return _sqlite(VAR_DIR / "novawf.sqlite3")
    database: dict[str, Any] = env.db_url_config(url)
    if "sqlite" in database["ENGINE"]:
        return _sqlite(Path(database["NAME"]))
    if "postgresql" not in database["ENGINE"]:
        raise ImproperlyConfigured("DATABASE_URL must name sqlite or postgresql; nothing else is supported.")
    database["CONN_HEALTH_CHECKS"] = True
    database.setdefault("CONN_MAX_AGE", 60)
    return database


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# -- stream server

# Password and port of the specification are configuration: the embedded server's password is generated into var/.
DRAGONFLY_URL = env.str("DRAGONFLY_URL", default="")
DRAGONFLY_PORT = _integer("DRAGONFLY_PORT", 18000, 1, 65535)
EMBEDDED_STREAM_SERVER = not DRAGONFLY_URL
if EMBEDDED_STREAM_SERVER:
    # with the user's name: redis-cli 7.0, which is Debian's, can't log in by an address that leaves it out
    DRAGONFLY_URL = f"redis://default:{_secret('NOVAWF_STREAM_PASSWORD', 'stream_password')}@127.0.0.1:{DRAGONFLY_PORT}/0"
STREAM_LOCAL_HOSTS = frozenset({"", "localhost", "127.0.0.1", "::1"})
if PRODUCTION and DRAGONFLY_URL.startswith("redis://") and (urlsplit(DRAGONFLY_URL).hostname or "") not in STREAM_LOCAL_HOSTS:
    raise ImproperlyConfigured(
        "DRAGONFLY_URL leads to another host without encryption: everybody on the way could read it, and give orders. Use "
        "rediss:// (with NOVAWF_STREAM_CA_FILE for an authority of your own), or a stream server on this machine."
    )
STREAM_CA_FILE = env.str("NOVAWF_STREAM_CA_FILE", default="")
if STREAM_CA_FILE and not os.access(STREAM_CA_FILE, os.R_OK):
    raise ImproperlyConfigured(f"NOVAWF_STREAM_CA_FILE is {STREAM_CA_FILE}; no file there can be read.")
STREAM_SOCKET_TIMEOUT = 5.0
STREAM_CONNECT_TIMEOUT = 2.0
STREAM_BLOCK_LIMIT = 1.0  # seconds: the longest BLOCK; always below the socket timeout
STREAM_MAXLEN = {  # entries kept on the streams that all Novas share
    "nova.work.queue": 100_000,
    "nova.priority.alerts": 100_000,
    "nova.enterprise.metrics": 20_000,
}
# Entries kept on each of a Nova's own streams: a share of the whole, so that a large fleet fits into the server's memory.
STREAM_MAXLEN_OWN = {"least": 100, "most": 5_000, "all_novas": 20_000}
STATE_HASH_TTL = 3600  # seconds, spec "State Persistence"
STATE_HASH_REFRESH = 900.0

_redis_options: dict[str, Any] = {
    "address": DRAGONFLY_URL,
    "protocol": 2,
    "socket_timeout": 15,
    "socket_connect_timeout": 2,
    "health_check_interval": 20,
}
if STREAM_CA_FILE:
    _redis_options["ssl_ca_certs"] = STREAM_CA_FILE
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [_redis_options], "prefix": "nova"},
    }
}
CACHES = {
    "default": {
        "BACKEND": "safety.shared_cache.SharedCache",
        "LOCATION": DRAGONFLY_URL,
        "KEY_PREFIX": "nova:cache",
        "OPTIONS": {
            "protocol": 2,
            "socket_timeout": STREAM_SOCKET_TIMEOUT,
            "socket_connect_timeout": STREAM_CONNECT_TIMEOUT,
            **({"ssl_ca_certs": STREAM_CA_FILE} if STREAM_CA_FILE else {}),
        },
    },
    # django-q2 writes its statistics twice a second from the loop that guards its workers: nothing there may wait for a server
    "queue": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
}

# -- workers: django-q2 hosts the slices, leases decide who works (docs/operations.md)

LOOP_SLOTS = _integer("NOVAWF_LOOP_SLOTS", 2, 1, 64)
LOOP_SLICE = 12.0  # seconds a slice drives the engine before it returns
WORK_SLOTS = 2
WORK_SLICE = 60.0  # seconds a host accepts executions before it drains
JOB_SECONDS = 5.0  # a scheduled job works so long, then queues what is left: probes wait for the same worker
EXECUTION_TIMEOUT_LIMIT = 900  # seconds: the longest an execution may run
ENGINE_BATCH = _integer("NOVAWF_ENGINE_BATCH", 128, 1, 1000)
LEASE_SECONDS = 6.0
LEASE_RENEW_SECONDS = 2.0
SLOT_HEARTBEAT_SECONDS = 1.0
SLOT_SILENT_SECONDS = 4.0
AGENT_LEASE_SECONDS = 60.0
STOP_GRACE_SECONDS = 8.0

# How long rows are kept, in days; 0: for ever. Journal entries go only where they are sealed, archived and read by all.
RETENTION_DAYS: dict[str, int] = {
    "journal": _integer("NOVAWF_RETENTION_JOURNAL_DAYS", 0, 0, 36_500),
    "inbox": _integer("NOVAWF_RETENTION_INBOX_DAYS", 90, 0, 36_500),
    "executions": _integer("NOVAWF_RETENTION_EXECUTIONS_DAYS", 180, 0, 36_500),
    "queue": _integer("NOVAWF_RETENTION_QUEUE_DAYS", 30, 0, 36_500),
    "verifications": _integer("NOVAWF_RETENTION_VERIFICATIONS_DAYS", 400, 0, 36_500),
}
JOURNAL_KEPT_AT_LEAST = 30  # days: what runs now may look back so far
if 0 < RETENTION_DAYS["journal"] < JOURNAL_KEPT_AT_LEAST:
    raise ImproperlyConfigured(
        f"NOVAWF_RETENTION_JOURNAL_DAYS is below {JOURNAL_KEPT_AT_LEAST}; give 0 (for ever) or more days."
    )

# Requests a minute that our own doors let through; 0: no limit. Each key, and each person, has windows of its own.
REQUESTS_PER_MINUTE = _integer("NOVAWF_REQUESTS_PER_MINUTE", 3_000, 0, 10_000_000)
VITAL_REQUESTS_PER_MINUTE = _integer("NOVAWF_VITAL_REQUESTS_PER_MINUTE", 12_000, 0, 10_000_000)
OPERATOR_REQUESTS_PER_MINUTE = _integer("NOVAWF_OPERATOR_REQUESTS_PER_MINUTE", 12_000, 0, 10_000_000)
WRONG_KEYS_PER_MINUTE = _integer("NOVAWF_WRONG_KEYS_PER_MINUTE", 20, 1, 10_000)

# Who may read /metrics: whoever has this token; without one, this machine only.
METRICS_TOKEN = env.str("NOVAWF_METRICS_TOKEN", default="")
# Alerts may be sent to private addresses and without TLS: for receivers inside one's own network.
ALLOW_PRIVATE_WEBHOOKS = env.bool("NOVAWF_ALLOW_PRIVATE_WEBHOOKS", default=False)

# What runs a task's executions, by name: `name=dotted.path.Class,...` adds to what is built in.
EXECUTORS: dict[str, str] = {
    "builtin": "workflow.execution.builtin.Builtin",
    "model": "workflow.execution.model.Model",
    "command": "workflow.execution.command.Command",
    "http": "workflow.execution.http.Http",
    **env.dict("NOVAWF_EXECUTORS", default={}),
}

# What a model may do here, and what it must ask first: a module of an upper floor, which the executor finds by this name.
MODEL_TOOLS = "workflow.model_tools"

_queue: dict[str, Any] = {
    "orm": "default",
    "cache": "queue",
    "bulk": 1,
    "poll": 0.2,
    "save_limit": -1,
    "ack_failures": False,
    "max_attempts": 0,
    "catch_up": False,
    "recycle": 200,
    "max_rss": 400_000,
    "guard_cycle": 0.5,
    "label": "Queue",
}
# One queue a host: what waits in it, or is silent, is this host's alone to judge. One worker more than slots runs the
# supervisor's probes and scheduled jobs.
Q_CLUSTER: dict[str, Any] = {
    **_queue,
    "name": "novawf",  # the salt of all payloads; no cluster runs under this name
    "timeout": 30,
    "retry": 45,
    "ALT_CLUSTERS": {
        f"loops@{HOST}": {
            **_queue,
            "workers": LOOP_SLOTS + 1,
            "queue_limit": LOOP_SLOTS + 1,
            "timeout": 30,
            "retry": 45,
            "scheduler": False,
        },
        f"work@{HOST}": {
            **_queue,
            "workers": WORK_SLOTS + 1,
            "queue_limit": WORK_SLOTS + 1,
            "timeout": EXECUTION_TIMEOUT_LIMIT + 60,
            "retry": EXECUTION_TIMEOUT_LIMIT + 120,
            "scheduler": True,
        },
    },
}
# django-q2 learns from the environment, while it is imported, which cluster a process belongs to.
if _COMMAND[:1] == ["workers"]:
    os.environ["Q_CLUSTER_NAME"] = f"{_COMMAND[-1]}@{HOST}"
# Small jobs of upper floors, done every few seconds by one process, which finds them by these names.
CHORES = ["reporting.jobs.keep_roll_ups", "reporting.jobs.keep_figures", "reporting.jobs.look_after_alerts"]
SLICE_JOBS = {"loops": "workflow.jobs.run_loop_slice", "work": "workflow.jobs.run_work_slice"}

# -- web

STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "servestatic.storage.CompressedManifestStaticFilesStorage"},
}
SERVESTATIC_USE_FINDERS = DEBUG  # novawf_site/handler.py serves what its middleware would


def SERVESTATIC_ADD_HEADERS_FUNCTION(headers: Any, path: str, url: str) -> None:
    """Let no browser guess what a file is."""
    headers["X-Content-Type-Options"] = "nosniff"


USE_TZ = True
TIME_ZONE = env.str("NOVAWF_TIME_ZONE", default="UTC")
LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "novawf_site.formats"
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "account_login"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
if PRODUCTION:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # probes of the same machine speak plain HTTP
    if DEBUG:
        raise ImproperlyConfigured("NOVAWF_DEBUG and NOVAWF_PRODUCTION are both on; debug pages would show secrets.")
    if "*" in ALLOWED_HOSTS:
        raise ImproperlyConfigured("NOVAWF_ALLOWED_HOSTS is '*'; in production name the hosts.")
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]

# -- how people come in (docs/security.md, "People")

AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
if _KNOWS_PEOPLE:
    AUTHENTICATION_BACKENDS.append("allauth.account.auth_backends.AuthenticationBackend")
ACCOUNT_ADAPTER = "novawf_site.sign_in.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]  # nobody signs up: the adapter says so
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_EMAIL_NOTIFICATIONS = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_PRESERVE_USERNAME_CASING = True
ACCOUNT_REAUTHENTICATION_TIMEOUT = 600  # seconds after which changing the second factor asks for the password again
ACCOUNT_RATE_LIMITS = {"login": "60/m/ip", "login_failed": "10/m/ip,5/5m/key", "reauthenticate": "10/m/user"}
ALLAUTH_TRUSTED_PROXY_COUNT = 0  # uvicorn has put the client's address in place (FORWARDED_ALLOW_IPS)
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_ADAPTER = "novawf_site.sign_in.SecondFactorAdapter"
MFA_TOTP_ISSUER = "NOVAWF"
MFA_RECOVERY_CODES_SHOW_ONCE = False
SOCIALACCOUNT_ADAPTER = "novawf_site.sign_in.OidcAdapter"
SOCIALACCOUNT_AUTO_SIGNUP = True
SOCIALACCOUNT_LOGIN_ON_GET = False
SOCIALACCOUNT_STORE_TOKENS = False
REQUIRE_MFA = env.bool("NOVAWF_REQUIRE_MFA", default=False)
OIDC_SERVER = env.str("NOVAWF_OIDC_SERVER", default="")
OIDC_ROLE_CLAIM = env.str("NOVAWF_OIDC_ROLE_CLAIM", default="groups")
OIDC_DEFAULT_ROLE = env.str("NOVAWF_OIDC_DEFAULT_ROLE", default="viewer")
# What the claim says -> our role; the strongest that fits counts.
OIDC_ROLES: dict[str, list[str]] = {
    "viewer": env.list("NOVAWF_OIDC_ROLE_VIEWER", default=[]),
    "auditor": env.list("NOVAWF_OIDC_ROLE_AUDITOR", default=[]),
    "operator": env.list("NOVAWF_OIDC_ROLE_OPERATOR", default=[]),
    "safety officer": env.list("NOVAWF_OIDC_ROLE_SAFETY_OFFICER", default=[]),
    "admin": env.list("NOVAWF_OIDC_ROLE_ADMIN", default=[]),
}
SOCIALACCOUNT_PROVIDERS: dict[str, Any] = {}
if OIDC_SERVER:
    _client = env.str("NOVAWF_OIDC_CLIENT_ID", default=""), env.str("NOVAWF_OIDC_CLIENT_SECRET", default="")
    if not all(_client):
        raise ImproperlyConfigured("NOVAWF_OIDC_SERVER is set; give NOVAWF_OIDC_CLIENT_ID and NOVAWF_OIDC_CLIENT_SECRET too.")
    if PRODUCTION and not OIDC_SERVER.startswith("https://"):
        raise ImproperlyConfigured("NOVAWF_OIDC_SERVER must begin with https:// in production.")
    if OIDC_DEFAULT_ROLE not in ("", *OIDC_ROLES):
        raise ImproperlyConfigured(f"NOVAWF_OIDC_DEFAULT_ROLE is {OIDC_DEFAULT_ROLE!r}; give a role, or nothing to refuse.")
    SOCIALACCOUNT_PROVIDERS["openid_connect"] = {
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": "oidc",
                "name": env.str("NOVAWF_OIDC_NAME", default="single sign-on"),
                "client_id": _client[0],
                "secret": _client[1],
                "settings": {"server_url": OIDC_SERVER},
            }
        ],
    }

# -- what browsers may load: nothing from elsewhere, nothing written into a page

_STRICT: dict[str, list[str]] = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "img-src": ["'self'", "data:"],
    "font-src": ["'self'"],
    "connect-src": ["'self'"],
    # browsers also look at where a form's answer leads on to: the provider of single sign-on
    "form-action": ["'self'", *([f"{urlsplit(OIDC_SERVER).scheme}://{urlsplit(OIDC_SERVER).netloc}"] if OIDC_SERVER else [])],
    "base-uri": ["'none'"],
    "frame-ancestors": ["'none'"],
}
CONTENT_SECURITY_POLICY = {"DIRECTIVES": _STRICT}
# The admin's theme evaluates expressions and sets styles. These two, and under its addresses only.
ADMIN_POLICY = {"script-src": ["'self'", "'unsafe-eval'"], "style-src": ["'self'", "'unsafe-inline'"]}

# -- logs

LOG_LEVEL = env.str("NOVAWF_LOG_LEVEL", default="INFO")
LOG_FORMAT = env.str("NOVAWF_LOG_FORMAT", default="console" if sys.stderr.isatty() else "json")
if LOG_FORMAT not in ("json", "console"):
    raise ImproperlyConfigured(f"NOVAWF_LOG_FORMAT is {LOG_FORMAT!r}; give json or console.")
LOGGING = logging_by(LOG_LEVEL, LOG_FORMAT)
