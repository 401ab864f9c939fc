"""
Write entries as payloads: full export (version 4), single vault (version 2), and the records form.

Everything streams. Given the entries of a payload that was written canonically, `full_export` reproduces its bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Protocol

from .._engine.canonical import dumps
from .._engine.chunking import joined
from ..errors import ConfigurationError
from ..hub.schema import Proposal
from .reader import KINDS, Entry, PayloadHeader
from .records import RecordKind

__all__ = ["EntrySource", "full_export", "records_export", "tenant_exports", "vault_export"]

_GATHER_BYTES = 1 << 18


class EntrySource(Protocol):
    """Entries in file order with their header: an `ExportReader` or a `GithubBackup`."""

    @property
    def header(self) -> PayloadHeader:
        """What the payload says of itself, known at the latest when iteration has ended."""

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the entries, once."""


def full_export(source: EntrySource, *, exported_at: str | None = None) -> Iterator[bytes]:
    """
    Yield a full export (version 4) in chunks.

    Memory: the proposals of one tenant.

    Args:
        source: What to write; payloads of version 1 and 2 need the ``user_id`` they were read with.
        exported_at: ISO with milliseconds; by default what the source says.

    Raises:
        ConfigurationError: A tenant has no name, a note precedes its vault, or the source does not say when it was
            exported (or says it only after its content) and *exported_at* is not given.
    """
    entries = _peeked(source)
    return joined(_full_export(entries, _moment(source, exported_at)), _GATHER_BYTES)


def tenant_exports(source: EntrySource, *, exported_at: str | None = None) -> Iterator[tuple[str, Iterator[bytes]]]:
    """
    Yield for each tenant its user id and the chunks of a full export that holds this tenant alone.

    The chunks of one tenant must be used before the next tenant is asked for.

    Raises:
        ConfigurationError: As for `full_export`.
    """
    entries = _peeked(source)
    moment = _moment(source, exported_at)
    for user_id, group in itertools.groupby(_numbered(entries), key=lambda item: (item[0], item[1].user_id)):
        yield user_id[1], joined(_full_export((entry for _, entry in group), moment), _GATHER_BYTES)


def vault_export(
    source: EntrySource, *, user_id: str, vault_id: str, exported_at: str | None = None
) -> Iterator[bytes]:
    """
    Yield a single vault (version 2) in chunks.

    Args:
        source: What to take the vault from; it is read to its end.
        user_id: The tenant.
        vault_id: The vault; one that has only proposals counts as existing.
        exported_at: ISO with milliseconds; by default what the source says.

    Raises:
        ConfigurationError: There is no such vault (nothing was yielded then), or as for `full_export`.
    """
    entries = _peeked(source)
    moment = _moment(source, exported_at)
    wanted = (entry for entry in entries if entry.user_id == user_id and entry.vault_id == vault_id)
    first = next(wanted, None)
    if first is None:
        message = f"there is no vault {vault_id!r:.80} of tenant {user_id!r:.80}"
        raise ConfigurationError(message, kind="no_such_vault")
    return joined(_vault_export(itertools.chain((first,), wanted), vault_id, moment), _GATHER_BYTES)


def records_export(source: EntrySource, *, exported_at: str | None = None) -> Iterator[bytes]:
    """
    Yield the records form in chunks: tenants by user id, their records in canonical order.

    Memory: the records of one tenant. Tenants must come sorted by the UTF-8 bytes of their ids for the result to be
    canonical; otherwise they are written in the order they come, which reads the same.

    Raises:
        ConfigurationError: As for `full_export`.
    """
    entries = _peeked(source)
    return joined(_records_export(entries, _moment(source, exported_at)), _GATHER_BYTES)


def _full_export(entries: Iterable[Entry], moment: str) -> Iterator[bytes]:
    yield dumps({"format_version": 4, "kind": KINDS[4], "exported_at": moment})[:-1] + b',"users":['
    tenants = itertools.groupby(_numbered(entries), key=lambda item: item[0])
    for number, group in tenants:
        if number > 1:
            yield b","
        yield from _tenant(entry for _, entry in group)
    yield b"]}"


def _tenant(entries: Iterator[Entry]) -> Iterator[bytes]:
    tenant = next(entries)
    if not tenant.user_id:
        raise ConfigurationError("a tenant has no user id", hint="read this payload with the user_id it belongs to")
    yield b'{"user_id":%b,"vaults":[' % dumps(tenant.user_id)
    vaults = _Vaults()
    proposals: list[bytes] = []
    for entry in entries:
        if entry.kind is RecordKind.VAULT:
            vaults.waiting.append(entry.vault_id)
        elif entry.proposal is not None:
            proposals.append(dumps(entry.proposal))
        elif entry.note is not None:
            yield vaults.before_note(entry.vault_id)
            yield entry.note.to_bytes()
    yield vaults.begin(len(vaults.waiting)) + vaults.end()
    yield b'],"proposals":[%b]}' % b",".join(proposals)


class _Vaults:
    """The text around notes; vaults wait until a note needs them, as the records form names all of them first."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self._opened: str | None = None

    def before_note(self, vault_id: str) -> bytes:
        if vault_id in self.waiting:
            return self.begin(self.waiting.index(vault_id) + 1)
        if vault_id != self._opened:
            raise ConfigurationError("a note precedes its vault", kind="bad_entry_order")
        return b","

    def begin(self, count: int) -> bytes:
        """Begin the first *count* waiting vaults, ending each before the next."""
        parts: list[bytes] = []
        for vault_id in self.waiting[:count]:
            comma = b"]}," if self._opened is not None else b""
            parts.append(b'%b{"vault_id":%b,"notes":[' % (comma, dumps(vault_id)))
            self._opened = vault_id
        del self.waiting[:count]
        return b"".join(parts)

    def end(self) -> bytes:
        return b"]}" if self._opened is not None else b""


def _vault_export(entries: Iterable[Entry], vault_id: str, moment: str) -> Iterator[bytes]:
    head = {"format_version": 2, "kind": KINDS[2], "exported_at": moment, "vault_id": vault_id}
    yield dumps(head)[:-1] + b',"notes":['
    proposals: list[Proposal] = []
    comma = b""
    for entry in entries:
        if entry.note is not None:
            yield comma + entry.note.to_bytes()
            comma = b","
        elif entry.proposal is not None:
            proposals.append(entry.proposal)
    yield b'],"proposals":%b}' % dumps(proposals)


def _records_export(entries: Iterable[Entry], moment: str) -> Iterator[bytes]:
    yield dumps({"type": "export", "exported_at": moment}) + b"\n"
    count = 0
    for _, group in itertools.groupby(_numbered(entries), key=lambda item: item[0]):
        records = sorted((entry.record() for _, entry in group), key=lambda record: (record.sort_key, record.leaf_hash))
        count += len(records)
        for record in records:
            yield record.line + b"\n"
    yield dumps({"type": "end", "records": count}) + b"\n"


def _numbered(entries: Iterable[Entry]) -> Iterator[tuple[int, Entry]]:
    """Pair each entry with the number of its tenant, from 1."""
    number = 0
    for entry in entries:
        if entry.kind is RecordKind.TENANT:
            number += 1
        yield number, entry


def _peeked(source: EntrySource) -> Iterator[Entry]:
    """Begin reading, so that the header in front of the first entry is known."""
    entries = iter(source)
    first = list(itertools.islice(entries, 1))
    return itertools.chain(first, entries)


def _moment(source: EntrySource, exported_at: str | None) -> str:
    moment = exported_at or source.header.exported_at
    if not moment:
        raise ConfigurationError(
            "the payload does not say before its content when it was exported",
            kind="exported_at_unknown",
            hint="pass exported_at",
        )
    return moment
