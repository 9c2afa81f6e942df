"""One whole stack for all tests of this folder: they meet it as strangers, each with entries and Novas of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.stack import RunningStack
from tests.stack.outside import Outside, stop_file


@pytest.fixture(scope="package")
def effects_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the executor `append` leaves a line for everything it really did."""
    return tmp_path_factory.mktemp("effects") / "lines"


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory, effects_file: Path) -> Iterator[RunningStack]:
    """`manage.py up` with default timings."""
    folder = tmp_path_factory.mktemp("stack")
    environment = {
        "NOVAWF_STOP_FILE": str(stop_file(folder)),
        "NOVAWF_EXECUTORS": "append=tests.processes.executors.Append",
        "NOVAWF_APPEND_FILE": str(effects_file),
    }
    made = RunningStack(folder, settings="tests.stack.settings", environment=environment)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="package")
def outside(stack: RunningStack) -> Iterator[Outside]:
    made = Outside(stack)
    yield made
    made.close()
