"""Calls to model providers: every HTTP request asks first, has one time limit for all of it, and is judged by its answer.

A transport below the providers' own clients does it, so no retry, tool round or stream of theirs gets past it. What is said to
a model is not known here.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NoReturn

import httpx2
import orjson
import structlog

from safety.api_guardian import AccountLimits, ApiGuardian, ApiLimitExceeded, Outcome
from safety.core import redaction
from safety.core.status import SafetyRules
from safety.stream_client import StreamError
from workflow import budgets
from workflow.budgets import BudgetSpent
from workflow.execution.registry import ExecutionFailed
from workflow.execution.threads import in_thread

ANSWER_LIMIT = 8 * 1024 * 1024  # bytes of one answer
WAIT_LIMIT = timedelta(hours=24)  # a provider may put us off for so long
_SAID_LIMIT = 300  # characters of what a provider said about an error
_STREAM = "text/event-stream"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf calls are made, by which account and model, and under which limits.

    `may_call` raises ExecutionFailed while the Nova must make none; `hammered` is told when asking itself was a violation.
    """

    nova_id: str
    account: str
    limits: AccountLimits
    rules: SafetyRules
    key: str
    clock: Callable[[], datetime]
    may_call: Callable[[], None]
    hammered: Callable[[], None]
    model: str = ""
    counted: bool = True  # against the Nova's budget


class CallFailed(ExecutionFailed):
    """A call was not made, or came to nothing. `outcome`: what the account's breaker makes of it."""

    def __init__(self, text: str, *, outcome: Outcome = Outcome.NOTHING, **more: Any) -> None:
        super().__init__(text, **more)
        self.outcome = outcome


class GuardedTransport(httpx2.AsyncBaseTransport):
    """The way out to a provider. `problem` keeps why the last call failed: the clients above give it other names."""

    def __init__(self, caller: Caller, guardian: ApiGuardian, inner: httpx2.AsyncBaseTransport | None = None) -> None:
        self._caller = caller
        self._guardian = guardian
        self._inner = inner or httpx2.AsyncHTTPTransport(retries=0, trust_env=False)
        self.problem: ExecutionFailed | None = None
        self.requests = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Make one call.

        1. Ask whether the Nova may act, its budget, and the guardian, in this order. 2. Call. 3. Hold the permit until the
        answer has been read, or given up.
        """
        self.problem = None
        stack = AsyncExitStack()
        try:
            deadline = await self._ask(stack)
            return await self._call(request, stack, deadline)
        except BaseException as error:
            await self._close(stack, error)
            if isinstance(error, ExecutionFailed):
                self.problem = error
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    # -- details

    async def _ask(self, stack: AsyncExitStack) -> float:
        """Get the permit, held by the stack; give until when the call may take (the loop's clock)."""
        caller = self._caller
        await in_thread(caller.may_call)
        if caller.counted:
            try:
                await in_thread(budgets.reserve_request, caller.nova_id, caller.account, caller.model, now=caller.clock())
            except BudgetSpent as error:
                needs = {"owner": "operator", "action": error.action}
                raise CallFailed(str(error), retryable=False, needs=needs) from None
        try:
            asked = self._guardian.apermit(caller.nova_id, caller.rules, caller.limits, now=caller.clock(), enforced=False)
            permit = await stack.enter_async_context(asked)
        except BaseException as error:
            if caller.counted:
                await in_thread(budgets.give_back_request, caller.nova_id, now=caller.clock())
            if not isinstance(error, ApiLimitExceeded):
                raise
            if error.violation:
                await in_thread(caller.hammered)
            raise CallFailed(error.reason, retry_after=timedelta(seconds=error.retry_after)) from None
        self.requests += 1
        return asyncio.get_running_loop().time() + permit.timeout.total_seconds()

    async def _call(self, request: httpx2.Request, stack: AsyncExitStack, deadline: float) -> httpx2.Response:
        request.headers["Accept-Encoding"] = "identity"  # a small packed answer may be a very long one
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._inner.handle_async_request(request)
        except TimeoutError:
            self._silent()
        except httpx2.TransportError as error:
            name = type(error).__name__
            raise CallFailed(f"The provider can't be reached ({name}).", outcome=Outcome.FAILURE) from None
        inner: Any = response.stream  # of the asynchronous kind, as our request was
        answer = _Answer(inner, stack, deadline, self)
        if response.status_code < 300 and response.headers.get("content-type", "").startswith(_STREAM):
            return httpx2.Response(response.status_code, headers=response.headers, stream=answer)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise CallFailed("The provider's answer is packed, although we asked for it plain.", outcome=Outcome.FAILURE)
            body = b"".join([chunk async for chunk in answer.chunks()])
        finally:
            await inner.aclose()
        self._judge(response, body)
        await self._close(stack, None)
        return httpx2.Response(response.status_code, headers=response.headers, stream=_Bytes(body))

    def _judge(self, response: httpx2.Response, body: bytes) -> None:
        """Say what an answer means, if it is none that a model gave.

        :raises CallFailed: with what may be done about it, and when.
        """
        status, account = response.status_code, self._caller.account
        if status < 300:
            try:
                orjson.loads(body)
            except orjson.JSONDecodeError:
                text = "The provider's answer is no JSON, so it can't be read."
                raise CallFailed(text, outcome=Outcome.FAILURE) from None
            return
        said = self._said(body)
        if status == 429 and b"insufficient_quota" in body:
            needs = {"owner": "operator", "action": f"raise the quota at the provider of account {account}"}
            text = f"The provider says that the quota is used up (429).{said}"
            raise CallFailed(text, outcome=Outcome.RATE_LIMITED, retryable=False, needs=needs)
        if status == 429:
            wait = retry_after(response.headers, self._caller.clock()) or self._caller.limits.breaker_rest
            raise CallFailed(f"The provider has enough for now (429).{said}", outcome=Outcome.RATE_LIMITED, retry_after=wait)
        if status in (401, 403):  # what it says may quote the key
            needs = {"owner": "operator", "action": f"check the key of provider account {account}, and its rights"}
            raise CallFailed(f"The provider refuses the key ({status}).", outcome=Outcome.SUCCESS, retryable=False, needs=needs)
        if status >= 500 or status in (408, 409):
            told = retry_after(response.headers, self._caller.clock())
            raise CallFailed(f"The provider failed ({status}).{said}", outcome=Outcome.FAILURE, retry_after=told)
        if status < 400:
            raise CallFailed(f"The provider leads elsewhere ({status}), which is not followed.", retryable=False)
        raise CallFailed(f"The provider refuses the request ({status}).{said}", outcome=Outcome.SUCCESS, retryable=False)

    def _said(self, body: bytes) -> str:
        """Give what a provider said about an error, short and without secrets."""
        try:
            found = orjson.loads(body)
            found = found.get("error", found) if isinstance(found, dict) else found
            text = str(found.get("message", "") if isinstance(found, dict) else found)
        except orjson.JSONDecodeError:
            return ""
        if self._caller.key:
            text = text.replace(self._caller.key, redaction.REDACTED)
        text = str(redaction.fit(text))[:_SAID_LIMIT].strip()
        return f" It said: {text}" if text else ""

    def _silent(self) -> NoReturn:
        seconds = self._caller.rules.request_timeout.total_seconds()
        raise CallFailed(f"The provider did not answer within {seconds:g} s.", outcome=Outcome.FAILURE)

    async def _close(self, stack: AsyncExitStack, error: BaseException | None) -> None:
        """Give the permit back, saying how the call went. The counters may be away: then its slot expires by itself."""
        try:
            await stack.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)
        except StreamError:
            _log.warning("permit_not_returned", nova_id=self._caller.nova_id, account=self._caller.account)
        except BaseException as again:
            if again is not error:
                raise


class _Bytes(httpx2.AsyncByteStream):
    """A body that is there already."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


class _Answer(httpx2.AsyncByteStream):
    """A body on its way, under the call's time limit; the permit is given back when it ends, however it ends."""

    def __init__(
        self, inner: httpx2.AsyncByteStream, stack: AsyncExitStack, deadline: float, transport: GuardedTransport
    ) -> None:
        self._inner = inner
        self._stack = stack
        self._deadline = deadline
        self._transport = transport
        self._error: BaseException | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.chunks():
            yield chunk

    async def chunks(self) -> AsyncIterator[bytes]:
        """Read piece by piece.

        :raises CallFailed: it takes too long, is too long, or broke off.
        """
        pieces, size = self._inner.__aiter__(), 0
        try:
            while True:
                try:
                    async with asyncio.timeout_at(self._deadline):
                        chunk = await anext(pieces)
                except StopAsyncIteration:
                    return
                size += len(chunk)
                if size > ANSWER_LIMIT:
                    text = f"The provider's answer is longer than {ANSWER_LIMIT:,} bytes."
                    raise CallFailed(text, outcome=Outcome.FAILURE, retryable=False)
                yield chunk
        except TimeoutError:
            self._fail(partial(self._transport._silent))
        except httpx2.TransportError:
            self._fail(partial(_broken))
        except (CallFailed, asyncio.CancelledError) as error:
            self._error = error
            self._transport.problem = error if isinstance(error, CallFailed) else None
            raise

    def _fail(self, say: Callable[[], NoReturn]) -> None:
        try:
            say()
        except CallFailed as error:
            self._error = self._transport.problem = error
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()
        await self._transport._close(self._stack, self._error)


def _broken() -> NoReturn:
    raise CallFailed("The provider's answer broke off.", outcome=Outcome.FAILURE)


def retry_after(headers: httpx2.Headers, now: datetime) -> timedelta | None:
    """Give how long an answer asks to wait, at most WAIT_LIMIT; None if it says nothing that can be read."""
    try:
        if "retry-after-ms" in headers:
            wait = timedelta(milliseconds=float(headers["retry-after-ms"]))
        elif (text := headers.get("retry-after", "").strip()).replace(".", "", 1).isdigit():
            wait = timedelta(seconds=float(text))
        else:
            wait = parsedate_to_datetime(text) - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait, timedelta(0)), WAIT_LIMIT)
