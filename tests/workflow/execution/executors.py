"""An executor that misbehaves on request."""

import asyncio
from typing import Any, ClassVar

from workflow.execution.registry import ExecutionContext, ExecutionFailed, Result


class Probe:
    """Remembers what it was asked, and does what the action says."""

    name = "probe"
    actions: frozenset[str] = frozenset()
    seen: ClassVar[list[str]] = []  # "{action} {what happened}"
    gate: ClassVar[asyncio.Event | None] = None

    async def run(self, context: ExecutionContext) -> Any:
        Probe.seen.append(f"{context.action} begun")
        answer = await getattr(self, f"_{context.action}")(context)
        Probe.seen.append(f"{context.action} ended")
        return answer

    async def _ok(self, context: ExecutionContext) -> Result:
        await asyncio.sleep(float(context.metadata.get("seconds", 0)))
        return Result(f"did {context.title}", {"answer": 42}, findings=["a", "b"])

    async def _raise(self, context: ExecutionContext) -> Result:
        raise ValueError("the reason it broke")

    async def _refuse(self, context: ExecutionContext) -> Result:
        raise ExecutionFailed("no licence", retryable=False, needs={"owner": "operator", "action": "buy a licence"})

    async def _hang(self, context: ExecutionContext) -> Result:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            Probe.seen.append("hang cancelled")
            raise
        return Result()

    async def _stubborn(self, context: ExecutionContext) -> Result:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                Probe.seen.append("stubborn goes on")

    async def _report(self, context: ExecutionContext) -> Result:
        context.report_progress(40)
        await asyncio.Event().wait()
        return Result()

    async def _odd(self, context: ExecutionContext) -> str:
        return "not a Result"

    async def _unkeepable(self, context: ExecutionContext) -> Result:
        return Result("fine", {"thing": object()})

    async def _dirty(self, context: ExecutionContext) -> Result:
        return Result("a\x00b\ud800c", {"nan": float("nan")})
