"""`python -m bench`: measure NOVAWF on temporary databases and servers, print the table, say whether the bars were reached."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from bench.databases import Database, Postgres, scratch_folder
from bench.figures import Figure, machine, table
from bench.scenarios import REPEATED, SCENARIOS, Options

_REPEATS = 3
_MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")


def main(arguments: list[str]) -> int:
    """Measure what was asked for; 1 if `--assert` was given and a bar was missed."""
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, _end)
    columns: dict[str, list[Figure]] = {}
    with scratch_folder() as folder:
        about = machine(folder)
        for kind in ("sqlite", "postgres"):
            if given.database in (None, kind):
                with _databases(kind, folder) as make:
                    if make is not None:
                        name = {"sqlite": "SQLite", "postgres": "PostgreSQL"}[kind]
                        columns[name] = _measure(given.only or list(SCENARIOS), make, Options(given.quick))
    if not columns:
        return 1
    text = f"{table(columns)}\n\nMeasured on: {', '.join(f'{name} {value}' for name, value in about.items())}."
    _say(f"\n{text}")
    if given.document:
        _document(given.document, text)
    if given.json:
        given.json.write_text(json.dumps(_record(about, columns), indent=1))
    missed = [figure for found in columns.values() for figure in found if not figure.ok]
    if missed:
        _say(f"{len(missed)} of the bars were missed.")
    return 1 if missed and given.assert_bars else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--assert", dest="assert_bars", action="store_true", help="end with 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole record there")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put the table there, between its two `measured` marks")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="this scenario; may be given again")
    parser.add_argument(
        "--quick", action="store_true", help="shorter windows and a smaller fleet: for a look, not for the record"
    )
    parser.add_argument("--database", choices=["sqlite", "postgres"], help="only this one")
    given = parser.parse_args(arguments)
    if given.document and not (given.document.is_file() and all(mark in given.document.read_text() for mark in _MARKS)):
        parser.error(f"{given.document} has no marks for the table (docs/benchmarks.md has them).")
    return given


@contextmanager
def _databases(kind: str, folder: Path) -> Iterator[Any]:
    """Give what makes an empty database for a scenario; None, with a sentence, where there is no server for it."""
    if kind == "sqlite":
        yield Database
        return
    programs = Postgres.programs()
    if programs is None:
        _say("PostgreSQL is not installed here (no initdb under /usr/lib/postgresql), so its column is left out.")
        yield None
        return
    server = Postgres(folder, programs)
    try:
        yield server.create
    finally:
        server.stop()


def _measure(names: list[str], make: Any, options: Options) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        runs = []
        for _ in range(_REPEATS if name in REPEATED else 1):
            with scratch_folder() as folder:
                runs.append(SCENARIOS[name](make(folder), options))
        for same in zip(*runs, strict=True):
            figure = sorted(same, key=lambda one: one.value)[len(same) // 2]
            figures.append(figure)
            _say(f"{figure.scenario}: {figure.name} {figure.value:,.2f} {figure.unit}{'' if figure.ok else '  MISSED'}")
    return figures


def _record(about: dict[str, Any], columns: dict[str, list[Figure]]) -> dict[str, Any]:
    rows = {
        name: [
            {
                "scenario": f.scenario,
                "name": f.name,
                "value": f.value,
                "unit": f.unit,
                "bar": str(f.bar or ""),
                "ok": f.ok,
                **f.detail,
            }
            for f in found
        ]
        for name, found in columns.items()
    }
    return {"machine": about, "figures": rows}


def _document(path: Path, text: str) -> None:
    """Replace what stands between the marks."""
    before, begin, rest = path.read_text().partition(_MARKS[0])
    _, end, after = rest.partition(_MARKS[1])
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # so that every `with` closes what it started


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
