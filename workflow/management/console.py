"""What the commands share: who acts, what time it is, how a reason is demanded, how JSON is printed.

Exit codes of all commands: 0 done; 1 refused, or not all of it done; 2 the command line is wrong (docs/cli.md).
"""

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management import CommandError
from django.core.management.base import BaseCommand

from safety import audit
from workflow.errors import WorkflowError
from workflow.fleet_file import in_words


def operator() -> str:
    """Name whoever runs the command, as the journal does."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "unknown"
    return f"cli:{name}"[:128]


@contextmanager
def acting() -> Iterator[None]:
    """Act as the operator; what the services refuse ends the command with their words.

    :raises CommandError: refused; nothing was changed.
    """
    with audit.acting(operator()):
        try:
            yield
        except ValidationError as refusal:
            raise CommandError(f"{in_words(refusal)} Nothing was changed.") from refusal
        except WorkflowError as refusal:
            raise CommandError(str(refusal)) from refusal


def demand(value: Any, words: str) -> None:
    """Refuse a command line that leaves something out.

    :raises CommandError: with exit code 2.
    """
    if not value:
        raise CommandError(f"{words} Nothing was changed.", returncode=2)


def now() -> datetime:
    return datetime.now(UTC)


def print_json(command: BaseCommand, value: Any) -> None:
    """Print a value as one line of JSON; instants as ISO 8601."""
    command.stdout.write(json.dumps(value, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
