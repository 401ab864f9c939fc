"""Taking finished tenants over from an earlier, incomplete archive of the same hub."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from ..errors import ConfigurationError, DigestMismatchError, IntegrityError, TruncatedError
from .book import CAPTURE_FORMAT, TenantEntry
from .forms import Form
from .options import PreviousExport
from .records import TenantDigest

__all__ = ["CopiedTenant", "PreviousArchive", "finished_tenants"]


class PreviousArchive:
    """
    A `PreviousExport` over anything that can be opened as a stream of plain payload bytes.

    It reads forward, and starts again from the beginning only when an earlier range is asked for.

    Args:
        capture_details: `CaptureResult.details` of that archive.
        open_payload: Starts reading the plain payload; may be called several times.
    """

    def __init__(self, capture_details: Mapping[str, Any], open_payload: Callable[[], Iterator[bytes]]) -> None:
        self._details = capture_details
        self._open_payload = open_payload
        self._stream: Iterator[bytes] = iter(())
        self._position: int | None = None
        self._rest = b""

    @property
    def capture_details(self) -> Mapping[str, Any]:
        """The details of that archive."""
        return self._details

    def read(self, offset: int, size_bytes: int) -> Iterator[bytes]:
        """
        Yield the payload bytes ``[offset, offset + size_bytes)``.

        Raises:
            TruncatedError: The payload ends before.
        """
        if self._position is None or offset < self._position:
            self._stream, self._position, self._rest = self._open_payload(), 0, b""
        for _ in self._take(offset - self._position):
            pass
        yield from self._take(size_bytes)

    def _take(self, size_bytes: int) -> Iterator[bytes]:
        position = self._position or 0
        end = position + size_bytes
        for data in itertools.chain((self._rest,), self._stream):
            piece = data[: end - position]
            position += len(piece)
            self._position, self._rest = position, data[len(piece) :]
            if piece:
                yield piece
            if position == end:
                return
        raise TruncatedError(f"the earlier payload ends at {position}, before offset {end}", offset=position)


@attrs.frozen(kw_only=True)
class CopiedTenant:
    """A tenant whose payload bytes are copied, checked against their recorded hash."""

    user_id: str
    listed: bool
    offset: int
    size_bytes: int
    sha256: str
    digest: TenantDigest
    copied_from: str
    previous: PreviousExport = attrs.field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """
        Yield the tenant's bytes.

        Raises:
            DigestMismatchError: They are not what was recorded; nothing of this capture may be published.
        """
        digest = hashlib.sha256()
        for data in self.previous.read(self.offset, self.size_bytes):
            digest.update(data)
            yield data
        if digest.hexdigest() != self.sha256:
            message = f"the bytes of tenant {self.user_id} in the resumed archive are not what was recorded"
            raise DigestMismatchError(message, hint="verify that archive; export without resuming it")

    def entry(self, offset: int) -> TenantEntry:
        """Return the entry for the details, at its new place."""
        return TenantEntry(
            user_id=self.user_id,
            status="complete",
            listed=self.listed,
            offset=offset,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            digest=self.digest,
            copied_from=self.copied_from,
        )


def finished_tenants(previous: PreviousExport | None, form: Form, source_id: str) -> dict[str, CopiedTenant]:
    """
    Return the tenants that *previous* holds completely, by id, in its order.

    Raises:
        ConfigurationError: It is an archive of another hub or of another form.
        IntegrityError: Its details cannot be read.
    """
    if previous is None:
        return {}
    details = previous.capture_details
    try:
        if details["format"] != CAPTURE_FORMAT or details["format_version"] != 1:
            raise ConfigurationError("the archive to resume has details of another format", kind="not_resumable")
        found = (details["payload"]["kind"], details["source_id"])
        if found != (form.kind, source_id):
            message = f"cannot resume {found[0]!r:.80} of {found[1]!r:.80} with {form.kind!r} of {source_id!r}"
            raise ConfigurationError(message, kind="not_resumable")
        taken_at = str(details["payload"]["exported_at"])
        tenants = [entry for entry in details["tenants"] if entry["status"] == "complete"]
        return {entry["user_id"]: _copied(entry, taken_at, previous) for entry in tenants}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise IntegrityError("the details of the archive to resume cannot be read", kind="details") from error


def _copied(entry: Mapping[str, Any], taken_at: str, previous: PreviousExport) -> CopiedTenant:
    digest = TenantDigest(
        user_id=str(entry["user_id"]),
        content_root=str(entry["content_root"]),
        **{name: int(entry[name]) for name in ("records", "vaults", "notes", "proposals")},
    )
    return CopiedTenant(
        user_id=digest.user_id,
        listed=bool(entry["listed"]),
        offset=int(entry["offset"]),
        size_bytes=int(entry["size_bytes"]),
        sha256=str(entry["sha256"]),
        digest=digest,
        copied_from=str(entry.get("copied_from", taken_at)),
        previous=previous,
    )
