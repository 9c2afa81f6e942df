"""Intake: takes new entries from the inbound streams, and what they cause commits together with the moved cursor.

So an entry takes effect once, whatever crashes. A refused entry is kept with its reason, journalled and answered; nothing is
dropped. One holder of the intake lease reads; it must not decide what a Nova does (design section 3).
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.db import connection, transaction

from safety import bulk
from safety.audit import Entry
from safety.observations import Kind, Seen, observe_many
from safety.stream_client import StreamEntries
from workflow import leases, momentum, waking
from workflow.core.inbound import AlertRequest, Rejection, SignalRequest, WorkRequest, parse_entry
from workflow.core.protocol import ProtocolViolation, cause_of, stream_name
from workflow.core.wake_signals import WakeSignalPriorityClassifier
from workflow.models import InboxMessage, Nova, StreamCursor, Task
from workflow.streams.names import Inbound
from workflow.task_tracker import TaskTracker

MESSAGE_REJECTED = "workflow.message.rejected"
FLEET_SIGNALLED = "workflow.fleet.signalled"

_RAW_FIELD = 4096  # bytes kept of each field of a refused entry
_RAW_FIELDS = 64
_INBOX_COLUMNS = (
    "stream",
    "entry_id",
    "kind",
    "status",
    "tier",
    "nova_id",
    "sender",
    "task_id",
    "outcome",
    "reason",
    "fields",
    "received_at",
    "handled_at",
)
_EACH_ID = "jsonb_array_elements_text(%s::jsonb) AS e(value)"
_Raw = tuple[Inbound, str, Mapping[bytes, bytes]]  # a stream, an entry id, the entry's fields
_classifier = WakeSignalPriorityClassifier()


@dataclass(slots=True)
class _Arrived:
    """One entry on its way in."""

    stream: str
    entry_id: str
    kind: str
    raw: Mapping[bytes, bytes]
    request: WorkRequest | SignalRequest | Rejection


@dataclass(slots=True)
class _Target:
    team: str
    stream_executors: frozenset[str]


@dataclass(slots=True)
class Accepted:
    """What a batch of entries came to."""

    entries: int = 0
    tasks: int = 0
    rejected: int = 0
    signals: int = 0
    own: int = 0
    oldest: str = ""  # the entry id of the oldest that was not ours


class Intake:
    """Turns raw entries into inbox rows, tasks and wakes."""

    def __init__(self, streams: Mapping[str, Inbound], prefix: str) -> None:
        self.streams = streams  # what each stream is, by name
        self._own_prefix = f"{prefix}-".encode()  # of the event ids that we published

    def accept(self, reply: StreamEntries, lease: leases.Held | None, *, now: datetime, seconds: float) -> Accepted:
        """Take in what a read returned, in one transaction.

        :raises LeaseLost: another reader holds the intake lease; nothing was changed.
        """
        outcome = Accepted()
        foreign = self._foreign(reply, outcome)
        if not foreign:
            return outcome  # the reader keeps the cursors of what was ours
        outcome.oldest = min((entry_id for _, entry_id, _ in foreign), key=_milliseconds)
        with transaction.atomic():
            if lease:
                leases.renew(lease, now=now, seconds=seconds)
            self._take(self._parse(self._unseen(foreign)), outcome, now)
            cursors = [(stream.decode(), entries[-1][0].decode(), now) for stream, entries in reply if entries]
            bulk.insert(
                StreamCursor,
                ("stream", "last_id", "updated_at"),
                cursors,
                on_conflict="(stream) DO UPDATE SET last_id = excluded.last_id, updated_at = excluded.updated_at",
            )
            if outcome.tasks or outcome.signals:
                transaction.on_commit(partial(waking.knock, "loops"))
        return outcome

    # -- reading

    def _foreign(self, reply: StreamEntries, outcome: Accepted) -> list[_Raw]:
        """Leave out what we published ourselves."""
        foreign: list[_Raw] = []
        own: list[_Raw] = []
        for raw_stream, entries in reply:
            stream = self.streams[raw_stream.decode()]
            for entry_id, raw in entries:
                outcome.entries += 1
                ours = raw.get(b"event_id", b"").startswith(self._own_prefix)
                (own if ours else foreign).append((stream, entry_id.decode(), raw))
        if own:
            published = self._published([(stream.name, raw[b"event_id"]) for stream, _, raw in own])
            false = [entry for entry in own if (entry[0].name, entry[2][b"event_id"]) not in published]
            outcome.own = len(own) - len(false)
            foreign += false
        return foreign

    def _number(self, event_id: bytes) -> int:
        """Give the journal entry that an event id of ours names; a metric's adds its name to the id it was counted from."""
        number = event_id[len(self._own_prefix) :].split(b"-")[0]
        return int(number) if number.isdigit() and len(number) < 19 else 0

    def _published(self, events: Sequence[tuple[str, bytes]]) -> set[tuple[str, bytes]]:
        """Give those (stream, event id) that really are ours."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, stream FROM safety_auditentry WHERE {bulk.membership('id', integers=True)}",  # noqa: S608
                [bulk.members(self._number(event_id) for _, event_id in events)],
            )
            found = dict(cursor.fetchall())
        metrics = stream_name("enterprise_metrics")
        return {
            (stream, event_id)
            for stream, event_id in events
            if (known := found.get(self._number(event_id))) is not None and stream in (known, metrics)
        }

    @staticmethod
    def _parse(foreign: Iterable[_Raw]) -> list[_Arrived]:
        return [
            _Arrived(
                stream.name,
                entry_id,
                stream.kind,
                raw,
                parse_entry(stream.kind, raw, stream.nova_id)
                if stream.accepts
                else Rejection("Only NOVAWF writes to this stream; nobody reads it for work.", "", stream.nova_id, "foreign"),
            )
            for stream, entry_id, raw in foreign
        ]

    @staticmethod
    def _unseen(
        foreign: list[_Raw],
    ) -> list[_Raw]:
        """Leave out entries that are in the inbox already: a cursor may be rewound."""
        by_stream: dict[str, list[str]] = {}
        for stream, entry_id, _ in foreign:
            by_stream.setdefault(stream.name, []).append(entry_id)
        seen: set[tuple[str, str]] = set()
        # each id by itself: a planner without statistics would rather read the whole stream
        source, once = ("json_each(%s) AS e", "") if connection.vendor == "sqlite" else (_EACH_ID, " OFFSET 0")
        inbox = f"SELECT 1 FROM workflow_inboxmessage WHERE stream = %s AND entry_id = e.value{once}"  # noqa: S608
        with connection.cursor() as cursor:
            for name, ids in by_stream.items():
                cursor.execute(f"SELECT e.value FROM {source} WHERE EXISTS ({inbox})", [bulk.json_text(ids), name])  # noqa: S608
                seen.update((name, row[0]) for row in cursor.fetchall())
        return [entry for entry in foreign if (entry[0].name, entry[1]) not in seen] if seen else foreign

    # -- taking in

    def _take(self, arrived: Sequence[_Arrived], outcome: Accepted, now: datetime) -> None:
        tracker = TaskTracker(now=now)
        targets = self._targets(arrived)
        known = self._known_keys(arrived)
        rows: list[tuple[Any, ...]] = []
        woken: set[str] = set()
        wake_all = False
        for entry in arrived:
            request = entry.request
            if not isinstance(request, Rejection) and (problem := self._refusal(request, targets)):
                request = Rejection(problem, request.sender, request.nova_id, entry.kind)
            if isinstance(request, SignalRequest):
                outcome.signals += 1
                rows.append(self._signal_row(entry, request, now))
                if request.nova_id:
                    woken.add(request.nova_id)
                else:
                    wake_all = True
                    tracker.journal.entries.append(self._fleet_signal(entry, request))
                continue
            if isinstance(request, WorkRequest):
                try:
                    rows.append(self._work_row(entry, request, tracker, targets, known, outcome, now))
                except ProtocolViolation as violation:
                    request = Rejection(str(violation), request.sender, request.nova_id, entry.kind)
                else:
                    is_alert = isinstance(request, AlertRequest)
                    wake_all = wake_all or (is_alert and not request.nova_id)
                    if is_alert and request.nova_id:
                        woken.add(request.nova_id)
            if isinstance(request, Rejection):
                outcome.rejected += 1
                rows.append(self._rejected_row(entry, request, now))
                tracker.journal.entries.append(self._rejection(entry, request, targets, now))
        bulk.insert(InboxMessage, _INBOX_COLUMNS, rows)
        tracker.flush()
        self._wake(woken, wake_all, targets, now)
        self._observe_own_wakes(arrived, now)

    @staticmethod
    def _targets(arrived: Sequence[_Arrived]) -> dict[str, _Target]:
        """Load the Novas that entries name; the empty name stands for all: what every one of them allows."""
        named = {entry.request.nova_id for entry in arrived} | {entry.request.sender for entry in arrived}
        fleet = any(isinstance(e.request, WorkRequest) and not e.request.nova_id and e.request.executor for e in arrived)
        rows = Nova.objects.filter(archived_at=None)
        if not fleet:
            rows = rows.filter(nova_id__in=named)
        targets = {
            nova_id: _Target(team, frozenset(executors))
            for nova_id, team, executors in rows.values_list("nova_id", "team", "stream_executors")
        }
        if fleet:
            everybody = [target.stream_executors for target in targets.values()]
            targets[""] = _Target("", frozenset.intersection(*everybody) if everybody else frozenset())
        return targets

    @staticmethod
    def _refusal(request: WorkRequest | SignalRequest, targets: Mapping[str, _Target]) -> str:
        """Say why a well-formed request can't be taken; empty if it can."""
        if request.nova_id and request.nova_id not in targets:
            return f"There is no Nova {request.nova_id!r}, or it is archived."
        if isinstance(request, WorkRequest) and request.executor:
            target = targets.get(request.nova_id)
            if target is None or request.executor not in target.stream_executors:
                who = request.nova_id or "every Nova"
                return f"Executor {request.executor!r} is not among those that {who} allows stream entries to choose."
        return ""

    @staticmethod
    def _key(request: WorkRequest) -> str | None:
        return f"stream:{request.sender}:{request.message_id}"[:200] if request.message_id else None

    def _known_keys(self, arrived: Sequence[_Arrived]) -> dict[str, str]:
        """Give the tasks that messages of these ids made before, by idempotency key."""
        keys = {self._key(entry.request) for entry in arrived if isinstance(entry.request, WorkRequest)} - {None}
        if not keys:
            return {}
        rows = Task.objects.filter(idempotency_key__in=[key for key in keys if key])
        return {key or "": task_id for key, task_id in rows.values_list("idempotency_key", "id")}

    def _work_row(
        self,
        entry: _Arrived,
        request: WorkRequest,
        tracker: TaskTracker,
        targets: Mapping[str, _Target],
        known: dict[str, str],
        outcome: Accepted,
        now: datetime,
    ) -> tuple[Any, ...]:
        key = self._key(request)
        task_id = known.get(key) if key else None
        result = f"repeat of {task_id}" if task_id else "task"
        if not task_id:
            task_id = tracker.create_task(
                request.title,
                request.description,
                request.priority,
                assignee=request.nova_id,
                team=targets[request.nova_id].team if request.nova_id else request.team,
                work_type=request.work_type,
                executor=request.executor,
                action=request.action,
                estimated_duration=request.estimated_duration,
                dependencies=request.dependencies,
                metadata=request.metadata,
                idempotency_key=key,
                sender=request.sender,
                cause=cause_of(entry.stream, entry.entry_id),
                max_attempts=request.max_attempts,
            )
            outcome.tasks += 1
            if key:
                known[key] = task_id
        kind = "alert" if isinstance(request, AlertRequest) else "work_item"
        tier = request.priority.value
        fields = bulk.json_text(request.fields)
        nova_id, sender = request.nova_id, request.sender[:128]
        return (entry.stream, entry.entry_id, kind, "handled", tier, nova_id, sender, task_id, result, "", fields, now, now)

    @staticmethod
    def _signal_row(entry: _Arrived, request: SignalRequest, now: datetime) -> tuple[Any, ...]:
        tier = _classifier.classify_signal(request.fields, entry.stream).value
        fields, sender = bulk.json_text(request.fields), request.sender[:128]
        if request.nova_id:  # it waits for the Nova's stream check
            return (
                entry.stream,
                entry.entry_id,
                "signal",
                "waiting",
                tier,
                request.nova_id,
                sender,
                "",
                "",
                "",
                fields,
                now,
                None,
            )
        outcome = "woke every active Nova"
        return (entry.stream, entry.entry_id, "signal", "handled", tier, "", sender, "", outcome, "", fields, now, now)

    @staticmethod
    def _fleet_signal(entry: _Arrived, request: SignalRequest) -> Entry:
        after = {"sender": request.sender[:128]}
        return Entry(FLEET_SIGNALLED, "", "message", entry.entry_id, after=after, cause=cause_of(entry.stream, entry.entry_id))

    @staticmethod
    def _rejected_row(entry: _Arrived, request: Rejection, now: datetime) -> tuple[Any, ...]:
        raw = [
            {
                "name": base64.b64encode(name[:256]).decode(),
                "value": base64.b64encode(value[:_RAW_FIELD]).decode(),
                "length": len(value),
                "sha256": hashlib.sha256(value).hexdigest(),
            }
            for name, value in list(entry.raw.items())[:_RAW_FIELDS]
        ]
        fields = bulk.json_text({"raw": raw, "field_count": len(entry.raw)})
        sender, kind = _printable(request.sender)[:128], (request.kind or entry.kind)[:12]
        nova_id = _printable(request.nova_id)[:64]
        return (entry.stream, entry.entry_id, kind, "rejected", "", nova_id, sender, "", "", request.reason, fields, now, now)

    @staticmethod
    def _rejection(entry: _Arrived, request: Rejection, targets: Mapping[str, _Target], now: datetime) -> Entry:
        """Journal a refusal; where the sender is a Nova, tell it on its coordination stream."""
        answered = request.sender in targets and request.sender != ""
        cause = cause_of(entry.stream, entry.entry_id)
        message = {
            "type": "message_rejected",
            "nova_id": request.sender,
            "stream": entry.stream,
            "entry_id": entry.entry_id,
            "reason": request.reason,
            "timestamp": now.isoformat(),
        }
        return Entry(
            MESSAGE_REJECTED,
            request.sender if answered else "",
            "message",
            f"{entry.stream}/{entry.entry_id}"[:128],
            after={"stream": entry.stream, "entry_id": entry.entry_id},
            reason=request.reason,
            cause=cause,
            stream=stream_name("coordination", request.sender) if answered else "",
            message=message if answered else None,
        )

    @staticmethod
    def _wake(woken: set[str], wake_all: bool, targets: Mapping[str, _Target], now: datetime) -> None:
        if wake_all:
            waking.mark_all_due(now=now)
            momentum.wake_templates(set(Nova.objects.filter(archived_at=None).values_list("team", flat=True)))
        elif woken:
            waking.mark_due(woken, now=now)
            momentum.wake_templates({targets[nova_id].team for nova_id in woken if nova_id in targets})

    @staticmethod
    def _observe_own_wakes(arrived: Sequence[_Arrived], now: datetime) -> None:
        own = [
            Seen(entry.request.nova_id, Kind.OWN_WAKE)
            for entry in arrived
            if not isinstance(entry.request, Rejection)
            and entry.request.sender
            and entry.request.sender == entry.request.nova_id
        ]
        if own:
            observe_many(own, now=now)


def _milliseconds(entry_id: str) -> int:
    return int(entry_id.split("-")[0])


def _printable(text: str) -> str:
    return text.replace("\x00", "")
