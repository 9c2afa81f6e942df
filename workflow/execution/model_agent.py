"""The conversation with a model: instructions, the task, our tools, and a structured result at the end.

The only file that knows pydantic-ai. What its calls may do is decided below it (model_calls.py), what its tools do above
(settings.MODEL_TOOLS).
"""

import inspect
from collections.abc import AsyncIterable, Callable, Mapping
from hashlib import sha256
from typing import Any, Protocol

import httpx2
import structlog
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent, RunUsage, Tool, UsageLimits
from pydantic_ai.exceptions import AgentRunError, UsageLimitExceeded
from pydantic_ai.models import Model as ProviderModel
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from safety import bulk
from safety.api_guardian import ApiGuardian
from safety.models import ProviderAccount
from safety.observations import Kind, Seen, observe_many
from safety.stream_client import StreamClient
from workflow import budgets
from workflow.budgets import Used
from workflow.execution.model import Setup, clock
from workflow.execution.model_calls import Caller, GuardedTransport
from workflow.execution.registry import ExecutionContext, ExecutionFailed, Result
from workflow.execution.threads import in_thread

STEPS = 50  # answers of the model in one execution
TOOL_ROUNDS = 3  # times it may correct what it got wrong
NOTE_LIMIT = 16_000  # characters of what is kept of an unfinished execution
_log = structlog.get_logger(__name__)


class Tools(Protocol):
    """What an upper floor offers: functions by name, and what must be asked. Each may raise ExecutionFailed to end the run."""

    TOOLS: Mapping[str, Callable[..., str]]

    def demand_may_call(self, nova_id: str) -> None: ...
    def note_hammering(self, nova_id: str) -> None: ...
    def use(
        self, tool: str, context: ExecutionContext, arguments: Mapping[str, Any], *, approval: bool
    ) -> tuple[str, bool]: ...


class Needs(BaseModel):
    """Who must go on, and with what."""

    owner: str = Field(max_length=64)
    action: str = Field(max_length=200)


class Report(BaseModel):
    """The final result of the task."""

    results: str = Field(description="What was done and found, for a person to read.")
    metrics: dict[str, float | int | str | bool] = Field(default_factory=dict, description="Figures, by name.")
    evidence: list[str] = Field(default_factory=list, description="What shows that the result is right.")
    needs: Needs | None = Field(default=None, description="Only if the task is not done and only somebody else can go on.")


async def work(context: ExecutionContext, setup: Setup, tools: Tools) -> Result:
    """Let the model work on a task until it gives its result.

    :raises ExecutionFailed: it says whether and when to try again, and who can help.
    """
    client = StreamClient(name="novawf-model", timeout=1.0)
    caller = Caller(
        context.nova_id, setup.account, setup.limits, setup.rules, setup.key, clock,
        lambda: tools.demand_may_call(context.nova_id), lambda: tools.note_hammering(context.nova_id), setup.model,
    )  # fmt: skip
    transport = GuardedTransport(caller, ApiGuardian(client))
    conversation = _Conversation(context, setup, tools, transport)
    try:
        async with httpx2.AsyncClient(transport=transport, timeout=None, trust_env=False) as http:
            return await conversation.hold(http)
    finally:
        client.close()


class _Conversation:
    """One execution's talk, and what it has come to."""

    def __init__(self, context: ExecutionContext, setup: Setup, tools: Tools, transport: GuardedTransport) -> None:
        self._context = context
        self._setup = setup
        self._tools = tools
        self._transport = transport
        self._usage = RunUsage()
        self._counted = Used()
        self._cost = 0
        self._tool_uses = 0
        self._notes: list[str] = []
        self._end: ExecutionFailed | None = None

    async def hold(self, http: httpx2.AsyncClient) -> Result:
        agent: Agent[None, Any] = Agent(
            _model(self._setup, http),
            output_type=[Report, str],
            instructions=self._setup.instructions,
            tools=[self._tool(name, function) for name, function in self._tools.TOOLS.items()],
            retries=TOOL_ROUNDS,
        )
        try:
            async with agent.iter(self._prompt(), usage=self._usage, usage_limits=UsageLimits(request_limit=STEPS)) as run:
                async for node in run:
                    if self._setup.streaming and Agent.is_model_request_node(node):
                        async with node.stream(run.ctx) as stream:
                            await _listen(stream)
                    if Agent.is_call_tools_node(node):
                        self._note(node.model_response.text or "")
                        await self._count()
            output = run.result.output if run.result else ""
        except ExecutionFailed:
            raise
        except Exception as error:
            raise self._failure(error) from error
        finally:
            await self._count()
        return self._result(output)

    def _prompt(self) -> str:
        context = self._context
        parts = [f"Task {context.task_id}: {context.title}", context.description]
        if context.metadata:
            parts.append(f"Details: {bulk.json_text(dict(context.metadata))}")
        if context.action:
            parts.append(f"Action asked for: {context.action}")
        if context.runs > 1:
            parts.append(
                f"This is run {context.runs} of attempt {context.attempt}: an earlier one was cut off, and its effects may "
                "have happened already. Look before you repeat anything."
            )
        if self._setup.earlier:
            parts.append(f"What an earlier run noted before it was cut off:\n{self._setup.earlier}")
        return "\n\n".join(part for part in parts if part)

    def _tool(self, name: str, function: Callable[..., str]) -> Tool[None]:
        """Offer a function to the model, under its own name and without its first parameter, the context."""

        async def use(**arguments: Any) -> str:
            return await self._use(name, arguments)

        signature = inspect.signature(function)
        told = list(signature.parameters.values())[1:]
        use.__name__, use.__doc__ = name, function.__doc__
        use.__signature__ = signature.replace(parameters=told)  # type: ignore[attr-defined]
        hints = inspect.get_annotations(function, eval_str=True)
        use.__annotations__ = {part.name: hints[part.name] for part in told} | {"return": str}
        return Tool(use, takes_ctx=False, sequential=True)

    async def _use(self, name: str, arguments: dict[str, Any]) -> str:
        """Let the model use a tool: approved where that is wanted, seen by the judges, noted.

        :raises ExecutionFailed: the execution ends here.
        """
        self._tool_uses += 1
        nova_id = self._context.nova_id
        digest = sha256(f"{name} {bulk.json_text(arguments)}".encode()).hexdigest()[:32]
        try:
            approval = name in self._setup.approval_tools
            answer: str
            answer, went_well = await in_thread(self._tools.use, name, self._context, arguments, approval=approval)
        except ExecutionFailed as error:
            self._end = error
            raise
        seen = [Seen(nova_id, Kind.TOOL_USE, detail=digest)]
        seen.append(Seen(nova_id, Kind.WORK_EVIDENCE if went_well else Kind.TOOL_FAILURE))
        await in_thread(observe_many, seen, now=clock())
        self._note(f"[{name}] {answer}" if name != "read_inbox" else "[read_inbox]")
        return answer

    def _note(self, text: str) -> None:
        """Keep what there is so far, the newest if it is much."""
        if text.strip():
            self._notes.append(text.strip())
        self._context.keep("\n".join(self._notes)[-NOTE_LIMIT:], self._metrics())

    async def _count(self) -> None:
        """Add what the newest answers came to to the Nova's day."""
        usage, counted = self._usage, self._counted
        new = Used(usage.input_tokens - counted.input_tokens, usage.output_tokens - counted.output_tokens,
                   self._tool_uses - counted.tool_uses)  # fmt: skip
        if new != Used():
            self._counted = Used(usage.input_tokens, usage.output_tokens, self._tool_uses)
            nova_id, setup = self._context.nova_id, self._setup
            self._cost += await in_thread(budgets.note_used, nova_id, setup.account, setup.model, new, now=clock())
        self._note("")

    def _metrics(self) -> dict[str, Any]:
        return {
            "model": self._setup.model,
            "requests": self._transport.requests,
            "input_tokens": self._usage.input_tokens,
            "output_tokens": self._usage.output_tokens,
            "tool_uses": self._tool_uses,
            "cost": self._cost / 1_000_000,
            "runs": self._context.runs,
        }

    def _failure(self, error: Exception) -> ExecutionFailed:
        """Say why the conversation ended: our own reason where there is one, not what the clients made of it."""
        ours = self._end or self._transport.problem
        if ours is not None:
            return ours
        if isinstance(error, UsageLimitExceeded):
            return ExecutionFailed(f"The model did not come to an end within {STEPS} answers.", retryable=False)
        if isinstance(error, AgentRunError | ValueError | TypeError | KeyError | AttributeError | IndexError):
            # whatever the clients stumbled over: what they read came from outside
            _log.info("model_answer_unreadable", error=type(error).__name__)
            return ExecutionFailed(f"The model's answer could not be used ({type(error).__name__}).")
        return ExecutionFailed(f"The conversation with the model broke off ({type(error).__name__}).")

    def _result(self, output: Any) -> Result:
        metrics = self._metrics()
        if not isinstance(output, Report):
            if not str(output).strip():
                raise ExecutionFailed("The model gave no result.")
            return Result(str(output), metrics)
        metrics = {**output.metrics, **metrics}
        if output.evidence:
            metrics["evidence"] = output.evidence
        needs = output.needs.model_dump() if output.needs else None
        return Result(output.results, metrics, needs=needs)


def _model(setup: Setup, http: httpx2.AsyncClient) -> ProviderModel:
    """Give the client of the provider's protocol; it must not retry by itself."""
    if setup.kind == ProviderAccount.Kind.ANTHROPIC:
        anthropic = AsyncAnthropic(api_key=setup.key or "none", base_url=setup.base_url, http_client=http, max_retries=0)
        return AnthropicModel(setup.model, provider=AnthropicProvider(anthropic_client=anthropic))
    openai = AsyncOpenAI(api_key=setup.key or "none", base_url=setup.base_url, http_client=http, max_retries=0)
    return OpenAIChatModel(setup.model, provider=OpenAIProvider(openai_client=openai))


async def _listen(stream: AsyncIterable[Any]) -> None:
    """Read an answer to its end as it comes."""
    async for _ in stream:
        pass
