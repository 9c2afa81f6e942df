"""Whatever is done to a sealed journal is named: by the core's own words, on rows without a database."""

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from safety.core import seals
from safety.core.seals import Anchor, Chain, Damage, Seal
from safety.offline import audit_verify

Row = tuple[Any, ...]

_word = st.sampled_from(["", "a", "ü", '{"a": 1}', '"\\\n', "\u2028 long enough to fill a block of the hash, and then some"])
_free = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def bodies_of(text: st.SearchStrategy[str]) -> st.SearchStrategy[Row]:
    """Give entries without their ids; few draws each, since many are drawn."""
    opened = st.tuples(st.just("2026-11-26T03:02:23.000001Z"), st.integers(0, 9), text, text, st.booleans())
    closed = st.tuples(*[text for _ in seals.CLOSED_FIELDS])
    return st.builds(lambda one, two: (*one, *two), opened, closed)


_body = bodies_of(_word)


def rows_of(bodies: list[Row], first: int = 1, step: int = 3) -> list[Row]:
    return [(first + place * step, *body) for place, body in enumerate(bodies)]


def close(rows: list[Row], number: int = 1, first_id: int = 1, previous: str = seals.GENESIS) -> tuple[Seal, bytes]:
    salt = sha256(b"a salt").digest()
    entries = [(row[0], seals.digest_of(row, salt)) for row in rows]
    leaves = seals.leaves_of(entries)
    return Seal(
        number, first_id, rows[-1][0], len(rows), seals.range_digest(digest for _, digest in entries),
        sha256(leaves).hexdigest(), previous, salt.hex(), "2026-11-26T03:03:00.000000Z", "0" * 16,
    ), leaves  # fmt: skip


def chain_of() -> list[Seal]:
    """Give three seals that follow each other, of ten ids each."""
    found: list[Seal] = []
    for number in (1, 2, 3):
        rows = rows_of([("t", 0, "a", "b", False, *("",) * 10)] * 2, first=number * 10 - 9, step=9)
        found.append(close(rows, number, number * 10 - 9, found[-1].head if found else seals.GENESIS)[0])
    return found


def damages(found: list[seals.Finding]) -> list[tuple[Damage, int]]:
    return sorted((finding.damage, finding.first_id) for finding in found)


@given(st.lists(_body, min_size=1, max_size=4))
def test_an_untouched_range_is_whole(bodies: list[Row]) -> None:
    rows = rows_of(bodies)
    assert seals.check_range(*close(rows), rows) == []


@given(st.lists(_body, min_size=1, max_size=4), st.data())
def test_an_edit_of_any_field_names_the_entry(bodies: list[Row], data: st.DataObject) -> None:
    rows = rows_of(bodies)
    seal, leaves = close(rows)
    place = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(1, len(rows[0]) - 1))
    edited = list(rows[place])
    edited[column] = {bool: lambda v: not v, int: lambda v: v + 1, str: lambda v: v + "x"}[type(edited[column])](edited[column])
    changed = [*rows[:place], tuple(edited), *rows[place + 1 :]]
    assert damages(seals.check_range(seal, leaves, changed)) == [(Damage.EDITED, rows[place][0])]


@given(st.lists(_body, min_size=2, max_size=4), st.data())
def test_deletions_and_insertions_name_the_entries(bodies: list[Row], data: st.DataObject) -> None:
    rows = rows_of(bodies)
    seal, leaves = close(rows)
    place = data.draw(st.integers(0, len(rows) - 1))
    without = rows[:place] + rows[place + 1 :]
    assert damages(seals.check_range(seal, leaves, without)) == [(Damage.DELETED, rows[place][0])]
    stray = (rows[place][0] + 1, *data.draw(_body))
    more = sorted([*rows, stray], key=lambda row: row[0])
    assert damages(seals.check_range(seal, leaves, more)) == [(Damage.INSERTED, stray[0])]


@given(st.lists(_body, min_size=2, max_size=4, unique=True), st.data())
def test_a_swap_of_two_entries_is_a_reordering(bodies: list[Row], data: st.DataObject) -> None:
    rows = rows_of(bodies)
    seal, leaves = close(rows)
    one, two = sorted(data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=2, max_size=2, unique=True)))
    swapped = list(rows)
    swapped[one], swapped[two] = (rows[one][0], *rows[two][1:]), (rows[two][0], *rows[one][1:])
    expected = [(Damage.REORDERED, rows[one][0]), (Damage.REORDERED, rows[two][0])]
    assert damages(seals.check_range(seal, leaves, swapped)) == expected


def test_a_range_whose_leaves_were_touched_too_is_found_as_a_whole() -> None:
    rows = rows_of([("t", 0, "a", "b", False, *("",) * 10)] * 3)
    seal, leaves = close(rows)
    found = seals.check_range(seal, leaves[:-1] + b"x", rows[:-1])
    assert damages(found) == [(Damage.RANGE_ALTERED, 1)]


def test_a_chain_that_was_not_touched_is_whole_and_what_its_links_miss_is_named() -> None:
    def check(links: list[Seal], anchors: dict[int, Anchor] | None = None) -> list[Damage]:
        chain = Chain(anchors or {})
        found = [finding for seal in links for finding in chain.follow(seal)]
        return [finding.damage for finding in [*found, *chain.end()]]

    one, two, three = chain_of()
    kept = {seal.number: Anchor(seal.number, seal.last_id, seal.head) for seal in (one, two, three)}
    assert check([one, two, three], kept) == []
    assert check([one, three]) == [Damage.MISSING_RANGE]
    assert check([two, three]) == [Damage.MISSING_RANGE]
    assert check([one, replace(two, count=1), three]) == [Damage.SEAL_ALTERED]
    assert check([one, replace(two, first_id=12), three]) == [Damage.MISSING_RANGE, Damage.SEAL_ALTERED]
    # what only an anchor shows
    assert check([one, two]) == []
    assert check([one, two], kept) == [Damage.TRUNCATED]
    rebuilt = [replace(one, key_id="f" * 16)]
    for seal in (two, three):
        rebuilt.append(replace(seal, previous=rebuilt[-1].head))
    assert check(rebuilt) == []
    assert check(rebuilt, kept) == [Damage.REBUILT] * 3


@given(bodies_of(_free), st.sets(st.sampled_from(seals.CLOSED_FIELDS)))
def test_the_second_implementation_agrees_whatever_is_redacted(body: Row, hidden: set[str]) -> None:
    """An entry with any of its closed fields replaced by digests has the digest of the whole one."""
    row, salt = (7, *body), sha256(b"a salt").digest()
    names = ("id", "created_at", "seq", "action", "object_type", "personal", *seals.CLOSED_FIELDS)
    entry = dict(zip(names, row, strict=True))
    salts, digests = seals.salts_of(salt, 7), seals.field_digests(row, seals.salts_of(salt, 7))
    whole = seals.entry_digest(row, digests)
    assert audit_verify.entry_digest(entry, salt) == whole
    there = {name for name in hidden if entry[name]}
    entry["redacted"] = {name: digests[seals.CLOSED_FIELDS.index(name)].hex() for name in there}
    entry["salts"] = {
        name: salts[place * 16 : place * 16 + 16].hex() for place, name in enumerate(seals.CLOSED_FIELDS) if name not in hidden
    }
    for name in there:
        del entry[name]
    assert audit_verify.entry_digest(json.loads(json.dumps(entry)), None) == whole
