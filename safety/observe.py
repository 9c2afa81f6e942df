"""Observe: a candidate policy is judged beside the enforced one, and what it would have blocked is recorded, nothing more.

No incident, no stream and no Nova ever hears of it: one row a Nova, and one journal entry for each block and each end of one.
Nothing is written for a Nova about which its candidate thinks as before. This room must not know how the enforced policy acts.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
from django.db import connection

from safety import audit, bulk
from safety.audit import Entry
from safety.core.orchestrator import SafetyOrchestrator, Verdict
from safety.core.status import SafetyFacts, SafetyRules, SafetyStatus
from safety.models import CandidateVerdict
from safety.windows import NO_COUNTS, load_counts

WOULD_BLOCK = "safety.candidate.would_block"
WOULD_ALLOW = "safety.candidate.would_allow"

# What judges remember before their first check. A candidate's begin with this, whatever the enforced policy's remember.
NOTHING_REMEMBERED: Mapping[str, Any] = {
    "cooldown_since": None,
    "cooldown_until": None,
    "cooldown_reason": "",
    "cooldowns_in_a_row": 0,
    "last_cooldown_end": None,
    "meditation_until": None,
    "quarantine_until": None,
    "quarantine_reason": "",
    "stressed_since": None,
}
_STOPS = ("cooldown_until", "meditation_until", "quarantine_until")
# Kept with the judges' memory: until when the candidate would have had the Nova stopped, whatever it remembers of it now,
# and what the enforced policy said at the newest block.
STOPPED_UNTIL = "stopped_until"
ENFORCED = "enforced"
_INSTANTS = (*(name for name, value in NOTHING_REMEMBERED.items() if value is None), STOPPED_UNTIL)

_COLUMNS = (
    "nova_id",
    "policy",
    "is_safe",
    "mechanism",
    "reason",
    "measured",
    "limit",
    "since",
    "observed_since",
    "blocks",
    "last_block_at",
    "memory",
)
_SET = "(nova_id) DO UPDATE SET " + ", ".join(f'"{name}" = excluded."{name}"' for name in _COLUMNS[1:])
_STORED = "safety_candidateverdict"
# Two may judge a Nova at once, an engine and a hook call: the second to say the same is no news.
_NEWS = f"{_SET} WHERE {_STORED}.policy <> excluded.policy OR {_STORED}.is_safe <> excluded.is_safe"
_SAME = (
    f"(nova_id) DO UPDATE SET memory = excluded.memory "
    f"WHERE {_STORED}.policy = excluded.policy AND {_STORED}.is_safe = excluded.is_safe"
)

_ORCHESTRATOR = SafetyOrchestrator()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy that is judged beside the enforced one."""

    policy: str  # its slug
    rules: SafetyRules


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is recorded of a candidate; mechanism, reason, measured and limit are the newest block's, also after its end."""

    policy: str
    is_safe: bool
    mechanism: str
    reason: str
    measured: float | None
    limit: float | None
    since: datetime
    observed_since: datetime
    blocks: int
    last_block_at: datetime | None
    memory: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a candidate says of a Nova now, what it said before, and what the enforced policy says now."""

    before: _Standing
    is_new: bool  # the first of its observation
    verdict: Verdict
    enforced: SafetyStatus


def judge_candidates(
    candidates: Mapping[str, Candidate], facts: Mapping[str, SafetyFacts], verdicts: Mapping[str, Verdict], now: datetime
) -> dict[str, Opinion]:
    """Say of each Nova that has a candidate what that policy would have said, had it been the one in force.

    Two queries for any number of Novas, none without candidates. `facts` are those of the enforced `verdicts`, and are taken
    as they are where they were observed. What only follows from a policy is the candidate's own:

    1. The verdict in force and what the judges remember. Neither a cooldown, meditation or quarantine of the enforced policy
    counts, nor what the API guardian or a reported violation imposed.
    2. The windows, by its own lengths. What the Nova did while the candidate would have had it stopped, it would not have
    done, so that counts for no window but the API's hour and day: one burst is one block, and another one needs another burst.
    3. Drift. While the enforced policy has the Nova stopped, that it does nothing is not its fault.

    What a stopped Nova would have done instead nobody knows: a candidate that allows more than the enforced policy shows
    only that it would not have blocked.
    """
    if not candidates:
        return {}
    stored = _load(candidates)
    standing = {
        nova_id: found
        for nova_id, candidate in candidates.items()
        if (found := stored.get(nova_id)) is not None and found.policy == candidate.policy
    }
    counts = load_counts(
        dict.fromkeys(candidates),
        {nova_id: candidate.rules for nova_id, candidate in candidates.items()},
        now,
        stopped_until={nova_id: found.memory.get(STOPPED_UNTIL) for nova_id, found in standing.items()},
    )
    opinions = {}
    for nova_id, candidate in candidates.items():
        before = standing.get(nova_id) or _Standing(candidate.policy, True, "", "", None, None, now, now, 0, None, {})
        enforced = verdicts[nova_id].status
        own = _own_facts(facts[nova_id], before, counts.get(nova_id, {}), enforced, now)
        verdict = _ORCHESTRATOR.judge(own, candidate.rules, now)
        opinions[nova_id] = Opinion(before, nova_id not in standing, verdict, enforced)
    return opinions


def record_opinions(opinions: Mapping[str, Opinion], now: datetime) -> set[str]:
    """Record, in the caller's transaction, what candidates would have blocked; give the Novas of which they think anew.

    1. Rows of which the verdict changed, or that begin. 2. Rows of which only the judges' memory did. 3. The journal, of
    blocks and their ends.
    """
    news, same = [], []
    for nova_id, opinion in sorted(opinions.items()):
        if opinion.is_new or opinion.verdict.status.is_safe != opinion.before.is_safe:
            news.append(_row(nova_id, opinion, now))
        elif opinion.verdict.memory:
            same.append(_row(nova_id, opinion, now))
    bulk.insert(CandidateVerdict, _COLUMNS, same, on_conflict=_SAME)
    written = {row[0] for row in bulk.insert(CandidateVerdict, _COLUMNS, news, on_conflict=_NEWS, returning="nova_id")}
    changed = [
        nova_id for nova_id in sorted(written) if opinions[nova_id].verdict.status.is_safe != opinions[nova_id].before.is_safe
    ]
    audit.record([_entry(nova_id, opinions[nova_id]) for nova_id in changed], now=now)
    return set(changed)


def begin_anew(nova_id: str) -> None:
    """Forget what was observed of a Nova, since its candidate is another or none; the journal keeps every block."""
    CandidateVerdict.objects.filter(nova_id=nova_id).delete()


def observation_of(nova_id: str, policy: str | None) -> CandidateVerdict | None:
    """Give what was observed of a Nova under its candidate; None without a candidate, or before it was first judged."""
    return CandidateVerdict.objects.filter(nova_id=nova_id, policy=policy).first() if policy else None


def _load(nova_ids: Collection[str]) -> dict[str, _Standing]:
    columns = ", ".join(f'"{name}"' for name in _COLUMNS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {columns} FROM {_STORED} WHERE {bulk.membership('nova_id')}",  # noqa: S608
            [bulk.members(sorted(nova_ids))],
        )
        return {row[0]: _standing(row[1:]) for row in cursor.fetchall()}


def _standing(row: Sequence[Any]) -> _Standing:
    policy, is_safe, mechanism, reason, measured, limit, since, observed_since, blocks, last_block_at, memory = row
    remembered = dict(orjson.loads(memory) if isinstance(memory, str) else memory)
    remembered.update({name: datetime.fromisoformat(remembered[name]) for name in _INSTANTS if name in remembered})
    return _Standing(
        policy,
        bool(is_safe),
        mechanism,
        reason,
        measured,
        limit,
        bulk.instant(since),
        bulk.instant(observed_since),
        blocks,
        bulk.instant(last_block_at),
        remembered,
    )


def _own_facts(
    facts: SafetyFacts, before: _Standing, counts: Mapping[str, int], enforced: SafetyStatus, now: datetime
) -> SafetyFacts:
    """Put the candidate's own in the place of what follows from the enforced policy."""
    remembered: dict[str, Any] = {name: before.memory.get(name, value) for name, value in NOTHING_REMEMBERED.items()}
    counted: dict[str, Any] = {**NO_COUNTS, **counts}
    begins = [facts.active_since, facts.last_cooldown_end, None if enforced.is_safe else now]
    return replace(
        facts,
        verdict_is_safe=before.is_safe,
        verdict_mechanism="" if before.is_safe else before.mechanism,
        verdict_since=before.since,
        api_cooldown_until=None,
        api_cooldown_reason="",
        active_since=max((begin for begin in begins if begin is not None), default=None),
        **remembered,
        **counted,
    )


def _row(nova_id: str, opinion: Opinion, now: datetime) -> tuple[Any, ...]:
    before, status = opinion.before, opinion.verdict.status
    memory = {**before.memory, **opinion.verdict.memory}
    stops = [memory[name] for name in (*_STOPS, STOPPED_UNTIL) if memory.get(name) is not None]
    if stops:
        memory[STOPPED_UNTIL] = max(stops)
    blocked = before.is_safe and not status.is_safe
    if blocked:
        memory[ENFORCED] = _said(opinion.enforced)
    newest = status if blocked else before
    return (
        nova_id,
        before.policy,
        status.is_safe,
        newest.mechanism,
        newest.reason,
        newest.measured,
        newest.limit,
        before.since if status.is_safe == before.is_safe else now,
        before.observed_since,
        before.blocks + blocked,
        now if blocked else before.last_block_at,
        bulk.json_text({name: value for name, value in memory.items() if value != NOTHING_REMEMBERED.get(name)}),
    )


def _said(status: SafetyStatus) -> dict[str, Any]:
    return {
        "is_safe": status.is_safe,
        "safety_level": status.safety_level.value,
        "mechanism": status.mechanism,
        "reason": status.reason,
    }


def _entry(nova_id: str, opinion: Opinion) -> Entry:
    before, status = opinion.before, opinion.verdict.status
    said = {"policy": before.policy, "is_safe": status.is_safe, "enforced": _said(opinion.enforced)}
    if status.is_safe:
        block = {"is_safe": False, "mechanism": before.mechanism, "since": before.since}
        reason = f"Under the candidate policy {before.policy} the Nova might go on again."
        return Entry(WOULD_ALLOW, nova_id, "nova", nova_id, before=block, after=said, reason=reason)
    after = {
        **said,
        "blocks": before.blocks + 1,
        "safety_level": status.safety_level.value,
        "mechanism": status.mechanism,
        "measured": status.measured,
        "limit": status.limit,
        "expires_at": status.expires_at,
    }
    return Entry(WOULD_BLOCK, nova_id, "nova", nova_id, before={"is_safe": True}, after=after, reason=status.reason)
