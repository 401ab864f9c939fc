"""
One export under way: requests in parallel, the payload in order, and the books of what was read.

Events told to the observer, besides those of the hub client:

==========================  ============================================================================
name                        fields
==========================  ============================================================================
``export.started``          ``source_id``, ``kind``
``export.index``            ``tenants`` (listed), ``extra`` (asked for beside the index)
``export.progress``         ``tenants_done``, ``tenants_total``, ``notes``, ``proposals``, ``payload_bytes``,
                            ``elapsed_seconds``, ``bytes_per_second``, ``eta_seconds`` (or `None`)
``export.tenant_failed``    ``user_id``, ``what``, ``vault_id``, ``kind``: something of it could not be read
``export.tenant_copied``    ``user_id``, ``size_bytes``: taken over from the archive that is resumed
``export.finished``         ``complete``, ``tenants``, ``notes``, ``proposals``, ``payload_bytes``, ``requests``,
                            ``retries``, ``elapsed_seconds``
==========================  ============================================================================
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs

from .._engine.cancellation import Cancellation
from .._engine.chunking import joined
from .._engine.prefetch import Done, Step, run_in_order
from .._engine.retrying import RetryBudget
from ..contracts import Observer
from ..errors import ConfigurationError, SourceError
from ..hub.carrier import HubCarrier
from ..hub.client import HubClient
from ..hub.index import read_user_index
from ..hub.limits import CALL_REPLY_LIMIT_BYTES, QUERY_REPLY_LIMIT_BYTES
from ..model.events import Event
from ..model.moments import iso_ms
from ..model.reports import CaptureResult, Finding
from .book import CaptureBook, TenantEntry
from .certified import CertifiedReads
from .forms import Form, Part
from .options import ExportOptions
from .resume import CopiedTenant, finished_tenants
from .tenants import Piece, Problem, RawReply, Remark, TenantReader, TenantStart, Workshop

__all__ = ["ExportCapture", "vault_tag"]

_Item: TypeAlias = Piece | CopiedTenant

_CHUNK_BYTES = 64 * 1024
_WINDOW_PER_THREAD = 16
"""Steps started ahead of the one awaited, per thread: a retry of several seconds must not idle the others."""


class ExportCapture:
    """One export under way; see `Capture` for the contract."""

    def __init__(  # noqa: PLR0913 - the exporters above are the interface
        self,
        *,
        hub: HubClient,
        options: ExportOptions,
        form: Form,
        taken_at: dt.datetime,
        observer: Observer,
        monotonic: Callable[[], float],
        only: tuple[str, str] | None = None,
        reads: CertifiedReads | None = None,
        carrier: HubCarrier | None = None,
    ) -> None:
        self._exported_at = iso_ms(taken_at)
        self._taken_at = taken_at
        self._options = options
        self._form = form
        self._observer = observer
        self._monotonic = monotonic
        self._only = only
        self._reads = reads
        self._cancellation = Cancellation()
        self._source_id = hub.address.source_id
        if only is not None:
            self._source_id += f"/{vault_tag(self._source_id, *only)}"
        self._hub = hub.for_run(
            observer=observer,
            cancellation=self._cancellation,
            concurrency=options.concurrency,
            budget=RetryBudget(options.retry_budget),
            carrier=carrier,
        )
        limit = QUERY_REPLY_LIMIT_BYTES if carrier is None else CALL_REPLY_LIMIT_BYTES
        self._workshop = Workshop(self._hub, options, form, reply_limit_bytes=limit)
        self._book = CaptureBook(raw_replies_bytes=options.raw_replies_bytes)
        self._started = False
        self._result: CaptureResult | None = None
        self._payload_bytes = 0
        self._tenants_done = 0
        self._tenants_total = 0
        self._began = 0.0
        self._reported = 0.0

    @property
    def kind(self) -> str:
        """Kind of the payload."""
        return self._form.kind

    @property
    def name(self) -> str:
        """Start of the artifact's name."""
        return self._form.name

    @property
    def suffix(self) -> str:
        """End of the artifact's name."""
        return self._form.suffix

    @property
    def source_id(self) -> str:
        """The hub's canister id or host; for a single vault followed by a tag that tells tenants and vaults apart."""
        return self._source_id

    @property
    def taken_at(self) -> dt.datetime:
        """When the capture began."""
        return self._taken_at

    def cancel(self) -> None:
        """End the capture early, from any thread: its chunks raise `OperationCancelledError`."""
        self._cancellation.cancel()

    def result(self) -> CaptureResult:
        """Return what was found; raises `ConfigurationError` before the chunks are exhausted."""
        if self._result is None:
            raise ConfigurationError("a capture has a result once all its chunks were read", kind="capture_unfinished")
        return self._result

    def chunks(self) -> Iterator[bytes]:
        """
        Yield the payload in pieces of about 64 KiB, now and then more.

        Raises:
            SourceError: Reading failed; see `HubClient.index_page` for the kinds.
            OperationCancelledError: `cancel` was called.
            ConfigurationError: Called a second time.
        """
        if self._started:
            raise ConfigurationError("a capture can be read once", kind="capture_consumed")
        self._started = True
        with contextlib.closing(self._workshop), contextlib.closing(self._stream()) as stream:
            yield from joined(stream, _CHUNK_BYTES)

    # -- the run ------------------------------------------------------------------------------------------------------

    def _stream(self) -> Generator[bytes, None, None]:
        self._began = self._reported = self._monotonic()
        self._tell("export.started", source_id=self._source_id, kind=self._form.kind)
        if self._only is None:
            before = read_user_index(self._hub, page_size=self._options.index_page_size)
            steps = self._tenant_steps(before)
        else:
            before = ()
            self._tenants_total = 1
            steps = iter((self._only_vault(*self._only),))
        yield self._out(self._form.begin(self._exported_at))
        pieces = run_in_order(
            steps,
            workers=self._options.concurrency,
            window=self._options.concurrency * _WINDOW_PER_THREAD,
            budget_bytes=self._options.buffer_bytes,
            cancellation=self._cancellation,
        )
        with contextlib.closing(pieces):
            yield from self._tenants(pieces)
            complete, index = self._compare_index(before) if self._only is None else (True, {})
        yield self._out(self._form.end(self._book.records))
        self._finish(complete=complete, index=index)

    def _tenant_steps(self, listed: tuple[str, ...]) -> Iterator[Step[_Item]]:
        known = set(listed)
        finished = finished_tenants(self._options.previous, self._form, self._source_id)
        extra = [user_id for user_id in dict.fromkeys((*self._options.extra_users, *finished)) if user_id not in known]
        order = [*listed, *extra]
        if self._form.sorted:
            order.sort(key=lambda user_id: user_id.encode("utf-8", "surrogatepass"))
        self._tenants_total = len(order)
        self._tell("export.index", tenants=len(listed), extra=len(extra))
        for user_id in order:
            copied = finished.get(user_id)
            if copied is not None:
                yield _given(attrs.evolve(copied, listed=user_id in known))
            else:
                yield TenantReader(self._workshop, user_id, listed=user_id in known).step()

    def _only_vault(self, user_id: str, vault_id: str) -> Step[_Item]:
        reader = TenantReader(self._workshop, user_id, listed=True, vault_id=vault_id)
        return reader.step()

    def _tenants(self, pieces: Iterable[_Item]) -> Iterator[bytes]:
        tenant: _OpenTenant | None = None
        for piece in pieces:
            match piece:
                case TenantStart():
                    if tenant is not None:
                        yield from self._close(tenant)
                    tenant = _OpenTenant(reader=piece.reader)
                case CopiedTenant():
                    if tenant is not None:
                        yield from self._close(tenant)
                    tenant = None
                    yield from self._copy(piece)
                case _ if tenant is not None:
                    yield from self._take(tenant, piece)
                case _:  # pragma: no cover - every tenant starts with its start
                    pass
        if tenant is not None:
            yield from self._close(tenant)

    def _take(self, tenant: _OpenTenant, piece: Piece) -> Iterator[bytes]:
        user_id = tenant.reader.user_id
        match piece:
            case Part():
                yield from self._open(tenant)
                for data in self._form.join(piece):
                    yield self._out(data, tenant)
                self._progress()
            case Problem():
                tenant.problems += 1
                self._book.problem(user_id, piece)
                fields = {"what": piece.what, "vault_id": piece.vault_id, "kind": piece.kind}
                self._tell("export.tenant_failed", user_id=user_id, **fields)
            case Remark():
                self._book.remark(piece)
            case RawReply():
                self._book.raw(user_id, piece)
            case _:  # pragma: no cover - the other pieces end a tenant
                pass

    def _open(self, tenant: _OpenTenant) -> Iterator[bytes]:
        if tenant.opened:
            return
        tenant.opened = True
        yield self._out(self._form.separator())
        tenant.offset = self._payload_bytes
        yield self._out(self._form.tenant_begin(tenant.reader.user_id), tenant)

    def _close(self, tenant: _OpenTenant) -> Iterator[bytes]:
        reader = tenant.reader
        if reader.listed and not tenant.problems:
            yield from self._open(tenant)
        self._book.proposals_without_id += reader.proposals_without_id
        if tenant.opened:
            yield self._out(self._form.tenant_end(), tenant)
            status = "partial" if tenant.problems else "complete"
            if not reader.listed:
                message = "the index does not list this tenant, but it has content"
                self._book.warn(Finding(code="hidden_tenant", where=reader.user_id, message=message))
        else:
            status = "failed" if tenant.problems else "absent"
        self._book.tenant(
            TenantEntry(
                user_id=reader.user_id,
                status=status,
                listed=reader.listed,
                offset=tenant.offset,
                size_bytes=tenant.size_bytes,
                sha256=tenant.sha256.hexdigest() if tenant.opened else "",
                digest=reader.content.digest() if tenant.opened else None,
                partial_vaults=tuple(reader.partial_vaults),
            )
        )
        self._tenants_done += 1
        self._progress()

    def _copy(self, copied: CopiedTenant) -> Iterator[bytes]:
        yield self._out(self._form.separator())
        offset = self._payload_bytes
        for data in copied.chunks():
            yield self._out(data)
        if not copied.listed:
            message = "taken over from the resumed archive; the index does not list this tenant any more"
            self._book.warn(Finding(code="hidden_tenant", where=copied.user_id, message=message))
        self._book.tenant(copied.entry(offset))
        self._tell("export.tenant_copied", user_id=copied.user_id, size_bytes=copied.size_bytes)
        self._tenants_done += 1
        self._progress()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _compare_index(self, before: tuple[str, ...]) -> tuple[bool, dict[str, Any]]:
        """Read the index again; return whether that worked, and the drift for the details."""
        try:
            after = read_user_index(self._hub, page_size=self._options.index_page_size)
        except SourceError as error:
            if self._options.on_error == "fail":
                raise
            message = f"the index could not be read again, so drift is unknown: {error.kind}: {error.message}"
            self._book.warn(Finding(code="index_not_reread", where="index", message=message))
            return False, {"before": len(before), "after": None}
        added = sorted(set(after) - set(before))
        removed = sorted(set(before) - set(after))
        if added or removed:
            message = f"{len(added)} tenants appeared and {len(removed)} vanished while the export ran"
            self._book.warn(Finding(code="index_drift", where="index", message=message))
        return True, {"before": len(before), "after": len(after), "added": added, "removed": removed}

    def _finish(self, *, complete: bool, index: Mapping[str, Any]) -> None:
        refused = self._hub.refused_address
        if refused is not None:
            message = (
                f"{refused.host} does not serve hubs, so {self._hub.address.host} was read: configure that address"
            )
            self._book.warn(Finding(code="raw_host", where=refused.host, message=message))
        stats = self._hub.stats
        facts = {
            "payload": {
                "kind": self._form.kind,
                "format_version": self._form.version,
                "exported_at": self._exported_at,
                "size_bytes": self._payload_bytes,
            },
            "source_id": self._source_id,
            "certified": self._reads is not None,
            "index": index,
            "options": {
                "on_error": self._options.on_error,
                "consistency": self._options.consistency,
                "concurrency": self._options.concurrency,
            },
            "transfer": attrs.asdict(stats),
        }
        if self._only is not None:
            # The payload names no tenant; readers that are to find the same content root must be told whose it is.
            facts["user_id"], facts["vault_id"] = self._only
        if self._reads is not None:
            facts["certification"] = self._reads.details()
            self._book.keep(self._reads.side_file())
        self._result = self._book.result(complete=complete, facts=facts)
        self._progress(last=True)
        self._tell(
            "export.finished",
            complete=self._result.complete,
            **{name: self._book.counts[name] for name in ("tenants", "notes", "proposals")},
            payload_bytes=self._payload_bytes,
            requests=stats.requests,
            retries=stats.retries,
            elapsed_seconds=round(self._monotonic() - self._began, 3),
        )

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _out(self, data: bytes, tenant: _OpenTenant | None = None) -> bytes:
        self._payload_bytes += len(data)
        if tenant is not None:
            tenant.size_bytes += len(data)
            tenant.sha256.update(data)
        return data

    def _tell(self, name: str, **fields: Any) -> None:
        self._observer(Event(name=name, fields=fields))

    def _progress(self, *, last: bool = False) -> None:
        now = self._monotonic()
        if not last and now - self._reported < self._options.progress_seconds:
            return
        self._reported = now
        elapsed = now - self._began
        done, total = self._tenants_done, self._tenants_total
        counts = self._book.counts
        self._tell(
            "export.progress",
            tenants_done=done,
            tenants_total=total,
            notes=counts["notes"],
            proposals=counts["proposals"],
            payload_bytes=self._payload_bytes,
            elapsed_seconds=round(elapsed, 3),
            bytes_per_second=round(self._payload_bytes / elapsed) if elapsed > 0 else 0,
            eta_seconds=round(elapsed / done * (total - done), 1) if done else None,
        )


@attrs.define(eq=False)
class _OpenTenant:
    """The tenant whose pieces arrive at present."""

    reader: TenantReader
    opened: bool = False
    problems: int = 0
    offset: int = 0
    size_bytes: int = 0
    sha256: Any = attrs.field(factory=hashlib.sha256)


def _given(piece: CopiedTenant) -> Step[_Item]:
    return Step(lambda: Done((piece,)))


def vault_tag(hub_id: str, user_id: str, vault_id: str) -> str:
    """
    Return 16 hexadecimal digits that stand for one vault of one tenant in the clear manifest.

    Without it, vaults of one name would share a series, and retention would drop one tenant's archives for another's.
    The hash is slow on purpose: tenant ids are easy to enumerate, and the manifest must not confirm a guess cheaply.
    """
    secret = f"{user_id}\0{vault_id}".encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=hub_id.encode(), n=2**14, r=8, p=1, dklen=8).hex()
