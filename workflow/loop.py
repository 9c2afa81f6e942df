"""The loop of one slot: shares the roles of reader and relay with the other slots, and drives the engine.

One round: wait (a blocking read is the sleep), take in, step, relay. Roles are leases. On a quiet system one slot has both and
does everything, since each hand-over costs latency; when it can't rest any more, it shares: the relay goes to another slot that
lives. Nothing here decides what a Nova does.
"""

import random
import threading
import time
from datetime import UTC, datetime, timedelta

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections
from django.db.models import Q

from safety import answers
from safety import facts as safety_facts
from safety.core.status import FleetFacts
from safety.hook_intake import forget_old_calls
from safety.models import FleetFact, Installation, OutboxEntry
from safety.observations import forget_old
from safety.stream_client import StreamClient, StreamEntries, StreamError, StreamRefused, StreamUnavailable
from workflow import agent_work, approvals, gathering, halts, leases, waking
from workflow.engine import WorkflowEngine
from workflow.models import Lease
from workflow.streams.intake import Intake
from workflow.streams.reader import Reader, publish_hashes
from workflow.streams.relay import Relay

INTAKE, RELAY = "intake", "relay"
_HOUSEKEEPING = 1.0  # seconds between two looks at leases, health and the list of streams
_OWN_STREAMS = 0.25  # seconds within which each Nova's own stream is looked at
_TODO_STREAMS = 5.0  # the same of the streams on which mostly our own messages come back
_SWEEP = timedelta(seconds=15)
_SECOND_HAND = 0.05  # seconds that a slot without the intake leaves due Novas to the one that has it
_GAPS = timedelta(seconds=60)
_PARTS = 4  # of a small fleet's streams, one at each sweep and each look for gaps: names and answers are long
_STRAIN = 0.25  # seconds of processor time without a rest that show that one slot is not enough
_CALM = 5.0  # seconds without such strain before the reader does everything again
_HASHES, _GAPS_CHECKED, _SWEPT = "state_hashes", "gaps_checked", "streams_swept"
_SHARES = "shares"
_HOURLY = 3600.0

logger = structlog.get_logger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the loop is where the clock enters the engine


class Loop:
    """Drives one slot, round by round."""

    def __init__(self, holder: str, stop: threading.Event) -> None:
        self.holder = holder
        self._stop = stop
        self._engine = WorkflowEngine(holder)
        # a server that hangs must be noticed within two seconds, in a blocking read or by the look of each second
        self._client = StreamClient(name="novawf-loop", timeout=settings.STREAM_BLOCK_LIMIT + 0.5)
        self._health = StreamClient(name="novawf-health", timeout=0.75)
        self._reader = Reader(self._client)
        self._relay = Relay(self._client)
        self._intake: Intake | None = None
        self._roles: dict[str, leases.Held] = {}
        self._done_at: dict[str, float] = {}
        self._fleet: FleetFacts | None = None
        self._listening = False
        self._busy = False
        self._took_in = False
        self._shares = False  # as the reader: another slot relays
        self._rested_at = time.process_time()
        self._strained_at = time.monotonic() - _CALM
        self._intake_lag = 0.0
        self._failures = 0

    def round(self) -> None:
        """Do one round, of about a second at most; trouble is waited out with backoff and the loop goes on."""
        try:
            self._keep_house()
            reachable = self._stream_work()
            self._busy = self._step(reachable)
            if time.process_time() > self._rested_at + _STRAIN:
                self._strained_at = time.monotonic()
            self._failures = 0
        except leases.LeaseLost as lost:
            logger.warning("lease lost", reason=str(lost))
            self._roles.clear()
        except Exception:  # the top of the loop: log, back off with jitter, go on
            self._failures += 1
            close_old_connections()
            logger.exception("round failed", failures=self._failures)
            self._stop.wait(min(2.0, 0.05 * 2**self._failures) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def close(self) -> None:
        """Give the roles back and wake whoever may take them."""
        try:
            if INTAKE in self._roles:
                self._reader.keep_cursors(now=_now())
            for held in self._roles.values():
                leases.release(held)
        except DatabaseError:
            logger.warning("roles were not given back; they expire by themselves", seconds=settings.LEASE_SECONDS)
        if self._roles:
            self._roles.clear()
            waking.knock("loops")
        self._client.close()
        self._health.close()

    # -- roles and health

    def _due(self, name: str, seconds: float) -> bool:
        """Say whether something that is done every `seconds` is due, and count it as done."""
        at = time.monotonic()
        if at < self._done_at.get(name, 0.0) + seconds:
            return False
        self._done_at[name] = at
        return True

    def _keep_house(self) -> None:
        if not self._due("house", _HOUSEKEEPING):
            return
        now = _now()
        self._keep_roles(now)
        if INTAKE in self._roles:
            self._reader.keep_cursors(now=now)
            self._reader.refresh()
            safety_facts.note_fleet("intake_lag", self._intake_lag, now)
            self._intake_lag = 0.0
            halts.settle(now=now)
            agent_work.block_hopeless(now=now)
            approvals.settle(now=now)
            if self._due("observations", _HOURLY):
                forget_old(now=now)
                forget_old_calls(now=now)
                answers.forget_old(now=now)
        if RELAY in self._roles:
            oldest = OutboxEntry.objects.order_by("id").values_list("created_at", flat=True).first()
            age = max((now - oldest).total_seconds(), 0.0) if oldest else 0.0
            safety_facts.note_fleet("outbox_age", age, now)
        self._fleet = safety_facts.observe_fleet(now, self._health)  # last, so that it knows what was noted above

    def _keep_roles(self, now: datetime) -> None:
        """Renew what is held when that is due, take what is free and ours, share the work or take it back."""
        for name in (INTAKE, RELAY):
            held = self._roles.get(name)
            if held:
                if self._due(f"renew {name}", settings.LEASE_RENEW_SECONDS):
                    leases.renew(held, now=now, seconds=settings.LEASE_SECONDS)
            elif name == INTAKE or self._relay_is_ours(now):
                self._take_role(name, now)
        if INTAKE in self._roles:
            strained = time.monotonic() < self._strained_at + _CALM
            self._share(strained and self._others_alive(now), now)
        if RELAY in self._roles and not self._relay_is_ours(now):
            leases.release(self._roles.pop(RELAY))
            waking.knock("loops", self._client)

    def _take_role(self, name: str, now: datetime) -> None:
        held = leases.acquire(name, self.holder, now=now, seconds=settings.LEASE_SECONDS)
        if not held:
            return
        self._roles[name] = held
        self._due(f"renew {name}", 0.0)
        if name == INTAKE:
            self._reader = Reader(self._client)
            self._listening = False
            self._intake = None
            self._shares = bool(Lease.objects.get(name=INTAKE).note.get(_SHARES))  # as the reader before us
            if self._shares:
                self._strained_at = time.monotonic()

    def _take_free_roles(self) -> None:
        """Take over at once what its holder gave back when it knocked."""
        now = _now()
        missing = {INTAKE, RELAY} - self._roles.keys()
        if missing and Lease.objects.filter(Q(holder="") | Q(expires_at__lt=now), name__in=missing).exists():
            self._keep_roles(now)

    def _relay_is_ours(self, now: datetime) -> bool:
        """Whether this slot may relay: the reader unless it shares, another slot only if it does, or if nobody reads."""
        if INTAKE in self._roles:
            return not self._shares
        reader = Lease.objects.filter(name=INTAKE, expires_at__gt=now).exclude(holder="").first()
        return reader is None or bool(reader.note.get(_SHARES))

    def _share(self, shares: bool, now: datetime) -> None:
        """Say in the reader's lease whether another slot relays; whoever does so looks there every second."""
        if shares != self._shares:
            self._shares = shares
            leases.renew(self._roles[INTAKE], now=now, seconds=settings.LEASE_SECONDS, note={_SHARES: shares})

    def _others_alive(self, now: datetime) -> bool:
        fresh = now - timedelta(seconds=settings.SLOT_SILENT_SECONDS)
        alive = Lease.objects.filter(name__startswith="slot:loops:", heartbeat_at__gt=fresh).exclude(holder="").count()
        return alive > 1

    # -- streams

    def _stream_work(self) -> bool:
        """Wait for entries or for the next due Nova, take in what came; False if the server is away."""
        patience = 0.0 if self._busy else self._patience()
        if self._fleet is not None and self._fleet.stream_reachable is False:  # its health is asked every second
            self._wait_without_server(patience)
            return False
        try:
            if not self._listening:
                self._reader.listen()
                self._listening = True
            if INTAKE in self._roles:
                self._read(patience)
            elif self._reader.wait_for_knock(patience):
                self._take_free_roles()
        except (StreamUnavailable, StreamRefused) as error:
            self._lost(error, patience)
            return False
        finally:
            if patience:
                self._rested_at = time.process_time()
        return True

    def _patience(self) -> float:
        """Give the seconds until something is due by itself."""
        longest = settings.STREAM_BLOCK_LIMIT
        if INTAKE in self._roles and not self._reader.own_in_blocking_call:
            longest = _OWN_STREAMS
        now = _now()
        due = gathering.next_due(now=now) if self._may_step else None
        if due is None:
            return longest
        late = 0.0 if INTAKE in self._roles else _SECOND_HAND
        return min(longest, max((due - now).total_seconds() + late, 0.0))

    def _read(self, patience: float) -> None:
        reader = self._reader
        now = _now()
        if not reader.streams:
            reader.refresh()
        if self._due("epoch", _HOUSEKEEPING) and reader.check_epoch(now=now):
            logger.warning("the stream server had lost its data; the wire is rebuilt from the database")
        replies = reader.wait(patience)
        if RELAY not in self._roles and not self._shares:
            self._take_free_roles()
        if not reader.own_in_blocking_call and self._due("own", _OWN_STREAMS):
            replies += reader.read_own()
        if self._due("todo", _TODO_STREAMS):
            replies += reader.read_todo()
        if patience and self._due("sweep", _HOUSEKEEPING) and (turn := _turn_for_all(_SWEPT, _SWEEP, now)):
            replies += reader.sweep(turn, _PARTS)
        if replies:
            self._take_in(replies)
        if self._due("gaps", _HOUSEKEEPING) and (turn := _turn_for_all(_GAPS_CHECKED, _GAPS, now)):
            reader.check_gaps(now=now, turn=turn, parts=_PARTS)

    def _take_in(self, replies: StreamEntries) -> None:
        reader = self._reader
        if self._intake is None or self._intake.streams is not reader.streams:
            self._intake = Intake(reader.streams, Installation.objects.get().name)
        now = _now()
        accepted = self._intake.accept(replies, self._roles[INTAKE], now=now, seconds=settings.LEASE_SECONDS)
        reader.taken(replies)
        self._took_in = bool(accepted.tasks or accepted.signals)
        if accepted.oldest:
            self._intake_lag = max(self._intake_lag, now.timestamp() - int(accepted.oldest.split("-")[0]) / 1000)

    def _lost(self, error: StreamError, patience: float) -> None:
        """Note that the server is away, which pauses every Nova, and rest."""
        if isinstance(error, StreamUnavailable):
            safety_facts.note_stream_lost(_now())
        else:
            logger.error("the stream server refuses us", reason=str(error))
        self._fleet = safety_facts.load_fleet(_now())
        self._wait_without_server(patience)

    def _wait_without_server(self, patience: float) -> None:
        """Rest where no knock can be heard."""
        self._listening = False
        self._stop.wait(min(max(patience, 0.1), 0.5))
        self._rested_at = time.process_time()

    # -- work

    def _step(self, reachable: bool) -> bool:
        """Step due Novas and relay what is to be published; True if more waits there (due Novas end a wait by themselves)."""
        took_in, self._took_in = self._took_in, False
        # what others committed goes out before this slot's own work, but what has just come in is acted on first
        worked = reachable and not took_in and self._publish()
        committed = None
        if self._may_step and self._has_turn():
            committed = self._engine.run_once(now=_now(), fleet=self._fleet)
            if committed is not None:
                worked = True
                if RELAY not in self._roles:
                    waking.knock("loops", self._client)
                elif reachable:
                    self._publish()
        if took_in and committed is None:
            worked = reachable and self._publish()
        return worked and RELAY in self._roles and OutboxEntry.objects.exists()

    def _has_turn(self) -> bool:
        """Whether due Novas are ours to step: a slot that does not read takes only what the reader left for a moment.

        So the relay is free when the reader's first batch is committed, and helps when there is more.
        """
        if INTAKE in self._roles:
            return True
        now = _now()
        due = gathering.next_due(now=now)
        return due is not None and due <= now - timedelta(seconds=_SECOND_HAND)

    @property
    def _may_step(self) -> bool:
        """Whether any Nova may act: without a stream server none may, and one fleet fact says so for all."""
        return self._fleet is not None and bool(self._fleet.stream_reachable)

    def _publish(self) -> bool:
        """Relay a batch of the outbox, if that is this slot's role; True if there was something."""
        if RELAY not in self._roles:
            return False
        now = _now()
        try:
            if self._due("hashes", 60.0):
                self._refresh_hashes(now)
            return self._relay.relay_batch(now=now) > 0
        except (StreamUnavailable, StreamRefused) as error:
            self._lost(error, 0.0)
            return False

    def _refresh_hashes(self, now: datetime) -> None:
        """Write every Nova's hash before its TTL could end, whoever relays."""
        if _turn_for_all(_HASHES, timedelta(seconds=settings.STATE_HASH_REFRESH), now):
            publish_hashes(self._client, now=now)


def _turn_for_all(name: str, every: timedelta, now: datetime) -> int:
    """Begin what is done once for all slots, if it is due: give the number of this turn, from 1; 0: it is not."""
    fact = FleetFact.objects.filter(name=name).first()
    if fact is not None and fact.observed_at > now - every:
        return 0
    turn = 1 + int((fact.value if fact else 0) or 0)
    FleetFact.objects.update_or_create(name=name, defaults={"value": turn, "observed_at": now})
    return turn
