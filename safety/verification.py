"""Verifies the journal against its seals, range by range in constant memory, and keeps what was found.

What archives and anchors are is told by the caller: a function that checks a range whose entries are gone, and anchors as read.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Max

from safety import audit, incidents, seal_keys, seals
from safety.audit import Entry
from safety.core import seals as core
from safety.core.seals import Anchor, Chain, Damage, Finding, Seal
from safety.incidents import Violation
from safety.models import AuditEntry, AuditSeal, VerificationRun

VERIFICATION_REQUESTED = "safety.journal.verification_requested"
JOURNAL_DAMAGED = "safety.journal.damaged"
MECHANISM = "journal_seals"  # of the incident that a damaged journal opens
FINDINGS_KEPT = 200
FULL_EVERY = timedelta(days=7)
SEAL_OVERDUE = timedelta(minutes=10)  # for an entry that is not sealed yet
VERIFICATION_OVERDUE = timedelta(hours=26)
_MORE = 10_000  # rows of a range that are read beyond what was sealed in it

CheckPruned = Callable[[AuditSeal], list[Finding]]


@dataclass(slots=True)
class Outcome:
    """How far a verification went and what it found."""

    first_seal: int = 0
    last_seal: int = 0
    last_id: int = 0
    head: str = core.GENESIS
    seals: int = 0
    entries: int = 0
    pruned: int = 0  # entries that are in archives only
    unsealed: int = 0
    anchored: bool = False
    damages: int = 0
    findings: list[Finding] = field(default_factory=list)  # the first of them
    keys: set[str] = field(default_factory=set)
    finished: bool = True

    def add(self, found: list[Finding]) -> None:
        self.damages += len(found)
        self.findings += found[: max(FINDINGS_KEPT - len(self.findings), 0)]


@dataclass(frozen=True, slots=True)
class Start:
    """The seal after which a verification begins."""

    number: int = 0
    last_id: int = 0
    head: str = core.GENESIS


def verify(
    *,
    start: Start | None = None,
    last: int | None = None,
    anchors: Mapping[int, Anchor] | None = None,
    check_pruned: CheckPruned | None = None,
    go_on: Callable[[Outcome], bool] = lambda outcome: True,
) -> Outcome:
    """Recompute every digest, signature and link from a seal on, up to the seal `last`, or to the end, while `go_on` says so.

    An empty chain with entries is no damage: nothing was sealed yet. What lies behind the last seal is only counted.
    """
    start = start or Start()
    chain = Chain(anchors or {}, start.number, start.last_id, start.head)
    outcome = Outcome(first_seal=start.number + 1, anchored=bool(anchors))
    trusted = seal_keys.trusted()
    for row in seals.ranges(start.number + 1, last):
        seal = seals.sealed(row)
        outcome.add(chain.follow(seal))
        outcome.add(_check_seal(row, seal, trusted))
        _check_entries(row, seal, outcome, check_pruned)
        outcome.keys.add(row.public_key)
        outcome.seals += 1
        if not go_on(outcome):
            outcome.finished = False
            break
    if last is None and outcome.finished:
        outcome.add(chain.end())
        outcome.unsealed = AuditEntry.objects.filter(id__gt=chain.last_id).count()
    if start.number == 0:
        outcome.add(_before_all())
    outcome.last_seal, outcome.last_id, outcome.head = chain.at, chain.last_id, chain.head
    return outcome


def _check_seal(row: AuditSeal, seal: Seal, trusted: frozenset[str]) -> list[Finding]:
    number, first, last = seal.number, seal.first_id, seal.last_id
    found = []
    if seal.head != row.head:
        words = f"Seal {number} does not say what its head says: it was altered."
        found.append(Finding(Damage.SEAL_ALTERED, number, first, last, words))
    if not seal_keys.is_signed(seal.text, row.signature, row.public_key) or seal_keys.key_id(row.public_key) != seal.key_id:
        found.append(Finding(Damage.BAD_SIGNATURE, number, first, last, f"The signature of seal {number} is wrong."))
    elif row.public_key not in trusted:
        words = f"Seal {number} is signed with the key {seal.key_id}, which is none of this installation's."
        found.append(Finding(Damage.UNKNOWN_KEY, number, first, last, words))
    return found


def _check_entries(row: AuditSeal, seal: Seal, outcome: Outcome, check_pruned: CheckPruned | None) -> None:
    rows = seals.read_rows(seal.first_id, seal.last_id, max(seal.count, 0) + _MORE)
    archive = getattr(row, "archive", None)
    if archive is None or archive.pruned_at is None:
        outcome.add(core.check_range(seal, bytes(row.leaves), rows))
        outcome.entries += len(rows)
        return
    outcome.pruned += seal.count
    for stray in rows:
        words = f"Entry {stray[0]} was inserted into a range that was archived and deleted."
        outcome.add([Finding(Damage.INSERTED, seal.number, int(stray[0]), int(stray[0]), words)])
    if check_pruned is not None:
        outcome.add(check_pruned(row))


def _before_all() -> list[Finding]:
    stray = AuditEntry.objects.filter(id__lt=1).order_by("id").values_list("id", flat=True)[:FINDINGS_KEPT]
    return [Finding(Damage.INSERTED, 0, i, i, f"Entry {i} was inserted before the first that was sealed.") for i in stray]


def start_at(first_id: int) -> Start:
    """Give where a verification begins that is to see the entry `first_id`; the seal before it is believed."""
    covering = AuditSeal.objects.filter(last_id__gte=first_id).order_by("last_id").first()
    before = AuditSeal.objects.filter(number__lt=covering.number).order_by("-number").first() if covering else None
    return Start(before.number, before.last_id, before.head) if before else Start()


def seal_of(entry_id: int) -> int | None:
    """Give the number of the seal whose range an id lies in; None: it is not sealed yet."""
    return AuditSeal.objects.filter(last_id__gte=entry_id).order_by("last_id").values_list("number", flat=True).first()


def request(scope: str, *, reason: str, now: datetime) -> VerificationRun:
    """Ask for a verification, journalled; a job does it. One that waits already is given again."""
    waiting = VerificationRun.objects.filter(started_at=None, scope=scope).order_by("id").first()
    if waiting:
        return waiting
    with transaction.atomic():
        made = VerificationRun.objects.create(
            scope=scope, requested_at=now, requested_by=audit.current_actor(), reason=reason[:2000]
        )
        entry = Entry(VERIFICATION_REQUESTED, "", "verification", str(made.pk), after={"scope": scope}, reason=reason)
        audit.record([entry], now=now)
    return made


def due(*, now: datetime) -> VerificationRun:
    """Give the daily run: of what is new since the last that found nothing, of everything once a week or after damage."""
    last = _finished().first()
    full = _finished().filter(scope="full", damages=0, finished_at__gt=now - FULL_EVERY).exists()
    scope = "new" if last and last.damages == 0 and full else "full"
    return VerificationRun.objects.create(scope=scope, requested_at=now, requested_by=audit.current_actor())


def run(
    asked: VerificationRun,
    *,
    clock: Callable[[], datetime],
    anchors: Mapping[int, Anchor] | None = None,
    go_on: Callable[[], bool] = lambda: True,
) -> bool:
    """Do a verification, or a part of it, and keep its result; damage is journalled and opens an incident.

    1. Begin where the part before ended, where the last clean run ended (new), or at the first seal (full). 2. Verify while
    `go_on` says so. 3. Keep, unless another process did this part; at the end tell of damage. False: it kept nothing.
    """
    begun = asked.last_seal
    started_at = asked.started_at or clock()
    start, known = _start_of(asked)
    outcome = verify(start=start, anchors={**known, **(anchors or {})}, go_on=lambda _: go_on())
    now = max(clock(), started_at)
    values: dict[str, Any] = {name: getattr(outcome, name) for name in ("last_seal", "last_id", "head")}
    values |= {
        "started_at": started_at,
        "first_seal": asked.first_seal or outcome.first_seal,
        "anchored": bool(anchors),
        "entries": asked.entries + outcome.entries,
        "damages": asked.damages + outcome.damages,
        "findings": [*asked.findings, *(asdict(finding) for finding in outcome.findings)][:FINDINGS_KEPT],
        "finished_at": now if outcome.finished else None,
    }
    with transaction.atomic():
        if not VerificationRun.objects.filter(pk=asked.pk, last_seal=begun, finished_at=None).update(**values):
            return False
        asked.refresh_from_db()
        if outcome.finished and asked.damages:
            _tell(asked, now)
    return True


def _start_of(asked: VerificationRun) -> tuple[Start, Mapping[int, Anchor]]:
    """Give where to begin; at the beginning also the seal that the last clean run ended with, which must be there still."""
    last = _finished().filter(damages=0).exclude(last_seal=0).first()
    known = {last.last_seal: Anchor(last.last_seal, last.last_id, last.head)} if last else {}
    if asked.last_seal:
        return Start(asked.last_seal, asked.last_id, asked.head), known
    if last and asked.scope == "new" and AuditSeal.objects.filter(number=last.last_seal, head=last.head).exists():
        return Start(last.last_seal, last.last_id, last.head), known
    return Start(), known


def _finished() -> Any:
    return VerificationRun.objects.exclude(finished_at=None).order_by("-finished_at", "-id")


def _tell(asked: VerificationRun, now: datetime) -> None:
    first = asked.findings[0]
    after = {"verification": asked.pk, "damages": asked.damages, "first": first}
    reason = f"The journal does not match its seals ({asked.damages} findings). {first['words']}"
    entry = Entry(JOURNAL_DAMAGED, "", "verification", str(asked.pk), after=after, reason=reason)
    opened = incidents.open_incidents([Violation("", MECHANISM, reason, evidence=after, level="emergency")], now=now)
    audit.record([entry, *opened], now=now)


@dataclass(frozen=True, slots=True)
class ChainStatus:
    """The badge: what the journal page shows of seals and verifications."""

    state: str  # verified, damaged, overdue (it once was verified), unverified (never), unsealed (no seal yet), no_key
    words: str
    sealed_to: int  # entry id
    sealed_at: datetime | None
    seals: int
    verified_to: int
    verified_at: datetime | None
    damages: int  # of the last verification
    last_run: int | None
    anchored: bool
    running: bool
    sealing_overdue: bool
    verification_overdue: bool
    key_id: str


def chain_status(*, now: datetime) -> ChainStatus:
    """Tell how far the journal is sealed and verified; a constant number of small queries."""
    seal = AuditSeal.objects.order_by("-number").defer("leaves").first()
    last = _finished().first()
    sealed_to = seal.last_id if seal else 0
    oldest = AuditEntry.objects.filter(id__gt=sealed_to).order_by("id").values_list("created_at", flat=True).first()
    sealing_overdue = oldest is not None and oldest < now - SEAL_OVERDUE
    verified_at = last.finished_at if last else None
    began = verified_at or AuditSeal.objects.filter(number=1).aggregate(at=Max("sealed_at"))["at"]
    verification_overdue = began is not None and began < now - VERIFICATION_OVERDUE
    public = seal_keys.public_key()
    state = _state(seal, last, bool(public), sealing_overdue or verification_overdue)
    damages = last.damages if last else 0
    return ChainStatus(
        state=state,
        words=_words(state, last, sealing_overdue),
        sealed_to=sealed_to,
        sealed_at=seal.sealed_at if seal else None,
        seals=seal.number if seal else 0,
        verified_to=last.last_id if last and not damages else 0,
        verified_at=verified_at,
        damages=damages,
        last_run=last.pk if last else None,
        anchored=bool(last and last.anchored),
        running=VerificationRun.objects.filter(finished_at=None, requested_at__gt=now - timedelta(hours=1)).exists(),
        sealing_overdue=sealing_overdue,
        verification_overdue=verification_overdue,
        key_id=seal_keys.key_id(public) if public else "",
    )


def _state(seal: AuditSeal | None, last: VerificationRun | None, has_key: bool, overdue: bool) -> str:
    if last and last.damages:
        return "damaged"
    if not has_key:
        return "no_key"
    if seal is None:
        return "unsealed"
    if last is None:
        return "unverified"
    return "overdue" if overdue else "verified"


def _words(state: str, last: VerificationRun | None, sealing_overdue: bool) -> str:
    if state == "no_key":
        return "The journal is not sealed: NOVAWF_SEAL_KEY is not set."
    if state == "unsealed":
        return "Nothing is sealed yet."
    if last is None:
        return "Sealed, and not verified yet."
    if state == "damaged":
        return f"The journal does not match its seals: {last.damages} findings."
    if state == "overdue":
        what = "Sealing" if sealing_overdue else "Verification"
        return f"{what} is overdue; it was verified up to entry {last.last_id}, without a break."
    return f"Verified up to entry {last.last_id}, without a break."
