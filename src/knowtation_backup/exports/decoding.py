"""
Turning the reply of a whole vault into notes and into the JSON of the payload.

The usual reply is decoded by types and encoded again by msgspec, at hundreds of MB/s. Anything unusual (lone
surrogates, unknown keys, front matter that is not text) takes the path over generic values and is kept as replied.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import attrs
import msgspec

from .._engine.canonical import dumps, loads
from ..hub.schema import Note, parse_notes
from ..model.json_input import check_nesting
from ..model.reports import Finding

__all__ = ["Disagreement", "VaultNotes", "decode_vault", "settle"]


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    path: str
    frontmatter: str
    body: str


class _Reply(msgspec.Struct):
    notes: list[_Row]


_decoder = msgspec.json.Decoder(_Reply)


@attrs.frozen(kw_only=True)
class VaultNotes:
    """The notes of one vault, and each as the JSON bytes that go into a payload."""

    notes: Sequence[Note] = attrs.field(repr=False)
    rows: Sequence[bytes] = attrs.field(repr=False)
    reply_bytes: int = 0
    findings: tuple[Finding, ...] = ()


@attrs.frozen(kw_only=True)
class Disagreement:
    """A note that two readings of its vault showed differently."""

    path: str
    settled: bool
    """Whether two of three readings agreed; otherwise the third one counts."""


def decode_vault(body: bytes, where: str) -> VaultNotes:
    """
    Decode the reply of ``GET /api/v1/export``.

    Args:
        body: The complete reply.
        where: Tenant and vault, for findings.

    Raises:
        JsonError: Not JSON, or nested too deeply.
        ExportError: Not the documented shape.
    """
    try:
        check_nesting(body)
        rows = _decoder.decode(body).notes
    except (ValueError, RecursionError):
        pass  # msgspec refuses what is unusual as well as what is wrong; the exact path tells them apart
    else:
        notes = [Note(path=row.path, frontmatter=row.frontmatter, body=row.body) for row in rows]
        return VaultNotes(notes=notes, rows=[note.to_bytes() for note in notes], reply_bytes=len(body))
    value = loads(body)
    parsed = parse_notes(value, where=where)
    items = value["notes"] if parsed.notes else []
    return VaultNotes(
        notes=parsed.notes, rows=[dumps(item) for item in items], reply_bytes=len(body), findings=parsed.findings
    )


_Versions = dict[str, list[tuple[bytes, Note]]]


def settle(readings: Sequence[VaultNotes]) -> tuple[VaultNotes, tuple[Disagreement, ...]]:
    """
    Make one vault of two or three readings of it.

    Notes are compared by path, whatever the order. What at least two readings agree on counts; otherwise the last
    reading does, because the note was probably just being written.

    Returns:
        The vault, and what the readings disagreed on; with two readings that disagree, read once more and call again.
    """
    by_path = [_by_path(reading) for reading in readings]
    disagreements: list[Disagreement] = []
    chosen: _Versions = {}
    for path in dict.fromkeys(path for versions in reversed(by_path) for path in versions):
        candidates = [versions.get(path, []) for versions in by_path]
        shown = collections.Counter(tuple(row for row, _ in candidate) for candidate in candidates)
        winner, votes = shown.most_common(1)[0]
        agreed = votes > 1
        kept = next(c for c in candidates if tuple(row for row, _ in c) == winner) if agreed else candidates[-1]
        if len(shown) > 1:
            disagreements.append(Disagreement(path=path, settled=agreed))
        if kept:
            chosen[path] = kept
    last = readings[-1]
    if not disagreements:
        return last, ()
    pairs = [pair for versions in chosen.values() for pair in versions]
    settled = attrs.evolve(last, notes=[note for _, note in pairs], rows=[row for row, _ in pairs])
    return settled, tuple(disagreements)


def _by_path(reading: VaultNotes) -> _Versions:
    versions: _Versions = {}
    for row, note in zip(reading.rows, reading.notes, strict=True):
        versions.setdefault(note.path, []).append((row, note))
    for same in versions.values():
        same.sort(key=lambda pair: pair[0])
    return versions
