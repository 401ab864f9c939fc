"""
The management canister ``aaaaa-aa`` as seen by a canister's controller: snapshots, status, settings, logs.

Each method is one request; what several of them make together is the business of ``snapshots``. Which of them are
marked as repeatable follows from what they do:

=============================================  =====================================================================
repeatable                                     why
=============================================  =====================================================================
reads, lists, status                           they change nothing
``start``                                      a second one finds the canister as the first one left it
``upload_snapshot_data``                       the same bytes go to the same place
not: ``take_snapshot``, ``upload_snapshot_     a second one makes a second snapshot, or finds the one to replace gone
metadata``
not: ``stop``                                  one that comes late stops a canister that was started meanwhile
not: ``load_snapshot``                         a second one would discard what the canister did in between
not: ``delete_snapshot``, ``update_settings``  a second one may fail, or undo what somebody else did in between
=============================================  =====================================================================

Source:
    IC interface specification, "The IC management canister"; internet-computer reference, A.12, C and D.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

import attrs

from ..errors import CertificateError, ConfigurationError, RejectedError
from ..model.canisters import CanisterStatus, LogRecord, PublicInfo, Snapshot, SnapshotMetadata, SnapshotPart
from ..model.ids import MANAGEMENT_CANISTER, Principal, SnapshotId
from . import management_types as types
from .candid import metadata_read_arg, snapshot_chunk, snapshot_read_arg, upload_data_arg
from .cbor import Buffer, CborError
from .cbor import decode as decode_cbor
from .hash_tree import NOT_USED, Absent, Found

if TYPE_CHECKING:
    from .._engine.cancellation import Cancellation
    from .agent import Agent
    from .evidence import CertifiedReply
    from .link import OnRetry

__all__ = [
    "CallOptions",
    "CertifiedMetadata",
    "ManagementCanister",
    "ReadOptions",
    "SnapshotData",
    "metadata_read_arg",
    "snapshot_read_arg",
]

_QUERY_REFUSALS: Final = frozenset({"IC0407", "IC0536"})
"""What replicas say that do not answer ``canister_status`` as a query."""


class ReadOptions(TypedDict, total=False):
    """What every method takes beside its own arguments."""

    deadline_seconds: float | None
    """For the request with everything that is tried again; the agent's own when `None`."""
    cancellation: Cancellation | None
    """Ends waiting."""


class CallOptions(ReadOptions, total=False):
    """What the calls and queries take besides."""

    on_retry: OnRetry | None
    """Told each failure that is waited out."""


@attrs.frozen(kw_only=True, eq=False)
class CertifiedMetadata:
    """The metadata of a snapshot and the reply that proves it."""

    metadata: SnapshotMetadata
    reply: CertifiedReply = attrs.field(repr=False)


@attrs.frozen(kw_only=True, eq=False)
class SnapshotData:
    """A chunk of a snapshot, as a view into the reply that proves it."""

    chunk: memoryview = attrs.field(repr=False)
    reply: CertifiedReply = attrs.field(repr=False)


@attrs.frozen
class ManagementCanister:
    """
    The management canister, asked by way of an agent. Thread-safe.

    All methods raise what `Agent.call`, `Agent.query` and `Agent.read_state` raise, and `SourceError` of kind
    ``bad_candid`` for replies that cannot be read. Refusals are `RejectedError` with the network's ``error_code``:
    ``IC0512`` (not a controller), ``IC0301`` (no such canister), ``IC0305`` (no such snapshot) for all of them.

    Args:
        agent: Which network, as whom.
    """

    agent: Agent

    # --- snapshots --------------------------------------------------------------------------------------------------

    def take_snapshot(
        self,
        canister_id: Principal,
        *,
        replace: SnapshotId | None = None,
        uninstall_code: bool = False,
        **options: Unpack[CallOptions],
    ) -> Snapshot:
        """
        Take a snapshot of a canister, which should be stopped.

        Args:
            canister_id: Of what.
            replace: A snapshot of the same canister that the new one takes the place of, all or nothing.
            uninstall_code: Remove the code afterwards, in the same step; older networks ignore this.
            options: Deadline, cancellation, retries.

        Raises:
            RejectedError: ``IC0406``: the canister has no code, or ten snapshots already; ``IC0532``: too few cycles.
            OutcomeUnknownError: It may have been taken: list the snapshots before trying again.
        """
        arg = types.take_arg(canister_id, replace=replace, uninstall_code=uninstall_code)
        return types.snapshot_of(self._call(canister_id, "take_canister_snapshot", arg, **options).reply)

    def load_snapshot(self, canister_id: Principal, snapshot_id: SnapshotId, **options: Unpack[CallOptions]) -> None:
        """
        Put a canister into the state of a snapshot, which may belong to another canister of its subnet.

        Raises:
            RejectedError: Kind ``not_loadable``: not before the next checkpoint; ``IC0408``: module and metadata of an
                uploaded snapshot do not fit each other; ``IC0406``: the caller does not control the snapshot's owner.
            OutcomeUnknownError: It may have been loaded.
        """
        self._call(canister_id, "load_canister_snapshot", types.snapshot_arg(canister_id, snapshot_id), **options)

    def list_snapshots(self, canister_id: Principal, **options: Unpack[CallOptions]) -> tuple[Snapshot, ...]:
        """Return the snapshots of a canister, certified, in the network's order."""
        arg = types.canister_arg(canister_id)
        reply = self._call(canister_id, "list_canister_snapshots", arg, repeatable=True, **options)
        return types.snapshots_of(reply.reply)

    def delete_snapshot(self, canister_id: Principal, snapshot_id: SnapshotId, **options: Unpack[CallOptions]) -> None:
        """
        Delete a snapshot, for ever.

        Raises:
            OutcomeUnknownError: It may be gone: list the snapshots.
        """
        self._call(canister_id, "delete_canister_snapshot", types.snapshot_arg(canister_id, snapshot_id), **options)

    def read_snapshot_metadata(
        self, canister_id: Principal, snapshot_id: SnapshotId, **options: Unpack[CallOptions]
    ) -> CertifiedMetadata:
        """Return sizes, globals and stored chunks of a snapshot, with the proof."""
        arg = metadata_read_arg(canister_id, snapshot_id)
        reply = self._call(canister_id, "read_canister_snapshot_metadata", arg, repeatable=True, **options)
        return CertifiedMetadata(metadata=types.snapshot_metadata_of(reply.reply), reply=reply)

    def read_snapshot_data(
        self, canister_id: Principal, snapshot_id: SnapshotId, part: SnapshotPart, **options: Unpack[CallOptions]
    ) -> SnapshotData:
        """
        Return one part of a snapshot, with the proof. Whether it has the expected length is the caller's to check.

        Raises:
            RejectedError: ``IC0408``: more than 2,000,000 bytes, or beyond the end; ``IC0504``: no such stored chunk.
        """
        arg = snapshot_read_arg(canister_id, snapshot_id, part)
        reply = self._call(canister_id, "read_canister_snapshot_data", arg, repeatable=True, **options)
        return SnapshotData(chunk=snapshot_chunk(reply.reply), reply=reply)

    def upload_snapshot_metadata(
        self,
        canister_id: Principal,
        metadata: SnapshotMetadata,
        *,
        replace: SnapshotId | None = None,
        **options: Unpack[CallOptions],
    ) -> SnapshotId:
        """
        Begin a snapshot by upload: it has these sizes and is full of zeros.

        Args:
            canister_id: Which canister gets it.
            metadata: Sizes, globals, certified data, timer and hook; the rest is the network's to say.
            replace: A snapshot that is destroyed **at once**, before any data has arrived.
            options: Deadline, cancellation, retries.

        Raises:
            RejectedError: ``IC0408``: the network does not accept the metadata; ``IC0406``: ten snapshots already.
            OutcomeUnknownError: It may have begun: list the snapshots before trying again.
            ConfigurationError: Kind ``unknown_metadata``: it holds what this release cannot say.
        """
        arg = types.metadata_upload_arg(canister_id, metadata, replace=replace)
        reply = self._call(canister_id, "upload_canister_snapshot_metadata", arg, **options)
        return types.snapshot_id_of(reply.reply)

    def upload_snapshot_data(
        self,
        canister_id: Principal,
        snapshot_id: SnapshotId,
        part: SnapshotPart,
        chunk: Buffer,
        **options: Unpack[CallOptions],
    ) -> None:
        """
        Write one part of an uploaded snapshot. Nobody notices parts that are missing: read back and compare.

        Args:
            canister_id: Whose snapshot.
            snapshot_id: As `upload_snapshot_metadata` returned it.
            part: Where the bytes go; at most 2,000,000 of them, and 1 MiB for a stored chunk.
            chunk: The bytes, which are not copied before they are signed and sent.
            options: Deadline, cancellation, retries.

        Raises:
            RejectedError: ``IC0409``: the snapshot was taken, not uploaded; ``IC0408``: beyond the end.
            ConfigurationError: *chunk* has another length than *part* says.
        """
        arg = upload_data_arg(canister_id, snapshot_id, part, chunk)
        self._call(canister_id, "upload_canister_snapshot_data", arg, repeatable=True, **options)

    # --- canisters --------------------------------------------------------------------------------------------------

    def canister_status(
        self, canister_id: Principal, *, certified: bool = False, **options: Unpack[CallOptions]
    ) -> CanisterStatus:
        """
        Return what a canister is doing, has and is set to.

        Args:
            canister_id: Of what.
            certified: Ask the whole subnet, by an update call that takes seconds and some cycles, instead of one node
                that signs its answer alone.
            options: Deadline, cancellation, retries.

        Raises:
            RejectedError: Kind ``status_query_unsupported``: this network answers with ``certified=True`` only.
        """
        arg = types.canister_arg(canister_id)
        if certified:
            reply = self._call(canister_id, "canister_status", arg, repeatable=True, **options).reply
        else:
            try:
                reply = memoryview(self._query(canister_id, "canister_status", arg, **options))
            except RejectedError as error:
                raise _explained(error) from error
        return types.canister_status_of(reply, canister_id, certified=certified)

    def start(self, canister_id: Principal, **options: Unpack[CallOptions]) -> None:
        """Start a canister; one that is stopping stays running, and whoever stops it gets ``IC0511``."""
        self._call(canister_id, "start_canister", types.canister_arg(canister_id), repeatable=True, **options)

    def stop(self, canister_id: Principal, **options: Unpack[CallOptions]) -> None:
        """
        Stop a canister, and wait for the calls it is waiting for: up to five minutes.

        Raises:
            RejectedError: ``IC0206``: it could not be stopped in time and **is still stopping**; ``IC0511``: somebody
                started it meanwhile.
        """
        self._call(canister_id, "stop_canister", types.canister_arg(canister_id), **options)

    def update_settings(
        self,
        canister_id: Principal,
        *,
        controllers: Sequence[Principal] | None = None,
        values: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        """
        Change settings of a canister, all of those given or none; the others stay.

        Args:
            canister_id: Of what.
            controllers: All controllers it shall have; without the caller among them, the caller loses control.
            values: Other settings, in the form of `CanisterSettings.values`.
            options: Deadline, cancellation, retries.

        Raises:
            ConfigurationError: Kind ``bad_setting``.
            OutcomeUnknownError: They may have been changed: look at the status.
        """
        arg = types.update_settings_arg(canister_id, controllers=controllers, values=values or {})
        self._call(canister_id, "update_settings", arg, **options)

    def fetch_logs(self, canister_id: Principal, **options: Unpack[CallOptions]) -> tuple[LogRecord, ...]:
        """Return the log of a canister, oldest first, as one node has it; the network offers no certified way."""
        reply = self._query(canister_id, "fetch_canister_logs", types.canister_arg(canister_id), **options)
        return types.log_records_of(reply)

    def public_info(self, canister_id: Principal, **options: Unpack[ReadOptions]) -> PublicInfo:
        """
        Return what anybody may know of a canister: controllers and module hash, certified.

        Raises:
            RejectedError: Kind ``canister_not_found``: the subnet certifies that it has no such canister.
        """
        below = (b"canister", canister_id.raw)
        paths = [(*below, b"controllers"), (*below, b"module_hash")]
        certificate = self.agent.read_state(canister_id, paths, **options)
        controllers, module_hash = (certificate.lookup(*path) for path in paths)
        if isinstance(controllers, Absent):
            message = f"there is no canister {canister_id} on its subnet"
            hint = "check the canister id, and that it lives on this network"
            raise RejectedError(message, kind="canister_not_found", hint=hint, certified=True)
        if not isinstance(controllers, Found) or not isinstance(module_hash, (Found, Absent)):
            message = f"the certificate about canister {canister_id} does not tell what was asked"
            raise CertificateError(message, kind="certificate_path", hint=NOT_USED)
        return PublicInfo(
            canister_id=canister_id,
            controllers=_principals(controllers.value),
            module_hash=bytes(module_hash.value) if isinstance(module_hash, Found) else None,
        )

    # --- requests ---------------------------------------------------------------------------------------------------

    def _call(
        self,
        canister_id: Principal,
        method: str,
        arg: Buffer | Sequence[Buffer],
        *,
        repeatable: bool = False,
        **options: Unpack[CallOptions],
    ) -> CertifiedReply:
        return self.agent.call(
            MANAGEMENT_CANISTER, method, arg, effective_canister_id=canister_id, repeatable=repeatable, **options
        )

    def _query(self, canister_id: Principal, method: str, arg: bytes, **options: Unpack[CallOptions]) -> bytes:
        return self.agent.query(MANAGEMENT_CANISTER, method, arg, effective_canister_id=canister_id, **options)


def _explained(error: RejectedError) -> RejectedError:
    if error.context.get("error_code") not in _QUERY_REFUSALS:
        return error
    message = f"this network does not answer canister_status as a query: {error.message}"
    hint = "pass certified=True, which asks by an update call"
    return RejectedError(message, kind="status_query_unsupported", hint=hint, **error.context)


def _principals(value: memoryview) -> tuple[Principal, ...]:
    try:
        items = decode_cbor(value)
        if isinstance(items, Sequence) and all(isinstance(item, memoryview) for item in items):
            return tuple(Principal(bytes(item)) for item in items)
    except (CborError, ConfigurationError):
        pass
    raise CertificateError(
        "the controllers in a certificate are malformed", kind="certificate_malformed", hint=NOT_USED
    )
