"""One whole stack for all tests of this folder: they meet it as strangers, each with entries and Novas of its own."""

from collections.abc import Iterator

import pytest

from tests.processes.stack import RunningStack
from tests.stack.outside import Outside, stop_file


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """`manage.py up` with default timings."""
    folder = tmp_path_factory.mktemp("stack")
    made = RunningStack(folder, settings="tests.stack.settings", environment={"NOVAWF_STOP_FILE": str(stop_file(folder))})
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
