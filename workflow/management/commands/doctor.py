"""`manage.py doctor`: tries a stream server with every command we rely on, and looks at the rest of this installation."""

import json
import os
import platform
from dataclasses import asdict
from typing import Any

from django import db
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from workflow.hosting import examination, ports, runfile
from workflow.hosting.examination import Finding
from workflow.hosting.stream_server import without_password

SOUND_SQLITE = (3, 51, 3)  # before it, two connections that write at once could corrupt a database in WAL mode
SHOWN = (
    "VAR_DIR",
    "HOST",
    "BIND",
    "PORT",
    "PRODUCTION",
    "DEBUG",
    "LOOP_SLOTS",
    "WORK_SLOTS",
    "ENGINE_BATCH",
    "LOG_FORMAT",
    "LOG_LEVEL",
)


class Command(BaseCommand):
    help = (
        "Check a stream server against the commands NOVAWF relies on, and this installation. Exit code 1: something is missing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--stream", metavar="URL", default="", help="the server to examine (default: the configured one)")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, stream: str, **options: Any) -> None:
        """Examine, print, and exit with 1 if something we need is missing."""
        url = stream or _configured_url()
        findings = [*examination.Examination(url).run(), *_installation()]
        missing = [finding for finding in findings if finding.needed and not finding.ok]
        report = {
            "ok": not missing,
            "stream": without_password(url),
            "versions": {**examination.versions(url), **_versions()},
            "settings": {name: str(getattr(settings, name)) for name in SHOWN},
            "findings": [asdict(finding) for finding in findings],
        }
        if options["json"]:
            self.stdout.write(json.dumps(report, indent=2))
        else:
            self._print(report, findings, missing)
        if missing:
            raise SystemExit(1)

    def _print(self, report: dict[str, Any], findings: list[Finding], missing: list[Finding]) -> None:
        self.stdout.write(f"Stream server {report['stream']}\n")
        rows = [("", "command", "expected", "got"), *((_mark(f), f.command, f.expected, f.got) for f in findings)]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for mark, command, expected, got in rows:
            line = f"{mark:<{widths[0]}}  {command:<{widths[1]}}  {expected:<{widths[2]}}  {got}"
            self.stdout.write(line.rstrip())
        for title in ("versions", "settings"):
            self.stdout.write(f"\n{title.capitalize()}")
            for name, value in report[title].items():
                self.stdout.write(f"  {name:<18} {value}")
        differs = [finding.command for finding in findings if not finding.needed and not finding.ok]
        if differs:
            self.stdout.write(f"\nDiffers, which is no harm: {', '.join(differs)}.")
        verdict = f"Missing: {', '.join(finding.command for finding in missing)}." if missing else "All that we need is there."
        self.stdout.write(f"\n{verdict}")


def _mark(finding: Finding) -> str:
    return "ok" if finding.ok else "MISSING" if finding.needed else "differs"


def _configured_url() -> str:
    """The configured server; where `up` had to take another port for it, that one."""
    running = runfile.read(settings.VAR_DIR)
    return running.dragonfly_url if settings.EMBEDDED_STREAM_SERVER and running else settings.DRAGONFLY_URL


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "system": platform.platform(), "database": _database_version()}


def _database_version() -> str:
    name, query = ("SQLite", "SELECT sqlite_version()") if _is_sqlite() else ("PostgreSQL", "SHOW server_version")
    try:
        with db.connection.cursor() as cursor:
            cursor.execute(query)
            return f"{name} {cursor.fetchone()[0]}"
    except db.Error as error:
        return f"unknown: {error}"


def _is_sqlite() -> bool:
    return db.connection.vendor == "sqlite"


def _installation() -> list[Finding]:
    return [_database(), *_sqlite(), _folder(), *_ports()]


def _database() -> Finding:
    try:
        with db.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except db.Error as error:
        return Finding("database", "answers", str(error), False)
    return Finding("database", "answers", _database_version(), True)


def _sqlite() -> list[Finding]:
    if not _is_sqlite():
        return []
    version = _database_version().removeprefix("SQLite ")
    is_sound = tuple(int(part) for part in version.split(".")) >= SOUND_SQLITE
    sound = Finding("SQLite version", "3.51.3 or later (WAL-reset bug)", version, is_sound)
    with db.connection.cursor() as cursor:
        values = [cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    mode = Finding(
        "SQLite durability", "wal, synchronous 2 (FULL)", f"{values[0]}, synchronous {values[1]}", values == ["wal", 2]
    )
    return [sound, mode]


def _folder() -> Finding:
    place = settings.VAR_DIR
    probe = place / f"doctor.{os.getpid()}"
    try:
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        return Finding("var folder", "can be written", str(error), False)
    return Finding("var folder", "can be written", str(place), True)


def _ports() -> list[Finding]:
    wanted = [("web port", settings.BIND, settings.PORT)]
    if settings.EMBEDDED_STREAM_SERVER:
        wanted.append(("stream server port", "127.0.0.1", settings.DRAGONFLY_PORT))
    return [_port(*port) for port in wanted]


def _port(name: str, address: str, port: int) -> Finding:
    free = ports.is_free(address, port)
    got = f"{port} is free" if free else f"{port} is in use (by us, if NOVAWF runs; else `up` takes the next free one)"
    return Finding(name, "free, or ours", got, free, needed=False)
