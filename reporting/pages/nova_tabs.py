"""What the tabs of a Nova's page show: activity, tasks, streams, safety, configuration, keys. Each in a few queries."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest
from django.utils.http import urlencode

from reporting.core.story import CHAPTERS
from reporting.nova_mechanisms import mechanisms_of
from reporting.nova_settings import settings_of
from reporting.nova_story import story_of
from reporting.scope import Scope
from reporting.standing import open_tasks
from safety.admin import may_read_texts
from safety.models import ApiKey, SafetyIncident, SafetyState
from safety.observe import observation_of
from safety.stream_client import StreamClient, StreamError
from workflow.core.protocol import INBOUND, STREAM_PATTERNS, stream_name
from workflow.derived_status import STREAM_REACHABLE, load_fleet
from workflow.models import Nova, StreamCursor, Task
from workflow.streams.controller import StreamController, StreamStanding

SHOWN = 25  # tasks of a status
KEYS_SHOWN = 100
INCIDENTS_SHOWN = 10
STREAM_SECONDS = 1.0  # so long a page waits for the stream server, at most
_STATUSES = (("in_progress", "In progress"), ("blocked", "Blocked"), ("pending", "Pending"), ("completed", "Completed"))


def activity(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Give a page of the Nova's story."""
    chapter, before = request.GET.get("chapter", ""), request.GET.get("before", "")
    chapter = chapter if chapter in CHAPTERS else ""
    at = int(before) if before.isdecimal() and len(before) < 19 else 0
    texts = may_read_texts(request)
    lines, older = story_of(nova_id, chapter=chapter, before=at, texts=texts)
    titles = {"": "Everything"} | {key: title for key, (title, _) in CHAPTERS.items()}
    kept = {"hours": 24} if request.GET.get("hours") == "24" else {}

    def link(**words: str | int) -> str:
        return f"?{urlencode({'tab': 'activity', **{name: word for name, word in words.items() if word}, **kept})}#tabs"

    return {
        "lines": lines,
        "older": link(chapter=chapter, before=older) if older else "",
        "newest": link(chapter=chapter) if at else "",
        "chapters": [(title, key, link(chapter=key), key == chapter) for key, title in titles.items()],
        "chapter": chapter,
    }


def tasks(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Give the Nova's tasks by status: what it has in hand, what stands, what waits, what is done."""
    counts, groups = open_tasks(Scope(nova_id)), []
    columns = (
        "id", "title", "status", "priority", "work_type", "outcome", "progress", "attempts", "created_at", "started_at",
        "completed_at", "blocked_at", "block_owner", "block_action",
    )  # fmt: skip
    for status, title in _STATUSES:
        order = ("-completed_at", "-id") if status == "completed" else ("order_at", "id")
        rows = Task.objects.filter(assignee=nova_id, status=status, personal=False).order_by(*order).only(*columns)[:SHOWN]
        found = list(rows)
        more = max(0, counts[status] - len(found)) if status != "completed" else 0
        groups.append({"status": status, "title": title, "rows": found, "more": more, "number": counts[status]})
    return {"groups": groups, "any": any(group["rows"] for group in groups), "texts": may_read_texts(request)}


def streams(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Give the Nova's streams: length, last entry, what is unread. A server that is away costs a second at most."""
    names = {kind: stream_name(kind, nova_id) for kind in STREAM_PATTERNS}
    read = {names[kind]: "0-0" for kind in INBOUND}
    stored = StreamCursor.objects.filter(stream__in=list(read)).values_list("stream", "last_id", "updated_at")
    moved = {}
    for name, last_id, updated_at in stored:
        read[name], moved[name] = last_id, updated_at
    found, problem = _standings(nova_id, read)
    known = {one.kind: one for one in found}
    rows = [
        {
            "kind": kind, "name": name, "inbound": kind in INBOUND, "cursor": read.get(name, ""), "moved": moved.get(name),
            "length": known[kind].length if kind in known else None, "last_id": known[kind].last_id if kind in known else "",
            "last_at": _instant(known[kind].last_id) if kind in known else None,
            "unread_since": _instant(known[kind].oldest_unread) if kind in known else None,
        }
        for kind, name in names.items()
    ]  # fmt: skip
    return {"rows": rows, "problem": problem, "asked": not problem}


def safety(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Give the five mechanisms, the verdict in force and the newest incidents."""
    incidents = SafetyIncident.objects.filter(nova_id=nova_id).order_by("-id")[:INCIDENTS_SHOWN]
    return {
        "mechanisms": mechanisms_of(nova_id, now=now),
        "in_force": SafetyState.objects.filter(nova_id=nova_id).first(),
        "incidents": list(incidents),
        "texts": may_read_texts(request),  # an incident's reason may quote an agent
    }


def configuration(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Give what the Nova works under, where each value comes from, and what a candidate policy would have done."""
    nova = Nova.objects.select_related("personality", "policy", "candidate_policy", "provider_account").get(pk=nova_id)
    return {"nova": nova, "groups": settings_of(nova), "observed": observation_of(nova_id, nova.candidate_policy_id)}


def keys(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Give the keys by which agents act as this Nova; never the keys themselves, of which there is only a digest."""
    rows = []
    for key in ApiKey.objects.filter(nova_id=nova_id).order_by("revoked_at", "-id")[:KEYS_SHOWN]:
        ended = key.expires_at is not None and key.expires_at <= now
        word = "Revoked" if key.revoked_at else "Suspended" if key.suspended_at else "Expired" if ended else "Good"
        tone, icon = {"Good": ("good", "check"), "Suspended": ("bad", "stop")}.get(word, ("calm", "dot"))
        rows.append({"key": key, "word": word, "tone": tone, "icon": icon})
    return {"rows": rows}


def _standings(nova_id: str, cursors: Mapping[str, str]) -> tuple[list[StreamStanding], str]:
    reachable = load_fleet().get(STREAM_REACHABLE)
    if reachable is not None and reachable.value is False:
        return [], "The stream server does not answer."
    client = StreamClient(name="page", timeout=STREAM_SECONDS)
    try:
        return StreamController(nova_id, client).standings(cursors), ""
    except StreamError as error:
        return [], str(error)
    finally:
        client.close()


def _instant(entry_id: str) -> datetime | None:
    """Read the time in an entry's id (milliseconds); None for one that tells none."""
    milliseconds = entry_id.partition("-")[0]
    if not milliseconds.isdecimal() or not 0 < int(milliseconds) < 10**14:
        return None
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
