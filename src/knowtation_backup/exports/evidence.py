r"""
The evidence of a certified export: a file beside the payload with every reply and what the subnet signed about it.

Layout, numbers big endian::

    magic     "knowtation-backup evidence 1\n"
    frame     length u32, then so many bytes: kind (1 byte) and content; the kinds in this order
      "H"     canonical JSON: what was read, by whom, how; see `EvidenceHeader`
      "R"     any number of replies, in the order of their arrival:
                length u32, canonical JSON {"number":…, question, "arg_sha256":…}; see `Question.to_json`
                length u32, the call's evidence as CBOR; see `CallEvidence`
                the Candid reply, zlib with the dictionary below
      "B"     the delegations the replies refer to
      "E"     canonical JSON {"replies":…,"known_paths":[[tenant, vault, [path…]]…]}, then the SHA-256 of all before it

Everything is checked by the certificates and the payload; the digest at the end is for accidents. Secrets that requests
held are not in here: the question shows their headers without values, the call's evidence the hash of its argument.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from .._engine.canonical import JsonError, dumps, loads
from ..errors import CertificateError, ExportError, IntegrityError, UnsupportedFormatError
from ..ic.evidence import CallEvidence, CertifiedReply, DelegationBook
from ..model.canisters import moment_of
from ..model.ids import Principal
from .questions import Question

__all__ = ["EVIDENCE_NAME", "EvidenceFile", "EvidenceHeader", "EvidenceRecord", "EvidenceWriter"]

EVIDENCE_NAME: Final = "certified-replies.bin"
"""Name of the side file."""

_MAGIC: Final = b"knowtation-backup evidence 1\n"
_MAX_REPLY_BYTES: Final = 4 << 20
"""The network's own limit is 2 MiB."""
_LENGTH: Final = struct.Struct(">I")
_DICTIONARY: Final = (
    b'{"vaults":[{"id":"default","label":"default"}]}{"format_version":3,"kind":"knowtation-operator-user-index",'
    b'"exported_at_ns":"","user_ids":["google:github:"],"next_cursor":"","done":true}{"proposals":[],"total":0}'
    b'{"error":"","code":"NOT_FOUND"}{"notes":[{"path":".md","frontmatter":"{\\"title\\":\\"\\"}","body":""},'
    b'{"proposal_id":"prop-","path":"","status":"proposed","approved","discarded","intent":"","base_state_id":"",'
    b'"external_ref":"","vault_id":"default","created_at":"2026-","updated_at":"2026-","evaluation_status":"",'
    b'"evaluation_grade":"","evaluated_by":"","evaluated_at":"","review_queue":"","review_severity":"",'
    b'"auto_flag_reasons_json":"[]","body":"","frontmatter":"{}","evaluation_checklist":"[]","evaluation_comment":"",'
    b'"evaluation_waiver":null,"review_hints":"","review_hints_at":"","review_hints_model":"","assistant_notes":"",'
    b'"assistant_model":"","assistant_at":"","suggested_labels":[],"assistant_suggested_frontmatter":{}}'
)
"""What many small replies begin with, so that each can be compressed on its own. Part of the format."""


@attrs.frozen(kw_only=True)
class EvidenceHeader:
    """
    What was read, by whom, and the options that decide which requests an export makes.

    The nonce of every call depends on all of it, so nothing in here can be changed afterwards.
    """

    kind: str
    """Of the payload."""
    canister_id: Principal
    sender: Principal
    run_id: bytes
    exported_at: str
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def to_bytes(self) -> bytes:
        """Return canonical JSON."""
        return dumps(
            {
                "kind": self.kind,
                "canister_id": str(self.canister_id),
                "sender": str(self.sender),
                "run_id": self.run_id.hex(),
                "exported_at": self.exported_at,
                "options": self.options,
            }
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).digest()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EvidenceHeader:
        """Return the header of `to_bytes`; raises what `Question.from_json` raises."""
        return cls(
            kind=value["kind"],
            canister_id=Principal.parse(value["canister_id"]),
            sender=Principal.parse(value["sender"]),
            run_id=bytes.fromhex(value["run_id"]),
            exported_at=value["exported_at"],
            options=value["options"],
        )


@attrs.frozen(kw_only=True)
class EvidenceRecord:
    """One reply; it stays compressed until asked for."""

    number: int
    question: Question
    arg_sha256: bytes | None
    """Of the argument, when the question lacks secrets that were in it."""
    evidence: CallEvidence
    _packed: memoryview = attrs.field(repr=False)

    def reply(self) -> bytes:
        """Return the Candid reply; raises `IntegrityError` when it cannot be unpacked."""
        try:
            unpacking = zlib.decompressobj(zdict=_DICTIONARY)
            reply = unpacking.decompress(self._packed, _MAX_REPLY_BYTES + 1)
        except zlib.error as error:
            raise _damaged(f"reply {self.number} cannot be unpacked") from error
        if not unpacking.eof or unpacking.unused_data or len(reply) > _MAX_REPLY_BYTES:
            raise _damaged(f"reply {self.number} has another size")
        return reply


class EvidenceWriter:
    """
    Collects replies in memory, compressed; thread-safe.

    Args:
        header: Comes first.
        limit_bytes: Beyond it the export fails rather than use up the memory.
    """

    def __init__(self, header: EvidenceHeader, *, limit_bytes: int) -> None:
        self.header: EvidenceHeader = header
        self.run: bytes = header.digest
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._file = io.BytesIO()  # grows in place and gives its buffer away without a copy
        self._book = DelegationBook()
        self._numbers = 0
        self._replies = 0
        self._first_ns = self._last_ns = 0
        self._file.write(_MAGIC + _frame(b"H", header.to_bytes()))

    @property
    def replies(self) -> int:
        """How many were kept."""
        return self._replies

    @property
    def certified_from(self) -> dt.datetime | None:
        """Earliest time in a certificate; `None` before the first reply."""
        return moment_of(self._first_ns) if self._replies else None

    @property
    def certified_to(self) -> dt.datetime | None:
        """Latest time in a certificate; `None` before the first reply."""
        return moment_of(self._last_ns) if self._replies else None

    def next_number(self) -> int:
        """Return the number of the next call."""
        with self._lock:
            self._numbers += 1
            return self._numbers

    def add(self, number: int, question: Question, arg: bytes, reply: CertifiedReply) -> None:
        """
        Keep a verified reply to *question*, which was asked with *arg*.

        Raises:
            ExportError: Kind ``evidence_too_large``: more than the options allow to be held.
        """
        packing = zlib.compressobj(6, zdict=_DICTIONARY)
        packed = packing.compress(reply.reply) + packing.flush()
        arg_sha256 = hashlib.sha256(arg).digest() if question.secret_names else None
        head = _head(number, question, arg_sha256)
        evidence = CallEvidence.of(reply)
        with self._lock:
            call = evidence.to_cbor(self._book)
            parts = (_LENGTH.pack(len(head)), head, _LENGTH.pack(len(call)), call, packed)
            self._file.write(_frame(b"R", *parts))
            self._first_ns = min(self._first_ns or reply.time_ns, reply.time_ns)
            self._last_ns = max(self._last_ns, reply.time_ns)
            self._replies += 1
            size = self._file.tell()
        if size > self._limit:
            message = f"the evidence takes more than {self._limit} bytes ({self._replies} replies so far)"
            hint = "raise evidence_bytes of ExportOptions; it is held in memory until the end"
            raise ExportError(message, kind="evidence_too_large", hint=hint, limit_bytes=self._limit)

    def finish(self, known_paths: Sequence[Sequence[Any]] = ()) -> bytes:
        """Return the whole file."""
        with self._lock:
            self._file.write(_frame(b"B", self._book.to_cbor()))
            end = dumps({"replies": self._replies, "known_paths": [list(item) for item in known_paths]})
            digest = hashlib.sha256(self._file.getbuffer()).digest()
            self._file.write(_frame(b"E", end, digest))
            return self._file.getvalue()


def _frame(kind: bytes, *parts: bytes) -> bytes:
    return b"".join((_LENGTH.pack(len(kind) + sum(map(len, parts))), kind, *parts))


@attrs.frozen(kw_only=True)
class EvidenceFile:
    """A file that was read back. Nothing in it is verified yet but its digest."""

    header: EvidenceHeader
    records: tuple[EvidenceRecord, ...]
    """By number, the order in which they were asked for."""
    known_paths: Mapping[tuple[str, str], tuple[str, ...]]

    @classmethod
    def parse(cls, data: bytes) -> EvidenceFile:
        """
        Read a file.

        Raises:
            UnsupportedFormatError: It is no such file, or of a later version.
            IntegrityError: Kind ``bad_evidence``: it is cut, damaged or malformed.
        """
        if not data.startswith(_MAGIC):
            raise UnsupportedFormatError("this is not the evidence of an export, or of a later version")
        try:
            return cls._parsed(memoryview(data))
        except CertificateError as error:
            raise _damaged(error.message) from error
        except (JsonError, ValueError, KeyError, TypeError, AttributeError, struct.error, OverflowError) as error:
            raise _damaged("it is malformed") from error

    @classmethod
    def _parsed(cls, data: memoryview) -> EvidenceFile:
        frames = list(_frames(data))
        kinds = b"".join(bytes(content[:1]) for content, _ in frames)
        if kinds != b"H" + b"R" * (len(frames) - 3) + b"BE":
            raise _damaged("its parts are not in order")
        last, start = frames[-1]
        digest = hashlib.sha256(data[:start]).digest()
        if bytes(last[-len(digest) :]) != digest:
            raise _damaged("its digest does not match")
        end = _json(last[1 : -len(digest)])
        header = EvidenceHeader.from_json(_json(frames[0][0][1:]))
        if header.to_bytes() != frames[0][0][1:]:
            raise _damaged("its header holds more than a header")
        book = DelegationBook.from_cbor(bytes(frames[-2][0][1:]))
        records = sorted((_record(content[1:], book) for content, _ in frames[1:-2]), key=lambda record: record.number)
        if end["replies"] != len(records) or len({record.number for record in records}) != len(records):
            raise _damaged("replies are missing or repeated")
        known = {(user_id, vault_id): tuple(paths) for user_id, vault_id, paths in end["known_paths"]}
        return cls(header=header, records=tuple(records), known_paths=known)


def _frames(data: memoryview) -> Iterator[tuple[memoryview, int]]:
    position = len(_MAGIC)
    while position < len(data):
        (size,) = _LENGTH.unpack_from(data, position)
        content = data[position + _LENGTH.size : position + _LENGTH.size + size]
        if not size or len(content) != size:
            raise _damaged("it is cut")
        yield content, position
        position += _LENGTH.size + size


def _record(content: memoryview, book: DelegationBook) -> EvidenceRecord:
    head, rest = _sized(content)
    call, packed = _sized(rest)
    value = _json(head)
    number = value["number"]
    if not isinstance(number, int) or not 0 < number < 2**63:
        raise _damaged("a reply has no number")
    question = Question.from_json(value)
    arg_sha256 = bytes.fromhex(value["arg_sha256"]) if question.secret_names else None
    if _head(number, question, arg_sha256) != head:
        raise _damaged("a reply holds more than a question")
    evidence = CallEvidence.from_cbor(bytes(call), book)
    return EvidenceRecord(number=number, question=question, arg_sha256=arg_sha256, evidence=evidence, packed=packed)


def _head(number: int, question: Question, arg_sha256: bytes | None) -> bytes:
    value = {"number": number, **question.to_json()}
    return dumps(value if arg_sha256 is None else value | {"arg_sha256": arg_sha256.hex()})


def _sized(content: memoryview) -> tuple[memoryview, memoryview]:
    (size,) = _LENGTH.unpack_from(content)
    part = content[_LENGTH.size : _LENGTH.size + size]
    if len(part) != size:
        raise _damaged("a part is cut")
    return part, content[_LENGTH.size + size :]


def _json(data: memoryview) -> Mapping[str, Any]:
    text = bytes(data)
    value = loads(text)
    if not isinstance(value, dict) or dumps(value) != text:
        raise _damaged("a part is not canonical JSON")
    return value


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(f"the evidence is damaged: {what}", kind="bad_evidence", hint="take another copy of it")
