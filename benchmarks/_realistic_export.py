"""
A large export to compress: notes of words as languages distribute them, and some attachments that do not compress.

64 MB of notes are generated from a fixed seed and repeated under other tenants' names: further apart than any window
of the algorithms at their usual levels, so no tool notices, and the file is there in seconds.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
from pathlib import Path

LETTERS = "etaoinshrdlucmfwypvbgkqjxz"
WORDS = 20_000
DISTINCT_BYTES = 64 << 20
NOTES_PER_TENANT = 200
ATTACHMENT_BYTES = 30_000
EVERY_NTH_HAS_ONE = 20


def _notes(size_bytes: int) -> list[bytes]:
    chance = random.Random(11)  # noqa: S311 - filler text
    words = ["".join(chance.choices(LETTERS, [*range(26, 0, -1)], k=chance.randint(2, 11))) for _ in range(WORDS)]
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(WORDS)))
    notes: list[bytes] = []
    total = 0
    while total < size_bytes:
        number = len(notes)
        if number % EVERY_NTH_HAS_ONE:
            lines = (chance.choices(words, cum_weights=weights, k=chance.randint(30, 90)) for _ in range(17))
            body = "\n\n".join(" ".join(line).capitalize() + "." for line in lines)
        else:
            picture = base64.b64encode(chance.randbytes(ATTACHMENT_BYTES)).decode()
            body = f"![scan](data:image/png;base64,{picture})"
        front = {"title": " ".join(chance.choices(words, k=4)), "tags": chance.choices(words, k=3)}
        note = {"path": f"notes/{number:06d}.md", "frontmatter": json.dumps(front), "body": body}
        notes.append(json.dumps(note, separators=(",", ":")).encode())
        total += len(notes[-1])
    return notes


def write_export(path: Path, size_bytes: int) -> int:
    """Write an export of about *size_bytes* and return its size."""
    notes = _notes(min(size_bytes, DISTINCT_BYTES))
    groups = [b",".join(notes[at : at + NOTES_PER_TENANT]) for at in range(0, len(notes), NOTES_PER_TENANT)]
    head = b'{"format_version":4,"kind":"knowtation-operator-full-export","exported_at":"2026-04-08T15:30:22.123Z",'
    head += b'"users":['
    with path.open("wb") as file:
        size = file.write(head)
        for number in itertools.count():
            user = b'{"user_id":"tenant:%08d","vaults":[{"vault_id":"default","notes":[' % number
            size += file.write(b"," * bool(number) + user + groups[number % len(groups)] + b']}],"proposals":[]}')
            if size >= size_bytes:
                return size + file.write(b"]}")
    raise AssertionError
