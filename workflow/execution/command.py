"""The command executor: a program that an operator allowed, with the arguments that an operator allowed, and no shell.

A task names a command by its action and may fill in its placeholders (`metadata.arguments`). Each run has a working folder of
its own. Limits and the end of everything it started are the shim's (command_shim.py); which commands there are is in the
database. Linux only.
"""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings

from workflow.execution.registry import ExecutionContext, ExecutionFailed, Result
from workflow.execution.threads import in_thread
from workflow.models import CommandTemplate

KEPT_FOLDERS = 20  # of failed runs, the newest
KEPT_BYTES = 10 * 1024 * 1024  # of one failed run; a larger one is deleted
FLOOD = 64 * 1024 * 1024  # bytes of output after which a command is ended
VALUE_LIMIT = 4_000  # characters that a task may fill in for a placeholder
_GRACE_SECONDS = 3.0  # for the shim to end everything
_TURNS_TO_CLOSE = 3  # of the loop, in which asyncio lets go of a pipe and its process; the host may close it right afterwards
_SHIM = Path(__file__).with_name("command_shim.py")
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Output:
    """What a command wrote: the first `limit` bytes, and how many there were."""

    limit: int
    text: bytearray = field(default_factory=bytearray)
    size: int = 0

    def take(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self.text += chunk[: max(0, self.limit - len(self.text))]

    def __str__(self) -> str:
        text = self.text.decode("utf-8", "replace")
        return f"{text}\n… [{self.size - len(self.text):,} bytes more were dropped]" if self.size > len(self.text) else text


class Command:
    """Runs commands as processes of their own."""

    name = "command"
    actions: frozenset[str] = frozenset()  # rows, so that a new one works at once

    async def run(self, context: ExecutionContext) -> Result:
        """Run a command to its end.

        :raises ExecutionFailed: there is no such command, its placeholders are filled in wrongly, or it did not end well.
        """
        template = await in_thread(_template, context.action)
        command = command_line(template, context.metadata.get("arguments", {}))
        folder = folders() / f"{context.execution_id}-{context.runs}"
        await asyncio.to_thread(_make, folder)
        output = _Output(template.output_limit)
        failed = True
        try:
            result = await _run(context, template, command, folder, output)
            failed = False
            return result
        finally:
            # not awaited: a cancelled execution must not wait for a disk
            asyncio.get_running_loop().run_in_executor(None, _tidy, folder, str(output) if failed else None)


def command_line(template: CommandTemplate, given: Any) -> list[str]:
    """Fill in a command's placeholders.

    :raises ExecutionFailed: a value is missing, unknown, or does not match its pattern; nothing was run.
    """
    patterns: Mapping[str, str] = template.placeholders
    if not isinstance(given, Mapping) or set(given) != set(patterns):
        wanted = ", ".join(sorted(patterns)) or "none"
        text = f"The command {template.slug} takes these arguments: {wanted}. The task gives others; nothing was run."
        raise ExecutionFailed(text, retryable=False)
    for name, value in given.items():
        fits = isinstance(value, str) and len(value) <= VALUE_LIMIT and "\0" not in value
        # a value that begins with a dash would be an option, which nobody allowed
        if not fits or value.startswith("-") or not re.fullmatch(patterns[name], value):
            text = f"The argument {name} of the command {template.slug} is not one that its pattern allows; nothing was run."
            raise ExecutionFailed(text, retryable=False)
    return [template.program, *(argument.format_map(given) for argument in template.arguments)]


def environment_of(template: CommandTemplate, folder: Path) -> dict[str, str]:
    """Give all that a command learns from its environment."""
    passed_on = {name: os.environ[name] for name in template.environment if name in os.environ}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **passed_on, "HOME": str(folder), "TMPDIR": str(folder)}


def folders() -> Path:
    """Give where commands work."""
    return Path(settings.VAR_DIR) / "commands"


async def _run(
    context: ExecutionContext, template: CommandTemplate, command: list[str], folder: Path, output: _Output
) -> Result:
    limits = {
        "memory": template.memory_limit,
        "cpu": template.cpu_limit,
        "file": template.file_limit,
        "processes": template.process_limit,
    }
    reading, writing = os.pipe()
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(_SHIM), str(os.getpid()), str(writing), json.dumps(limits), *command,
                cwd=folder, env=environment_of(template, folder), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, pass_fds=(writing,),
            )  # fmt: skip
        finally:
            os.close(writing)
        ended = ""
        try:
            async with asyncio.timeout(template.timeout):
                ended = await _listen(context, process, output)
        except TimeoutError:
            ended = f"It ran longer than its {template.timeout:g} s and was ended."
        finally:
            await _end(process)
        answer: dict[str, Any] = json.loads(await asyncio.to_thread(os.read, reading, 4096) or b"{}")
    finally:
        os.close(reading)
    return _result(context, template, output, ended, answer)


async def _listen(context: ExecutionContext, process: asyncio.subprocess.Process, output: _Output) -> str:
    """Take what a command writes until it ends; give why it must be ended before, if it must."""
    pipe: Any = process.stdout
    told = 0.0
    while chunk := await pipe.read(65_536):
        output.take(chunk)
        if output.size > FLOOD:
            return f"It wrote more than {FLOOD // (1024 * 1024)} MiB and was ended."
        moment = asyncio.get_running_loop().time()
        if moment - told >= 1.0:
            told = moment
            context.keep(str(output), {"output_bytes": output.size, "runs": context.runs})
    await process.wait()
    return ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let the shim end everything, and end the shim if it doesn't."""
    try:
        async with asyncio.timeout(_GRACE_SECONDS):
            if process.returncode is None:
                process.terminate()
            await process.wait()
    except TimeoutError:
        _log.error("command_shim_killed", pid=process.pid)
        process.kill()
    except ProcessLookupError:
        pass
    pipe: Any = process.stdout
    with suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_SECONDS):
            while await pipe.read(65_536):  # nobody wants it, but only then is the pipe closed
                pass
    for _ in range(_TURNS_TO_CLOSE):
        await asyncio.sleep(0)


def _result(
    context: ExecutionContext, template: CommandTemplate, output: _Output, ended: str, answer: Mapping[str, Any]
) -> Result:
    """Say what became of a command.

    :raises ExecutionFailed: it did not end by itself, or not with exit code 0.
    """
    code = answer.get("code")
    metrics = {
        "command": template.slug,
        "exit_code": code,
        "seconds": answer.get("seconds"),
        "cpu_seconds": answer.get("cpu_seconds"),
        "output_bytes": output.size,
        "truncated": output.size > len(output.text),
        "runs": context.runs,
    }
    context.keep(str(output), metrics)
    if not ended:
        if code == 0:
            return Result(str(output), metrics)
        measured = answer.get("measured")
        ended = {
            "processes": f"It had {measured} processes, {template.process_limit} are allowed; all were ended.",
            "memory": f"It used {measured} MiB of memory, {template.memory_limit} are allowed; it was ended.",
            "itself": f"It ended with exit code {code}." if code is None or code >= 0 else f"Signal {-code} ended it.",
        }.get(str(answer.get("ended")), "It was ended from outside.")
    raise ExecutionFailed(f"Command {template.slug}: {ended}")


def _template(slug: str) -> CommandTemplate:
    template = CommandTemplate.objects.filter(pk=slug, archived_at=None).first()
    if template is None:
        needs = {"owner": "operator", "action": f"allow the command {slug or '(none)'}, or give the task another action"}
        raise ExecutionFailed(f"There is no command {slug!r}; nothing was run.", retryable=False, needs=needs)
    return template


def _make(folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _tidy(folder: Path, output: str | None) -> None:
    """Delete a run's folder; one of a failed run (`output`) is kept for a while, with what it wrote, if it is not too large."""
    try:
        if output is not None and sum(_size(path) for path in folder.rglob("*")) <= KEPT_BYTES:
            (folder / "OUTPUT").write_text(output)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        mine = sorted(folder.parent.iterdir(), key=lambda path: path.lstat().st_mtime, reverse=True)
        for old in mine[KEPT_FOLDERS:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        _log.warning("command_folder_left", folder=str(folder), error=type(error).__name__)


def _size(path: Path) -> int:
    return 0 if path.is_symlink() else path.lstat().st_size
