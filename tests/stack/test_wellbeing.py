"""After all that strangers, judges, an outage and a stopped process did: the stack is whole, and nothing failed unseen."""

import json

import pytest

from tests.processes.stack import RunningStack, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]


def test_the_stack_is_whole_and_logged_no_error(stack: RunningStack) -> None:
    wait_until(lambda: stack.readiness().get("ready"), seconds=20, what="the stack is ready")
    lines = [json.loads(line) for line in stack.text().splitlines() if line.startswith("{")]
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
    again = [line for line in stack.text().splitlines() if "it is started again" in line]
    assert len(again) <= 1  # the stream server that test_stream_outage.py killed
    assert all("stream server" in line for line in again)
