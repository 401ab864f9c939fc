"""
Putting a downloaded snapshot back on chain, under this or another canister, and proving that it arrived.

An upload begins with the metadata: from then on the canister has a snapshot of the right sizes full of zeros. Then come
the parts, in any order, and nothing ends it. Whoever loses a part is told by nobody; so at the end everything is read
back, certified, and compared with what lies on the disk.

``replace`` of the network's own interface destroys the old snapshot before the first byte of the new one has arrived.
Here the old one is deleted last, after the new one has been compared. Only a canister that has the most snapshots there
may be leaves no other way; then a copy of the old one must be shown, which is compared with it first.

Events told to the observer:

======================  ================================================================================
name                    fields
======================  ================================================================================
``upload.started``      ``canister_id``, ``size_bytes``, ``parts``, ``cycles`` (estimate), ``resumed``
``upload.began``        ``canister_id``, ``snapshot_id``: it exists, and holds zeros
``upload.progress``     ``phase`` (``send``, ``compare``), ``done_bytes``, ``total_bytes``, ``bytes_per_second``,
                        ``eta_seconds``
``upload.repaired``     ``snapshot_id``, ``parts``: what was not there when read back, and is sent again
``upload.finished``     ``canister_id``, ``snapshot_id``, ``sent_bytes``, ``compared_bytes``, ``elapsed_seconds``
======================  ================================================================================
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, overload

import attrs

from .._engine.adaptive import AdaptiveLimit
from .._engine.cancellation import Cancellation
from ..contracts import Observer, ignore_events
from ..errors import (
    BackupError,
    ConfigurationError,
    DigestMismatchError,
    IntegrityError,
    RejectedError,
    SourceError,
    SourceUnavailableError,
)
from ..ic.candid import upload_data_arg
from ..ic.connections import is_unused
from ..ic.management import CallOptions, ManagementCanister, SnapshotData
from ..ic.wire import Buffer
from ..model.canisters import CHUNK_BYTES, MAX_SNAPSHOTS, Slice, Snapshot, SnapshotMetadata, SnapshotPart
from ..model.events import Event
from ..model.ids import MANAGEMENT_CANISTER, Principal, SnapshotId
from ..model.reports import Finding
from .directory import SnapshotDirectory
from .journal import network_name
from .metadata import metadata_json
from .reading import DownloadOptions, PartReader
from .site import may_still_run
from .upload_journal import UploadJournal, default_journal
from .upload_report import UploadOptions, UploadReport
from .workers import in_order

__all__ = ["SnapshotReader", "UploadOptions", "UploadReport", "abandon_upload", "upload"]

_OVERLOADS: Final = frozenset({"overloaded", "rate_limited"})
_COMPARED: Final = (
    "wasm_module_size",
    "wasm_memory_size",
    "stable_memory_size",
    "globals",
    "certified_data",
    "global_timer",
    "on_low_wasm_memory_hook_status",
)
"""What an upload says; the rest of the metadata is the network's to say."""
_DEFAULT_OPTIONS: Final = UploadOptions()


class SnapshotReader(Protocol):
    """Where the bytes of a snapshot come from: a `SnapshotDirectory`, or anything like it. Used by several threads."""

    @property
    def metadata(self) -> SnapshotMetadata:
        """What there is."""

    def read(self, part: SnapshotPart, /) -> bytes:
        """Return the bytes of a part, the same every time."""


def upload(  # noqa: PLR0913 - one argument per independent part
    management: ManagementCanister,
    source: str | os.PathLike[str] | SnapshotReader,
    canister_id: Principal,
    *,
    options: UploadOptions = _DEFAULT_OPTIONS,
    replace: SnapshotId | None = None,
    safety_copy: SnapshotReader | None = None,
    journal: str | os.PathLike[str] | None = None,
    observer: Observer = ignore_events,
    cancellation: Cancellation | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> UploadReport:
    """
    Upload a snapshot to a canister, and compare what arrived.

    The same call continues an upload that was interrupted. Loading is another step, and may have to wait for the
    network's next checkpoint.

    Args:
        management: Which network, as whom; a controller of the canister.
        source: A directory that ``icp``, ``dfx`` or we wrote, which is checked first; or any `SnapshotReader`.
        canister_id: Who gets it.
        options: Concurrency, times, limits.
        replace: A snapshot to delete once the new one has been compared; at the cap of snapshots, see *safety_copy*.
        safety_copy: A copy of *replace*, for a canister that has all the snapshots it may have: only then *replace* is
            destroyed at once, after the copy was compared with it byte for byte.
        journal: What to note progress in; `None` for ``<directory>.<canister id>.upload`` beside a directory, and for
            no file at all with other sources.
        observer: Told about progress.
        cancellation: Ends the upload early; it is raised when a part fails.
        monotonic: Seconds.

    Raises:
        IntegrityError: The directory is not whole; or, of kind ``upload_mismatch``, the network holds something else
            than was sent, twice; or ``safety_copy_differs``.
        ConfigurationError: A global has no value (``snapshot_globals``), too many cycles (``too_expensive``), the
            journal is in use or about something else.
        SourceError: Of kind ``snapshot_cap``: there is no room; ``replace_unsafe``: nor a proven copy.
        RejectedError: The network said no.
        SourceUnavailableError: It could not be reached, or time ran out (``deadline``).
        OutcomeUnknownError: It is not known whether the snapshot was begun; the next call finds out.
        SinkError: Directory or journal cannot be read or written.

        Once the snapshot was begun, ``context["snapshot_id"]`` names it: call again, or `abandon_upload`.
    """
    with contextlib.ExitStack() as stack:
        reader: SnapshotReader
        identity = b""
        place = None if journal is None else Path(journal)
        if isinstance(source, (str, os.PathLike)):
            reader = stack.enter_context(SnapshotDirectory.open(source))
        else:
            reader = source
        if isinstance(reader, SnapshotDirectory):
            identity = reader.metadata_bytes
            place = place or default_journal(reader.path, canister_id)
        _require_globals(reader.metadata)
        if replace is not None and not options.read_back:
            message = "a snapshot is replaced only after the new one was read back"
            raise ConfigurationError(message, kind="bad_option", hint="leave read_back=True", option="read_back")
        notes = stack.enter_context(
            UploadJournal(
                place,
                canister_id=canister_id,
                network=network_name(management.agent.root_key),
                metadata=identity or metadata_json(reader.metadata),
            )
        )
        run = _Upload(
            management=management,
            reader=reader,
            canister_id=canister_id,
            options=options,
            replace=replace,
            safety_copy=safety_copy,
            journal=notes,
            observer=observer,
            cancellation=cancellation or Cancellation(),
            monotonic=monotonic,
        )
        try:
            return run.run()
        except BaseException as error:
            _explain(error, notes, canister_id)
            raise


def _explain(error: BaseException, notes: UploadJournal, canister_id: Principal) -> None:
    """Say in an error, or an interruption, what is left on chain."""
    if isinstance(error, BackupError):
        error.context.setdefault("canister_id", str(canister_id))
        if notes.snapshot_id is not None:
            error.context.setdefault("snapshot_id", str(notes.snapshot_id))
    if notes.snapshot_id is not None:
        left = f"snapshot {notes.snapshot_id} of canister {canister_id} is not complete"
    elif notes.before is not None:
        left = f"a snapshot of canister {canister_id} may have been begun"
    else:
        return
    error.add_note(f"{left}: upload the same again to go on with it, or give it up with abandon_upload()")


def abandon_upload(
    management: ManagementCanister,
    directory: str | os.PathLike[str] | None,
    canister_id: Principal,
    *,
    journal: str | os.PathLike[str] | None = None,
) -> SnapshotId | None:
    """
    Delete what an upload that did not succeed has left on chain, and its journal.

    Where not even its beginning is certain, nothing is deleted: it could be somebody else's. List the snapshots then.

    Args:
        management: As for `upload`.
        directory: As for `upload`; need not be there any more.
        canister_id: As for `upload`.
        journal: As for `upload`.

    Returns:
        The snapshot that was deleted, `None` when there was none.

    Raises:
        SourceError: It could not be deleted; the journal stays.
        ConfigurationError: Neither directory nor journal was given, or an upload is still running.
    """
    place = Path(journal) if journal is not None else None
    if place is None and directory is not None:
        place = default_journal(Path(directory).absolute(), canister_id)
    if place is None:
        raise ConfigurationError("which upload is to be abandoned?", kind="bad_option", hint="name its directory")
    if not place.exists():
        return None
    network = network_name(management.agent.root_key)
    with UploadJournal(place, canister_id=canister_id, network=network, metadata=None) as notes:
        gone = notes.snapshot_id
        if gone is not None and gone in _ids(management.list_snapshots(canister_id)):
            management.delete_snapshot(canister_id, gone)
        else:
            gone = None
        notes.remove()
        return gone


def _ids(snapshots: Iterable[Snapshot]) -> tuple[SnapshotId, ...]:
    return tuple(item.snapshot_id for item in snapshots)


def _require_globals(metadata: SnapshotMetadata) -> None:
    for place, item in enumerate(metadata.globals):
        if item is None:
            raise ConfigurationError(
                f"global {place} of the snapshot has no value that could be uploaded",
                kind="snapshot_globals",
                hint="icp and dfx lose numbers such as NaN; download the snapshot again with this library",
                place=place,
            )


@attrs.define
class _Argument(Sequence[Buffer]):
    """
    The argument of a call that sends one part, read from the disk again whenever the call is signed.

    The bytes go to the network from where they were read to: the envelope holds a view of them.
    """

    canister_id: Principal
    snapshot_id: SnapshotId
    part: SnapshotPart
    reader: SnapshotReader
    room: bytearray
    """For the bytes of a part."""
    size_bytes: int = 0
    """Of the part, once it was read."""

    def __iter__(self) -> Iterator[Buffer]:
        data = _bytes_of(self.reader, self.part, self.room)
        self.size_bytes = len(data)
        return iter(upload_data_arg(self.canister_id, self.snapshot_id, self.part, data))

    def __len__(self) -> int:
        return len(tuple(self))

    @overload
    def __getitem__(self, index: int) -> Buffer: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Buffer]: ...

    def __getitem__(self, index: int | slice) -> Buffer | Sequence[Buffer]:
        return tuple(self)[index]


class _Rooms:
    """Memory for the parts on their way up, used again and again: new memory costs as much as reading into it."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def clear(self) -> None:
        """Give the memory back that nobody uses."""
        self._free.clear()

    @contextlib.contextmanager
    def one(self) -> Iterator[bytearray]:
        """Lend room for one part until the end of the block."""
        try:
            room = self._free.pop()
        except IndexError:
            room = bytearray(CHUNK_BYTES)
        yield room
        if is_unused(room):  # otherwise a view is left somewhere
            self._free.append(room)


def _bytes_of(reader: SnapshotReader, part: SnapshotPart, room: bytearray) -> Buffer:
    """Return the bytes of a part, in *room* where that is possible."""
    if isinstance(reader, SnapshotDirectory) and isinstance(part, Slice) and part.size_bytes <= len(room):
        view = memoryview(room)[: part.size_bytes]
        reader.read_into(part, view)
        return view
    return reader.read(part)


def _size(part: SnapshotPart) -> int:
    return part.size_bytes if isinstance(part, Slice) else 0


@attrs.define(kw_only=True)
class _Tally:
    """What was done, counted by several threads."""

    calls: int = 0
    retries: int = 0
    sent_bytes: int = 0
    compared_bytes: int = 0
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    def add(self, **counts: int) -> None:
        """Add to counters."""
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


@attrs.define(kw_only=True)
class _Upload:
    """One upload; `run` once."""

    management: ManagementCanister
    reader: SnapshotReader
    canister_id: Principal
    options: UploadOptions
    replace: SnapshotId | None
    safety_copy: SnapshotReader | None
    journal: UploadJournal
    observer: Observer
    cancellation: Cancellation
    monotonic: Callable[[], float]
    tally: _Tally = attrs.field(factory=_Tally)
    rooms: _Rooms = attrs.field(factory=_Rooms)
    limit: AdaptiveLimit = attrs.field(init=False)
    lowest: int = attrs.field(init=False)
    started: float = attrs.field(init=False)
    replaced_at_once: bool = attrs.field(init=False, default=False)
    earlier: tuple[SnapshotId, ...] | None = attrs.field(init=False, default=None)
    """What was there before an upload whose beginning is uncertain."""

    def __attrs_post_init__(self) -> None:
        self.limit = AdaptiveLimit(self.options.concurrency)
        self.lowest = self.options.concurrency
        self.started = self.monotonic()

    # -- the whole ----------------------------------------------------------------------------------------------------

    def run(self) -> UploadReport:
        metadata = self.reader.metadata
        estimate = self.options.prices.upload(metadata)
        back = self.options.prices.download(metadata) if self.options.read_back else None
        self._require_price(estimate.cycles + (back.cycles if back else 0))
        snapshot_id = self._resumed()
        parts = list(metadata.parts())
        self._tell(
            "upload.started",
            canister_id=str(self.canister_id),
            size_bytes=metadata.size_bytes,
            parts=len(parts),
            cycles=estimate.cycles,
            resumed=snapshot_id is not None,
        )
        if snapshot_id is None:
            snapshot_id = self._begin()
        self._tell("upload.began", canister_id=str(self.canister_id), snapshot_id=str(snapshot_id))
        before = self.monotonic()
        taken_over = frozenset(self.journal.done)
        self._send(snapshot_id, [part for part in parts if part not in taken_over])
        between = self.monotonic()
        repaired = self._check(snapshot_id, parts if self.options.read_back else [p for p in parts if p in taken_over])
        after = self.monotonic()
        replaced = self._retire(snapshot_id)
        report = UploadReport(
            canister_id=self.canister_id,
            snapshot_id=snapshot_id,
            size_bytes=metadata.size_bytes,
            sent_bytes=self.tally.sent_bytes,
            compared_bytes=self.tally.compared_bytes,
            repaired_parts=repaired,
            calls=self.tally.calls,
            retries=self.tally.retries,
            lowest_concurrency=self.lowest,
            upload_seconds=between - before,
            read_back_seconds=after - between,
            estimate=estimate,
            read_back_estimate=back,
            replaced=replaced,
            findings=self._strays(snapshot_id),
        )
        self.journal.remove()
        self._tell(
            "upload.finished",
            canister_id=str(self.canister_id),
            snapshot_id=str(snapshot_id),
            sent_bytes=report.sent_bytes,
            compared_bytes=report.compared_bytes,
            elapsed_seconds=round(self.monotonic() - self.started, 3),
        )
        return report

    def _require_price(self, cycles: int) -> None:
        most = self.options.max_cycles
        if most is not None and cycles > most:
            message = f"uploading would take about {cycles:,} cycles, more than the {most:,} allowed"
            raise ConfigurationError(message, kind="too_expensive", hint="raise max_cycles", cycles=cycles)

    def _tell(self, name: str, /, **fields: Any) -> None:
        self.observer(Event(name=name, fields=fields))

    def _call_options(self, on_retry: Callable[[BackupError], None] | None = None) -> CallOptions:
        self.cancellation.check()
        left = self._left_seconds()
        seconds = self.options.call_seconds if left is None else min(left, self.options.call_seconds)
        self.tally.add(calls=1)
        return {
            "deadline_seconds": seconds,
            "cancellation": self.cancellation,
            "on_retry": on_retry or self._retried,
        }

    def _left_seconds(self) -> float | None:
        if self.options.deadline_seconds is None:
            return None
        left = self.options.deadline_seconds - (self.monotonic() - self.started)
        if left <= 0:
            message = f"the upload has not finished in {self.options.deadline_seconds:g} s"
            raise SourceUnavailableError(message, kind="deadline", hint="call again to go on where it was")
        return left

    def _retried(self, _error: BackupError) -> None:
        self.tally.add(retries=1)

    # -- beginning ----------------------------------------------------------------------------------------------------

    def _list(self) -> tuple[SnapshotId, ...]:
        return _ids(self.management.list_snapshots(self.canister_id, **self._call_options()))

    def _resumed(self) -> SnapshotId | None:
        """Return the snapshot an earlier attempt began, if it is still there."""
        if self.journal.snapshot_id is not None:
            if self.journal.snapshot_id in self._list():
                return self.journal.snapshot_id
        elif self.journal.before is not None:
            self.earlier = self.journal.before
            found = self._find_begun(self.earlier)
            if found is not None:
                self.journal.began(found)
                return found
        return None

    def _begin(self) -> SnapshotId:
        # One call after the other, although each waits for a round: without the list from before, an upload whose
        # beginning is uncertain could be taken for another one, which `abandon_upload` would then delete.
        there = self._list()
        replace = self._replaceable(there)
        self.journal.beginning(there)
        try:
            snapshot_id = self.management.upload_snapshot_metadata(
                self.canister_id, self.reader.metadata, replace=replace, **self._call_options()
            )
        except BackupError as error:
            if not may_still_run(error):
                raise
            error.context["may_have_run"] = True
            found = None
            with contextlib.suppress(BackupError):
                found = self._find_begun(there)
            if found is None:
                raise
            snapshot_id = found
        self.journal.began(snapshot_id)
        self.replaced_at_once = replace is not None
        return snapshot_id

    def _find_begun(self, before: tuple[SnapshotId, ...]) -> SnapshotId | None:
        """Return the one new snapshot that looks as if this upload had begun it."""
        found = [item for item in self._list() if item not in before and self._looks_like_ours(item)]
        return found[0] if len(found) == 1 else None

    def _looks_like_ours(self, snapshot_id: SnapshotId) -> bool:
        there = self.management.read_snapshot_metadata(self.canister_id, snapshot_id, **self._call_options()).metadata
        return there.source == "metadata_upload" and not self._differences(there)

    def _differences(self, there: SnapshotMetadata) -> list[str]:
        return [name for name in _COMPARED if getattr(there, name) != getattr(self.reader.metadata, name)]

    # -- replacing ----------------------------------------------------------------------------------------------------

    def _replaceable(self, there: tuple[SnapshotId, ...]) -> SnapshotId | None:
        """Return what must be replaced at once for want of room; see the module."""
        if self.replace is not None and self.replace not in there:
            message = f"canister {self.canister_id} has no snapshot {self.replace} to replace"
            raise RejectedError(message, kind="snapshot_not_found", hint="list its snapshots")
        if len(there) < MAX_SNAPSHOTS:
            return None
        if self.replace is None:
            message = f"canister {self.canister_id} has {len(there)} snapshots; the network allows {MAX_SNAPSHOTS}"
            raise SourceError(message, kind="snapshot_cap", hint="delete one, or pass replace= and safety_copy=")
        if self.safety_copy is None:
            raise SourceError(
                f"snapshot {self.replace} would be destroyed before the new one has arrived",
                kind="replace_unsafe",
                hint="download it and pass the directory as safety_copy=, or delete another one",
            )
        self._prove_copy(self.replace, self.safety_copy)
        return self.replace

    def _prove_copy(self, snapshot_id: SnapshotId, copy: SnapshotReader) -> None:
        there = self.management.read_snapshot_metadata(self.canister_id, snapshot_id, **self._call_options()).metadata
        same = _unordered(there) == _unordered(copy.metadata)
        if not same or self._differing(snapshot_id, list(there.parts()), copy):
            message = f"the safety copy is not one of snapshot {snapshot_id}"
            raise IntegrityError(message, kind="safety_copy_differs", hint="download the snapshot again")

    def _retire(self, snapshot_id: SnapshotId) -> SnapshotId | None:
        """Delete the snapshot that is to be replaced, now that the new one is known to be whole."""
        if self.replace is None or self.replaced_at_once or self.replace == snapshot_id:
            return self.replace if self.replaced_at_once else None
        if self.replace in self._list():
            try:
                self.management.delete_snapshot(self.canister_id, self.replace, **self._call_options())
            except BackupError as error:
                if not may_still_run(error) or self.replace in self._list():
                    raise
        return self.replace

    def _strays(self, snapshot_id: SnapshotId) -> tuple[Finding, ...]:
        """Name snapshots that an earlier attempt may have begun without anybody knowing."""
        if self.earlier is None:
            return ()
        known = {*self.earlier, snapshot_id}
        return tuple(
            Finding(
                code="stray_snapshot",
                where=str(item),
                message=f"snapshot {item} of canister {self.canister_id} came while an upload was uncertain",
            )
            for item in self._list()
            if item not in known
        )

    # -- parts --------------------------------------------------------------------------------------------------------

    def _send(self, snapshot_id: SnapshotId, parts: list[SnapshotPart]) -> None:
        def send(part: SnapshotPart) -> SnapshotPart:
            with self._admitted() as options, self.rooms.one() as room:
                arg = _Argument(self.canister_id, snapshot_id, part, self.reader, room)
                self.management.agent.call(
                    MANAGEMENT_CANISTER,
                    "upload_canister_snapshot_data",
                    arg,
                    effective_canister_id=self.canister_id,
                    repeatable=True,  # the same bytes go to the same place
                    **options,
                )
            self.tally.add(sent_bytes=arg.size_bytes)
            self.journal.arrived(part)
            return part

        workers = min(self.options.concurrency, max(1, len(parts)))
        results = in_order(
            send, parts, workers=workers, window=_WINDOW_PER_CALL * workers, cancellation=self.cancellation
        )
        self._each(results, parts, "send")
        self.rooms.clear()
        self.lowest = min(self.lowest, self.limit.lowest)

    def _check(self, snapshot_id: SnapshotId, parts: list[SnapshotPart]) -> int:
        """Compare *parts* with the network, send again what differs; return how many did."""
        if not parts:
            return 0
        there = self.management.read_snapshot_metadata(self.canister_id, snapshot_id, **self._call_options()).metadata
        differing = self._differences(there)
        if differing:
            message = f"snapshot {snapshot_id} has other {', '.join(differing)} than was sent"
            raise IntegrityError(message, kind="upload_mismatch", hint=_ABANDON, parts=differing)
        lost = self._differing(snapshot_id, parts, self.reader)
        if not lost:
            return 0
        self._tell("upload.repaired", snapshot_id=str(snapshot_id), parts=[str(part) for part in lost[:20]])
        self._send(snapshot_id, lost)
        still = self._differing(snapshot_id, lost, self.reader)
        if still:
            raise IntegrityError(
                f"{len(still)} parts of snapshot {snapshot_id} are not what was sent, first {still[0]}",
                kind="upload_mismatch",
                hint=_ABANDON,
                parts=[str(part) for part in still[:20]],
            )
        return len(lost)

    def _differing(
        self, snapshot_id: SnapshotId, parts: list[SnapshotPart], reader: SnapshotReader
    ) -> list[SnapshotPart]:
        chain = PartReader(
            self.management,
            self.canister_id,
            snapshot_id,
            options=self._read_options(len(parts)),
            cancellation=self.cancellation,
            monotonic=self.monotonic,
        )
        lost: list[SnapshotPart] = []

        def compared(part: SnapshotPart, data: SnapshotData) -> None:
            with self.rooms.one() as room:
                same = _equal(data.chunk, _bytes_of(reader, part, room))
            if not same:
                lost.append(part)
            else:
                self.tally.add(compared_bytes=data.chunk.nbytes)

        def compare(part: SnapshotPart) -> SnapshotPart:
            self.tally.add(calls=1)
            try:
                chain.fetch(part, compared)
            except DigestMismatchError:
                lost.append(part)
            except RejectedError as error:
                if isinstance(part, Slice) or error.kind not in _CHUNK_GONE:
                    raise
                lost.append(part)
            return part

        self._each(chain.in_order(parts, compare), parts, "compare")
        self.lowest = min(self.lowest, chain.lowest_concurrency)
        return lost

    def _read_options(self, parts: int) -> DownloadOptions:
        return DownloadOptions(
            concurrency=min(self.options.read_concurrency, max(1, parts)),
            answers_in_memory=8,
            deadline_seconds=self._left_seconds(),
            call_seconds=self.options.call_seconds,
        )

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[CallOptions]:
        with self.limit.admit(self.cancellation) as admitted_in:

            def on_retry(error: BackupError) -> None:
                self._retried(error)
                if error.kind in _OVERLOADS:
                    self.limit.overloaded(admitted_in)

            yield self._call_options(on_retry)
        self.limit.succeeded()

    def _each(self, results: Iterable[SnapshotPart], parts: list[SnapshotPart], phase: str) -> None:
        """Take in *results*, which come in the order of *parts*, and tell how far it is."""
        total = sum(map(_size, parts))
        done = 0
        began = told = self.monotonic()
        for part in results:
            done += _size(part)
            now = self.monotonic()
            if now - told >= self.options.progress_seconds or part is parts[-1]:
                told = now
                rate = done / max(now - began, 1e-9)
                self._tell(
                    "upload.progress",
                    phase=phase,
                    done_bytes=done,
                    total_bytes=total,
                    bytes_per_second=round(rate),
                    eta_seconds=round((total - done) / rate, 1) if rate else None,
                )


_ABANDON: Final = "do not load it; abandon_upload deletes it"
_CHUNK_GONE: Final = frozenset({"canister_error"})
"""The network's word for a chunk that a store does not have."""


_WINDOW_PER_CALL: Final = 4
"""Parts that may be finished before their turn, for each call under way."""
_SLICE: Final = 1 << 16


def _equal(found: memoryview, wanted: Buffer) -> bool:
    """Compare without a copy of everything; views as such are compared item by item, at ten times the cost."""
    other = memoryview(wanted)
    return found.nbytes == other.nbytes and all(
        found[start : start + _SLICE].tobytes() == other[start : start + _SLICE].tobytes()
        for start in range(0, len(wanted), _SLICE)
    )


def _unordered(metadata: SnapshotMetadata) -> SnapshotMetadata:
    return attrs.evolve(metadata, wasm_chunk_store=tuple(sorted(metadata.wasm_chunk_store)))
