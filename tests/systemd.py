"""Looks at systemd units: with systemd's own eyes where it is installed, else for what a unit must have."""

import configparser
import shutil
import subprocess
from pathlib import Path


def read_unit(path: Path) -> configparser.RawConfigParser:
    """Give a unit's sections; a key that stands twice is refused."""
    unit = configparser.RawConfigParser(comment_prefixes=("#", ";"), delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text())
    return unit


def problems_of_unit(path: Path) -> list[str]:
    """Give what systemd says against a unit, but for programs that are not installed here."""
    unit = read_unit(path)
    missing = [name for name in ("Unit", "Service", "Install") if not unit.has_section(name)]
    if missing or not shutil.which("systemd-analyze"):
        return missing
    found = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False)
    lines = [line for line in found.stderr.splitlines() if path.name.split("@")[0] in line]
    return [line for line in lines if "is not executable" not in line]
