"""
Makes the vectors of KTB2: ``python tests/helpers/ktb2_vectors.py tests/golden/ktb2``.

One scenario and one expected outcome per file, with the size and hash of what is released first, in the way of the
age vectors. All bytes follow from the names below, except in vectors with a hybrid recipient: encapsulation takes its
own randomness, so those change whenever they are made again.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from hashlib import sha256, shake_256
from pathlib import Path
from typing import Any

from ktb2_mini import HYBRID, X25519, File, public_of

from knowtation_backup.codecs.keys import PrivateKey

C = 4096
KEY = bytes(range(32))
OTHER_KEY = bytes(range(100, 132))
CURVE = bytes(range(1, 33))
HYBRID_SEED = bytes(range(2, 34))
WORDS = "Z\u00fcrich, correct horse"
FLOOR = (19 * 1024, 2, 1)

Vector = dict[str, Any]


def _bytes(label: str, size: int) -> bytes:
    return shake_256(f"KTB2 vector {label}".encode()).digest(size)


def _file(name: str, **options: Any) -> File:
    return File(file_key=_bytes(f"{name} file key", 32), file_id=_bytes(f"{name} file id", 16), **options)


def _keyed(name: str, **options: Any) -> File:
    file = _file(name, **options)
    file.add_key(KEY, _bytes(f"{name} key salt", 16))
    return file


def _vector(comment: str, sealed: bytes, released: bytes = b"", **fields: str) -> Vector:
    secrets = {"key": KEY.hex()} if not fields.keys() & {"key", "passphrase", "private"} else {}
    ends = {"outcome": "ok", "kind": ""}
    facts = {"released_bytes": len(released), "released_sha256": sha256(released).hexdigest()}
    return {
        "comment": comment,
        **secrets,
        **ends,
        **fields,
        **facts,
        "sealed": base64.b64encode(sealed).decode(),
    }


def _refused(comment: str, sealed: bytes, outcome: str, kind: str, released: bytes = b"", **fields: str) -> Vector:
    return _vector(comment, sealed, released, outcome=outcome, kind=kind, **fields)


TEXT = b'{"hello":"w\xc3\xb6rld"}'
LONG = _bytes("long plaintext", C + 100)
FULL = _bytes("full plaintext", C)


def _good() -> Iterator[tuple[str, Vector]]:
    for name, text in (("empty", b""), ("one-byte", b"x"), ("short", TEXT), ("full-chunk", FULL), ("two-chunks", LONG)):
        yield name, _vector(f"A symmetric key; {len(text)} bytes", _keyed(name).seal(text), text)
    file = _keyed("larger-chunks", exponent=24)
    yield "larger-chunks", _vector("The largest chunk size", file.seal(TEXT), TEXT)
    file = _file("passphrase")
    file.add_passphrase(WORDS, _bytes("words salt", 16), *FLOOR)
    decomposed = WORDS.replace("\u00fc", "u\u0308")
    yield "passphrase", _vector("A passphrase at the floor", file.seal(TEXT), TEXT, passphrase=WORDS)
    comment = "The same, typed on a keyboard that sends decomposed letters"
    yield "passphrase-decomposed", _vector(comment, file.seal(TEXT), TEXT, passphrase=decomposed)
    file = _file("x25519")
    file.add_recipient(X25519, public_of(X25519, CURVE), _bytes("ephemeral", 32))
    private = PrivateKey(kind="x25519", raw=CURVE).to_text()
    yield "x25519", _vector("An X25519 recipient", file.seal(TEXT), TEXT, private=private)
    file = _file("hybrid")
    file.add_recipient(HYBRID, public_of(HYBRID, HYBRID_SEED), _bytes("ephemeral", 32))
    private = PrivateKey(kind="mlkem768x25519", raw=HYBRID_SEED).to_text()
    yield "hybrid", _vector("An ML-KEM-768/X25519 recipient", file.seal(TEXT), TEXT, private=private)
    file = _file("several")
    file.add_unknown(200, b"of a later release")
    file.add_key(OTHER_KEY, _bytes("other salt", 16))
    file.add_unknown(3, b"\0\x21\0\1\0\2of a later release")
    file.add_key(KEY, _bytes("salt", 16))
    yield "unknown-slots", _vector("Slots that are passed over, and two keys", file.seal(TEXT), TEXT)


def _bad_headers() -> Iterator[tuple[str, Vector]]:
    good = _keyed("short").seal(TEXT)
    yield "nothing", _refused("No bytes", b"", "TruncatedError", "truncated")
    yield "magic-only", _refused("The magic and no more", b"KTB2", "TruncatedError", "truncated")
    yield "ktb1", _refused("A KTB1 file", b"KTB1" + bytes(40), "UnsupportedFormatError", "bad_magic")
    yield "cut-in-slots", _refused("Cut in the slots", good[:100], "TruncatedError", "truncated")
    yield "cut-after-header", _refused("A header and no chunk", good[:172], "TruncatedError", "truncated")
    newer = ("UnsupportedFormatError", "unsupported_format")
    for name, options in (
        ("version-2", {"version": 2}),
        ("cipher-2", {"cipher": 2}),
        ("exponent-11", {"exponent": 11}),
        ("exponent-25", {"exponent": 25}),
        ("reserved", {"reserved": b"\0\0\0\1"}),
    ):
        yield name, _refused(f"{name}, with a right MAC", _keyed(name, **options).seal(b""), *newer)
    slot_flag = bytearray(good)
    slot_flag[33] = 1
    yield "slot-reserved", _refused("A slot's second byte is not zero", bytes(slot_flag), *newer)
    bad = ("TamperedError", "bad_header")
    yield "no-slots", _refused("No slots", _file("no-slots").seal(TEXT), *bad)
    yield "count-too-high", _refused("Fewer slots than counted", _keyed("count", count=2).seal(TEXT), *bad)
    file = _keyed("short-slot")
    file.slots[0] = b"\1\0\0\x67" + file.slots[0][4:-1]
    yield "short-slot", _refused("A slot of type 1 with a byte less", file.seal(TEXT), *bad)
    changed = ("TamperedError", "header_tampered")
    for name, position in (("file-id", 8), ("key-id", 36), ("slot-salt", 44), ("commitment", 60), ("wrapped", 92)):
        flipped = bytearray(good)
        flipped[position] ^= 0x80
        yield f"flipped-{name}", _refused(f"One bit of the {name} flipped", bytes(flipped), *changed)
    flipped = bytearray(good)
    flipped[171] ^= 1
    yield "flipped-mac", _refused("One bit of the MAC flipped", bytes(flipped), *changed)
    flipped = bytearray(good)
    flipped[6] += 1
    yield "other-exponent", _refused("The chunk exponent raised by one", bytes(flipped), *changed)
    file = _file("two-file-keys")
    file.add_key(OTHER_KEY, _bytes("a", 16))
    second = File(file_key=_bytes("second", 32), file_id=file.file_id)
    second.add_key(KEY, _bytes("b", 16))
    file.slots += second.slots
    yield "two-file-keys", _refused("Slots that hold different file keys", file.seal(TEXT), *changed)


def _wrong_keys() -> Iterator[tuple[str, Vector]]:
    none = ("NoMatchingKeyError", "no_matching_key")
    good = _keyed("short").seal(TEXT)
    yield "wrong-key", _refused("Another symmetric key", good, *none, key=OTHER_KEY.hex())
    private = PrivateKey(kind="x25519", raw=CURVE).to_text()
    yield "wrong-kind", _refused("A private key where there is no recipient", good, *none, private=private)
    file = _file("wrong-passphrase")
    file.add_passphrase(WORDS, _bytes("words salt", 16), *FLOOR)
    sealed = file.seal(TEXT)
    yield "wrong-passphrase", _refused("Another passphrase", sealed, *none, passphrase="Zurich, correct horse")
    for name, costs, kind in (
        ("memory-below-floor", (19 * 1024 - 1, 2, 1), "weak_parameters"),
        ("one-iteration", (64 * 1024, 1, 4), "weak_parameters"),
        ("memory-of-2-gib", (2 * 1024 * 1024, 2, 4), "excessive_parameters"),
        ("iterations-without-end", (64 * 1024, 0xFFFFFFFF, 4), "excessive_parameters"),
    ):
        file = _file(name)
        file.add_unknown(2, b"".join(number.to_bytes(4, "big") for number in costs) + bytes(96))
        yield name, _refused(f"Argon2id with {costs}", file.seal(TEXT), "DecryptionError", kind, passphrase=WORDS)
    file = _file("five-passphrases")
    for number in range(5):
        body = b"".join(value.to_bytes(4, "big") for value in FLOOR) + _bytes(f"slot {number}", 96)
        file.add_unknown(2, body)
    limit = ("DecryptionError", "excessive_parameters")
    yield "five-passphrases", _refused("Five passphrase slots", file.seal(TEXT), *limit, passphrase=WORDS)


def _bad_chunks() -> Iterator[tuple[str, Vector]]:
    file = _keyed("two-chunks")
    header, (first, last) = file.header(), file.chunks(LONG)
    other = _keyed("another file").chunks(LONG)
    changed, cut = ("TamperedError", "tampered"), ("TruncatedError", "truncated")
    flipped_first = bytes([first[0] ^ 1]) + first[1:]
    flipped_last = last[:-1] + bytes([last[-1] ^ 1])
    begun = LONG[:C]
    yield "flipped-first", _refused("One bit of the first chunk flipped", header + flipped_first + last, *changed)
    yield "flipped-last", _refused("One bit of the last tag flipped", header + first + flipped_last, *changed, begun)
    yield "swapped", _refused("The chunks swapped", header + last + first, *changed)
    yield "repeated", _refused("The first chunk repeated", header + first + first + last, *changed, begun)
    yield "first-dropped", _refused("The first chunk dropped", header + last, *changed)
    yield "last-dropped", _refused("The last chunk dropped", header + first, *cut, begun)
    yield "cut-in-last", _refused("The last byte missing", header + first + last[:-1], *changed, begun)
    yield "cut-to-a-tag", _refused("16 bytes of the last chunk left", header + first + last[:16], *cut, begun)
    yield "spliced-first", _refused("The first chunk of another file", header + other[0] + last, *changed)
    yield "spliced-last", _refused("The last chunk of another file", header + first + other[1], *changed, begun)
    yield "appended", _refused("A byte appended to a short last chunk", header + first + last + b"\0", *changed, begun)
    full = _keyed("full-chunk")
    trailing = ("TamperedError", "trailing_data")
    yield "trailing", _refused("A byte after a full last chunk", full.seal(FULL) + b"\0", *trailing, FULL)
    empty_last = full.header() + full.chunk(0, FULL, last=False) + full.chunk(1, b"", last=True)
    yield "empty-last-chunk", _refused("An empty last chunk after a full one", empty_last, *cut, FULL)
    no_flag = header + first + file.chunk(1, LONG[C:], last=False)
    yield "no-last-flag", _refused("The last chunk is not marked", no_flag, *changed, begun)
    marked_twice = header + file.chunk(0, begun, last=True) + last
    yield "early-last-flag", _refused("The first chunk is marked as the last", marked_twice, *trailing, begun)
    from_one = header + file.chunk(1, begun, last=False) + file.chunk(2, LONG[C:], last=True)
    yield "counted-from-one", _refused("Chunks counted from 1", from_one, *changed)


def vectors() -> dict[str, Vector]:
    """Return all vectors by name."""
    return {name: vector for part in (_good, _bad_headers, _wrong_keys, _bad_chunks) for name, vector in part()}


def main(directory: Path) -> None:
    """Write one file per vector."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, vector in vectors().items():
        (directory / f"{name}.json").write_text(json.dumps(vector, indent=2, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
