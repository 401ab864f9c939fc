"""
Reading the parts of a snapshot over the network: many calls at once, bounded memory, everything checked.

Each part is one replicated call, so it takes a round of consensus however small it is: the only way to be fast is to
have many under way. How many follows the network: a refusal for the pace halves the number, success lets it grow back.
Answers are 2 MB each, so far fewer may be in memory than under way; the others wait in the operating system.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Generator, Iterable
from typing import Final, TypeVar

import attrs

from .._checks import above, optional, whole_number
from .._engine.adaptive import AdaptiveLimit
from .._engine.cancellation import Cancellation
from ..errors import (
    BackupError,
    DigestMismatchError,
    RejectedError,
    SourceUnavailableError,
    TruncatedError,
)
from ..ic.connections import Admission
from ..ic.management import ManagementCanister, SnapshotData
from ..model.canisters import SnapshotPart, StoredChunk
from ..model.ids import Principal, SnapshotId
from .workers import in_order

__all__ = ["DownloadOptions", "PartReader"]

A = TypeVar("A")
T = TypeVar("T")

_OVERLOADS: Final = frozenset({"overloaded", "rate_limited"})
_WINDOW_PER_CALL: Final = 4
"""Parts that may be finished before their turn, for each call under way: the slowest call holds up nobody else."""


@attrs.frozen(kw_only=True)
class DownloadOptions:
    """
    How a snapshot is read. The defaults suit mainnet.

    ``concurrency`` is the number of calls under way at once, at most. A node takes 50, and requests are spread over
    the nodes of the subnet; after a refusal there are fewer. ``answers_in_memory`` bounds memory, 2 MB each.
    ``deadline_seconds`` is for the whole download, ``call_seconds`` for one call with all its attempts.
    ``file_digests`` has everything hashed a second time, as files, for the report and ``SHA256SUMS``; without it the
    proof of the bytes is ``provenance.cbor`` alone, which does not need it.

    A new download asks for the first parts of both memories together with the metadata, with up to three
    quarters of *concurrency*; those that do not exist are refused calls, which cost the canister about two million
    cycles each.
    """

    concurrency: int = attrs.field(default=112, validator=whole_number(1))
    answers_in_memory: int = attrs.field(default=8, validator=whole_number(1))
    deadline_seconds: float | None = attrs.field(default=None, validator=optional(above(0)))
    call_seconds: float | None = attrs.field(default=None, validator=optional(above(0)))
    progress_seconds: float = attrs.field(default=1.0, validator=above(0))
    file_digests: bool = True


class PartReader:
    """
    Reads parts of one snapshot. Thread-safe.

    Args:
        management: Whom to ask.
        canister_id: Whose snapshot it is.
        snapshot_id: Which one.
        options: How many at once.
        cancellation: Ends everything under way.
        monotonic: Seconds, for the deadline.
    """

    def __init__(  # noqa: PLR0913 - what to read, and how
        self,
        management: ManagementCanister,
        canister_id: Principal,
        snapshot_id: SnapshotId,
        *,
        options: DownloadOptions,
        cancellation: Cancellation,
        monotonic: Callable[[], float],
    ) -> None:
        self._management = management
        self._canister_id = canister_id
        self._snapshot_id = snapshot_id
        self._options = options
        self._cancellation = cancellation
        self._monotonic = monotonic
        self._limit = AdaptiveLimit(options.concurrency)
        self._admission = Admission(options.answers_in_memory)
        self._turns = itertools.count()
        self._ends_at = None if options.deadline_seconds is None else monotonic() + options.deadline_seconds

    @property
    def lowest_concurrency(self) -> int:
        """The fewest calls at once that the network let pass."""
        return self._limit.lowest

    def fetch(self, part: SnapshotPart, use: Callable[[SnapshotPart, SnapshotData], T]) -> T:
        """
        Read one part and return what *use* makes of it; *use* must not keep the data.

        Raises:
            RejectedError: Kind ``snapshot_not_found``: it was deleted. Others: the caller may not read it.
            CertificateError: The answer does not verify.
            TruncatedError: Kind ``short_part``: the subnet certified fewer bytes than were asked for.
            DigestMismatchError: Kind ``chunk_digest``: a Wasm chunk does not hash to its name.
            SourceUnavailableError: Not reachable; kind ``deadline``: the time for the whole is used up.
        """
        with self._limit.admit(self._cancellation) as admitted, self._admission.one_answer(next(self._turns)):

            def on_retry(error: BackupError) -> None:
                self._admission.leave()  # what was received of the failed answer is no longer in memory
                if error.kind in _OVERLOADS:
                    self._limit.overloaded(admitted)

            data = self._read(part, on_retry)
            self._limit.succeeded()
            _check(part, data)
            result = use(part, data)
            del data  # the last view of the answer's memory, which is used again
            return result

    def in_order(
        self, parts: Iterable[A], work: Callable[[A], T], *, window: int | None = None
    ) -> Generator[T, None, None]:
        """
        Do *work* with each part, or whatever stands for one, in threads; yield the results in the order of the parts.

        Args:
            parts: Taken lazily.
            work: Called by several threads; usually calls `fetch`.
            window: Most parts begun whose result was not taken yet; four per call when `None`, for small results.
        """
        calls = self._options.concurrency
        window = calls * _WINDOW_PER_CALL if window is None else window
        return in_order(work, parts, workers=min(calls, window), window=window, cancellation=self._cancellation)

    def left_seconds(self) -> float | None:
        """
        Return how long the next call may take.

        Raises:
            SourceUnavailableError: Kind ``deadline``.
        """
        if self._ends_at is None:
            return self._options.call_seconds
        left = self._ends_at - self._monotonic()
        if left <= 0:
            message = f"the time for reading snapshot {self._snapshot_id} is used up"
            raise SourceUnavailableError(message, kind="deadline", hint="run it again to go on, or allow more time")
        return left if self._options.call_seconds is None else min(left, self._options.call_seconds)

    def _read(self, part: SnapshotPart, on_retry: Callable[[BackupError], None]) -> SnapshotData:
        try:
            return self._management.read_snapshot_data(
                self._canister_id,
                self._snapshot_id,
                part,
                deadline_seconds=self.left_seconds(),
                cancellation=self._cancellation,
                on_retry=on_retry,
            )
        except RejectedError as error:
            if error.kind == "snapshot_not_found":
                raise snapshot_gone(error, self._canister_id, self._snapshot_id) from error
            raise


def snapshot_gone(error: RejectedError, canister_id: Principal, snapshot_id: SnapshotId) -> RejectedError:
    """Return the error for a snapshot that the network does not have, in place of its own words."""
    message = f"canister {canister_id} has no snapshot {snapshot_id} (any more)"
    hint = "list its snapshots; one that was deleted or replaced meanwhile cannot be completed"
    return RejectedError(message, kind=error.kind, hint=hint, **error.context)


def _check(part: SnapshotPart, data: SnapshotData) -> None:
    if isinstance(part, StoredChunk):
        if hashlib.sha256(data.chunk).digest() != part.sha256:
            message = f"{part} was certified with bytes that have another digest"
            raise DigestMismatchError(message, kind="chunk_digest", hint="please report this", part=str(part))
    elif len(data.chunk) != part.size_bytes:
        message = f"{part} was certified with {len(data.chunk)} bytes"
        raise TruncatedError(message, kind="short_part", hint="please report this", part=str(part))
