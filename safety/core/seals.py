"""What a seal is: digests of entries whose parts may be left out, the chain over closed ranges of the journal, what breaks it.

An entry's digest is a hash over its open fields and over one salted digest for each closed field, so a closed field may be
replaced by its digest and the entry still verifies. `safety/offline/audit_verify.py` is a second implementation of the same
format, written to be read alone; this module must not know where rows, keys and files are (docs/decisions/0014-seals.md).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256, shake_256
from struct import Struct
from typing import Any

FORMAT = 1
OPEN_FIELDS = ("created_at", "seq", "action", "object_type", "personal")  # never left out; the id is beside them
CLOSED_FIELDS = (
    "nova_id", "actor", "object_id", "before", "after", "reason", "request_id", "cause", "stream", "message",
)  # fmt: skip
TEXT_FIELDS = frozenset({"before", "after", "reason", "message"})  # what people and models wrote
SALT_BYTES = 16
GENESIS = "0" * 64  # what the first seal names as the one before it
LEAF_BYTES = 8
_SALTS = SALT_BYTES * len(CLOSED_FIELDS)
_NAMED = tuple(name.encode() + b"\0" for name in CLOSED_FIELDS)
_ABSENT = bytes(32)
_ID, _LEAF = Struct(">q"), Struct(f">I{LEAF_BYTES}s")
_LARGEST_OFFSET = 2**32 - 1
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_quoted = json.encoder.encode_basestring  # C's, where there is one

# id, the open fields, the closed fields: texts as the database holds them ("" where there is none), except id, seq, personal
Row = Sequence[Any]


class Damage(StrEnum):
    """What can be wrong with a journal and its seals."""

    EDITED = "edited"
    DELETED = "deleted"
    INSERTED = "inserted"
    REORDERED = "reordered"
    RANGE_ALTERED = "range_altered"  # and which entries can't be told
    MISSING_RANGE = "missing_range"
    SEAL_ALTERED = "seal_altered"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_KEY = "unknown_key"
    TRUNCATED = "truncated"
    REBUILT = "rebuilt"
    ARCHIVE_DAMAGED = "archive_damaged"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what, at which seal, at which entries (first to last id), in words."""

    damage: Damage
    seal: int
    first_id: int
    last_id: int
    words: str


@dataclass(frozen=True, slots=True)
class Seal:
    """What was closed and signed. `first_id` follows the last of the seal before, so every id belongs to one range."""

    number: int
    first_id: int
    last_id: int
    count: int
    digest: str  # of the range: SHA-256 over its entries' digests, in order of id
    leaves: str  # SHA-256 of the leaves, which tell the entries of a damaged range apart
    previous: str  # head of the seal before
    salt: str  # 32 bytes, hex; the salts of closed fields come from it
    sealed_at: str  # ISO 8601, UTC
    key_id: str
    format: int = FORMAT

    @property
    def salt_digest(self) -> str:
        """Give what stands for the salt where it must stay secret: in exports with parts left out."""
        return sha256(bytes.fromhex(self.salt)).hexdigest()

    @property
    def text(self) -> bytes:
        """Give what is signed."""
        values = [
            self.format, self.number, self.first_id, self.last_id, self.count, self.digest, self.leaves, self.previous,
            self.salt_digest, self.sealed_at, self.key_id,
        ]  # fmt: skip
        return f"novawf seal {_json(values)}".encode()

    @property
    def head(self) -> str:
        """Give the digest that the next seal, and every anchor, names."""
        return sha256(self.text).hexdigest()


@dataclass(frozen=True, slots=True)
class Anchor:
    """A seal's head as it was kept outside of the database."""

    number: int
    last_id: int
    head: str


def salts_of(salt: bytes, entry_id: int) -> bytes:
    """Give an entry's salts, 16 bytes for each closed field in their order; who knows one can't tell another."""
    return shake_256(salt + _ID.pack(entry_id)).digest(_SALTS)


def field_digests(row: Row, salts: bytes) -> list[bytes]:
    """Give the digest of each closed field; of an absent one, 32 zero bytes."""
    found = []
    for place, name in enumerate(_NAMED):
        value = row[place + 6]
        if value == "" or value is None:
            found.append(_ABSENT)
        else:
            begin = place * SALT_BYTES
            found.append(sha256(salts[begin : begin + SALT_BYTES] + name + str(value).encode()).digest())
    return found


def entry_digest(row: Row, digests: Iterable[bytes]) -> bytes:
    """Give the digest of an entry out of its open fields and the digests of the closed ones."""
    entry_id, created_at, seq, action, object_type, personal = row[:6]
    # a JSON list; put together by hand, since an encoder takes a third of the time that an entry costs
    texts = f"{_quoted(created_at)},{seq},{_quoted(action)},{_quoted(object_type)}"
    opened = f"[{FORMAT},{entry_id},{texts},{'true' if personal else 'false'}]\n"
    return sha256(opened.encode() + b"".join(digests)).digest()


def digest_of(row: Row, salt: bytes) -> bytes:
    """Give the digest of a whole entry under a seal's salt."""
    return entry_digest(row, field_digests(row, salts_of(salt, int(row[0]))))


def range_digest(digests: Iterable[bytes]) -> str:
    """Give the digest of a range out of its entries', in order of id."""
    whole = sha256(b"novawf range\n")
    for digest in digests:
        whole.update(digest)
    return whole.hexdigest()


def leaves_of(entries: Sequence[tuple[int, bytes]]) -> bytes:
    """Give (id, digest) of a range in short: the first id, then each one's distance from it and 8 bytes of its digest."""
    if not entries:
        return b""
    base = entries[0][0]
    return _ID.pack(base) + b"".join(_LEAF.pack(entry_id - base, digest[:LEAF_BYTES]) for entry_id, digest in entries)


def read_leaves(leaves: bytes) -> dict[int, bytes]:
    """Give the short digest of each entry by its id."""
    if not leaves:
        return {}
    base = _ID.unpack(leaves[:8])[0]
    return {base + offset: digest for offset, digest in _LEAF.iter_unpack(leaves[8:])}


def fits(base: int, entry_id: int) -> bool:
    """Tell whether an entry can be in one range with the first one."""
    return entry_id - base <= _LARGEST_OFFSET


def check_range(seal: Seal, leaves: bytes, rows: Sequence[Row]) -> list[Finding]:
    """Compare a range's rows, in order of id, with its seal; name each entry that differs."""
    salt = bytes.fromhex(seal.salt)
    digests = [digest_of(row, salt) for row in rows]
    if len(rows) == seal.count and range_digest(digests) == seal.digest:
        return []
    if sha256(leaves).hexdigest() != seal.leaves:
        words = f"The entries {seal.first_id} to {seal.last_id} are not those that were sealed; which differ can't be told."
        return [Finding(Damage.RANGE_ALTERED, seal.number, seal.first_id, seal.last_id, words)]
    return list(_name(seal, read_leaves(leaves), {int(row[0]): row for row in rows}, digests))


def _name(seal: Seal, known: Mapping[int, bytes], rows: Mapping[int, Row], digests: Sequence[bytes]) -> Iterator[Finding]:
    now = {entry_id: digest[:LEAF_BYTES] for entry_id, digest in zip(rows, digests, strict=True)}
    salt, number = bytes.fromhex(seal.salt), seal.number
    changed = [entry_id for entry_id in known if entry_id in now and now[entry_id] != known[entry_id]]
    fresh = [entry_id for entry_id in now if entry_id not in known]
    lost = [entry_id for entry_id in known if entry_id not in now]
    moved = _moved({i: known[i] for i in [*changed, *lost]}, {i: rows[i] for i in [*changed, *fresh]}, salt)
    for entry_id in changed:
        if entry_id in moved:
            words = f"Entry {entry_id} holds what was sealed as entry {moved[entry_id]}: they were reordered."
            yield Finding(Damage.REORDERED, number, entry_id, entry_id, words)
        else:
            yield Finding(Damage.EDITED, number, entry_id, entry_id, f"Entry {entry_id} was edited after it was sealed.")
    for entry_id in lost:
        yield Finding(Damage.DELETED, number, entry_id, entry_id, f"Entry {entry_id} was deleted.")
    for entry_id in fresh:
        if entry_id in moved:
            words = f"Entry {entry_id} holds what was sealed as entry {moved[entry_id]}: it was moved."
            yield Finding(Damage.REORDERED, number, entry_id, entry_id, words)
        else:
            words = f"Entry {entry_id} was inserted into a range that was closed."
            yield Finding(Damage.INSERTED, number, entry_id, entry_id, words)
    if not (changed or fresh or lost):
        words = f"The seal's own digest of the entries {seal.first_id} to {seal.last_id} is wrong."
        yield Finding(Damage.RANGE_ALTERED, number, seal.first_id, seal.last_id, words)


def _moved(places: Mapping[int, bytes], rows: Mapping[int, Row], salt: bytes, most: int = 64) -> dict[int, int]:
    """Find out in whose place a differing row was sealed: each is tried under the ids of all that differ or are gone."""
    if len(rows) > most or len(places) > most:  # beyond some, they are named as edited, deleted and inserted
        return {}
    found: dict[int, int] = {}
    for entry_id, row in rows.items():
        for was, digest in places.items():
            if was != entry_id and digest_of((was, *row[1:]), salt)[:LEAF_BYTES] == digest:
                found[entry_id] = was
                break
    return found


@dataclass(slots=True)
class Chain:
    """Checks seals one after another: `follow` each, in order of their numbers, then `end`."""

    anchors: Mapping[int, Anchor] = field(default_factory=dict)
    at: int = 0  # the last seal's number
    last_id: int = 0
    head: str = GENESIS

    def follow(self, seal: Seal) -> list[Finding]:
        """Give what is wrong between the seal before and this one, or between this one and its anchor."""
        found: list[Finding] = []
        first, last = seal.first_id, seal.last_id
        if seal.number != self.at + 1:
            words = (
                f"The seals {self.at + 1} to {seal.number - 1} are missing, with the entries {self.last_id + 1} to {first - 1}."
            )
            found.append(Finding(Damage.MISSING_RANGE, seal.number, self.last_id + 1, first - 1, words))
        elif first != self.last_id + 1:
            words = f"Seal {seal.number} begins at entry {first}; the one before ends at {self.last_id}."
            found.append(Finding(Damage.MISSING_RANGE, seal.number, self.last_id + 1, first - 1, words))
        elif seal.previous != self.head:
            words = f"Seal {seal.number} does not follow seal {self.at}: one of the two was altered."
            found.append(Finding(Damage.SEAL_ALTERED, seal.number, first, last, words))
        anchor = self.anchors.get(seal.number)
        if anchor and anchor.head != seal.head:
            words = f"Seal {seal.number} is not the one that was anchored: the chain was rebuilt from here on, or before."
            found.append(Finding(Damage.REBUILT, seal.number, first, last, words))
        self.at, self.last_id, self.head = seal.number, seal.last_id, seal.head
        return found

    def end(self) -> list[Finding]:
        """Give what the anchors know beyond the last seal."""
        beyond = [anchor for anchor in self.anchors.values() if anchor.number > self.at]
        if not beyond:
            return []
        newest = max(beyond, key=lambda anchor: anchor.number)
        words = (
            f"The chain ends at seal {self.at} (entry {self.last_id}), but seal {newest.number} (entry {newest.last_id}) was "
            "anchored: the end was cut off."
        )
        return [Finding(Damage.TRUNCATED, newest.number, self.last_id + 1, newest.last_id, words)]
