"""`var/run.json`: where this installation is reached and by which login, for people and programs of this machine's owner."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ADMIN = "admin"  # the login that the first start makes


@dataclass(frozen=True, slots=True)
class RunFile:
    """The file's fields. `admin_password` is empty where we do not know it any more."""

    url: str
    dragonfly_url: str
    admin_username: str
    admin_password: str
    operator_key: str


def read(folder: Path) -> RunFile | None:
    """Give what the last start wrote; None if there is nothing readable."""
    try:
        found = json.loads((folder / "run.json").read_text())
        return RunFile(**{field.name: str(found[field.name]) for field in fields(RunFile)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(folder: Path, content: RunFile) -> None:
    """Replace the file in one step, readable by its owner only."""
    draft = folder / f"run.json.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(content), file, indent=2)
        file.write("\n")
    draft.replace(folder / "run.json")
