#!/usr/bin/env python3
"""Verifies a journal exported by NOVAWF (`manage.py audit_export`), with nothing but Python 3.8 or later: this one file.

    python3 audit_verify.py EXPORT.jsonl[.gz] [--anchor SEALS.jsonl] [--public-key HEX] [--json]

An export holds one JSON object a line: `export`, then each `seal` with its entries (`entry`, or `left_out` by a filter), then
`end`. What is checked: every entry's digest, also where fields are redacted; every range's digest; that each seal follows the
one before; signatures (Ed25519, RFC 8032); and, with --anchor, that the chain is the one that was anchored.

It says "whole" only of what it has seen. Without an anchor it can't exclude that the end was cut off, or that everything was
rebuilt by somebody who has the signing key; without --public-key, not even by somebody who has not: give the key that you were
told another way. Exit codes: 0 nothing is wrong; 1 something is, and is named; 2 nothing could be verified.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import struct
import sys
from typing import Any, Iterable, Iterator

FORMAT = 1
CLOSED = ("nova_id", "actor", "object_id", "before", "after", "reason", "request_id", "cause", "stream", "message")
SALT = 16
GENESIS = "0" * 64
OPEN = ("id", "created_at", "seq", "action", "object_type")


class Unusable(Exception):
    """The file is no export, or not a whole one."""


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# -- digests


def entry_digest(entry: dict[str, Any], seal_salt: bytes | None) -> bytes:
    """Give an entry's digest, out of its fields where they are there and of their digests where they are not."""
    salts = dict(entry.get("salts", {}))
    if seal_salt is not None:
        stream = hashlib.shake_256(seal_salt + struct.pack(">q", entry["id"])).digest(SALT * len(CLOSED))
        salts = {name: stream[place * SALT : (place + 1) * SALT].hex() for place, name in enumerate(CLOSED)}
    redacted = entry.get("redacted", {})
    parts = []
    for name in CLOSED:
        value = entry.get(name, "")
        if name in redacted:
            parts.append(bytes.fromhex(redacted[name]))
        elif value == "":
            parts.append(bytes(32))
        else:
            parts.append(sha256(bytes.fromhex(salts[name]) + name.encode() + b"\0" + value.encode("utf-8")))
    opened = compact([FORMAT] + [entry[name] for name in OPEN] + [bool(entry["personal"])])
    return sha256(opened + b"\n" + b"".join(parts))


def seal_text(seal: dict[str, Any]) -> bytes:
    """Give what was signed."""
    names = (
        "format",
        "number",
        "first_id",
        "last_id",
        "count",
        "digest",
        "leaves",
        "previous",
        "salt_digest",
        "sealed_at",
        "key_id",
    )
    return b"novawf seal " + compact([seal[name] for name in names])


# -- Ed25519: the equations of RFC 8032, section 5.1, checked without any library

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def add(one: Any, two: Any) -> Any:
    """Add two points (X, Y, Z, T), where x = X/Z, y = Y/Z, x*y = T/Z."""
    a = (one[1] - one[0]) * (two[1] - two[0]) % P
    b = (one[1] + one[0]) * (two[1] + two[0]) % P
    c, d = 2 * one[3] * two[3] * D % P, 2 * one[2] * two[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(factor: int, point: Any) -> Any:
    found = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            found = add(found, point)
        point, factor = add(point, point), factor >> 1
    return found


def point_of(data: bytes) -> Any:
    """Decode a point.

    :raises ValueError: it is none.
    """
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if len(data) != 32 or y >= P:
        raise ValueError("no point")
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and sign):
        raise ValueError("no point")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = point_of(bytes.fromhex("58" + "66" * 31))


def is_signed(text: bytes, signature: str, public_key: str) -> bool:
    try:
        given, key = bytes.fromhex(signature), bytes.fromhex(public_key)
        scalar = int.from_bytes(given[32:], "little")
        if len(given) != 64 or scalar >= ORDER:
            return False
        public, commitment = point_of(key), point_of(given[:32])
    except ValueError:
        return False
    challenge = int.from_bytes(hashlib.sha512(given[:32] + key + text).digest(), "little") % ORDER
    left, right = times(scalar, BASE), add(commitment, times(challenge, public))
    return not ((left[0] * right[2] - right[0] * left[2]) % P or (left[1] * right[2] - right[1] * left[2]) % P)


# -- the export, line by line


class Report:
    """What was seen and found."""

    def __init__(self) -> None:
        self.findings: list[dict[str, Any]] = []
        self.damages = 0
        self.seals = self.entries = self.left_out = self.redacted = self.signatures = 0
        self.first_seal = self.last_seal = self.last_id = 0
        self.heads: dict[int, str] = {}
        self.keys: list[str] = []
        self.unsealed = self.anchored_to = 0
        self.anchored = self.key_known = False

    def add(self, damage: str, seal: int, words: str, first_id: int = 0, last_id: int = 0) -> None:
        self.damages += 1
        if len(self.findings) < 1000:
            found = {"damage": damage, "seal": seal, "first_id": first_id, "last_id": last_id, "words": words}
            self.findings.append(found)


class Verifier:
    """Takes an export's lines in order; `report` has the result after `end`."""

    def __init__(self, anchors: dict[int, str], public_keys: Iterable[str], every_signature: bool) -> None:
        self.report = Report()
        self.anchors = anchors
        self.public_keys = set(public_keys)
        self.every_signature = every_signature
        self.seal: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None
        self.whole = hashlib.sha256()
        self.ended = False
        self._empty()

    def _empty(self) -> None:
        self.count, self.at, self.salt = 0, 0, None  # type: int, int, bytes | None
        self.range = hashlib.sha256(b"novawf range\n")
        self.seen: dict[int, bytes] = {}

    def take(self, line: bytes) -> None:
        said = json.loads(line)
        kind = said["kind"]
        if self.ended:
            raise Unusable("There are lines behind the end.")
        if kind != "end":
            self.whole.update(line)
        if kind == "export" and said["format"] != FORMAT:
            raise Unusable("The export has the format %s; this file reads %s." % (said["format"], FORMAT))
        if kind == "seal":
            self._close_range()
            self._open_range(said)
        elif kind in ("entry", "left_out"):
            self._entry(said, kind)
        elif kind == "end":
            self._close_range()
            self._end(said)

    def _open_range(self, seal: dict[str, Any]) -> None:
        report, last, number = self.report, self.seal, seal["number"]
        first, last_id = seal["first_id"], seal["last_id"]
        if last is None:
            report.first_seal = number
            if number == 1 and seal["previous"] != GENESIS:
                report.add("seal_altered", number, "Seal 1 names a seal before it.", first, last_id)
        elif number != last["number"] + 1 or first != last["last_id"] + 1:
            words = "The seals between %d and %d are missing, or entries between %d and %d." % (
                last["number"], number, last["last_id"], first,
            )  # fmt: skip
            report.add("missing_range", number, words, last["last_id"] + 1, first - 1)
        elif seal["previous"] != last["head"]:
            report.add("seal_altered", number, "Seal %d does not follow seal %d." % (number, last["number"]), first, last_id)
        text = seal_text(seal)
        if hashlib.sha256(text).hexdigest() != seal["head"]:
            report.add("seal_altered", number, "Seal %d does not say what its head says." % number, first, last_id)
        self._check_key(seal, text, last)
        if number in self.anchors and self.anchors[number] != seal["head"]:
            words = "Seal %d is not the one that was anchored: the chain was rebuilt from here on, or before." % number
            report.add("rebuilt", number, words, first, last_id)
        self.seal, report.seals = seal, report.seals + 1
        report.last_seal, report.last_id, report.heads[number] = number, last_id, seal["head"]
        self._empty()
        if "salt" in seal:
            self.salt = bytes.fromhex(seal["salt"])
            if hashlib.sha256(self.salt).hexdigest() != seal["salt_digest"]:
                report.add("seal_altered", number, "The salt of seal %d is not its own." % number, first, last_id)

    def _check_key(self, seal: dict[str, Any], text: bytes, last: dict[str, Any] | None) -> None:
        """Check the signature where it counts: each one when asked, else the last of each key, which the chain hands on."""
        report, key = self.report, seal["public_key"]
        if key not in report.keys:
            report.keys.append(key)
            if self.public_keys and key not in self.public_keys:
                words = "Seal %d is signed with a key that was not named." % seal["number"]
                report.add("unknown_key", seal["number"], words, seal["first_id"], seal["last_id"])
        if hashlib.sha256(bytes.fromhex(key)).hexdigest()[:16] != seal["key_id"]:
            self._bad_signature(seal)
        if self.every_signature:
            self._check_signature(seal, text)
        elif last is not None and last["public_key"] != key:
            self._check_signature(last, seal_text(last))

    def _check_signature(self, seal: dict[str, Any], text: bytes) -> None:
        self.report.signatures += 1
        if not is_signed(text, seal["signature"], seal["public_key"]):
            self._bad_signature(seal)

    def _bad_signature(self, seal: dict[str, Any]) -> None:
        words = "The signature of seal %d is wrong." % seal["number"]
        self.report.add("bad_signature", seal["number"], words, seal["first_id"], seal["last_id"])

    def _entry(self, entry: dict[str, Any], kind: str) -> None:
        seal, report, entry_id = self.seal, self.report, entry["id"]
        if seal is None:
            raise Unusable("An entry stands before any seal.")
        if kind == "left_out":
            digest = bytes.fromhex(entry["digest"])
            report.left_out += 1
        else:
            digest = entry_digest(entry, self.salt)
            report.entries += 1
            report.redacted += bool(entry.get("redacted"))
        if not seal["first_id"] <= entry_id <= seal["last_id"]:
            words = "Entry %d does not belong into the range of seal %d." % (entry_id, seal["number"])
            report.add("inserted", seal["number"], words, entry_id, entry_id)
        elif entry_id <= self.at:
            words = "Entry %d stands behind entry %d: they were reordered, or one was repeated." % (entry_id, self.at)
            report.add("reordered", seal["number"], words, entry_id, entry_id)
        self.at, self.count, self.seen[entry_id] = entry_id, self.count + 1, digest[:8]
        self.range.update(digest)

    def _close_range(self) -> None:
        seal = self.seal
        if seal is None or (seal.get("entries") == "left_out" and not self.count):
            if seal is not None:
                self.report.left_out += seal["count"]
            return
        if self.count == seal["count"] and self.range.hexdigest() == seal["digest"]:
            return
        self._name(seal)

    def _name(self, seal: dict[str, Any]) -> None:
        """Tell which entries differ from what was sealed, by the leaves, which are part of what was signed."""
        report, number, seen = self.report, seal["number"], self.seen
        packed = base64.b64decode(seal.get("leaf_data", ""))
        before = report.damages
        if packed and hashlib.sha256(packed).hexdigest() == seal["leaves"]:
            first = struct.unpack(">q", packed[:8])[0]
            known = {first + offset: digest for offset, digest in struct.iter_unpack(">I8s", packed[8:])}
            for entry_id in sorted(known.keys() | seen.keys()):
                if entry_id not in seen:
                    report.add("deleted", number, "Entry %d was deleted." % entry_id, entry_id, entry_id)
                elif entry_id not in known:
                    words = "Entry %d was inserted into a range that was closed." % entry_id
                    report.add("inserted", number, words, entry_id, entry_id)
                elif known[entry_id] != seen[entry_id]:
                    report.add("edited", number, "Entry %d was edited after it was sealed." % entry_id, entry_id, entry_id)
        if report.damages == before:
            words = "The entries %d to %d are not those that seal %d closed: %d are here, %d were sealed." % (
                seal["first_id"], seal["last_id"], number, self.count, seal["count"],
            )  # fmt: skip
            report.add("range_altered", number, words, seal["first_id"], seal["last_id"])

    def _end(self, end: dict[str, Any]) -> None:
        report, seal = self.report, self.seal
        self.ended = True
        if end["sha256"] != self.whole.hexdigest():
            report.add("edited", 0, "The lines of this file are not those that were exported.")
        if seal is not None and not self.every_signature:
            self._check_signature(seal, seal_text(seal))
        report.unsealed = end.get("unsealed", 0)
        report.key_known = bool(self.public_keys)
        report.anchored_to = max([number for number in self.anchors if number in report.heads], default=0)
        report.anchored = report.anchored_to > 0
        beyond = max([number for number in self.anchors if number > report.last_seal], default=0)
        if beyond and end.get("last_seal") == report.last_seal and end.get("to_the_end"):
            words = "The chain ends at seal %d, but seal %d was anchored: the end was cut off." % (report.last_seal, beyond)
            report.add("truncated", beyond, words, report.last_id + 1)


def verify(
    lines: Iterable[bytes],
    anchors: dict[int, str] | None = None,
    public_keys: Iterable[str] = (),
    every_signature: bool = False,
) -> Report:
    """Verify an export.

    :raises Unusable: it is none, or it has no end.
    """
    verifier = Verifier(anchors or {}, public_keys, every_signature)
    number = 0
    try:
        for number, line in enumerate(lines, 1):  # noqa: B007 - it is told below
            verifier.take(line)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise Unusable("Line %d can't be read: %r." % (number, error)) from error
    except (OSError, EOFError) as error:
        raise Unusable("The file can't be read: %s." % error) from error
    if not verifier.ended:
        raise Unusable("The file has no end: it was cut off, or is no export.")
    return verifier.report


def lines_of(path: str) -> Iterator[bytes]:
    """Read a file's lines, packed or not."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else open(path, "rb") as file:  # type: Any
        yield from file


def anchors_of(path: str) -> dict[int, str]:
    """Read a seals log: the head of each seal; a restore takes back what was beyond it."""
    found: dict[int, str] = {}
    for line in lines_of(path):
        said = json.loads(line)
        if "restored_to" in said:
            found = {number: head for number, head in found.items() if number <= said["restored_to"]}
        else:
            found[said["number"]] = said["head"]
    return found


def tell(report: Report, show: Any) -> None:
    """Print a report for people."""
    for finding in report.findings:
        show("DAMAGE %s: %s" % (finding["damage"], finding["words"]))
    show(
        "seals %d to %d, up to entry %d: %d entries verified, %d of them with redacted fields, %d left out by a filter"
        % (report.first_seal, report.last_seal, report.last_id, report.entries, report.redacted, report.left_out)
    )
    show("%d signatures checked; keys: %s" % (report.signatures, ", ".join(report.keys) or "none"))
    if not report.key_known:
        show("The key was taken from this file: whoever made it could have used any. Compare it, or give --public-key.")
    if report.anchored:
        show("The chain was compared with the anchor up to seal %d." % report.anchored_to)
    else:
        show("No anchor was compared: that the end was cut off, or that everything was rebuilt, can't be excluded.")
    if report.unsealed:
        show("%d entries were not sealed yet when it was made, and are not in it." % report.unsealed)
    if report.first_seal > 1:
        show("The export begins at seal %d: what was before is not in it." % report.first_seal)
    show("%d findings." % report.damages if report.damages else "Nothing is wrong with what is here.")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Verify an exported journal of NOVAWF.")
    parser.add_argument("export")
    parser.add_argument("--anchor", help="a seals log that was kept elsewhere")
    parser.add_argument("--public-key", action="append", default=[], help="64 hex digits; may be given several times")
    parser.add_argument("--every-signature", action="store_true", help="check each one, not only the last of each key")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    try:
        anchors = anchors_of(given.anchor) if given.anchor else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        print("%s is no seals log: %s" % (given.anchor, error), file=sys.stderr)
        return 2
    try:
        report = verify(lines_of(given.export), anchors, given.public_key, given.every_signature)
    except (Unusable, OSError) as error:
        print("%s can't be verified: %s" % (given.export, error), file=sys.stderr)
        return 2
    if given.json:
        shown = {name: value for name, value in vars(report).items() if name != "heads"}
        print(json.dumps(shown))
    else:
        tell(report, print)
    return 1 if report.damages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
