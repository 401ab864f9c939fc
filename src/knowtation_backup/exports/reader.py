"""
Read any Knowtation payload as a stream of entries, with memory that does not grow with the file.

Understood are the full export (version 4), the single vault (2), the snapshot of a user's GitHub backup (1), and the
records form, in any white space and key order, with unknown keys, plain or compressed. Sealed files are opened by their
codec first.

The records form is a file of lines, each ended by a newline: ``{"type":"export","exported_at":…}``, then for each
tenant all its records (see `records`), then ``{"type":"end","records":…}`` with their number. A file without the first
line needs no last one; then only its details can tell that lines are missing at the end.

Entries come in the order of the file: a tenant, then its vaults each followed by its notes, then its proposals. Where a
file names a tenant or vault only after its content, that content is held until the name is known.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import attrs
import msgspec

from .._checks import at_least
from .._engine.canonical import JsonError, check_depth, loads
from .._engine.jsonstream import JsonCursor, JsonTooLargeError, JsonTruncatedError
from ..errors import ConfigurationError, ExportError, IntegrityError, TruncatedError, UnsupportedFormatError
from ..hub.schema import DEFAULT_VAULT, Note, Proposal, note_from_json
from ..model.reports import Finding
from .entries import KINDS, Entry, PayloadHeader, Run
from .records import (
    ContentRoot,
    Proof,
    Record,
    RecordKind,
    TenantContent,
    TenantDigest,
    parse_record,
)
from .unwrap import UnwrapLimits, unwrap

__all__ = ["KINDS", "Entry", "ExportReader", "PayloadHeader", "ReadLimits"]

_MAX_FINDINGS = 1000


@attrs.frozen(kw_only=True)
class ReadLimits:
    """What a hostile file may cost."""

    element_bytes: int = attrs.field(default=256 << 20, validator=at_least(1))
    """Largest single note, proposal, unknown member, or content that precedes its tenant's or vault's name."""
    unwrap: UnwrapLimits = attrs.field(factory=UnwrapLimits)


_Parts = Mapping[str, Callable[[JsonCursor], Iterator[Run]]]

_note_rows = msgspec.json.Decoder(list[Note])
_proposal_rows = msgspec.json.Decoder(list[dict[str, Any]], float_hook=Decimal)
_RECORDS = re.compile(rb'\{"type":"(export|tenant)"[,}]')


class ExportReader:
    """
    Iterates over the entries of one payload, once.

    While it runs it counts and hashes, so that afterwards `tenants`, `counts` and `content_root` are known. Memory: the
    element being read, about a MiB of look-ahead, and the hashes of one tenant.

    Args:
        chunks: The payload, opened but possibly compressed, in chunks of any size.
        user_id: The tenant of payloads that name none (versions 1 and 2).
        limits: Protection against hostile files.
        hashing: Whether to compute roots; without it `content_root` and `tenants` are not available.
        proof_tenant: A tenant whose hashes are kept, so that `prove` can be asked about its records.

    Raises (while iterating):
        UnsupportedFormatError: An unknown version or kind, or a sealed file.
        TruncatedError: The payload ends early.
        IntegrityError: Not JSON, not of the documented shape, or beyond a limit.
        ConfigurationError: A compression needs an extra that is not installed, or the payload was read already.
    """

    def __init__(
        self,
        chunks: Iterable[bytes],
        *,
        user_id: str = "",
        limits: ReadLimits | None = None,
        hashing: bool = True,
        proof_tenant: str | None = None,
    ) -> None:
        self._chunks = chunks
        self._user_id = user_id
        self._limits = limits or ReadLimits()
        self._hashing = hashing
        self._proof_tenant = proof_tenant
        self._kept: TenantContent | None = None
        self._facts: dict[str, Any] = {}
        self._version: int | None = None
        self._content: TenantContent | None = None
        self._tenants: list[TenantDigest] = []
        self._counts = dict.fromkeys(RecordKind, 0)
        self._findings: list[Finding] = []
        self._started = self._finished = False

    @property
    def header(self) -> PayloadHeader:
        """What the payload said of itself so far; all of it once iteration has ended."""
        kind, exported_at = self._facts.get("kind"), self._facts.get("exported_at")
        return PayloadHeader(
            format_version=self._version,
            kind=kind if isinstance(kind, str) else None,
            exported_at=exported_at if isinstance(exported_at, str) else None,
        )

    @property
    def finished(self) -> bool:
        """Whether the payload was read to its end without an error."""
        return self._finished

    @property
    def current_tenant(self) -> str | None:
        """The tenant being read; `None` before the first, after the end, and without hashing."""
        return self._content.user_id if self._content else None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What had to be adapted, at most the first thousand."""
        return tuple(self._findings)

    @property
    def counts(self) -> Mapping[str, int]:
        """Totals so far: ``tenants``, ``vaults``, ``notes``, ``proposals``."""
        return {f"{kind.value}s": count for kind, count in self._counts.items()}

    @property
    def tenants(self) -> tuple[TenantDigest, ...]:
        """A digest of every tenant, in the order of the file."""
        self._need_end()
        return tuple(self._tenants)

    @property
    def content_root(self) -> str:
        """The root over everything read, 64 hexadecimal digits."""
        self._need_end()
        return ContentRoot(self._tenants).hexdigest()

    def prove(self, record: Record) -> Proof:
        """
        Return the proof that *record*, one of the ``proof_tenant``'s, is part of this payload.

        Raises:
            ConfigurationError: The payload holds no such record, or was not read to its end with this tenant kept.
        """
        self._need_end()
        if self._kept is None:
            raise ConfigurationError("the payload holds no tenant kept for proofs", kind="no_such_tenant")
        return ContentRoot(self._tenants).prove(record, self._kept)

    def _need_end(self) -> None:
        if not (self._finished and self._hashing):
            raise ConfigurationError("read the payload to its end, with hashing, before asking for its root")

    def __iter__(self) -> Iterator[Entry]:
        for run in self.runs():
            yield from run.entries()

    def read_all(self) -> ExportReader:
        """Read to the end for the sake of counts, root and findings; return the reader."""
        for _ in self.runs():
            pass
        return self

    def runs(self) -> Iterator[Run]:
        """Iterate over consecutive entries of one kind, as they were decoded: cheaper than one by one."""
        if self._started:
            raise ConfigurationError("this payload was read already; make a new reader over fresh chunks")
        self._started = True
        try:
            plain = unwrap(self._chunks, self._limits.unwrap)
            head = b""
            while len(head) < 32 and (chunk := next(plain, None)) is not None:
                head += chunk
            plain = itertools.chain((head,), plain)
            for run in self._records(plain) if _RECORDS.match(head) else self._payload(self._cursor(plain)):
                self._note_down(run)
                yield run
            self._close_tenant()
            self._finished = True
        except JsonTruncatedError as error:
            raise TruncatedError(f"the payload is cut: {error}", hint="take another copy of the archive") from error
        except JsonTooLargeError as error:
            hint = "if the file is genuine, raise element_bytes of ReadLimits"
            raise IntegrityError(f"the payload is refused: {error}", kind="element_limit", hint=hint) from error
        except JsonError as error:
            raise IntegrityError(f"the payload is damaged: {error}", kind="bad_payload") from error

    def _cursor(self, chunks: Iterable[bytes], offset: int = 0) -> JsonCursor:
        return JsonCursor(chunks, value_limit_bytes=self._limits.element_bytes, offset=offset)

    def _note_down(self, run: Run) -> None:
        self._counts[run.kind] += len(run.notes) + len(run.proposals) or 1
        if not self._hashing:
            return
        if run.kind is RecordKind.TENANT:
            self._close_tenant()
            self._content = TenantContent(run.user_id)
        elif self._content is not None:
            if run.kind is RecordKind.VAULT:
                self._content.add_vault(run.vault_id)
            self._content.add_notes(run.vault_id, run.notes)
            for proposal in run.proposals:
                self._content.add_proposal(proposal)

    def _close_tenant(self) -> None:
        if self._content is not None:
            self._tenants.append(self._content.digest())
            if self._content.user_id == self._proof_tenant:
                self._kept = self._content
            self._content = None

    # The shapes of contracts 2.1, outside in.

    def _payload(self, cursor: JsonCursor) -> Iterator[Run]:
        held: dict[str, bytes] = {}
        began = False
        for key in cursor.members():
            if key in ("format_version", "kind", "exported_at", "vault_id"):
                self._facts[key] = cursor.value()
                self._check_header()
            elif key == "users" and self._version == 4:
                yield from self._users(cursor)
                began = True
            elif key in ("notes", "proposals") and self._version in (1, 2) and "vault_id" in self._facts:
                if not began:
                    yield from self._vault_start()
                began = True
                yield from self._vault_part(cursor, key)
            elif key in ("users", "notes", "proposals"):
                held[key] = cursor.raw()  # the version or the vault's name comes later
            else:
                cursor.value()
        cursor.finish()
        yield from self._held(held, began=began)

    def _check_header(self) -> None:
        if "format_version" in self._facts:
            self._version = _supported_version(self._facts["format_version"])
            kind = self._facts.get("kind")
            if isinstance(kind, str) and kind != KINDS[self._version]:
                message = f"a payload of version {self._version} cannot be of kind {kind!r:.80}"
                raise UnsupportedFormatError(message)

    def _held(self, held: Mapping[str, bytes], *, began: bool) -> Iterator[Run]:
        version = _supported_version(self._facts.get("format_version"))
        if version == 4:
            if "users" in held:
                yield from self._users(self._cursor((held["users"],)))
            elif not began:
                raise IntegrityError("the payload holds no list of users", kind="bad_payload")
            return
        if not began:
            yield from self._vault_start()
        for key in ("notes", "proposals"):
            if key in held:
                yield from self._vault_part(self._cursor((held[key],)), key)

    def _vault_start(self) -> Iterator[Run]:
        yield Run(kind=RecordKind.TENANT, user_id=self._user_id)
        yield Run(kind=RecordKind.VAULT, user_id=self._user_id, vault_id=self._vault_id())

    def _vault_id(self) -> str:
        value = _text(self._facts.get("vault_id", ""), "vault_id")
        return value if value.strip() else DEFAULT_VAULT

    def _vault_part(self, cursor: JsonCursor, key: str) -> Iterator[Run]:
        if key == "notes":
            return self._notes(cursor, self._user_id, self._vault_id())
        return self._proposals(cursor, self._user_id)

    def _users(self, cursor: JsonCursor) -> Iterator[Run]:
        for _ in cursor.elements():
            yield from self._named(cursor, "user_id", self._user_parts)

    def _user_parts(self, user_id: str) -> tuple[Run, _Parts]:
        return Run(kind=RecordKind.TENANT, user_id=user_id), {
            "vaults": lambda cursor: self._vaults(cursor, user_id),
            "proposals": lambda cursor: self._proposals(cursor, user_id),
        }

    def _vaults(self, cursor: JsonCursor, user_id: str) -> Iterator[Run]:
        def parts(vault_id: str) -> tuple[Run, _Parts]:
            entry = Run(kind=RecordKind.VAULT, user_id=user_id, vault_id=vault_id)
            return entry, {"notes": lambda cursor: self._notes(cursor, user_id, vault_id)}

        for _ in cursor.elements():
            yield from self._named(cursor, "vault_id", parts)

    def _named(
        self,
        cursor: JsonCursor,
        name_key: str,
        parts_of: Callable[[str], tuple[Run, _Parts]],
    ) -> Iterator[Run]:
        """Read an object that has a name and large parts, whichever comes first."""
        parts: _Parts | None = None
        held: list[tuple[str, bytes, int]] = []
        for key in cursor.members():
            if key == name_key:
                entry, parts = parts_of(_text(cursor.value(), name_key))
                yield entry
            elif parts is None:
                raw = cursor.raw()
                held.append((key, raw, cursor.offset - len(raw)))
            elif key in parts:
                yield from parts[key](cursor)
            else:
                cursor.value()
        if parts is None:
            raise IntegrityError(f"an object has no {name_key}", kind="bad_payload", offset=cursor.offset)
        for key, raw, offset in sorted(held, key=lambda item: item[0] == "proposals"):
            inner = self._cursor((raw,), offset)
            if key in parts:
                yield from parts[key](inner)
            else:
                inner.value()

    def _notes(self, cursor: JsonCursor, user_id: str, vault_id: str) -> Iterator[Run]:
        where = f"{user_id}/{vault_id}"

        def single(raw: bytes) -> list[Note]:
            value = cursor.parse(raw)
            try:
                note, adapted = note_from_json(value, where=where)
            except ExportError as error:  # what a hub must not say, a payload must not either
                raise IntegrityError(f"the payload is damaged: {error.message}", kind="bad_payload") from error
            if adapted and len(self._findings) < _MAX_FINDINGS:
                self._findings.append(Finding(code="note_adapted", where=f"{where}/{note.path}", message=adapted))
            return [note]

        for notes in cursor.batches(_note_rows.decode, single):
            yield Run(kind=RecordKind.NOTE, user_id=user_id, vault_id=vault_id, notes=notes)

    def _proposals(self, cursor: JsonCursor, user_id: str) -> Iterator[Run]:
        def single(raw: bytes) -> list[Proposal]:
            value = cursor.parse(raw)
            if not isinstance(value, dict):
                raise IntegrityError("a proposal is not an object", kind="bad_payload", offset=cursor.offset)
            return [value]

        for proposals in cursor.batches(_decode_proposals, single):
            yield Run(kind=RecordKind.PROPOSAL, user_id=user_id, proposals=proposals)

    def _records(self, chunks: Iterable[bytes]) -> Iterator[Run]:
        user_id: str | None = None
        count = 0
        expected: Any = None
        enclosed = False
        for number, line in enumerate(_lines(chunks, self._limits.element_bytes), 1):
            if expected is not None:
                raise IntegrityError("lines follow the end of the records", kind="bad_payload", line=number)
            if number == 1 and line.startswith(b'{"type":"export"'):
                self._facts.update(_fields(line))
                enclosed = True
                continue
            if enclosed and line.startswith(b'{"type":"end"'):
                expected = _fields(line).get("records")
                continue
            record, content = parse_record(line)
            count += 1
            if record.kind is RecordKind.TENANT:
                user_id = record.user_id
            elif record.user_id != user_id:
                raise IntegrityError("a record stands outside its tenant", kind="bad_payload", line=number)
            yield Run(
                kind=record.kind,
                user_id=record.user_id,
                vault_id=record.vault_id,
                notes=(content,) if isinstance(content, Note) else (),
                proposals=(content,) if isinstance(content, dict) else (),
            )
        if enclosed and expected != count:
            raise TruncatedError(f"the payload is cut: it holds {count} records and announces {expected!r:.20}")


def _decode_proposals(text: bytes) -> list[Proposal]:
    proposals = _proposal_rows.decode(text)
    for proposal in proposals:
        check_depth(proposal)
    return proposals


def _supported_version(value: Any) -> int:
    if type(value) is int and value in KINDS:
        return value
    found = "names no format version" if value is None else f"has format version {value!r:.20}"
    hint = "this release reads versions 1, 2 and 4, and the records form"
    raise UnsupportedFormatError(f"the payload {found}", hint=hint)


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    raise IntegrityError(f"a {name} is not text", kind="bad_payload")


def _fields(line: bytes) -> dict[str, Any]:
    value = loads(line)
    return value if isinstance(value, dict) else {}


def _lines(chunks: Iterable[bytes], limit_bytes: int) -> Iterator[bytes]:
    """Split at newlines; the last line must have one, or the file is cut."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*parts, line))
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > limit_bytes:
            raise JsonTooLargeError(f"a record is larger than {limit_bytes} bytes")
    if size:
        raise JsonTruncatedError("the last record has no end")
