"""What can run an execution: the executors by name, what they are told, and what they answer.

An executor is one class and one line in settings.EXECUTORS. This file must not know what any of them does, and reads no
database.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from workflow.errors import WorkflowError

# Run by somebody outside who claims the task: known here, never dispatched to a host.
EXTERNAL = frozenset({"agent"})
# Reach beyond the system by what an operator configured: never chosen by a stream entry, nor by leaving the choice open.
NAMED_ONLY = frozenset({"command", "http"})


class ExecutionFailed(WorkflowError):
    """The work could not be done, for a reason its text gives. `needs` {owner, action} names who can help.

    With `retry_after` it was put off rather than tried: it costs no attempt, and none begins earlier.
    """

    def __init__(
        self,
        text: str,
        *,
        retryable: bool = True,
        needs: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(text)
        self.retryable = retryable
        self.needs = needs
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Kept:
    """What an execution has come to so far: its row shows it if the execution does not end well."""

    results: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """What an executor is told. `runs` above 1: an earlier host died in it, its effect may have happened already."""

    execution_id: int
    task_id: str
    title: str
    description: str
    metadata: Mapping[str, Any]
    nova_id: str
    executor: str
    action: str
    attempt: int
    runs: int
    now: datetime
    progress_sink: Callable[[int, int], None] | None = field(default=None, repr=False, compare=False)
    kept_sink: Callable[[int, Kept], None] | None = field(default=None, repr=False, compare=False)

    def report_progress(self, percent: int) -> None:
        """Say how far the work is; kept with the host's next renewal of its leases. May be called from any thread."""
        if self.progress_sink is not None:
            self.progress_sink(self.execution_id, max(0, min(100, percent)))

    def keep(self, results: str, metrics: Mapping[str, Any]) -> None:
        """Say what there is so far, each time all of it; kept with the next renewal too. May be called from any thread."""
        if self.kept_sink is not None:
            self.kept_sink(self.execution_id, Kept(results, dict(metrics)))


@dataclass(frozen=True, slots=True)
class Result:
    """What an executor answers. With `needs` {owner, action} the work is not done: only somebody else can go on.

    `findings` are short texts that stay the same as long as the fault does; None where the work does not look for faults.
    """

    results: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[str] | None = None
    needs: Mapping[str, str] | None = None


class Executor(Protocol):
    """Runs executions, many at once in one event loop: `run` must not block it. Empty `actions`: it takes any."""

    name: str
    actions: Collection[str]

    async def run(self, context: ExecutionContext) -> Result: ...


@runtime_checkable
class InlineExecutor(Protocol):
    """An executor some of whose actions cost microseconds and touch nothing outside: a host runs these in whole batches."""

    inline: Collection[str]

    def run_inline(self, context: ExecutionContext) -> Result: ...


def executors() -> Mapping[str, Executor]:
    """Give every configured executor by its name.

    :raises ImproperlyConfigured: settings.EXECUTORS names something that can't be imported.
    """
    return _load(tuple(settings.EXECUTORS.items()))


def is_known(name: str) -> bool:
    """Tell whether an executor of this name runs here, or is somebody outside."""
    return name in EXTERNAL or name in settings.EXECUTORS


@lru_cache(maxsize=8)
def _load(configured: tuple[tuple[str, str], ...]) -> Mapping[str, Executor]:
    found: dict[str, Executor] = {}
    for name, path in configured:
        if name in EXTERNAL:
            raise ImproperlyConfigured(f"EXECUTORS names {name!r}, which is claimed from outside and runs in no host.")
        try:
            found[name] = import_string(path)()
        except (ImportError, TypeError) as error:
            raise ImproperlyConfigured(f"EXECUTORS names {path!r} for {name!r}, which can't be loaded: {error}") from error
    return found
