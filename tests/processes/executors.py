"""An executor for tests of whole processes: it leaves a line in a file for everything it really did, to count repeats by."""

import asyncio
import os
import signal
import time

from workflow.execution.registry import ExecutionContext, Result


class Append:
    """Appends `{task id} {attempt} {pid} {unix time}` to the file NOVAWF_APPEND_FILE after metadata["milliseconds"].

    Actions: `append` (also for any other name), `raise`, `hang`, and `kill`, which appends and then kills its own worker.
    """

    name = "append"
    actions = frozenset({"append", "raise", "hang", "kill"})

    async def run(self, context: ExecutionContext) -> Result:
        milliseconds = float(context.metadata.get("milliseconds", 0))
        if milliseconds:
            await asyncio.sleep(milliseconds / 1000)
        if context.action == "raise":
            raise RuntimeError("asked to raise")
        if context.action == "hang":
            await asyncio.Event().wait()
        line = f"{context.task_id} {context.attempt} {os.getpid()} {time.time():.6f}\n"
        file = os.open(os.environ["NOVAWF_APPEND_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())  # one write: whole lines, however many processes append
        finally:
            os.close(file)
        if context.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return Result(results=line.strip(), metrics={"appended": 1})
