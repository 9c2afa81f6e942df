"""A loop worker that stops itself (SIGSTOP) between step and commit, once, when a test asks for it.

The test writes a nova_id into the file that NOVAWF_STOP_FILE names; the worker that is about to commit work for this Nova
replaces it by its own pid and stops. Everything else is the product's own.
"""

import os
import signal
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from workflow import jobs, loop
from workflow.carrying import Stepped
from workflow.committing import Committed
from workflow.engine import Batch, WorkflowEngine

_FILE = Path(os.environ["NOVAWF_STOP_FILE"])


class StoppingEngine(WorkflowEngine):
    """The engine, which may stop before it commits."""

    def commit(self, stepped: Sequence[Stepped], batch: Batch, now: datetime) -> Committed:
        at_work = {one.claimed.nova_id for one in stepped if one.tasks}
        if _FILE.exists() and _FILE.read_text() in at_work:
            _FILE.unlink()
            _FILE.with_suffix(".pid").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().commit(stepped, batch, now)


def run_loop_slice(slot: str) -> None:
    """Drive the stopping engine for one slice."""
    loop.WorkflowEngine = StoppingEngine  # type: ignore[attr-defined]
    jobs.run_loop_slice(slot)
