"""Finds hook commands that start the agent again, and hooks that guard less than they seem to (the founding incident).

Pure: settings in, findings out; scripts are read through a function the caller gives. It reads texts, it runs nothing: what
hides well enough is not found, what is found is refused. Errors refuse the file, warnings don't.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

ReadScript = Callable[[str], str | None]  # a path as it stands in a command -> its text; None: it can't be read


class Level(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: where in the file, and in words for people what is wrong and what to do."""

    level: Level
    code: str
    place: str
    message: str


@dataclass(frozen=True, slots=True)
class _Text:
    """A command line, or a script that one runs: what is searched, and for which event it runs."""

    event: str
    text: str
    own_name: str = ""  # of a script


KNOWN_EVENTS = frozenset(
    re.findall(
        r"\w+",
        """
        SessionStart SessionEnd Setup UserPromptSubmit UserPromptExpansion PreToolUse PermissionRequest PermissionDenied
        PostToolUse PostToolUseFailure PostToolBatch SubagentStart SubagentStop Stop StopFailure TaskCreated TaskCompleted
        TeammateIdle ConfigChange PreCompact PostCompact Notification InstructionsLoaded MessageDisplay CwdChanged
        DirectoryAdded FileChanged WorktreeCreate WorktreeRemove Elicitation ElicitationResult PreModelSwitch PostModelSwitch
        """,
    )
)
_ENDINGS = frozenset({"Stop", "SubagentStop", "SessionEnd", "StopFailure", "TeammateIdle"})
_KEPT_GOING = frozenset({"Stop", "SubagentStop", "TeammateIdle"})  # blocking these means: go on working
_BLOCKING = frozenset({"PreToolUse", "PermissionRequest", "UserPromptSubmit", "PostToolBatch", "TaskCreated", "ConfigChange"})
_WITHOUT_HTTP = frozenset({"SessionStart", "Setup"})
_TYPES = frozenset({"command", "http", "mcp_tool", "prompt", "agent"})
_LONG_TIMEOUT = 60

_AGENT = r"(?:claude(?:-code)?|codex|gemini(?:-cli)?|cursor-agent|opencode|aider|goose|amp|qwen|copilot)"
# where a shell takes a word as a command: at the beginning, after a separator, or after a word that runs what follows
_BEGINS = (
    r"(?:^|[;&|(`\n{!]|\$\(|\b(?:exec|nohup|setsid|env|sudo|doas|command|eval|time|then|do|else|xargs|watch|npx|bunx|uvx|"
    r"bash|sh|zsh|dash|source|nice|stdbuf|unbuffer|caffeinate|timeout)\b(?:\s+-{1,2}[\w=-]+|\s+\d+[smhd]?\b)*)"
    r"\s*[\"']?(?:\w+=\S*\s+)*(?:-c\s+)?[\"']?"
)
_RUNS_AGENT = re.compile(
    rf"{_BEGINS}(?:[^\s\"';|&()]*/)?{_AGENT}(?:@[\w.-]+)?(?=$|[\s\"';|&)`])"
    # in another language's string or list: ["claude", "-p"], spawn('claude'), os.system("claude --resume x")
    rf"|[\[(,]\s*f?[\"'](?:[^\s\"']*/)?{_AGENT}(?:[\"']\s*[,\])]|\s+-)"
    # by a variable or any other way, given away by what it is told
    rf"|(?:{_AGENT}|\$\{{?\w*(?:CLAUDE|CODEX|GEMINI|AGENT)\w*\}}?[\"']?)\s[^\n;|&]*?(?<=\s)(?:-p|--print|--continue|--resume)\b",
    re.MULTILINE,
)
_RUNS_ITSELF = re.compile(
    rf"{_BEGINS}\$\{{?(?:0|BASH_SOURCE(?:\[0\])?|ZSH_ARGZERO)\}}?[\"']?(?=$|[\s;|&)])"
    r"|\bos\.exec\w*\s*\(|(?:subprocess\.\w+|Popen|spawn\w*|execFile\w*|fork)\s*\([^\n)]*(?:__file__|__filename|sys\.argv\[0\]|argv\[1\])",
    re.MULTILINE,
)
_DETACHES = re.compile(
    r"\b(?:nohup|setsid|disown|daemonize|systemd-run|crontab|launchctl|start-stop-daemon)\b|\bsystemctl\b[^\n;|&]*\b(?:re)?start\b"
    r"|(?:^|[;&|]\s*)(?:at|batch)\s+(?:now|-[fmtq]|\d|noon|midnight|teatime|tomorrow)|\bscreen\s+-\w*[dm]|\btmux\s+new\S*\b[^\n;|&]*\s-\w*d"
    r"|start_new_session\s*=\s*True|preexec_fn\s*=\s*os\.setsid|\bdetached\s*:\s*true|/etc/cron|\.config/systemd"
    r"|(?<![&>|<])&(?![&>\d])\s*(?:$|[;)}\n]|[a-z#\"'])",
    re.MULTILINE,
)
_BLOCKS = re.compile(r"[\"']?decision[\\\"']*\s*[:=]\s*\\?[\"']block|\bdecision\b[^\n]{0,20}\bblock\b")
_EXITS = re.compile(r"\b(?:exit|return|sys\.exit|process\.exit|os\._exit)\s*\(?\s*([012])\b")
_COMMENT = re.compile(r"^\s*#.*$|(?<=\s)#\s.*$", re.MULTILINE)
_LITERAL_SECRET = re.compile(r"nova_[0-9a-f]{6}_|sk-[\w-]{8,}|(?:Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{16,}", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_SCRIPT = re.compile(r"\.(?:sh|bash|zsh|py|js|mjs|cjs|ts|rb|pl)$")
_DEPTH = 3  # scripts that run scripts


def lint(settings: object, read_script: ReadScript) -> list[Finding]:
    """Examine the settings of an agent; errors first."""
    return sorted(set(_lint(settings, read_script)), key=lambda one: (one.level, one.place, one.code))


def lint_script(name: str, text: str, read_script: ReadScript) -> list[Finding]:
    """Examine a script as if it were run when the agent stops, where a restart does the most harm."""
    return sorted(set(_lint_text(_Text("Stop", text, name), name, read_script, _DEPTH)), key=lambda one: (one.level, one.code))


def refused(findings: list[Finding]) -> bool:
    """Say whether the file is refused."""
    return any(finding.level is Level.ERROR for finding in findings)


def _error(code: str, place: str, message: str) -> Finding:
    return Finding(Level.ERROR, code, place, message)


def _warning(code: str, place: str, message: str) -> Finding:
    return Finding(Level.WARNING, code, place, message)


def _lint(settings: object, read_script: ReadScript) -> Iterator[Finding]:
    if not isinstance(settings, Mapping):
        yield _error("unreadable", "", "The file is no JSON object, so nothing in it guards the agent.")
        return
    if settings.get("disableAllHooks"):
        yield _error("hooks_off", "disableAllHooks", "All hooks are switched off. Remove the switch.")
    if settings.get("allowManagedHooksOnly"):
        yield _warning("managed_only", "allowManagedHooksOnly", "Only hooks of managed settings run; put ours there.")
    hooks = settings.get("hooks", {})
    if not isinstance(hooks, Mapping):
        yield _error("unreadable", "hooks", "This is no object of events, so no hook runs.")
        return
    for event, groups in hooks.items():
        place = f"hooks.{event}"
        if event not in KNOWN_EVENTS:
            yield _warning("unknown_event", place, "No event of that name is known; check the spelling.")
        if not isinstance(groups, list):
            yield _error("unreadable", place, "This is no list of matchers, so no hook runs.")
            continue
        for number, group in enumerate(groups):
            yield from _lint_group(event, group, f"{place}[{number}]", settings, read_script)


def _lint_group(event: str, group: object, place: str, settings: Mapping[str, Any], read: ReadScript) -> Iterator[Finding]:
    handlers = group.get("hooks") if isinstance(group, Mapping) else None
    if not isinstance(group, Mapping) or not isinstance(handlers, list):
        yield _error("unreadable", place, "This is no matcher with a list of hooks, so no hook runs.")
        return
    matcher = group.get("matcher", "")
    if isinstance(matcher, str) and matcher != "*" and re.search(r"[^\w\-, |]", matcher) and not matcher.startswith("^"):
        yield _warning("loose_matcher", place, "This matcher is a regular expression that matches anywhere; begin it with ^.")
    for number, handler in enumerate(handlers):
        inner = f"{place}.hooks[{number}]"
        if isinstance(handler, Mapping):
            yield from _lint_handler(event, handler, inner, settings, read)
        else:
            yield _error("unreadable", inner, "This is no hook.")


def _lint_handler(
    event: str, handler: Mapping[str, Any], place: str, settings: Mapping[str, Any], read: ReadScript
) -> Iterator[Finding]:
    kind = handler.get("type")
    if kind not in _TYPES:
        yield _error("unknown_type", place, f"A hook of type {kind!r} is not known, so it does not run.")
    yield from _lint_bounds(event, handler, place)
    if handler.get("asyncRewake"):
        yield _error("rewakes", place, "asyncRewake wakes the agent after it has stopped. Remove it; NOVAWF wakes Novas.")
    elif handler.get("async") and event in _BLOCKING:
        yield _warning("async", place, "A hook that runs beside the call can't stop it. Remove `async`.")
    if kind == "command":
        arguments = handler.get("args")
        words = [str(handler.get("command", "")), *(map(str, arguments) if isinstance(arguments, list) else ())]
        yield from _lint_text(_Text(event, " ".join(words)), place, read, _DEPTH)
    elif kind == "http":
        yield from _lint_http(event, handler, place, settings)
    elif kind in ("prompt", "agent") and event in _KEPT_GOING:
        yield _warning("model_decides", place, f"A model decides whether {event} may happen, and can keep the agent going.")


def _lint_bounds(event: str, handler: Mapping[str, Any], place: str) -> Iterator[Finding]:
    timeout = handler.get("timeout")
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        yield _warning("no_timeout", place, "There is no timeout; the default is up to ten minutes. Give 3 to 5 seconds.")
    elif timeout > _LONG_TIMEOUT:
        yield _warning("long_timeout", place, f"{timeout:g} seconds is long for a hook; give 3 to 5.")
    guards = event in _BLOCKING and handler.get("type") in ("command", "http")
    if guards and handler.get("onFailure") != "block":
        yield _warning("fails_open", place, 'When this hook fails, the call goes on. Set "onFailure": "block".')


def _lint_http(event: str, handler: Mapping[str, Any], place: str, settings: Mapping[str, Any]) -> Iterator[Finding]:
    url = str(handler.get("url", ""))
    if event in _WITHOUT_HTTP:
        yield _error(
            "http_unsupported", place, f"{event} does not support hooks of type http: this one never runs. Use a command."
        )
    if url.startswith("http://") and not re.match(r"http://(?:localhost|127\.0\.0\.1|\[::1\])(?:[:/]|$)", url):
        yield _warning("plain_http", place, "The key travels unprotected. Use https.")
    urls = settings.get("allowedHttpHookUrls")
    if isinstance(urls, list) and not any(fnmatchcase(url, str(pattern)) for pattern in urls):
        yield _error("url_not_allowed", place, f"allowedHttpHookUrls leaves {url} out: this hook never runs.")
    headers = handler.get("headers")
    allowed = handler.get("allowedEnvVars")
    for name, value in headers.items() if isinstance(headers, Mapping) else ():
        if _LITERAL_SECRET.search(str(value)):
            yield _error("secret_in_file", place, f"The header {name} holds a secret. Name a variable instead, as $NOVA_TOKEN.")
        for variable in _VARIABLE.findall(str(value)):
            if not isinstance(allowed, list) or variable not in allowed:
                yield _error("variable_not_allowed", place, f"allowedEnvVars leaves {variable} out: the header would be empty.")
            shared = settings.get("httpHookAllowedEnvVars")
            if isinstance(shared, list) and variable not in shared:
                yield _error("variable_not_allowed", place, f"httpHookAllowedEnvVars leaves {variable} out.")


def _lint_text(given: _Text, place: str, read: ReadScript, depth: int) -> Iterator[Finding]:
    """Examine a command line or a script, and the scripts it runs."""
    text, ending = _COMMENT.sub("", given.text), given.event in _ENDINGS
    where = f"{given.own_name} " if given.own_name else "This command "
    if _RUNS_AGENT.search(text):
        yield _error(
            "runs_agent", place, f"{where}starts an agent, whose own hooks start the next. NOVAWF starts work; remove it."
        )
    if _RUNS_ITSELF.search(text) or (given.own_name and _runs(given.own_name, text)):
        yield _error("runs_itself", place, f"{where}runs itself again, without end. Remove it.")
    if _DETACHES.search(text):
        message = f"{where}leaves something running that outlives the hook and can start the agent again."
        yield _error("detaches", place, message) if ending else _warning("detaches", place, message)
    codes = set(_EXITS.findall(text))
    if given.event in _KEPT_GOING and (_BLOCKS.search(text) or "2" in codes):
        yield _error("keeps_going", place, f"{where}blocks {given.event}, which keeps the agent working. Exit with 0 instead.")
    if given.event in _BLOCKING and "1" in codes and "2" not in codes:
        yield _warning("exit_1", place, f"{where}exits with 1, which blocks nothing. Exit with 2 to block.")
    if _LITERAL_SECRET.search(given.text):
        yield _error("secret_in_file", place, f"{where}holds a secret. Read it from the environment.")
    if depth:
        yield from _lint_scripts(given, text, place, read, depth)


def _lint_scripts(given: _Text, text: str, place: str, read: ReadScript, depth: int) -> Iterator[Finding]:
    for path in dict.fromkeys(_scripts(text, is_script=bool(given.own_name))):
        name = path.rpartition("/")[2]
        if name == given.own_name:
            continue
        content = read(path)
        if content is None and not given.own_name:
            yield _warning(
                "script_not_read", place, f"{path} can't be read, so it was not examined; a missing script blocks nothing."
            )
        elif content:
            yield from _lint_text(_Text(given.event, content, name), place, read, depth - 1)


def _scripts(text: str, *, is_script: bool) -> Iterator[str]:
    """Give the words that name a script; of a command line also its first, where that is a path."""
    lines = text.splitlines() if is_script else [text]
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()
        for place, word in enumerate(words):
            if _SCRIPT.search(word) or (place == 0 and not is_script and "/" in word):
                yield word


def _runs(name: str, text: str) -> bool:
    """Say whether a script's name stands where a shell takes it as a command."""
    return re.search(rf"{_BEGINS}(?:[^\s\"';|&()]*/)?{re.escape(name)}(?=$|[\s\"';|&)])", text, re.MULTILINE) is not None
